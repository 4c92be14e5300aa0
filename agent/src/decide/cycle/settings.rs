//! What the loop can be told about itself.
use serde::{Deserialize, Serialize};

use crate::decide::gate::GateSettings;
use crate::decide::policy::Policy;
use crate::decide::trigger::TriggerSettings;
use crate::decide::value::ValueSettings;
use crate::decide::watch::WatchSettings;

/// Everything the loop can be told about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CycleSettings {
    /// When to retrain: `static`, `fixed:N`, `trigger:NAME`, `value`. Default `trigger:any`.
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
}

impl Default for CycleSettings {
    fn default() -> Self {
        Self {
            policy: Policy::Trigger { watchers: Vec::new() },
            seed: 0,
            watch: WatchSettings::default(),
            trigger: TriggerSettings::default(),
            value: ValueSettings::default(),
            gate: GateSettings::default(),
        }
    }
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
