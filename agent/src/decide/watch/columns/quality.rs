//! How often a value is missing or impossible: an e-detector on block fractions, with a promised run length.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use crate::decide::drift::Detector;
use crate::decide::drift::e_detector::{BOUND_MAX, BOUND_MIN, EDetector, EDetectorSettings};
use crate::decide::drift::special::beta_quantile;

/// Rows that are handed over as one fraction. The e-detector's null speaks of the mean of what it is fed, and the mean of a fraction is
/// that of its rows; so the supermartingale stays one, at a sixteenth of the cost. Short bursts are taken for one event as well.
pub(super) const BLOCK_ROWS: u32 = 16;
/// Chance that any of the bounds of one `Columns` lies below the true rate of its baseline.
const BOUND_ERROR: f64 = 0.05;
/// Weight of a new fraction in the running rate: about the last 256 rows count.
const RATE_WEIGHT: f64 = 1.0 / 16.0;

/// The rate of one kind of fault in one column.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RateWatch {
    /// Upper bound of the rate in the baseline; none if there was no baseline to judge by.
    bound: Option<f64>,
    /// Rate in the baseline.
    baseline: f64,
    /// Faults since the baseline was frozen.
    count: u64,
    /// Faults in the block that fills.
    block: u32,
    /// Running rate.
    rate: f64,
    held: bool,
    /// Begins at the first fault: until then its wealth would only have to be carried along, and beginning with less keeps the promise.
    detector: Option<Box<EDetector>>,
}

/// A rate that rose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rise {
    pub(super) statistic: f64,
    pub(super) threshold: f64,
    /// Rows since the estimated change.
    pub(super) age_rows: u64,
    pub(super) rate: f64,
    pub(super) baseline: f64,
}

impl RateWatch {
    /// A watch against the rate of `faults` in `rows` of the baseline, where faults come in runs of about `block_rows`; one of `tests`.
    pub(super) fn new(faults: u64, rows: u64, block_rows: u32, tests: usize) -> Self {
        let bound = rate_upper(faults, rows, block_rows, tests);
        let baseline = if rows == 0 { 0.0 } else { faults as f64 / rows as f64 };
        Self { bound: bound.filter(|bound| *bound < BOUND_MAX), baseline, ..Self::default() }
    }

    /// The same bound, nothing seen.
    pub(super) fn restarted(&self) -> Self {
        Self { bound: self.bound, baseline: self.baseline, ..Self::default() }
    }

    /// Counts one fault.
    pub(super) fn fault(&mut self) {
        self.count += 1;
        self.block += 1;
    }

    /// Ends a block of [`BLOCK_ROWS`]. `run_length_rows` is that of this test alone.
    pub(super) fn end_block(&mut self, run_length_rows: f64) -> Option<Rise> {
        let faults = std::mem::take(&mut self.block);
        if faults == 0 && self.detector.is_none() && self.rate <= 0.0 {
            return None;
        }
        let fraction = f64::from(faults.min(BLOCK_ROWS)) / f64::from(BLOCK_ROWS);
        self.rate += RATE_WEIGHT * (fraction - self.rate);
        let bound = self.bound?;
        if self.held {
            return None;
        }
        let detector = self.detector.get_or_insert_with(|| {
            let arl = (run_length_rows / f64::from(BLOCK_ROWS)).max(2.0);
            let settings = EDetectorSettings { p0: bound, arl, ..EDetectorSettings::default() };
            Box::new(EDetector::new(settings).expect("a bound in [0, 1] and a run length above 1 are accepted"))
        });
        let alarm = detector.update(fraction)?;
        self.held = true;
        self.detector = None;
        Some(Rise {
            statistic: alarm.statistic,
            threshold: alarm.threshold,
            age_rows: (alarm.index + 1 - alarm.change_point) * u64::from(BLOCK_ROWS),
            rate: self.rate,
            baseline: self.baseline,
        })
    }

    /// Once per look: a rate that is back at the bound of its baseline may be reported again. The bound itself is compared, without a
    /// fraction of it: it already lies above the rate that was normal.
    pub(super) fn look(&mut self) {
        if self.held && self.bound.is_some_and(|bound| self.rate <= bound.max(BOUND_MIN)) {
            self.held = false;
        }
    }

    /// Faults since the baseline was frozen.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Rate over about the last 256 rows.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// Whether a risen rate was reported and still stands.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }
}

/// Upper bound of a rate (Clopper and Pearson), at a level at which the bounds of all `tests` hold together with chance 95 %.
///
/// Faults that come in runs are fewer events than they look: both numbers are divided by the length of the runs. None without rows.
fn rate_upper(faults: u64, rows: u64, block_rows: u32, tests: usize) -> Option<f64> {
    if rows == 0 {
        return None;
    }
    if faults >= rows {
        return Some(1.0);
    }
    let events = |count: u64| count as f64 / f64::from(block_rows.max(1));
    let level = 1.0 - BOUND_ERROR / tests.max(1) as f64;
    Some(beta_quantile(level, events(faults) + 1.0, events(rows - faults)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::e_detector::error_rate_upper;

    fn run(watch: &mut RateWatch, rows: u32, every: u32) -> Vec<Rise> {
        let mut rises = Vec::new();
        for row in 0..rows {
            if row % every == 0 {
                watch.fault();
            }
            if row % BLOCK_ROWS == BLOCK_ROWS - 1 {
                rises.extend(watch.end_block(60_000.0));
            }
            if row % 64 == 63 {
                watch.look();
            }
        }
        rises
    }

    #[test]
    fn a_bound_of_one_test_is_the_usual_one_and_of_many_is_higher() {
        assert!((rate_upper(20, 200, 1, 1).unwrap() - error_rate_upper(20, 200)).abs() < 1e-9);
        assert!(rate_upper(20, 200, 1, 256).unwrap() > rate_upper(20, 200, 1, 1).unwrap());
        assert!(rate_upper(20, 200, 4, 1).unwrap() > rate_upper(20, 200, 1, 1).unwrap());
        assert_eq!((rate_upper(0, 0, 1, 1), rate_upper(5, 5, 1, 1)), (None, Some(1.0)));
    }

    #[test]
    fn a_sensor_that_dies_is_reported_once_within_a_hundred_rows() {
        let mut watch = RateWatch::new(0, 500, 1, 2);
        assert!(run(&mut watch, 6400, 10_000).is_empty());
        let rises = run(&mut watch, 6400, 1);
        assert_eq!(rises.len(), 1, "{rises:?}");
        assert!(rises[0].age_rows <= 112 && watch.is_held(), "{rises:?}");
        // It heals, and dies again.
        assert!(run(&mut watch, 3200, 10_000).is_empty());
        assert!(!watch.is_held());
        assert_eq!(run(&mut watch, 640, 1).len(), 1);
    }

    #[test]
    fn the_rate_of_the_baseline_is_no_alarm() {
        let mut watch = RateWatch::new(100, 1000, 1, 2);
        assert!(run(&mut watch, 100_000, 10).is_empty());
        assert_eq!(watch.count(), 10_000);
        let mut always = RateWatch::new(500, 500, 1, 2);
        assert!(run(&mut always, 10_000, 1).is_empty());
    }
}
