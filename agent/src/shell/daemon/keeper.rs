//! The daemon loop: owns the cycle's state and the only writing connection to `control.db`.
//!
//! ```text
//! event ─► step ─► commit (state + reports, one transaction) ─► carry out (serve, train, collect)
//!                    └─ refused: nothing is carried out, tried again every second
//! ```
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::{Model, Strategy};
use trainer_core::train::TrainSettings;

use super::books::Books;
use super::shared::{Command, Declined, Event, Shared};
use super::views;
use super::work::{Bench, Undone, Worked};
use crate::decide::cycle::{self, Cycle, CycleSettings, Order, Orders, Refusal, Report};
use crate::shell::inference::{Loaded, Serving};
use crate::shell::models::ModelStore;
use crate::shell::store::{Record, StoreError};
use crate::shell::trainer::Trainer;

/// Starts of one piece of work before it is given up: a training that takes the agent down runs out of them.
const ATTEMPTS_MAX: u32 = 2;
/// Seconds between two looks at how many bytes the records take.
const RETENTION_S: u64 = 60;
/// Labels that are counted again after a start, at most; older ones have been trained on or never will be.
const REPLAYED_MAX: usize = 20_000;

/// The loop's state as it is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) cycle: Cycle,
    /// Ordinal of the newest label that the cycle has counted.
    pub(super) ordinal: i64,
    /// How often the work under way was started.
    pub(super) attempts: u32,
}

/// What the loop is told once.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) cycle: CycleSettings,
    pub(super) training: TrainSettings,
    pub(super) commit_every: Duration,
    pub(super) commit_events: u64,
    pub(super) keep_bytes: u64,
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
    /// The run whose thread is at work.
    pub(super) working: Option<u64>,
    /// A model that could not be loaded, so that it is told of once.
    pub(super) unloadable: Option<Digest>,
    /// Events since the last commit.
    pub(super) changed: u64,
    pub(super) committed_at: Instant,
    pub(super) ticks: u64,
}

impl Keeper {
    /// Serves and resumes what the stored state orders, then handles events until told to stop.
    pub(super) fn run(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.blocking_recv() {
            match event {
                Event::Samples(rows) => self.samples(&rows),
                Event::Label { ordinal, record, truth } => self.label(ordinal, &record, &truth),
                Event::Ask(question, reply) => {
                    // Whoever asked may have gone away, here and below.
                    let _ = reply.send(views::answer(&self, question));
                }
                Event::Command(command, reply) => {
                    let _ = reply.send(self.command(command));
                }
                Event::Worked(worked) => self.worked(*worked),
                Event::Tick => self.tick(),
                Event::Stop(done) => {
                    self.commit();
                    let _ = done.send(());
                    break;
                }
            }
        }
    }

    /// Serves what the stored state orders, and counts the labels again that were stored after it.
    pub(super) fn begin(&mut self) {
        if let Some(saved) = &mut self.saved {
            saved.cycle.adopt(&self.rules.cycle);
        }
        self.serve();
        let after = self.saved.as_ref().map_or(i64::MAX, |saved| saved.ordinal);
        match self.shared.reader.labelled_since(after, REPLAYED_MAX) {
            Ok(rows) => {
                for row in rows {
                    // The record tells who answered.
                    let record = self
                        .shared
                        .reader
                        .recent(1, Some(row.seq + 1))
                        .ok()
                        .and_then(|mut found| found.pop());
                    if let Some(record) = record.filter(|record| record.seq == row.seq) {
                        self.label(row.ordinal, &record, &row.truth);
                    }
                }
            }
            Err(error) => tracing::warn!(error = %error.chain(), "labels stored last are not counted again"),
        }
        self.commit();
        self.carry_out();
    }

    fn samples(&mut self, rows: &[f32]) {
        let Some(saved) = &mut self.saved else { return };
        let Some(serving) = self.shared.slot.serving() else {
            return;
        };
        let mut reports = Vec::new();
        for row in rows.chunks_exact(serving.champion.model.schema().features.len()) {
            reports.extend(saved.cycle.sample(row, &self.rules.cycle));
            self.changed += 1;
        }
        self.after(reports);
    }

    fn label(&mut self, ordinal: i64, record: &Record, truth: &[f32]) {
        let Some(saved) = &mut self.saved else { return };
        let Some(serving) = self.shared.slot.serving() else {
            return;
        };
        let model = &serving.champion.model;
        saved.ordinal = saved.ordinal.max(ordinal);
        let Record { seq, record } = record;
        if record.output.len() != model.schema().outputs() || truth.len() != model.schema().truths() {
            return;
        }
        let sample = u64::try_from(seq - 1 - self.shared.shift.load(Ordering::Relaxed)).unwrap_or(0);
        let loss = model.loss(&record.output, truth);
        let reports = saved.cycle.label(sample, loss, &record.model, &self.rules.cycle);
        self.changed += 1;
        self.after(reports);
    }

    fn command(&mut self, command: Command) -> Result<Value, Declined> {
        if let Command::Offer { bytes, model } = command {
            return self.offer(&bytes, &model);
        }
        let event = match command {
            Command::Retrain(strategy) => cycle::Event::Retrain { strategy },
            Command::RollBack | Command::Offer { .. } => self.roll_back()?,
        };
        self.follow(event)
    }

    fn roll_back(&mut self) -> Result<cycle::Event, Declined> {
        let saved = self.saved.as_ref().ok_or_else(no_model)?;
        let previous = saved
            .cycle
            .models()
            .1
            .ok_or_else(|| declined("refused", &Refusal::NoPrevious))?;
        let loaded = self.load(&previous).map_err(|reason| declined("bundle", &reason))?;
        let (reference, baseline) = (loaded.model.manifest.reference, loaded.model.baseline.clone());
        Ok(cycle::Event::RollBack { reference, baseline })
    }

    fn offer(&mut self, bytes: &[u8], model: &Model) -> Result<Value, Declined> {
        let digest = Digest::of(bytes);
        let schema = self
            .shared
            .slot
            .serving()
            .map(|serving| serving.champion.model.schema().clone());
        if schema.is_some_and(|schema| schema != *model.schema()) {
            return Err(declined(
                "schema",
                &"its features or its task differ from the champion's: it would not understand this device's samples",
            ));
        }
        self.models
            .put(bytes)
            .map_err(|error| declined("disk", &error.chain()))?;
        if self.saved.is_none() {
            self.install(digest, model);
            return if self.commit() {
                self.carry_out();
                Ok(json!({"digest": digest, "installed": true}))
            } else {
                Err(self.not_stored())
            };
        }
        let known = self.saved.as_ref().map(|saved| saved.cycle.models());
        let repairs = known.is_some_and(|(champion, previous, factory)| {
            [Some(champion), previous, Some(factory)].contains(&Some(digest))
        });
        if repairs && self.shared.slot.serving().is_none() {
            self.carry_out();
            return Ok(json!({"digest": digest, "installed": true}));
        }
        let parent = model.manifest.parent;
        let answer = self.follow(cycle::Event::Offered { candidate: digest });
        match &answer {
            Ok(_) => self.books.candidate(digest, parent, None),
            // What is not judged is not kept.
            Err(_) => self.collect(),
        }
        answer
    }

    /// Makes `model` the first one: champion and factory model at once. Its bytes are stored already.
    pub(super) fn install(&mut self, digest: Digest, model: &Model) {
        let cycle = Cycle::new(model, digest, &self.rules.cycle);
        let ordinal = self
            .shared
            .reader
            .newest_labelled(1)
            .ok()
            .and_then(|rows| rows.last().map(|row| row.ordinal));
        self.saved = Some(Saved {
            cycle,
            ordinal: ordinal.unwrap_or(0),
            attempts: 0,
        });
        self.books.installed(digest);
        self.changed += 1;
    }

    /// Steps; a refusal changes nothing.
    fn follow(&mut self, event: cycle::Event) -> Result<Value, Declined> {
        let saved = self.saved.as_mut().ok_or_else(no_model)?;
        let reports = saved.cycle.step(event, &self.rules.cycle).map_err(|refusal| {
            let code = match refusal {
                Refusal::Busy(_) => "busy",
                Refusal::TooFew(_) => "too_few_labels",
                Refusal::NoPrevious | Refusal::Pointless(..) => "refused",
            };
            declined(code, &refusal)
        })?;
        let run = reports.iter().find_map(|report| match report {
            Report::Retrain { order } => Some(order.run),
            _ => None,
        });
        self.after(reports);
        if self.books.trouble().is_some() {
            return Err(self.not_stored());
        }
        let champion = self.saved.as_ref().map(|saved| saved.cycle.models().0);
        Ok(json!({"run": run, "champion": champion}))
    }

    fn not_stored(&self) -> Declined {
        declined("disk", &self.books.trouble().unwrap_or("the disk refuses"))
    }

    fn worked(&mut self, worked: Worked) {
        let Worked { run, outcome } = worked;
        if self.working.take_if(|working| *working == run).is_none() {
            return;
        }
        let Some(saved) = &mut self.saved else { return };
        match outcome {
            Ok(done) => {
                let parent = saved.cycle.orders().work.map(|order| order.parent);
                self.books.trained(run, &done, parent);
                let event = cycle::Event::Judged {
                    run,
                    candidate: done.candidate,
                    evidence: done.evidence,
                    recent: done.recent,
                };
                let reports = saved.cycle.step(event, &self.rules.cycle).unwrap_or_default();
                // Also without reports: what a rollback made void is collected.
                self.changed += 1;
                if reports.is_empty() {
                    self.collect()
                } else {
                    self.after(reports)
                }
            }
            Err(Undone { reason, again }) => {
                tracing::warn!(run, reason, "a run could not be finished");
                if again && saved.attempts < ATTEMPTS_MAX {
                    self.carry_out()
                } else {
                    self.fail(run, reason)
                }
            }
        }
    }

    fn fail(&mut self, run: u64, reason: String) {
        let Some(saved) = &mut self.saved else { return };
        let reports = saved
            .cycle
            .step(cycle::Event::Failed { run, reason }, &self.rules.cycle)
            .unwrap_or_default();
        self.after(reports);
    }

    fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(RETENTION_S) {
            // The outcome is in the counts; a full queue means that the next time is soon enough.
            let _ = self.shared.recorder.retire(self.rules.keep_bytes);
        }
        if self.books.is_waiting() {
            if self.commit() {
                self.carry_out();
            }
        } else if self.changed > 0 && self.committed_at.elapsed() >= self.rules.commit_every {
            self.commit();
        }
    }

    /// After each step: stored first, visible second.
    fn after(&mut self, reports: Vec<Report>) {
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
            self.books.note(&reports, &saved.cycle);
        }
        if self.commit() {
            self.carry_out();
        }
    }

    fn commit(&mut self) -> bool {
        let Some(saved) = &self.saved else { return true };
        self.committed_at = Instant::now();
        let stored = self.books.commit(saved);
        if stored {
            self.changed = 0;
        }
        stored
    }

    /// Makes the world what the stored state orders.
    fn carry_out(&mut self) {
        self.serve();
        let Some(Orders { work, .. }) = self.saved.as_ref().map(|saved| saved.cycle.orders()) else {
            return;
        };
        match work {
            Some(order) if self.working.is_none() => self.start(order),
            _ => self.collect(),
        }
    }

    fn start(&mut self, order: Order) {
        let Some(saved) = &mut self.saved else { return };
        if saved.attempts >= ATTEMPTS_MAX {
            let reason = format!("it was started {ATTEMPTS_MAX} times and never finished");
            return self.fail(order.run, reason);
        }
        // Counted on disk before it begins: work that takes the agent down runs out of attempts.
        saved.attempts += 1;
        let from = i64::try_from(order.rows.from_label).unwrap_or(i64::MAX);
        let behind = i64::try_from(saved.cycle.counts().1).unwrap_or(i64::MAX);
        let from_ordinal = saved.ordinal + 1 - (behind - from);
        if !self.commit() {
            return;
        }
        let run = order.run;
        let bench = Bench {
            order,
            from_ordinal,
            models: self.models.clone(),
            snapshots: self.snapshots.clone(),
            reader: self.shared.reader.clone(),
            recorder: self.shared.recorder.clone(),
            trainer: self.trainer.clone(),
            settings: self.rules.training.clone(),
        };
        let events = self.shared.events.clone();
        let work = move || {
            // The loop ends before its queue only when the agent stops.
            let _ = events.blocking_send(Event::Worked(Box::new(bench.work())));
        };
        match thread::Builder::new().name("work".to_owned()).spawn(work) {
            Ok(_) => self.working = Some(run),
            Err(error) => self.fail(run, format!("the system gives no thread: {error}")),
        }
    }

    /// Lets the ordered models answer; a champion whose file is damaged gives way to previous, then factory.
    fn serve(&mut self) {
        loop {
            let Some(saved) = &self.saved else { return };
            let (champion, previous, factory) = saved.cycle.models();
            let serving = self.shared.slot.serving();
            let serves = serving
                .as_ref()
                .map(|serving| (serving.champion.digest, serving.previous.as_ref().map(|p| p.digest)));
            if serves == Some((champion, previous)) {
                return;
            }
            let reason = match self.load(&champion) {
                Ok(champion) => {
                    let previous = previous.and_then(|digest| self.load(&digest).ok());
                    tracing::info!(model = %champion.digest.short(), "serving");
                    self.shared.slot.swap(Some(Serving { champion, previous }));
                    return;
                }
                Err(reason) => reason,
            };
            if self.unloadable.replace(champion) != Some(champion) {
                tracing::error!(reason, "the champion cannot be served");
                self.books
                    .say("model_damaged", &json!({"digest": champion, "reason": reason}));
            }
            let older = [previous, Some(factory)]
                .into_iter()
                .flatten()
                .filter(|digest| *digest != champion);
            let Some(loaded) = older.into_iter().find_map(|digest| self.load(&digest).ok()) else {
                self.shared.slot.swap(None);
                return;
            };
            let Some(saved) = &mut self.saved else { return };
            let (reference, baseline) = (loaded.model.manifest.reference, loaded.model.baseline.clone());
            let event = cycle::Event::FallBack {
                to: loaded.digest,
                reference,
                baseline,
            };
            let reports = saved.cycle.step(event, &self.rules.cycle).unwrap_or_default();
            self.books.note(&reports, &saved.cycle);
            // A device that cannot write still answers: the older model serves, its report waits for the disk.
            self.commit();
        }
    }

    /// A model in memory, from the slot or from its file.
    fn load(&self, digest: &Digest) -> Result<Loaded, String> {
        if let Some(loaded) = self
            .shared
            .slot
            .serving()
            .and_then(|serving| serving.version(digest).cloned())
        {
            return Ok(loaded);
        }
        let bytes = self.models.get(digest).map_err(|error: StoreError| error.chain())?;
        let model = bundle::read(&bytes).map_err(|error| error.to_string())?;
        Ok(Loaded {
            model: Arc::new(model),
            digest: *digest,
        })
    }

    /// Removes models and snapshots that nobody needs any more; only after a commit, and not while work may add some.
    fn collect(&self) {
        let Some(saved) = &self.saved else { return };
        if self.working.is_none() && !self.books.is_waiting() {
            self.books.collect(&saved.cycle, &self.models, &self.snapshots);
        }
    }
}

fn declined(code: &'static str, reason: &impl ToString) -> Declined {
    Declined {
        code,
        reason: reason.to_string(),
    }
}

fn no_model() -> Declined {
    declined(
        "no_model",
        &"this device has no model yet: start it with `hone run --model FILE`, or offer one with `hone promote FILE`",
    )
}

/// The strategy a person may name.
///
/// # Errors
/// The names that are known.
pub fn strategy(name: &str) -> Result<Strategy, String> {
    match name {
        "head" => Ok(Strategy::Head),
        "tail" => Ok(Strategy::Tail),
        "full" => Ok(Strategy::Full),
        other => Err(format!("`{other}` is no strategy: use head, tail or full")),
    }
}
