//! The table `model`: what each model is, where it came from and what became of it.
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use trainer_core::digest::Digest;

use super::{digest_column, optional_digest_column};
use crate::decide::time::Timestamp;

/// What became of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelStatus {
    /// The last one to fall back to.
    Factory,
    /// Answers.
    Champion,
    /// Answered before and is kept to fall back to.
    Previous,
    /// Waits for, or is in, its trial.
    Candidate,
    /// Was refused; its digest stays on the denylist after its file is gone.
    Rejected,
    /// Answered once, and is no longer kept to fall back to.
    Retired,
}

impl ModelStatus {
    const ALL: [Self; 6] =
        [Self::Factory, Self::Champion, Self::Previous, Self::Candidate, Self::Rejected, Self::Retired];

    /// The word in the table and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Factory => "factory",
            Self::Champion => "champion",
            Self::Previous => "previous",
            Self::Candidate => "candidate",
            Self::Rejected => "rejected",
            Self::Retired => "retired",
        }
    }
}

impl FromSql for ModelStatus {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let word = value.as_str()?;
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| FromSqlError::Other(format!("`{word}` is no model status").into()))
    }
}

/// One model, under its digest; storing it again replaces the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    /// Its name and the sha-256 of its file.
    pub digest: Digest,
    /// Who signed it: `vendor`, `device` or `unsigned`.
    pub role: String,
    /// The model it was trained from.
    pub parent: Option<Digest>,
    /// The retrain that made it.
    pub run: Option<i64>,
    /// When it came here.
    pub installed_at: Timestamp,
    /// What became of it.
    pub status: ModelStatus,
}

const COLUMNS: &str = "digest, role, parent, run, installed_at, status";

pub(super) fn write(connection: &Connection, row: &ModelRow) -> rusqlite::Result<()> {
    connection
        .prepare_cached(&format!("INSERT OR REPLACE INTO model ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"))?
        .execute(params![
            row.digest.to_string(),
            row.role,
            row.parent.map(|digest| digest.to_string()),
            row.run,
            row.installed_at.0,
            row.status.as_str(),
        ])?;
    Ok(())
}

pub(super) fn find(connection: &Connection, digest: &Digest) -> rusqlite::Result<Option<ModelRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM model WHERE digest = ?1"))?
        .query_row([digest.to_string()], read)
        .optional()
}

pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<ModelRow>> {
    connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM model ORDER BY installed_at, digest"))?
        .query_map([], read)?
        .collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<ModelRow> {
    Ok(ModelRow {
        digest: digest_column(row, 0)?,
        role: row.get(1)?,
        parent: optional_digest_column(row, 2)?,
        run: row.get(3)?,
        installed_at: Timestamp(row.get(4)?),
        status: row.get(5)?,
    })
}
