//! Thresholds of QT-EWMA for a chosen run length: simulated without any data, or from a measured formula.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::quant_tree::{QtError, QuantTree};
use super::seeded::Draws;
use super::{require, usable};

/// Steps after which simulated thresholds are constant.
const STEPS_MAX: usize = 2000;

/// Thresholds `h_t` of the statistic, one per row since the start; the last one holds from there on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    run_length: f64,
    by_step: Vec<f64>,
}

impl Thresholds {
    /// The threshold of the row `step` rows after the start.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        let last = self.by_step.len().saturating_sub(1);
        let place = usize::try_from(step).unwrap_or(last).min(last);
        self.by_step.get(place).copied().unwrap_or(f64::MAX)
    }

    /// The promised expected rows to a false alarm.
    #[must_use]
    pub fn run_length(&self) -> f64 {
        self.run_length
    }

    /// The steady threshold for K = 32 and λ = 0.03 without simulation, held from the first row.
    ///
    /// `a + b/N` measured at run lengths 2,000 (0.925 + 67.6/N) and 10,000 (1.060 + 83.6/N), between and beyond them by the logarithm
    /// of the run length; good to a few per cent of the run length from 1,000 to 20,000. Early rows are tested more leniently than
    /// promised, never more strictly.
    #[must_use]
    pub fn steady(reference_rows: u64, run_length: f64) -> Self {
        let share = (run_length.max(2.0) / 2000.0).ln() / 5.0_f64.ln();
        let rows = (reference_rows as f64).max(1.0);
        let threshold = (0.925 + share * (1.060 - 0.925)) + (67.6 + share * (83.6 - 67.6)) / rows;
        Self { run_length, by_step: vec![threshold] }
    }

    /// Simulates the statistic without drift and takes, at each step, the `1 − 1/run_length` quantile over the trajectories that have
    /// not alarmed before.
    ///
    /// Work for a workstation or a build: each trajectory takes about `8 · K + 100` bytes; a gateway reads the result, or takes
    /// [`Thresholds::steady`]. Needs no data: bin chances are drawn from their Dirichlet law given the bin sizes of `tree`. Deterministic by `seed`. Takes
    /// `trajectories · steps` updates of a few nanoseconds; use at least `200 · run_length` trajectories and 300 steps, after which
    /// the threshold is held (the mean over the last fifth).
    ///
    /// # Errors
    ///
    /// A setting outside of its documented range.
    pub fn simulate(tree: &QuantTree, weight: f64, simulation: Simulation) -> Result<Self, QtError> {
        let Simulation { run_length, trajectories, steps, seed } = simulation;
        require(weight > 0.0 && weight < 1.0, "qt_ewma", "weight", weight, "between 0 and 1")?;
        require(run_length > 1.0 && usable(run_length), "qt_ewma", "run_length", run_length, "above 1")?;
        let enough = f64::from(trajectories) >= 10.0 * run_length;
        require(enough, "qt_ewma", "trajectories", trajectories.into(), "at least 10 times the run length")?;
        let fits = (5..=STEPS_MAX).contains(&(steps as usize));
        require(fits, "qt_ewma", "steps", steps.into(), "5 to 2000")?;
        let mut draws = Draws::new(seed);
        let mut alive: Vec<Trajectory> = (0..trajectories).map(|_| Trajectory::new(tree, &mut draws)).collect();
        let mut by_step = Vec::with_capacity(steps as usize);
        // Alarms owed but not yet given, so that rounding to whole trajectories does not bias the run length.
        let mut owed = 0.0;
        let mut statistics = Vec::with_capacity(alive.len());
        for _ in 0..steps {
            for trajectory in &mut alive {
                trajectory.step(tree, weight, &mut draws);
            }
            statistics.clear();
            statistics.extend(alive.iter().map(|trajectory| trajectory.statistic));
            owed += alive.len() as f64 / run_length;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "positive and below the trajectories"
            )]
            let above = (owed as usize).min(alive.len() - 1);
            let place = alive.len() - 1 - above;
            let (_, threshold, _) = statistics.select_nth_unstable_by(place, f64::total_cmp);
            let threshold = *threshold;
            let before = alive.len();
            alive.retain(|trajectory| trajectory.statistic <= threshold);
            owed -= (before - alive.len()) as f64;
            by_step.push(threshold);
        }
        let tail = by_step.len() / 5;
        let steady = by_step[by_step.len() - tail..].iter().sum::<f64>() / tail as f64;
        by_step.push(steady);
        Ok(Self { run_length, by_step })
    }
}

/// How thresholds are simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Simulation {
    /// Promised expected rows to a false alarm, above 1.
    pub run_length: f64,
    /// Simulated streams, at least `10 · run_length`; 200 times for a promise within a few per cent.
    pub trajectories: u32,
    /// Steps simulated, 5 to 2000; 300 reach the steady state at λ = 0.03.
    pub steps: u32,
    /// Seed of the simulation.
    pub seed: u64,
}

/// One simulated stream without drift.
struct Trajectory {
    /// Cumulative bin chances of this stream.
    cumulative: Vec<f32>,
    hits: Vec<f32>,
    statistic: f64,
    seen_scale: f64,
}

impl Trajectory {
    #[expect(clippy::cast_possible_truncation, reason = "400,000 of them fit in memory only in single precision")]
    fn new(tree: &QuantTree, draws: &mut Draws) -> Self {
        let last = tree.sizes().len() - 1;
        let weights: Vec<f64> = tree
            .sizes()
            .iter()
            .enumerate()
            .map(|(bin, size)| draws.gamma(f64::from(*size) + if bin == last { 1.0 } else { 0.0 }))
            .collect();
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        let cumulative = weights
            .iter()
            .map(|weight| {
                sum += weight / total;
                sum as f32
            })
            .collect();
        Self { cumulative, hits: vec![0.0; tree.sizes().len()], statistic: 0.0, seen_scale: 1.0 }
    }

    /// One row: `T' = (1−λ)²T + 2λ(1−λ)(Z_b − π_b)/π_b + λ²(1/π_b − 1)`, in constant time.
    #[expect(clippy::cast_possible_truncation, reason = "see `new`")]
    fn step(&mut self, tree: &QuantTree, weight: f64, draws: &mut Draws) {
        let place = draws.uniform() as f32;
        let bin = self.cumulative.partition_point(|limit| *limit <= place).min(tree.chances().len() - 1);
        let kept = 1.0 - weight;
        let chance = tree.chances()[bin];
        // Z shrinks by 1 − λ at each row, so the part hit so far is stored divided by that common scale.
        let z = self.seen_scale * (chance + f64::from(self.hits[bin]));
        self.statistic = kept * kept * self.statistic
            + 2.0 * weight * kept * (z - chance) / chance
            + weight * weight * (1.0 / chance - 1.0);
        self.seen_scale *= kept;
        self.hits[bin] += (weight / self.seen_scale) as f32;
        if self.seen_scale < 1e-6 {
            self.rescale(tree);
        }
    }

    /// Brings the common scale back to 1 before the stored hits grow too large.
    #[expect(clippy::cast_possible_truncation, reason = "see `new`")]
    fn rescale(&mut self, tree: &QuantTree) {
        for (hits, chance) in self.hits.iter_mut().zip(tree.chances()) {
            *hits = (self.seen_scale * (chance + f64::from(*hits)) - chance) as f32;
        }
        self.seen_scale = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::quant_tree::tests::tree;
    use super::*;

    #[test]
    fn simulated_thresholds_are_those_of_the_reference_page() {
        // At run length 2,000 and N = 2048 the page gives .0279, .1083, .481, .817, .957 after 1, 2, 10, 30 and 100 rows.
        let simulation = Simulation { run_length: 2000.0, trajectories: 40_000, steps: 120, seed: 1 };
        let thresholds = Thresholds::simulate(&tree(2048, 3), 0.03, simulation).unwrap();
        for (rows, expected) in [(1, 0.0279), (2, 0.1083), (10, 0.481), (30, 0.817), (100, 0.957)] {
            let actual = thresholds.at(rows - 1);
            assert!((actual - expected).abs() < 0.07 * expected, "after {rows}: {actual}, not {expected}");
        }
    }

    #[test]
    fn the_steady_formula_meets_its_measured_points() {
        for (rows, run_length, expected) in
            [(445, 2000.0, 1.075), (2048, 2000.0, 0.958), (2048, 10_000.0, 1.101), (445, 10_000.0, 1.248)]
        {
            assert!((Thresholds::steady(rows, run_length).at(0) - expected).abs() < 0.005);
        }
    }
}
