//! Is a retrain worth it: staleness opens the gate, gain over a horizon against cost decides.
use serde::{Deserialize, Serialize};

/// Joules per multiply-add of the energy model: a Cortex-A53-class core draws about 2 W and does about 2·10⁹ of them a second.
/// A figure made with it is always marked as modelled.
pub const JOULES_PER_MAC: f64 = 1e-9;

/// CPU seconds per multiply-add of such a core.
pub const CPU_S_PER_MAC: f64 = 5e-10;

/// Prices of the value policy, in errors avoided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValueSettings {
    /// What one retrain costs, in avoided errors: energy, wear and risk together. Default 10.
    pub cost_errors: f64,
    /// Labelled rows over which a gain is expected to last. Default 600.
    pub horizon_rows: f64,
    /// Standard errors the gain must stand above zero. Default 1.
    pub z: f64,
    /// Share of `cost_errors` that staleness must reach before a probe is made. Default 0.25.
    pub open: f64,
    /// Labels after the last attempt at which a probe is made anyway. Default 1500.
    pub labels_max: u64,
    /// Labels between two probes, at least. Default 64.
    pub labels_min: u64,
    /// Newest labels a probe trains on. Default 400.
    pub window_rows: u64,
}

impl Default for ValueSettings {
    fn default() -> Self {
        Self {
            cost_errors: 10.0,
            horizon_rows: 600.0,
            z: 1.0,
            open: 0.25,
            labels_max: 1_500,
            labels_min: 64,
            window_rows: 400,
        }
    }
}

/// Accumulated cost of staying stale (CARA: Mahadevan and Mathioudakis, Knowledge-Based Systems 293, 2024).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Staleness {
    /// Errors above what the serving model's reference promises, never below 0.
    pub excess: f64,
    /// Labels since the last attempt.
    pub labels: u64,
}

impl Staleness {
    /// Adds the loss of one labelled answer.
    pub fn push(&mut self, loss: f64, reference: f64) {
        self.excess = (self.excess + loss - reference).max(0.0);
        self.labels += 1;
    }

    /// Whether a probe is due.
    #[must_use]
    pub fn opens(&self, settings: &ValueSettings) -> bool {
        self.labels >= settings.labels_max
            || self.labels >= settings.labels_min && self.excess >= settings.open * settings.cost_errors
    }
}

/// What a candidate is worth: `(gain − z·error) · horizon` against the cost, in avoided errors.
#[must_use]
pub fn worth(gain: f64, error: f64, settings: &ValueSettings) -> (f64, bool) {
    let worth = (gain - settings.z * error) * settings.horizon_rows;
    (worth, worth > settings.cost_errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staleness_opens_on_excess_errors_or_after_a_long_time_and_never_on_a_healthy_stream() {
        let settings = ValueSettings::default();
        let after = |losses: &mut dyn Iterator<Item = f64>| {
            let mut stale = Staleness::default();
            losses.for_each(|loss| stale.push(loss, 0.05));
            stale.opens(&settings)
        };
        assert!(!after(&mut std::iter::repeat_n(0.0, 1_000)));
        assert!(after(&mut std::iter::repeat_n(0.0, 1_500)));
        assert!(after(&mut std::iter::repeat_n(0.5, 80)));
        assert!(!after(&mut std::iter::repeat_n(1.0, 10)), "too soon after the last attempt");
    }

    #[test]
    fn a_gain_is_worth_its_horizon() {
        let settings = ValueSettings::default();
        let (errors, pays) = worth(0.03, 0.01, &settings);
        assert!((errors - 12.0).abs() < 1e-9 && pays);
        assert!(!worth(0.01, 0.005, &settings).1);
    }
}
