//! Guard: measures how a stream follows its own past, and feeds detectors block means where single values would cry wolf.
//!
//! Detectors promise nothing on autocorrelated values: at a lag-1 correlation of 0.7 and no drift ADWIN fires 18 times per 10,000.
//! Means of `(1+ρ)/(1−ρ)` rows are nearly independent again (0.25 times).
#![expect(clippy::cast_precision_loss, reason = "fewer than 256 rows")]
use serde::{Deserialize, Serialize};

use super::{Alarm, Detector, usable};

/// Forgetting of the running moments: about the last 256 rows count.
const FORGETTING: f64 = 1.0 / 256.0;
/// See [`FORGETTING`].
const MEMORY_ROWS: u64 = 256;
/// Correlation up to which values are fed one by one.
pub const CORRELATION_MAX: f64 = 0.2;
/// Longest block the measured correlation asks for; a block whose means still correlate is doubled once.
pub const BLOCK_ROWS_MAX: u32 = 32;
/// Rows before the first value is fed: before, the correlation is a guess.
pub const WARM_UP_ROWS: u64 = 64;
/// Rows over which a longer block must be asked for before it is used.
pub const PATIENCE_ROWS: u64 = 256;
/// Block means before their own correlation is believed.
const BLOCKS_BELIEVED: u64 = 64;

/// Running lag-1 autocorrelation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LagOne {
    mean: f64,
    variance: f64,
    covariance: f64,
    previous: Option<f64>,
    rows: u64,
    /// Of these, taken since the centre was last given up.
    centred_rows: u64,
}

impl LagOne {
    /// Takes the next value; what a detector would ignore is ignored.
    pub fn update(&mut self, x: f64) {
        if !usable(x) {
            return;
        }
        if self.centred_rows == 0 {
            // From 0 the first rows of a stream far away from it would look like one long trend.
            self.mean = x;
        }
        self.rows += 1;
        self.centred_rows += 1;
        let d = x - self.mean;
        // A plain mean at first: with the weight of later rows a first row far out would look like a trend for hundreds of rows.
        self.mean += d * if self.centred_rows < MEMORY_ROWS { 1.0 / self.centred_rows as f64 } else { FORGETTING };
        self.variance = (1.0 - FORGETTING) * (self.variance + FORGETTING * d * d);
        self.covariance = (1.0 - FORGETTING) * (self.covariance + FORGETTING * d * self.previous.unwrap_or(0.0));
        self.previous = Some(d);
    }

    /// Measures anew around what comes next: after a shift, rows would seem to follow each other only because their mean moved.
    pub fn recentre(&mut self) {
        *self = Self { rows: self.rows, ..Self::default() };
    }

    /// Whether the correlation rests on enough rows around one mean.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.centred_rows >= WARM_UP_ROWS
    }

    /// The correlation ρ, in [−1, 1]; 0 while nothing varies.
    #[must_use]
    pub fn correlation(&self) -> f64 {
        if self.variance > 0.0 { (self.covariance / self.variance).clamp(-1.0, 1.0) } else { 0.0 }
    }

    /// Whether the correlation is below `limit`, and not by a rounding: told without the division that most rows of most columns would
    /// else pay for.
    fn is_clearly_below(&self, limit: f64) -> bool {
        self.covariance < 0.99 * limit * self.variance
    }

    /// Values taken.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }
}

/// Rows per block at a correlation: 1 up to [`CORRELATION_MAX`], then `ceil((1+ρ)/(1−ρ))` up to [`BLOCK_ROWS_MAX`].
#[must_use]
pub fn block_rows(correlation: f64) -> u32 {
    if correlation.is_nan() || correlation <= CORRELATION_MAX {
        return 1;
    }
    // Rounding of the ratio must not add a row: at 0.5 it is 3, not 4.
    let wanted = (1.0 + correlation) / (1.0 - correlation) - 1e-9;
    (1..BLOCK_ROWS_MAX).find(|rows| f64::from(*rows) >= wanted).unwrap_or(BLOCK_ROWS_MAX)
}

/// From this fed value on, blocks have this length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Stretch {
    first_fed: u64,
    first_row: u64,
    block_rows: u32,
}

/// A longer block is being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Asked {
    since_row: u64,
    /// The shortest length asked for since.
    block_rows: u32,
}

/// Averages rows into blocks long enough for the detector behind it.
///
/// The first length is chosen after [`WARM_UP_ROWS`]. Later the block only grows, between blocks, and once a longer one was asked for
/// over [`PATIENCE_ROWS`] without a break: a step raises the measured correlation too, and must not delay its own alarm. Begin with a
/// new guard after a rebaseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockMeans {
    values: LagOne,
    means: LagOne,
    doubled: bool,
    block_rows: u32,
    sum: f64,
    filled: u32,
    fed: u64,
    asked: Option<Asked>,
    /// At most one per block length.
    stretches: Vec<Stretch>,
}

impl Default for BlockMeans {
    fn default() -> Self {
        Self::new()
    }
}

impl BlockMeans {
    /// Nothing measured, blocks of one row.
    #[must_use]
    pub fn new() -> Self {
        Self {
            values: LagOne::default(),
            means: LagOne::default(),
            doubled: false,
            block_rows: 1,
            sum: 0.0,
            filled: 0,
            fed: 0,
            asked: None,
            stretches: Vec::new(),
        }
    }

    /// Takes the next row and returns the mean of a finished block, which is what a detector should see.
    pub fn feed(&mut self, x: f64) -> Option<f64> {
        if !usable(x) {
            return None;
        }
        self.values.update(x);
        if self.values.rows() <= WARM_UP_ROWS {
            return None;
        }
        if self.filled == 0 {
            self.adapt();
        }
        if self.block_rows == 1 {
            // Each row is its own block, and the means have no correlation that the rows had not.
            self.fed += 1;
            return Some(x);
        }
        self.sum += x;
        self.filled += 1;
        if self.filled < self.block_rows {
            return None;
        }
        let mean = self.sum / f64::from(self.filled);
        self.sum = 0.0;
        self.filled = 0;
        self.fed += 1;
        self.means.update(mean);
        Some(mean)
    }

    /// A shift is known to have happened: correlations are measured anew, and what was asked for because of it is forgotten.
    ///
    /// The length of blocks stays, and the first one is chosen only after another [`WARM_UP_ROWS`].
    pub fn recentre(&mut self) {
        self.values.recentre();
        self.means.recentre();
        self.asked = None;
    }

    /// Lengthens the block if the correlation asks for it, at once the first time and with patience later.
    fn adapt(&mut self) {
        if !self.values.is_settled() {
            return;
        }
        if self.block_rows == 1 && !self.stretches.is_empty() && self.values.is_clearly_below(CORRELATION_MAX) {
            self.asked = None;
            return;
        }
        let mut wanted = block_rows(self.values.correlation());
        let believed = self.means.centred_rows >= BLOCKS_BELIEVED && self.block_rows > 1;
        if believed && self.means.correlation() > CORRELATION_MAX {
            self.doubled = true;
        }
        if self.doubled {
            wanted *= 2;
        }
        let row = self.values.rows() - 1;
        if self.stretches.is_empty() {
            self.lengthen(wanted, row);
        } else if wanted <= self.block_rows {
            self.asked = None;
        } else {
            let asked = self.asked.get_or_insert(Asked { since_row: row, block_rows: wanted });
            asked.block_rows = asked.block_rows.min(wanted);
            let asked = *asked;
            if row - asked.since_row >= PATIENCE_ROWS {
                self.lengthen(asked.block_rows, row);
            }
        }
    }

    fn lengthen(&mut self, block_rows: u32, first_row: u64) {
        self.block_rows = block_rows;
        self.means = LagOne::default();
        self.asked = None;
        self.stretches.push(Stretch { first_fed: self.fed, first_row, block_rows });
    }

    /// The correlation of the rows.
    #[must_use]
    pub fn correlation(&self) -> f64 {
        self.values.correlation()
    }

    /// Rows per block now.
    #[must_use]
    pub fn block_rows(&self) -> u32 {
        self.block_rows
    }

    /// First row of the block that became the given fed value; both count from creation.
    #[must_use]
    pub fn row_of(&self, fed: u64) -> u64 {
        let stretch = self.stretches.iter().rev().find(|stretch| stretch.first_fed <= fed);
        stretch.map_or(0, |stretch| stretch.first_row + (fed - stretch.first_fed) * u64::from(stretch.block_rows))
    }
}

/// A detector behind a guard: it sees block means, its alarms speak of rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Guarded<D> {
    guard: BlockMeans,
    detector: D,
    seen: u64,
}

impl<D: Detector> Guarded<D> {
    /// Puts a fresh detector behind a fresh guard.
    pub fn new(detector: D) -> Self {
        Self { guard: BlockMeans::new(), detector, seen: 0 }
    }

    /// What the guard measured.
    pub fn guard(&self) -> &BlockMeans {
        &self.guard
    }

    /// The detector behind the guard; its own indices count blocks.
    pub fn detector(&self) -> &D {
        &self.detector
    }
}

impl<D: Detector> Detector for Guarded<D> {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        let index = self.seen;
        self.seen += 1;
        let mean = self.guard.feed(x)?;
        let alarm = self.detector.update(mean)?;
        self.guard.recentre();
        Some(Alarm { index, change_point: self.guard.row_of(alarm.change_point).min(index), ..alarm })
    }

    fn is_warning(&self) -> bool {
        self.detector.is_warning()
    }
}

#[cfg(test)]
mod tests {
    use super::super::adwin::{Adwin, AdwinSettings};
    use super::super::seeded::Draws;
    use super::*;

    fn adwin() -> Adwin {
        Adwin::new(AdwinSettings::default()).unwrap()
    }

    /// Unit-variance AR(1) with a step of `step` deviations at `change`.
    fn autoregressive(correlation: f64, rows: usize, step: f64, change: usize, seed: u64) -> Vec<f64> {
        let mut draws = Draws::new(seed);
        let mut x = draws.normal();
        (0..rows)
            .map(|row| {
                x = correlation * x + (1.0 - correlation * correlation).sqrt() * draws.normal();
                if row < change { x } else { x + step }
            })
            .collect()
    }

    fn alarms(detector: &mut impl Detector, values: &[f64]) -> Vec<Alarm> {
        values.iter().filter_map(|x| detector.update(*x)).collect()
    }

    #[test]
    fn blocks_have_the_lengths_of_the_rule() {
        assert_eq!([0.1, 0.3, 0.5, 0.7, 0.9, 0.99].map(block_rows), [1, 2, 3, 6, 19, 32]);
        assert_eq!([f64::NAN, -0.9, 1.0].map(block_rows), [1, 1, 32]);
    }

    #[test]
    fn the_measured_correlation_is_that_of_the_stream() {
        for correlation in [0.0, 0.5, 0.9] {
            let measured: f64 = (0..20)
                .map(|seed| {
                    let mut lag = LagOne::default();
                    for x in autoregressive(correlation, 3000, 0.0, 3000, seed) {
                        lag.update(x + 100.0);
                    }
                    lag.correlation() / 20.0
                })
                .sum();
            assert!((measured - correlation).abs() < 0.06, "{measured} for {correlation}");
        }
    }

    #[test]
    fn independent_rows_are_seldom_taken_for_a_trend() {
        let long = |seed: &u64| {
            let mut guard = BlockMeans::new();
            for x in autoregressive(0.0, 2000, 0.0, 2000, *seed) {
                guard.feed(x);
            }
            guard.block_rows() > 2
        };
        assert!((0..200).filter(long).count() <= 4);
    }

    #[test]
    fn autocorrelation_without_drift_no_longer_alarms() {
        for correlation in [0.5, 0.7, 0.9] {
            let (mut raw, mut guarded) = (0, 0);
            for seed in 0..10 {
                let values = autoregressive(correlation, 10_000, 0.0, 10_000, seed);
                raw += alarms(&mut adwin(), &values).len();
                guarded += alarms(&mut Guarded::new(adwin()), &values).len();
            }
            assert!(raw >= 20 && guarded <= 3, "{correlation}: {raw} raw, {guarded} guarded in 10 × 10,000");
        }
    }

    #[test]
    fn blocks_whose_means_still_follow_each_other_are_doubled_once() {
        // Slow waves below noise: neighbouring rows hardly show how long the memory is, and the rule asks for short blocks.
        let doubled = (0..10).filter(|seed| {
            let (waves, noise) =
                (autoregressive(0.98, 6000, 0.0, 6000, *seed), autoregressive(0.0, 6000, 0.0, 6000, 100 + seed));
            let mut guard = BlockMeans::new();
            for (wave, noise) in waves.iter().zip(&noise) {
                guard.feed(wave + noise);
            }
            assert!(guard.block_rows() <= 2 * BLOCK_ROWS_MAX);
            guard.doubled
        });
        assert_eq!(doubled.count(), 10);
    }

    #[test]
    fn independent_values_pass_one_by_one_and_a_step_is_dated_in_rows() {
        for (correlation, latest, off) in [(0.0, 3100, 40), (0.7, 3800, 400)] {
            let values = autoregressive(correlation, 6000, 2.0, 3000, 5);
            let mut guarded = Guarded::new(adwin());
            let found = alarms(&mut guarded, &values);
            assert!((3000..latest).contains(&found[0].index), "{found:?}");
            assert!(found[0].change_point.abs_diff(3000) < off, "{found:?}");
        }
    }
}
