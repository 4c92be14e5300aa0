//! Evidence about a challenger that may be looked at after every label: two sequential tests and the order they need.
//!
//! Champion and challenger answer the same samples. `D` is how much better the challenger did on one of them: −1, 0 or +1 for
//! right and wrong answers, anything in [−1, 1] for scaled losses.
//!
//! ```text
//!  sampled ─► ring, in the order of sampling ─► frontier ─► promote test (challenger not worse by the margin)
//!  labelled ─┘                  └────────────────────────► abort test (champion better), in the order labels come
//! ```
//!
//! Agreements need no label: there `D` is 0. So they are known before the disagreements, and a promote test fed as they come would
//! see them run ahead: 253 agreements alone prove "not worse by two points". Hence the frontier: the promote test goes on only up
//! to the first sample whose label is missing, and a label that never comes counts against the challenger.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Strengths of the bets of [`Bets`].
const STRENGTHS: [f64; 8] = [0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9];
/// Samples that wait for their labels, at most; the oldest one then counts as missed.
pub const WAITING_MAX: usize = 4_096;

/// Tests whether the champion is better, on samples where exactly one of both was right.
///
/// `E = 2^(m+1) · B(k+1, m−k+1) · (1 − I_½(k+1, m−k+1))` after `m` such samples, `k` of them the champion's: the likelihood ratio of
/// "the champion wins with a chance drawn evenly from (½, 1)" against "½". If the challenger is not worse, the chance that `E` ever
/// reaches `1/α` is at most `α`. Source: beta-binomial mixture martingale (Howard et al. 2021; Robbins 1970).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Duels {
    /// Samples on which exactly one was right.
    pub discordant: u64,
    /// Of those, the champion's.
    pub champion: u64,
}

impl Duels {
    /// Takes one more sample on which exactly one was right.
    pub fn push(&mut self, champion: bool) {
        self.discordant += 1;
        self.champion += u64::from(champion);
    }

    /// Natural logarithm of `E`.
    ///
    /// `E = Σ_{j ≤ k} C(m+1, j) / ((m+1) · C(m, k))`, summed downwards from `j = k` relative to `C(m+1, k)`: the sum ends once its
    /// terms no longer matter, and is scaled down before it overflows.
    #[must_use]
    pub fn ln_e(&self) -> f64 {
        const LARGE: f64 = 1e200;
        let (m, k) = (self.discordant as f64, self.champion as f64);
        // C(m+1, k) / C(m, k) = (m+1)/(m+1−k).
        let (mut term, mut sum, mut j, mut scale) = (1.0, 1.0, k, 0.0);
        while j > 0.0 && term > 1e-17 * sum {
            term *= j / (m + 2.0 - j);
            sum += term;
            j -= 1.0;
            if sum > LARGE {
                (term, sum, scale) = (term / LARGE, sum / LARGE, scale + LARGE.ln());
            }
        }
        scale + sum.ln() - (m + 1.0 - k).ln()
    }
}

/// Tests whether the mean of `D` lies above `−margin`, by betting on it.
///
/// `K = ⅛ Σ_g Π [1 + g · (D + margin)/(1 − margin)]`. If the mean of `D` given the past never exceeds `−margin`, the chance that `K`
/// ever reaches `1/α` is at most `α`. Source: testing by betting (Waudby-Smith, Ramdas 2021), a fixed grid of bets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bets {
    margin: f64,
    /// Logarithm of each product.
    logs: [f64; STRENGTHS.len()],
    pairs: u64,
}

impl Bets {
    /// Bets against "worse by more than `margin`", in [0, 0.5].
    #[must_use]
    pub fn new(margin: f64) -> Self {
        let margin = if margin.is_finite() { margin.clamp(0.0, 0.5) } else { 0.0 };
        Self { margin, logs: [0.0; STRENGTHS.len()], pairs: 0 }
    }

    /// Takes the next `D`; beyond [−1, 1] it is cut, and what is no number counts as −1.
    pub fn push(&mut self, difference: f64) {
        let difference = if difference.is_nan() { -1.0 } else { difference.clamp(-1.0, 1.0) };
        let gain = (difference + self.margin) / (1.0 - self.margin);
        for (log, strength) in self.logs.iter_mut().zip(STRENGTHS) {
            *log += (strength * gain).ln_1p();
        }
        self.pairs += 1;
    }

    /// Natural logarithm of `K`.
    #[must_use]
    pub fn ln_k(&self) -> f64 {
        let highest = self.logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = self.logs.iter().map(|log| (log - highest).exp()).sum();
        highest + (sum / STRENGTHS.len() as f64).ln()
    }

    /// Values taken.
    #[must_use]
    pub fn pairs(&self) -> u64 {
        self.pairs
    }
}

/// How a sample that both answered stands.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Standing {
    /// Known: both said the same, or the label has come.
    Settled(f64),
    /// The label is missing; at worst it is this.
    Waiting(f64),
}

/// Everything known of one challenger by the samples that both answered. Plain data, bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    duels: Duels,
    /// The abort test where losses are not right or wrong.
    worse: Bets,
    promote: Bets,
    /// Samples from the frontier on, in the order of sampling.
    ring: VecDeque<Standing>,
    /// Number of the first sample in the ring.
    frontier: u64,
    agreed: u64,
    labelled: u64,
    missed: u64,
    /// Logarithm of the evidence that ends the trial.
    ln_limit: f64,
}

/// What the evidence says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leaning {
    /// The champion is better: abort.
    Worse,
    /// The challenger is not worse by the margin: promote.
    NotWorse,
    /// Neither is shown.
    Undecided,
}

/// What trial `number`, from 1, may err with, if all of one champion's may err with about `alpha`.
#[must_use]
pub fn alpha_of(alpha: f64, number: u64) -> f64 {
    if number <= 1 { alpha } else { alpha * 6.0 / (std::f64::consts::PI * number as f64).powi(2) }
}

impl Trial {
    /// The trial number `number`, from 1, on this stream of samples, with the error chance `alpha` over all of them: trial `k` may
    /// err with `α · 6/(π² k²)`, but for the first, which may with `α`: together they add up to `1.4 α`.
    #[must_use]
    pub fn new(margin: f64, alpha: f64, number: u64) -> Self {
        Self::allowing(margin, alpha_of(alpha, number))
    }

    /// A trial that may err with `alpha` by itself.
    #[must_use]
    pub fn allowing(margin: f64, alpha: f64) -> Self {
        Self {
            duels: Duels::default(),
            worse: Bets::new(0.0),
            promote: Bets::new(margin),
            ring: VecDeque::new(),
            frontier: 0,
            agreed: 0,
            labelled: 0,
            missed: 0,
            ln_limit: -alpha.clamp(1e-12, 0.5).ln(),
        }
    }

    /// Takes the next sample that both answered and returns its number, under which its label comes. Where both `agree`, none is
    /// needed.
    pub fn sampled(&mut self, agree: bool) -> u64 {
        if agree { self.agreed_by(0.0) } else { self.waits(1.0) }
    }

    /// Takes the next sample, on which the losses differ by at most `gap` whatever its label will be: so little that none is asked
    /// for, and the challenger is taken to have lost it.
    pub fn agreed_by(&mut self, gap: f64) -> u64 {
        self.agreed += 1;
        self.push(Standing::Settled(-gap.abs()))
    }

    /// Takes the next sample, on which the losses differ by at most `gap`, and whose label tells by how much.
    pub fn waits(&mut self, gap: f64) -> u64 {
        self.push(Standing::Waiting(-gap.abs()))
    }

    fn push(&mut self, standing: Standing) -> u64 {
        if self.ring.len() == WAITING_MAX {
            // The oldest is waiting, or it would have left the ring.
            self.miss(0);
            self.advance();
        }
        let number = self.frontier + self.ring.len() as u64;
        self.ring.push_back(standing);
        self.advance();
        number
    }

    /// Takes the label of sample `number`: `difference` is `D`. A label of a sample that agreed, was missed or is settled already
    /// changes nothing.
    pub fn labelled(&mut self, number: u64, difference: f64) {
        let Some(at) = number.checked_sub(self.frontier).and_then(|at| usize::try_from(at).ok()) else {
            return;
        };
        let Some(Standing::Waiting(_)) = self.ring.get(at) else { return };
        self.labelled += 1;
        let difference = if difference.is_nan() { -1.0 } else { difference.clamp(-1.0, 1.0) };
        if difference.abs() >= 1.0 {
            self.duels.push(difference < 0.0);
        }
        self.worse.push(-difference);
        self.settle(at, difference);
        self.advance();
    }

    /// Counts the samples before `number` whose label is still missing against the challenger: their time is over.
    pub fn expire(&mut self, number: u64) {
        let expired = number.saturating_sub(self.frontier).min(self.ring.len() as u64);
        for at in 0..usize::try_from(expired).unwrap_or(usize::MAX) {
            self.miss(at);
        }
        self.advance();
    }

    fn miss(&mut self, at: usize) {
        if let Standing::Waiting(worst) = self.ring[at] {
            self.settle(at, worst);
            self.missed += 1;
        }
    }

    fn settle(&mut self, at: usize, difference: f64) {
        self.ring[at] = Standing::Settled(difference);
    }

    fn advance(&mut self) {
        while let Some(Standing::Settled(difference)) = self.ring.front().copied() {
            self.promote.push(difference);
            self.ring.pop_front();
            self.frontier += 1;
        }
    }

    /// What the evidence says; both tests may be asked at any time.
    ///
    /// `graded` losses (regression) have no duels: their abort test bets too.
    #[must_use]
    pub fn leaning(&self, graded: bool) -> Leaning {
        let (abort, promote) = self.ln_evidence(graded);
        if abort >= self.ln_limit {
            Leaning::Worse
        } else if promote >= self.ln_limit {
            Leaning::NotWorse
        } else {
            Leaning::Undecided
        }
    }

    /// Logarithms of the evidence for abort and for promote.
    #[must_use]
    pub fn ln_evidence(&self, graded: bool) -> (f64, f64) {
        let abort = if graded { self.worse.ln_k() } else { self.duels.ln_e() };
        (abort, self.promote.ln_k().max(self.pessimist().ln_k()))
    }

    /// The promote test as if every missing label spoke against the challenger: a lower bound too, and faster where few are missing.
    fn pessimist(&self) -> Bets {
        let mut bets = self.promote.clone();
        for standing in &self.ring {
            bets.push(match standing {
                Standing::Settled(difference) | Standing::Waiting(difference) => *difference,
            });
        }
        bets
    }

    /// Logarithm of the evidence at which either test ends the trial.
    #[must_use]
    pub fn ln_limit(&self) -> f64 {
        self.ln_limit
    }

    /// Samples that both answered, those that agreed, labels that came, labels that were missed.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64, u64) {
        (self.frontier + self.ring.len() as u64, self.agreed, self.labelled, self.missed)
    }

    /// Samples on which exactly one of both was right.
    #[must_use]
    pub fn duels(&self) -> Duels {
        self.duels
    }

    /// Number of the first sample whose label is still missing; one more than the last if none is.
    #[must_use]
    pub fn frontier(&self) -> u64 {
        self.frontier
    }

    /// Samples from the frontier on.
    #[must_use]
    pub fn ahead(&self) -> usize {
        self.ring.len()
    }

    /// Numbers of the samples whose labels are worth asking for, oldest first.
    pub fn wanted(&self) -> impl Iterator<Item = u64> + '_ {
        let waiting = self.ring.iter().enumerate().filter(|(_, standing)| matches!(standing, Standing::Waiting(_)));
        waiting.map(|(at, _)| self.frontier + at as u64)
    }
}

#[cfg(test)]
mod study;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_abort_evidence_equals_its_closed_form() {
        let vectors = [
            (0, 0, 1.0),
            (1, 1, 1.5),
            (1, 0, 0.5),
            (6, 6, 18.143),
            (7, 7, 31.875),
            (10, 8, 4.002),
            (10, 9, 18.509),
            (14, 12, 23.917),
            (20, 15, 6.356),
            (20, 16, 20.538),
            (40, 28, 9.545),
            (100, 64, 12.663),
            (100, 65, 22.892),
        ];
        for (m, k, expected) in vectors {
            let e = Duels { discordant: m, champion: k }.ln_e().exp();
            assert!((e - expected).abs() < 6e-4 * expected, "{m} {k}: {e}");
        }
        assert!(Duels { discordant: 1_000_000, champion: 900_000 }.ln_e().is_finite());
    }

    #[test]
    fn the_promote_evidence_equals_its_closed_form() {
        let vectors = [
            (0, 0, 0, 1.0),
            (0, 100, 0, 2.4973),
            (0, 250, 0, 19.3427),
            (1, 279, 0, 6.4269),
            (0, 120, 8, 291.685),
            (2, 200, 10, 103.686),
            (4, 180, 16, 150.021),
            (40, 1_100, 45, 22.8676),
        ];
        for (minus, zero, plus, expected) in vectors {
            let mut bets = Bets::new(0.02);
            (0..minus).for_each(|_| bets.push(-1.0));
            (0..zero).for_each(|_| bets.push(0.0));
            (0..plus).for_each(|_| bets.push(1.0));
            let k = bets.ln_k().exp();
            assert!((k - expected).abs() < 1e-4 * expected, "{minus} {zero} {plus}: {k}");
        }
    }

    #[test]
    fn agreements_do_not_run_ahead_of_a_missing_label() {
        let mut trial = Trial::new(0.02, 0.05, 1);
        let first = trial.sampled(false);
        (0..400).for_each(|_| assert!(trial.sampled(true) > first));
        // The frontier stands; counting the missing label as lost, 400 agreements prove enough.
        assert_eq!(trial.promote.pairs(), 0);
        assert_eq!(trial.leaning(false), Leaning::NotWorse);
        let mut trial = Trial::new(0.02, 0.05, 1);
        for _ in 0..20 {
            trial.sampled(false);
        }
        for _ in 0..400 {
            trial.sampled(true);
        }
        assert_eq!(trial.leaning(false), Leaning::Undecided, "twenty labels are missing");
        (0..20).for_each(|number| trial.labelled(number, 0.0));
        assert_eq!(trial.promote.pairs(), 420);
        assert_eq!(trial.leaning(false), Leaning::NotWorse);
    }

    #[test]
    fn a_label_that_never_comes_counts_against_the_challenger_and_a_late_one_changes_nothing() {
        let mut trial = Trial::new(0.02, 0.05, 1);
        let number = trial.sampled(false);
        for _ in 0..30 {
            trial.sampled(true);
        }
        trial.expire(number + 1);
        assert_eq!(trial.counts(), (31, 30, 0, 1));
        let before = trial.clone();
        trial.labelled(number, 1.0);
        trial.labelled(9_999, 1.0);
        assert_eq!(trial, before);
    }

    #[test]
    fn waiting_samples_are_bounded_and_the_oldest_is_given_up() {
        let mut trial = Trial::new(0.02, 0.05, 1);
        for _ in 0..WAITING_MAX + 10 {
            trial.sampled(false);
        }
        assert_eq!(trial.ring.len(), WAITING_MAX);
        assert_eq!(trial.counts().3, 10);
        assert_eq!(trial.wanted().next(), Some(10));
    }

    #[test]
    fn a_bad_challenger_is_seen_whatever_the_losses_are_made_of() {
        for graded in [false, true] {
            let mut trial = Trial::new(0.02, 0.05, 1);
            for _ in 0..60 {
                let number = trial.sampled(false);
                trial.labelled(number, if graded { -0.6 } else { -1.0 });
            }
            assert_eq!(trial.leaning(graded), Leaning::Worse);
        }
        let mut broken = Trial::new(0.02, 0.05, 1);
        for _ in 0..60 {
            let number = broken.sampled(false);
            broken.labelled(number, f64::NAN);
        }
        assert_eq!(broken.leaning(false), Leaning::Worse);
    }

    #[test]
    fn later_trials_need_more_evidence_and_a_restart_changes_nothing() {
        let limits: Vec<f64> = (1..5).map(|number| Trial::new(0.02, 0.05, number).ln_limit()).collect();
        assert!((limits[0] - 20.0_f64.ln()).abs() < 1e-12);
        // 6/π² of the error chance is shared by all later ones, as 1/4 : 1/9 : 1/16.
        let second = (std::f64::consts::PI.powi(2) * 4.0 * 20.0 / 6.0).ln();
        assert!((limits[1] - second).abs() < 1e-12 && (limits[3] - second - 4.0_f64.ln()).abs() < 1e-12, "{limits:?}");
        let mut trial = Trial::new(0.02, 0.05, 2);
        for number in 0..100 {
            trial.sampled(number % 7 != 0);
        }
        trial.labelled(14, -1.0);
        let text = serde_json::to_string(&trial).unwrap();
        assert_eq!(serde_json::from_str::<Trial>(&text).unwrap(), trial);
    }
}
