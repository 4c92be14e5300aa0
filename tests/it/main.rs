//! Promises to a user of hone, each driven through a public seam or the built binary.
mod backtest;
mod cli;
mod compare;
mod daemon;
mod fleet;
mod numbers;
mod scan;
mod tidy;
mod training;
