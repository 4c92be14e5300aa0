//! Copies of databases while they are in use, and what a restored state must not forget.
use std::path::Path;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::partition;
use super::{RecordReader, RecordWriter, StoreError, format, labels, records};
use crate::decide::time::Timestamp;

/// Writes a consistent copy of the database `from` to the new file `to`; neither waits for whoever writes to it.
///
/// # Errors
/// The disk refuses, or `from` is damaged.
pub fn copy_database(from: &Path, to: &Path) -> Result<(), StoreError> {
    let failed = StoreError::sqlite("copy", from);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(from, flags).map_err(&failed)?;
    connection.busy_timeout(format::BUSY).map_err(&failed)?;
    let copied = connection.execute("VACUUM INTO ?1", [to.to_string_lossy()]);
    copied.map(|_| ()).map_err(|error| match error.sqlite_error_code() {
        // Reading takes no room: it is the copy that has none.
        Some(ErrorCode::DiskFull) => StoreError::sqlite("write", to)(error),
        _ => failed(error),
    })
}

/// Raises the counters below which signed orders count as seen, in the restored `control.db`, to those of `old`: what was
/// refused as a repetition before must not be taken after.
///
/// # Errors
/// `SQLite` refuses.
pub fn keep_replay_floors(restored: &Path, old: &Path) -> Result<(), StoreError> {
    let failed = StoreError::sqlite("restore", restored);
    let keep = || -> rusqlite::Result<()> {
        let connection = Connection::open(restored)?;
        connection.execute("ATTACH DATABASE ?1 AS old", [old.to_string_lossy()])?;
        let known: bool =
            connection
                .query_row("SELECT count(*) FROM old.sqlite_schema WHERE name = 'replay'", [], |row| row.get(0))?;
        if known {
            connection.execute_batch(
                "INSERT INTO main.replay (key_id, high_water) SELECT key_id, high_water FROM old.replay WHERE true
                     ON CONFLICT (key_id) DO UPDATE SET high_water = max(high_water, excluded.high_water)",
            )?;
        }
        connection.execute_batch("DETACH DATABASE old")
    };
    keep().map_err(failed)
}

impl RecordReader {
    /// The numbers that the next record and the next label get at least.
    ///
    /// # Errors
    /// The disk refuses, or the newest partition is damaged.
    pub fn next_numbers(&self) -> Result<(i64, i64), StoreError> {
        let Some(newest) = self.newest()? else { return Ok((1, 1)) };
        let failed = StoreError::sqlite("read", &newest.path);
        let connection = format::open_read_only(&newest.path, &partition::FORMAT)?;
        let last = records::seqs(&connection).map_err(&failed)?;
        let ordinal = labels::next_ordinal(&connection).map_err(&failed)?;
        Ok((last.map_or(newest.first_seq, |(_, last)| last + 1), ordinal))
    }
}

impl RecordWriter {
    /// Goes on behind the numbers of records that are not here: a state that was restored without them has counted them.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn go_on_behind(&mut self, next_seq: i64, next_ordinal: i64, now: Timestamp) -> Result<(), StoreError> {
        if self.next_seq >= next_seq && self.next_ordinal >= next_ordinal {
            return Ok(());
        }
        self.next_seq = self.next_seq.max(next_seq);
        self.next_ordinal = self.next_ordinal.max(next_ordinal);
        self.begin_partition(partition::day(now))
    }
}
