//! The table `cycle`: the one row that holds the state of the decide part.
use rusqlite::{Connection, OptionalExtension, params};
use trainer_core::digest::Digest;

/// The state as stored: its bytes and how often it was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CycleRow {
    /// Grows with each new state; a lower one is never stored over a higher one.
    pub generation: i64,
    /// The encoded state.
    pub state: Vec<u8>,
}

pub(super) fn write(connection: &Connection, row: &CycleRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO cycle (one, generation, state, sha256) VALUES (1, ?1, ?2, ?3)")?
        .execute(params![row.generation, row.state, Digest::of(&row.state).to_string()])?;
    Ok(())
}

pub(super) fn generation(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT generation FROM cycle")?.query_row([], |row| row.get(0)).optional()
}

/// The stored state, or `Err` inside if its bytes are not those that were written.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Option<Result<CycleRow, String>>> {
    connection
        .prepare_cached("SELECT generation, state, sha256 FROM cycle")?
        .query_row([], |row| {
            let stored = CycleRow { generation: row.get(0)?, state: row.get(1)? };
            let expected: String = row.get(2)?;
            let found = Digest::of(&stored.state).to_string();
            Ok(if found == expected {
                Ok(stored)
            } else {
                Err(format!("the state's sha-256 is {found}, not {expected}"))
            })
        })
        .optional()
}
