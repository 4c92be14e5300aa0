//! The table `record`, one row per inference, and the table `served` of the models that answered.
use std::ops::RangeInclusive;

use rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use trainer_core::digest::Digest;
use ulid::Ulid;

use super::parse_digest;
use crate::decide::time::Timestamp;

/// What is recorded of one inference.
#[derive(Clone, Debug, PartialEq)]
pub struct NewRecord {
    /// The id the caller got, under which labels come.
    pub id: Ulid,
    /// When the sample was taken, as its source says.
    pub event_at: Timestamp,
    /// When it came here.
    pub arrived_at: Timestamp,
    /// Where it came from.
    pub source: String,
    /// Part of the plant it belongs to, if its source says so: drift and quality are judged per segment.
    pub segment: Option<String>,
    /// The model that answered.
    pub model: Digest,
    /// The model's raw features, in the schema's order; `NaN` = missing. Stored bit by bit.
    pub features: Vec<f32>,
    /// What was answered: one number per class or target. Stored bit by bit.
    pub output: Vec<f32>,
    /// Which adaptation of the model answered; 0 is the bare bundle.
    pub adaptation: i64,
    /// How many features were missing.
    pub missing: u32,
}

impl NewRecord {
    /// Bytes of what is recorded: id, two times, number of the model, adaptation, texts, features and output. What the
    /// database adds is not counted.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let texts = self.source.len() + self.segment.as_ref().map_or(0, String::len);
        (16 + 2 * 8 + 8 + 8 + texts + 4 * (self.features.len() + self.output.len())) as u64
    }
}

/// A stored [`NewRecord`] with its number.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Grows with each record, over all partitions and restarts.
    pub seq: i64,
    /// What was recorded.
    pub record: NewRecord,
}

/// Bytes of the pages for rows like this one: the smallest that holds six.
///
/// Each group writes the last, half-filled pages of its tables again. A second of narrow rows fills few pages, so that those
/// would be most of what it writes: 16 features at 100 rows a second cost 4.7 bytes per byte with pages of 4 KiB, 3.5 of 1 KiB.
pub(super) fn page_bytes(row: &NewRecord) -> u32 {
    [1024, 2048].into_iter().find(|page| u64::from(*page) >= 6 * row.bytes()).unwrap_or(super::format::PAGE_BYTES)
}

const SELECT: &str = "SELECT seq, id, event_at, arrived_at, source, digest, adaptation, missing, output, features, \
                      segment FROM record JOIN served ON served.number = record.model";

/// Inserts one record and returns whether it is new: an id that is stored already keeps its first record. `buffer` is
/// working space that the caller keeps.
pub(super) fn insert(
    connection: &Connection,
    seq: i64,
    model: i64,
    record: &NewRecord,
    buffer: &mut Buffer,
) -> rusqlite::Result<bool> {
    encode(&record.output, &mut buffer.output);
    encode(&record.features, &mut buffer.features);
    let inserted = connection
        .prepare_cached(
            "INSERT INTO record (seq, id, event_at, arrived_at, source, model, adaptation, missing, output, features, \
             segment) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            seq,
            record.id.to_bytes(),
            record.event_at.0,
            record.arrived_at.0,
            record.source,
            model,
            record.adaptation,
            record.missing,
            buffer.output,
            buffer.features,
            record.segment,
        ]);
    // Caught here instead of by `ON CONFLICT`, which would cost each row a second search.
    match inserted {
        Err(rusqlite::Error::SqliteFailure(error, _)) if error.extended_code == SQLITE_CONSTRAINT_UNIQUE => Ok(false),
        result => result.map(|_| true),
    }
}

/// Two blobs' worth of working space, so that a group of rows allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    output: Vec<u8>,
    features: Vec<u8>,
}

/// The number under which this partition knows the model.
pub(super) fn served(connection: &Connection, digest: &Digest) -> rusqlite::Result<i64> {
    let text = digest.to_string();
    connection
        .prepare_cached("INSERT INTO served (digest) VALUES (?1) ON CONFLICT (digest) DO NOTHING")?
        .execute([&text])?;
    connection.prepare_cached("SELECT number FROM served WHERE digest = ?1")?.query_row([&text], |row| row.get(0))
}

pub(super) fn by_id(connection: &Connection, id: Ulid) -> rusqlite::Result<Option<Record>> {
    connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?.query_row([id.to_bytes()], read).optional()
}

pub(super) fn contains(connection: &Connection, id: Ulid) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM record WHERE id = ?1")?.exists([id.to_bytes()])
}

/// At most `limit` records below `before_seq`, newest first.
pub(super) fn recent(connection: &Connection, limit: usize, before_seq: i64) -> rusqlite::Result<Vec<Record>> {
    connection
        .prepare_cached(&format!("{SELECT} WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2"))?
        .query_map(params![before_seq, super::limit(limit)], read)?
        .collect()
}

/// How many records there are.
pub(super) fn count(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT count(*) FROM record", [], |row| row.get(0))
}

/// Columns of a record, as two files of this layout have them.
const COLUMNS: &str = "seq, id, event_at, arrived_at, source, model, adaptation, missing, output, features, segment";

/// Copies from the attached database `old` the records that were not taken in `since..until`.
pub(super) fn copy_outside(connection: &Connection, since: i64, until: i64) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "INSERT INTO main.served (number, digest) SELECT number, digest FROM old.served;
         INSERT INTO main.record ({COLUMNS}) SELECT {COLUMNS} FROM old.record
             WHERE event_at < {since} OR event_at >= {until} ORDER BY seq;"
    ))
}

/// Copies from the attached database `old` every `every`-th record and all labelled ones, or these alone.
pub(super) fn copy_kept(connection: &Connection, every: Option<u64>) -> rusqlite::Result<()> {
    let strided = every.map_or(String::new(), |every| format!("seq % {} = 0 OR ", every.max(1)));
    connection.execute_batch(&format!(
        "INSERT INTO main.served (number, digest) SELECT number, digest FROM old.served;
         INSERT INTO main.record ({COLUMNS}) SELECT {COLUMNS} FROM old.record
             WHERE {strided} seq IN (SELECT seq FROM old.label) ORDER BY seq;"
    ))
}

/// Lowest and highest number, if there is any record.
pub(super) fn seqs(connection: &Connection) -> rusqlite::Result<Option<(i64, i64)>> {
    connection.query_row("SELECT (SELECT min(seq) FROM record), (SELECT max(seq) FROM record)", [], |row| {
        Ok(row.get::<_, Option<i64>>(0)?.zip(row.get(1)?))
    })
}

/// From the lowest to the highest id; a span that contains nothing if there is no record.
pub(super) fn ids(connection: &Connection) -> rusqlite::Result<RangeInclusive<Ulid>> {
    let id = |row: &Row<'_>, column| row.get::<_, Option<[u8; 16]>>(column).map(|bytes| bytes.map(Ulid::from_bytes));
    connection.query_row("SELECT (SELECT min(id) FROM record), (SELECT max(id) FROM record)", [], |row| {
        Ok(id(row, 0)?.unwrap_or(Ulid::max())..=id(row, 1)?.unwrap_or(Ulid::nil()))
    })
}

fn read(row: &Row<'_>) -> rusqlite::Result<Record> {
    let record = NewRecord {
        id: Ulid::from_bytes(row.get(1)?),
        event_at: Timestamp(row.get(2)?),
        arrived_at: Timestamp(row.get(3)?),
        source: row.get(4)?,
        model: parse_digest(5, row.get_ref(5)?.as_str()?)?,
        adaptation: row.get(6)?,
        missing: row.get(7)?,
        output: floats(row, 8)?,
        features: floats(row, 9)?,
        segment: row.get(10)?,
    };
    Ok(Record { seq: row.get(0)?, record })
}

/// Replaces `bytes` by the bits of `numbers`, little-endian.
pub(super) fn encode(numbers: &[f32], bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.reserve(size_of_val(numbers));
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
}

/// The numbers of a blob column.
pub(super) fn floats(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<f32>> {
    let blob = row.get_ref(column)?.as_blob()?;
    let (numbers, rest) = blob.as_chunks::<4>();
    if !rest.is_empty() {
        let reason = format!("a blob of {} bytes holds no whole number of f32", blob.len());
        return Err(rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, reason.into()));
    }
    Ok(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}
