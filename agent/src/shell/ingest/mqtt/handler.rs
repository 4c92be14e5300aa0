//! What is done with one message: find its entry, map it, join it, answer it, publish the answer.
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::AsyncClient;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Publish;
use serde_json::{Map, Value, json};

use super::map::{self, Mapped};
use super::{Counts, MESSAGE_BYTES_MAX};
use crate::decide::time::Uptime;
use crate::shell::clock::Running;
use crate::shell::daemon::Shared;
use crate::shell::inference::{Loaded, Serving};
use crate::shell::ingest::answers;
use crate::shell::ingest::intake::{self, Taken};
use crate::shell::ingest::join::Joins;
use crate::shell::ingest::labels::{self, Queued};
use crate::shell::ingest::samples::{Sample, SampleError};
use crate::shell::ingest::settings::{InputMqttSettings, TopicKind, TopicSettings};
use crate::shell::ingest::window::Layout;
use crate::shell::store::LabelOutcome;

/// Who says what is true, if neither the label nor the settings name somebody.
const SOURCE: &str = "mqtt";
/// Messages between two looks at the counts by whoever asks for the status.
const SHOWN_EVERY: u64 = 16;

/// Handles messages of all connections, one after another.
pub(super) struct Handler {
    topics: Vec<TopicSettings>,
    /// Rows that are joined, for each entry.
    joins: Vec<Joins>,
    running: Running,
    shared: Arc<Shared>,
    counts: Arc<Counts>,
    handled: u64,
}

impl Handler {
    pub(super) fn new(settings: &InputMqttSettings, shared: Arc<Shared>, counts: Arc<Counts>) -> Self {
        let join = Duration::from_millis(settings.join_ms.into());
        let hold = Duration::from_secs(settings.hold_s.into());
        Self {
            topics: settings.topics.clone(),
            joins: settings.topics.iter().map(|_| Joins::new(join, hold)).collect(),
            running: Running::after(Uptime::default()),
            shared,
            counts,
            handled: 0,
        }
    }

    pub(super) fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Shows the counts in the status, at once when nothing else waits to be counted.
    pub(super) fn show(&mut self, state: &str) {
        self.handled += 1;
        let (messages, dropped) = (&self.counts.messages, &self.counts.dropped);
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(std::sync::atomic::Ordering::Relaxed);
        if self.handled.is_multiple_of(SHOWN_EVERY) || read(messages).saturating_sub(read(dropped)) <= self.handled {
            self.shared.input.send_replace(self.counts.view(state, None));
        }
    }

    /// Ends when a row must be made of what has come; never if nothing waits.
    pub(super) async fn due(&self) {
        match self.joins.iter().filter_map(Joins::due).min() {
            None => std::future::pending().await,
            Some(due) => tokio::time::sleep(due.0.saturating_sub(self.running.now().0)).await,
        }
    }

    /// Answers the rows that must be made now.
    pub(super) fn expire(&mut self, client: &AsyncClient) {
        let Some(serving) = self.shared.slot.serving() else {
            // Nobody can answer: they are let go and counted as refused.
            for joins in &mut self.joins {
                for _ in joins.expired(self.running.now()) {
                    self.shared.counters.refuse("no_model");
                    Counts::add(&self.counts.refused);
                }
            }
            return;
        };
        let layout = self.shared.intake.layout(serving.champion.model.schema());
        for index in 0..self.topics.len() {
            for sample in self.joins[index].expired(self.running.now()) {
                self.answer(index, &sample, &serving, &layout, client, "");
            }
        }
        self.show("subscribed");
    }

    /// Handles one message; waits while recorder or loop are busy, and the broker waits with it.
    pub(super) async fn message(&mut self, message: &Publish, client: &AsyncClient) {
        intake::room(&self.shared).await;
        let topic = String::from_utf8_lossy(&message.topic).into_owned();
        let Some(index) = self.topics.iter().position(|entry| map::fits(&entry.topic, &topic)) else {
            return Counts::add(&self.counts.unmatched);
        };
        let Some(serving) = self.shared.slot.serving() else {
            self.shared.counters.refuse("no_model");
            return Counts::add(&self.counts.refused);
        };
        let bodies = match bodies(&message.payload) {
            Ok(bodies) => bodies,
            Err(error) => return self.refuse(&error),
        };
        let schema = serving.champion.model.schema();
        let layout = self.shared.intake.layout(schema);
        let mut queued = Vec::new();
        for body in &bodies {
            match self.topics[index].kind {
                TopicKind::Samples => match map::reading(&self.topics[index], &topic, body, &layout.readings) {
                    Ok(Mapped::Nothing) => Counts::add(&self.counts.unmatched),
                    Ok(Mapped::Reading(reading)) => {
                        let width = layout.readings.features.len();
                        if let Some(sample) = self.joins[index].add(reading, width, self.running.now()) {
                            self.answer(index, &sample, &serving, &layout, client, &topic);
                        }
                    }
                    Err(error) => self.refuse(&error),
                },
                TopicKind::Labels => match map::label(&self.topics[index], &topic, body) {
                    Ok(label) => match labels::queue(&self.shared, schema, &label, SOURCE).await {
                        Ok(one) => queued.push((label.source.unwrap_or_else(|| SOURCE.to_owned()), one)),
                        Err(error) => self.refuse(&error),
                    },
                    Err(error) => self.refuse(&error),
                },
            }
        }
        // The labels of a message share their sync; samples of others wait for one, not for each.
        for (source, one) in queued {
            self.settled(index, one, &source, &serving.champion, client, &topic).await;
        }
    }

    fn refuse(&self, error: &SampleError) {
        self.shared.counters.refuse(error.code());
        Counts::add(&self.counts.refused);
        tracing::debug!(code = error.code(), "{error}");
    }

    fn answer(
        &self,
        index: usize,
        sample: &Sample,
        serving: &Serving,
        layout: &Layout,
        client: &AsyncClient,
        topic: &str,
    ) {
        if sample.features.len() != layout.readings.features.len() {
            // Another model serves since its first reading came.
            return Counts::add(&self.counts.unmatched);
        }
        match intake::take(&self.shared, serving, layout, sample) {
            Taken::Answered(answered) => {
                Counts::add(&self.counts.answered);
                let mut object = answers::answered(serving.champion.model.schema(), &answered);
                object.insert("source".to_owned(), json!(sample.source));
                self.publish(index, topic, &sample.source, object, client);
            }
            Taken::Refused(_) => Counts::add(&self.counts.refused),
            Taken::Kept(_) | Taken::Late => {}
        }
    }

    async fn settled(
        &self,
        index: usize,
        queued: Queued,
        source: &str,
        loaded: &Loaded,
        client: &AsyncClient,
        topic: &str,
    ) {
        let (outcome, shown) = labels::settle(&self.shared, loaded.model.schema(), queued).await;
        Counts::add(&self.counts.labels);
        if matches!(outcome, LabelOutcome::NotStored { .. }) {
            Counts::add(&self.counts.not_stored);
        }
        if let Value::Object(object) = shown {
            self.publish(index, topic, source, object, client);
        }
    }

    /// Publishes an answer, if a topic for it is set; never waits.
    fn publish(&self, index: usize, topic: &str, source: &str, object: Map<String, Value>, client: &AsyncClient) {
        let output = &self.topics[index].output;
        if output.is_empty() {
            return;
        }
        let to = map::filled(output, topic, source);
        let payload = Value::Object(object).to_string();
        let fits = u32::try_from(payload.len()).is_ok_and(|bytes| bytes < MESSAGE_BYTES_MAX);
        if !fits || client.try_publish(to, QoS::AtLeastOnce, false, payload).is_err() {
            Counts::add(&self.counts.unanswered);
        }
    }
}

/// The objects of a message: one, or those of an array.
fn bodies(payload: &[u8]) -> Result<Vec<Value>, SampleError> {
    let malformed = |reason: String| SampleError::Malformed { field: None, reason };
    match serde_json::from_slice(payload).map_err(|error| malformed(format!("not JSON: {error}")))? {
        Value::Array(values) => Ok(values),
        value => Ok(vec![value]),
    }
}
