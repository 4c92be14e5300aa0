//! Partition files: which there are, what they are called, how large they are.
//!
//! A partition is named `<first seq>-<day it was begun>.db`, and what is left of a thinned one `…-thin1.db` or `…-thin2.db`. The sequence number comes first because it only grows: a
//! gateway without a clock battery that wakes in 1970 begins a new, later partition instead of an older one. The day is
//! for people.
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ulid::Ulid;

use super::format::{COMPANIONS, Format};
use crate::decide::retention::partitions::Stage;
use crate::decide::time::Timestamp;
use crate::shell::clock;
use crate::shell::files::{suffixed, sync_folder};

pub(super) const FORMAT: Format = Format {
    application_id: 0x686F_6E72, // "honr"
    steps: &[include_str!("migrations/records_1.sql"), include_str!("migrations/records_2.sql")],
    tables: &["next", "served", "record", "label"],
};

/// Fewest bytes of file that a record or a label can take; bounds how many a file that cannot be read may hold.
const ROW_BYTES_MIN: u64 = 16;

/// Length of a file and when it was last written.
pub(super) type Stamp = (u64, SystemTime);

/// One partition file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    /// Its records have this number or a higher one, below the first of the next partition.
    pub(super) first_seq: i64,
    /// The UTC day on which it was begun.
    pub(super) day: String,
    pub(super) path: PathBuf,
    /// How much of it is left.
    pub(super) stage: Stage,
    /// The span of its record ids, once asked of a partition that gets no more records.
    pub(super) ids: Option<RangeInclusive<Ulid>>,
    /// What retention must know, once asked; a late label makes it be asked again.
    pub(super) facts: Option<Facts>,
}

/// What retention must know of a partition that gets no more records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) rows: u64,
    pub(super) labelled: u64,
    pub(super) last_ordinal: Option<i64>,
    pub(super) newest_at: Option<Timestamp>,
}

/// Ends of the names of thinned partitions.
const STAGES: [(&str, Stage); 2] = [("-thin1", Stage::Thinned), ("-thin2", Stage::Labelled)];
/// End of the name of a file that is still being written.
const UNFINISHED: &str = ".unfinished";

impl Partition {
    pub(super) fn new(folder: &Path, first_seq: i64, day: String) -> Self {
        let path = folder.join(format!("{first_seq:016}-{day}.db"));
        Self { first_seq, day, path, stage: Stage::Whole, ids: None, facts: None }
    }

    /// The same partition with less in it, under its own name.
    pub(super) fn at_stage(&self, stage: Stage) -> Self {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let mut other = Self::new(folder, self.first_seq, self.day.clone());
        if let Some((end, _)) = STAGES.iter().find(|(_, known)| *known == stage) {
            other.path = folder.join(format!("{:016}-{}{end}.db", self.first_seq, self.day));
        }
        other.stage = stage;
        other
    }

    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".db")?;
        let known = STAGES.iter().find_map(|(end, stage)| Some((name.strip_suffix(end)?, *stage)));
        let (name, stage) = known.unwrap_or((name, Stage::Whole));
        let (first_seq, day) = name.split_once('-')?;
        let (first_seq, day) = (first_seq.parse().ok()?, day.to_owned());
        Some(Self { first_seq, day, path, stage, ids: None, facts: None })
    }

    /// Bytes on disk, with what `SQLite` keeps beside the file.
    pub(super) fn bytes(&self) -> u64 {
        let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        COMPANIONS.iter().map(|companion| length(&suffixed(&self.path, companion))).sum::<u64>() + length(&self.path)
    }

    /// By what a later look sees that nobody has written meanwhile; none while a log holds what the file does not.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let log = fs::metadata(suffixed(&self.path, "-wal")).map_or(0, |log| log.len());
        let file = fs::metadata(&self.path).ok().filter(|_| log == 0)?;
        Some((file.len(), file.modified().ok()?))
    }

    /// At most this many records, and as many labels, fit into the file.
    pub(super) fn rows_bound(&self) -> i64 {
        i64::try_from(self.bytes() / ROW_BYTES_MIN).unwrap_or(i64::MAX / 2) + 1
    }

    /// Removes what `SQLite` keeps beside the file; only where that holds nothing any more.
    pub(super) fn remove_log(&self) -> io::Result<()> {
        COMPANIONS.iter().try_for_each(|companion| remove_if_there(&suffixed(&self.path, companion)))
    }

    /// Removes the file and its companions. The database goes first: a log without one is removed at the next start,
    /// while a database without its log would miss rows.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_if_there(&self.path)?;
        self.remove_log()
    }
}

/// The partitions in `folder`, oldest first; of one that was thinned, what is left.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Partition>> {
    let mut partitions = all(folder)?;
    partitions.dedup_by(|less, more| is_superseded(less, more));
    Ok(partitions)
}

/// Every partition file; where a power cut left two of one partition, the one with less in it stands first.
fn all(folder: &Path) -> io::Result<Vec<Partition>> {
    let mut partitions = Vec::new();
    for entry in fs::read_dir(folder)? {
        partitions.extend(Partition::parse(entry?.path()));
    }
    let place =
        |partition: &Partition| (partition.first_seq, partition.day.clone(), std::cmp::Reverse(partition.stage));
    partitions.sort_by_key(place);
    Ok(partitions)
}

/// Whether `other` is what is left of `partition`.
fn is_superseded(partition: &Partition, other: &Partition) -> bool {
    (partition.first_seq, &partition.day) == (other.first_seq, &other.day) && partition.stage < other.stage
}

/// Removes what a power cut left behind: logs whose database is gone, files that were not finished, and partitions that
/// were thinned under another name.
pub(super) fn remove_orphans(folder: &Path) -> io::Result<()> {
    let partitions = all(folder)?;
    for pair in partitions.windows(2).filter(|pair| is_superseded(&pair[1], &pair[0])) {
        pair[1].remove()?;
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let ends = ["", "-wal", "-shm", "-journal"];
        if ends.iter().any(|end| name.ends_with(&format!("{UNFINISHED}{end}"))) && path.is_file() {
            remove_if_there(&path)?;
            continue;
        }
        let owner = COMPANIONS
            .iter()
            .find_map(|companion| name.strip_suffix(companion))
            .filter(|owner| Path::new(owner).extension() == Some("db".as_ref()));
        if owner.is_some_and(|owner| !folder.join(owner).exists()) {
            remove_if_there(&path)?;
        }
    }
    sync_folder(folder)
}

/// Damaged partitions that are kept for whoever wants to look at them: a card that fails must not fill with them.
const ASIDE_MAX: usize = 4;

/// Every damaged partition that was set aside, oldest first.
fn aside(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut aside = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.rsplit_once(".damaged-").is_some_and(|(_, number)| number.parse::<u32>().is_ok()) {
            aside.push(path);
        }
    }
    // A name begins with the number of its first record.
    aside.sort();
    Ok(aside)
}

/// Removes the damaged partitions that may hold something taken at `since` or later; returns how many those were.
///
/// What they hold cannot be asked. Nothing is measured after it was written, so one that was last written to before holds
/// nothing of that time; the day in its name is for people.
pub(super) fn remove_aside_written_since(folder: &Path, since: Timestamp) -> io::Result<u64> {
    let mut removed = 0;
    for path in aside(folder)? {
        let parts = COMPANIONS.iter().map(|companion| suffixed(&path, companion)).chain([path.clone()]);
        let written = parts.filter_map(|part| fs::metadata(part).and_then(|found| found.modified()).ok()).max();
        if written.is_none_or(|written| clock::of(written) >= since) {
            remove_set_aside(&path)?;
            removed += 1;
        }
    }
    if removed > 0 {
        sync_folder(folder)?;
    }
    Ok(removed)
}

fn remove_set_aside(path: &Path) -> io::Result<()> {
    // The log first: it is found by the name of its database.
    COMPANIONS.iter().try_for_each(|companion| remove_if_there(&suffixed(path, companion)))?;
    remove_if_there(path)
}

/// Removes the oldest of the damaged partitions that were set aside, beyond the newest few.
pub(super) fn forget_aside(folder: &Path) -> io::Result<()> {
    let aside = aside(folder)?;
    let excess = aside.len().saturating_sub(ASIDE_MAX);
    for path in &aside[..excess] {
        tracing::warn!(removed = %path.display(), "more damaged records are set aside than are kept");
        remove_set_aside(path)?;
    }
    Ok(())
}

/// The UTC day of `at`, such as `2026-11-21`; a time outside the years 0 to 9999 counts as the first day of 1970.
pub(super) fn day(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.0)
        .map(|moment| moment.to_zoned(jiff::tz::TimeZone::UTC).date())
        .ok()
        .filter(|date| date.year() >= 0)
        .map_or_else(|| "1970-01-01".to_owned(), |date| date.to_string())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_utc_and_no_clock_breaks_them() {
        let day_us = 86_400_000_000;
        assert_eq!(day(Timestamp(0)), "1970-01-01");
        assert_eq!(day(Timestamp(day_us - 1)), "1970-01-01");
        assert_eq!(day(Timestamp(day_us)), "1970-01-02");
        assert_eq!(day(Timestamp(-1)), "1969-12-31");
        assert_eq!(day(Timestamp(i64::MAX)), "1970-01-01");
        assert_eq!(day(Timestamp(i64::MIN)), "1970-01-01");
    }

    #[test]
    fn what_was_set_aside_goes_unless_it_was_last_written_to_before() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, second: u64| {
            let file = fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second)).unwrap();
        };
        write("1-1970-01-01.db", 90);
        write("1-1970-01-01.db.damaged-1", 10);
        write("2-1970-01-01.db.damaged-1", 20);
        write("3-1970-01-01.db.damaged-1", 10);
        write("3-1970-01-01.db.damaged-1-wal", 20);
        assert_eq!(remove_aside_written_since(folder.path(), Timestamp(20_000_000)).unwrap(), 2);
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<_> = names.collect();
        left.sort();
        assert_eq!(left, ["1-1970-01-01.db", "1-1970-01-01.db.damaged-1"]);
        assert_eq!(remove_aside_written_since(folder.path(), Timestamp(20_000_000)).unwrap(), 0);
    }

    #[test]
    fn partitions_are_ordered_by_number_and_other_files_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let later = Partition::new(folder.path(), 20, "1970-01-01".to_owned());
        let earlier = Partition::new(folder.path(), 3, "2026-11-21".to_owned());
        for name in [&later.path, &earlier.path, &folder.path().join("x.db"), &suffixed(&earlier.path, ".damaged-1")] {
            fs::write(name, b"").unwrap();
        }
        fs::write(suffixed(&later.path, "-wal"), b"kept").unwrap();
        fs::write(folder.path().join("0000000000000001-2026-11-20.db-wal"), b"orphan").unwrap();
        remove_orphans(folder.path()).unwrap();
        assert_eq!(list(folder.path()).unwrap(), [earlier, later.clone()]);
        assert_eq!(later.bytes(), 4);
        later.remove().unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }
}
