//! Deleting records by command: refused while something still needs them, told to the fleet, and always safe to repeat.
//!
//! What goes: the records taken in the span, with their labels, from every file of the records, and damaged files that may hold
//! such. What stays: snapshots of finished trainings (they hold the rows they were made of until they are collected), and what models
//! have learned.
use fleet_protocol::status::ReasonCode;
use serde_json::{Value, json};
use trainer_core::digest::Digest;

use super::keeper::Keeper;
use super::link::LinkAsk;
use super::shared::{Event, Shared};
use super::trial;
use super::wishes::Refused;
use crate::decide::time::Timestamp;
use crate::shell::clock::shown;
use crate::shell::store::{Purged, RecordReader};

fn needed(reason: String) -> Refused {
    (ReasonCode::Other("needed".to_owned()), reason)
}

impl Keeper {
    /// Whether nothing that is under way needs records of `since..until`.
    ///
    /// # Errors
    /// What needs them, and what to do.
    pub(super) fn may_purge(&self, since: Timestamp, until: Timestamp) -> Result<(), Refused> {
        if since >= until {
            return Err((ReasonCode::Unsupported, "the time span is empty: `until` must be after `since`".to_owned()));
        }
        let Some(saved) = &self.saved else { return Ok(()) };
        if let Some(order) = saved.cycle.orders().work {
            return Err(needed(format!(
                "run {} still reads stored rows: try again when it has ended, or end it with retrain.cancel",
                order.run
            )));
        }
        let rollout = saved.cycle.rollout();
        if rollout.candidate().is_none() {
            return Ok(());
        }
        let waits = |(sample, _)| within(&self.shared.reader, trial::record(sample), since, until);
        if rollout.label_requests(&self.rules.cycle.rollout).any(waits) {
            return Err(needed(
                "the trial under way waits for labels of records in this span: label them, or end it with canary.abort"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

fn within(reader: &RecordReader, id: ulid::Ulid, since: Timestamp, until: Timestamp) -> bool {
    // A record that cannot be read cannot be told from one that is needed.
    reader.find(id).map_or(true, |found| found.is_some_and(|record| (since..until).contains(&record.record.event_at)))
}

impl Shared {
    /// Deletes the records of `since..until` and tells the loop, which reports it.
    ///
    /// # Errors
    /// Why the disk did not take it, in words; what was deleted before stays deleted.
    pub async fn purge(&self, since: Timestamp, until: Timestamp, snapshots: usize, by: &str) -> Result<Value, String> {
        let mut sum = Purged::default();
        let outcome = loop {
            let part = match self.recorder.purge(since, until) {
                Ok(part) => part,
                Err(error) => break Err(error.to_string()),
            };
            match part.await {
                Ok(Ok(part)) => {
                    sum.records += part.records;
                    sum.labels += part.labels;
                    sum.partitions += part.partitions;
                    sum.rewritten += part.rewritten;
                    sum.damaged += part.damaged;
                    if !part.unfinished {
                        break Ok(());
                    }
                }
                Ok(Err(error)) => break Err(error.chain()),
                Err(_) => break Err("the recorder has stopped".to_owned()),
            }
        };
        let result = json!({
            "since": shown(since), "until": shown(until), "records": sum.records, "labels": sum.labels,
            "files_removed": sum.partitions, "files_rewritten": sum.rewritten, "damaged_files_removed": sum.damaged,
            "snapshots_kept": snapshots,
        });
        if sum.records + sum.damaged > 0 || outcome.is_ok() {
            let mut payload = result.clone();
            payload["kind"] = json!("purged");
            payload["by"] = json!(by);
            payload["complete"] = json!(outcome.is_ok());
            let _ = self.events.send(Event::Link(Box::new(LinkAsk::Say { kind: "purged", payload }))).await;
        }
        outcome.map(|()| result)
    }
}

/// How many snapshots hold rows of their own.
pub(super) fn snapshots(listed: Result<Vec<Digest>, crate::shell::store::StoreError>) -> usize {
    listed.map_or(0, |listed| listed.len())
}
