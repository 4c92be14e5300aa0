//! The table `report`: facts, stored with the state that made them true, until the fleet has them.
use rusqlite::{Connection, Row, params};
use ulid::Ulid;

use crate::decide::time::Timestamp;

/// One fact for the fleet. Storing or sending it twice is harmless: the id says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRow {
    /// Unique for ever.
    pub id: Ulid,
    /// Which kind of fact, such as `promoted`.
    pub kind: String,
    /// The payload.
    pub json: String,
    /// When it became true.
    pub at: Timestamp,
}

/// A report with its place in the order of commits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredReport {
    /// Grows with each stored report, also when the clock is set back; never used twice.
    pub position: i64,
    /// The report.
    pub report: ReportRow,
}

pub(super) fn write(connection: &Connection, row: &ReportRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO report (id, kind, json, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (id) DO NOTHING")?
        .execute(params![row.id.to_bytes(), row.kind, row.json, row.at.0])?;
    Ok(())
}

pub(super) fn after(connection: &Connection, position: i64, limit: usize) -> rusqlite::Result<Vec<StoredReport>> {
    connection
        .prepare_cached(
            "SELECT position, id, kind, json, at FROM report WHERE position > ?1 ORDER BY position LIMIT ?2",
        )?
        .query_map(params![position, super::limit(limit)], read)?
        .collect()
}

pub(super) fn newest(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<StoredReport>> {
    connection
        .prepare_cached("SELECT position, id, kind, json, at FROM report ORDER BY position DESC LIMIT ?1")?
        .query_map([super::limit(limit)], read)?
        .collect()
}

pub(super) fn forget_through(connection: &Connection, position: i64) -> rusqlite::Result<usize> {
    connection.prepare_cached("DELETE FROM report WHERE position <= ?1")?.execute([position])
}

fn read(row: &Row<'_>) -> rusqlite::Result<StoredReport> {
    Ok(StoredReport {
        position: row.get(0)?,
        report: ReportRow {
            id: Ulid::from_bytes(row.get(1)?),
            kind: row.get(2)?,
            json: row.get(3)?,
            at: Timestamp(row.get(4)?),
        },
    })
}
