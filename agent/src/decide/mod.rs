//! Decides; never acts. Facts in, states, orders and reports out: no clock, disk, network, thread or chance of its own.
pub mod budget;
pub mod continual;
pub mod cycle;
pub mod drift;
pub mod evidence;
pub mod gate;
pub mod link;
pub mod outbox;
pub mod plan;
pub mod policy;
pub mod prices;
pub mod retention;
pub mod sample;
pub mod time;
pub mod trigger;
pub mod value;
pub mod watch;
