//! Reads records and labelled rows from any thread, without ever waiting for the recorder.
//!
//! Each question opens the partitions it needs and closes them again: a gateway may hold a hundred of them, and fifteen
//! megabytes for everything. Partitions that vanish meanwhile were retired, those that cannot be read are skipped with
//! a warning: the rest is worth training on.
mod told;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use ulid::Ulid;

use super::StoreError;
use super::format;
use super::labels::{self, LabelledRow};
use super::partition::{self, FORMAT, Partition, Stamp};
use super::records::{self, Record};
use crate::decide::plan;
use crate::decide::retention::partitions::Stage;
pub use told::ToldRow;

/// Answers questions about the stored records; what the recorder has not committed yet is not seen.
#[derive(Clone, Debug)]
pub struct RecordReader {
    folder: PathBuf,
    /// What was counted in partitions that nobody has written to since.
    counted: Arc<Mutex<HashMap<PathBuf, Counted>>>,
}

/// When a partition was counted, and its records and labels.
type Counted = (Stamp, (i64, i64));

/// How much is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordCounts {
    /// Stored records.
    pub records: i64,
    /// Stored labels.
    pub labels: i64,
    /// Partition files.
    pub partitions: usize,
    /// Bytes on disk, with logs.
    pub bytes: u64,
}

impl RecordReader {
    /// A reader of the partitions in `folder`; needs no lock and may be used without a running agent.
    #[must_use]
    pub fn open(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), counted: Arc::default() }
    }

    /// The record of that id.
    ///
    /// # Errors
    /// The disk refuses, or a newer `hone` wrote here.
    pub fn find(&self, id: Ulid) -> Result<Option<Record>, StoreError> {
        for partition in self.partitions()?.iter().rev() {
            if let Some(record) = visit(partition, |connection| records::by_id(connection, id))?.flatten() {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// At most `limit` records with a number below `before_seq` (none for the newest), newest first.
    ///
    /// # Errors
    /// As [`RecordReader::find`].
    pub fn recent(&self, limit: usize, before_seq: Option<i64>) -> Result<Vec<Record>, StoreError> {
        let before = before_seq.unwrap_or(i64::MAX);
        let mut found = Vec::new();
        for partition in self.partitions()?.iter().rev().filter(|partition| partition.first_seq < before) {
            if found.len() == limit {
                break;
            }
            let wanted = limit - found.len();
            found.extend(
                visit(partition, |connection| records::recent(connection, wanted, before))?.unwrap_or_default(),
            );
        }
        Ok(found)
    }

    /// At most `limit` labelled rows with an ordinal above `ordinal`, in the order the labels came.
    ///
    /// # Errors
    /// As [`RecordReader::find`].
    pub fn labelled_since(&self, ordinal: i64, limit: usize) -> Result<Vec<LabelledRow>, StoreError> {
        let partitions = self.partitions()?;
        let mut places = places(&partitions, |connection| labels::ordinals_after(connection, ordinal, limit))?;
        places.truncate(limit);
        fetch(&partitions, &places)
    }

    /// The `count` rows labelled last, in the order the labels came.
    ///
    /// # Errors
    /// As [`RecordReader::find`].
    pub fn newest_labelled(&self, count: usize) -> Result<Vec<LabelledRow>, StoreError> {
        let partitions = self.partitions()?;
        let mut places = places(&partitions, |connection| labels::newest_ordinals(connection, count))?;
        places.drain(..places.len().saturating_sub(count));
        fetch(&partitions, &places)
    }

    /// At most `count` of the rows with a label ordinal below `before_ordinal`, evenly strided over all of them, in the
    /// order the labels came; all of them if there are no more. The first strides begin in the oldest partition.
    ///
    /// # Errors
    /// As [`RecordReader::find`].
    pub fn history_sample(&self, before_ordinal: i64, count: usize) -> Result<Vec<LabelledRow>, StoreError> {
        let partitions = self.partitions()?;
        let mut total = 0;
        for partition in &partitions {
            total += visit(partition, |connection| labels::count_before(connection, before_ordinal))?.unwrap_or(0);
        }
        let wanted = count.min(total);
        let (mut places, mut rank) = (Vec::with_capacity(wanted), 0);
        for (index, partition) in partitions.iter().enumerate() {
            visit(partition, |connection| {
                labels::each_before(connection, before_ordinal, |ordinal| {
                    // The rows taken are those a replay would take too.
                    if places.len() < wanted && rank >= plan::strided(places.len(), total, wanted) {
                        places.push((ordinal, index));
                    }
                    rank += 1;
                })
            })?;
        }
        places.sort_unstable();
        fetch(&partitions, &places)
    }

    /// How much is stored.
    ///
    /// # Errors
    /// As [`RecordReader::find`].
    pub fn counts(&self) -> Result<RecordCounts, StoreError> {
        let partitions = self.partitions()?;
        let mut counts = RecordCounts { partitions: partitions.len(), ..RecordCounts::default() };
        // To open a file costs it a log and an index of 32 KiB, and status is asked for often.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        counted.retain(|path, _| partitions.iter().any(|partition| partition.path == *path));
        for partition in &partitions {
            counts.bytes += partition.bytes();
            let stamp = partition.stamp();
            let known = counted.get(&partition.path).filter(|(then, _)| Some(*then) == stamp);
            let (records, labels) = match known {
                Some((_, counts)) => *counts,
                None => count(partition)?,
            };
            if let Some(stamp) = stamp {
                counted.insert(partition.path.clone(), (stamp, (records, labels)));
            }
            counts.records += records;
            counts.labels += labels;
        }
        Ok(counts)
    }

    /// The partition that is written to.
    pub(super) fn newest(&self) -> Result<Option<Partition>, StoreError> {
        Ok(self.partitions()?.pop())
    }

    fn partitions(&self) -> Result<Vec<Partition>, StoreError> {
        partition::list(&self.folder).map_err(|source| StoreError::io("list", &self.folder, source))
    }
}

/// Records and labels of one partition; none if it is gone or cannot be read.
fn count(partition: &Partition) -> Result<(i64, i64), StoreError> {
    let counted = visit(partition, |connection| {
        let records = match partition.stage {
            // Numbers of a whole partition have no gaps, and counting would read its whole index.
            Stage::Whole => records::seqs(connection)?.map_or(0, |(first, last)| last - first + 1),
            Stage::Thinned | Stage::Labelled => records::count(connection)?,
        };
        Ok((records, super::limit(labels::count_before(connection, i64::MAX)?)))
    });
    Ok(counted?.unwrap_or_default())
}

/// Asks one partition; `None` if it is gone or cannot be read.
fn visit<T>(
    partition: &Partition,
    question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<Option<T>, StoreError> {
    let answer = format::open_read_only(&partition.path, &FORMAT)
        .and_then(|connection| question(&connection).map_err(StoreError::sqlite("read", &partition.path)));
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(_) if !partition.path.exists() => Ok(None),
        Err(error) if error.is_damage() => {
            tracing::warn!(error = %error.chain(), "a partition is skipped");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Ordinals with the index of their partition, sorted by ordinal.
fn places(
    partitions: &[Partition],
    question: impl Fn(&Connection) -> rusqlite::Result<Vec<i64>>,
) -> Result<Vec<(i64, usize)>, StoreError> {
    let mut places = Vec::new();
    for (index, partition) in partitions.iter().enumerate() {
        let ordinals = visit(partition, &question)?.unwrap_or_default();
        places.extend(ordinals.into_iter().map(|ordinal| (ordinal, index)));
    }
    places.sort_unstable();
    Ok(places)
}

/// The rows at `places`, in their order; each partition is opened once.
fn fetch(partitions: &[Partition], places: &[(i64, usize)]) -> Result<Vec<LabelledRow>, StoreError> {
    let mut rows = Vec::with_capacity(places.len());
    for (index, partition) in partitions.iter().enumerate() {
        let mut ordinals = places.iter().filter(|place| place.1 == index).map(|place| place.0).peekable();
        if ordinals.peek().is_none() {
            continue;
        }
        let found = visit(partition, |connection| {
            ordinals.map(|ordinal| labels::labelled(connection, ordinal)).collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.extend(found.into_iter().flatten().flatten());
    }
    rows.sort_unstable_by_key(|row: &LabelledRow| row.ordinal);
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::time::Timestamp;
    use crate::shell::store::samples::{DAY_US, label, record};
    use crate::shell::store::{FileSettings, RecordWriter};

    /// Three days of ten records each; every record is labelled, those of the first day last.
    fn stored(folder: &Path) -> RecordReader {
        let (mut writer, _) = RecordWriter::open(folder, FileSettings::default()).unwrap();
        for day in 0..3_u64 {
            let at = Timestamp(i64::try_from(day).unwrap() * DAY_US);
            let rows: Vec<_> = (day * 10..day * 10 + 10).map(|number| record(number, at)).collect();
            writer.commit(&rows, &[]).unwrap();
        }
        for number in (10..30).chain(0..10) {
            writer.commit(&[], &[label(number, "lab", 1.0)]).unwrap();
        }
        writer.reader()
    }

    #[test]
    fn what_was_counted_once_is_counted_again_after_a_late_label() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, _) = RecordWriter::open(folder.path(), FileSettings::default()).unwrap();
        let day = |number: u64| Timestamp(i64::try_from(number / 10).unwrap() * DAY_US);
        for from in [0, 10] {
            let rows: Vec<_> = (from..from + 10).map(|number| record(number, day(number))).collect();
            writer.commit(&rows, &[]).unwrap();
        }
        let reader = writer.reader();
        for number in 0..20 {
            let counts = reader.clone().counts().unwrap();
            assert_eq!((counts.records, counts.labels), (20, i64::try_from(number).unwrap()));
            writer.commit(&[], &[label(number, "lab", 1.0)]).unwrap();
        }
        drop(writer);
        // Written home meanwhile, and nobody writes any more: what is kept answers.
        assert_eq!(reader.counts().unwrap().labels, 20);
        assert_eq!(reader.counted.lock().unwrap().len(), 2);
        assert_eq!(reader.counts().unwrap().labels, 20);
    }

    fn ordinals(rows: &[LabelledRow]) -> Vec<i64> {
        rows.iter().map(|row| row.ordinal).collect()
    }

    #[test]
    fn labelled_rows_come_in_the_order_of_their_labels_across_partitions() {
        let folder = tempfile::tempdir().unwrap();
        let reader = stored(folder.path());
        assert_eq!(ordinals(&reader.labelled_since(18, 4).unwrap()), [19, 20, 21, 22]);
        assert_eq!(ordinals(&reader.labelled_since(30, 4).unwrap()), [0; 0]);
        let newest = reader.newest_labelled(12).unwrap();
        assert_eq!(ordinals(&newest), (19..=30).collect::<Vec<_>>());
        assert_eq!(newest.iter().map(|row| row.seq).collect::<Vec<_>>(), [29, 30, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(newest[2].features.len(), record(0, Timestamp(0)).features.len());
    }

    #[test]
    fn a_history_sample_is_evenly_strided_over_all_older_rows_and_no_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let reader = stored(folder.path());
        // Before ordinal 29 there are 28 rows: 8 of the first day, then 20; every fourth is taken, oldest record first.
        let sample = reader.history_sample(29, 7).unwrap();
        assert_eq!(sample.iter().map(|row| row.seq).collect::<Vec<_>>(), [11, 15, 19, 23, 27, 1, 5]);
        assert_eq!(ordinals(&reader.history_sample(29, 100).unwrap()), (1..=28).collect::<Vec<_>>());
        assert_eq!(reader.history_sample(29, 0).unwrap(), []);
        assert_eq!(reader.history_sample(1, 5).unwrap(), []);
        for count in 1..=28 {
            assert_eq!(reader.history_sample(29, count).unwrap().len(), count);
        }
    }

    #[test]
    fn records_are_found_by_id_and_paged_from_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let reader = stored(folder.path());
        for number in [0, 14, 29] {
            let found = reader.find(record(number, Timestamp(0)).id).unwrap().unwrap();
            assert_eq!(found.seq, i64::try_from(number).unwrap() + 1);
        }
        assert!(reader.find(record(30, Timestamp(0)).id).unwrap().is_none());
        let seqs = |before| reader.recent(12, before).unwrap().iter().map(|found| found.seq).collect::<Vec<_>>();
        assert_eq!(seqs(None), (19..=30).rev().collect::<Vec<_>>());
        assert_eq!(seqs(Some(19)), (7..=18).rev().collect::<Vec<_>>());
        assert_eq!(seqs(Some(3)), [2, 1]);
        let counts = reader.counts().unwrap();
        assert_eq!((counts.records, counts.labels, counts.partitions), (30, 30, 3));
        assert!(counts.bytes > 3 * 4096);
    }
}
