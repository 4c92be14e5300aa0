//! `hone`: keeps a small model sharp on an edge gateway.
//!
//! `decide` decides and never acts; `shell` acts; `cli` asks and prints. `config` gathers the settings of all three.
#[allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a command reads its arguments' files and prints"
)]
pub mod cli;
pub mod config;
pub mod decide;
#[allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the shell is the world: clocks, disk, network, threads"
)]
pub mod shell;
