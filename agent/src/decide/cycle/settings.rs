//! What the loop can be told about itself.
use serde::{Deserialize, Serialize};

use crate::decide::gate::GateSettings;
use crate::decide::policy::Policy;
use crate::decide::rollout::RolloutSettings;
use crate::decide::trigger::TriggerSettings;
use crate::decide::value::ValueSettings;
use crate::decide::watch::finding::{Finding, Grade, Measure};
use crate::decide::watch::{WatchSettings, Watcher};

/// Everything the loop can be told about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CycleSettings {
    /// When to retrain: `static`, `fixed:N`, `trigger:NAME`, `value`. Default `value`.
    pub policy: Policy,
    /// Seed of every training; each run derives its own. Default 0.
    pub seed: u64,
    /// Drift tests.
    pub watch: WatchSettings,
    /// Episodes after an alarm.
    pub trigger: TriggerSettings,
    /// Prices of the value policy.
    pub value: ValueSettings,
    /// When a candidate may serve.
    pub gate: GateSettings,
    /// Whether the mixture of heads answers beside the champion; follows from `[continual]` and the policy.
    #[serde(skip)]
    pub mixture: bool,
    /// Whether rows of an anomaly model count as normal where no label says otherwise; on a device they do, in a replay every row has
    /// its label.
    #[serde(skip)]
    pub assumes_normal: bool,
    /// How it is tried; the section `rollout` of the configuration.
    #[serde(skip)]
    pub rollout: RolloutSettings,
}

impl Default for CycleSettings {
    fn default() -> Self {
        Self {
            policy: Policy::Value,
            seed: 0,
            watch: WatchSettings::default(),
            trigger: TriggerSettings::default(),
            value: ValueSettings::default(),
            gate: GateSettings::default(),
            mixture: false,
            assumes_normal: false,
            rollout: RolloutSettings::default(),
        }
    }
}

/// Whether alarms lead to retrains under this policy.
pub(super) fn acts(settings: &CycleSettings) -> bool {
    matches!(settings.policy, Policy::Trigger { .. } | Policy::Value)
}

/// A trigger policy may name its own tests; every other one watches with the configured ones.
pub(super) fn watch_settings(settings: &CycleSettings) -> WatchSettings {
    match &settings.policy {
        Policy::Trigger { watchers } if !watchers.is_empty() => {
            WatchSettings { watchers: watchers.clone(), ..settings.watch.clone() }
        }
        Policy::Static | Policy::Fixed { .. } | Policy::Trigger { .. } | Policy::Value | Policy::Continual => {
            settings.watch.clone()
        }
    }
}

/// Tests whose alarms may open an episode: those that the policy names or, where it names none, that the settings list.
fn listed(settings: &CycleSettings) -> &[Watcher] {
    match &settings.policy {
        Policy::Trigger { watchers } if !watchers.is_empty() => watchers,
        _ => &settings.trigger.on,
    }
}

/// How many of them run.
pub(super) fn openers(settings: &CycleSettings) -> usize {
    let running = watch_settings(settings).watchers;
    listed(settings).iter().filter(|watcher| running.contains(watcher)).count()
}

/// Whether a finding may open an episode: an alarm of such a test, about more than one feature alone.
pub(super) fn opens_on(finding: &Finding, settings: &CycleSettings) -> bool {
    let alone = matches!((finding.watcher, &finding.measure), (Watcher::Psi, Measure::Feature(_)));
    finding.grade == Grade::Alarm && listed(settings).contains(&finding.watcher) && !alone
}
