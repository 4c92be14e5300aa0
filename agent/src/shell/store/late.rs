//! Late labels: those whose record is in an older partition than the one that is written to.
use rusqlite::Connection;
use ulid::Ulid;

use super::format::{self, Synchronous};
use super::labels::{self, LabelOutcome, NewLabel};
use super::partition::FORMAT;
use super::records::{self, NewRecord};
use super::{RecordWriter, StoreError};

/// Where the record of a label is.
pub(super) enum Place {
    Current,
    Older(usize),
    Unknown,
    Unreadable(String),
}

impl RecordWriter {
    /// Stores the labels `indices` in an older partition, in one synced transaction.
    pub(super) fn commit_late(
        &mut self,
        partition: usize,
        labels: &[NewLabel],
        indices: &[usize],
        outcomes: &mut [LabelOutcome],
    ) -> Result<(), StoreError> {
        let mut ordinal = self.next_ordinal;
        let failed = StoreError::sqlite("write", &self.partitions[partition].path);
        let connection = self.older(partition)?;
        let transaction = connection.unchecked_transaction().map_err(&failed)?;
        for &index in indices {
            let outcome = labels::store(&transaction, ordinal, &labels[index]).map_err(&failed)?;
            ordinal += i64::from(matches!(outcome, LabelOutcome::Stored { .. }));
            outcomes[index] = outcome;
        }
        transaction.commit().map_err(&failed)?;
        self.next_ordinal = ordinal;
        self.partitions[partition].facts = None;
        Ok(())
    }

    /// Finds the partition of a record, newest first; partitions whose ids cannot include it are not opened.
    pub(super) fn locate(&mut self, id: Ulid, group: &[NewRecord]) -> Result<Place, StoreError> {
        if group.iter().any(|record| record.id == id) {
            return Ok(Place::Current);
        }
        let newest = self.partitions.len() - 1;
        if let Some(connection) = &self.current {
            let failed = StoreError::sqlite("read", &self.partitions[newest].path);
            if records::contains(connection, id).map_err(failed)? {
                return Ok(Place::Current);
            }
        }
        for index in (0..newest).rev() {
            match self.older_contains(index, id) {
                Ok(true) => return Ok(Place::Older(index)),
                Ok(false) => {}
                Err(error) if error.is_disk() => return Ok(Place::Unreadable(error.chain())),
                Err(error) => {
                    tracing::warn!(error = %error.chain(), "an older partition takes no labels");
                    self.partitions[index].ids = Some(Ulid::max()..=Ulid::nil());
                }
            }
        }
        Ok(Place::Unknown)
    }

    fn older_contains(&mut self, index: usize, id: Ulid) -> Result<bool, StoreError> {
        let failed = StoreError::sqlite("read", &self.partitions[index].path);
        if self.partitions[index].ids.is_none() {
            // Looked at without being opened for writing: a start may ask all of them.
            let connection = format::open_read_only(&self.partitions[index].path, &FORMAT)?;
            self.partitions[index].ids = Some(records::ids(&connection).map_err(&failed)?);
        }
        if !self.partitions[index].ids.as_ref().is_some_and(|ids| ids.contains(&id)) {
            return Ok(false);
        }
        records::contains(self.older(index)?, id).map_err(&failed)
    }

    /// Closes the older partition. Its log goes home and it has none any more: a reader of a file with a log leaves an index of
    /// 32 KiB behind, a quarter of the partitions of a small budget.
    pub(super) fn close_older(&mut self) {
        if let Some((_, connection)) = self.older.take() {
            // A reader may be in the way: then it is as it was.
            let _ = connection.pragma_update(None, "journal_mode", "DELETE");
        }
    }

    /// The connection to an older partition.
    pub(super) fn older(&mut self, index: usize) -> Result<&Connection, StoreError> {
        let path = &self.partitions[index].path;
        if self.older.as_ref().is_none_or(|(open, _)| open != path) {
            let path = path.clone();
            self.close_older();
            let connection = format::open(&path, &FORMAT, Synchronous::Full)?;
            self.older = Some((path, connection));
        }
        Ok(&self.older.as_ref().expect("opened above").1)
    }
}
