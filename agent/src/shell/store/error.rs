//! What can go wrong with the state directory, and which exit code tells it.
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use trainer_core::digest::Digest;

/// What to do about a file operation that failed.
fn next_step(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "run it as the user the folder belongs to, or choose another folder with `--state-dir`"
        }
        io::ErrorKind::ReadOnlyFilesystem => "remount it, or choose another folder with `--state-dir`",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "something that is no folder is in its way: choose another folder with `--state-dir`"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space: `df -h` says where it is short",
        _ => "look at the disk with `df -h` and `dmesg`",
    }
}

/// A failure of the state directory; each names the place and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another agent holds the directory.
    #[error(
        "the state directory {path} is in use by {}; stop that agent or choose another with `--state-dir`",
        .pid.map_or("another process".to_owned(), |pid| format!("process {pid}"))
    )]
    InUse {
        /// The state directory.
        path: PathBuf,
        /// The process that holds it, if it has told.
        pid: Option<u32>,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}; {}", next_step(.source))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// `SQLite` refused.
    #[error("cannot {action} {path}; look at the disk with `df -h` and `dmesg`")]
    Sqlite {
        /// What was tried, as a verb.
        action: &'static str,
        /// In which database.
        path: PathBuf,
        /// What `SQLite` answered.
        #[source]
        source: rusqlite::Error,
    },
    /// A database was written by a newer `hone`.
    #[error(
        "{path} has format {found}, this hone knows up to {known}; install the newer hone again or move the file away"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// A database cannot be understood.
    #[error("{path} is damaged: {reason}; move it away and start again, or restore it from a backup")]
    Unreadable {
        /// The database.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A model or snapshot file does not hold the bytes its name promises.
    #[error("the bytes of {path} are not those of {}; it is not used, install that model again", .digest.short())]
    Damaged {
        /// Where the file was set aside.
        path: PathBuf,
        /// The digest it should have had.
        digest: Digest,
    },
    /// There is no such model or snapshot file.
    #[error("there is no {path}; install {} again or choose another with `hone models`", .digest.short())]
    Missing {
        /// Where it would be.
        path: PathBuf,
        /// What was asked for.
        digest: Digest,
    },
    /// A state older than the stored one was to be stored.
    #[error("generation {given} cannot follow generation {stored} in {path}; please report this bug")]
    Stale {
        /// The database.
        path: PathBuf,
        /// The generation that is stored.
        stored: i64,
        /// The generation that was to be stored.
        given: i64,
    },
}

impl StoreError {
    /// A failed file operation.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// Completes an error of `SQLite` with what was tried and where.
    pub(crate) fn sqlite(action: &'static str, path: &Path) -> impl Fn(rusqlite::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Sqlite { action, path: path.clone(), source }
    }

    /// Whether the disk itself refuses (full, read-only, failing, not permitted): worth trying again later.
    #[must_use]
    pub fn is_disk(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Sqlite { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(
                    ErrorCode::DiskFull
                        | ErrorCode::ReadOnly
                        | ErrorCode::SystemIoFailure
                        | ErrorCode::CannotOpen
                        | ErrorCode::PermissionDenied
                        | ErrorCode::FileLockingProtocolFailed
                )
            ),
            Self::InUse { .. }
            | Self::Newer { .. }
            | Self::Unreadable { .. }
            | Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::Stale { .. } => false,
        }
    }

    /// Whether a database file is beyond use and may be set aside.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            // Nobody else writes these files: a value of another type or spelling than ours was not written by us.
            Self::Unreadable { .. }
            | Self::Sqlite {
                source: rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..),
                ..
            } => true,
            Self::Sqlite { source, .. } => {
                matches!(source.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            }
            Self::InUse { .. }
            | Self::Io { .. }
            | Self::Newer { .. }
            | Self::Damaged { .. }
            | Self::Missing { .. }
            | Self::Stale { .. } => false,
        }
    }

    /// The documented exit code: 6 in use, 5 model files, 7 what the disk holds or refuses, 1 our own bugs.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::InUse { .. } => 6,
            Self::Damaged { .. } | Self::Missing { .. } => 5,
            Self::Io { .. } | Self::Newer { .. } | Self::Unreadable { .. } => 7,
            Self::Sqlite { .. } if self.is_disk() || self.is_damage() => 7,
            Self::Sqlite { .. } | Self::Stale { .. } => 1,
        }
    }

    /// The error and its causes in one line, for a status or a log.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i32) -> StoreError {
        StoreError::sqlite("write", Path::new("records/1.db"))(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(code),
            None,
        ))
    }

    #[test]
    fn a_full_or_read_only_disk_is_a_disk_problem_and_a_bug_of_ours_is_not() {
        for code in [rusqlite::ffi::SQLITE_FULL, rusqlite::ffi::SQLITE_READONLY, rusqlite::ffi::SQLITE_IOERR] {
            assert!(refused(code).is_disk());
            assert_eq!(refused(code).exit_code(), 7);
        }
        assert!(refused(rusqlite::ffi::SQLITE_CORRUPT).is_damage());
        assert_eq!(refused(rusqlite::ffi::SQLITE_CORRUPT).exit_code(), 7);
        assert_eq!(refused(rusqlite::ffi::SQLITE_CONSTRAINT).exit_code(), 1);
    }

    #[test]
    fn the_chain_names_the_place_the_next_step_and_the_cause() {
        let text = refused(rusqlite::ffi::SQLITE_FULL).chain();
        assert!(text.contains("records/1.db") && text.contains("df -h") && text.contains("full"), "{text}");
    }
}
