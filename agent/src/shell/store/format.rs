//! How a database becomes usable, in four named steps: open, create, upgrade, validate.
//!
//! A step of a format is one closed `.sql` file in `migrations/`: once released it is never edited, a change is the
//! next file. `user_version` counts the steps a file has seen.
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::StoreError;

/// The shape of one kind of database.
pub(crate) struct Format {
    /// Stamped into the file, so that a foreign database is refused instead of migrated.
    pub(crate) application_id: i64,
    /// Step `n` leads from version `n` to `n + 1`.
    pub(crate) steps: &'static [&'static str],
    /// Tables that must be there after the last step.
    pub(crate) tables: &'static [&'static str],
}

/// How much a commit must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Synchronous {
    /// `NORMAL`: fsync at checkpoints. A power cut may lose the newest commits, never corrupts.
    Normal,
    /// `FULL`: fsync at each commit. A power cut loses nothing that was committed.
    Full,
}

/// The files `SQLite` keeps beside a database; they share its fate.
pub(crate) const COMPANIONS: [&str; 2] = ["-wal", "-shm"];

/// A reader waits this long for another process or thread that recovers or checkpoints the same file.
pub(super) const BUSY: Duration = Duration::from_secs(2);

/// `SQLite`'s own page.
pub(super) const PAGE_BYTES: u32 = 4096;

/// Opens `path` for writing, creates or upgrades its tables, and validates the result.
pub(crate) fn open(path: &Path, format: &Format, synchronous: Synchronous) -> Result<Connection, StoreError> {
    open_paged(path, format, synchronous, PAGE_BYTES)
}

/// The same; a file that is not there yet gets pages of `page_bytes`.
pub(crate) fn open_paged(
    path: &Path,
    format: &Format,
    synchronous: Synchronous,
    page_bytes: u32,
) -> Result<Connection, StoreError> {
    check_header(path)?;
    let mut connection = connect(path, synchronous, page_bytes)?;
    let version = version(&connection, path, format)?;
    if version == 0 {
        create(&mut connection, path, format)?;
    } else {
        upgrade(&mut connection, path, format, version)?;
    }
    validate(&connection, path, format)?;
    Ok(connection)
}

/// Whether an older `hone` wrote `path`, by its header alone: a hundred partitions are asked at every start.
///
/// What the log still holds is not looked at, so a file that was upgraded lately may be called older once more.
pub(crate) fn is_older(path: &Path, format: &Format) -> bool {
    let mut header = [0; 64];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    let found = u32::from_be_bytes([header[60], header[61], header[62], header[63]]);
    read.is_ok() && i64::from(found) < known(format)
}

/// Opens `path` for reading only; a file that another version wrote is refused.
pub(crate) fn open_read_only(path: &Path, format: &Format) -> Result<Connection, StoreError> {
    let failed = StoreError::sqlite("read", path);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.busy_timeout(BUSY).map_err(&failed)?;
    // 256 KiB: a reader looks at each page once; the whole agent has 15 MB.
    connection.pragma_update(None, "cache_size", -256).map_err(&failed)?;
    let found = version(&connection, path, format)?;
    if found < known(format) {
        let reason = format!("it has format {found}, which only the running agent may upgrade");
        return Err(StoreError::Unreadable { path: path.to_owned(), reason });
    }
    Ok(connection)
}

/// Writes the log home whenever it has `bytes`.
pub(crate) fn keep_log_below(connection: &Connection, bytes: u64) -> rusqlite::Result<()> {
    let page_bytes: u64 = connection.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0))?.max(512).into();
    let pages = (bytes / page_bytes).clamp(16, 65_536);
    connection.pragma_update(None, "wal_autocheckpoint", i64::try_from(pages).unwrap_or(1_000))
}

/// Sets how much each following commit of `connection` survives.
pub(crate) fn set_synchronous(connection: &Connection, synchronous: Synchronous) -> rusqlite::Result<()> {
    let mode = match synchronous {
        Synchronous::Normal => "NORMAL",
        Synchronous::Full => "FULL",
    };
    connection.pragma_update(None, "synchronous", mode)
}

/// Refuses a file whose header SQLite would not call corrupt, but "unsupported" or read-only: nobody else writes these files, so
/// it is damage all the same. Source: the SQLite file format, section 1.3.
fn check_header(path: &Path) -> Result<(), StoreError> {
    let mut header = [0; 100];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) => {}
        // New, or too short for a header: SQLite says what it is.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => return Ok(()),
        Err(source) => return Err(StoreError::Io { action: "read", path: path.to_owned(), source }),
    }
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let known = header.starts_with(b"SQLite format 3\0")
        && (1..=2).contains(&header[18])
        && (1..=2).contains(&header[19])
        && number(44) <= 4
        && number(56) <= 3;
    if known {
        return Ok(());
    }
    Err(StoreError::Unreadable { path: path.to_owned(), reason: "by its first bytes it is not a database".to_owned() })
}

/// Step 1, open: connects and sets the pragmas.
fn connect(path: &Path, synchronous: Synchronous, page_bytes: u32) -> Result<Connection, StoreError> {
    let set = || -> rusqlite::Result<Connection> {
        // No mutex: one thread owns a connection. No URI names: a path is a path.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        // Of a file that exists it changes nothing.
        connection.pragma_update(None, "page_size", page_bytes)?;
        // Readers never block the writer, and a group of rows costs one sequential append (reference: 3.7 × against
        // 4.9 × bytes written per byte with a rollback journal).
        connection.pragma_update(None, "journal_mode", "WAL")?;
        set_synchronous(&connection, synchronous)?;
        // 4 MB between checkpoints: each page is written home once for many commits; a longer log saves 5 % more bytes
        // and costs start time and space.
        keep_log_below(&connection, 4 << 20)?;
        // A log that once grew, say under a long read, is cut again instead of staying.
        connection.pragma_update(None, "journal_size_limit", 8 << 20)?;
        // 256 KiB instead of 2 MiB: the tables are appended to, only the upper pages of the trees are used again, and pages beyond
        // wait in the log instead.
        connection.pragma_update(None, "cache_size", -256)?;
        // Sorting never writes to the card.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        Ok(connection)
    };
    set().map_err(StoreError::sqlite("open", path))
}

/// The version of the file; refuses files of a newer `hone` and of other programs.
fn version(connection: &Connection, path: &Path, format: &Format) -> Result<i64, StoreError> {
    let failed = StoreError::sqlite("read", path);
    let number =
        |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).map_err(&failed);
    let found = number("user_version")?;
    let known = known(format);
    if number("application_id")? != format.application_id && (found != 0 || number("schema_version")? != 0) {
        return Err(StoreError::Unreadable { path: path.to_owned(), reason: "another program wrote it".to_owned() });
    }
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    Ok(found)
}

/// Step 2, create: all steps on an empty file, in one transaction.
fn create(connection: &mut Connection, path: &Path, format: &Format) -> Result<(), StoreError> {
    run_steps(connection, format, 0).map_err(StoreError::sqlite("create", path))
}

/// Step 3, upgrade: the steps this file has not seen, in one transaction.
fn upgrade(connection: &mut Connection, path: &Path, format: &Format, from: i64) -> Result<(), StoreError> {
    if from == known(format) {
        return Ok(());
    }
    run_steps(connection, format, from).map_err(StoreError::sqlite("upgrade", path))
}

fn run_steps(connection: &mut Connection, format: &Format, from: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for step in format.steps.iter().skip(usize::try_from(from).unwrap_or(0)) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", format.application_id)?;
    transaction.pragma_update(None, "user_version", known(format))?;
    transaction.commit()
}

/// Step 4, validate: the tables are there and can be read.
fn validate(connection: &Connection, path: &Path, format: &Format) -> Result<(), StoreError> {
    for table in format.tables {
        let there = connection
            .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1", [table], |row| {
                row.get::<_, i64>(0)
            })
            .map_err(StoreError::sqlite("validate", path))?;
        if there == 0 {
            let reason = format!("the table `{table}` is missing");
            return Err(StoreError::Unreadable { path: path.to_owned(), reason });
        }
    }
    Ok(())
}

fn known(format: &Format) -> i64 {
    i64::try_from(format.steps.len()).expect("a format has a handful of steps")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Format = Format { application_id: 7, steps: &["CREATE TABLE a (x INTEGER)"], tables: &["a"] };
    const TWO: Format = Format {
        application_id: 7,
        steps: &[
            "CREATE TABLE a (x INTEGER)",
            "ALTER TABLE a ADD COLUMN y INTEGER DEFAULT 5; CREATE TABLE b (z INTEGER)",
        ],
        tables: &["a", "b"],
    };
    const BROKEN: Format = Format {
        application_id: 7,
        steps: &["CREATE TABLE a (x INTEGER)", "CREATE TABLE b (z INTEGER); CREATE TABLE a (x INTEGER)"],
        tables: &["a"],
    };

    #[test]
    fn an_older_file_is_upgraded_with_its_rows_and_a_new_one_is_created() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        open(&path, &ONE, Synchronous::Full).unwrap().execute("INSERT INTO a VALUES (3)", []).unwrap();
        let upgraded = open(&path, &TWO, Synchronous::Full).unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        assert_eq!(upgraded.query_row("SELECT x, y FROM a", [], row).unwrap(), (3, 5));
        open(&folder.path().join("y.db"), &TWO, Synchronous::Normal)
            .unwrap()
            .execute("INSERT INTO b VALUES (1)", [])
            .unwrap();
    }

    #[test]
    fn a_failed_upgrade_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        drop(open(&path, &ONE, Synchronous::Full).unwrap());
        assert!(open(&path, &BROKEN, Synchronous::Full).is_err());
        drop(open(&path, &TWO, Synchronous::Full).unwrap());
    }

    #[test]
    fn a_newer_file_is_refused_with_both_versions_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        drop(open(&path, &TWO, Synchronous::Full).unwrap());
        let refused = open(&path, &ONE, Synchronous::Full).unwrap_err();
        assert!(matches!(refused, StoreError::Newer { found: 2, known: 1, .. }));
        assert!(refused.to_string().contains("install the newer hone again"), "{refused}");
        assert!(!refused.is_damage());
        assert!(matches!(open_read_only(&path, &ONE), Err(StoreError::Newer { .. })));
    }

    #[test]
    fn a_file_of_another_program_or_with_a_missing_table_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE foreign_table (x)").unwrap();
        assert!(open(&path, &ONE, Synchronous::Full).unwrap_err().is_damage());
        let path = folder.path().join("y.db");
        open(&path, &TWO, Synchronous::Full).unwrap().execute_batch("DROP TABLE b").unwrap();
        assert!(open(&path, &TWO, Synchronous::Full).unwrap_err().to_string().contains("`b`"));
    }
}
