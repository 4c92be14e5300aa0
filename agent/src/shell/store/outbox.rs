//! The tables `outbox` and `parked`: how far the fleet has the reports, which themselves are the queue.
use rusqlite::{Connection, OptionalExtension, params};

use super::control::Control;
use super::{StoreError, StoredReport};
use crate::decide::outbox::{Class, Entry};
use crate::decide::time::Timestamp;

/// Where the link goes on after a start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkRow {
    /// The broker has taken everything up to this position.
    pub through: i64,
    /// Starts of the link so far.
    pub boots: i64,
}

/// What the broker has not taken yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Reports.
    pub reports: i64,
    /// Bytes of their payloads.
    pub bytes: i64,
    /// Reports that were given up so far.
    pub parked: i64,
}

impl Control {
    /// Counts a start of the link and returns where it goes on.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the disk refuses.
    pub fn link_begins(&mut self) -> Result<LinkRow, StoreError> {
        self.write(|connection| {
            connection.execute(
                "INSERT INTO outbox (one, through, boots) VALUES (1, 0, 1) ON CONFLICT (one) DO UPDATE SET boots = boots + 1",
                [],
            )?;
            Ok(read(connection)?.unwrap_or_default())
        })
    }

    /// Everything up to this position is with the broker; 0 if no link was ever begun.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if it cannot be read.
    pub fn link_through(&self) -> Result<i64, StoreError> {
        Ok(self.read(read)?.map_or(0, |row| row.through))
    }

    /// Moves on to `through`, which never goes back, and parks what was refused for good with its reason code.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the disk refuses.
    pub fn link_took(&mut self, through: i64, parked: &[(i64, u8)], at: Timestamp) -> Result<(), StoreError> {
        self.write(|connection| {
            for (position, code) in parked {
                connection
                    .prepare_cached("INSERT OR IGNORE INTO parked (position, code, at) VALUES (?1, ?2, ?3)")?
                    .execute(params![position, code, at.0])?;
            }
            connection
                .prepare_cached("UPDATE outbox SET through = max(through, ?1) WHERE one = 1")?
                .execute([through])?;
            Ok(())
        })
    }

    /// At most `limit` reports after `position` that wait for the broker, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if they cannot be read.
    pub fn unsent_after(&self, position: i64, limit: usize) -> Result<Vec<StoredReport>, StoreError> {
        self.reports_after(position, limit)
    }

    /// How much waits.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if it cannot be read.
    pub fn backlog(&self) -> Result<Backlog, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT count(*), coalesce(sum(octet_length(json)), 0), (SELECT count(*) FROM parked) FROM report \
                     WHERE position > coalesce((SELECT through FROM outbox), 0)",
                )?
                .query_row([], |row| Ok(Backlog { reports: row.get(0)?, bytes: row.get(1)?, parked: row.get(2)? }))
        })
    }

    /// Everything that waits, as the eviction needs it.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if it cannot be read.
    pub fn unsent_entries(&self) -> Result<Vec<Entry>, StoreError> {
        self.read(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT position, kind, octet_length(json) FROM report \
                 WHERE position > coalesce((SELECT through FROM outbox), 0) ORDER BY position",
            )?;
            let rows = query.query_map([], |row| {
                let kind: String = row.get(1)?;
                let bytes: i64 = row.get(2)?;
                Ok(Entry { position: row.get(0)?, class: Class::of(&kind), bytes: u64::try_from(bytes).unwrap_or(0) })
            })?;
            rows.collect()
        })
    }

    /// Deletes these reports: the cap says so.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the disk refuses; none is deleted then.
    pub fn drop_reports(&mut self, positions: &[i64]) -> Result<(), StoreError> {
        self.write(|connection| {
            let mut delete = connection.prepare_cached("DELETE FROM report WHERE position = ?1")?;
            positions.iter().try_for_each(|position| delete.execute([position]).map(drop))
        })
    }
}

fn read(connection: &Connection) -> rusqlite::Result<Option<LinkRow>> {
    connection
        .prepare_cached("SELECT through, boots FROM outbox")?
        .query_row([], |row| Ok(LinkRow { through: row.get(0)?, boots: row.get(1)? }))
        .optional()
}

#[cfg(test)]
mod tests {
    use ulid::Ulid;

    use super::*;
    use crate::shell::store::{CycleRow, ReportRow};

    fn report(number: u128, kind: &str) -> ReportRow {
        let at = Timestamp(5);
        ReportRow { id: Ulid::from(number), kind: kind.to_owned(), json: "x".repeat(10), at }
    }

    #[test]
    fn the_queue_goes_on_after_a_restart_where_the_broker_has_it_and_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.db");
        let (mut control, _) = Control::open(&path).unwrap();
        assert_eq!(control.link_begins().unwrap(), LinkRow { through: 0, boots: 1 });
        let cycle = CycleRow { generation: 1, state: vec![1] };
        let reports = [report(1, "promote"), report(2, "drift"), report(3, "gate")];
        control.commit(&cycle, &reports, &[], &[]).unwrap();
        assert_eq!(control.backlog().unwrap(), Backlog { reports: 3, bytes: 30, parked: 0 });
        control.link_took(2, &[(2, 0x99)], Timestamp(6)).unwrap();
        control.link_took(1, &[], Timestamp(6)).unwrap();
        drop(control);
        let (mut control, _) = Control::open(&path).unwrap();
        assert_eq!(control.link_begins().unwrap(), LinkRow { through: 2, boots: 2 });
        assert_eq!(control.backlog().unwrap(), Backlog { reports: 1, bytes: 10, parked: 1 });
        assert_eq!(control.unsent_after(2, 9).unwrap()[0].report, report(3, "gate"));
    }

    #[test]
    fn what_the_cap_drops_is_gone_and_what_stays_keeps_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let (mut control, _) = Control::open(&folder.path().join("control.db")).unwrap();
        let cycle = CycleRow { generation: 1, state: vec![1] };
        control.commit(&cycle, &[report(1, "promote"), report(2, "drift")], &[], &[]).unwrap();
        let entries = control.unsent_entries().unwrap();
        assert_eq!(entries[1], Entry { position: 2, class: Class::Signal, bytes: 10 });
        control.drop_reports(&crate::decide::outbox::evict(&entries, 15)).unwrap();
        let left = control.unsent_after(0, 9).unwrap();
        assert_eq!(left.iter().map(|stored| stored.position).collect::<Vec<_>>(), [1]);
    }
}
