//! e-detector: watches a bounded loss against a promised run length, and dates the change it finds.
//!
//! e-SR raises the alarm, e-CUSUM beside it dates the change (Shin, Ramdas, Rinaldo, arXiv 2203.03532). As long as the loss stays
//! at or below its bound on average, the expected number of rows to a false alarm is at least the run length asked for, whatever
//! the law of the loss; only an autocorrelated loss breaks the promise.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::special::beta_quantile;
use super::{Alarm, Detector, Direction, SettingError, require, usable};

/// The bound is kept in this range, so that no fraction of it degenerates.
pub const BOUND_MIN: f64 = 0.005;
/// See [`BOUND_MIN`].
pub const BOUND_MAX: f64 = 0.95;
/// Rows of calibration below which a bound means little.
pub const CALIBRATION_ROWS_MIN: u64 = 200;

/// Bets per row; each is tuned to another size of change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grid {
    /// `2^−j`, j = 1..8: half the cost, and the better one the rarer the errors.
    #[default]
    Geometric,
    /// `k/17`, k = 1..16.
    Linear,
}

impl Grid {
    /// The fractions of `1/p0` that are bet.
    fn fractions(self) -> Vec<f64> {
        match self {
            Self::Geometric => (1..=8).map(|j| 0.5_f64.powi(j)).collect(),
            Self::Linear => (1..=16).map(|k| f64::from(k) / 17.0).collect(),
        }
    }
}

/// Settings of [`EDetector`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EDetectorSettings {
    /// Bound of the mean loss while nothing changed: an upper one to watch for a rise, a lower one for a fall. Clipped to
    /// [[`BOUND_MIN`], [`BOUND_MAX`]]. See [`error_rate_upper`], [`mean_upper`].
    pub p0: f64,
    /// Promised expected rows to a false alarm, above 1: rows per day × 30 for one in 30 days.
    pub arl: f64,
    /// `Up` watches for a rising loss, `Down` for a falling one.
    pub direction: Direction,
    /// Which bets are placed.
    pub grid: Grid,
}

impl Default for EDetectorSettings {
    fn default() -> Self {
        Self { p0: 0.5, arl: 10_000.0, direction: Direction::Up, grid: Grid::Geometric }
    }
}

/// The wealth of one bet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Bet {
    /// Bet per unit of loss above the bound.
    stake: f64,
    /// Shiryaev-Roberts wealth M: a new unit is put in at every row.
    roberts: f64,
    /// CUSUM wealth C: started anew whenever it fell below one unit.
    cusum: f64,
    /// The row of the last new start.
    start: u64,
}

/// The test of one loss stream with values in [0, 1]; values outside are clipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EDetector {
    direction: Direction,
    bound: f64,
    arl: f64,
    bets: Vec<Bet>,
    statistic: f64,
    seen: u64,
}

impl EDetector {
    /// A fresh detector.
    ///
    /// # Errors
    ///
    /// A run length of at most 1, a bound outside of [0, 1], a two-sided direction.
    pub fn new(settings: EDetectorSettings) -> Result<Self, SettingError> {
        let EDetectorSettings { p0, arl, direction, grid } = settings;
        require((0.0..=1.0).contains(&p0), "e_detector", "p0", p0, "from 0 to 1")?;
        require(arl > 1.0 && usable(arl), "e_detector", "arl", arl, "above 1")?;
        let one_sided = direction != Direction::Both;
        require(one_sided, "e_detector", "direction", f64::NAN, "up or down (run one of each for both)")?;
        let bound = if direction == Direction::Down { 1.0 - p0 } else { p0 }.clamp(BOUND_MIN, BOUND_MAX);
        let fresh = |fraction: f64| Bet { stake: fraction / bound, roberts: 0.0, cusum: 0.0, start: 0 };
        let bets = grid.fractions().into_iter().map(fresh).collect();
        Ok(Self { direction, bound, arl, bets, statistic: 0.0, seen: 0 })
    }

    /// Mean wealth after the last row; the alarm comes when it reaches the run length.
    #[must_use]
    pub fn statistic(&self) -> f64 {
        self.statistic
    }

    /// The promised run length.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.arl
    }

    /// The bound in use after clipping; for a falling loss, of 1 − loss.
    #[must_use]
    pub fn bound(&self) -> f64 {
        self.bound
    }

    /// Estimated first row of a change, were the alarm raised now.
    #[must_use]
    pub fn change_point(&self) -> u64 {
        let best = self.bets.iter().max_by(|first, second| first.cusum.total_cmp(&second.cusum));
        best.map_or(0, |bet| bet.start)
    }
}

impl EDetector {
    /// Like [`Detector::update`] for a value that the caller numbers `index`: alarms speak of these numbers, which must not fall.
    pub fn update_at(&mut self, x: f64, index: u64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        self.seen = index + 1;
        let loss = x.clamp(0.0, 1.0);
        let excess = if self.direction == Direction::Down { 1.0 - loss } else { loss } - self.bound;
        let mut sum = 0.0;
        for bet in &mut self.bets {
            let factor = 1.0 + bet.stake * excess;
            bet.roberts = (bet.roberts + 1.0) * factor;
            if bet.cusum < 1.0 {
                bet.start = index;
            }
            bet.cusum = bet.cusum.max(1.0) * factor;
            sum += bet.roberts;
        }
        self.statistic = sum / self.bets.len() as f64;
        if self.statistic < self.arl {
            return None;
        }
        let change_point = self.change_point();
        let alarm =
            Alarm { index, statistic: self.statistic, threshold: self.arl, change_point, direction: self.direction };
        for bet in &mut self.bets {
            bet.roberts = 0.0;
            bet.cusum = 0.0;
        }
        Some(alarm)
    }

    /// Watches against the bound `p0` from the next row on, if it is tighter than the one in use. The wealth stays: every bet up to
    /// now was fair under its own bound, so the promise holds if `p0` is a bound too.
    pub fn tighten(&mut self, p0: f64) {
        let bound = if self.direction == Direction::Down { 1.0 - p0 } else { p0 }.clamp(BOUND_MIN, BOUND_MAX);
        if bound < self.bound {
            for bet in &mut self.bets {
                bet.stake *= self.bound / bound;
            }
            self.bound = bound;
        }
    }
}

impl Detector for EDetector {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        self.update_at(x, self.seen)
    }

    fn is_warning(&self) -> bool {
        false
    }
}

/// Upper 95 % bound of an error rate from `errors` in `rows` (Clopper and Pearson); 1 without rows.
#[must_use]
pub fn error_rate_upper(errors: u64, rows: u64) -> f64 {
    if errors >= rows {
        return 1.0;
    }
    beta_quantile(0.95, (errors + 1) as f64, (rows - errors) as f64)
}

/// Lower 95 % bound of an error rate from `errors` in `rows` (Clopper and Pearson); 0 without errors.
#[must_use]
pub fn error_rate_lower(errors: u64, rows: u64) -> f64 {
    1.0 - error_rate_upper(rows.saturating_sub(errors), rows)
}

/// Upper 95 % bound `mean + 1.645·sqrt(variance/rows)` of a mean loss; 1 without rows.
#[must_use]
pub fn mean_upper(mean: f64, variance: f64, rows: u64) -> f64 {
    if rows == 0 { 1.0 } else { (mean + 1.645 * (variance.max(0.0) / rows as f64).sqrt()).clamp(0.0, 1.0) }
}

/// Lower 95 % bound of a mean loss; 0 without rows.
#[must_use]
pub fn mean_lower(mean: f64, variance: f64, rows: u64) -> f64 {
    if rows == 0 { 0.0 } else { (mean - 1.645 * (variance.max(0.0) / rows as f64).sqrt()).clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::super::seeded::Draws;
    use super::*;

    /// Rows to the first alarm of a coin of `before`, then `after` from `change` on; `rows_max` if none came.
    fn first_alarm(
        settings: EDetectorSettings,
        seed: u64,
        (before, after, change): (f64, f64, u64),
        rows_max: u64,
    ) -> Option<Alarm> {
        let mut detector = EDetector::new(settings).unwrap();
        let mut draws = Draws::new(seed);
        (0..rows_max).find_map(|row| {
            let rate = if row < change { before } else { after };
            detector.update(if draws.uniform() < rate { 1.0 } else { 0.0 })
        })
    }

    fn median(mut values: Vec<u64>) -> u64 {
        values.sort_unstable();
        values[values.len() / 2]
    }

    #[test]
    fn the_promised_run_length_is_kept_at_the_bound() {
        let settings = EDetectorSettings { p0: 0.2, arl: 500.0, ..EDetectorSettings::default() };
        let runs = 400;
        let total: u64 = (0..runs)
            .map(|seed| first_alarm(settings, seed, (0.2, 0.2, 0), 20_000).map_or(20_000, |alarm| alarm.index + 1))
            .sum();
        assert!(total / runs >= 500, "{}", total / runs);
    }

    #[test]
    fn delays_are_those_measured_for_both_grids() {
        // (p0, new rate, linear, geometric): median delays of the reference page.
        for (p0, after, linear, geometric) in
            [(0.2, 0.4, 59, 62), (0.2, 0.8, 10, 12), (0.05, 0.2, 46, 46), (0.01, 0.05, 160, 128)]
        {
            for (grid, expected) in [(Grid::Linear, linear), (Grid::Geometric, geometric)] {
                let settings = EDetectorSettings { p0, grid, ..EDetectorSettings::default() };
                let alarms: Vec<Alarm> = (0..300)
                    .filter_map(|seed| first_alarm(settings, seed, (p0, after, 1000), 4000))
                    .filter(|alarm| alarm.index >= 1000)
                    .collect();
                assert!(alarms.len() >= 270, "{p0} to {after}: {} found", alarms.len());
                let delay = median(alarms.iter().map(|alarm| alarm.index - 1000).collect());
                assert!(
                    delay.abs_diff(expected) <= 3 + expected / 5,
                    "{p0} to {after} {grid:?}: {delay}, not {expected}"
                );
                let late = median(alarms.iter().map(|alarm| alarm.change_point.abs_diff(1000)).collect());
                // A change cannot be dated better than to a few errors.
                assert!((late as f64) < 10.0 + 3.0 / after, "{p0} to {after}: change dated {late} rows off");
            }
        }
    }

    #[test]
    fn a_falling_loss_is_found_by_the_other_side_only() {
        let down = EDetectorSettings { p0: 0.5, direction: Direction::Down, ..EDetectorSettings::default() };
        let alarm = first_alarm(down, 1, (0.5, 0.1, 500), 2000).unwrap();
        assert!(alarm.index >= 500 && alarm.index < 600 && alarm.direction == Direction::Down, "{alarm:?}");
        let up = EDetectorSettings { direction: Direction::Up, ..down };
        assert_eq!(first_alarm(up, 1, (0.5, 0.1, 500), 2000), None);
    }

    #[test]
    fn the_bounds_cover_the_rate_they_were_measured_from() {
        // 3/n is the rule of three for no errors at 95 %.
        assert!((error_rate_upper(0, 1000) - (1.0 - 0.05_f64.powf(0.001))).abs() < 1e-12);
        assert!((error_rate_upper(20, 200) - 0.141_967).abs() < 1e-3, "{}", error_rate_upper(20, 200));
        assert!((error_rate_upper(5, 5) - 1.0).abs() < 1e-12 && error_rate_lower(0, 5).abs() < 1e-12);
        assert!(error_rate_lower(20, 200) < 0.1);
        assert!((mean_upper(0.2, 0.16, 400) - 0.2329).abs() < 1e-12);
        assert!((mean_upper(0.2, 0.16, 0) - 1.0).abs() < 1e-12 && mean_lower(0.2, 0.16, 0).abs() < 1e-12);
    }

    #[test]
    fn settings_that_promise_nothing_are_refused() {
        let settings = EDetectorSettings::default();
        assert!(EDetector::new(EDetectorSettings { arl: 1.0, ..settings }).is_err());
        assert!(EDetector::new(EDetectorSettings { p0: -0.1, ..settings }).is_err());
        assert!(EDetector::new(EDetectorSettings { direction: Direction::Both, ..settings }).is_err());
    }
}
