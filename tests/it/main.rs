//! Promises to a user of hone, each driven through a public seam or the built binary.
mod cli;
mod daemon;
mod tidy;
