//! QT-EWMA: drift of a whole vector against a reference, with a chosen run length whatever the law or dimension of the data.
//!
//! A [`QuantTree`] cuts the reference rows into bins of known chance; an exponentially weighted mean of bin hits is compared with
//! those chances. Source: Frittoli, Carrera, Boracchi, arXiv 2208.14801.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::qt_thresholds::Thresholds;
use super::quant_tree::{QtError, QuantTree};
use super::{Alarm, Direction, require};

/// Terms of the statistic that are computed at a time: those of the default tree.
const TERMS: usize = 32;

/// The running test of one vector stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QtEwma {
    tree: QuantTree,
    weight: f64,
    thresholds: Thresholds,
    averages: Vec<f64>,
    step: u64,
    seen: u64,
    /// The row after the statistic was last at or below its typical size.
    last_quiet: u64,
    alarmed: bool,
}

impl QtEwma {
    /// A fresh test; `weight` must be the one the thresholds were made for.
    ///
    /// # Errors
    ///
    /// A weight outside of (0, 1).
    pub fn new(tree: QuantTree, weight: f64, thresholds: Thresholds) -> Result<Self, QtError> {
        require(weight > 0.0 && weight < 1.0, "qt_ewma", "weight", weight, "between 0 and 1")?;
        let averages = tree.chances().to_vec();
        Ok(Self { tree, weight, thresholds, averages, step: 0, seen: 0, last_quiet: 0, alarmed: false })
    }

    /// The frozen tree.
    #[must_use]
    pub fn tree(&self) -> &QuantTree {
        &self.tree
    }

    /// Takes the next row and returns the alarm it raises; the test starts anew at the row after an alarm.
    ///
    /// A row of another length, or with a value that is not finite, is ignored and returns `None`. The change point is the row after
    /// the statistic was last at or below its mean without drift; the direction is always `Both`.
    pub fn update(&mut self, row: &[f32]) -> Option<Alarm> {
        self.tree.bin(row)?;
        if self.alarmed {
            self.restart();
        }
        let reading = self.measure(row).filter(|reading| reading.statistic > reading.threshold);
        self.alarmed = reading.is_some();
        reading
    }

    /// Takes the next row and returns what the test reads, above its threshold or not; never starts anew by itself.
    ///
    /// What is ignored, the change point and the direction are those of [`Self::update`]. The threshold is infinite in the first rows.
    pub fn measure(&mut self, row: &[f32]) -> Option<Alarm> {
        let bin = self.tree.bin(row)?;
        let index = self.seen;
        self.seen += 1;
        for average in &mut self.averages {
            *average *= 1.0 - self.weight;
        }
        if let Some(average) = self.averages.get_mut(bin) {
            *average += self.weight;
        }
        // The terms first, of which the processor takes several at a time, then their sum, one after the other.
        let mut statistic = 0.0;
        for (averages, chances) in self.averages.chunks(TERMS).zip(self.tree.chances().chunks(TERMS)) {
            let mut terms = [0.0; TERMS];
            for ((term, average), chance) in terms.iter_mut().zip(averages).zip(chances) {
                let gap = average - chance;
                *term = gap * gap / chance;
            }
            for term in &terms[..averages.len()] {
                statistic += term;
            }
        }
        // Mean of the statistic in the long run: (K − 1)·λ/(2 − λ).
        if statistic <= (self.averages.len() - 1) as f64 * self.weight / (2.0 - self.weight) {
            self.last_quiet = self.seen;
        }
        let threshold = self.thresholds.at(self.step);
        self.step += 1;
        let change_point = self.last_quiet.min(index);
        Some(Alarm { index, statistic, threshold, change_point, direction: Direction::Both })
    }

    /// Forgets every row; rows go on counting.
    pub fn restart(&mut self) {
        self.averages.clone_from_slice(self.tree.chances());
        self.step = 0;
        self.last_quiet = self.seen;
        self.alarmed = false;
    }

    /// Starts anew with other thresholds.
    pub fn restart_with(&mut self, thresholds: Thresholds) {
        self.thresholds = thresholds;
        self.restart();
    }
}

#[cfg(test)]
mod tests {
    use super::super::qt_thresholds::Simulation;
    use super::super::quant_tree::tests::{rows, tree};
    use super::*;

    /// Mean rows to an alarm without drift, over trees and streams of their own.
    fn reached_run_length(thresholds: &Thresholds, reference: usize, runs: u64, rows_max: usize) -> f64 {
        let mut total = 0;
        for seed in 0..runs {
            let mut test = QtEwma::new(tree(reference, 1000 + seed), 0.03, thresholds.clone()).unwrap();
            let stream = rows(rows_max, 8, 0.0, 9_000_000 + seed);
            total += stream
                .chunks_exact(8)
                .find_map(|row| test.update(row))
                .map_or(rows_max as u64, |alarm| alarm.index + 1);
        }
        total as f64 / runs as f64
    }

    #[test]
    fn the_promised_run_length_is_reached_on_data_it_never_saw() {
        let simulation = Simulation { run_length: 200.0, trajectories: 20_000, steps: 300, seed: 5 };
        let thresholds = Thresholds::simulate(&tree(512, 4), 0.03, simulation).unwrap();
        let reached = reached_run_length(&thresholds, 512, 400, 2000);
        // 400 runs of a mean of 200 have a standard error of 10; streams are cut at 2,000 rows.
        assert!((165.0..235.0).contains(&reached), "{reached}");
    }

    #[test]
    fn a_shift_is_found_within_the_measured_delay_and_dated() {
        let delays: Vec<u64> = (0..20)
            .map(|seed| {
                let tree = tree(2048, seed);
                let thresholds = Thresholds::promised(tree.reference_rows() as f64, 2000.0);
                let mut test = QtEwma::new(tree, 0.03, thresholds).unwrap();
                let (before, after) = (rows(300, 8, 0.0, 500 + seed), rows(1000, 8, 0.5, 700 + seed));
                let alarm =
                    before.chunks_exact(8).chain(after.chunks_exact(8)).find_map(|row| test.update(row)).unwrap();
                assert!(alarm.change_point <= alarm.index);
                alarm.index.saturating_sub(300)
            })
            .collect();
        let mean = delays.iter().sum::<u64>() / 20;
        assert!((20..80).contains(&mean), "{delays:?}");
    }

    #[test]
    fn after_a_restart_the_first_rows_decide_nothing_as_at_the_beginning() {
        let mut test = QtEwma::new(tree(256, 1), 0.03, Thresholds::promised(256.0, 1000.0)).unwrap();
        let rows = rows(300, 8, 0.0, 4);
        let thresholds = |test: &mut QtEwma| -> Vec<f64> {
            rows.chunks_exact(8).map(|row| test.measure(row).unwrap().threshold).collect()
        };
        let first = thresholds(&mut test);
        assert!(first[0].is_infinite() && first[299].is_finite());
        test.restart();
        assert_eq!(thresholds(&mut test), first);
    }

    #[test]
    fn restoring_anywhere_changes_nothing_and_foreign_rows_are_ignored() {
        let thresholds = Thresholds::promised(256.0, 100.0);
        let mut straight = QtEwma::new(tree(256, 1), 0.03, thresholds).unwrap();
        let mut restored = straight.clone();
        for row in rows(300, 8, 0.3, 4).chunks_exact(8) {
            restored = postcard::from_bytes(&postcard::to_stdvec(&restored).unwrap()).unwrap();
            assert_eq!(straight.update(row), restored.update(row));
        }
        assert_eq!((straight.update(&[0.0; 3]), straight.update(&[f32::NAN; 8])), (None, None));
        assert_eq!(straight, restored);
    }
}
