//! Groups what the recorder is told, and deals with a disk that refuses: messages in, commits out, no thread, no clock.
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Message, RecorderSettings, RecorderState, Shared};
use crate::decide::time::Timestamp;
use crate::shell::store::{LabelOutcome, NewLabel, NewRecord, RecordWriter, Retention, Retired, StoreError};

/// When the open group must be closed, told by arrival times alone: the wall clock is not read, and a jump of it, either
/// way, closes the group early instead of never.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    opened: Timestamp,
    close: Timestamp,
    latest: Timestamp,
}

impl Deadline {
    fn new(now: Timestamp, wait_ms: u32) -> Self {
        Self { opened: now, close: after(now, wait_ms), latest: now }
    }

    /// Notes an arrival and returns whether the group must be closed now.
    fn note(&mut self, now: Timestamp) -> bool {
        self.latest = now;
        now < self.opened || now >= self.close
    }

    /// What is left to wait after the latest arrival.
    fn wait(&self) -> Duration {
        Duration::from_micros(u64::try_from(self.close.0.saturating_sub(self.latest.0)).unwrap_or(0))
    }
}

fn after(at: Timestamp, wait_ms: u32) -> Timestamp {
    Timestamp(at.0.saturating_add(i64::from(wait_ms) * 1000))
}

/// The recorder without its thread: messages in, commits out.
#[derive(Debug)]
pub(super) struct Batcher {
    writer: RecordWriter,
    settings: RecorderSettings,
    pub(super) shared: Arc<Shared>,
    records: VecDeque<NewRecord>,
    labels: Vec<NewLabel>,
    replies: Vec<oneshot::Sender<LabelOutcome>>,
    deadline: Option<Deadline>,
    /// Why the disk refused the last time; while set, `records` are held and the deadline is that of the next try.
    refused: Option<String>,
    /// What may be kept, once it was said.
    retention: Option<Retention>,
}

impl Batcher {
    pub(super) fn new(writer: RecordWriter, settings: RecorderSettings, shared: Arc<Shared>) -> Self {
        Self {
            writer,
            settings,
            shared,
            records: VecDeque::new(),
            labels: Vec::new(),
            replies: Vec::new(),
            deadline: None,
            refused: None,
            retention: None,
        }
    }

    pub(super) fn run(&mut self, messages: &Receiver<Message>) {
        loop {
            // A waiting message costs no timer.
            let next = messages.try_recv().or_else(|_| match &self.deadline {
                None => messages.recv().map_err(RecvTimeoutError::from),
                Some(deadline) => messages.recv_timeout(deadline.wait()),
            });
            match next {
                Ok(message) => {
                    self.shared.taken.fetch_add(u64::from(message.is_counted()), Ordering::Relaxed);
                    if self.handle(message).is_break() {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.close(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.close();
        self.give_up(0);
    }

    pub(super) fn handle(&mut self, message: Message) -> ControlFlow<()> {
        self.shared.turns.fetch_add(1, Ordering::Relaxed);
        match message {
            Message::Beat => {}
            Message::Record(record) => {
                let at = record.arrived_at;
                self.records.push_back(record);
                self.grown(at, self.settings.group_ms);
            }
            Message::Label(label, reply) => {
                if let Some(reason) = &self.refused {
                    // Whoever sent it may still have gone away; a closed reply is not our concern, here and below.
                    let _ = reply.send(LabelOutcome::NotStored { reason: reason.clone() });
                } else {
                    let at = label.at;
                    self.labels.push(label);
                    self.replies.push(reply);
                    self.grown(at, self.settings.label_wait_ms);
                }
            }
            Message::Flush(reply) => {
                self.close();
                let _ = reply.send(self.shared.status());
            }
            Message::Retain(retention, reply) => {
                self.retention = Some(retention);
                let _ = reply.send(self.retain(&retention));
                // There may be room now.
                if self.refused.is_some() {
                    self.close();
                }
            }
            Message::Purge(since, until, reply) => {
                self.close();
                let held = self.refused.is_some();
                let purged = if held {
                    let waits = std::io::Error::other("records that the disk has refused wait in memory");
                    Err(StoreError::io("purge", std::path::Path::new("records"), waits))
                } else {
                    self.writer.purge(since, until)
                };
                let _ = reply.send(purged);
            }
            Message::Stop => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// After a message of `at`: closes the group if it is full or old enough, else waits at most `wait_ms` more.
    fn grown(&mut self, at: Timestamp, wait_ms: u32) {
        let deadline = self.deadline.get_or_insert(Deadline::new(at, wait_ms));
        if self.refused.is_none() {
            deadline.close = deadline.close.min(after(at, wait_ms));
        }
        let due = deadline.note(at);
        let full = self.records.len() + self.labels.len() >= self.settings.group_rows;
        if due || (full && self.refused.is_none()) {
            self.close();
        } else {
            self.give_up(self.settings.held_rows.max(self.settings.group_rows));
        }
    }

    /// Commits the open group, or what is held.
    pub(super) fn close(&mut self) {
        let latest = self.deadline.take().map(|deadline| deadline.latest);
        if self.records.is_empty() && self.labels.is_empty() {
            return;
        }
        let first_seq = self.writer.next_seq();
        self.make_room();
        let recorded_bytes: u64 = self.records.iter().map(NewRecord::bytes).sum();
        let mut result = self.writer.commit(self.records.make_contiguous(), &self.labels);
        if let Some(aside) = self.writer.take_set_aside() {
            self.shared.update(|status| {
                status.set_aside += 1;
                status.last_set_aside = Some(aside);
            });
        }
        if result.as_ref().is_err_and(StoreError::is_damage) {
            // The damaged partition has been set aside; the group goes into a new one.
            result = self.writer.commit(self.records.make_contiguous(), &self.labels);
        }
        self.labels.clear();
        match result {
            Ok(outcomes) => {
                self.refused = None;
                let records = self.records.len() as u64;
                let stored = u64::try_from(self.writer.next_seq() - first_seq).unwrap_or(0).min(records);
                let labels = outcomes.iter().filter(|outcome| matches!(outcome, LabelOutcome::Stored { .. })).count();
                self.records.clear();
                self.shared.update(|status| {
                    status.state = RecorderState::Recording;
                    status.recorded += stored;
                    status.recorded_bytes += recorded_bytes;
                    status.repeated += records - stored;
                    status.labelled += labels as u64;
                    status.groups += 1;
                    status.held = 0;
                });
                for (reply, outcome) in self.replies.drain(..).zip(outcomes) {
                    let _ = reply.send(outcome);
                }
            }
            Err(error) => {
                let reason = error.chain();
                for reply in self.replies.drain(..) {
                    let _ = reply.send(LabelOutcome::NotStored { reason: reason.clone() });
                }
                if let Some(latest) = latest.filter(|_| !self.records.is_empty()) {
                    self.deadline = Some(Deadline::new(latest, self.settings.retry_ms));
                    self.refused = Some(reason.clone());
                }
                self.shared.update(|status| status.state = RecorderState::Degraded { reason });
                self.give_up(self.settings.held_rows.max(self.settings.group_rows));
            }
        }
    }

    fn retain(&mut self, retention: &Retention) -> Result<Retired, StoreError> {
        let retired = self.writer.retain(retention)?;
        self.shared.update(|status| {
            status.partitions_dropped += retired.partitions as u64;
            status.partitions_thinned += retired.thinned as u64;
            status.bytes_over = retired.bytes_over;
        });
        Ok(retired)
    }

    /// The open group begins a partition: room is made before it does, however fast records come, so that the records never
    /// take more than they may.
    fn make_room(&mut self) {
        let Some((retention, first)) = self.retention.zip(self.records.front()) else { return };
        // If that cannot be told, storing the group says why.
        if self.writer.begins_with(first).unwrap_or(false)
            && let Err(error) = self.retain(&retention)
        {
            tracing::warn!(error = %error.chain(), "old records stay");
        }
    }

    /// Gives up the oldest records beyond `keep`, and tells how many are held.
    fn give_up(&mut self, keep: usize) {
        if self.refused.is_none() {
            return;
        }
        let excess = self.records.len().saturating_sub(keep);
        self.records.drain(..excess);
        self.shared.update(|status| {
            status.unrecorded += excess as u64;
            status.held = self.records.len() as u64;
        });
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::shell::store::samples::{DAY_US, assert_same, copy, label, record};
    use crate::shell::store::{FileSettings, RecordReader};

    const SETTINGS: RecorderSettings = RecorderSettings {
        group_rows: 4,
        group_ms: 1000,
        label_wait_ms: 20,
        queue_messages: 64,
        held_rows: 8,
        retry_ms: 5000,
    };

    fn batcher(folder: &Path, settings: RecorderSettings) -> Batcher {
        let (writer, _) = RecordWriter::open(&folder.join("records"), FileSettings::default()).unwrap();
        Batcher::new(writer, settings, Arc::default())
    }

    fn at(milliseconds: i64) -> Timestamp {
        Timestamp(milliseconds * 1000)
    }

    fn feed(batcher: &mut Batcher, number: u64, now: Timestamp) {
        assert!(batcher.handle(Message::Record(record(number, now))).is_continue());
    }

    fn feed_label(batcher: &mut Batcher, number: u64, now: Timestamp) -> oneshot::Receiver<LabelOutcome> {
        let (reply, outcome) = oneshot::channel();
        assert!(batcher.handle(Message::Label(NewLabel { at: now, ..label(number, "lab", 1.0) }, reply)).is_continue());
        outcome
    }

    fn stored(folder: &Path) -> usize {
        RecordReader::open(&folder.join("records")).recent(1000, None).unwrap().len()
    }

    #[test]
    fn a_group_is_committed_when_it_is_full_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let mut batcher = batcher(folder.path(), SETTINGS);
        (0..3).for_each(|number| feed(&mut batcher, number, at(0)));
        assert_eq!(stored(folder.path()), 0);
        feed(&mut batcher, 3, at(0));
        assert_eq!((stored(folder.path()), batcher.deadline.is_none()), (4, true));
    }

    #[test]
    fn a_trickle_is_committed_one_interval_after_its_first_record_and_not_after_its_last() {
        let folder = tempfile::tempdir().unwrap();
        let mut batcher = batcher(folder.path(), SETTINGS);
        feed(&mut batcher, 0, at(0));
        feed(&mut batcher, 1, at(700));
        assert_eq!(batcher.deadline.unwrap().wait(), Duration::from_millis(300));
        feed(&mut batcher, 2, at(1000));
        assert_eq!(stored(folder.path()), 3);
    }

    #[test]
    fn a_clock_that_jumps_either_way_closes_the_group_instead_of_waiting_for_ever() {
        for jump in [-DAY_US * 20_000, DAY_US * 20_000] {
            let folder = tempfile::tempdir().unwrap();
            let mut batcher = batcher(folder.path(), SETTINGS);
            feed(&mut batcher, 0, at(0));
            feed(&mut batcher, 1, Timestamp(jump));
            assert_eq!(stored(folder.path()), 2);
        }
    }

    #[test]
    fn a_label_shortens_the_wait_and_finds_a_record_of_the_open_group() {
        let folder = tempfile::tempdir().unwrap();
        let mut batcher = batcher(folder.path(), SETTINGS);
        feed(&mut batcher, 7, at(0));
        let mut outcome = feed_label(&mut batcher, 7, at(100));
        assert_eq!(batcher.deadline.unwrap().wait(), Duration::from_millis(20));
        assert!(outcome.try_recv().is_err(), "not answered before it is stored");
        batcher.close();
        let LabelOutcome::Stored { ordinal: 1, record: found } = outcome.try_recv().unwrap() else {
            panic!("not stored")
        };
        assert_eq!(found.seq, 1);
        assert_same(&found.record, &record(7, at(0)));
    }

    #[test]
    fn a_full_disk_holds_records_gives_up_the_oldest_and_goes_on_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut batcher = batcher(folder.path(), SETTINGS);
        (0..4).for_each(|number| feed(&mut batcher, number, at(0)));
        batcher.writer.limit_pages(1);
        // Twenty rows of some 30 kB do not fit into what is left of the file; eight are held, twelve given up.
        let wide = |number| NewRecord { features: vec![0.5; 8000], ..record(number, at(10)) };
        for number in 4..24 {
            assert!(batcher.handle(Message::Record(wide(number))).is_continue());
        }
        let status = batcher.shared.status();
        assert!(matches!(&status.state, RecorderState::Degraded { reason } if reason.contains("full")), "{status:?}");
        assert_eq!((status.recorded, status.held, status.unrecorded), (4, 8, 12));
        assert_eq!(stored(folder.path()), 4, "what was stored stays");
        let mut refused = feed_label(&mut batcher, 1, at(20));
        assert!(matches!(refused.try_recv().unwrap(), LabelOutcome::NotStored { .. }));
        batcher.writer.limit_pages(100_000);
        feed(&mut batcher, 24, at(4000));
        assert_eq!(stored(folder.path()), 4, "not asked again before its time");
        feed(&mut batcher, 25, at(5010));
        let status = batcher.shared.status();
        assert_eq!(
            (status.state, status.recorded, status.held, status.unrecorded),
            (RecorderState::Recording, 13, 0, 13)
        );
        let numbers: Vec<_> =
            batcher.writer.reader().recent(100, None).unwrap().iter().map(|found| found.seq).collect();
        assert_eq!(numbers, (1..=13).rev().collect::<Vec<_>>());
        let newest: Vec<_> = batcher.writer.reader().recent(9, None).unwrap();
        let kept: Vec<_> = newest.iter().map(|found| found.record.id).collect();
        let expected: Vec<_> = (17..=25).rev().map(|number| record(number, at(0)).id).collect();
        assert_eq!(kept, expected, "the oldest were given up");
        let mut outcome = feed_label(&mut batcher, 1, at(6000));
        batcher.close();
        assert!(matches!(outcome.try_recv().unwrap(), LabelOutcome::Stored { .. }));
    }

    #[test]
    fn a_label_in_the_very_group_that_the_disk_refuses_is_told_so_that_it_is_sent_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut batcher = batcher(folder.path(), SETTINGS);
        (0..4).for_each(|number| feed(&mut batcher, number, at(0)));
        batcher.writer.limit_pages(1);
        for number in 4..7 {
            let wide = NewRecord { features: vec![0.5; 8000], ..record(number, at(10)) };
            assert!(batcher.handle(Message::Record(wide)).is_continue());
        }
        let mut outcome = feed_label(&mut batcher, 1, at(10));
        assert!(
            matches!(outcome.try_recv().unwrap(), LabelOutcome::NotStored { reason } if reason.contains("full")),
            "not that its record is unknown"
        );
    }

    #[test]
    fn a_disk_that_became_read_only_is_tried_again_and_what_was_held_is_stored_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut batcher = batcher(folder.path(), SETTINGS);
        (0..4).for_each(|number| feed(&mut batcher, number, at(0)));
        batcher.writer.make_read_only(true);
        (4..10).for_each(|number| feed(&mut batcher, number, at(10)));
        let status = batcher.shared.status();
        assert!(
            matches!(&status.state, RecorderState::Degraded { reason } if reason.contains("readonly")),
            "{status:?}"
        );
        assert_eq!((status.recorded, status.held, status.unrecorded), (4, 6, 0));
        let mut refused = feed_label(&mut batcher, 1, at(20));
        assert!(matches!(refused.try_recv().unwrap(), LabelOutcome::NotStored { .. }));
        batcher.writer.make_read_only(false);
        feed(&mut batcher, 10, at(5010));
        let status = batcher.shared.status();
        assert_eq!((status.state, status.recorded, status.held), (RecorderState::Recording, 11, 0));
        let found = batcher.writer.reader().recent(100, None).unwrap();
        for (number, found) in found.iter().rev().enumerate() {
            assert_eq!(
                (found.seq, found.record.id),
                (i64::try_from(number).unwrap() + 1, record(number as u64, at(0)).id)
            );
        }
    }

    #[test]
    fn a_partition_damaged_while_running_is_set_aside_and_the_group_goes_into_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut batcher = batcher(folder.path(), SETTINGS);
        (0..4).for_each(|number| feed(&mut batcher, number, at(0)));
        batcher.writer.damage_current();
        (4..8).for_each(|number| feed(&mut batcher, number, at(0)));
        let status = batcher.shared.status();
        assert_eq!((status.recorded, status.set_aside, status.state), (8, 1, RecorderState::Recording));
        let aside = status.last_set_aside.unwrap();
        assert!(aside.path.exists() && aside.path.to_string_lossy().ends_with(".damaged-1"), "{aside:?}");
        assert!(aside.reason.contains("malformed"), "{aside:?}");
        let found = batcher.writer.reader().recent(10, None).unwrap();
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|found| found.seq > 4), "numbers of damaged rows are not used again");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Record { wait_ms: i64 },
        Label { back: u64 },
        Idle,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_i64..600).prop_map(|wait_ms| Step::Record { wait_ms }),
            2 => (0_u64..12).prop_map(|back| Step::Label { back }),
            1 => Just(Step::Idle),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// The files are copied while the recorder runs, which is what a killed process leaves behind.
        #[test]
        fn a_kill_loses_at_most_the_open_group_and_what_is_left_reads_back_bit_by_bit(steps in steps()) {
            let folder = tempfile::tempdir().unwrap();
            let mut batcher = batcher(folder.path(), SETTINGS);
            let (mut now, mut count) = (at(0), 0);
            let mut answers = Vec::new();
            for step in steps {
                match step {
                    Step::Record { wait_ms } => {
                        now = Timestamp(now.0 + wait_ms * 1000);
                        feed(&mut batcher, count, now);
                        count += 1;
                    }
                    Step::Label { back } => answers.push(feed_label(&mut batcher, count.saturating_sub(back), now)),
                    Step::Idle => batcher.close(),
                }
            }
            let open = batcher.records.len() as u64;
            prop_assert!(open < SETTINGS.group_rows as u64);
            let after = tempfile::tempdir().unwrap();
            copy(&folder.path().join("records"), &after.path().join("records"));
            let (mut writer, asides) = RecordWriter::open(&after.path().join("records"), FileSettings::default()).unwrap();
            prop_assert!(asides.is_empty());
            let found = writer.reader().recent(1000, None).unwrap();
            prop_assert_eq!(found.len() as u64, count - open);
            for (number, found) in found.iter().rev().enumerate() {
                prop_assert_eq!(found.seq, i64::try_from(number).unwrap() + 1);
                assert_same(&found.record, &record(number as u64, found.record.arrived_at));
            }
            // Each label that was answered is there, once, and no new one takes its ordinal.
            let stored: Vec<_> = answers.iter_mut().filter_map(|answer| answer.try_recv().ok()).filter_map(|outcome| match outcome {
                LabelOutcome::Stored { ordinal, .. } => Some(ordinal),
                _ => None,
            }).collect();
            let kept: Vec<_> = writer.reader().labelled_since(0, 1000).unwrap().iter().map(|row| row.ordinal).collect();
            prop_assert_eq!(&kept, &stored);
            let next = writer.next_ordinal();
            prop_assert!(stored.iter().all(|ordinal| *ordinal < next));
            prop_assert_eq!(writer.next_seq(), i64::try_from(count - open).unwrap() + 1);
            writer.commit(&[record(5000, now)], &[]).unwrap();
            prop_assert!(writer.reader().find(record(5000, now).id).unwrap().is_some());
        }
    }
}
