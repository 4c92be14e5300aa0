//! The world: disk, clocks, network, threads and processes. Carries out what `decide` orders.
pub mod api;
pub mod backtest;
pub mod client;
pub mod clock;
pub mod compare;
pub mod daemon;
pub mod files;
pub mod inference;
pub mod ingest;
pub mod lock;
pub mod models;
pub mod mqtt;
pub mod paths;
pub mod recorder;
pub mod sensors;
pub mod store;
pub mod trainer;
