//! The tables `command` and `replay`: what was ordered by signature, how it stands, and which counters are used up.
use std::collections::BTreeMap;
use std::time::Duration;

use fleet_protocol::keys::KeyId;
use rusqlite::{Connection, OptionalExtension, Row, params};
use ulid::Ulid;

use super::StoreError;
use super::control::Control;
use crate::decide::time::Uptime;

/// Commands that have ended and are still known by their id: a redelivery is answered with what became of them.
const ENDED_KEPT: i64 = 512;

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRow {
    /// Its name for ever.
    pub id: Ulid,
    /// The report on it, as JSON.
    pub status: String,
    /// The signed payload; empty once the command has ended.
    pub wish: String,
    /// The run that carries it out, if one does.
    pub run: Option<i64>,
    /// Whether nothing more will happen.
    pub ended: bool,
    /// It fails then, by running time.
    pub deadline: Uptime,
}

impl Control {
    /// Stores a new command together with the counters it uses up, in one durable transaction.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the disk refuses; nothing is changed then.
    pub fn admit(&mut self, row: &CommandRow, counters: &[(String, u64)]) -> Result<(), StoreError> {
        self.write(|connection| {
            for (key_id, counter) in counters {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO replay (key_id, high_water) VALUES (?1, ?2)")?
                    .execute(params![key_id, counter.cast_signed()])?;
            }
            write(connection, row)?;
            forget_old(connection)
        })
    }

    /// Raises the counters taken from each key to at least these.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the disk refuses; nothing is changed then.
    pub fn raise_high_water(&mut self, counters: &BTreeMap<KeyId, u64>) -> Result<(), StoreError> {
        let stored = self.high_water()?;
        let higher: Vec<_> = counters
            .iter()
            .filter(|(key, counter)| stored.get(key.as_str()).is_none_or(|stored| stored < counter))
            .collect();
        if higher.is_empty() {
            return Ok(());
        }
        self.write(|connection| {
            higher.iter().try_for_each(|(key, counter)| {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO replay (key_id, high_water) VALUES (?1, ?2)")?
                    .execute(params![key.as_str(), counter.cast_signed()])
                    .map(drop)
            })
        })
    }

    /// Stores how commands stand now.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if the disk refuses; nothing is changed then.
    pub fn put_commands(&mut self, rows: &[CommandRow]) -> Result<(), StoreError> {
        self.write(|connection| rows.iter().try_for_each(|row| write(connection, row)))
    }

    /// The command of that id.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if it cannot be read.
    pub fn command(&self, id: Ulid) -> Result<Option<CommandRow>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM command WHERE id = ?1"))?
                .query_row([id.to_bytes()], row)
                .optional()
        })
    }

    /// Commands that have not ended.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if they cannot be read.
    pub fn commands_open(&self) -> Result<Vec<CommandRow>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {COLUMNS} FROM command WHERE ended = 0 ORDER BY version"))?
                .query_map([], row)?
                .collect()
        })
    }

    /// At most `limit` commands that changed after `version`, the oldest change first, each with its version.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if they cannot be read.
    pub fn commands_after(&self, version: i64, limit: usize) -> Result<Vec<(i64, CommandRow)>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {COLUMNS}, version FROM command WHERE version > ?1 ORDER BY version LIMIT ?2"
                ))?
                .query_map(params![version, super::limit(limit)], |found| Ok((found.get(6)?, row(found)?)))?
                .collect()
        })
    }

    /// The largest counter taken from each key.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`] if they cannot be read.
    pub fn high_water(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT key_id, high_water FROM replay")?
                .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?
                .collect()
        })
    }
}

/// Running time as the column `deadline_at` holds it.
fn micros(Uptime(time): Uptime) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

const COLUMNS: &str = "id, status, wish, run, ended, deadline_at";

pub(super) fn write(connection: &Connection, row: &CommandRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO command ({COLUMNS}, version) VALUES (?1, ?2, ?3, ?4, ?5, ?6, \
             (SELECT coalesce(max(version), 0) + 1 FROM command))"
        ))?
        .execute(params![
            row.id.to_bytes(),
            row.status,
            if row.ended { "" } else { &row.wish },
            row.run,
            row.ended,
            micros(row.deadline)
        ])?;
    Ok(())
}

fn forget_old(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM command WHERE ended = 1 AND version < \
             (SELECT version FROM command WHERE ended = 1 ORDER BY version DESC LIMIT 1 OFFSET ?1)",
        )?
        .execute([ENDED_KEPT - 1])?;
    Ok(())
}

fn row(row: &Row<'_>) -> rusqlite::Result<CommandRow> {
    Ok(CommandRow {
        id: Ulid::from_bytes(row.get(0)?),
        status: row.get(1)?,
        wish: row.get(2)?,
        run: row.get(3)?,
        ended: row.get(4)?,
        deadline: Uptime(Duration::from_micros(u64::try_from(row.get::<_, i64>(5)?).unwrap_or(0))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(number: u128, ended: bool) -> CommandRow {
        let (status, wish) = ("{}".to_owned(), if ended { String::new() } else { "{\"ctr\":1}".to_owned() });
        CommandRow { id: Ulid::from(number), status, wish, run: None, ended, deadline: Uptime(Duration::from_secs(9)) }
    }

    #[test]
    fn a_command_and_the_counters_it_uses_up_are_stored_together_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.db");
        let (mut control, _) = Control::open(&path).unwrap();
        control.admit(&command(1, false), &[("a".to_owned(), u64::MAX), ("b".to_owned(), 3)]).unwrap();
        drop(control);
        let (mut control, _) = Control::open(&path).unwrap();
        let used = BTreeMap::from([("a".to_owned(), u64::MAX), ("b".to_owned(), 3)]);
        assert_eq!((control.high_water().unwrap(), control.commands_open().unwrap()), (used, vec![command(1, false)]));
        control.put_commands(&[CommandRow { ended: true, ..command(1, false) }]).unwrap();
        assert_eq!(control.command(Ulid::from(1)).unwrap(), Some(command(1, true)), "the wish is forgotten at the end");
        assert_eq!(control.commands_open().unwrap(), []);
    }

    #[test]
    fn each_change_is_told_once_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let (mut control, _) = Control::open(&folder.path().join("control.db")).unwrap();
        control.admit(&command(1, false), &[]).unwrap();
        control.admit(&command(2, false), &[]).unwrap();
        control.put_commands(&[command(1, true)]).unwrap();
        let told = |after| {
            let rows = control.commands_after(after, 9).unwrap();
            rows.into_iter().map(|(version, row)| (version, row.id.0)).collect::<Vec<_>>()
        };
        assert_eq!(told(0), [(2, 2), (3, 1)]);
        assert_eq!(told(2), [(3, 1)]);
    }

    #[test]
    fn ended_commands_are_bounded_and_open_ones_are_never_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let (mut control, _) = Control::open(&folder.path().join("control.db")).unwrap();
        control.admit(&command(1, false), &[]).unwrap();
        let most = u128::try_from(ENDED_KEPT).unwrap();
        (2..most + 10).for_each(|number| control.admit(&command(number, true), &[]).unwrap());
        assert_eq!(control.commands_open().unwrap().len(), 1);
        assert_eq!(control.commands_after(0, 10_000).unwrap().len(), usize::try_from(most).unwrap() + 1);
    }
}
