//! Deleting the records of a time span for good: files are written again without them, and the old ones removed.
//!
//! A `DELETE` would leave rows in free pages and in the log. What is gone here is in no file of the records any more; that a flash
//! card gives blocks back later is beyond any program. Damaged files that were set aside cannot be read: they go whole, unless they
//! were last written to before the span.
use std::fs;
use std::path::Path;

use rusqlite::{Connection, params};

use super::format::{self, Synchronous};
use super::partition::{FORMAT, remove_aside_written_since};
use super::retain::begin_copy;
use super::{RecordWriter, StoreError, labels, records};
use crate::decide::retention::partitions::Stage;
use crate::decide::time::Timestamp;
use crate::shell::files::{suffixed, sync_folder};

/// Files that are written again at once: whoever records waits meanwhile.
const REWRITES_MAX: usize = 2;

/// What a purge has deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Records.
    pub records: u64,
    /// Labels of these records.
    pub labels: u64,
    /// Files removed whole.
    pub partitions: u64,
    /// Files written again without them.
    pub rewritten: u64,
    /// Damaged files removed that were set aside and may have held some of them.
    pub damaged: u64,
    /// There is more to delete: the same once more.
    pub unfinished: bool,
}

impl RecordWriter {
    /// Deletes the records that were taken in `since..until`, with their labels. Interrupted at any moment it has deleted
    /// whole files' worth, and the same again deletes the rest.
    ///
    /// # Errors
    /// [`StoreError`] if the disk refuses; what was deleted before stays deleted.
    pub fn purge(&mut self, since: Timestamp, until: Timestamp) -> Result<Purged, StoreError> {
        let failed = |source| StoreError::io("purge", &self.folder, source);
        let damaged = remove_aside_written_since(&self.folder, since).map_err(failed)?;
        let mut purged = Purged { damaged, ..Purged::default() };
        let mut index = 0;
        while index < self.partitions.len() {
            let (doomed, all) = self.doomed(index, since, until)?;
            if doomed.records == 0 {
                index += 1;
                continue;
            }
            moment("a file is found");
            if index + 1 == self.partitions.len() {
                // The newest is written to: it becomes an older one first.
                let day = self.partitions[index].day.clone();
                self.begin_partition(day)?;
                moment("the newest is closed");
            }
            if doomed.records == all {
                self.drop_partition(index)?;
                moment("a whole file is gone");
                sync_folder(&self.folder).map_err(|source| StoreError::io("sync", &self.folder, source))?;
                purged.partitions += 1;
            } else if purged.rewritten == REWRITES_MAX as u64 {
                purged.unfinished = true;
                return Ok(purged);
            } else {
                self.rewrite_without(index, since, until)?;
                purged.rewritten += 1;
                index += 1;
            }
            purged.records += doomed.records;
            purged.labels += doomed.labels;
        }
        Ok(purged)
    }

    /// What the partition holds of the span, and how many records in all.
    fn doomed(&mut self, index: usize, since: Timestamp, until: Timestamp) -> Result<(Purged, u64), StoreError> {
        let failed = StoreError::sqlite("read", &self.partitions[index].path);
        let count = |connection: &Connection| -> rusqlite::Result<(Purged, u64)> {
            let number = |sql: &str| {
                let rows: i64 = connection.query_row(sql, params![since.0, until.0], |row| row.get(0))?;
                Ok::<_, rusqlite::Error>(u64::try_from(rows).unwrap_or(0))
            };
            let records = number("SELECT count(*) FROM record WHERE event_at >= ?1 AND event_at < ?2")?;
            if records == 0 {
                return Ok((Purged::default(), 0));
            }
            let labels =
                number("SELECT count(*) FROM label JOIN record USING (seq) WHERE event_at >= ?1 AND event_at < ?2")?;
            let all = u64::try_from(records::count(connection)?).unwrap_or(0);
            Ok((Purged { records, labels, ..Purged::default() }, all))
        };
        // The newest has a connection of its own, unless nothing was written yet.
        let newest = index + 1 == self.partitions.len();
        match self.current.as_ref().filter(|_| newest) {
            Some(connection) => count(connection).map_err(failed),
            None => count(self.older(index)?).map_err(failed),
        }
    }

    fn rewrite_without(&mut self, index: usize, since: Timestamp, until: Timestamp) -> Result<(), StoreError> {
        self.close_older();
        let old = self.partitions[index].clone();
        let new = if old.stage == Stage::Whole { old.at_stage(Stage::Thinned) } else { old.clone() };
        let unfinished = suffixed(&new.path, ".unfinished");
        if let Err(error) = copy_outside(&old.path, &unfinished, since, until) {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        moment("the rest is copied");
        let failed = |source| StoreError::io("purge", &old.path, source);
        if new.path == old.path {
            // Its log is empty since the copy: it must not be taken for that of the new file.
            old.remove_log().map_err(failed)?;
            moment("the old log is gone");
        }
        fs::rename(&unfinished, &new.path).map_err(failed)?;
        moment("the copy has its name");
        sync_folder(&self.folder).map_err(failed)?;
        self.partitions[index] = super::partition::Partition { facts: None, ids: None, ..new.clone() };
        if new.path != old.path {
            old.remove().map_err(failed)?;
            moment("the old file is gone");
            sync_folder(&self.folder).map_err(failed)?;
        }
        Ok(())
    }
}

/// Where a test may let the process die.
#[cfg(not(test))]
fn moment(_: &'static str) {}

#[cfg(test)]
use tests::moment;

fn copy_outside(from: &Path, to: &Path, since: Timestamp, until: Timestamp) -> Result<(), StoreError> {
    let failed = StoreError::sqlite("purge", to);
    {
        // Everything into the file itself, so that nothing is left in a log.
        let old = format::open(from, &FORMAT, Synchronous::Full)?;
        old.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(&failed)?;
    }
    begin_copy(from, to, |connection| {
        records::copy_outside(connection, since.0, until.0)?;
        labels::copy_of_records(connection)
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;
    use crate::shell::store::samples::{DAY_US, assert_same, copy, label, record};
    use crate::shell::store::{FileSettings, LabelOutcome};

    type Witness = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static WITNESS: RefCell<Option<Witness>> = const { RefCell::new(None) };
    }

    pub(super) fn moment(what: &'static str) {
        WITNESS.with_borrow_mut(|witness| witness.iter_mut().for_each(|witness| witness(what)));
    }

    fn open(folder: &Path) -> RecordWriter {
        RecordWriter::open(&folder.join("records"), FileSettings::default()).unwrap().0
    }

    /// Record `number` of each day at `number` seconds, every fifth labelled.
    fn days(writer: &mut RecordWriter, days: u64) {
        for day in 0..days {
            let at = |number: u64| Timestamp(i64::try_from(day).unwrap() * DAY_US + i64::try_from(number).unwrap());
            let rows: Vec<_> = (0..100).map(|number| record(day * 100 + number, at(number))).collect();
            let labels: Vec<_> = (0..100).step_by(5).map(|number| label(day * 100 + number, "lab", 1.0)).collect();
            writer.commit(&rows, &labels).unwrap();
        }
    }

    fn all(writer: &mut RecordWriter, since: i64, until: i64) -> Purged {
        let mut sum = Purged::default();
        loop {
            let part = writer.purge(Timestamp(since), Timestamp(until)).unwrap();
            sum.records += part.records;
            sum.labels += part.labels;
            sum.partitions += part.partitions;
            sum.rewritten += part.rewritten;
            sum.damaged += part.damaged;
            if !part.unfinished {
                return sum;
            }
        }
    }

    #[test]
    fn the_span_is_gone_from_every_file_the_rest_is_as_it_was_and_recording_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 4);
        let secret = record(160, Timestamp(0)).id.to_bytes();
        let held = |folder: &Path| {
            let files =
                fs::read_dir(folder.join("records")).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
            files.map(|bytes| bytes.windows(16).filter(|window| *window == secret).count()).sum::<usize>()
        };
        assert!(held(folder.path()) > 0, "or this test sees nothing");
        // Samples are taken 5 µs before they arrive: the later half of day 1, day 2, the beginning of day 3, which is being written to.
        let purged = all(&mut writer, DAY_US + 50, 3 * DAY_US + 10);
        assert_eq!((purged.records, purged.labels, purged.partitions, purged.rewritten), (160, 32, 1, 2));
        assert_eq!(held(folder.path()), 0);
        assert_eq!(all(&mut writer, DAY_US + 50, 3 * DAY_US + 10), Purged::default(), "once more there is nothing");
        let reader = writer.reader();
        assert_eq!((reader.counts().unwrap().records, reader.counts().unwrap().labels), (240, 48));
        for kept in reader.recent(1_000, None).unwrap() {
            let number = u64::try_from(kept.seq).unwrap() - 1;
            assert_same(&kept.record, &record(number, kept.record.arrived_at));
        }
        let outcomes = writer
            .commit(&[record(900, Timestamp(3 * DAY_US + 500))], &[label(160, "lab", 1.0), label(316, "lab", 1.0)])
            .unwrap();
        assert_eq!(outcomes[0], LabelOutcome::Unknown);
        assert!(matches!(outcomes[1], LabelOutcome::Stored { .. }), "{outcomes:?}");
        drop(writer);
        let writer = open(folder.path());
        let reader = writer.reader();
        assert_eq!((reader.counts().unwrap().records, reader.recent(1, None).unwrap()[0].seq), (241, 401));
    }

    #[test]
    fn a_damaged_file_that_was_set_aside_goes_with_the_span_it_may_hold() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 1);
        let newest = writer.partitions[0].path.clone();
        drop(writer);
        fs::write(&newest, b"a database no more").unwrap();
        let (mut writer, asides) = RecordWriter::open(&folder.path().join("records"), FileSettings::default()).unwrap();
        let aside = asides[0].path.clone();
        // It was written a moment ago: a span that begins after that cannot be in it.
        let (now, hour_us) = (crate::shell::clock::now().0, 3_600_000_000);
        assert_eq!(all(&mut writer, now + hour_us, now + 2 * hour_us), Purged::default());
        assert!(aside.exists());
        assert_eq!(all(&mut writer, 0, 10), Purged { damaged: 1, ..Purged::default() });
        assert!(!aside.exists());
        writer.commit(&[record(7, Timestamp(DAY_US))], &[]).unwrap();
        assert_eq!(writer.reader().counts().unwrap().records, 1);
    }

    #[test]
    fn a_file_that_was_written_again_can_be_so_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 2);
        assert_eq!(all(&mut writer, 0, 10).records, 10);
        // A late label is in the log of the file that goes next.
        assert!(matches!(writer.commit(&[], &[label(3, "lab", 1.0)]).unwrap()[0], LabelOutcome::Stored { .. }));
        assert_eq!(all(&mut writer, 20, 30).records, 10);
        let counts = writer.reader().counts().unwrap();
        assert_eq!((counts.records, counts.labels), (180, 37));
        drop(writer);
        assert_eq!(open(folder.path()).reader().counts().unwrap().labels, 37);
    }

    #[test]
    fn a_power_cut_between_the_new_file_and_the_end_of_the_old_one_leaves_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 2);
        drop(writer);
        let before = tempfile::tempdir().unwrap();
        copy(&folder.path().join("records"), &before.path().join("records"));
        let mut writer = open(folder.path());
        all(&mut writer, 0, 10);
        let new = writer.partitions[0].path.clone();
        drop(writer);
        fs::copy(&new, before.path().join("records").join(new.file_name().unwrap())).unwrap();
        let mut writer = open(before.path());
        assert_eq!(writer.reader().counts().unwrap().records, 190);
        assert_eq!(all(&mut writer, 0, 10), Purged::default());
    }

    #[test]
    fn a_process_that_dies_at_any_moment_of_a_purge_leaves_a_store_that_opens_and_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 4);
        // One file is thinned already, so that it is written again under its own name.
        assert_eq!(all(&mut writer, DAY_US, DAY_US + 5).records, 5);
        let left = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("records"), left.path().to_owned());
        let mut number = 0;
        WITNESS.set(Some(Box::new(move |what| {
            number += 1;
            let place = to.join(format!("{number:02} {what}"));
            fs::create_dir(&place).unwrap();
            copy(&from, &place.join("records"));
        })));
        // The rest of day 1, day 2 whole, and the beginning of day 3, which is being written to.
        let whole = all(&mut writer, DAY_US, 3 * DAY_US + 10);
        WITNESS.set(None);
        assert_eq!((whole.records, whole.partitions, whole.rewritten), (90 + 100 + 15, 1, 2), "{whole:?}");
        let alone = |folder: &Path| {
            let writer = open(folder);
            let found = writer.reader().recent(1_000, None).unwrap();
            found.into_iter().map(|kept| (kept.seq, kept.record.id)).collect::<BTreeSet<_>>()
        };
        drop(writer);
        let expected = alone(folder.path());
        let mut moments = BTreeSet::new();
        for entry in fs::read_dir(left.path()).unwrap() {
            let place = entry.unwrap();
            let mut writer = open(&place.path());
            let what = place.file_name().into_string().unwrap();
            let before = writer.reader().counts().unwrap().records;
            let purged = all(&mut writer, DAY_US, 3 * DAY_US + 10);
            assert_eq!(u64::try_from(before).unwrap() - purged.records, expected.len() as u64, "{what}");
            let more = writer.commit(&[record(900, Timestamp(3 * DAY_US + 500))], &[]).map(drop);
            assert!(more.is_ok(), "{what}: {more:?}");
            all(&mut writer, 3 * DAY_US + 400, 4 * DAY_US);
            drop(writer);
            assert_eq!(alone(&place.path()), expected, "{what}");
            moments.insert(what[3..].to_owned());
        }
        assert!(moments.len() >= 6, "{moments:?}");
    }

    #[test]
    fn an_empty_store_and_an_empty_span_cost_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        assert_eq!(all(&mut writer, i64::MIN, i64::MAX), Purged::default());
        days(&mut writer, 1);
        assert_eq!(all(&mut writer, 5 * DAY_US, 6 * DAY_US), Purged::default());
        assert_eq!(all(&mut writer, i64::MIN, i64::MAX).records, 100);
        assert_eq!(writer.reader().counts().unwrap().records, 0);
        writer.commit(&[record(7, Timestamp(DAY_US))], &[]).unwrap();
        assert_eq!(writer.reader().recent(9, None).unwrap()[0].seq, 101, "numbers are not used twice");
    }
}
