//! The world: disk, clocks, network, threads and processes. Carries out what `decide` orders.
pub mod ingest;
pub mod trainer;
