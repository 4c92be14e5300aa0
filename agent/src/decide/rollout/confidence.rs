//! How sure two models are of their answers to the same samples: an alarm, never an end, for being surer is no fault by itself.
use serde::{Deserialize, Serialize};

use crate::decide::evidence::Bets;

/// Mean difference that nobody minds: a retrained model is always a little more or less sure.
const TOLERATED: f64 = 0.1;
/// Logarithm of the evidence that raises the alarm, on either side: at most two false alarms in a hundred trials, at any look.
const LIMIT_LN: f64 = 4.605_170_185_988_091;

/// Tests whether the challenger's mean confidence differs from the champion's by more than [`TOLERATED`], on the same samples.
///
/// Two bets on the paired difference (waits for no label, valid at any look). Plain data, bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Confidence {
    surer: Bets,
    less_sure: Bets,
    rows: u64,
    champion: f64,
    challenger: f64,
    /// The alarm was raised: it is raised once.
    raised: bool,
}

/// What the alarm says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unsure {
    /// Samples.
    pub rows: u64,
    /// Mean confidence of the champion on them.
    pub champion: f64,
    /// Mean confidence of the challenger.
    pub challenger: f64,
    /// Evidence that they differ by more than is tolerated.
    pub e: f64,
    /// Evidence at which the alarm is raised.
    pub limit: f64,
}

impl Default for Confidence {
    fn default() -> Self {
        let bets = || Bets::new(0.0);
        Self { surer: bets(), less_sure: bets(), rows: 0, champion: 0.0, challenger: 0.0, raised: false }
    }
}

impl Confidence {
    /// Takes the probabilities `[classes]` of both; the alarm, when it is raised.
    pub(super) fn take(&mut self, champion: &[f32], challenger: &[f32]) -> Option<Unsure> {
        let (champion, challenger) = (surest(champion)?, surest(challenger)?);
        self.rows += 1;
        self.champion += champion;
        self.challenger += challenger;
        // Scaled to [-1, 1], so that no difference is cut: then the mean under the null is not above 0.
        let beyond = |difference: f64| (difference - TOLERATED) / (1.0 + TOLERATED);
        self.surer.push(beyond(challenger - champion));
        self.less_sure.push(beyond(champion - challenger));
        let ln_e = self.surer.ln_k().max(self.less_sure.ln_k());
        if self.raised || ln_e < LIMIT_LN {
            return None;
        }
        self.raised = true;
        Some(self.unsure(ln_e))
    }

    #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
    fn unsure(&self, ln_e: f64) -> Unsure {
        let mean = |sum: f64| sum / self.rows.max(1) as f64;
        Unsure {
            rows: self.rows,
            champion: mean(self.champion),
            challenger: mean(self.challenger),
            e: ln_e.min(690.0).exp(),
            limit: LIMIT_LN.exp(),
        }
    }
}

/// The largest probability; none where there is no number.
fn surest(answer: &[f32]) -> Option<f64> {
    let surest = answer.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    surest.is_finite().then(|| f64::from(surest).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn even(state: &mut u64) -> f64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*state >> 33) as f64) / (1_u64 << 31) as f64
    }

    /// Of 2,000 runs over 1,000 samples, looked at after each, those that alarm, and the median sample at which they do. The
    /// champion is 0.8 sure, the challenger `shift` more, both with noise of their own.
    #[expect(clippy::cast_possible_truncation, reason = "probabilities")]
    fn alarms(shift: f64) -> (usize, usize) {
        let mut at: Vec<usize> = (0..2_000_u64)
            .filter_map(|seed| {
                let (mut state, mut confidence) = (seed, Confidence::default());
                (0..1_000).position(|_| {
                    let champion = 0.7 + 0.2 * even(&mut state);
                    let challenger = (0.7 + 0.2 * even(&mut state) + shift).clamp(0.0, 1.0);
                    let both = [champion, challenger].map(|p| [p as f32, 1.0 - p as f32]);
                    confidence.take(&both[0], &both[1]).is_some()
                })
            })
            .collect();
        at.sort_unstable();
        (at.len(), at.get(at.len() / 2).copied().unwrap_or(0))
    }

    #[test]
    fn a_model_that_is_far_more_or_less_sure_alarms_and_one_within_what_is_tolerated_hardly_ever() {
        for shift in [-0.1, 0.0, 0.1] {
            let (count, _) = alarms(shift);
            println!("shift {shift}: {count} of 2000 runs alarm");
            assert!(count <= 40, "{shift}: {count} of 2000");
        }
        for shift in [-0.2, 0.15, -0.3] {
            let (count, at) = alarms(shift);
            println!("shift {shift}: {count} of 2000 runs alarm, median after {at} samples");
            assert!(count >= 1_900, "{shift}: {count} of 2000");
        }
    }

    #[test]
    fn the_alarm_is_raised_once_names_both_means_and_outlives_a_restart() {
        let mut confidence = Confidence::default();
        let raised: Vec<_> = (0..300).filter_map(|_| confidence.take(&[0.9, 0.1], &[0.5, 0.5])).collect();
        let [unsure] = raised[..] else { panic!("{raised:?}") };
        assert!((unsure.champion - 0.9).abs() < 1e-6 && (unsure.challenger - 0.5).abs() < 1e-6);
        assert!(unsure.e >= unsure.limit);
        let text = serde_json::to_string(&confidence).unwrap();
        assert_eq!(serde_json::from_str::<Confidence>(&text).unwrap(), confidence);
        assert_eq!(confidence.take(&[f32::NAN, f32::NAN], &[0.5, 0.5]), None, "no number is no confidence");
    }
}
