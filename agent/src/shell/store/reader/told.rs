//! Records whether or not anybody has labelled them, each with its label if it has one: what an anomaly model learns from.
use rusqlite::Connection;

use super::super::StoreError;
use super::super::labels;
use super::super::partition::Partition;
use super::super::records::{self, Record};
use super::{RecordReader, visit};
use crate::decide::plan;

/// A record, and what was true of it if that is known.
#[derive(Clone, Debug, PartialEq)]
pub struct ToldRow {
    /// The record's number.
    pub seq: i64,
    /// Raw features, as recorded.
    pub features: Vec<f32>,
    /// Part of the plant, if its source said so.
    pub segment: Option<String>,
    /// Class index, or one number per target; none without a label.
    pub truth: Option<Vec<f32>>,
}

impl RecordReader {
    /// The `count` newest records, oldest first.
    ///
    /// # Errors
    /// As [`RecordReader::find`].
    pub fn newest_told(&self, count: usize) -> Result<Vec<ToldRow>, StoreError> {
        let mut rows = Vec::new();
        for partition in self.partitions()?.iter().rev() {
            let wanted = count - rows.len();
            if wanted == 0 {
                break;
            }
            let newest = |connection: &Connection| {
                let records = records::recent(connection, wanted, i64::MAX)?;
                records.into_iter().map(|record| told(connection, record)).collect::<rusqlite::Result<Vec<_>>>()
            };
            rows.extend(visit(partition, newest)?.unwrap_or_default());
        }
        rows.reverse();
        Ok(rows)
    }

    /// At most `count` records with a number below `before_seq`, evenly strided over all of them by their numbers, oldest first.
    /// Where records were thinned the next older one stands for those that are gone.
    ///
    /// # Errors
    /// As [`RecordReader::find`].
    pub fn older_told(&self, before_seq: i64, count: usize) -> Result<Vec<ToldRow>, StoreError> {
        let partitions = self.partitions()?;
        let Some(first) = partitions.first().map(|partition| partition.first_seq) else { return Ok(Vec::new()) };
        let total = usize::try_from(before_seq.saturating_sub(first)).unwrap_or(0);
        let wanted = count.min(total);
        let place = |k: usize| first.saturating_add(i64::try_from(plan::strided(k, total, wanted)).unwrap_or(i64::MAX));
        let (mut rows, mut k): (Vec<ToldRow>, usize) = (Vec::with_capacity(wanted), 0);
        for (index, partition) in partitions.iter().enumerate() {
            let end = partitions.get(index + 1).map_or(before_seq, |next: &Partition| next.first_seq.min(before_seq));
            let from = k;
            k += (k..wanted).take_while(|k| place(*k) < end).count();
            if from == k {
                continue;
            }
            let strided = |connection: &Connection| {
                let mut found: Vec<ToldRow> = Vec::new();
                for place in (from..k).map(place) {
                    let record = records::recent(connection, 1, place.saturating_add(1))?.pop();
                    if let Some(record) = record.filter(|record| found.last().is_none_or(|last| last.seq < record.seq))
                    {
                        found.push(told(connection, record)?);
                    }
                }
                Ok(found)
            };
            rows.extend(visit(partition, strided)?.unwrap_or_default());
        }
        Ok(rows)
    }
}

fn told(connection: &Connection, Record { seq, record }: Record) -> rusqlite::Result<ToldRow> {
    let truth = labels::truth_of(connection, seq)?;
    Ok(ToldRow { seq, features: record.features, segment: record.segment, truth })
}

#[cfg(test)]
mod tests {
    use crate::decide::time::Timestamp;
    use crate::shell::store::samples::{DAY_US, label, record};
    use crate::shell::store::{FileSettings, RecordWriter};

    #[test]
    fn records_come_with_their_labels_and_without_newest_ones_whole_and_older_ones_evenly_strided() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, _) = RecordWriter::open(folder.path(), FileSettings::default()).unwrap();
        for day in 0..3_u64 {
            let at = Timestamp(i64::try_from(day).unwrap() * DAY_US);
            let rows: Vec<_> = (day * 10..day * 10 + 10).map(|number| record(number, at)).collect();
            writer.commit(&rows, &[]).unwrap();
        }
        writer.commit(&[], &[label(27, "lab", 1.0), label(8, "lab", 0.0)]).unwrap();
        let reader = writer.reader();
        let newest = reader.newest_told(12).unwrap();
        assert_eq!(newest.iter().map(|row| row.seq).collect::<Vec<_>>(), (19..=30).collect::<Vec<_>>());
        let labelled: Vec<_> = newest.iter().filter_map(|row| Some((row.seq, row.truth.clone()?))).collect();
        assert_eq!(labelled, [(28, vec![1.0])]);
        assert_eq!(newest[9].segment, record(27, Timestamp(0)).segment);
        let older = reader.older_told(19, 6).unwrap();
        assert_eq!(older.iter().map(|row| row.seq).collect::<Vec<_>>(), [1, 4, 7, 10, 13, 16]);
        let all = reader.older_told(19, 100).unwrap();
        assert_eq!(all.iter().map(|row| row.seq).collect::<Vec<_>>(), (1..=18).collect::<Vec<_>>());
        assert_eq!(all.iter().position(|row| row.truth.is_some()), Some(8));
        assert_eq!((reader.older_told(1, 5).unwrap(), reader.older_told(19, 0).unwrap()), (vec![], vec![]));
        assert_eq!(reader.newest_told(100).unwrap().len(), 30);
    }
}
