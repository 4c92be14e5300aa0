//! The table `label`: what was true, told later, by record id.
//!
//! Labels live in the partition of their record, not in a database of their own: a training row is one join in one file, a
//! dropped partition takes its labels along without a single DELETE, and a label without its record cannot exist. The price
//! is that a late label writes to an older file, which happens in a transaction of its own.
use rusqlite::{Connection, OptionalExtension, Row, params};
use ulid::Ulid;

use super::records::{self, Record};
use crate::decide::time::Timestamp;

/// What one source says was true of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct NewLabel {
    /// The record.
    pub id: Ulid,
    /// Class index, or one number per target.
    pub truth: Vec<f32>,
    /// Who says so. A record has one truth: what was said first.
    pub source: String,
    /// When it came here.
    pub at: Timestamp,
}

/// What became of a label.
#[derive(Clone, Debug, PartialEq)]
pub enum LabelOutcome {
    /// It is stored and survives a power cut.
    Stored {
        /// Grows with each stored label, over all partitions and restarts; may skip numbers.
        ordinal: i64,
        /// What was labelled: features, output, and the model that answered.
        record: Box<Record>,
    },
    /// The same was said before, by whomever; nothing changed.
    Duplicate {
        /// The ordinal of the stored label.
        ordinal: i64,
        /// The number of the record.
        seq: i64,
    },
    /// Something else was said before, which is kept.
    Conflict {
        /// The number of the record.
        seq: i64,
        /// What it said first.
        kept: Vec<f32>,
    },
    /// No record of that id is stored, or not any more.
    Unknown,
    /// The disk refused; the label may be sent again later.
    NotStored {
        /// Why.
        reason: String,
    },
}

/// A labelled record, as training needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledRow {
    /// The label's ordinal.
    pub ordinal: i64,
    /// The record's number.
    pub seq: i64,
    /// Raw features, as recorded.
    pub features: Vec<f32>,
    /// Class index, or one number per target.
    pub truth: Vec<f32>,
    /// What was answered then.
    pub output: Vec<f32>,
    /// Part of the plant, if its source said so.
    pub segment: Option<String>,
}

/// Stores `label` under `ordinal` if its record is in this partition and nobody has spoken about it yet.
///
/// One label per record: a second one would make two training rows of one sample, and might stand on both sides of a hold-out.
pub(super) fn store(connection: &Connection, ordinal: i64, label: &NewLabel) -> rusqlite::Result<LabelOutcome> {
    let Some(record) = records::by_id(connection, label.id)? else {
        return Ok(LabelOutcome::Unknown);
    };
    let mut truth = Vec::new();
    records::encode(&label.truth, &mut truth);
    let stored = connection
        .prepare_cached("SELECT ordinal, truth FROM label WHERE seq = ?1 ORDER BY ordinal LIMIT 1")?
        .query_row([record.seq], |row| {
            Ok((row.get::<_, i64>(0)?, row.get_ref(1)?.as_blob()? == truth, records::floats(row, 1)?))
        })
        .optional()?;
    match stored {
        Some((ordinal, true, _)) => Ok(LabelOutcome::Duplicate { ordinal, seq: record.seq }),
        Some((_, false, kept)) => Ok(LabelOutcome::Conflict { seq: record.seq, kept }),
        None => {
            connection
                .prepare_cached("INSERT INTO label (ordinal, seq, source, at, truth) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![ordinal, record.seq, label.source, label.at.0, truth])?;
            Ok(LabelOutcome::Stored { ordinal, record: Box::new(record) })
        }
    }
}

/// What was said of the record number `seq`, if anything was.
pub(super) fn truth_of(connection: &Connection, seq: i64) -> rusqlite::Result<Option<Vec<f32>>> {
    connection
        .prepare_cached("SELECT truth FROM label WHERE seq = ?1 ORDER BY ordinal LIMIT 1")?
        .query_row([seq], |row| records::floats(row, 0))
        .optional()
}

/// The lowest ordinal that is free as far as this partition knows.
pub(super) fn next_ordinal(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row(
        "SELECT max((SELECT ordinal FROM next), coalesce((SELECT max(ordinal) FROM label), 0) + 1)",
        [],
        |row| row.get(0),
    )
}

/// Promises that ordinals below `ordinal` may be in use anywhere.
pub(super) fn reserve(connection: &Connection, ordinal: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("UPDATE next SET ordinal = ?1 WHERE ordinal < ?1")?.execute([ordinal])?;
    Ok(())
}

/// Copies all labels, and the promise about ordinals, from the attached database `old`.
pub(super) fn copy(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "INSERT INTO main.label (ordinal, seq, source, at, truth)
             SELECT ordinal, seq, source, at, truth FROM old.label ORDER BY ordinal;
         UPDATE main.next SET ordinal = (SELECT ordinal FROM old.next);",
    )
}

/// The same, but only the labels of records that are here.
pub(super) fn copy_of_records(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(
        "INSERT INTO main.label (ordinal, seq, source, at, truth)
             SELECT ordinal, seq, source, at, truth FROM old.label
             WHERE seq IN (SELECT seq FROM main.record) ORDER BY ordinal;
         UPDATE main.next SET ordinal = (SELECT ordinal FROM old.next);",
    )
}

/// At most `limit` ordinals above `ordinal`, lowest first.
pub(super) fn ordinals_after(connection: &Connection, ordinal: i64, limit: usize) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT ordinal FROM label WHERE ordinal > ?1 ORDER BY ordinal LIMIT ?2")?
        .query_map(params![ordinal, super::limit(limit)], |row| row.get(0))?
        .collect()
}

/// The highest `limit` ordinals, highest first.
pub(super) fn newest_ordinals(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached("SELECT ordinal FROM label ORDER BY ordinal DESC LIMIT ?1")?
        .query_map([super::limit(limit)], |row| row.get(0))?
        .collect()
}

/// How many labels have an ordinal below `ordinal`.
pub(super) fn count_before(connection: &Connection, ordinal: i64) -> rusqlite::Result<usize> {
    let count: i64 =
        connection.query_row("SELECT count(*) FROM label WHERE ordinal < ?1", [ordinal], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Calls `visit` with each ordinal below `ordinal`, lowest first; reads no features.
pub(super) fn each_before(connection: &Connection, ordinal: i64, mut visit: impl FnMut(i64)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("SELECT ordinal FROM label WHERE ordinal < ?1 ORDER BY ordinal")?;
    let mut rows = statement.query([ordinal])?;
    while let Some(row) = rows.next()? {
        visit(row.get(0)?);
    }
    Ok(())
}

/// The labelled row of that ordinal.
pub(super) fn labelled(connection: &Connection, ordinal: i64) -> rusqlite::Result<Option<LabelledRow>> {
    connection
        .prepare_cached(
            "SELECT ordinal, label.seq, features, truth, output, segment FROM label JOIN record ON record.seq = label.seq \
             WHERE ordinal = ?1",
        )?
        .query_row([ordinal], read)
        .optional()
}

fn read(row: &Row<'_>) -> rusqlite::Result<LabelledRow> {
    Ok(LabelledRow {
        ordinal: row.get(0)?,
        seq: row.get(1)?,
        features: records::floats(row, 2)?,
        truth: records::floats(row, 3)?,
        output: records::floats(row, 4)?,
        segment: row.get(5)?,
    })
}
