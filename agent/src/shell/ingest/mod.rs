//! How samples and labels come in.
pub mod csv;
pub mod samples;
