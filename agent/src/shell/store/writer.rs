//! The only writer of the records: groups of rows and labels into partition files, and whole files out of them.
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use trainer_core::digest::Digest;

use super::format::{self, Synchronous};
use super::labels::{self, LabelOutcome, NewLabel};
use super::late::Place;
use super::partition::{self, FORMAT, Partition};
use super::records::{self, Buffer, NewRecord};
use super::{FileSettings, RecordReader, SetAside, StoreError, set_aside_database};
use crate::shell::files::{create_private_folder, sync_folder};

/// Owns the writing connections to the records.
#[derive(Debug)]
pub struct RecordWriter {
    pub(super) folder: PathBuf,
    settings: FileSettings,
    /// Oldest first; the last one is written to by `current`.
    pub(super) partitions: Vec<Partition>,
    pub(super) current: Option<Connection>,
    /// The partition a late label went to last: late labels come in runs, and opening a file costs a checkpoint.
    pub(super) older: Option<(PathBuf, Connection)>,
    /// Numbers of the models in the current partition.
    served: HashMap<Digest, i64>,
    buffer: Buffer,
    /// Of the partitions that are begun from now on.
    page_bytes: u32,
    /// What a commit set aside, until it is asked for.
    set_aside: Option<SetAside>,
    pub(super) next_seq: i64,
    pub(super) next_ordinal: i64,
}

impl RecordWriter {
    /// Opens or creates the folder and continues after the last stored record and label. Newest partitions that cannot be
    /// read are set aside and told of; a new one continues behind all the numbers they may have used.
    ///
    /// # Errors
    /// [`StoreError::Newer`] if a newer `hone` wrote here; otherwise the disk refuses.
    pub fn open(folder: &Path, settings: FileSettings) -> Result<(Self, Vec<SetAside>), StoreError> {
        let failed = |source| StoreError::io("open", folder, source);
        create_private_folder(folder).map_err(failed)?;
        partition::remove_orphans(folder).map_err(failed)?;
        let mut writer = Self {
            folder: folder.to_owned(),
            settings,
            partitions: partition::list(folder).map_err(failed)?,
            current: None,
            older: None,
            served: HashMap::new(),
            buffer: Buffer::default(),
            page_bytes: format::PAGE_BYTES,
            set_aside: None,
            next_seq: 1,
            next_ordinal: 1,
        };
        let mut asides = Vec::new();
        writer.upgrade_older();
        if let Some(newest) = writer.partitions.last() {
            writer.next_seq = newest.first_seq;
            match writer.resume() {
                Err(damage) if damage.is_damage() => {
                    writer.replace_current(&damage)?;
                    asides.extend(writer.take_set_aside());
                }
                resumed => resumed?,
            }
        }
        Ok((writer, asides))
    }

    /// Brings partitions of an earlier `hone` to this layout, so that readers, who may not write, can read them.
    fn upgrade_older(&self) {
        for partition in &self.partitions {
            if format::is_older(&partition.path, &FORMAT)
                && let Err(error) = format::open(&partition.path, &FORMAT, Synchronous::Full)
            {
                tracing::warn!(error = %error.chain(), "a partition of an earlier hone cannot be upgraded");
            }
        }
    }

    /// Opens the newest partition and finds where to continue.
    fn resume(&mut self) -> Result<(), StoreError> {
        let newest = self.partitions.last().expect("only called with a partition");
        let failed = StoreError::sqlite("read", &newest.path);
        let connection = format::open(&newest.path, &FORMAT, self.settings.durability.into())?;
        let seqs = records::seqs(&connection).map_err(&failed)?;
        self.next_ordinal = labels::next_ordinal(&connection).map_err(&failed)?;
        match seqs {
            Some((_, last)) => self.next_seq = last + 1,
            // A power cut while it was created may have taken the promise about ordinals; the others know.
            None => self.next_ordinal = self.next_ordinal.max(self.next_ordinal_of_older()),
        }
        labels::reserve(&connection, self.next_ordinal).map_err(&failed)?;
        self.keep_log_short(&connection).map_err(&failed)?;
        self.current = Some(connection);
        Ok(())
    }

    /// A log of the usual 4 MB would outgrow the partitions of a small budget.
    fn keep_log_short(&self, connection: &Connection) -> rusqlite::Result<()> {
        /// The log, as a part of a partition; at least what a group of records takes.
        const PART: u64 = 4;
        const BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=4 << 20;
        format::keep_log_below(
            connection,
            (self.settings.partition_bytes_max / PART).clamp(*BYTES.start(), *BYTES.end()),
        )
    }

    fn next_ordinal_of_older(&self) -> i64 {
        let (_, older) = self.partitions.split_last().expect("only called with a partition");
        let ordinals = older.iter().filter_map(|partition| {
            let connection = format::open_read_only(&partition.path, &FORMAT).ok()?;
            labels::next_ordinal(&connection).ok()
        });
        ordinals.max().unwrap_or(1)
    }

    /// Sets the newest partition aside and begins another, behind all numbers that the damaged one may hold.
    fn replace_current(&mut self, damage: &StoreError) -> Result<(), StoreError> {
        self.current = None;
        let damaged = self.partitions.last().expect("only called with a partition").clone();
        let rows = damaged.rows_bound();
        self.next_seq = self.next_seq.max(damaged.first_seq) + rows;
        self.next_ordinal = self.next_ordinal.max(self.next_ordinal_of_older()) + rows;
        let aside = set_aside_database(&damaged.path, damage)?;
        self.partitions.pop();
        if let Err(error) = partition::forget_aside(&self.folder) {
            tracing::warn!(%error, "older damaged records stay");
        }
        tracing::warn!(kept = %aside.path.display(), reason = %aside.reason, "records set aside");
        // It is told also if no other can be begun.
        self.set_aside = Some(aside);
        self.begin_partition(damaged.day)
    }

    /// The partition that the last commit set aside, once.
    pub fn take_set_aside(&mut self) -> Option<SetAside> {
        self.set_aside.take()
    }

    /// Creates the partition that begins with the next record. It is synced, whatever the settings: it carries the promise
    /// that no ordinal is used twice.
    pub(super) fn begin_partition(&mut self, day: String) -> Result<(), StoreError> {
        let partition = Partition::new(&self.folder, self.next_seq, day);
        let failed = StoreError::sqlite("create", &partition.path);
        let connection = format::open_paged(&partition.path, &FORMAT, Synchronous::Full, self.page_bytes)?;
        labels::reserve(&connection, self.next_ordinal).map_err(&failed)?;
        format::set_synchronous(&connection, self.settings.durability.into()).map_err(&failed)?;
        self.keep_log_short(&connection).map_err(&failed)?;
        sync_folder(&self.folder).map_err(|source| StoreError::io("sync", &self.folder, source))?;
        // The partition before may still get late labels, and it is the likeliest to.
        let before = self.partitions.last().map(|partition| partition.path.clone());
        if let (Some(path), Some(connection)) = (before, self.current.take()) {
            format::set_synchronous(&connection, Synchronous::Full).map_err(&failed)?;
            // Its log goes home now and takes no room any more; if a reader is in the way, it goes with the connection.
            let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            self.close_older();
            self.older = Some((path, connection));
        }
        self.partitions.push(partition);
        self.current = Some(connection);
        self.served.clear();
        Ok(())
    }

    /// Whether the next group begins a new partition: the newest one is of another day than `first`, its first record, or
    /// full.
    ///
    /// # Errors
    /// The newest partition cannot be read.
    pub fn begins_with(&self, first: &NewRecord) -> Result<bool, StoreError> {
        let Some((connection, newest)) = self.current.as_ref().zip(self.partitions.last()) else { return Ok(true) };
        // An empty one is used, whatever its day: two partitions must not begin with the same number.
        if newest.first_seq == self.next_seq {
            return Ok(false);
        }
        let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
        let bytes = pragma("page_count")
            .and_then(|pages| Ok(pages * pragma("page_size")?))
            .map_err(StoreError::sqlite("read", &newest.path))?;
        let full = u64::try_from(bytes).unwrap_or(0) >= self.settings.partition_bytes_max;
        Ok(full || newest.day != partition::day(first.arrived_at))
    }

    /// Stores a group: all records in one transaction with the labels of the newest partition, then the late labels, one
    /// transaction per older partition. A label finds the records of its own group. Returns one outcome per label.
    ///
    /// # Errors
    /// Nothing of the group is stored and it may be tried again: the disk refuses, or the newest partition turned out
    /// damaged, in which case it has been set aside and the next try uses a new one.
    pub fn commit(&mut self, records: &[NewRecord], labels: &[NewLabel]) -> Result<Vec<LabelOutcome>, StoreError> {
        match self.try_commit(records, labels) {
            Err(damage) if damage.is_damage() && self.current.is_some() => {
                self.replace_current(&damage)?;
                Err(damage)
            }
            result => result,
        }
    }

    fn try_commit(&mut self, records: &[NewRecord], labels: &[NewLabel]) -> Result<Vec<LabelOutcome>, StoreError> {
        if let Some(first) = records.first()
            && self.begins_with(first)?
        {
            self.page_bytes = records::page_bytes(first);
            self.begin_partition(partition::day(first.arrived_at))?;
        }
        let mut outcomes = vec![LabelOutcome::Unknown; labels.len()];
        if self.current.is_none() {
            return Ok(outcomes);
        }
        let mut here = Vec::new();
        let mut late: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, label) in labels.iter().enumerate() {
            match self.locate(label.id, records)? {
                Place::Current => here.push(index),
                Place::Older(partition) => late.entry(partition).or_default().push(index),
                Place::Unknown => {}
                Place::Unreadable(reason) => outcomes[index] = LabelOutcome::NotStored { reason },
            }
        }
        let late_count = late.values().map(Vec::len).sum::<usize>();
        self.commit_current(records, labels, &here, late_count, &mut outcomes)?;
        for (partition, indices) in late {
            if let Err(error) = self.commit_late(partition, labels, &indices, &mut outcomes) {
                for index in indices {
                    outcomes[index] = LabelOutcome::NotStored { reason: error.chain() };
                }
            }
        }
        Ok(outcomes)
    }

    fn commit_current(
        &mut self,
        records: &[NewRecord],
        labels: &[NewLabel],
        here: &[usize],
        late: usize,
        outcomes: &mut [LabelOutcome],
    ) -> Result<(), StoreError> {
        let Some((connection, newest)) = self.current.as_ref().zip(self.partitions.last()) else {
            return Ok(());
        };
        let failed = StoreError::sqlite("write", &newest.path);
        // Labels are few and often made by hand; and once one was answered, its ordinal must not be given to another.
        let synced = !here.is_empty() || late > 0;
        if synced {
            format::set_synchronous(connection, Synchronous::Full).map_err(&failed)?;
        }
        let (mut seq, mut ordinal) = (self.next_seq, self.next_ordinal);
        let mut fresh: HashMap<Digest, i64> = HashMap::new();
        let mut write = || -> rusqlite::Result<()> {
            let transaction = connection.unchecked_transaction()?;
            for record in records {
                let known = self.served.get(&record.model).or_else(|| fresh.get(&record.model)).copied();
                let model = match known {
                    Some(number) => number,
                    None => *fresh.entry(record.model).or_insert(records::served(&transaction, &record.model)?),
                };
                seq += i64::from(records::insert(&transaction, seq, model, record, &mut self.buffer)?);
            }
            for &index in here {
                let outcome = labels::store(&transaction, ordinal, &labels[index])?;
                ordinal += i64::from(matches!(outcome, LabelOutcome::Stored { .. }));
                outcomes[index] = outcome;
            }
            if synced {
                labels::reserve(&transaction, ordinal.saturating_add(super::limit(late)))?;
            }
            transaction.commit()
        };
        let written = write().map_err(&failed);
        if synced {
            // Also after a failure; if this fails as well, the next group is synced needlessly, which is safe.
            let restored = format::set_synchronous(connection, self.settings.durability.into());
            written.and(restored.map_err(&failed))?;
        } else {
            written?;
        }
        (self.next_seq, self.next_ordinal) = (seq, ordinal);
        self.served.extend(fresh);
        Ok(())
    }

    /// Partition files, with the one that is written to.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// The number the next record gets.
    #[must_use]
    pub fn next_seq(&self) -> i64 {
        self.next_seq
    }

    /// The lowest ordinal the next label can get.
    #[must_use]
    pub fn next_ordinal(&self) -> i64 {
        self.next_ordinal
    }

    /// A reader of the same records, for any thread.
    #[must_use]
    pub fn reader(&self) -> RecordReader {
        RecordReader::open(&self.folder)
    }

    /// Makes the disk "full" for the newest partition at `pages` pages, or gives it room again.
    #[cfg(test)]
    pub(crate) fn limit_pages(&self, pages: i64) {
        let connection = self.current.as_ref().expect("a partition");
        connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    }

    /// Makes the disk "read-only" for the newest partition, or writable again.
    #[cfg(test)]
    pub(crate) fn make_read_only(&self, read_only: bool) {
        let connection = self.current.as_ref().expect("a partition");
        connection.pragma_update(None, "query_only", read_only).unwrap();
    }

    /// Overwrites the newest partition as a dying card would, behind the back of its connection.
    #[cfg(test)]
    pub(crate) fn damage_current(&mut self) {
        use std::os::unix::fs::FileExt;

        let path = &self.partitions.last().expect("a partition").path;
        let connection = self.current.as_ref().expect("a partition");
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        connection.pragma_update(None, "cache_size", 0).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        file.write_all_at(&vec![0xA5; usize::try_from(length).unwrap() - 4096], 4096).unwrap();
        connection.execute_batch("PRAGMA shrink_memory").unwrap();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;
    use crate::decide::time::Timestamp;
    use crate::shell::files::suffixed;
    use crate::shell::store::samples::{DAY_US, assert_same, copy, label, record};
    use crate::shell::store::{Record, Retention};

    fn open(folder: &Path) -> RecordWriter {
        let (writer, asides) = RecordWriter::open(&folder.join("records"), FileSettings::default()).unwrap();
        assert_eq!(asides, []);
        writer
    }

    fn on_day(number: u64, day: i64) -> NewRecord {
        record(number, Timestamp(day * DAY_US))
    }

    #[test]
    fn the_same_label_again_changes_nothing_and_another_one_keeps_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        let outcomes = writer.commit(&[on_day(1, 0)], &[label(1, "lab", 1.0), label(1, "lab", 1.0)]).unwrap();
        assert!(matches!(outcomes[0], LabelOutcome::Stored { ordinal: 1, .. }));
        assert_eq!(outcomes[1], LabelOutcome::Duplicate { ordinal: 1, seq: 1 });
        for again in [label(1, "lab", 1.0), label(1, "lab", 2.0), label(2, "lab", 1.0), label(1, "person", 2.0)] {
            writer = {
                drop(writer);
                open(folder.path())
            };
            let outcome = writer.commit(&[], std::slice::from_ref(&again)).unwrap().remove(0);
            match (again.source.as_str(), again.truth[0] > 1.5, again.id == label(1, "", 0.0).id) {
                ("lab", false, true) => assert_eq!(outcome, LabelOutcome::Duplicate { ordinal: 1, seq: 1 }),
                (_, true, true) => assert_eq!(outcome, LabelOutcome::Conflict { seq: 1, kept: vec![1.0] }),
                (_, _, false) => assert_eq!(outcome, LabelOutcome::Unknown),
                (source, false, true) => panic!("{source} said the same: {outcome:?}"),
            }
        }
        assert_eq!(writer.reader().counts().unwrap().labels, 1, "one record, one training row");
    }

    #[test]
    fn a_day_and_a_size_begin_partitions_and_a_clock_set_back_begins_a_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let settings = FileSettings { partition_bytes_max: 60_000, ..FileSettings::default() };
        let (mut writer, _) = RecordWriter::open(&folder.path().join("records"), settings).unwrap();
        let wide = |number, day| NewRecord { features: vec![1.0; 20_000], ..on_day(number, day) };
        for row in [on_day(1, 20_000), on_day(2, 20_000), on_day(3, 0), wide(4, 0), on_day(5, 0)] {
            writer.commit(&[row], &[]).unwrap();
        }
        let names: Vec<_> =
            writer.partitions.iter().map(|partition| (partition.first_seq, partition.day.as_str())).collect();
        assert_eq!(names, [(1, "2024-10-04"), (3, "1970-01-01"), (5, "1970-01-01")]);
        let seqs: Vec<_> = writer.reader().recent(10, None).unwrap().iter().map(|found| found.seq).collect();
        assert_eq!(seqs, [5, 4, 3, 2, 1]);
    }

    #[test]
    fn late_labels_go_to_the_partition_of_their_record_and_ordinals_go_on_after_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        (0..4).for_each(|day| drop(writer.commit(&[on_day(day, i64::try_from(day).unwrap())], &[]).unwrap()));
        let outcomes = writer.commit(&[], &[label(3, "lab", 1.0), label(0, "lab", 1.0), label(1, "lab", 1.0)]).unwrap();
        let ordinals: Vec<_> = outcomes
            .iter()
            .map(|outcome| match outcome {
                LabelOutcome::Stored { ordinal, .. } => *ordinal,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ordinals, [1, 2, 3]);
        let every =
            Retention { keep_bytes: 0, free: None, age: None, every: 1, thin_share: 0.0, needed_from: i64::MAX };
        let retired = writer.retain(&every).unwrap();
        assert_eq!((retired.partitions, retired.first_seq), (3, 4));
        assert_eq!(fs::read_dir(folder.path().join("records")).unwrap().count(), 3, "one database, its log and index");
        drop(writer);
        let mut writer = open(folder.path());
        assert_eq!(writer.commit(&[], &[label(0, "lab", 1.0)]).unwrap(), [LabelOutcome::Unknown]);
        let again = writer.commit(&[on_day(9, 9)], &[label(9, "lab", 1.0)]).unwrap().remove(0);
        assert!(matches!(again, LabelOutcome::Stored { ordinal: 4.., .. }), "{again:?}");
    }

    #[test]
    fn an_id_that_is_stored_already_keeps_its_first_record_and_uses_no_number() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        let other = NewRecord { source: "other".to_owned(), ..on_day(1, 0) };
        writer.commit(&[on_day(1, 0), other, on_day(2, 0)], &[]).unwrap();
        assert_eq!(writer.next_seq(), 3);
        assert_same(&writer.reader().find(on_day(1, 0).id).unwrap().unwrap().record, &on_day(1, 0));
    }

    #[test]
    fn a_newest_partition_that_cannot_be_read_is_set_aside_and_its_numbers_are_not_used_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        writer.commit(&[on_day(1, 0)], &[label(1, "lab", 1.0)]).unwrap();
        writer.commit(&[on_day(2, 1)], &[label(2, "lab", 1.0), label(1, "person", 1.0)]).unwrap();
        let path = writer.partitions[1].path.clone();
        drop(writer);
        fs::write(&path, "no database ".repeat(1000)).unwrap();
        let (mut writer, asides) = RecordWriter::open(&folder.path().join("records"), FileSettings::default()).unwrap();
        assert_eq!(asides.len(), 1);
        assert!(asides[0].path.exists() && asides[0].reason.contains("not a database"), "{asides:?}");
        assert!(writer.next_seq() > 2 && writer.next_ordinal() > 3);
        let outcome = writer.commit(&[on_day(3, 1)], &[label(3, "lab", 1.0)]).unwrap().remove(0);
        assert!(matches!(outcome, LabelOutcome::Stored { ordinal: 4.., .. }));
        assert_eq!(writer.reader().counts().unwrap().records, 2);
    }

    #[test]
    fn a_card_that_damages_one_partition_after_another_is_not_filled_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("records");
        let mut told = Vec::new();
        for day in 0..7 {
            let (mut writer, asides) = RecordWriter::open(&records, FileSettings::default()).unwrap();
            told.extend(asides);
            writer.commit(&[on_day(day, i64::try_from(day).unwrap())], &[]).unwrap();
            let path = writer.partitions.last().unwrap().path.clone();
            drop(writer);
            fs::write(&path, "no database ".repeat(1000)).unwrap();
        }
        assert_eq!(told.len(), 6, "each was told of");
        let kept: Vec<_> = told.iter().map(|aside| aside.path.exists()).collect();
        assert_eq!(kept, [false, false, true, true, true, true], "the newest are kept for whoever wants to look");
    }

    #[test]
    fn an_older_partition_that_cannot_be_read_costs_its_rows_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        (0..3).for_each(|day| drop(writer.commit(&[on_day(day, i64::try_from(day).unwrap())], &[]).unwrap()));
        let path = writer.partitions[1].path.clone();
        drop(writer);
        fs::write(&path, "no database ".repeat(1000)).unwrap();
        let mut writer = open(folder.path());
        let outcomes = writer.commit(&[], &[label(1, "lab", 1.0), label(0, "lab", 1.0)]).unwrap();
        assert_eq!(outcomes[0], LabelOutcome::Unknown);
        assert!(matches!(outcomes[1], LabelOutcome::Stored { .. }));
        assert_eq!(writer.reader().recent(10, None).unwrap().len(), 2);
    }

    #[test]
    fn a_full_disk_loses_nothing_that_was_stored_and_the_same_group_is_stored_once_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        writer.commit(&[on_day(1, 0)], &[]).unwrap();
        writer.limit_pages(1);
        let group: Vec<_> =
            (2..200).map(|number| NewRecord { features: vec![0.5; 128], ..on_day(number, 0) }).collect();
        let refused = writer.commit(&group, &[label(5, "lab", 1.0)]).unwrap_err();
        assert!(refused.is_disk() && refused.exit_code() == 7, "{}", refused.chain());
        assert_eq!((writer.next_seq(), writer.next_ordinal(), writer.reader().counts().unwrap().records), (2, 1, 1));
        writer.limit_pages(100_000);
        writer.commit(&group, &[label(5, "lab", 1.0)]).unwrap();
        drop(writer);
        let writer = open(folder.path());
        assert_eq!((writer.next_seq(), writer.next_ordinal()), (200, 2));
    }

    /// One group: records of a day, labels by how many records back, whether the agent starts again before it.
    type GroupPlan = (u64, i64, Vec<(u64, bool)>, bool);

    fn plan() -> impl Strategy<Value = Vec<GroupPlan>> {
        let labels = proptest::collection::vec((0_u64..15, any::<bool>()), 0..5);
        proptest::collection::vec((0_u64..5, 0_i64..3, labels, proptest::bool::weighted(0.2)), 1..16)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_is_stored_is_what_a_plain_list_would_hold(plan in plan()) {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = open(folder.path());
            let mut records: Vec<NewRecord> = Vec::new();
            // Labelled so far: number of the record and truth, in the order of their ordinals.
            let mut labelled: Vec<(i64, u64, f32)> = Vec::new();
            for (rows, day, labels, restart) in plan {
                if restart {
                    drop(writer);
                    writer = open(folder.path());
                }
                let group: Vec<_> = (0..rows).map(|row| on_day(records.len() as u64 + row, day)).collect();
                records.extend(group.iter().cloned());
                let labels: Vec<_> = labels
                    .into_iter()
                    .map(|(back, truth)| label((records.len() as u64).wrapping_sub(back), "lab", f32::from(u8::from(truth))))
                    .collect();
                let outcomes = writer.commit(&group, &labels).unwrap();
                for (label, outcome) in labels.iter().zip(outcomes) {
                    let number = records.iter().position(|record| record.id == label.id).map(|number| number as u64);
                    let before = labelled.iter().find(|before| Some(before.1) == number);
                    match (number, before) {
                        (None, _) => prop_assert_eq!(outcome, LabelOutcome::Unknown),
                        (Some(number), Some(before)) => {
                            let seq = i64::try_from(number).unwrap() + 1;
                            prop_assert_eq!(outcome, if before.2.to_bits() == label.truth[0].to_bits() {
                                LabelOutcome::Duplicate { ordinal: before.0, seq }
                            } else {
                                LabelOutcome::Conflict { seq, kept: vec![before.2] }
                            });
                        }
                        (Some(number), None) => {
                            let LabelOutcome::Stored { ordinal, record } = outcome else { panic!("{outcome:?}") };
                            prop_assert!(labelled.iter().all(|before| before.0 != ordinal));
                            assert_same(&record.record, &records[usize::try_from(number).unwrap()]);
                            labelled.push((ordinal, number, label.truth[0]));
                        }
                    }
                }
            }
            labelled.sort_by_key(|row| row.0);
            let reader = writer.reader();
            let found = reader.recent(1000, None).unwrap();
            prop_assert_eq!(found.len(), records.len());
            for (number, Record { seq, record }) in found.iter().rev().enumerate() {
                prop_assert_eq!(*seq, i64::try_from(number).unwrap() + 1);
                assert_same(record, &records[number]);
            }
            let rows = reader.labelled_since(0, 1000).unwrap();
            let expected: Vec<_> = labelled.iter().map(|row| (row.0, i64::try_from(row.1).unwrap() + 1, vec![row.2])).collect();
            prop_assert_eq!(rows.iter().map(|row| (row.ordinal, row.seq, row.truth.clone())).collect::<Vec<_>>(), expected);
        }

        /// Where a power cut tears the log, whole groups before the tear stay and nothing is corrupt.
        #[test]
        fn a_log_torn_anywhere_leaves_a_prefix_of_whole_groups(tear in 0.0_f64..1.0, groups in 1_u64..6) {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = open(folder.path());
            for group in 0..groups {
                let rows: Vec<_> = (0..7).map(|row| on_day(group * 7 + row, 0)).collect();
                writer.commit(&rows, &[]).unwrap();
            }
            let after = tempfile::tempdir().unwrap();
            copy(&folder.path().join("records"), &after.path().join("records"));
            let log = suffixed(&after.path().join("records/0000000000000001-1970-01-01.db"), "-wal");
            let length = fs::metadata(&log).unwrap().len();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "any place will do")]
            let torn = (length as f64 * tear) as u64;
            fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(torn).unwrap();
            let writer = open(after.path());
            let found = writer.reader().recent(1000, None).unwrap();
            prop_assert_eq!(found.len() % 7, 0);
            for (number, found) in found.iter().rev().enumerate() {
                assert_same(&found.record, &on_day(number as u64, 0));
            }
            prop_assert_eq!(writer.next_seq(), i64::try_from(found.len()).unwrap() + 1);
        }
    }

    #[test]
    fn partitions_of_the_first_layout_are_upgraded_at_the_start_and_keep_their_rows() {
        const FIRST: format::Format = format::Format { steps: &[include_str!("migrations/records_1.sql")], ..FORMAT };
        let folder = tempfile::tempdir().unwrap();
        for (first, day) in [(1, "2026-11-20"), (5, "2026-11-21")] {
            let partition = Partition::new(folder.path(), first, day.to_owned());
            let connection = format::open(&partition.path, &FIRST, Synchronous::Full).unwrap();
            let model = records::served(&connection, &Digest::of(b"m")).unwrap();
            connection
                .execute(
                    "INSERT INTO record (seq, id, event_at, arrived_at, source, model, adaptation, missing, output, features) \
                     VALUES (?1, ?2, 7, 8, 'old', ?3, 0, 0, x'0000803f', x'00000040')",
                    rusqlite::params![first, ulid::Ulid::from(u128::try_from(first).unwrap()).to_bytes(), model],
                )
                .unwrap();
        }
        let (mut writer, asides) = RecordWriter::open(folder.path(), FileSettings::default()).unwrap();
        assert!(asides.is_empty());
        let found = writer.reader().recent(10, None).unwrap();
        assert_eq!(
            found.iter().map(|record| (record.seq, record.record.segment.clone())).collect::<Vec<_>>(),
            [(5, None), (1, None)]
        );
        writer.commit(&[on_day(8, 0)], &[]).unwrap();
        assert_eq!(writer.reader().recent(1, None).unwrap()[0].record.segment.as_deref(), Some("line-0"));
    }
}
