//! What is retained at the broker, told on every connection and again when it has changed; and the metrics.
use std::time::Duration;

use fleet_protocol::keys::KeySet;
use fleet_protocol::names::{DeviceId, Digest, Micros, Name};
use fleet_protocol::report::{ModelReport, Phase};
use fleet_protocol::topics::Topic;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::connection::Message;
use super::neighbours;
use super::payload::{self, BirthFacts};
use super::standing::Standing;
use super::view::LinkView;
use crate::shell::clock;
use crate::shell::daemon::{Question, SUPPORTED, Shared};

/// What was told, so that only news is.
pub(super) struct Reports {
    device: DeviceId,
    groups: Vec<Name>,
    home_assistant: bool,
    thin_edge: bool,
    key_ids: Vec<fleet_protocol::keys::KeyId>,
    storage_bytes_max: u64,
    look_every: Duration,
    metrics_every: Option<Duration>,
    look_at: Option<Instant>,
    metrics_at: Option<Instant>,
    /// Phase and when it was first seen.
    phase: Option<(Phase, Micros)>,
    /// Model and drift as they were told, without their times.
    told: [Value; 2],
    /// Counts metrics messages.
    seq: u64,
}

impl Reports {
    pub(super) fn new(device: DeviceId, standing: &Standing, keys: &KeySet) -> Self {
        let mut reports = Self {
            device,
            groups: Vec::new(),
            key_ids: Vec::new(),
            storage_bytes_max: 0,
            home_assistant: false,
            thin_edge: false,
            look_every: Duration::default(),
            metrics_every: None,
            look_at: None,
            metrics_at: None,
            phase: None,
            told: [Value::Null, Value::Null],
            seq: 0,
        };
        reports.follow(standing, keys);
        reports
    }

    /// Takes over settings that have changed.
    pub(super) fn follow(&mut self, standing: &Standing, keys: &KeySet) {
        let config = standing.config();
        self.groups = config.mqtt.groups.iter().filter_map(|group| group.parse().ok()).collect();
        self.key_ids = keys.iter().map(|(id, _)| id.clone()).collect();
        self.storage_bytes_max = config.records.keep_bytes;
        (self.home_assistant, self.thin_edge) = (config.mqtt.home_assistant, config.mqtt.thin_edge);
        self.look_every = Duration::from_secs(config.mqtt.report_s);
        self.metrics_every = (config.mqtt.metrics_s > 0).then(|| Duration::from_secs(config.mqtt.metrics_s));
    }

    /// Who this device is and what it runs with.
    pub(super) fn identity(&self, shared: &Shared, standing: &Standing) -> Vec<Message> {
        let ts = Micros(clock::now().0);
        let schema = shared.slot.serving().map(|serving| serving.champion.model.schema().clone());
        let features = schema.and_then(|schema| serde_json::to_vec(&schema).ok()).map(|bytes| Digest::of(&bytes));
        let commands = SUPPORTED.iter().map(|name| (*name).to_owned()).collect();
        let (storage_bytes_max, key_ids, groups) = (self.storage_bytes_max, self.key_ids.clone(), self.groups.clone());
        let facts = BirthFacts { features, commands, storage_bytes_max, key_ids, groups };
        vec![payload::birth(&self.device, facts, ts), payload::reported(&self.device, standing, ts)]
    }

    /// Everything, for a connection that has just begun.
    pub(super) async fn all(&mut self, shared: &Shared, standing: &Standing, now: Instant) -> Vec<Message> {
        let mut messages = self.identity(shared, standing);
        messages.extend(self.home_assistant.then(|| neighbours::home_assistant(&self.device)));
        messages.extend(self.health(true));
        self.told = [Value::Null, Value::Null];
        messages.extend(self.look(shared, now).await);
        messages
    }

    /// The health of this agent for thin-edge.io, if it is wanted.
    pub(super) fn health(&self, up: bool) -> Option<Message> {
        self.thin_edge.then(|| neighbours::thin_edge(up, std::process::id(), Micros(clock::now().0)))
    }

    /// What has changed since it was told, and metrics when it is time for them.
    pub(super) async fn due(&mut self, shared: &Shared, view: &LinkView, now: Instant) -> Vec<Message> {
        let mut messages = Vec::new();
        if self.look_at.is_none_or(|at| at <= now) {
            messages.extend(self.look(shared, now).await);
        }
        if let Some(every) = self.metrics_every.filter(|_| self.metrics_at.is_none_or(|at| at <= now)) {
            self.metrics_at = Some(now + every);
            self.seq += 1;
            messages.push(self.metrics(shared, view).await);
        }
        messages
    }

    async fn look(&mut self, shared: &Shared, now: Instant) -> Vec<Message> {
        self.look_at = Some(now + self.look_every);
        let (ts, slot) = (Micros(clock::now().0), Name::main_slot());
        let ask = async |question| shared.ask(question).await.unwrap_or_default();
        let (status, models, drift) =
            (ask(Question::Status).await, ask(Question::Models).await, ask(Question::Drift).await);
        let mut model: ModelReport = payload::model(&status, &models, ts, ts);
        match &self.phase {
            Some((phase, since)) if *phase == model.phase => model.since = *since,
            _ => self.phase = Some((model.phase.clone(), ts)),
        }
        let drift = payload::drift(&drift, ts, clock::trust());
        let topics = [
            Topic::Model { device: self.device.clone(), slot: slot.clone() },
            Topic::Drift { device: self.device.clone(), slot },
        ];
        let values = [serde_json::to_value(&model), serde_json::to_value(&drift)].map(Result::unwrap_or_default);
        let mut messages = Vec::new();
        for ((topic, value), told) in topics.iter().zip(values).zip(&mut self.told) {
            let mut timeless = value.clone();
            if let Some(fields) = timeless.as_object_mut() {
                fields.remove("ts");
            }
            if timeless != *told {
                messages.push(payload::message(topic, &value));
                *told = timeless;
            }
        }
        messages
    }

    async fn metrics(&self, shared: &Shared, view: &LinkView) -> Message {
        let status = shared.ask(Question::Status).await.unwrap_or_default();
        let recorder = shared.recorder.status();
        let metrics = json!({
            "seq": self.seq,
            "ts": clock::now().0,
            "clock": clock::trust(),
            "samples": status["samples"],
            "labels": status["labels"],
            "loss": status["loss"],
            "requests": shared.counters.view(),
            "recorder": recorder,
            "link": view,
        });
        payload::message(&Topic::Metrics { device: self.device.clone() }, &metrics)
    }
}
