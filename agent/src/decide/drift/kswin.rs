//! KSWIN: compares the newest values of a window with a random draw of the older ones by Kolmogorov-Smirnov.
//!
//! Same draws and alarms as river 0.26.1 (Raab, Heusinger, Schleif, Neurocomputing 2020). One test per value without any control
//! of multiplicity, 14 false alarms per 10,000: offered for compatibility, never a default.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::mersenne::Mersenne;
use super::{Alarm, Detector, Direction, SettingError, require, usable};

/// Longest window that is accepted.
pub const WINDOW_MAX: u32 = 10_000;
/// River's floor: no alarm at a statistic up to this, however small its p-value.
const STATISTIC_MIN: f64 = 0.1;

/// Settings of [`Kswin`]; the defaults are river's, and seed 42.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KswinSettings {
    /// Level of one test, in (0, 1).
    pub alpha: f64,
    /// Values kept, at most [`WINDOW_MAX`].
    pub window_size: u32,
    /// Values on each side of the comparison; at most half of the window.
    pub stat_size: u32,
    /// Seed of the draws, renewed at every alarm.
    pub seed: u32,
}

impl Default for KswinSettings {
    fn default() -> Self {
        Self { alpha: 0.005, window_size: 100, stat_size: 30, seed: 42 }
    }
}

/// The test; its change point is the oldest of the newest values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kswin {
    settings: KswinSettings,
    /// Smallest difference of counts below a value that alarms; more than `stat_size` if none can.
    gap_min: u32,
    window: VecDeque<f64>,
    generator: Mersenne,
    seen: u64,
    alarmed: bool,
}

impl Kswin {
    /// A fresh detector.
    ///
    /// # Errors
    ///
    /// Names the first setting outside of its documented range.
    pub fn new(settings: KswinSettings) -> Result<Self, SettingError> {
        let KswinSettings { alpha, window_size, stat_size, seed } = settings;
        require(alpha > 0.0 && alpha < 1.0, "kswin", "alpha", alpha, "between 0 and 1")?;
        require((2..=WINDOW_MAX).contains(&window_size), "kswin", "window_size", window_size.into(), "2 to 10000")?;
        let fits = stat_size >= 1 && stat_size <= window_size / 2;
        require(fits, "kswin", "stat_size", stat_size.into(), "at least 1 and at most half of window_size")?;
        Ok(Self {
            settings,
            gap_min: smallest_gap(stat_size, alpha),
            window: VecDeque::new(),
            generator: Mersenne::new(seed),
            seen: 0,
            alarmed: false,
        })
    }

    /// Largest difference of counts below any value between the newest values and a draw of the older ones.
    fn gap(&mut self) -> u32 {
        let KswinSettings { window_size, stat_size, .. } = self.settings;
        let older = window_size - stat_size;
        let places = self.generator.sample(older, stat_size);
        let mut drawn: Vec<f64> = places.into_iter().map(|place| self.window[place as usize]).collect();
        let mut newest: Vec<f64> = self.window.range(older as usize..).copied().collect();
        drawn.sort_unstable_by(f64::total_cmp);
        newest.sort_unstable_by(f64::total_cmp);
        let (mut i, mut j, mut largest) = (0_usize, 0_usize, 0_usize);
        while i < drawn.len() && j < newest.len() {
            let value = drawn[i].min(newest[j]);
            while drawn.get(i).is_some_and(|x| *x <= value) {
                i += 1;
            }
            while newest.get(j).is_some_and(|x| *x <= value) {
                j += 1;
            }
            largest = largest.max(i.abs_diff(j));
        }
        u32::try_from(largest).unwrap_or(u32::MAX)
    }
}

impl Detector for Kswin {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        if self.alarmed {
            self.window.clear();
            self.generator = Mersenne::new(self.settings.seed);
            self.alarmed = false;
        }
        let index = self.seen;
        self.seen += 1;
        if self.window.len() == self.settings.window_size as usize {
            self.window.pop_front();
        }
        self.window.push_back(x);
        if self.window.len() < self.settings.window_size as usize {
            return None;
        }
        let gap = self.gap();
        if gap < self.gap_min {
            return None;
        }
        self.alarmed = true;
        let size = f64::from(self.settings.stat_size);
        Some(Alarm {
            index,
            statistic: f64::from(gap) / size,
            threshold: f64::from(self.gap_min) / size,
            change_point: index + 1 - u64::from(self.settings.stat_size),
            direction: Direction::Both,
        })
    }

    fn is_warning(&self) -> bool {
        false
    }
}

/// Smallest gap of counts of two samples of `size` whose exact two-sided p-value is at most `alpha`.
fn smallest_gap(size: u32, alpha: f64) -> u32 {
    let floor = |gap: u32| f64::from(gap) / f64::from(size) > STATISTIC_MIN;
    (1..=size).find(|gap| floor(*gap) && equal_sizes_p(size, *gap) <= alpha).unwrap_or(size + 1)
}

/// Chance that the counts of two samples of `size` from one law differ by `gap` anywhere (Gnedenko and Korolyuk, 1951).
fn equal_sizes_p(size: u32, gap: u32) -> f64 {
    let mut sum = 0.0;
    let mut sign = 2.0;
    for multiple in (gap..=size).step_by(gap as usize) {
        // C(2n, n − k) / C(2n, n) as a product of k factors below 1.
        let ratio: f64 = (1..=multiple).map(|i| f64::from(size - multiple + i) / f64::from(size + i)).product();
        sum += sign * ratio;
        sign = -sign;
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_against_thirty_alarms_from_a_gap_of_fourteen() {
        assert!((equal_sizes_p(30, 14) - 0.0025).abs() < 1e-4 && (equal_sizes_p(30, 13) - 0.0065).abs() < 1e-4);
        assert_eq!(smallest_gap(30, 0.005), 14);
        assert!((equal_sizes_p(2, 1) - 1.0).abs() < 1e-12 && (equal_sizes_p(2, 2) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(smallest_gap(2, 0.005), 3);
    }

    #[test]
    fn however_many_values_are_compared_a_tenth_of_them_is_no_difference() {
        assert!(equal_sizes_p(1000, 80) < 0.005 && equal_sizes_p(1000, 100) < 0.005);
        assert_eq!(smallest_gap(1000, 0.005), 101);
    }

    #[test]
    fn a_change_of_law_without_a_change_of_mean_is_found() {
        let mut kswin = Kswin::new(KswinSettings::default()).unwrap();
        let value = |row: u32| f64::from(row % 10) - 4.5;
        let alarm = (0..1000).find_map(|row| kswin.update(if row < 500 { value(row) } else { 10.0 * value(row) }));
        let alarm = alarm.unwrap();
        assert!((500..560).contains(&alarm.index) && alarm.change_point.abs_diff(500) < 40, "{alarm:?}");
    }

    #[test]
    fn a_comparison_larger_than_half_the_window_is_refused() {
        assert!(Kswin::new(KswinSettings { stat_size: 60, ..KswinSettings::default() }).is_err());
    }
}
