//! Thresholds of QT-EWMA for a chosen run length: simulated without any data, or from the committed tables of such simulations.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::qt_tables::{REFERENCE_ROWS, RUN_LENGTHS, THRESHOLDS, WINDOWS};
use super::quant_tree::{QtError, QuantTree};
use super::seeded::Draws;
use super::{require, usable};

/// Steps after which simulated thresholds are constant.
const STEPS_MAX: usize = 2000;

/// Fewest reference rows the tables know; below, no run length can be promised.
pub const REFERENCE_ROWS_MIN: f64 = REFERENCE_ROWS[0];
/// Shortest run length of the tables.
pub const RUN_LENGTH_MIN: f64 = RUN_LENGTHS[0];
/// Longest run length of the tables; for a longer one feed every second, third, … row.
pub const RUN_LENGTH_MAX: f64 = RUN_LENGTHS[RUN_LENGTHS.len() - 1];

/// Thresholds `h_t` of the statistic by rows since the start; the last one holds from there on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    run_length: f64,
    /// First step of each level and its threshold, in order; before the first there is no verdict.
    levels: Vec<(u32, f64)>,
}

impl Thresholds {
    /// The threshold of the row `step` rows after the start; infinite while there is no verdict.
    #[must_use]
    pub fn at(&self, step: u64) -> f64 {
        let after = self.levels.partition_point(|(first, _)| u64::from(*first) <= step);
        after.checked_sub(1).map_or(f64::INFINITY, |level| self.levels[level].1)
    }

    /// The promised expected rows to a false alarm.
    #[must_use]
    pub fn run_length(&self) -> f64 {
        self.run_length
    }

    /// The thresholds for K = 32 and λ = 0.03 from the committed tables, simulated without data: no work, no chance.
    ///
    /// Between the tables they are linear in the logarithm of the run length and in 1/N. `reference_rows` are independent ones
    /// (rows that follow each other count for fewer) and are held to [`REFERENCE_ROWS_MIN`] or more, `run_length` to
    /// [`RUN_LENGTH_MIN`] to [`RUN_LENGTH_MAX`]. The first five rows have no verdict.
    #[must_use]
    pub fn promised(reference_rows: f64, run_length: f64) -> Self {
        let run_length =
            if run_length.is_nan() { RUN_LENGTH_MIN } else { run_length.clamp(RUN_LENGTH_MIN, RUN_LENGTH_MAX) };
        let inverse = 1.0 / reference_rows.max(REFERENCE_ROWS_MIN);
        let (longer, length_share) = between(&RUN_LENGTHS.map(f64::ln), run_length.ln());
        // Falling in N, so that the axis rises in −1/N.
        let (larger, size_share) = between(&REFERENCE_ROWS.map(|rows| -1.0 / rows), -inverse);
        let level = |window: usize| {
            let along = |run_length: usize| {
                let at = |rows: usize| f64::from(THRESHOLDS[run_length][rows][window]);
                at(larger - 1) + size_share * (at(larger) - at(larger - 1))
            };
            (WINDOWS[window], along(longer - 1) + length_share * (along(longer) - along(longer - 1)))
        };
        Self { run_length, levels: (0..THRESHOLDS[0][0].len()).map(level).collect() }
    }

    /// Simulates the statistic without drift and takes, at each step, the `1 − 1/run_length` quantile over the trajectories that have
    /// not alarmed before.
    ///
    /// Work for a workstation or a build: each trajectory takes about `8 · K + 100` bytes; a gateway reads the result, or takes
    /// [`Thresholds::promised`]. Needs no data: bin chances are drawn from their Dirichlet law given the bin sizes of `tree`. Deterministic by `seed`. Takes
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
        Ok(Self { run_length, levels: (0_u32..).zip(by_step).collect() })
    }
}

/// The first knot beyond the first that is at or above `x`, and how far `x` is on the way to it.
fn between(knots: &[f64], x: f64) -> (usize, f64) {
    let upper = knots.partition_point(|knot| *knot < x).clamp(1, knots.len() - 1);
    (upper, (x - knots[upper - 1]) / (knots[upper] - knots[upper - 1]))
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
    fn the_tables_meet_the_points_of_the_reference_page() {
        for (rows, run_length, step, expected) in [
            (445.0, 2000.0, 10, 0.489),
            (445.0, 2000.0, 30, 0.869),
            (445.0, 2000.0, 100, 1.063),
            (2048.0, 2000.0, 30, 0.817),
            (2048.0, 2000.0, 300, 0.958),
            (f64::INFINITY, 2000.0, 300, 0.925),
            (256.0, 2000.0, 300, 0.925 + 67.6 / 256.0),
            (2048.0, 10_000.0, 1000, 1.101),
            (445.0, 10_000.0, 1000, 1.248),
        ] {
            let actual = Thresholds::promised(rows, run_length).at(step - 1);
            // A window holds the threshold of its last steps over its first ones.
            let tolerance = if step < 100 { 0.12 } else { 0.015 };
            assert!(
                (actual - expected).abs() < tolerance * expected,
                "{rows} {run_length} {step}: {actual}, not {expected}"
            );
        }
    }

    #[test]
    fn the_tables_rise_with_the_run_length_and_fall_with_the_reference() {
        for step in [10, 100, 1000] {
            let at = |rows: f64, run_length: f64| Thresholds::promised(rows, run_length).at(step);
            for run_length in [100.0, 500.0, 2e3, 1e4, 1e5] {
                assert!(at(128.0, run_length) > at(200.0, run_length) && at(700.0, run_length) > at(1e9, run_length));
                assert!(at(500.0, run_length * 1.5) > at(500.0, run_length) || run_length > 9e4);
            }
        }
        assert_eq!(Thresholds::promised(f64::NAN, f64::NAN).at(4).to_bits(), f64::INFINITY.to_bits());
        assert!(Thresholds::promised(f64::NAN, f64::NAN).at(5).is_finite());
    }
}
