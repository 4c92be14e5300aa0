//! Is a retrain worth it: staleness opens the gate, what could be gained at best comes next, gain over a horizon against cost
//! decides.
//!
//! ```text
//! label ─► staleness ─ opens ─► could it pay? ─┬─ no ─► declined, with the numbers
//!                                              └─ yes ─► an earlier model fits? ─► tail, then full ─► (gain − z·se)·horizon > cost
//! ```
use serde::{Deserialize, Serialize};
use trainer_core::model::Strategy;

/// Joules per multiply-add of the energy model: a Cortex-A53-class core draws about 2 W and does about 2·10⁹ of them a second.
/// A figure made with it is always marked as modelled.
pub const JOULES_PER_MAC: f64 = 1e-9;

/// CPU seconds per multiply-add of such a core.
pub const CPU_S_PER_MAC: f64 = 5e-10;

/// Labels after which a loss counts a third of a new one in what is known of service lately; as the probe's window in the study
/// behind this policy.
const REMEMBERED: f64 = 200.0;
/// Attempts without gain that double the wait, at most: 64 labels become 4,096.
const DOUBLINGS_MAX: u32 = 6;

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
    /// Newest labels a probe trains on; where heads learn from every label, those in which they may catch up by themselves before
    /// layers are trained. Default 400.
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
        self.opens_after(0, settings)
    }

    /// Whether a probe is due after so many attempts that gained nothing; each doubles the labels until the next.
    #[must_use]
    pub fn opens_after(&self, refusals: u32, settings: &ValueSettings) -> bool {
        let factor = 1_u64 << refusals.min(DOUBLINGS_MAX);
        self.labels >= settings.labels_max.saturating_mul(factor)
            || self.labels >= settings.labels_min.saturating_mul(factor)
                && self.excess >= settings.open * settings.cost_errors
    }
}

/// What is known of service lately, and of attempts to better it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lately {
    weight: f64,
    loss: f64,
    square: f64,
    /// Attempts since the last one that gained.
    pub refusals: u32,
    /// Mean loss at which the last attempt found nothing better.
    pub best_known: Option<f64>,
    /// The time in which the heads may catch up by themselves, if layers would be worth a try.
    #[serde(default)]
    pub patience: Option<Patience>,
}

/// Labels the heads are given: only those of samples answered since count, however late labels come. In the first half they may
/// catch up, by the second half they are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// Number of the first sample that counts.
    pub since_sample: u64,
    /// Labels still to come.
    pub labels: u64,
    /// Labels from which on what is known of service lately begins anew.
    judged_from: u64,
}

impl Patience {
    /// So many labels, of samples from `since_sample` on.
    #[must_use]
    pub fn new(since_sample: u64, labels: u64) -> Self {
        Self { since_sample, labels, judged_from: labels / 2 }
    }
}

impl Lately {
    /// Adds the loss of one labelled answer.
    pub fn push(&mut self, loss: f64) {
        let keep = 1.0 - 1.0 / REMEMBERED;
        self.weight = self.weight * keep + 1.0;
        self.loss = self.loss * keep + loss;
        self.square = self.square * keep + loss * loss;
    }

    /// Mean loss lately, and its standard error; none before the first label.
    #[must_use]
    pub fn mean(&self) -> Option<(f64, f64)> {
        if self.weight <= 0.0 {
            return None;
        }
        let mean = self.loss / self.weight;
        let variance = (self.square / self.weight - mean * mean).max(0.0);
        // Twice as many labels would be counted if they were independent; losses in a row resemble each other.
        Some((mean, (variance / self.weight).sqrt()))
    }

    /// Counts the label of the sample with this number.
    pub fn awaited(&mut self, sample: u64) {
        let Some(patience) = self.patience.as_mut().filter(|patience| sample >= patience.since_sample) else { return };
        patience.labels = patience.labels.saturating_sub(1);
        if patience.labels == patience.judged_from {
            (self.weight, self.loss, self.square) = (0.0, 0.0, 0.0);
        }
    }

    /// An attempt that gained.
    pub fn gained(&mut self) {
        *self = Self::default();
    }

    /// An attempt that found nothing better than what serves.
    pub fn refused(&mut self) {
        self.refusals += 1;
        self.patience = None;
        self.best_known = self.mean().map(|(mean, _)| mean);
    }
}

/// Could any retrain pay now? What is expected at best, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prospect {
    /// Mean loss of what was served lately.
    pub lately: f64,
    /// The best that can be hoped for: what the champion lost on its own rows, or what the last attempt could not better.
    pub floor: f64,
    /// Errors that a retrain would avoid over the horizon if it reached that floor, less what chance may explain.
    pub errors: f64,
    /// What it costs, in errors.
    pub cost: f64,
    /// Whether that is more than it costs.
    pub pays: bool,
}

impl Prospect {
    /// What a retrain could bring at best, while what serves loses as [`Lately`] says; `reference` is the champion's own.
    #[must_use]
    pub fn of(lately: &Lately, reference: f64, settings: &ValueSettings) -> Self {
        let (mean, error) = lately.mean().unwrap_or_default();
        let floor = lately.best_known.map_or(reference, |best| best.max(reference));
        let (errors, pays) = worth(mean - floor, error, settings);
        Self { lately: mean, floor, errors, cost: settings.cost_errors, pays }
    }

    /// In one sentence.
    #[must_use]
    pub fn sentence(&self, settings: &ValueSettings, patience: Option<Patience>) -> String {
        let Self { lately, floor, errors, cost, pays } = self;
        let rows = settings.horizon_rows;
        let verdict = match (*pays, patience) {
            (true, None) => "worth a try".to_owned(),
            (true, Some(patience)) => {
                format!("worth a try if the heads have not caught up after {} labels of newer samples", patience.labels)
            }
            (false, _) => "declined".to_owned(),
        };
        format!(
            "{verdict}: loss {lately:.4} lately, {floor:.4} at best; a retrain would avoid {errors:.1} errors in {rows:.0} labels and \
             costs {cost:.1}"
        )
    }
}

/// What to train next after so many attempts without gain: the tail first, all layers where that was not enough, in turn.
#[must_use]
pub fn strategy_after(refusals: u32) -> Strategy {
    if refusals.is_multiple_of(2) { Strategy::Tail } else { Strategy::Full }
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
            stale
        };
        let opens = |stale: Staleness| stale.opens(&settings);
        assert!(!opens(after(&mut std::iter::repeat_n(0.0, 1_000))));
        assert!(opens(after(&mut std::iter::repeat_n(0.0, 1_500))));
        let stale = after(&mut std::iter::repeat_n(0.5, 80));
        assert!(opens(stale) && !stale.opens_after(1, &settings), "each attempt without gain doubles the wait");
        assert!(!opens(after(&mut std::iter::repeat_n(1.0, 10))), "too soon after the last attempt");
    }

    #[test]
    fn heads_are_judged_by_answers_given_after_their_time_to_catch_up_however_late_labels_come() {
        let mut lately = Lately { patience: Some(Patience::new(1_000, 400)), ..Lately::default() };
        let tell = |lately: &mut Lately, sample: u64, loss: f64| {
            lately.push(loss);
            lately.awaited(sample);
        };
        (700..1_000).for_each(|sample| tell(&mut lately, sample, 1.0));
        assert_eq!(
            lately.patience.map(|patience| patience.labels),
            Some(400),
            "answers of before say nothing of the heads now"
        );
        (1_000..1_150).for_each(|sample| tell(&mut lately, sample, 1.0));
        (1_150..1_400).for_each(|sample| tell(&mut lately, sample, 0.0));
        assert_eq!(lately.patience.map(|patience| patience.labels), Some(0));
        assert_eq!(lately.mean().map(|(mean, _)| mean), Some(0.0), "they have caught up, and that is what counts");
    }

    #[test]
    fn a_gain_is_worth_its_horizon() {
        let settings = ValueSettings::default();
        let (errors, pays) = worth(0.03, 0.01, &settings);
        assert!((errors - 12.0).abs() < 1e-9 && pays);
        assert!(!worth(0.01, 0.005, &settings).1);
    }

    #[test]
    fn no_retrain_is_tried_where_even_the_best_one_could_not_pay() {
        let settings = ValueSettings::default();
        let lately = |error_every: u64| {
            let mut lately = Lately::default();
            (0..1_000_u64).for_each(|label| lately.push(f64::from(u8::from(label.is_multiple_of(error_every)))));
            lately
        };
        let few = Prospect::of(&lately(80), 0.005, &settings);
        assert!(!few.pays && few.errors < 10.0, "{few:?}");
        let sentence = few.sentence(&settings, None);
        assert!(sentence.starts_with("declined: loss 0.0"), "{sentence}");
        let mut many = lately(4);
        assert!(Prospect::of(&many, 0.005, &settings).pays);
        many.refused();
        let again = Prospect::of(&many, 0.005, &settings);
        assert!(!again.pays, "where an attempt gained nothing, none is made until things get worse: {again:?}");
        assert_eq!((strategy_after(0), strategy_after(many.refusals)), (Strategy::Tail, Strategy::Full));
        many.gained();
        assert_eq!(many.mean(), None);
    }
}
