//! How samples and labels come in, and what every way of coming in shares.
pub mod answers;
pub mod csv;
pub mod intake;
mod join;
pub mod labels;
pub mod mqtt;
pub mod samples;
pub mod settings;
pub mod window;
