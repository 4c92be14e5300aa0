//! The table `run`: the ledger of retrains, what each cost and how it ended.
use rusqlite::{Connection, OptionalExtension, Row, params};
use trainer_core::digest::Digest;

use super::{digest_column, optional_digest_column};
use crate::decide::time::Timestamp;

/// One retrain. The row is rewritten, under the same number, each time the retrain gets further.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Counts retrains from 1.
    pub number: i64,
    /// How far it is, in the words of the decide part.
    pub state: String,
    /// The model it started from.
    pub parent: Digest,
    /// The model it made, once there is one.
    pub candidate: Option<Digest>,
    /// The snapshot it learned from, once written.
    pub snapshot: Option<Digest>,
    /// `head`, `tail` or `full`.
    pub strategy: String,
    /// Training rows.
    pub rows: i64,
    /// CPU seconds used so far, over all attempts.
    pub cpu_s: f64,
    /// Joules by the power model; none if there is no model for this board.
    pub joules_modelled: Option<f64>,
    /// The gate's verdict as JSON, once given.
    pub verdict: Option<String>,
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended, however it ended.
    pub finished_at: Option<Timestamp>,
}

const COLUMNS: &str = "number, state, parent, candidate, snapshot, strategy, rows, cpu_s, joules_modelled, verdict, \
                       started_at, finished_at";

pub(super) fn write(connection: &Connection, row: &RunRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO run ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
        ))?
        .execute(params![
            row.number,
            row.state,
            row.parent.to_string(),
            row.candidate.map(|digest| digest.to_string()),
            row.snapshot.map(|digest| digest.to_string()),
            row.strategy,
            row.rows,
            row.cpu_s,
            row.joules_modelled,
            row.verdict,
            row.started_at.0,
            row.finished_at.map(|at| at.0),
        ])?;
    Ok(())
}

pub(super) fn find(connection: &Connection, number: i64) -> rusqlite::Result<Option<RunRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM run WHERE number = ?1"))?
        .query_row([number], read)
        .optional()
}

pub(super) fn newest(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<RunRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM run ORDER BY number DESC LIMIT ?1"))?
        .query_map([super::limit(limit)], read)?
        .collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        number: row.get(0)?,
        state: row.get(1)?,
        parent: digest_column(row, 2)?,
        candidate: optional_digest_column(row, 3)?,
        snapshot: optional_digest_column(row, 4)?,
        strategy: row.get(5)?,
        rows: row.get(6)?,
        cpu_s: row.get(7)?,
        joules_modelled: row.get(8)?,
        verdict: row.get(9)?,
        started_at: Timestamp(row.get(10)?),
        finished_at: row.get::<_, Option<i64>>(11)?.map(Timestamp),
    })
}
