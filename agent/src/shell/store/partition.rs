//! Partition files: which there are, what they are called, how large they are.
//!
//! A partition is named `<first seq>-<day it was begun>.db`. The sequence number comes first because it only grows: a
//! gateway without a clock battery that wakes in 1970 begins a new, later partition instead of an older one. The day is
//! for people.
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ulid::Ulid;

use super::format::{COMPANIONS, Format};
use crate::decide::time::Timestamp;
use crate::shell::files::{suffixed, sync_folder};

pub(super) const FORMAT: Format = Format {
    application_id: 0x686F_6E72, // "honr"
    steps: &[include_str!("migrations/records_1.sql"), include_str!("migrations/records_2.sql")],
    tables: &["next", "served", "record", "label"],
};

/// Fewest bytes of file that a record or a label can take; bounds how many a file that cannot be read may hold.
const ROW_BYTES_MIN: u64 = 16;

/// One partition file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    /// Its records have this number or a higher one, below the first of the next partition.
    pub(super) first_seq: i64,
    /// The UTC day on which it was begun.
    pub(super) day: String,
    pub(super) path: PathBuf,
    /// The span of its record ids, once asked of a partition that gets no more records.
    pub(super) ids: Option<RangeInclusive<Ulid>>,
}

impl Partition {
    pub(super) fn new(folder: &Path, first_seq: i64, day: String) -> Self {
        let path = folder.join(format!("{first_seq:016}-{day}.db"));
        Self { first_seq, day, path, ids: None }
    }

    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?.strip_suffix(".db")?;
        let (first_seq, day) = name.split_once('-')?;
        Some(Self { first_seq: first_seq.parse().ok()?, day: day.to_owned(), path, ids: None })
    }

    /// Bytes on disk, with what `SQLite` keeps beside the file.
    pub(super) fn bytes(&self) -> u64 {
        let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        COMPANIONS.iter().map(|companion| length(&suffixed(&self.path, companion))).sum::<u64>() + length(&self.path)
    }

    /// At most this many records, and as many labels, fit into the file.
    pub(super) fn rows_bound(&self) -> i64 {
        i64::try_from(self.bytes() / ROW_BYTES_MIN).unwrap_or(i64::MAX / 2) + 1
    }

    /// Removes the file and its companions. The database goes first: a log without one is removed at the next start,
    /// while a database without its log would miss rows.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_if_there(&self.path)?;
        COMPANIONS.iter().try_for_each(|companion| remove_if_there(&suffixed(&self.path, companion)))
    }
}

/// The partitions in `folder`, oldest first.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Partition>> {
    let mut partitions = Vec::new();
    for entry in fs::read_dir(folder)? {
        partitions.extend(Partition::parse(entry?.path()));
    }
    partitions.sort_by(|one, other| (one.first_seq, &one.day).cmp(&(other.first_seq, &other.day)));
    Ok(partitions)
}

/// Removes logs whose database is gone: a power cut interrupted its removal.
pub(super) fn remove_orphans(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
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
