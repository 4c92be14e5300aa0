//! The state directory: what the agent knows, in files that survive a power cut.
//!
//! ```text
//! lock                                one agent per directory, holds its process number
//! control.db                          state, reports, ledger, lineage: the one commit point (FULL)
//! records/<first seq>-<day>.db        records and their labels, whole files are retired (NORMAL)
//! models/<sha256>.safetensors         bundles
//! models/<sha256>.dsse                who answers for each
//! floors.json, floors.json.1          what may not come back, once more outside of control.db
//! device.key                          what this device signs with
//! snapshots/<sha256>.snapshot         what retrains learned from
//! fleet.json                          what the fleet has set, and keys it has revoked
//! fleet/incoming/, fleet/installed/   a bundle on its way in, and at most two that wait for their promotion
//! *.damaged-<n>                       what could not be read, kept for a look
//! ```
mod commands;
pub(crate) mod control;
mod copy;
mod cycle;
mod error;
mod format;
mod labels;
mod late;
mod ledger;
mod lineage;
mod outbox;
mod partition;
mod purge;
mod reader;
mod records;
mod reports;
mod retain;
#[cfg(test)]
pub(crate) mod samples;
mod settings;
#[cfg(test)]
mod upgrade_tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::Row;
use rusqlite::types::Type;
use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

pub use commands::CommandRow;
pub use control::Control;
pub use copy::{copy_database, keep_replay_floors};
pub use cycle::CycleRow;
pub use error::StoreError;
pub use labels::{LabelOutcome, LabelledRow, NewLabel};
pub use ledger::{Interval, RunCost, RunGain, RunRow};
pub use lineage::{ModelRow, ModelStatus};
pub use outbox::{Backlog, LinkRow};
pub use purge::Purged;
pub use reader::{RecordCounts, RecordReader, ToldRow};
pub use records::{NewRecord, Record};
pub use reports::{ReportRow, StoredReport};
pub use retain::{Retention, Retired};
pub use settings::{Durability, FileSettings, FlashSettings, RetentionSettings};
pub use writer::RecordWriter;

use super::files::{create_private_folder, rename_durable, set_aside, suffixed};
use super::lock::Lock;
use super::models::ModelStore;

/// Everything one agent owns on disk, while it runs.
#[derive(Debug)]
pub struct StateDir {
    /// The directory.
    pub path: PathBuf,
    /// State, reports, ledger and lineage; for the daemon loop.
    pub control: Control,
    /// The only writing connection to the records; for the recorder.
    pub records: RecordWriter,
    /// Bundles.
    pub models: ModelStore,
    /// What retrains learned from.
    pub snapshots: ModelStore,
    /// Databases that could not be read at this start, to be reported.
    pub set_aside: Vec<SetAside>,
    /// Held as long as any other part is used.
    pub lock: Lock,
}

/// A database that could not be read, and where it is kept now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Its new name.
    pub path: PathBuf,
    /// What was wrong with it.
    pub reason: String,
}

impl StateDir {
    /// Opens or creates the state directory at `path` (0700), with default settings of the record files.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another agent holds it; [`StoreError::Newer`] if a newer `hone` wrote it; otherwise the disk
    /// refuses. What is damaged is no error: it is set aside and listed in [`StateDir::set_aside`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, FileSettings::default())
    }

    /// [`StateDir::open`] with other settings of the record files.
    ///
    /// # Errors
    /// As [`StateDir::open`].
    pub fn open_with(path: &Path, settings: FileSettings) -> Result<Self, StoreError> {
        create_private_folder(path).map_err(|source| StoreError::io("create", path, source))?;
        let lock = Lock::take(path, &path.join("lock"))?;
        let (control, control_aside) = Control::open(&path.join("control.db"))?;
        let (records, record_asides) = RecordWriter::open(&path.join("records"), settings)?;
        Ok(Self {
            path: path.to_owned(),
            control,
            records,
            models: ModelStore::open(&path.join("models"), "safetensors")?,
            snapshots: ModelStore::open(&path.join("snapshots"), "snapshot")?,
            set_aside: control_aside.into_iter().chain(record_asides).collect(),
            lock,
        })
    }

    /// A reader of the records, for any thread; it never waits for the recorder.
    #[must_use]
    pub fn reader(&self) -> RecordReader {
        RecordReader::open(&self.path.join("records"))
    }
}

/// Sets the database `path` aside with the files `SQLite` keeps beside it: a log left behind would be replayed into the
/// database that takes its place.
fn set_aside_database(path: &Path, damage: &StoreError) -> Result<SetAside, StoreError> {
    let failed = |source| StoreError::io("set aside", path, source);
    let aside = set_aside(path).map_err(failed)?;
    for companion in format::COMPANIONS {
        match rename_durable(&suffixed(path, companion), &suffixed(&aside, companion)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(SetAside { path: aside, reason: damage.chain() })
}

/// A count of rows as `SQLite` takes it.
fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

fn digest_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    parse_digest(column, &row.get::<_, String>(column)?)
}

fn optional_digest_column(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Digest>> {
    row.get::<_, Option<String>>(column)?.map(|text| parse_digest(column, &text)).transpose()
}

fn parse_digest(column: usize, text: &str) -> rusqlite::Result<Digest> {
    text.parse().map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::samples::record;
    use super::*;
    use crate::decide::time::Timestamp;

    #[test]
    fn a_new_directory_is_private_complete_and_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hone");
        let mut state = StateDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(StateDir::open(&path), Err(StoreError::InUse { pid: Some(_), .. })));
        state.records.commit(&[record(1, Timestamp(0))], &[]).unwrap();
        assert_eq!(state.reader().counts().unwrap().records, 1);
        let model = state.models.put(b"bundle").unwrap();
        let snapshot = state.snapshots.put(b"rows").unwrap();
        assert!(path.join(format!("models/{model}.safetensors")).is_file());
        assert!(path.join(format!("snapshots/{snapshot}.snapshot")).is_file());
        drop(state);
        let state = StateDir::open(&path).unwrap();
        assert_eq!((state.set_aside, state.records.next_seq()), (vec![], 2));
    }

    #[test]
    fn damaged_databases_are_kept_told_of_and_do_not_stop_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = StateDir::open(folder.path()).unwrap();
        state.records.commit(&[record(1, Timestamp(0))], &[]).unwrap();
        drop(state);
        for name in ["control.db", "records/0000000000000001-1970-01-01.db"] {
            fs::write(folder.path().join(name), "no database ".repeat(1000)).unwrap();
        }
        let state = StateDir::open(folder.path()).unwrap();
        let names: Vec<_> =
            state.set_aside.iter().map(|aside| aside.path.strip_prefix(folder.path()).unwrap()).collect();
        assert_eq!(
            names,
            [Path::new("control.db.damaged-1"), Path::new("records/0000000000000001-1970-01-01.db.damaged-1")]
        );
        assert!(state.set_aside.iter().all(|aside| fs::read(&aside.path).unwrap().starts_with(b"no database")));
        assert_eq!(state.control.cycle().unwrap(), None);
    }
}
