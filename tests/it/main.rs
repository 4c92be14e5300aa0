//! Promises to a user of hone, each driven through a public seam or the built binary.
mod backtest;
mod budgets;
mod cli;
mod compare;
mod continual;
mod daemon;
mod fleet;
mod measured;
mod numbers;
mod scan;
mod tidy;
mod training;

/// Counted, so that a test can say how many bytes something holds.
#[global_allocator]
static HEAP: hone_agent::shell::trainer::system::CountedHeap = hone_agent::shell::trainer::system::CountedHeap;
