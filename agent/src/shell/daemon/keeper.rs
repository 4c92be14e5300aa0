//! The daemon loop: owns the cycle's state and the only writing connection to `control.db`.
//!
//! ```text
//! event ─► step ─► commit (state + reports, one transaction) ─► carry out (serve, train, collect)
//!                    └─ refused: nothing is carried out, tried again every second
//! ```
mod ends;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use trainer_core::digest::Digest;
use trainer_core::train::TrainSettings;

use super::books::Books;
use super::budget::Warden;
use super::continual::Heads;
use super::realised::Realised;
use super::serving::Gatehouse;
use super::shared::{Event, Shared};
use super::storage::Storage;
use super::trial::{self, Batch, Both};
use super::views;
use crate::decide::budget::Budget;
use crate::decide::clock::Calendar;
use crate::decide::command::Freeze;
use crate::decide::cycle::{Cycle, CycleSettings, Report};
use crate::decide::flash::Flash;
use crate::decide::floors::Floors;
use crate::decide::loading::Loading;
use crate::decide::rollout::{Measure, Told};
use crate::decide::sample::{Label, Sample};
use crate::shell::clock;
use crate::shell::models::ModelStore;
use crate::shell::store::Record;
use crate::shell::trainer::Trainer;

/// Starts of one piece of work before it is given up: a training that takes the agent down runs out of them.
pub(super) const ATTEMPTS_MAX: u32 = 2;
/// How long the end of the agent waits for a training to leave its checkpoint.
const LAST_WORDS: Duration = Duration::from_millis(400);
/// Labels that are read at once when they are counted again after a start.
const REPLAYED_AT_ONCE: usize = 1_000;

/// The loop's state as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) cycle: Cycle,
    /// Ordinal of the newest label that the cycle has counted.
    pub(super) ordinal: i64,
    /// How often the work under way was started.
    pub(super) attempts: u32,
    /// What training may take; none in the state of an older version, and then as at a first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) budget: Option<Budget>,
    /// What the last promotion has brought so far, on a sample of the labelled traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) realised: Option<Realised>,
    /// What recording may still write today, if it has a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) flash: Option<Flash>,
    /// What is known of the wall clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) calendar: Option<Calendar>,
    /// Which models may be loaded.
    #[serde(default)]
    pub(super) loading: Loading,
    /// What may not come back.
    #[serde(default)]
    pub(super) floors: Floors,
}

/// What the loop is told once.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) cycle: CycleSettings,
    pub(super) training: TrainSettings,
    pub(super) commit_every: Duration,
    pub(super) commit_events: u64,
    pub(super) snapshot_bytes: u64,
}

/// The daemon loop.
pub(super) struct Keeper {
    pub(super) books: Books,
    pub(super) models: ModelStore,
    pub(super) snapshots: ModelStore,
    pub(super) shared: Arc<Shared>,
    pub(super) rules: Rules,
    pub(super) trainer: Trainer,
    pub(super) saved: Option<Saved>,
    pub(super) warden: Warden,
    /// Heads that learn from every label.
    pub(super) heads: Heads,
    pub(super) storage: Storage,
    /// What loading a model needs.
    pub(super) gatehouse: Gatehouse,
    /// The run whose thread is at work.
    pub(super) working: Option<u64>,
    /// A model that could not be loaded, so that it is told of once.
    pub(super) unloadable: Option<Digest>,
    /// Events since the last commit.
    pub(super) changed: u64,
    pub(super) committed_at: Instant,
    pub(super) ticks: u64,
    /// Nothing new is begun any more.
    pub(super) is_stopping: bool,
    /// What the fleet has frozen.
    pub(super) freezes: Vec<Freeze>,
    pub(super) was_frozen: bool,
}

impl Keeper {
    /// Serves and resumes what the stored state orders, then handles events until told to stop.
    pub(super) fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.blocking_recv() {
            self.shared.pulses.control.turn();
            match event {
                Event::Samples { rows, answers, at, ids, by, source } => {
                    self.samples(&Batch { rows: &rows, answers: &answers, at, ids: &ids, by, source });
                    self.heads.sampled(&rows, &ids);
                }
                Event::Label { ordinal, record, truth } => self.label(ordinal, &record, &truth),
                Event::Ask(question, reply) => {
                    // Whoever asked may have gone away, here and below.
                    let _ = reply.send(views::answer(&self, question));
                }
                Event::Command(command, reply) => {
                    let _ = reply.send(self.command(command));
                }
                Event::Link(ask) => self.link(*ask),
                Event::Worked(worked) => self.worked(*worked),
                Event::Unsound(digest) => self.unsound(digest),
                Event::Tick => self.tick(),
                Event::Stop(done) => {
                    if self.suspend_for_stop() {
                        self.hear_out(&mut events);
                    }
                    // Work that an orderly stop cuts short has not failed.
                    if let Some(saved) = self.saved.as_mut().filter(|_| self.working.is_some()) {
                        saved.attempts = saved.attempts.saturating_sub(1);
                    }
                    self.heads.save();
                    if let Some(saved) = &mut self.saved {
                        saved.loading.ended(&self.gatehouse.rules);
                    }
                    self.commit();
                    let _ = done.send(());
                    break;
                }
            }
        }
    }

    /// Waits a moment for the training that was told to leave a checkpoint.
    fn hear_out(&mut self, events: &mut mpsc::Receiver<Event>) {
        let begun = Instant::now();
        while begun.elapsed() < LAST_WORDS {
            match events.try_recv() {
                Ok(Event::Worked(worked)) => {
                    self.is_stopping = true;
                    return self.worked(*worked);
                }
                // Labels are found again at the next start, and nobody waits for answers of an agent that ends.
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Serves what the stored state orders, and counts the labels again that were stored after it.
    pub(super) fn begin(&mut self) {
        self.begin_held();
        self.serve();
        self.adapt();
        if let (Some(saved), Some(serving)) = (&mut self.saved, self.shared.slot.serving()) {
            saved.cycle.adopt(&self.rules.cycle, &serving.champion.model);
        }
        self.look();
        loop {
            let after = self.saved.as_ref().map_or(i64::MAX, |saved| saved.ordinal);
            let rows = match self.shared.reader.labelled_since(after, REPLAYED_AT_ONCE) {
                Ok(rows) if !rows.is_empty() => rows,
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "labels stored last are not counted again");
                    break;
                }
            };
            for row in rows {
                // The record tells who answered.
                let record = self.shared.reader.recent(1, Some(row.seq + 1)).ok().and_then(|mut found| found.pop());
                if let Some(record) = record.filter(|record| record.seq == row.seq) {
                    self.label(row.ordinal, &record, &row.truth);
                } else if let Some(saved) = &mut self.saved {
                    saved.ordinal = saved.ordinal.max(row.ordinal);
                }
            }
        }
        self.commit();
        self.carry_out();
    }

    pub(super) fn samples(&mut self, batch: &Batch<'_>) {
        let Some(saved) = &mut self.saved else { return };
        let Some(serving) = self.shared.slot.serving() else {
            return;
        };
        let mut reports = Vec::new();
        let adapted = self.shared.slot.adapted(&serving.champion.digest);
        let mut both = Both::new(&serving, adapted, saved.cycle.watch().wants_embedding(), self.warden.now());
        for (number, (row, answer)) in batch.rows(serving.champion.model.schema()).enumerate() {
            both.answer(row, answer, batch.by, self.changed);
            let sample = Sample { row, answer: &both.champion, embedding: &both.embedding, at: Some(batch.at) };
            reports.extend(saved.cycle.sample(&sample, &self.rules.cycle));
            if let Some(pair) = both.pair(batch, number) {
                reports.extend(saved.cycle.pair(&pair, &self.rules.cycle));
            }
            self.changed += 1;
        }
        // What a challenger answered proves nothing of the champion.
        if batch.by == serving.champion.digest {
            self.answered(batch.answers.len() / serving.champion.model.schema().outputs().max(1));
        }
        self.after(&reports);
    }

    pub(super) fn label(&mut self, ordinal: i64, record: &Record, truth: &[f32]) {
        let Some(saved) = &mut self.saved else { return };
        saved.ordinal = saved.ordinal.max(ordinal);
        let Some(serving) = self.shared.slot.serving() else {
            return;
        };
        let model = &serving.champion.model;
        let Record { seq, record } = record;
        if record.output.len() != model.schema().outputs() || truth.len() != model.schema().truths() {
            return;
        }
        let sample = u64::try_from(seq - 1 - self.shared.shift.load(Ordering::Relaxed)).unwrap_or(0);
        let label = Label {
            sample,
            loss: model.loss(&record.output, truth),
            answer: &record.output,
            truth,
            segment: record.segment.as_deref(),
            answered_by: record.model,
        };
        let mut reports = saved.cycle.label(&label, &self.rules.cycle);
        let told = (trial::id(record.id), self.warden.now(), Measure::of(model));
        let told = Told { id: told.0, now: told.1, truth, measure: &told.2, arm: trial::arm(&serving, &label) };
        reports.extend(saved.cycle.told(&told, &self.rules.cycle));
        self.changed += 1;
        self.after(&reports);
        self.learn(ordinal, record, truth);
        self.realise(record, *seq, truth);
    }

    pub(super) fn tick(&mut self) {
        self.ticks += 1;
        self.care_for_storage();
        self.served_a_second();
        let is_put_off = self.waits_for_the_thaw();
        if let Some(saved) = &mut self.saved {
            let mut reports = saved.cycle.tick(clock::now(), &self.rules.cycle);
            if !is_put_off {
                reports.extend(saved.cycle.beat(self.warden.now(), clock::now(), &self.rules.cycle));
            }
            if !reports.is_empty() {
                // The window of the schedule that was used is stored with the report of it.
                self.changed += 1;
                self.after(&reports);
            }
        }
        self.heads_tick();
        self.keep_frozen();
        self.watch_over();
        if self.books.is_waiting() {
            if self.commit() {
                self.carry_out();
            }
        } else if self.changed > 0 && self.committed_at.elapsed() >= self.rules.commit_every {
            self.commit();
        }
    }

    /// After each step: stored first, visible second.
    pub(super) fn after(&mut self, reports: &[Report]) {
        if reports.is_empty() {
            if self.changed >= self.rules.commit_events && self.books.trouble().is_none() {
                self.commit();
            }
            return;
        }
        if let Some(saved) = &mut self.saved {
            if reports.iter().any(|report| matches!(report, Report::Retrain { .. })) {
                saved.attempts = 0;
            }
            self.books.note(reports, &saved.cycle);
            Realised::begin(&mut saved.realised, reports);
        }
        self.tell_ledger(reports);
        if self.commit() {
            self.carry_out();
        }
    }

    pub(super) fn commit(&mut self) -> bool {
        let Some(saved) = &self.saved else { return true };
        self.committed_at = Instant::now();
        let stored = self.books.commit(saved);
        if stored {
            if let Err(error) = self.gatehouse.floors_file.store(&saved.floors) {
                tracing::warn!(error = %error.chain(), "floors.json stays behind the state");
            }
            self.changed = 0;
            self.shared.stored.notify_one();
        }
        stored
    }
}
