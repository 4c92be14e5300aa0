//! Topics, commands, reports and signatures shared by the agent and its fleet controller. No I/O, clocks or chance.
//!
//! The broker is trusted with nothing but delivery: commands and settings are signed, every message carries its own id,
//! and what a newer version adds is kept when an older one hands it on.
pub mod broker;
pub mod command;
pub mod data;
pub mod envelope;
pub mod event;
pub mod keys;
#[cfg(test)]
mod mutations;
pub mod names;
pub mod order;
pub mod report;
pub mod rollout;
pub mod sparkplug;
pub mod status;
pub mod topics;
pub mod transfer;
pub mod wish;

/// Version of the topic tree and of every payload in it; a breaking change is a second tree served beside this one.
pub const API: u32 = 1;

/// Largest MQTT packet either end sends or accepts; announced in CONNECT and configured in the broker.
pub const PACKET_BYTES_MAX: usize = 256 * 1024;

/// Largest piece of a bundle in one message: half a packet, so that a chunk always fits with its properties.
pub const CHUNK_BYTES_MAX: usize = 128 * 1024;

/// The fields of a message that this version does not know; kept, so that handing a message on loses nothing.
pub type Extra = serde_json::Map<String, serde_json::Value>;
