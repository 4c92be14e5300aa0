//! How far losses follow each other, and so how many labels say as much as one would alone.
//!
//! An attempt holds a fifth of its labels out. Where errors come in runs, as in a market that is calm at night, twenty held-out rows
//! show one run: the candidate that suits it is adopted and fails in the next one. So the sizes of an episode count independent rows.
use serde::{Deserialize, Serialize};

use crate::decide::drift::guard::CORRELATION_MAX;

/// Distances that are measured. Runs that last longer are a change of their own.
const LAGS: usize = 16;
/// Rows over which the mean is followed: a change of level must not look like a run.
const LEVEL_ROWS: u64 = 50;
/// Rows over which the covariances are remembered.
const MEMORY_ROWS: u64 = 1_000;
/// Most labels that count as one.
const WORTH_MAX: f64 = 16.0;
/// What is said is what was so at least so many losses ago, and at most twice as many: a change is one long run, and it must not make
/// the answer to it wait. The tests find a plain change sooner.
const SETTLED_ROWS: u64 = 256;

/// Running autocovariance of the losses about their moving mean: plain data of constant size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Clusters {
    rows: u64,
    mean: f64,
    variance: f64,
    /// The last deviations from the mean, written in a circle.
    last: [f64; LAGS],
    /// Covariance with the loss so many rows before, from one on.
    covariances: [f64; LAGS],
    /// What so many rows were worth when [`SETTLED_ROWS`] were full last, and the time before that.
    settled: [Option<f64>; 2],
}

impl Clusters {
    /// Takes the loss of the next labelled row; one that is not finite is left out.
    pub(super) fn push(&mut self, loss: f64) {
        if !loss.is_finite() {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most a thousand rows")]
        let rate = |rows: u64, most: u64| 1.0 / (rows + 1).min(most) as f64;
        let (level, memory) = (rate(self.rows, LEVEL_ROWS), rate(self.rows, MEMORY_ROWS));
        let deviation = if self.rows == 0 { 0.0 } else { loss - self.mean };
        self.mean += level * (loss - self.mean);
        self.variance += memory * (deviation * deviation - self.variance);
        let at = usize::try_from(self.rows % LAGS as u64).expect("less than the lags");
        for (index, covariance) in self.covariances.iter_mut().enumerate() {
            let before = self.last[(at + LAGS - 1 - index) % LAGS];
            *covariance += memory * (deviation * before - *covariance);
        }
        self.last[at] = deviation;
        self.rows += 1;
        if self.rows.is_multiple_of(SETTLED_ROWS) {
            self.settled = [Some(self.measured()), self.settled[0]];
        }
    }

    /// How many of these rows say as much about a mean as one independent row: `1 + 2 Σ ρₖ`, up to the first lag whose correlation
    /// is lost in the noise of the estimate. 1 to 16, and 1 where neighbours are correlated so little that the drift tests ignore it.
    fn measured(&self) -> f64 {
        if self.variance <= 0.0 || self.covariances[0] <= CORRELATION_MAX * self.variance {
            return 1.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "at most a thousand rows")]
        let noise = 2.0 / (self.rows.min(MEMORY_ROWS) as f64).sqrt();
        let correlations = self.covariances.iter().map(|covariance| covariance / self.variance);
        let together: f64 = correlations.take_while(|correlation| *correlation > noise).sum();
        (1.0 + 2.0 * together).clamp(1.0, WORTH_MAX)
    }

    /// [`Self::measured`] as it was before whatever may have just changed; 1 until that is known.
    #[must_use]
    pub(super) fn worth(&self) -> f64 {
        self.settled[1].unwrap_or(1.0)
    }

    /// `rows` independent rows in rows of this stream.
    #[must_use]
    pub(super) fn stretched(&self, rows: u64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a setting of at most a million rows; a float that is cast saturates"
        )]
        let stretched = (rows as f64 * self.worth()).round() as u64;
        stretched.max(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::seeded::Draws;

    /// After 5,000 losses of 0 and 1 with mean .3 that are repeated with probability `again`, which is their correlation; `late` rows
    /// of plain error follow.
    fn clusters(again: f64, late: usize) -> Clusters {
        let mut draws = Draws::new(7);
        let (mut clusters, mut loss) = (Clusters::default(), 0.0);
        for _ in 0..5_000 {
            if draws.uniform() >= again {
                loss = f64::from(u8::from(draws.uniform() < 0.3));
            }
            clusters.push(loss);
        }
        (0..late).for_each(|_| clusters.push(1.0));
        clusters
    }

    #[test]
    fn independent_losses_count_one_by_one_and_runs_by_their_length() {
        assert!((clusters(0.0, 0).worth() - 1.0).abs() < f64::EPSILON);
        // (1 + ρ) / (1 − ρ), measured about a moving mean.
        for (again, worth) in [(0.5, 3.0), (0.7, 5.7)] {
            let found = clusters(again, 0).worth();
            assert!((found / worth - 1.0).abs() < 0.3, "{again}: {found}, expected about {worth}");
        }
        assert_eq!(clusters(0.0, 0).stretched(100), 100);
        assert!((220..400).contains(&clusters(0.5, 0).stretched(100)));
    }

    #[test]
    fn a_change_that_has_just_begun_is_not_taken_for_a_run() {
        assert_eq!(clusters(0.0, 250).stretched(100), 100);
        let mut perfect = Clusters::default();
        (0..1_000).for_each(|row| perfect.push(f64::from(u8::from(row >= 760))));
        assert_eq!(perfect.stretched(100), 100);
    }

    #[test]
    fn nothing_is_said_before_enough_losses_nor_of_constant_or_broken_ones() {
        let after = |losses: &[f64]| {
            let mut clusters = Clusters::default();
            losses.iter().for_each(|loss| clusters.push(*loss));
            clusters.worth()
        };
        let runs: Vec<f64> = (0..511).map(|row| f64::from(u8::from(row % 20 < 10))).collect();
        assert!((after(&runs) - 1.0).abs() < f64::EPSILON, "too few");
        let more: Vec<f64> = (0..640).map(|row| f64::from(u8::from(row % 20 < 10))).collect();
        assert!((3.0..=WORTH_MAX).contains(&after(&more)), "{}", after(&more));
        assert!((after(&[0.25; 500]) - 1.0).abs() < f64::EPSILON, "constant");
        let broken: Vec<f64> = more.iter().flat_map(|loss| [*loss, f64::NAN, f64::INFINITY]).collect();
        assert!((after(&broken) - after(&more)).abs() < f64::EPSILON, "not finite");
    }

    #[test]
    fn a_restart_in_the_middle_changes_nothing() {
        let clusters = clusters(0.6, 3);
        let text = serde_json::to_string(&clusters).unwrap();
        let mut restored: Clusters = serde_json::from_str(&text).unwrap();
        assert_eq!(restored, clusters);
        let mut on = clusters;
        for row in 0..100_u8 {
            restored.push(f64::from(row % 3));
            on.push(f64::from(row % 3));
        }
        assert_eq!(restored, on);
    }
}
