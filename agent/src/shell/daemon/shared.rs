//! What handlers share with the daemon loop: who serves, where records go, the queue of events, and counts.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use fleet_protocol::names::DeviceId;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use trainer_core::model::{Model, Strategy};
use ulid::Ulid;

use crate::decide::time::Timestamp;
use crate::shell::clock::Ids;
use crate::shell::inference::{Loaded, Slot};
use crate::shell::ingest::samples::{CODES, Counts};
use crate::shell::recorder::{RecorderHandle, RecorderState};
use crate::shell::store::{NewRecord, Record, RecordReader};

use super::link::LinkAsk;
use super::work::Worked;

/// Reasons for refusing a request beside those of a single sample.
const MORE_CODES: [&str; 4] = ["no_model", "unknown_model", "unknown_version", "body_too_large"];

/// One fact for the daemon loop.
#[derive(Debug)]
pub enum Event {
    /// Samples were answered by the champion.
    Samples {
        /// Raw rows `[n, features]`.
        rows: Vec<f32>,
        /// What was answered, `[n, outputs]`.
        answers: Vec<f32>,
        /// Their record ids.
        ids: Vec<Ulid>,
        /// When they were taken.
        at: Timestamp,
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
    /// A second has passed.
    Tick,
    /// Store everything and end.
    Stop(oneshot::Sender<()>),
}

/// What can be asked of the loop.
#[derive(Clone, Copy, Debug)]
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
    Plan(Strategy),
}

/// What a person may command.
#[derive(Debug)]
pub enum Command {
    /// Train a candidate now.
    Retrain(Strategy),
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
    /// Judge this bundle and serve it if it passes; the first one ever serves at once.
    Offer {
        /// Bundle bytes.
        bytes: Vec<u8>,
        /// The same, read.
        model: Box<Model>,
    },
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
    /// Answers `rows`, hands them to the recorder and, if it is the champion that answers, to the loop. Never blocks.
    pub fn answer(self: &Arc<Self>, loaded: &Loaded, champion: bool, rows: Vec<f32>, origin: Origin<'_>) -> Answered {
        let adapted = champion.then(|| self.slot.adapted(&loaded.digest)).flatten();
        let (answers, adaptations) = loaded.answer_adapted(adapted.as_deref(), &rows);
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
        let samples = || Event::Samples { rows, answers: answers.clone(), ids: ids.clone(), at };
        let watched = champion && self.events.try_send(samples()).is_ok();
        if champion && !watched {
            self.counters.unwatched.fetch_add(ids.len() as u64, Ordering::Relaxed);
        }
        self.counters.answered.fetch_add(ids.len() as u64, Ordering::Relaxed);
        self.shift.fetch_add(recorded - if watched { count } else { 0 }, Ordering::Relaxed);
        // On a disk that refuses, records are held for a while and may be lost: not stored yet.
        let recording = self.recorder.status().state == RecorderState::Recording;
        Answered {
            answers,
            ids,
            adaptation: adaptations.first().copied().unwrap_or(0),
            stored: recorded == count && recording,
        }
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
