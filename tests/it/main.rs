//! Promises to a user of hone, each driven through a public seam or the built binary.
mod anomaly;
mod backtest;
mod budgets;
mod cli;
mod clock;
mod compare;
mod conformance;
mod continual;
mod corpus;
mod daemon;
mod doctor;
mod fleet;
mod fleet_again;
mod fleet_broker;
mod fleet_bundles;
mod fleet_faults;
mod fleet_freeze;
mod fleet_hostile;
mod fleet_json;
mod fleet_life;
mod fleet_neighbours;
mod fleet_numbers;
mod fleet_rollout;
mod fleet_settings;
mod measured;
mod newcomer;
mod numbers;
mod power;
mod rollout;
mod samples;
mod scan;
mod service;
mod storage;
mod tidy;
mod training;
mod vault;

/// Counted, so that a test can say how many bytes something holds.
#[global_allocator]
static HEAP: hone_agent::shell::trainer::system::CountedHeap = hone_agent::shell::trainer::system::CountedHeap;
