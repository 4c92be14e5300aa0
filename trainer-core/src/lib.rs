//! Learning for `hone`: models as data, training, evaluation. No files, clocks, network, threads or global chance.
//!
//! A row goes `normalize` → `network` → `embed` → head; `train` makes models, `bundle` reads and writes them, `horizons`
//! learns from every label.
#![warn(missing_docs)]
pub mod adaptive;
mod autodiff;
pub mod bundle;
pub mod chance;
mod cholesky;
pub mod consolidate;
mod dataset;
mod detect;
pub mod digest;
pub mod embed;
pub mod evaluate;
pub mod fit;
pub mod horizons;
mod judge;
mod kernel;
pub mod memory;
mod mix;
pub mod model;
pub mod network;
pub mod normalize;
mod norms;
pub mod ridge;
pub mod schema;
pub mod session;
pub mod snapshot;
pub mod spec;
pub mod sums;
pub mod train;
mod waiting;
