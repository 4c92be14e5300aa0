//! Thinning: feeds a test only every so many rows, so far apart that they no longer follow each other.
//!
//! A thinned row obeys the same law as a reference row, whatever the order of the reference; a block mean would not, unless the
//! reference came in blocks of the same stream. Thinning also averages a season: at 67 rows apart and a weight of 0.03 the memory of
//! QT-EWMA spans seven days of 288 rows. The distances are primes, so that thinning never falls in step with hours and days.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::guard::CORRELATION_MAX;

/// Distances that are measured and may be chosen.
pub const LAGS: [u16; 10] = [1, 2, 3, 5, 7, 11, 17, 29, 43, 67];
/// Rows before the first distance is chosen.
pub const WARM_UP_ROWS: u64 = 256;
/// Rows over which a longer distance must be asked for before it is used: a drift correlates rows too, and must not delay its alarm.
pub const PATIENCE_LONGER_ROWS: u64 = 512;
/// Rows over which a shorter distance must be asked for before it is used.
pub const PATIENCE_SHORTER_ROWS: u64 = 4096;
/// Rows from one decision to the next.
const DECISION_ROWS: u64 = 64;
/// Forgetting of the moments once so many rows were seen.
const MEMORY_ROWS: u64 = 1024;
const RING_ROWS: usize = LAGS[LAGS.len() - 1] as usize;

/// How far apart rows are fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pace {
    /// Not enough rows seen.
    Unknown,
    /// Every so many rows.
    Every(u32),
    /// Even the longest distance leaves rows that follow each other.
    Never,
}

impl Pace {
    fn length(self) -> u32 {
        match self {
            Self::Unknown => 0,
            Self::Every(rows) => rows,
            Self::Never => u32::MAX,
        }
    }
}

/// Another pace is being asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Asked {
    since_row: u64,
    pace: Pace,
}

/// Running autocorrelation of a few components at [`LAGS`], and the pace that follows from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thinning {
    dimension: u32,
    /// Bounds of the pace: at least, at most.
    every_min: u32,
    every_max: u32,
    rows: u64,
    /// The last rows `[RING_ROWS, dimension]`, written in a circle.
    ring: Vec<f32>,
    means: Vec<f32>,
    variances: Vec<f32>,
    /// `[lag, dimension]`.
    covariances: Vec<f32>,
    pace: Pace,
    asked: Option<Asked>,
}

impl Thinning {
    /// Nothing measured; the pace will lie from `every_min` to `every_max`, or be [`Pace::Never`].
    #[must_use]
    pub fn new(dimension: usize, every_min: u32, every_max: u32) -> Self {
        Self {
            dimension: u32::try_from(dimension).unwrap_or(u32::MAX),
            every_min: every_min.max(1),
            every_max,
            rows: 0,
            ring: vec![0.0; RING_ROWS * dimension],
            means: vec![0.0; dimension],
            variances: vec![0.0; dimension],
            covariances: vec![0.0; LAGS.len() * dimension],
            pace: Pace::Unknown,
            asked: None,
        }
    }

    /// Measures the next row of finite components; whether it is fed is the caller's count. A row of another length is ignored.
    ///
    /// Returns the new pace where it changes; with `held` it does not.
    pub fn record(&mut self, point: &[f32], held: bool) -> Option<Pace> {
        if point.len() != self.means.len() {
            return None;
        }
        self.measure(point);
        if self.rows < WARM_UP_ROWS || !self.rows.is_multiple_of(DECISION_ROWS) {
            return None;
        }
        if self.pace == Pace::Unknown {
            self.pace = self.wanted();
            return Some(self.pace);
        }
        let wanted = self.wanted();
        let now = self.pace.length();
        let longer = |pace: Pace| pace.length() > now;
        match self.asked {
            _ if wanted.length() == now => self.asked = None,
            Some(asked) if longer(asked.pace) == longer(wanted) => {
                // The most modest of what was asked for since.
                let modest = asked.pace.length().abs_diff(now) <= wanted.length().abs_diff(now);
                let pace = if modest { asked.pace } else { wanted };
                self.asked = Some(Asked { pace, ..asked });
                let patience = if longer(pace) { PATIENCE_LONGER_ROWS } else { PATIENCE_SHORTER_ROWS };
                if !held && self.rows - asked.since_row >= patience {
                    (self.pace, self.asked) = (pace, None);
                    return Some(pace);
                }
            }
            _ => self.asked = Some(Asked { since_row: self.rows, pace: wanted }),
        }
        None
    }

    /// The pace in use.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Largest correlation of a component with itself `LAGS[lag]` rows before; by absolute value but for neighbours, where a
    /// negative one only calms an average.
    #[must_use]
    pub fn correlation(&self, lag: usize) -> f64 {
        let dimension = self.means.len();
        let covariances = self.covariances.iter().skip(lag * dimension).take(dimension);
        let of = |(covariance, variance): (&f32, &f32)| {
            if *variance > 0.0 { f64::from(covariance / variance).clamp(-1.0, 1.0) } else { 0.0 }
        };
        let correlations = covariances.zip(&self.variances).map(of);
        if lag == 0 { correlations.fold(-1.0, f64::max) } else { correlations.map(f64::abs).fold(0.0, f64::max) }
    }

    fn measure(&mut self, point: &[f32]) {
        let dimension = self.means.len();
        let seen = self.rows;
        self.rows += 1;
        #[expect(clippy::cast_possible_truncation, reason = "a rate in single precision")]
        let rate = (1.0 / self.rows.min(MEMORY_ROWS) as f64) as f32;
        for ((mean, variance), x) in self.means.iter_mut().zip(&mut self.variances).zip(point) {
            let gap = x - *mean;
            *mean += rate * gap;
            *variance += rate * (gap * (x - *mean) - *variance);
        }
        let place = |rows_ago: u16| {
            let row = (seen - u64::from(rows_ago)) % RING_ROWS as u64;
            #[expect(clippy::cast_possible_truncation, reason = "below the ring's length")]
            let row = row as usize;
            row * dimension
        };
        for (lag, covariances) in LAGS.iter().zip(self.covariances.chunks_exact_mut(dimension.max(1))) {
            if u64::from(*lag) > seen {
                break;
            }
            let pairs = seen - u64::from(*lag) + 1;
            let rate = if pairs < MEMORY_ROWS { rate.max(1.0 / pairs as f32) } else { rate };
            let before = &self.ring[place(*lag)..];
            for (((covariance, x), y), mean) in covariances.iter_mut().zip(point).zip(before).zip(&self.means) {
                *covariance += rate * ((x - mean) * (y - mean) - *covariance);
            }
        }
        let start = place(0);
        self.ring[start..start + dimension].copy_from_slice(point);
    }

    /// The shortest allowed distance at which rows no longer follow each other, as far as chance lets one tell.
    fn wanted(&self) -> Pace {
        // Two standard errors: the largest of several correlations of independent components would pass the limit by chance.
        let allowed = CORRELATION_MAX + 2.0 / (self.rows.min(2 * MEMORY_ROWS) as f64).sqrt();
        let free = |lag: usize| self.correlation(lag) <= allowed;
        let shortest = (0..LAGS.len()).find(|lag| free(*lag)).map(|lag| u32::from(LAGS[lag]).max(self.every_min));
        shortest.filter(|rows| *rows <= self.every_max).map_or(Pace::Never, Pace::Every)
    }
}

/// How many times the variance of a mean of these rows `[n, dimension]`, in their order, exceeds that of independent ones; at least 1.
///
/// From the means of stretches of an eighth of the rows, averaged over the components. Below 1.3 it is taken for chance.
#[must_use]
pub fn inflation(rows: &[f32], dimension: usize) -> f64 {
    let count = rows.len() / dimension.max(1);
    let stretch = count / 8;
    if stretch < 2 {
        return 1.0;
    }
    let share = stretch as f64 / count as f64;
    let (mut sum, mut varying) = (0.0, 0);
    for component in 0..dimension {
        let values = || rows.iter().skip(component).step_by(dimension).map(|x| f64::from(*x));
        let mean = values().sum::<f64>() / count as f64;
        let variance = values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count as f64;
        let sums: Vec<f64> = std::iter::once(0.0)
            .chain(values().scan(0.0, |sum, x| {
                *sum += x - mean;
                Some(*sum)
            }))
            .collect();
        let squares = sums.iter().zip(&sums[stretch..]).map(|(before, after)| (after - before).powi(2));
        let of_means = squares.sum::<f64>() / (count - stretch + 1) as f64 / stretch as f64;
        if variance > 0.0 {
            sum += of_means / variance / (1.0 - share);
            varying += 1;
        }
    }
    let inflation = sum / f64::from(varying.max(1));
    if inflation < 1.3 { 1.0 } else { inflation }
}

#[cfg(test)]
mod tests {
    use super::super::seeded::Draws;
    use super::*;

    /// Unit-variance AR(1) in every component.
    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    fn autoregressive(correlation: f64, rows: usize, dimension: usize, seed: u64) -> Vec<f32> {
        let mut draws = Draws::new(seed);
        let mut point: Vec<f64> = (0..dimension).map(|_| draws.normal()).collect();
        let mut values = Vec::new();
        for _ in 0..rows {
            for x in &mut point {
                *x = correlation * *x + (1.0 - correlation * correlation).sqrt() * draws.normal();
                values.push(*x as f32);
            }
        }
        values
    }

    fn pace_of(rows: &[f32], dimension: usize) -> Pace {
        let mut thinning = Thinning::new(dimension, 1, 100);
        for row in rows.chunks_exact(dimension) {
            thinning.record(row, false);
        }
        thinning.pace()
    }

    #[test]
    fn the_pace_grows_with_the_correlation_and_ends_in_silence() {
        for seed in 0..5 {
            assert_eq!(pace_of(&autoregressive(0.0, 6000, 8, seed), 8), Pace::Every(1));
            let Pace::Every(rows) = pace_of(&autoregressive(0.7, 6000, 8, seed), 8) else { panic!("has a pace") };
            assert!((3..=11).contains(&rows), "{rows}");
            assert_eq!(pace_of(&autoregressive(0.999, 6000, 8, seed), 8), Pace::Never);
        }
    }

    #[test]
    fn a_step_does_not_slow_the_pace_before_its_alarm_is_due() {
        let mut thinning = Thinning::new(2, 1, 100);
        let mut rows = autoregressive(0.0, 2000, 2, 1);
        rows.extend(autoregressive(0.0, 256, 2, 2).iter().map(|x| x + 4.0));
        for row in rows.chunks_exact(2) {
            thinning.record(row, false);
        }
        assert_eq!(thinning.pace(), Pace::Every(1));
    }

    #[test]
    fn dependent_rows_count_for_as_many_independent_ones_as_they_are_worth() {
        let mean = |correlation: f64| {
            (0..20).map(|s| inflation(&autoregressive(correlation, 2048, 8, s), 8) / 20.0).sum::<f64>()
        };
        assert!((mean(0.0) - 1.0).abs() < 0.05, "{}", mean(0.0));
        assert!((4.5..7.0).contains(&mean(0.7)), "{} for 5.7", mean(0.7));
        assert_eq!(inflation(&[], 3).to_bits(), 1.0_f64.to_bits());
        assert_eq!(inflation(&[1.0; 300], 3).to_bits(), 1.0_f64.to_bits());
    }
}
