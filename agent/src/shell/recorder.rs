//! The recorder: one thread that owns the writing connection to the records and commits them in groups.
//!
//! ```text
//! record(), label() ─► bounded queue ─► open group ─► one transaction ─► replies to the labels
//!                      full: counted    full, or old enough, or asked for
//! ```
//!
//! The disk's moods stay here: a group that cannot be stored is held and tried again, whoever serves never notices.
mod batcher;
#[cfg(test)]
mod day;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::{io, thread};

use batcher::Batcher;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::store::{LabelOutcome, NewLabel, NewRecord, Purged, RecordWriter, Retention, Retired, SetAside, StoreError};
use crate::decide::time::Timestamp;

/// How records are grouped, and what waits in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecorderSettings {
    /// A group is committed once it has this many records and labels. Range 1 to 10,000, default 256: from 100 on the disk
    /// writes less than four bytes per byte, beyond 500 little is gained and more is lost in a power cut.
    pub group_rows: usize,
    /// A group is committed this many milliseconds after its first record, full or not. Range 1 to 60,000, default 2000:
    /// what a killed agent loses at most. Half of it costs a card a third more at 100 narrow rows a second.
    pub group_ms: u32,
    /// A group with a label is committed this many milliseconds after it, because someone waits for the answer. Range 0
    /// (at once) to 60,000, default 20: short for a person, long enough for a batch of labels to share one sync.
    pub label_wait_ms: u32,
    /// Messages that may wait in the queue; what comes beyond is dropped and counted. Range 1 to 100,000, default 1024:
    /// 0.7 MB at 128 features, four seconds of a slow card at 256 rows a second.
    pub queue_messages: usize,
    /// Records held in memory while the disk refuses; beyond, the oldest are given up and counted. Range `group_rows` to
    /// 100,000, default 1024: 0.7 MB at 128 features.
    pub held_rows: usize,
    /// While the disk refuses, it is asked again after this many milliseconds. Range 1 to 600,000, default 5000.
    pub retry_ms: u32,
}

impl Default for RecorderSettings {
    fn default() -> Self {
        Self {
            group_rows: 256,
            group_ms: 2000,
            label_wait_ms: 20,
            queue_messages: 1024,
            held_rows: 1024,
            retry_ms: 5000,
        }
    }
}

/// Whether the disk takes what it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RecorderState {
    /// It does.
    #[default]
    Recording,
    /// It does not; records are held, then given up, and labels are answered [`LabelOutcome::NotStored`].
    Degraded {
        /// What it said.
        reason: String,
    },
}

/// What the recorder has done since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecorderStatus {
    /// Whether the disk takes what it is given.
    pub state: RecorderState,
    /// Records stored.
    pub recorded: u64,
    /// Labels stored.
    pub labelled: u64,
    /// Groups committed.
    pub groups: u64,
    /// Records whose id was stored already; the first one was kept.
    pub repeated: u64,
    /// Records that came while the queue was full.
    pub dropped: u64,
    /// Records given up because the disk refused for too long.
    pub unrecorded: u64,
    /// Records in memory that the disk has refused so far.
    pub held: u64,
    /// Newest partitions set aside because they were damaged.
    pub set_aside: u64,
    /// The last of them: where it is kept, and what was wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_set_aside: Option<SetAside>,
    /// Records that were left out to spare the card.
    pub spared: u64,
    /// Bytes of the records stored, as numbers and texts, without what the database adds.
    pub recorded_bytes: u64,
    /// Partitions dropped by retention.
    pub partitions_dropped: u64,
    /// Partitions thinned by retention.
    pub partitions_thinned: u64,
    /// Bytes beyond the budget that may not go, because a training needs them or because they are the newest.
    pub bytes_over: u64,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotQueued {
    /// The queue is full.
    #[error("the recorder's queue is full; try again in a second")]
    Full,
    /// The recorder has stopped.
    #[error("the recorder has stopped; start the agent again")]
    Stopped,
    /// It was left out to spare the card (`records.flash.bytes_per_day`).
    #[error("the card has had its bytes of the day; only some samples are recorded")]
    Spared,
}

/// Owns the recorder's thread. Dropping it commits what was queued, like [`Recorder::stop`].
#[derive(Debug)]
pub struct Recorder {
    handle: RecorderHandle,
    thread: Option<JoinHandle<()>>,
}

/// Speaks to the recorder, from any thread or task.
#[derive(Clone, Debug)]
pub struct RecorderHandle {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    dropped: AtomicU64,
    /// Messages handed over, and taken out of the queue.
    offered: AtomicU64,
    taken: AtomicU64,
    queue_messages: u64,
    /// Only every so many-th sample is recorded, how many came, and how many were left out.
    every: AtomicU32,
    count: AtomicU64,
    spared: AtomicU64,
    /// Messages handled: shows that the thread moves.
    turns: AtomicU64,
    status: Mutex<RecorderStatus>,
}

#[derive(Debug)]
enum Message {
    Record(NewRecord),
    Label(NewLabel, oneshot::Sender<LabelOutcome>),
    Flush(SyncSender<RecorderStatus>),
    Retain(Retention, oneshot::Sender<Result<Retired, StoreError>>),
    /// Commit what was queued before, then delete the records of this span.
    Purge(Timestamp, Timestamp, oneshot::Sender<Result<Purged, StoreError>>),
    /// Nothing, so that a thread without work shows that it moves.
    Beat,
    Stop,
}

impl Message {
    /// Whether it came by [`RecorderHandle::offer`].
    fn is_counted(&self) -> bool {
        matches!(self, Self::Record(_) | Self::Label(..) | Self::Retain(..) | Self::Purge(..) | Self::Beat)
    }
}

impl Recorder {
    /// Starts the thread; `writer` lives in it from now on.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(writer: RecordWriter, settings: RecorderSettings) -> io::Result<Self> {
        let (queue, messages) = sync_channel(settings.queue_messages);
        let queue_messages = settings.queue_messages as u64;
        let shared = Arc::new(Shared { queue_messages, every: AtomicU32::new(1), ..Shared::default() });
        let mut batcher = Batcher::new(writer, settings, Arc::clone(&shared));
        let thread = thread::Builder::new().name("recorder".to_owned()).spawn(move || batcher.run(&messages))?;
        Ok(Self { handle: RecorderHandle { queue, shared }, thread: Some(thread) })
    }

    /// A handle for another thread or task.
    #[must_use]
    pub fn handle(&self) -> RecorderHandle {
        self.handle.clone()
    }

    /// Commits what was queued before, ends the thread and returns what it did. Blocks for the last commit.
    #[must_use = "tells whether everything was stored"]
    pub fn stop(mut self) -> RecorderStatus {
        self.end();
        self.handle.status()
    }

    fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            // An error means that it has ended already, and a panic there was reported there.
            let _ = self.handle.queue.send(Message::Stop);
            let _ = thread.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end();
    }
}

impl RecorderHandle {
    /// Hands over one record; never blocks. What is not taken is counted in [`RecorderStatus::dropped`].
    ///
    /// # Errors
    /// [`NotQueued`], which a server may ignore: the count tells.
    pub fn record(&self, record: NewRecord) -> Result<(), NotQueued> {
        let (every, count) = (&self.shared.every, &self.shared.count);
        let turn = count.fetch_add(1, Ordering::Relaxed);
        let every = u64::from(every.load(Ordering::Relaxed));
        if every != 1 && turn.checked_rem(every) != Some(0) {
            self.shared.spared.fetch_add(1, Ordering::Relaxed);
            return Err(NotQueued::Spared);
        }
        self.offer(Message::Record(record)).inspect_err(|_| {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Hands over one label; never blocks. The outcome comes once it is durable, also for a record of the open group; a
    /// receiver that is closed without one means that the recorder ended first.
    ///
    /// # Errors
    /// [`NotQueued`]: the label must be sent again.
    pub fn label(&self, label: NewLabel) -> Result<oneshot::Receiver<LabelOutcome>, NotQueued> {
        let (reply, outcome) = oneshot::channel();
        self.offer(Message::Label(label, reply))?;
        Ok(outcome)
    }

    /// Thins and drops the oldest partitions until the rest takes what it may, as [`RecordWriter::retain`]; never blocks. From
    /// then on the same is done whenever a partition is full.
    ///
    /// # Errors
    /// [`NotQueued`]: ask again later.
    pub fn retain(&self, retention: Retention) -> Result<oneshot::Receiver<Result<Retired, StoreError>>, NotQueued> {
        let (reply, retired) = oneshot::channel();
        self.offer(Message::Retain(retention, reply))?;
        Ok(retired)
    }

    /// Deletes the records taken in `since..until`, as [`RecordWriter::purge`]; never blocks.
    ///
    /// # Errors
    /// [`NotQueued`]: ask again later.
    pub fn purge(
        &self,
        since: Timestamp,
        until: Timestamp,
    ) -> Result<oneshot::Receiver<Result<Purged, StoreError>>, NotQueued> {
        let (reply, purged) = oneshot::channel();
        self.offer(Message::Purge(since, until, reply))?;
        Ok(purged)
    }

    /// Records only every so many-th sample from now on, to spare the card; 1 is all of them, 0 none.
    pub fn record_every(&self, every: u32) {
        self.shared.every.store(every, Ordering::Relaxed);
    }

    /// Commits what was queued before and returns the status after it; blocks until then. Tells by
    /// [`RecorderStatus::held`] whether the disk refused.
    ///
    /// # Errors
    /// [`NotQueued::Stopped`].
    pub fn flush(&self) -> Result<RecorderStatus, NotQueued> {
        let (reply, status) = sync_channel(1);
        self.queue.send(Message::Flush(reply)).map_err(|_| NotQueued::Stopped)?;
        status.recv().map_err(|_| NotQueued::Stopped)
    }

    /// How many messages the thread has handled; asks it for one more turn.
    #[must_use]
    pub fn beat(&self) -> u64 {
        // A full queue holds turns enough.
        let _ = self.offer(Message::Beat);
        self.shared.turns.load(Ordering::Relaxed)
    }

    /// Whether the disk takes what it is given.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        self.shared.update(|status| status.state == RecorderState::Recording)
    }

    /// What was done so far.
    #[must_use]
    pub fn status(&self) -> RecorderStatus {
        self.shared.status()
    }

    /// Whether the queue is more than half full: whoever can wait should.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let Shared { offered, taken, queue_messages, .. } = &*self.shared;
        let taken = taken.load(Ordering::Relaxed);
        offered.load(Ordering::Relaxed).saturating_sub(taken) * 2 > *queue_messages
    }

    fn offer(&self, message: Message) -> Result<(), NotQueued> {
        let sent = self.queue.try_send(message);
        self.shared.offered.fetch_add(u64::from(sent.is_ok()), Ordering::Relaxed);
        sent.map_err(|refused| match refused {
            TrySendError::Full(_) => NotQueued::Full,
            TrySendError::Disconnected(_) => NotQueued::Stopped,
        })
    }
}

impl Shared {
    fn status(&self) -> RecorderStatus {
        let (dropped, spared) = (self.dropped.load(Ordering::Relaxed), self.spared.load(Ordering::Relaxed));
        self.update(|status| RecorderStatus { dropped, spared, ..status.clone() })
    }

    fn update<T>(&self, change: impl FnOnce(&mut RecorderStatus) -> T) -> T {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::store::FileSettings;
    use crate::shell::store::samples::{label, record};

    #[test]
    fn the_thread_stores_everything_before_it_stops_and_counts_what_the_queue_could_not_take() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, _) = RecordWriter::open(&folder.path().join("records"), FileSettings::default()).unwrap();
        let reader = writer.reader();
        let settings = RecorderSettings { queue_messages: 2, ..RecorderSettings::default() };
        let recorder = Recorder::start(writer, settings).unwrap();
        let handle = recorder.handle();
        let refused = (0..500).filter(|&number| handle.record(record(number, Timestamp(0))).is_err()).count() as u64;
        let status = handle.flush().unwrap();
        assert_eq!((status.dropped, status.recorded), (refused, 500 - refused));
        let outcome = handle.label(label(0, "lab", 1.0)).unwrap();
        assert!(handle.flush().is_ok());
        assert!(matches!(outcome.blocking_recv().unwrap(), LabelOutcome::Stored { .. }));
        let retention =
            Retention { keep_bytes: 0, free: None, age: None, every: 10, thin_share: 0.25, needed_from: i64::MAX };
        let retired = handle.retain(retention).unwrap();
        assert_eq!(retired.blocking_recv().unwrap().unwrap().partitions, 0, "the newest partition stays");
        while handle.record(record(1000, Timestamp(0))).is_err() {}
        let status = recorder.stop();
        assert_eq!(status.recorded, 501 - refused);
        assert_eq!(handle.record(record(1001, Timestamp(0))), Err(NotQueued::Stopped));
        assert_eq!(reader.counts().unwrap().records, i64::try_from(status.recorded).unwrap());
    }

    #[test]
    fn what_shows_that_it_moves_does_not_make_it_look_busy() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, _) = RecordWriter::open(&folder.path().join("records"), FileSettings::default()).unwrap();
        let settings = RecorderSettings { queue_messages: 8, ..RecorderSettings::default() };
        let recorder = Recorder::start(writer, settings).unwrap();
        let handle = recorder.handle();
        for _ in 0..100 {
            let _ = handle.beat();
            let _ = handle.flush().unwrap();
        }
        assert!(!handle.is_busy());
    }

    /// Prints rows per second through the recorder and of bare batched inserts of the same bytes, and holds the promise.
    #[test]
    #[ignore = "long: measures the record path against bare SQLite, half a minute in release; run by .ci/nightly"]
    fn the_record_path_reaches_half_of_bare_batched_inserts() {
        const ROWS: u64 = 100_000;
        let make = |number| NewRecord { features: vec![0.25; 128], ..record(number, Timestamp(0)) };
        let settings = RecorderSettings::default();
        let (mut ours, mut bare) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let rows: Vec<_> = (0..ROWS).map(make).collect();
            let (writer, _) = RecordWriter::open(&folder.path().join("records"), FileSettings::default()).unwrap();
            let recorder = Recorder::start(writer, settings).unwrap();
            let begun = std::time::Instant::now();
            for row in rows {
                recorder.handle.queue.send(Message::Record(row)).unwrap();
            }
            assert_eq!(recorder.stop().recorded, ROWS);
            ours = ours.min(begun.elapsed().as_secs_f64());

            let mut connection = rusqlite::Connection::open(folder.path().join("bare.db")).unwrap();
            connection
                .execute_batch(
                    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
                     CREATE TABLE record (seq INTEGER PRIMARY KEY, id BLOB, event_at INTEGER, arrived_at INTEGER,
                         source TEXT, model INTEGER, adaptation INTEGER, missing INTEGER, output BLOB, features BLOB)",
                )
                .unwrap();
            let sample = make(0);
            let bytes = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
            let (output, features) = (bytes(&sample.output), bytes(&sample.features));
            let begun = std::time::Instant::now();
            for group in 0..ROWS.div_ceil(settings.group_rows as u64) {
                let transaction = connection.transaction().unwrap();
                for number in (0..settings.group_rows as u64).map(|row| group * settings.group_rows as u64 + row) {
                    transaction
                        .prepare_cached("INSERT INTO record VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")
                        .unwrap()
                        .execute(rusqlite::params![
                            ulid::Ulid::from(u128::from(number)).to_bytes(),
                            0,
                            0,
                            sample.source,
                            1,
                            0,
                            0,
                            output,
                            features
                        ])
                        .unwrap();
                }
                transaction.commit().unwrap();
            }
            // Ours ends with the last connection closed, which writes the log home; so does this.
            drop(connection);
            bare = bare.min(begun.elapsed().as_secs_f64());
        }
        let rows = f64::from(u32::try_from(ROWS).unwrap());
        println!("recorder {:.0} rows/s, bare {:.0} rows/s, ratio {:.2}", rows / ours, rows / bare, bare / ours);
        assert!(bare / ours >= 0.5, "ratio {:.2}", bare / ours);
    }
}
