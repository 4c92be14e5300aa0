//! The work an order asks for: rows, snapshot, training, comparison. Runs on a thread of its own and ends with one event.
use std::fs;
use std::sync::Arc;

use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Strategy;
use trainer_core::schema::{Rows, Schema};
use trainer_core::session::RunChoices;
use trainer_core::snapshot::Snapshot;
use trainer_core::train::TrainSettings;

use super::post::Post;
use crate::decide::cycle::{Order, OrderTask, Reason};
use crate::decide::gate::{Evidence, Measures};
use crate::decide::plan::{self, RowsWanted};
use crate::decide::sample::BaselineRows;
use crate::decide::watch::BASELINE_ROWS_MAX;
use crate::shell::compare::{Timing, compare, compare_served, detection, measure};
use crate::shell::files::remove_durable;
use crate::shell::inference::Loaded;
use crate::shell::models::ModelStore;
use crate::shell::models::vetting::Vetting;
use crate::shell::recorder::RecorderHandle;
use crate::shell::store::{LabelledRow, NewRecord, RecordReader, StoreError};
use crate::shell::trainer::frames::Checkpointing;
use crate::shell::trainer::limits::Limits;
use crate::shell::trainer::{Source, Task, Trainer, TrainerError, runs};

/// Everything that carrying out an order needs.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) order: Order,
    /// Ordinal of the order's first new label.
    pub(super) from_ordinal: i64,
    pub(super) models: ModelStore,
    pub(super) snapshots: ModelStore,
    pub(super) reader: RecordReader,
    pub(super) recorder: RecorderHandle,
    pub(super) trainer: Trainer,
    pub(super) vetting: Vetting,
    pub(super) settings: TrainSettings,
    /// What a training may take.
    pub(super) limits: Limits,
    /// The parts of a batch that it begins with.
    pub(super) choices: RunChoices,
    /// Models of before that may be restored.
    pub(super) earlier: Vec<Digest>,
    /// Whether the mixture of heads answers: then a candidate has to be better than that.
    pub(super) mixture: bool,
    /// Whether rows count without a label.
    pub(super) assumes: bool,
    /// Where a training is told what it shall do, and tells how far it is.
    pub(super) post: Arc<Post>,
}

/// The rows of an order.
pub(super) struct Material {
    pub(super) older: Older,
    /// The newest ones, in time order; those held out are the last `held` of them.
    pub(super) newest: Rows,
    pub(super) held: usize,
    /// What champion and candidate are compared on.
    pub(super) holdout: Rows,
    /// Of each of these rows.
    pub(super) segments: Vec<Option<String>>,
    /// What was answered to them, `[rows, outputs]`; empty where nobody asks.
    pub(super) served: Vec<f32>,
}

/// Rows from before the newest ones.
pub(super) enum Older {
    /// They are drawn from those labelled before this ordinal, once a training wants them.
    BeforeLabel(i64),
    /// These.
    Rows(Rows),
}

/// The end of an order's work.
#[derive(Debug)]
pub struct Worked {
    /// The order's run.
    pub(super) run: u64,
    pub(super) outcome: Result<Done, Undone>,
}

/// Work that ended with a comparison.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) candidate: Digest,
    pub(super) evidence: Evidence,
    pub(super) measures: Measures,
    /// Newest rows, oldest first.
    pub(super) recent: BaselineRows,
    pub(super) snapshot: Option<Digest>,
    pub(super) cost: Cost,
}

/// What a training was, beside what its post tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) rows: u64,
    pub(super) work_mac: u64,
}

/// Work that ended without one.
#[derive(Debug)]
pub(super) struct Undone {
    pub(super) reason: String,
    pub(super) next: Next,
}

/// What may become of work that ended without a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The same again ends the same.
    GiveUp,
    /// It may end better another time; this was an attempt.
    TryAgain,
    /// It was stopped and goes on from its checkpoint; this was no attempt.
    Resume,
}

impl Undone {
    /// It has ended well, but nothing may come of it now.
    pub(super) fn frozen() -> Self {
        Self { reason: "the fleet has frozen this device".to_owned(), next: Next::Resume }
    }
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        Self { reason: error.chain(), next: if error.is_disk() { Next::TryAgain } else { Next::GiveUp } }
    }
}

impl From<TrainerError> for Undone {
    fn from(error: TrainerError) -> Self {
        // A refusal is a function of the snapshot and comes again; a child that died may have been killed by chance.
        let next = match error {
            TrainerError::Refused(_) | TrainerError::Memory { .. } => Next::GiveUp,
            TrainerError::Stopped(_) => Next::Resume,
            TrainerError::Start { .. } | TrainerError::Ended { .. } | TrainerError::Frame(_) => Next::TryAgain,
        };
        Self { next, reason: error.to_string() }
    }
}

fn undone(reason: impl std::fmt::Display) -> Undone {
    Undone { reason: reason.to_string(), next: Next::GiveUp }
}

impl Bench {
    /// Carries the order out.
    pub(super) fn work(self) -> Worked {
        Worked { run: self.order.run, outcome: self.try_work() }
    }

    fn try_work(&self) -> Result<Done, Undone> {
        // What was answered up to now shall be among the newest rows.
        self.recorder.flush().map_err(undone)?;
        let parent_bytes = self.models.get(&self.order.parent)?;
        let champion = read(&parent_bytes, self.order.parent)?;
        let schema = champion.model.schema().clone();
        let Material { older, newest, held, holdout, segments, served } = match self.order.task {
            OrderTask::Train { .. } if self.assumes => self.assumed(&champion.model)?,
            _ => self.told(&schema)?,
        };
        if holdout.is_empty() {
            return Err(undone("the rows it was ordered on are no longer stored"));
        }
        let mut cost = Cost::default();
        let (bytes, snapshot) = match self.order.task {
            OrderTask::Judge { candidate } => (self.models.get(&candidate)?, None),
            OrderTask::Restore => (self.models.get(&self.best_of_before(&champion, &holdout)?.digest)?, None),
            OrderTask::Train { strategy, seed } => {
                let snapshot =
                    match runs::unfinished(&self.snapshots, self.order.parent, strategy, seed, &self.settings) {
                        // Newer labels have come since, but a checkpoint belongs to its rows.
                        Some((snapshot, rows)) => {
                            cost.rows = rows;
                            snapshot
                        }
                        None => {
                            let rows = if strategy == Strategy::Norm {
                                self.unlabelled(&schema, self.order.rows.newest)?
                            } else {
                                self.training(&schema, older, &newest, held)?
                            };
                            cost.rows = rows.len() as u64;
                            self.snapshot(strategy, seed, rows)?
                        }
                    };
                (self.train(snapshot, parent_bytes, &mut cost)?, Some(snapshot))
            }
        };
        let digest = Digest::of(&bytes);
        // Before this process loads it: it may have come from outside. And here, so that the loop need not wait for it when it serves.
        let soundness = self.vetting.examine(&bytes).map_err(undone)?;
        let recent = self.recent(&schema)?;
        let done = |evidence, measures, recent| {
            let measures = Measures { soundness: Some(soundness), ..measures };
            Ok(Done { candidate: digest, evidence, measures, recent, snapshot, cost })
        };
        if !soundness.is_sound() {
            // The gate says why; there is nothing to compare.
            return done(Evidence::default(), Measures::default(), recent);
        }
        let candidate = read(&bytes, digest)?;
        let rival = match self.order.refit_of {
            Some(judged) => read(&self.models.get(&judged)?, judged)?,
            None => champion,
        };
        let mixed = self.mixture && !self.assumes;
        let evidence = if mixed && self.order.refit_of.is_none() && self.order.reason == Reason::Staleness {
            compare_served(&rival.model, &candidate.model, &holdout, &served)
        } else {
            compare(&rival.model, &candidate.model, &holdout)
        };
        let bytes = |digest: Digest| fs::metadata(self.models.path(&digest)).map(|file| file.len()).ok();
        let measures = Measures {
            bytes: bytes(rival.digest).zip(bytes(digest)),
            detection: detection(&rival.model, &candidate.model, &holdout, &recent.rows),
            ..measure(&rival.model, &candidate.model, &holdout, &segments, Timing::Taken)
        };
        done(evidence, measures, recent)
    }

    /// The newest labelled rows.
    fn told(&self, schema: &Schema) -> Result<Material, Undone> {
        let wanted = self.order.rows;
        let newest = self.reader.newest_labelled(usize::try_from(wanted.newest).unwrap_or(usize::MAX))?;
        let first = newest.first().map_or(self.from_ordinal, |row| row.ordinal);
        let older = Older::BeforeLabel(first.min(self.from_ordinal));
        let mut served = served_of(schema, &newest);
        let mut segments: Vec<_> = fitting(schema, &newest).map(|row| row.segment.clone()).collect();
        let newest = rows_of(schema, &newest);
        let held = usize::try_from(wanted.holdout).unwrap_or(usize::MAX).min(newest.len());
        let holdout = newest.slice(newest.len() - held..newest.len());
        served.drain(..(newest.len() - held) * schema.outputs());
        segments.drain(..newest.len() - held);
        Ok(Material { older, newest, held, holdout, segments, served })
    }

    /// History and the new rows, in time order; the newest ones, held out, are kept back unless there is nothing left to prove.
    fn training(&self, schema: &Schema, older: Older, newest: &Rows, held: usize) -> Result<Rows, Undone> {
        let mut rows = match older {
            Older::BeforeLabel(ordinal) => self.history(schema, ordinal, self.order.rows.history)?,
            Older::Rows(rows) => rows,
        };
        let wanted = RowsWanted { holdout: held as u64, ..self.order.rows };
        let kept =
            usize::try_from(wanted.kept_back(self.order.refit_of.is_some())).unwrap_or(usize::MAX).min(newest.len());
        let fresh = newest.slice(0..newest.len() - kept);
        (0..fresh.len()).for_each(|row| rows.push(fresh.x(row), fresh.y(row)));
        Ok(rows)
    }

    /// The newest records, labelled or not, with nothing for a truth.
    fn unlabelled(&self, schema: &Schema, wanted: u64) -> Result<Rows, Undone> {
        let mut rows = rows_of(schema, &[]);
        let unknown = vec![f32::NAN; schema.truths()];
        let records = self.reader.recent(usize::try_from(wanted).unwrap_or(usize::MAX), None)?;
        let fitting = records.iter().rev().filter(|record| record.record.features.len() == schema.features.len());
        fitting.for_each(|record| rows.push(&record.record.features, &unknown));
        Ok(rows)
    }

    /// The one of the earlier models that does best on the held-out rows.
    fn best_of_before(&self, champion: &Loaded, holdout: &Rows) -> Result<Loaded, Undone> {
        let readable = self.earlier.iter().filter_map(|digest| read(&self.models.get(digest).ok()?, *digest).ok());
        let fitting = readable.filter(|loaded| loaded.model.schema() == champion.model.schema());
        let judged = fitting.map(|loaded| (compare(&champion.model, &loaded.model, holdout).gain_sum, loaded));
        let best = judged.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, loaded)| loaded);
        best.ok_or_else(|| undone("no earlier model can be read"))
    }

    fn snapshot(&self, strategy: Strategy, seed: u64, rows: Rows) -> Result<Digest, Undone> {
        let bytes = Snapshot::adapt(self.order.parent, strategy, rows, self.settings.clone(), seed).to_bytes();
        let snapshot = self.snapshots.put(&bytes)?;
        self.post.wrote(bytes.len() as u64);
        Ok(snapshot)
    }

    fn train(&self, snapshot: Digest, parent: Vec<u8>, cost: &mut Cost) -> Result<Vec<u8>, Undone> {
        let checkpoint = runs::checkpoint_path(&self.snapshots, &snapshot);
        let task = Task {
            snapshot: Source::File(self.snapshots.path(&snapshot)),
            parent: Some(parent),
            choices: self.choices,
            limits: self.limits,
            checkpoint: Some(Checkpointing::at(checkpoint.clone())),
        };
        let finished = match self.trainer.run(task, &mut |process, report| self.post.exchange(process, report)) {
            Ok(finished) => finished,
            Err(error) => {
                if let TrainerError::Stopped(usage) = error {
                    self.post.ended(usage);
                }
                if self.post.is_cancelled() {
                    // One that stays behind is swept with its snapshot.
                    let _ = remove_durable(&checkpoint);
                }
                return Err(error.into());
            }
        };
        self.post.ended(finished.usage);
        runs::record(&self.snapshots, snapshot, Some(self.order.parent), Some(self.order.run), &finished)?;
        cost.work_mac = finished.work_mac;
        self.models.put(&finished.bundle)?;
        self.post.wrote(finished.bundle.len() as u64);
        Ok(finished.bundle)
    }

    fn history(&self, schema: &Schema, before: i64, wanted: u64) -> Result<Rows, Undone> {
        if wanted == 0 {
            return Ok(rows_of(schema, &[]));
        }
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let sample = self.reader.history_sample(before, plan::history_read(wanted))?;
        Ok(plan::history_of(&rows_of(schema, &sample), &schema.task, wanted))
    }

    fn recent(&self, schema: &Schema) -> Result<BaselineRows, Undone> {
        let records = self.reader.recent(BASELINE_ROWS_MAX, None)?;
        let fitting = records.into_iter().rev().filter(|record| record.record.features.len() == schema.features.len());
        Ok(baseline(fitting.map(|record| record.record)))
    }
}

/// Records as the rows of a baseline, in their order.
pub(super) fn baseline(records: impl Iterator<Item = NewRecord>) -> BaselineRows {
    let mut rows = BaselineRows::default();
    for record in records {
        rows.rows.extend_from_slice(&record.features);
        rows.at.push(record.event_at);
    }
    rows
}

/// Reads a bundle that was hashed when it was fetched.
fn read(bytes: &[u8], digest: Digest) -> Result<Loaded, Undone> {
    let model = bundle::read(bytes).map_err(|error| undone(format!("model {} is refused: {error}", digest.short())))?;
    Ok(Loaded { model: Arc::new(model), digest })
}

/// What was answered to the rows that [`rows_of`] keeps, `[rows, outputs]`.
fn served_of(schema: &Schema, labelled: &[LabelledRow]) -> Vec<f32> {
    let wrong = f32::NAN;
    fitting(schema, labelled)
        .flat_map(|row| {
            let whole = row.output.len() == schema.outputs();
            if whole { row.output.clone() } else { vec![wrong; schema.outputs()] }
        })
        .collect()
}

/// Labelled rows that fit the schema; a model of another one may have answered long ago.
pub(super) fn rows_of(schema: &Schema, labelled: &[LabelledRow]) -> Rows {
    let mut rows = Rows::empty(schema.features.len(), schema.truths());
    fitting(schema, labelled).for_each(|row| rows.push(&row.features, &row.truth));
    rows
}

fn fitting<'a>(schema: &'a Schema, labelled: &'a [LabelledRow]) -> impl Iterator<Item = &'a LabelledRow> {
    let fits = |row: &&LabelledRow| row.features.len() == schema.features.len() && row.truth.len() == schema.truths();
    labelled.iter().filter(fits)
}
