//! What handlers share with the daemon loop: who serves, where records go, the queue of events, and counts.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use fleet_protocol::names::DeviceId;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Strategy;
use ulid::Ulid;

use crate::decide::rollout;
use crate::decide::time::Timestamp;
use crate::shell::clock::Ids;
use crate::shell::inference::{Loaded, Role, Serving, Slot};
use crate::shell::ingest::intake::Intake;
use crate::shell::ingest::samples::{CODES, Counts};
use crate::shell::models::Door;
use crate::shell::models::ModelStore;
use crate::shell::recorder::RecorderHandle;
use crate::shell::store::{NewRecord, Record, RecordReader};
use crate::shell::systemd::Pulses;

use super::answering::{self, Chosen, MORE_CODES, NoNumber};
use super::link::LinkAsk;
use super::work::Worked;

/// One fact for the daemon loop.
#[derive(Debug)]
pub enum Event {
    /// Samples that named no version were answered.
    Samples {
        /// Raw rows `[n, features]`.
        rows: Vec<f32>,
        /// What was answered, `[n, outputs]`.
        answers: Vec<f32>,
        /// When they were taken.
        at: Timestamp,
        /// Their records.
        ids: Vec<Ulid>,
        /// The model that answered.
        by: Digest,
        /// [`crate::decide::rollout::hash`] of their source.
        source: u64,
    },
    /// A label is stored.
    Label {
        /// Its place in the order of labels.
        ordinal: i64,
        /// What it labels, with the answer and who gave it.
        record: Box<Record>,
        /// Class index, or one number per target.
        truth: Vec<f32>,
    },
    /// Someone asks.
    Ask(Question, oneshot::Sender<Value>),
    /// Someone commands.
    Command(Command, oneshot::Sender<Result<Value, Declined>>),
    /// The trainer's thread has ended.
    Worked(Box<Worked>),
    /// The link to the fleet asks.
    Link(Box<LinkAsk>),
    /// This model answered something that is no number.
    Unsound(Digest),
    /// A second has passed.
    Tick,
    /// Store everything and end.
    Stop(oneshot::Sender<()>),
}

/// What can be asked of the loop.
#[derive(Clone, Debug)]
pub enum Question {
    /// Models, counts, work, trouble.
    Status,
    /// Features against their baseline, losses, trigger.
    Drift,
    /// All models ever known.
    Models,
    /// The newest reports, newest first.
    Reports(usize),
    /// The newest retrains, newest first.
    Runs(usize),
    /// What retraining took: by day and week, by outcome, by run.
    Energy,
    /// Every model with the run that made it.
    Lineage,
    /// What a retrain would be, were it ordered now.
    Plan(Retraining),
    /// Records whose labels would decide a trial, oldest first.
    LabelRequests(usize),
    /// Why the model whose digest begins so was promoted or refused; none for the champion.
    Explain(Option<String>),
}

/// What a person may command.
#[derive(Debug)]
pub enum Command {
    /// Train a candidate now.
    Retrain(Strategy),
    /// Freeze the heads that learn from every label into a candidate now.
    Consolidate,
    /// End the training or comparison under way, or the one that waits.
    Cancel,
    /// Measure features against the newest stored rows from now on.
    Rebaseline {
        /// How many; none for [`BASELINE_ROWS_MAX`](crate::decide::watch::BASELINE_ROWS_MAX).
        rows: Option<usize>,
        /// Only rows whose event time is not before this.
        since: Option<Timestamp>,
    },
    /// Serve the previous model again.
    RollBack,
    /// Something about the candidate that waits or is tried.
    Trial(rollout::Event),
    /// Judge this bundle, with the signature that came with it, and serve it if it passes; the first one ever serves at once.
    Install {
        /// Bundle bytes.
        bytes: Vec<u8>,
        /// Its DSSE envelope, JSON.
        envelope: Option<Vec<u8>>,
        /// Where it came in.
        door: Door,
    },
    /// Say whether the records of this span may be deleted, and how many snapshots keep rows of their own.
    Purge {
        /// From then on.
        since: Timestamp,
        /// Up to then.
        until: Timestamp,
    },
    /// Remove model files nobody needs, or say which.
    Collect {
        /// Say only.
        dry: bool,
    },
}

/// What a person may have retrained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retraining {
    /// A training on a snapshot of rows.
    Train(Strategy),
    /// The heads that learn from every label, as they are.
    Continual,
}

/// A command that is not followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Declined {
    /// Short reason.
    pub code: &'static str,
    /// In words.
    pub reason: String,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    refused: [AtomicU64; CODES.len()],
    more: [AtomicU64; MORE_CODES.len()],
    answered: AtomicU64,
    unwatched: AtomicU64,
    missing: AtomicU64,
    out_of_range: AtomicU64,
    unseen_category: AtomicU64,
}

/// What handlers share with the loop.
#[derive(Debug)]
pub struct Shared {
    /// Name of the model in the protocol.
    pub name: String,
    /// Who answers.
    pub slot: Slot,
    /// Makes record ids.
    pub ids: Ids,
    /// Takes records and labels.
    pub recorder: RecorderHandle,
    /// Reads what is stored.
    pub reader: RecordReader,
    /// Reads versions that are asked for by name.
    pub models: ModelStore,
    /// The loop's queue.
    pub events: mpsc::Sender<Event>,
    /// Counts.
    pub counters: Counters,
    /// Record numbers minus sample numbers: what was recorded but not watched, less what was watched but not recorded.
    pub shift: AtomicI64,
    /// Largest request body.
    pub body_bytes_max: usize,
    /// Told whenever something for the fleet was stored.
    pub stored: Notify,
    /// How the link stands, for status.
    pub link: watch::Sender<Value>,
    /// Windows of the readings that come in.
    pub intake: Intake,
    /// How the local broker stands, for status.
    pub input: watch::Sender<Value>,
    /// How each part shows that it moves.
    pub pulses: Pulses,
    /// Who this device is to the fleet, if it has one.
    pub device: Option<DeviceId>,
    /// Where the agent lives, for status.
    pub place: Place,
}

/// Where the agent lives.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// State directory.
    pub state_dir: PathBuf,
    /// Socket.
    pub socket: PathBuf,
    /// Loopback address, with the port that was taken.
    pub listen: Option<String>,
    /// When this start was.
    pub started_at: Timestamp,
}

/// One request's samples, answered.
#[derive(Debug)]
pub struct Answered {
    /// `[n, outputs]`.
    pub answers: Vec<f32>,
    /// One per row.
    pub ids: Vec<Ulid>,
    /// Which adaptation of the champion answered the first row; 0 is the bare bundle.
    pub adaptation: i64,
    /// Who answered.
    pub by: (Digest, Role),
    /// Whether every row was accepted for storing.
    pub stored: bool,
}

/// Who measured, and when.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Source.
    pub source: &'a str,
    /// Segment, if it says one.
    pub segment: Option<&'a str>,
    /// Time the sample says, if it does.
    pub event_at: Option<Timestamp>,
    /// Time it came here.
    pub arrived_at: Timestamp,
}

impl Shared {
    /// Answers `rows`, hands them to the recorder and, unless a version was named, to the loop. Never blocks.
    ///
    /// `pinned` is the version that was named, which answers as its bundle says; otherwise the champion answers, by its mixture if it
    /// has one, or the challenger of a canary.
    ///
    /// # Errors
    /// [`NoNumber`]: what is no number leaves nobody, is not recorded and not watched.
    pub fn answer(
        self: &Arc<Self>,
        serving: &Serving,
        pinned: Option<&Loaded>,
        rows: Vec<f32>,
        origin: Origin<'_>,
    ) -> Result<Answered, NoNumber> {
        let _busy = self.pulses.answering();
        let adapted = if pinned.is_none() { self.slot.adapted(&serving.champion.digest) } else { None };
        let Chosen { loaded, role, answers, adaptations, unsound } =
            answering::choose(serving, pinned, adapted.as_deref(), &rows, &origin)?;
        if let Some(unsound) = unsound {
            // The model falls back; a full queue is told by the next answer.
            let _ = self.events.try_send(Event::Unsound(unsound));
        }
        let (width, outputs) = (loaded.model.schema().features.len(), loaded.model.schema().outputs());
        let (mut ids, mut recorded) = (Vec::new(), 0_i64);
        let at = origin.event_at.unwrap_or(origin.arrived_at);
        let each = rows.chunks_exact(width).zip(answers.chunks_exact(outputs)).zip(&adaptations);
        for ((features, output), adaptation) in each {
            let id = self.ids.next(origin.arrived_at);
            ids.push(id);
            let missing = features.iter().filter(|value| value.is_nan()).count();
            let record = NewRecord {
                id,
                event_at: at,
                arrived_at: origin.arrived_at,
                source: origin.source.to_owned(),
                segment: origin.segment.map(str::to_owned),
                model: loaded.digest,
                features: features.to_vec(),
                output: output.to_vec(),
                adaptation: *adaptation,
                missing: u32::try_from(missing).unwrap_or(u32::MAX),
            };
            recorded += i64::from(self.recorder.record(record).is_ok());
        }
        let count = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        let (by, source) = (loaded.digest, rollout::hash(origin.source));
        let samples = || Event::Samples { rows, answers: answers.clone(), at, ids: ids.clone(), by, source };
        // What an older model had to answer says nothing about the champion's losses.
        let asked = !matches!(role, Role::Pinned | Role::Fallback);
        let watched = asked && self.events.try_send(samples()).is_ok();
        if asked && !watched {
            self.counters.unwatched.fetch_add(ids.len() as u64, Ordering::Relaxed);
        }
        self.counters.answered.fetch_add(ids.len() as u64, Ordering::Relaxed);
        self.shift.fetch_add(recorded - if watched { count } else { 0 }, Ordering::Relaxed);
        // On a disk that refuses, records are held for a while and may be lost: not stored yet.
        let recording = self.recorder.is_recording();
        let adaptation = adaptations.first().copied().unwrap_or(0);
        Ok(Answered { answers, ids, by: (by, role), adaptation, stored: recorded == count && recording })
    }

    /// Loads a kept version that is asked for by name; none if it is not kept, or cannot be read.
    pub fn load_pinned(&self, digest: &Digest) -> Option<Loaded> {
        let serving = self.slot.serving()?;
        if !serving.kept.contains(digest) {
            return None;
        }
        let model = bundle::read(&self.models.get(digest).ok()?).ok()?;
        let fits = model.schema() == serving.champion.model.schema();
        let loaded = fits.then(|| Loaded { model: Arc::new(model), digest: *digest })?;
        self.slot.pin(&loaded);
        Some(loaded)
    }

    /// Asks the loop; `None` if it has ended.
    pub async fn ask(&self, question: Question) -> Option<Value> {
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Ask(question, reply)).await.ok()?;
        answer.await.ok()
    }

    /// Commands the loop; declined with `stopping` if it has ended.
    pub async fn command(&self, command: Command) -> Result<Value, Declined> {
        let ended = || Declined { code: "stopping", reason: "the agent is stopping".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.events.send(Event::Command(command, reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl Counters {
    /// Counts a refusal by its code.
    pub fn refuse(&self, code: &str) {
        let own = CODES.iter().position(|known| *known == code).map(|index| &self.refused[index]);
        let more = MORE_CODES.iter().position(|known| *known == code).map(|index| &self.more[index]);
        if let Some(counter) = own.or(more) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts what was accepted but is worth counting.
    pub fn accept(&self, counts: &Counts) {
        for (counter, count) in [
            (&self.missing, counts.missing),
            (&self.out_of_range, counts.out_of_range),
            (&self.unseen_category, counts.unseen_category),
        ] {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    /// As status shows them.
    #[must_use]
    pub fn view(&self) -> Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let codes = CODES.iter().zip(&self.refused).chain(MORE_CODES.iter().zip(&self.more));
        let refused: BTreeMap<_, _> =
            codes.map(|(code, counter)| (*code, read(counter))).filter(|(_, n)| *n > 0).collect();
        serde_json::json!({
            "answered": read(&self.answered),
            "unwatched": read(&self.unwatched),
            "missing_values": read(&self.missing),
            "out_of_range_values": read(&self.out_of_range),
            "unseen_categories": read(&self.unseen_category),
            "refused": refused,
        })
    }
}
