//! Whom to follow: weights over experts, learnt from their losses at several speeds at once.
//!
//! Intuition: how fast to follow the best expert is itself unknown and differs from stream to stream. So a dozen mixers of
//! different speed and memory run side by side, and one more follows those of them that lately answered best. All of it is
//! arithmetic on a few hundred numbers per label, and a mixture of mixtures is one set of weights.
use serde::{Deserialize, Serialize};

/// Step sizes of the mixers in units of `rate`: a factor of four between neighbours covers two orders of magnitude; the
/// slowest one is for labels so noisy that a run of luck must not decide whom to follow.
const SPEEDS: [f64; 4] = [0.0625, 0.25, 1.0, 4.0];
/// Shares of the mixers in units of `share`: an expert is found again after about 1/share labels.
const SHARES: [f64; 3] = [0.1, 1.0, 10.0];
/// Mixers.
pub(crate) const MIXERS: usize = SPEEDS.len() * SHARES.len();
/// Largest error of one standardised target that counts: one wild label must not decide whom to follow.
const ERROR_MAX: f64 = 2.0;
/// Largest slope of the loss towards one expert that counts.
const SLOPE_MAX: f64 = 4.0;

/// Weights over experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mix {
    experts: usize,
    rate: f64,
    share: f64,
    /// `[mixers, experts]`, each row sums to 1.
    weights: Vec<f64>,
    /// `[mixers]`, sums to 1.
    trust: Vec<f64>,
}

impl Mix {
    /// Equal weights over `experts`, which are at least one.
    pub(crate) fn new(experts: usize, rate: f64, share: f64) -> Self {
        let equal = |count: usize, each: usize| vec![1.0 / each as f64; count];
        Self { experts, rate, share, weights: equal(MIXERS * experts, experts), trust: equal(MIXERS, MIXERS) }
    }

    /// Whether this is a mixture of so many experts at these speeds, with weights that are numbers.
    pub(crate) fn fits(&self, experts: usize, rate: f64, share: f64) -> bool {
        let numbers =
            |values: &[f64], count: usize| values.len() == count && values.iter().all(|x| (0.0..=1.1).contains(x));
        self.experts == experts
            && self.rate.to_bits() == rate.to_bits()
            && self.share.to_bits() == share.to_bits()
            && numbers(&self.weights, MIXERS * experts)
            && numbers(&self.trust, MIXERS)
    }

    /// Weight of each expert in what is served; they sum to 1.
    pub(crate) fn weights(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.experts).map(|expert| {
            let each = self.trust.iter().zip(self.weights.chunks_exact(self.experts));
            each.map(|(trust, weights)| trust * weights[expert]).sum()
        })
    }

    /// Weights of each mixer in turn, `[experts]`.
    pub(crate) fn mixers(&self) -> impl Iterator<Item = &[f64]> {
        self.weights.chunks_exact(self.experts)
    }

    /// Learns from right and wrong answers, with steps of `pace` times their size: fixed share on 0/1 losses, for the experts and,
    /// above them, for the mixers.
    ///
    /// Source: Herbster and Warmuth, Tracking the best expert, Machine Learning 32, 1998.
    pub(crate) fn judge(&mut self, wrong: &[bool], mixer_wrong: &[bool], pace: f64) {
        let price = |wrong: bool, rate: f64| if wrong { (-rate).exp() } else { 1.0 };
        let rate = self.rate * pace;
        follow(&mut self.trust, mixer_wrong.iter().map(|wrong| price(*wrong, rate)), self.share);
        for (index, weights) in self.weights.chunks_exact_mut(self.experts).enumerate() {
            let (rate, share) = speed(index, rate, self.share);
            let mistake = price(true, rate);
            follow(weights, wrong.iter().map(|wrong| if *wrong { mistake } else { 1.0 }), share);
        }
    }

    /// Learns from the squared error of the mixture: each expert is judged by whether more of it would have lowered that
    /// error, so experts that err in opposite directions are kept together. `answers` is `[experts, targets]`, `mixer_answers`
    /// what each mixer said when the sample came, `[mixers, targets]`, and `truth` `[targets]`, all standardised.
    ///
    /// Source: exponentiated gradient with the second-order correction of Wintenberger, Optimal learning with Bernstein online
    /// aggregation, Machine Learning 106, 2017, with a share for tracking; several step sizes side by side as in van Erven
    /// and Koolen, `MetaGrad`, `NeurIPS` 2016.
    pub(crate) fn pull(&mut self, answers: &[f32], mixer_answers: &[f32], truth: &[f32], pace: f64) {
        let targets = truth.len().max(1);
        let rate = self.rate * pace;
        // A mixer is judged by what it said then: with late labels, the fast ones have meanwhile seen what they could not know.
        let loss = |answer: &[f32]| {
            let errors = answer.iter().zip(truth).map(|(x, y)| bounded(f64::from(*x - *y), ERROR_MAX).powi(2));
            errors.sum::<f64>() / targets as f64
        };
        follow(&mut self.trust, mixer_answers.chunks_exact(targets).map(|x| (-rate * loss(x)).exp()), self.share);
        let (mut mixed, mut slopes) = (vec![0.0; targets], vec![0.0; targets]);
        for (index, weights) in self.weights.chunks_exact_mut(self.experts).enumerate() {
            let (own_rate, share) = speed(index, rate, self.share);
            mixed.fill(0.0);
            for (weight, answer) in weights.iter().zip(answers.chunks_exact(targets)) {
                let finite = |x: f32| if x.is_finite() { f64::from(x) } else { 0.0 };
                mixed.iter_mut().zip(answer).for_each(|(sum, x)| *sum += weight * finite(*x));
            }
            let errors = mixed.iter().zip(truth).map(|(mixed, y)| bounded(mixed - f64::from(*y), ERROR_MAX));
            slopes.iter_mut().zip(errors).for_each(|(slope, error)| *slope = error);
            let price = |answer: &[f32]| {
                let each = answer.iter().zip(&mixed).zip(&slopes);
                let slope: f64 = each.map(|((x, mixed), error)| 2.0 * error * (f64::from(*x) - mixed)).sum();
                let step = own_rate * bounded(slope / targets as f64, SLOPE_MAX);
                (-step - step * step).exp()
            };
            follow(weights, answers.chunks_exact(targets).map(price), share);
        }
    }
}

fn speed(mixer: usize, rate: f64, share: f64) -> (f64, f64) {
    (rate * SPEEDS[mixer / SHARES.len()], (share * SHARES[mixer % SHARES.len()]).min(1.0))
}

/// A number no larger than `limit` either way; what is not a number is as bad as can be.
fn bounded(value: f64, limit: f64) -> f64 {
    if value.is_nan() { limit } else { value.clamp(-limit, limit) }
}

/// Multiplies each weight by its price, makes them sum to one, and spreads `share` over all so that none is ever lost.
fn follow(weights: &mut [f64], prices: impl Iterator<Item = f64>, share: f64) {
    weights.iter_mut().zip(prices).for_each(|(weight, price)| *weight *= price);
    let total: f64 = weights.iter().sum();
    let each = share / weights.len() as f64;
    // With a share of zero every weight may have vanished: then nobody knows more than anybody else.
    let (keep, each) = if total > 0.0 { ((1.0 - share) / total, each) } else { (0.0, 1.0 / weights.len() as f64) };
    weights.iter_mut().for_each(|weight| *weight = *weight * keep + each);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};

    fn sum(mix: &Mix) -> f64 {
        mix.weights().sum()
    }

    #[test]
    fn the_better_expert_is_followed_and_found_again_after_the_roles_change() {
        let mut mix = Mix::new(3, 0.2, 1e-3);
        let mut chance = Chance::new(1, Purpose::Sample, 0);
        for (good, bad) in [(0, 1), (1, 0)] {
            for _ in 0..400 {
                let wrong = [0, 1, 2].map(|expert| chance.unit() < if expert == good { 0.1 } else { 0.6 });
                mix.judge(&wrong, &[false; MIXERS], 1.0);
            }
            let weights: Vec<f64> = mix.weights().collect();
            assert!(weights[good] > 0.8 && weights[bad] > 0.0, "{weights:?}");
            assert!((sum(&mix) - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn experts_that_err_in_opposite_directions_are_kept_together() {
        let mut mix = Mix::new(3, 0.2, 1e-3);
        let mut chance = Chance::new(2, Purpose::Sample, 0);
        for _ in 0..1_000 {
            let y = chance.normal();
            mix.pull(&[y + 0.5, y - 0.5, y + 0.4], &[y; MIXERS], &[y], 1.0);
        }
        let weights: Vec<f64> = mix.weights().collect();
        let error: f64 = weights.iter().zip([0.5, -0.5, 0.4]).map(|(weight, error)| weight * error).sum();
        assert!(error.abs() < 0.1, "no single expert is nearer than 0.4, together they err by {error}");
    }

    #[test]
    fn answers_that_are_not_numbers_cost_weight_and_never_poison_the_sums() {
        let mut mix = Mix::new(2, 0.2, 1e-3);
        for _ in 0..50 {
            mix.pull(&[f32::NAN, 0.0], &[f32::NAN; MIXERS], &[0.0], 1.0);
            mix.pull(&[f32::INFINITY, f32::NEG_INFINITY], &[0.0; MIXERS], &[f32::NAN], 1.0);
        }
        assert!((sum(&mix) - 1.0).abs() < 1e-9 && mix.weights().all(|weight| weight > 0.0));
        let mut alone = Mix::new(1, 0.2, 0.0);
        alone.judge(&[true], &[true; MIXERS], 1.0);
        assert!((sum(&alone) - 1.0).abs() < 1e-9);
    }
}
