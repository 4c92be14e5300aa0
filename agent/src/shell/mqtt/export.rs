//! Records on their way out, newest first, in batches that name their rows: begun again after a restart, told by these names.
use fleet_protocol::data::{BATCH_ROWS_MAX, Batch, Row};
use fleet_protocol::names::{DeviceId, Micros, Name};
use fleet_protocol::topics::Topic;
use fleet_protocol::{API, Extra};
use ulid::Ulid;

use super::connection::{Content, Message};
use crate::shell::store::{Record, RecordReader};

/// An export under way.
#[derive(Clone, Debug)]
pub(super) struct Export {
    /// The command.
    pub(super) id: Ulid,
    pub(super) stream: Name,
    pub(super) since: Micros,
    pub(super) until: Micros,
    pub(super) rows_max: u64,
    /// Rows that the broker has.
    pub(super) rows: u64,
    pub(super) batches: u64,
    /// Records from this number on have been looked at.
    pub(super) before: Option<i64>,
    /// The batch the broker has not acknowledged yet, and how many rows it holds.
    pub(super) waiting: Option<(Message, u64)>,
    pub(super) is_sent: bool,
}

impl Export {
    pub(super) fn new(id: Ulid, stream: Name, since: Micros, until: Micros, rows_max: u64) -> Self {
        let (rows, batches, before, waiting, is_sent) = (0, 0, None, None, false);
        Self { id, stream, since, until, rows_max, rows, batches, before, waiting, is_sent }
    }

    /// Reads the next batch; none at the end.
    pub(super) fn read_on(mut self, reader: &RecordReader, device: &DeviceId) -> Result<Self, String> {
        while self.waiting.is_none() && self.rows < self.rows_max {
            let wanted = usize::try_from(self.rows_max - self.rows).unwrap_or(usize::MAX).min(BATCH_ROWS_MAX);
            let page = match reader.recent(wanted, self.before) {
                Ok(page) => page,
                Err(error) => return Err(error.chain()),
            };
            let Some(oldest) = page.last() else { break };
            // Nothing is measured after it has arrived.
            let is_past = oldest.record.arrived_at.0 < self.since.0;
            self.before = Some(oldest.seq);
            let fits = |record: &Record| (self.since.0..self.until.0).contains(&record.record.event_at.0);
            let kept: Vec<_> = page.into_iter().rev().filter(fits).collect();
            if let (Some(first), Some(last)) = (kept.first(), kept.last()) {
                let (from, to, count) = (first.seq, last.seq, kept.len() as u64);
                let rows = kept.into_iter().map(row).collect();
                let batch = Batch { v: API, cmd: self.id, from, to, rows, extra: Extra::new() };
                let topic = Topic::Data { device: device.clone(), stream: self.stream.clone() };
                let payload = match batch.to_cbor() {
                    Ok(payload) => payload,
                    Err(error) => return Err(error.to_string()),
                };
                let (delivery, schema) = (topic.delivery(), topic.schema());
                let topic = topic.to_string();
                let message = Message { topic, payload, delivery, schema, expires_s: None, content: Content::Cbor };
                (self.waiting, self.is_sent) = (Some((message, count)), false);
            }
            if is_past {
                self.rows_max = self.rows + self.waiting.as_ref().map_or(0, |(_, count)| *count);
            }
        }
        Ok(self)
    }

    /// The broker has the batch.
    pub(super) fn taken(&mut self) {
        if let Some((_, count)) = self.waiting.take() {
            self.rows += count;
            self.batches += 1;
        }
    }
}

fn row(Record { record, .. }: Record) -> Row {
    Row {
        id: record.id,
        ts: Micros(record.event_at.0),
        source: record.source,
        segment: record.segment,
        model: fleet_protocol::names::Digest::from(*record.model.as_bytes()),
        features: record.features,
        output: record.output,
    }
}
