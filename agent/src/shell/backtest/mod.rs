//! Replays a labelled file through the real loop under a travelling clock: what would each policy have done?
//!
//! Prequential: a row is answered first, its label is revealed `delay` rows later. The decisions are `decide::cycle`'s, the
//! training is the trainer's; only the clock, the disk and the network are missing.
mod continual;
mod loops;
pub mod summary;
mod trial;

use std::collections::HashMap;
use std::sync::Arc;

use trainer_core::bundle::{self, BundleError};
use trainer_core::digest::Digest;
use trainer_core::evaluate::Tally;
use trainer_core::model::Model;
use trainer_core::schema::Rows;
use trainer_core::snapshot::Snapshot;
use trainer_core::spec::Spec;
use trainer_core::train::TrainSettings;

use super::trainer::{Finished, Trainer, TrainerError};
use crate::decide::cycle::CycleSettings;
use crate::decide::policy::Policy;
use crate::decide::time::Timestamp;
use summary::{Happened, Measured, Summary};

/// A replay.
pub struct Backtest<'a> {
    /// All rows in time order.
    pub rows: &'a Rows,
    /// When each row was taken, if that is known.
    pub times: Option<&'a [Timestamp]>,
    /// Segment of each row, if there are any; empty means none.
    pub segments: Option<&'a [String]>,
    /// First row that is answered; rows before it are history with known labels.
    pub first: usize,
    /// Rows until a label comes.
    pub delay: usize,
    /// Settings of the loop; its policy is replaced.
    pub settings: CycleSettings,
    /// Settings of the trainer.
    pub training: TrainSettings,
    /// Who trains.
    pub trainer: &'a Trainer,
    /// Whether policy `value` lets the mixture of heads answer, as `[continual] serve` says.
    pub serves: bool,
    /// Rows at which the world is known to have changed.
    pub changes: &'a [usize],
}

/// A model with its stored bytes, as a real device would have them.
#[derive(Clone)]
pub struct Stored {
    /// In memory.
    pub model: Arc<Model>,
    /// On disk.
    pub bytes: Arc<Vec<u8>>,
    /// Name.
    pub digest: Digest,
}

/// A replay that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// The trainer failed.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// The trainer gave a bundle that cannot be read.
    #[error("the trainer's bundle is refused")]
    Bundle(#[from] BundleError),
    /// A policy of heads for a model without any.
    #[error(
        "policy `continual` learns heads, and a model that tells anomalies by what it cannot give back has none: use `value`, `fixed:N` or `trigger:any`"
    )]
    NoHeads,
    /// The heads could not be solved.
    #[error("the heads cannot be solved")]
    Solve(#[from] trainer_core::ridge::SolveError),
}

impl Stored {
    /// Reads bundle bytes.
    ///
    /// Fails with the [`BundleError`] that names what is wrong.
    pub fn read(bytes: Vec<u8>) -> Result<Self, BundleError> {
        let model = Arc::new(bundle::read(&bytes)?);
        Ok(Self { model, digest: Digest::of(&bytes), bytes: Arc::new(bytes) })
    }
}

/// Trains a base model through `trainer` on `rows`, taken `at` so many seconds since 1970 (empty if unknown).
///
/// Fails as the trainer does.
pub fn train_base(
    trainer: &Trainer,
    schema: &trainer_core::schema::Schema,
    spec: &Spec,
    rows: Rows,
    at: &[i64],
    training: &TrainSettings,
    seed: u64,
) -> Result<(Stored, Finished), BacktestError> {
    let snapshot = Snapshot::base(schema, spec, rows, at, training.clone(), seed);
    let finished = trainer.train(snapshot.to_bytes(), None)?;
    Ok((Stored::read(finished.bundle.clone())?, finished))
}

impl Backtest<'_> {
    /// Runs one policy from the model `base`.
    ///
    /// Fails if the trainer does, which in a backtest is worth stopping for.
    pub fn run(&self, base: &Stored, policy: &Policy) -> Result<Summary, BacktestError> {
        match policy {
            Policy::Continual if base.model.detects() => Err(BacktestError::NoHeads),
            Policy::Continual => continual::run(self, base),
            Policy::Static | Policy::Fixed { .. } | Policy::Trigger { .. } | Policy::Value => {
                loops::run(self, base, policy)
            }
        }
    }
}

/// What a replay collects while it goes.
struct Account {
    tally: Tally,
    /// Loss per answered row, for the curve.
    losses: Vec<f32>,
    events: Vec<Happened>,
    measured: Measured,
    work_mac: u64,
    /// Snapshots and bundles that a device would have written.
    written_bytes: u64,
}

impl Account {
    fn new(base: &Stored, rows: usize) -> Self {
        Self {
            tally: Tally::new(&base.model.schema().task),
            losses: Vec::with_capacity(rows),
            events: Vec::new(),
            measured: Measured::default(),
            work_mac: 0,
            written_bytes: 0,
        }
    }

    fn answer(&mut self, model: &Model, answer: &[f32], truth: &[f32]) -> f64 {
        self.tally.push(answer, truth);
        let loss = model.loss(answer, truth);
        #[expect(clippy::cast_possible_truncation, reason = "kept for drawing only")]
        self.losses.push(loss as f32);
        loss
    }

    fn trained(&mut self, snapshot_bytes: usize, finished: &Finished) {
        self.written_bytes += (snapshot_bytes + finished.bundle.len()) as u64;
        self.work_mac += finished.work_mac;
        self.measured.train_cpu_s += finished.cpu_s;
        self.measured.train_peak_bytes = self.measured.train_peak_bytes.max(finished.peak_bytes);
    }
}

/// The models of one replay by digest: champions, candidates, nothing is thrown away.
type Shelf = HashMap<Digest, Stored>;
