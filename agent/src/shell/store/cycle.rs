//! The tables `cycle` and `cycle_part`: the state of the decide part, one row that vouches for it and its bytes in parts.
use rusqlite::{Connection, OptionalExtension, params};
use trainer_core::digest::Digest;

/// Bytes of one part: SQLite holds a value three times while it writes it.
const PART_BYTES: usize = 16 * 1024;

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
        .prepare_cached("INSERT OR REPLACE INTO cycle (one, generation, sha256) VALUES (1, ?1, ?2)")?
        .execute(params![row.generation, Digest::of(&row.state).to_string()])?;
    let mut put = connection.prepare_cached("INSERT OR REPLACE INTO cycle_part (number, bytes) VALUES (?1, ?2)")?;
    let mut parts = 0;
    for part in row.state.chunks(PART_BYTES) {
        put.execute(params![parts, part])?;
        parts += 1;
    }
    connection.prepare_cached("DELETE FROM cycle_part WHERE number >= ?1")?.execute([parts])?;
    Ok(())
}

pub(super) fn generation(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT generation FROM cycle")?.query_row([], |row| row.get(0)).optional()
}

/// The stored state, or `Err` inside if its bytes are not those that were written.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Option<Result<CycleRow, String>>> {
    let row: Option<(i64, String)> = connection
        .prepare_cached("SELECT generation, sha256 FROM cycle")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((generation, expected)) = row else { return Ok(None) };
    let mut state = Vec::new();
    let mut parts = connection.prepare_cached("SELECT bytes FROM cycle_part ORDER BY number")?;
    let mut rows = parts.query([])?;
    while let Some(row) = rows.next()? {
        state.extend_from_slice(row.get_ref(0)?.as_blob()?);
    }
    let found = Digest::of(&state).to_string();
    Ok(Some(if found == expected {
        Ok(CycleRow { generation, state })
    } else {
        Err(format!("the state's sha-256 is {found}, not {expected}"))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("migrations/control_1.sql")).unwrap();
        connection.execute_batch(include_str!("migrations/control_4.sql")).unwrap();
        connection
    }

    #[test]
    fn a_state_of_any_length_comes_back_whole_and_leaves_nothing_of_a_longer_one() {
        let connection = opened();
        assert_eq!(read(&connection).unwrap(), None);
        for (generation, bytes) in [(1, 100_000), (2, 1), (3, 0), (4, PART_BYTES), (5, PART_BYTES + 1)] {
            let state = (0..=250).cycle().take(bytes).collect();
            let row = CycleRow { generation, state };
            write(&connection, &row).unwrap();
            assert_eq!(read(&connection).unwrap(), Some(Ok(row)));
        }
    }

    #[test]
    fn a_part_that_is_lost_or_changed_is_noticed() {
        for damage in
            ["DELETE FROM cycle_part WHERE number = 1", "UPDATE cycle_part SET bytes = x'00' WHERE number = 2"]
        {
            let connection = opened();
            write(&connection, &CycleRow { generation: 1, state: vec![7; 3 * PART_BYTES] }).unwrap();
            connection.execute_batch(damage).unwrap();
            let refused = read(&connection).unwrap().unwrap().unwrap_err();
            assert!(refused.contains("sha-256"), "{refused}");
        }
    }
}
