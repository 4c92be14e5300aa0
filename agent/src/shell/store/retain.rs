//! Retention: whole partition files are thinned and dropped until the records take what they may.
use std::fs;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::format::{self, Synchronous};
use super::partition::{FORMAT, Facts, Partition};
use super::{RecordWriter, StoreError, labels, records};
use crate::decide::retention::partitions::{self, Part, Rules, Stage, Step};
use crate::decide::time::Timestamp;
use crate::shell::files::{suffixed, sync_folder};

/// Files that are written again at one go. For each that is filled a little more than one is thinned, and as many are cut
/// down; more at once would keep records waiting, as the rest of a file of 32 MB takes a card a second or so.
const REWRITES_MAX: usize = 4;
/// Room that is left for what comes until the next partition begins, as a part of the budget: two partitions, one that
/// fills, and its log.
const ROOM_SHARE: u64 = 16;

/// What may be kept, as the daemon loop says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retention {
    /// Bytes that records may take.
    pub keep_bytes: u64,
    /// Bytes the disk has left, and how many of them must stay free.
    pub free: Option<(u64, u64)>,
    /// Age in seconds beyond which records go, with the time now; none if the clock cannot be believed.
    pub age: Option<(u64, Timestamp)>,
    /// Thinning keeps every so many-th row that has no label; 1 thins nothing.
    pub every: u64,
    /// Share of the bytes that thinned files may take.
    pub thin_share: f64,
    /// Labels from this ordinal on are still needed.
    pub needed_from: i64,
}

/// What retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Files dropped.
    pub partitions: usize,
    /// Files thinned, or cut down to their labelled rows.
    pub thinned: usize,
    /// Bytes freed.
    pub bytes: u64,
    /// Bytes written again for that.
    pub rewritten: u64,
    /// Bytes left.
    pub bytes_kept: u64,
    /// Bytes beyond what may be kept, because they may not go.
    pub bytes_over: u64,
    /// Records before this number are gone.
    pub first_seq: i64,
    /// Whether there is more to do, next time.
    pub unfinished: bool,
}

impl RecordWriter {
    /// Thins and drops the oldest partitions, in the order of [`partitions::next`], until the rest takes what it may. The
    /// newest one is never touched. Dropping needs no free space; where thinning finds none, the file is dropped instead.
    ///
    /// # Errors
    /// [`StoreError::Io`] if a file cannot be removed; those before it are gone.
    pub fn retain(&mut self, retention: &Retention) -> Result<Retired, StoreError> {
        let mut retired = Retired::default();
        let mut sizes: Vec<u64> = self.partitions.iter().map(Partition::bytes).collect();
        let before: u64 = sizes.iter().sum();
        let free = retention.free.map_or(u64::MAX, |(free, reserve)| (before + free).saturating_sub(reserve));
        let bytes_max = retention.keep_bytes.min(free);
        let mut rules = Rules {
            bytes_max: bytes_max - bytes_max / ROOM_SHARE,
            age_s_max: retention.age.map(|(age_s, _)| age_s),
            every: retention.every,
            thin_share: retention.thin_share,
        };
        // Most looks end here: nothing is opened.
        if before > rules.bytes_max || rules.age_s_max.is_some() {
            let mut dropped = false;
            loop {
                let parts = self.parts(&sizes, retention);
                let Some(step) = partitions::next(&parts, &rules) else { break };
                match step {
                    Step::Drop(index) => {
                        self.drop_partition(index)?;
                        retired.bytes += sizes.remove(index);
                        retired.partitions += 1;
                        dropped = true;
                    }
                    Step::Thin(_) | Step::KeepLabelled(_) if retired.thinned == REWRITES_MAX => {
                        retired.unfinished = true;
                        break;
                    }
                    Step::Thin(index) | Step::KeepLabelled(index) => {
                        let keep = matches!(step, Step::Thin(_)).then_some(retention.every);
                        match self.rewrite(index, keep) {
                            Ok(()) => {
                                let bytes = self.partitions[index].bytes();
                                retired.bytes += sizes[index].saturating_sub(bytes);
                                retired.rewritten += bytes;
                                sizes[index] = bytes;
                                retired.thinned += 1;
                            }
                            Err(error) => {
                                tracing::warn!(error = %error.chain(), "a partition cannot be thinned, whole ones go");
                                rules.every = 1;
                                // It may be one that can only be cut down: then it is taken as it is.
                                if keep.is_none() {
                                    self.partitions[index].stage = Stage::Labelled;
                                }
                            }
                        }
                    }
                }
            }
            if dropped {
                sync_folder(&self.folder).map_err(|source| StoreError::io("sync", &self.folder, source))?;
            }
        }
        retired.bytes_kept = sizes.iter().sum();
        retired.bytes_over = retired.bytes_kept.saturating_sub(bytes_max);
        retired.first_seq = self.partitions.first().map_or(self.next_seq, |partition| partition.first_seq);
        Ok(retired)
    }

    fn parts(&mut self, sizes: &[u64], retention: &Retention) -> Vec<Part> {
        let newest = self.partitions.len().saturating_sub(1);
        let mut parts = Vec::with_capacity(sizes.len());
        for (index, bytes) in sizes.iter().enumerate() {
            let facts = if index == newest { Facts::default() } else { self.facts(index) };
            let age = |(_, now): (u64, Timestamp)| {
                let age_us = now.0.saturating_sub(facts.newest_at?.0);
                // Records of a future that never came are as old as those before them.
                u64::try_from(age_us / 1_000_000).ok()
            };
            parts.push(Part {
                bytes: *bytes,
                rows: facts.rows,
                labelled: facts.labelled,
                stage: self.partitions[index].stage,
                age_s: retention.age.and_then(age),
                needed: facts.last_ordinal.is_some_and(|last| last >= retention.needed_from),
            });
        }
        parts
    }

    /// What a partition holds; one that cannot be read holds nothing that could be needed.
    fn facts(&mut self, index: usize) -> Facts {
        let partition = &self.partitions[index];
        if let Some(facts) = partition.facts {
            return facts;
        }
        let read = |connection: &Connection| -> rusqlite::Result<Facts> {
            let count = |table: &str| {
                let rows =
                    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))?;
                Ok::<_, rusqlite::Error>(u64::try_from(rows).unwrap_or(0))
            };
            let newest = "SELECT arrived_at FROM record ORDER BY seq DESC LIMIT 1";
            Ok(Facts {
                rows: count("record")?,
                labelled: count("label")?,
                last_ordinal: labels::newest_ordinals(connection, 1)?.first().copied(),
                newest_at: connection.query_row(newest, [], |row| row.get(0).map(Timestamp)).optional()?,
            })
        };
        let facts = format::open_read_only(&partition.path, &FORMAT).ok().and_then(|connection| read(&connection).ok());
        let facts = facts.unwrap_or_default();
        self.partitions[index].facts = Some(facts);
        facts
    }

    pub(super) fn drop_partition(&mut self, index: usize) -> Result<(), StoreError> {
        let partition = &self.partitions[index];
        if self.older.as_ref().is_some_and(|(open, _)| *open == partition.path) {
            self.older = None;
        }
        partition.remove().map_err(|source| StoreError::io("remove", &partition.path, source))?;
        self.partitions.remove(index);
        Ok(())
    }

    /// Writes a partition again with what is kept of it: every `every`-th row and all labelled ones, or these alone.
    ///
    /// The new file has a name of its own and is whole before it gets it; from then on the old one counts no more, also
    /// after a power cut between the two.
    fn rewrite(&mut self, index: usize, every: Option<u64>) -> Result<(), StoreError> {
        let old = self.partitions[index].clone();
        if self.older.as_ref().is_some_and(|(open, _)| *open == old.path) {
            self.older = None;
        }
        let new = old.at_stage(if every.is_some() { Stage::Thinned } else { Stage::Labelled });
        let unfinished = suffixed(&new.path, ".unfinished");
        let result = copy_kept(&old.path, &unfinished, every);
        if let Err(error) = result {
            // What cannot be removed now is removed at the next start.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        let failed = |source| StoreError::io("thin", &old.path, source);
        fs::rename(&unfinished, &new.path).map_err(failed)?;
        sync_folder(&self.folder).map_err(failed)?;
        self.partitions[index] = new;
        old.remove().map_err(failed)
    }
}

fn copy_kept(from: &Path, to: &Path, every: Option<u64>) -> Result<(), StoreError> {
    begin_copy(from, to, |connection| {
        records::copy_kept(connection, every)?;
        labels::copy(connection)
    })
}

/// Writes the file `to` with what `copied` takes from the database `old`, which is `from`; durable when it returns.
pub(super) fn begin_copy(
    from: &Path,
    to: &Path,
    copied: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(), StoreError> {
    match fs::remove_file(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StoreError::io("remove", to, error)),
        _ => {}
    }
    // Brings the old file to this layout too.
    let old = format::open(from, &FORMAT, Synchronous::Normal)?;
    let page_bytes = old.pragma_query_value(None, "page_size", |row| row.get(0));
    let page_bytes = page_bytes.map_err(StoreError::sqlite("read", from))?;
    drop(old);
    let connection = format::open_paged(to, &FORMAT, Synchronous::Normal, page_bytes)?;
    let failed = StoreError::sqlite("thin", to);
    let copy = || -> rusqlite::Result<()> {
        // Nobody knows this file yet: a journal would only write everything twice.
        connection.pragma_update(None, "journal_mode", "OFF")?;
        connection.pragma_update(None, "synchronous", "OFF")?;
        connection.execute("ATTACH DATABASE ?1 AS old", [from.to_string_lossy()])?;
        copied(&connection)?;
        // Without a log it stays: nobody writes to it but late labels.
        connection.execute_batch("DETACH DATABASE old")
    };
    copy().map_err(&failed)?;
    connection.close().map_err(|(_, error)| failed(error))?;
    let synced = fs::File::open(to).and_then(|file| file.sync_all());
    synced.map_err(|source| StoreError::io("sync", to, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::store::samples::{DAY_US, assert_same, copy, label, record};
    use crate::shell::store::{FileSettings, LabelOutcome, NewRecord};

    const KEEP: Retention =
        Retention { keep_bytes: 0, free: None, age: None, every: 10, thin_share: 0.25, needed_from: i64::MAX };
    const ROWS: u64 = 200;

    fn open(folder: &Path) -> RecordWriter {
        RecordWriter::open(&folder.join("records"), FileSettings::default()).unwrap().0
    }

    fn wide(number: u64, day: u64) -> NewRecord {
        let at = Timestamp(i64::try_from(day).unwrap() * DAY_US);
        NewRecord { features: vec![0.5; 512], ..record(number, at) }
    }

    /// Partitions of 200 rows, one for each day; the first five rows of each are labelled.
    fn days(writer: &mut RecordWriter, days: std::ops::Range<u64>) {
        for day in days {
            let rows: Vec<_> = (day * ROWS..(day + 1) * ROWS).map(|number| wide(number, day)).collect();
            let labels: Vec<_> = (day * ROWS..day * ROWS + 5).map(|number| label(number, "lab", 1.0)).collect();
            writer.commit(&rows, &labels).unwrap();
        }
        // As after a while: the log of the newest is written home, so that sizes are those of rows.
        writer.commit(&[], &[]).unwrap();
    }

    fn bytes(writer: &RecordWriter) -> u64 {
        writer.partitions.iter().map(Partition::bytes).sum()
    }

    /// Until there is no more to do.
    fn settle(writer: &mut RecordWriter, retention: &Retention) -> Retired {
        loop {
            let retired = writer.retain(retention).unwrap();
            if !retired.unfinished {
                return retired;
            }
        }
    }

    #[test]
    fn old_rows_are_thinned_first_and_every_labelled_row_is_still_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 0..4);
        drop(writer);
        let mut writer = open(folder.path());
        let keep_bytes = bytes(&writer) * 9 / 10;
        let retired = settle(&mut writer, &Retention { keep_bytes, ..KEEP });
        assert!(retired.thinned > 0 && retired.partitions == 0 && retired.bytes_over == 0, "{retired:?}");
        let stages: Vec<_> = writer.partitions.iter().map(|partition| partition.stage).collect();
        assert_eq!(stages[0], Stage::Thinned);
        assert_eq!(stages[3], Stage::Whole, "the newest is never touched");
        let reader = writer.reader();
        assert_eq!(reader.newest_labelled(100).unwrap().len(), 20);
        let kept = reader.recent(1000, Some(i64::try_from(ROWS).unwrap() + 1)).unwrap();
        assert_eq!(kept.len(), 25, "every tenth of 200, and the five labelled ones");
        for found in &kept {
            assert_same(&found.record, &wide(u64::try_from(found.seq).unwrap() - 1, 0));
        }
        assert_eq!(reader.counts().unwrap().records, i64::try_from(reader.recent(2000, None).unwrap().len()).unwrap());
        // A label that comes late finds a row that was kept, and says so of one that was not.
        let outcomes = writer.commit(&[], &[label(9, "lab", 1.0), label(10, "lab", 1.0)]).unwrap();
        assert!(matches!(outcomes[0], LabelOutcome::Stored { .. }), "{outcomes:?}");
        assert_eq!(outcomes[1], LabelOutcome::Unknown);
        drop(writer);
        let mut writer = open(folder.path());
        assert_eq!(writer.partitions[0].stage, Stage::Thinned, "a start finds it as it is");
        let tight = settle(&mut writer, &KEEP);
        assert_eq!((writer.partitions.len(), tight.bytes_over > 0), (1, true), "at last only the newest is left");
        assert_eq!(writer.reader().newest_labelled(100).unwrap().len(), 5);
    }

    #[test]
    fn narrow_rows_lie_in_small_pages_also_after_thinning_and_wide_ones_in_large_pages() {
        let pages = |path: &Path| -> u32 {
            Connection::open(path).unwrap().pragma_query_value(None, "page_size", |row| row.get(0)).unwrap()
        };
        for (features, expected) in [(3, 1024), (16, 1024), (32, 2048), (64, 2048), (128, 4096)] {
            let folder = tempfile::tempdir().unwrap();
            let mut writer = open(folder.path());
            for day in 0..2 {
                let at = Timestamp(i64::try_from(day).unwrap() * DAY_US);
                let row = |number| NewRecord { features: vec![0.5; features], ..record(number, at) };
                let rows: Vec<_> = (day * ROWS..(day + 1) * ROWS).map(row).collect();
                writer.commit(&rows, &[]).unwrap();
            }
            writer.rewrite(0, Some(10)).unwrap();
            let paths: Vec<_> = writer.partitions.iter().map(|partition| partition.path.clone()).collect();
            assert_eq!((pages(&paths[0]), pages(&paths[1])), (expected, expected), "{features} features");
        }
    }

    #[test]
    fn what_a_training_still_needs_is_not_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 0..4);
        // Labels 6 to 10 are those of the second day.
        let retired = settle(&mut writer, &Retention { needed_from: 10, ..KEEP });
        let kept: Vec<_> = writer.reader().labelled_since(0, 100).unwrap().iter().map(|row| row.ordinal).collect();
        assert_eq!(kept, (6..=20).collect::<Vec<_>>());
        assert!(retired.bytes_over > 0, "{retired:?}");
    }

    #[test]
    fn records_that_are_too_old_go_and_the_newest_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 0..4);
        let age = |days: i64| Some((86_400, Timestamp(days * DAY_US)));
        let keep_bytes = u64::MAX / 2;
        assert_eq!(writer.retain(&Retention { keep_bytes, age: age(2), ..KEEP }).unwrap().partitions, 1);
        assert_eq!(writer.retain(&Retention { keep_bytes, age: age(-9), ..KEEP }).unwrap().partitions, 0, "1970 again");
        assert_eq!(writer.retain(&Retention { keep_bytes, age: age(9), ..KEEP }).unwrap().partitions, 2);
        assert_eq!(writer.partitions.len(), 1);
    }

    #[test]
    fn a_disk_that_others_fill_shrinks_the_budget_and_where_there_is_no_room_to_thin_files_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 0..4);
        let all = bytes(&writer);
        let free = Some((1_000_000, 1_000_000 + all / 2));
        let retention = Retention { keep_bytes: u64::MAX / 2, free, ..KEEP };
        settle(&mut writer, &retention);
        assert!(bytes(&writer) <= all / 2, "{} of {all}", bytes(&writer));
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 0..4);
        // A folder in the way of the new file stands for a disk that takes none.
        for partition in &writer.partitions {
            let new = suffixed(&partition.at_stage(Stage::Thinned).path, ".unfinished");
            fs::create_dir(new).unwrap();
        }
        let retired = settle(&mut writer, &Retention { keep_bytes: all / 2, ..KEEP });
        assert!(retired.partitions >= 2 && retired.thinned == 0 && retired.bytes_over == 0, "{retired:?}");
    }

    #[test]
    fn a_power_cut_while_a_file_is_thinned_leaves_the_old_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = open(folder.path());
        days(&mut writer, 0..3);
        let before = tempfile::tempdir().unwrap();
        copy(&folder.path().join("records"), &before.path().join("records"));
        let keep_bytes = bytes(&writer) * 9 / 10;
        settle(&mut writer, &Retention { keep_bytes, ..KEEP });
        let thinned = writer.partitions[0].path.clone();
        drop(writer);
        // Cut before the rename: the old one counts and the unfinished one goes. Cut behind it: the new one counts.
        let name = thinned.file_name().unwrap().to_str().unwrap().to_owned();
        let unfinished = before.path().join("records").join(format!("{name}.unfinished"));
        fs::copy(&thinned, &unfinished).unwrap();
        let writer = open(before.path());
        assert_eq!(writer.partitions[0].stage, Stage::Whole);
        assert!(!unfinished.exists());
        assert_eq!(writer.reader().counts().unwrap().records, 600);
        drop(writer);
        fs::copy(&thinned, before.path().join("records").join(&name)).unwrap();
        let writer = open(before.path());
        assert_eq!((writer.partitions.len(), writer.partitions[0].stage), (3, Stage::Thinned));
        assert_eq!(writer.reader().counts().unwrap().records, 425);
        let files = fs::read_dir(before.path().join("records")).unwrap();
        let whole = files.filter(|entry| {
            entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("0000000000000001-1970-01-01.db")
        });
        assert_eq!(whole.count(), 0, "the old one is gone");
    }
}
