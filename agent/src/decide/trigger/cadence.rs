//! New labels alone: an attempt every so many, with back-off while attempts gain nothing.
//!
//! Drift that creeps raises no alarm, or raises it late; a plain schedule finds it. On a stream that stands still the same
//! schedule would only cost, so every attempt without a gain doubles the wait, up to a cap, and a gain ends the doubling.
use serde::{Deserialize, Serialize};

/// When labels alone are reason enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CadenceSettings {
    /// Labels since the last attempt of this kind, or the last promotion, after which one is made. 0 makes none. Default 400.
    pub every: u64,
    /// Each attempt that gains nothing doubles the wait, up to so many times `every`. Default 16.
    pub backoff_max: u64,
}

impl Default for CadenceSettings {
    fn default() -> Self {
        Self { every: 400, backoff_max: 16 }
    }
}

/// Where the cadence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cadence {
    /// Labels that were known at the last attempt or promotion.
    since: u64,
    /// How many times `every` the next attempt waits.
    factor: u64,
}

impl Default for Cadence {
    fn default() -> Self {
        Self { since: 0, factor: 1 }
    }
}

/// What an attempt brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its candidate was better by more than chance.
    Gained,
    /// Its candidate serves, but is no better than chance would make it.
    Even,
    /// The champion stays.
    Refused,
}

impl Cadence {
    /// Whether an attempt is due at `labels` known labels.
    #[must_use]
    pub fn is_due(self, labels: u64, settings: &CadenceSettings) -> bool {
        settings.every > 0 && labels.saturating_sub(self.since) >= settings.every.saturating_mul(self.factor)
    }

    /// After an attempt of this kind at `labels` known labels.
    pub fn attempted(&mut self, outcome: Outcome, labels: u64, settings: &CadenceSettings) {
        self.since = labels;
        self.factor = match outcome {
            Outcome::Gained => 1,
            Outcome::Even | Outcome::Refused => self.factor.saturating_mul(2).min(settings.backoff_max.max(1)),
        };
    }

    /// Another kind of attempt was promoted at `labels` known labels: the stream moves, and the model is fresh.
    pub fn renewed(&mut self, labels: u64) {
        *self = Self { since: labels, factor: 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels at which attempts are made while each brings what `brings` says.
    fn attempts(brings: impl Fn(usize) -> Outcome) -> Vec<u64> {
        let settings = CadenceSettings { every: 100, backoff_max: 8 };
        let (mut cadence, mut at) = (Cadence::default(), Vec::new());
        for labels in 0..4_000 {
            if cadence.is_due(labels, &settings) {
                cadence.attempted(brings(at.len()), labels, &settings);
                at.push(labels);
            }
        }
        at
    }

    #[test]
    fn attempts_that_gain_nothing_come_ever_more_rarely_up_to_the_cap() {
        assert_eq!(attempts(|_| Outcome::Refused), [100, 300, 700, 1_500, 2_300, 3_100, 3_900]);
        assert_eq!(attempts(|_| Outcome::Even), attempts(|_| Outcome::Refused), "no better than chance is no gain");
    }

    #[test]
    fn a_gain_brings_the_base_cadence_back_and_a_promotion_elsewhere_too() {
        assert_eq!(
            attempts(|number| if number == 2 { Outcome::Gained } else { Outcome::Refused })[..6],
            [100, 300, 700, 800, 1_000, 1_400]
        );
        let settings = CadenceSettings { every: 100, backoff_max: 8 };
        let mut cadence = Cadence::default();
        cadence.attempted(Outcome::Refused, 100, &settings);
        cadence.renewed(150);
        assert!(!cadence.is_due(249, &settings) && cadence.is_due(250, &settings));
    }

    #[test]
    fn zero_labels_mean_never_and_a_count_that_went_back_is_no_panic() {
        let settings = CadenceSettings { every: 0, backoff_max: 8 };
        assert!(!Cadence::default().is_due(u64::MAX, &settings));
        let mut cadence = Cadence::default();
        cadence.renewed(500);
        assert!(!cadence.is_due(10, &CadenceSettings::default()));
    }
}
