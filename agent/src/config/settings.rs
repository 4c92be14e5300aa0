//! Settings of the daemon and of what it records, and the ranges of all settings.
use core::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use trainer_core::schema::Task;

use super::{Config, ConfigError};
use crate::decide::drift::SettingError;
use crate::decide::policy::Policy;
use crate::decide::trigger::Combine;
use crate::decide::watch::performance::PerformanceError;
use crate::shell::recorder::RecorderSettings;
use crate::shell::store::{FileSettings, FlashSettings, RetentionSettings};

/// Places and addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSettings {
    /// Where models and records are kept. Default: `$STATE_DIRECTORY`, else `/var/lib/hone` for root, else
    /// `$XDG_STATE_HOME/hone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// The socket for people and commands. Default: `api.sock` in `$RUNTIME_DIRECTORY`, else `/run/hone` for root, else
    /// `$XDG_RUNTIME_DIR/hone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// Loopback address for inference, samples, labels and reads; commands go over the socket only. Port 0 takes a free
    /// one; `off` opens none. Default `127.0.0.1:8600`.
    pub listen: String,
    /// Name of the model in the Open Inference Protocol. Default `main`.
    pub model_name: String,
    /// Largest request body in bytes. Range 1,024 to 256 MiB, default 8 MiB: 10,000 samples of some 800 bytes.
    pub body_bytes_max: usize,
    /// Events that may wait for the daemon loop; samples beyond are not watched for drift, and counted. Range 16 to
    /// 65,536, default 1024.
    pub queue_events: usize,
    /// The loop's state is stored at least this often while it changes, in seconds. Range 1 to 3,600, default 300: labels
    /// are found again in the records, so this is what the drift windows lose when the agent is killed.
    pub commit_s: u64,
    /// Or after this many events. Range 1 to 1,000,000, default 50,000.
    pub commit_events: u64,
}

impl Default for AgentSettings {
    fn default() -> Self {
        Self {
            state_dir: None,
            socket: None,
            listen: "127.0.0.1:8600".to_owned(),
            model_name: "main".to_owned(),
            body_bytes_max: 8 << 20,
            queue_events: 1_024,
            commit_s: 300,
            commit_events: 50_000,
        }
    }
}

impl AgentSettings {
    /// The loopback address, if one is wanted.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }
}

/// What is kept of what was seen and said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordsSettings {
    /// Bytes that records may take on the disk; the oldest are dropped. Range 4 MiB to 1 TiB, default 512 MiB: some 800,000
    /// rows of 128 features.
    pub keep_bytes: u64,
    /// What is thinned and what is dropped.
    pub retention: RetentionSettings,
    /// What the card may take.
    pub flash: FlashSettings,
    /// How records are grouped.
    pub groups: RecorderSettings,
    /// How their files are laid out.
    pub files: FileSettings,
}

impl Default for RecordsSettings {
    fn default() -> Self {
        Self {
            keep_bytes: 512 << 20,
            retention: RetentionSettings::default(),
            flash: FlashSettings::default(),
            groups: RecorderSettings::default(),
            files: FileSettings::default(),
        }
    }
}

/// What is kept of what retrains learned from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnapshotSettings {
    /// Bytes that snapshots may take on the disk; the oldest are dropped, but for those of the champion, of the previous
    /// model and of unfinished work. The model each kept one started from stays too, so that `hone reproduce` works. Range
    /// 1 MiB to 1 TiB, default 32 MiB: some 25 trainings on 2,400 rows of 128 features.
    pub keep_bytes: u64,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self { keep_bytes: 32 << 20 }
    }
}

/// Refuses the first value outside its documented range.
#[expect(clippy::too_many_lines, reason = "one line per setting, in the order of the file")]
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let Config {
        agent,
        records,
        cycle,
        continual,
        rollout,
        training,
        budget,
        sensors,
        value: prices,
        snapshots,
        models,
        mqtt,
        input,
        layout: _,
    } = config;
    let mut refused = None;
    let mut hold = |good: bool, key: &str, value: &dyn std::fmt::Display, range: &str| {
        if !good && refused.is_none() {
            refused =
                Some(ConfigError::Range { key: key.to_owned(), value: value.to_string(), range: range.to_owned() });
        }
    };
    let listen = agent.listen == "off" || agent.address().is_some_and(|address| address.ip().is_loopback());
    hold(listen, "agent.listen", &agent.listen, "a loopback address with port, such as 127.0.0.1:8600, or \"off\"");
    let name = &agent.model_name;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    hold(
        (1..=64).contains(&name.len()) && name.chars().all(plain),
        "agent.model_name",
        name,
        "1 to 64 letters, digits, `-`, `_` or `.`",
    );
    hold(
        (1_024..=256 << 20).contains(&agent.body_bytes_max),
        "agent.body_bytes_max",
        &agent.body_bytes_max,
        "1024 to 268435456",
    );
    hold((16..=65_536).contains(&agent.queue_events), "agent.queue_events", &agent.queue_events, "16 to 65536");
    hold((1..=3_600).contains(&agent.commit_s), "agent.commit_s", &agent.commit_s, "1 to 3600");
    hold((1..=1_000_000).contains(&agent.commit_events), "agent.commit_events", &agent.commit_events, "1 to 1000000");

    if let Some((name, value, range)) = rollout.out_of_range() {
        hold(false, &format!("rollout.{name}"), &value, range);
    }

    let groups = &records.groups;
    hold(
        (4 << 20..=1 << 40).contains(&records.keep_bytes),
        "records.keep_bytes",
        &records.keep_bytes,
        "4194304 to 1099511627776",
    );
    hold((1..=10_000).contains(&groups.group_rows), "records.groups.group_rows", &groups.group_rows, "1 to 10000");
    hold((1..=60_000).contains(&groups.group_ms), "records.groups.group_ms", &groups.group_ms, "1 to 60000");
    hold(groups.label_wait_ms <= 60_000, "records.groups.label_wait_ms", &groups.label_wait_ms, "0 to 60000");
    hold(
        (1..=100_000).contains(&groups.queue_messages),
        "records.groups.queue_messages",
        &groups.queue_messages,
        "1 to 100000",
    );
    let held = (groups.group_rows..=100_000).contains(&groups.held_rows);
    hold(held, "records.groups.held_rows", &groups.held_rows, "`group_rows` to 100000");
    hold((1..=600_000).contains(&groups.retry_ms), "records.groups.retry_ms", &groups.retry_ms, "1 to 600000");
    if let Some((key, value, range)) = records.retention.problem().or_else(|| records.flash.problem()) {
        hold(false, &format!("records.{key}"), &value, range);
    }
    let bytes = records.files.partition_bytes_max;
    hold((1 << 20..=1 << 30).contains(&bytes), "records.files.partition_bytes_max", &bytes, "1048576 to 1073741824");

    let watch = &cycle.watch;
    hold(
        cycle.policy != Policy::Continual,
        "cycle.policy",
        &cycle.policy,
        "static, fixed:LABELS, trigger:NAME or value in this version of `hone run`",
    );
    for (key, value, [least, most]) in [
        ("run_length_rows", watch.run_length_rows, [100.0, 1e9]),
        ("joint.components", watch.joint.components.into(), [1.0, 16.0]),
        ("joint.release", watch.joint.release, [0.1, 1.0]),
    ] {
        hold((least..=most).contains(&value), &format!("cycle.watch.{key}"), &value, &format!("{least} to {most}"));
    }
    if let Err(SettingError { parameter, value, expected, .. }) = watch.columns.check() {
        hold(false, &format!("cycle.watch.columns.{parameter}"), &value, expected);
    }
    if let Err(PerformanceError::Range { field, value, least, most }) =
        watch.performance.validate(&[], &Task::Regression { targets: Vec::new() })
    {
        hold(false, &format!("cycle.watch.performance.{field}"), &value, &format!("{least} to {most}"));
    }
    let trigger = &cycle.trigger;
    hold((1..=100_000).contains(&trigger.rows_first), "cycle.trigger.rows_first", &trigger.rows_first, "1 to 100000");
    let most = trigger.rows_first..=1_000_000;
    hold(most.contains(&trigger.rows_max), "cycle.trigger.rows_max", &trigger.rows_max, "`rows_first` to 1000000");
    let million = 1..=1_000_000;
    let older = trigger.rows_older;
    hold(older <= 1_000_000, "cycle.trigger.rows_older", &older, "0 to 1000000");
    let combine = &trigger.combine;
    let within = combine.within_rows;
    hold(million.contains(&within), "cycle.trigger.combine.within_rows", &within, "1 to 1000000");
    let quiet = combine.quiet_rows;
    hold(quiet <= 1_000_000, "cycle.trigger.combine.quiet_rows", &quiet, "0 to 1000000");
    let least = !matches!(combine.tests, Combine::AtLeast(0));
    hold(least, "cycle.trigger.combine.tests", &"at_least = 0", "\"any\", \"all\" or { at_least = 1 } and more");
    let every = trigger.labels.every;
    hold(every <= 1_000_000_000, "cycle.trigger.labels.every", &every, "0 to 1000000000");
    let backoff = trigger.labels.backoff_max;
    hold(million.contains(&backoff), "cycle.trigger.labels.backoff_max", &backoff, "1 to 1000000");
    let hours = trigger.schedule.every_h;
    // Windows are cut in whole minutes.
    let cadence = hours == 0.0 || (1.0 / 60.0..=8_760.0).contains(&hours);
    hold(cadence, "cycle.trigger.schedule.every_h", &hours, "0, or a minute (0.0167) to 8760");
    let gate = &cycle.gate;
    for (key, margin) in [("cycle.gate.margin", gate.margin), ("cycle.gate.margin_weak", gate.margin_weak)] {
        hold((0.0..=1.0).contains(&margin), key, &margin, "0 to 1");
    }
    for (key, z) in [("cycle.gate.z", gate.z), ("cycle.gate.z_weak", gate.z_weak), ("cycle.value.z", cycle.value.z)] {
        hold((0.0..=10.0).contains(&z), key, &z, "0 to 10");
    }
    hold(gate.rows_min >= 1, "cycle.gate.rows_min", &gate.rows_min, "at least 1");
    for (value, low, high, name) in [
        (gate.segment_alpha, 0.0, 0.5, "segment_alpha"),
        (gate.anchor_margin, 0.0, 1.0, "anchor_margin"),
        (gate.calibration_margin, 0.0, 1.0, "calibration_margin"),
        (gate.latency_factor, 1.0, 100.0, "latency_factor"),
        (gate.latency_floor_us, 0.0, 1e6, "latency_floor_us"),
        (gate.size_factor, 1.0, 100.0, "size_factor"),
    ] {
        let range = format!("{low} to {high}");
        hold((low..=high).contains(&value), &format!("cycle.gate.{name}"), &value, &range);
    }
    let value = &cycle.value;
    hold(
        value.cost_errors > 0.0 && value.cost_errors.is_finite(),
        "cycle.value.cost_errors",
        &value.cost_errors,
        "above 0",
    );
    hold(
        value.horizon_rows > 0.0 && value.horizon_rows.is_finite(),
        "cycle.value.horizon_rows",
        &value.horizon_rows,
        "above 0",
    );
    hold(value.open >= 0.0 && value.open.is_finite(), "cycle.value.open", &value.open, "0 or more");
    hold(value.window_rows >= 1, "cycle.value.window_rows", &value.window_rows, "at least 1");

    let fit = &training.fit;
    hold((1..=100_000).contains(&fit.epochs), "training.fit.epochs", &fit.epochs, "1 to 100000");
    hold((1..=65_536).contains(&fit.batch), "training.fit.batch", &fit.batch, "1 to 65536");
    hold(
        fit.learning_rate > 0.0 && fit.learning_rate <= 1.0,
        "training.fit.learning_rate",
        &fit.learning_rate,
        "above 0, up to 1",
    );
    hold((0.0..1.0).contains(&fit.weight_decay), "training.fit.weight_decay", &fit.weight_decay, "0 to below 1");
    hold((0.0..=0.9).contains(&fit.holdout), "training.fit.holdout", &fit.holdout, "0 to 0.9");
    let (tail, full) = (&training.tail, &training.full);
    for (section, epochs, rate) in
        [("tail", tail.epochs, tail.learning_rate), ("full", full.epochs, full.learning_rate)]
    {
        hold((1..=100_000).contains(&epochs), &format!("training.{section}.epochs"), &epochs, "1 to 100000");
        let key = format!("training.{section}.learning_rate");
        hold(rate > 0.0 && rate <= 1.0, &key, &rate, "above 0, up to 1");
    }
    hold((0.0..=1_000.0).contains(&full.pull), "training.full.pull", &full.pull, "0 to 1000");
    let heads = &training.heads;
    hold((1..=16).contains(&heads.horizons), "training.heads.horizons", &heads.horizons, "1 to 16");
    let ridges = !heads.ridges.is_empty() && heads.ridges.iter().all(|ridge| *ridge > 0.0 && ridge.is_finite());
    hold(heads.weight > 0.0 && heads.weight <= 1_000.0, "training.heads.weight", &heads.weight, "above 0, up to 1000");
    hold(heads.rate > 0.0 && heads.rate <= 10.0, "training.heads.rate", &heads.rate, "above 0, up to 10");
    hold((0.0..0.5).contains(&heads.share), "training.heads.share", &heads.share, "0 to below 0.5");
    hold(heads.block <= 10_000, "training.heads.block", &heads.block, "0 to 10000");
    hold(ridges, "training.heads.ridges", &format!("{:?}", heads.ridges), "a list of numbers above 0");
    for (section, wrong) in [
        ("budget", budget.out_of_range()),
        ("sensors", sensors.out_of_range()),
        ("value", prices.out_of_range()),
        ("continual", continual.out_of_range()),
    ] {
        if let Some((key, value, range)) = wrong {
            hold(false, &format!("{section}.{key}"), &value, range);
        }
    }
    let kept = snapshots.keep_bytes;
    hold((1 << 20..=1 << 40).contains(&kept), "snapshots.keep_bytes", &kept, "1048576 to 1099511627776");
    if let Some((key, value, range)) = models.problem() {
        hold(false, &format!("models.{key}"), &value, &range);
    }
    if let Some((key, value, range)) = mqtt.problem() {
        hold(false, &format!("mqtt.{key}"), &value, &range);
    }
    if let Some((key, value, range)) = input.problem() {
        hold(false, &format!("input.{key}"), &value, &range);
    }
    refused.map_or(Ok(()), Err)
}
