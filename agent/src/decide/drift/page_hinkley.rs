//! Page-Hinkley: fires when the sum of deviations from the running mean has moved too far from its extreme.
//!
//! Same arithmetic and alarms as river 0.26.1 (Page, Biometrika 1954). The threshold is in raw units: feed unit variance.
use serde::{Deserialize, Serialize};

use super::{Alarm, Detector, Direction, Mean, SettingError, require, usable};

/// Settings of [`PageHinkley`]; the defaults are river's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PageHinkleySettings {
    /// No test before this many values.
    pub min_instances: u32,
    /// Change of the mean that is tolerated, in units of the values.
    pub delta: f64,
    /// Distance from the extreme that raises the alarm, in units of the values; above 0.
    pub threshold: f64,
    /// Forgetting of the sums, in (0, 1].
    pub alpha: f64,
    /// Which way to look.
    pub mode: Direction,
}

impl Default for PageHinkleySettings {
    fn default() -> Self {
        Self { min_instances: 30, delta: 0.005, threshold: 50.0, alpha: 0.9999, mode: Direction::Both }
    }
}

/// The two-sided test; the change point it reports is the index of the last new extreme of the sum that fired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PageHinkley {
    settings: PageHinkleySettings,
    mean: Mean,
    rise: f64,
    fall: f64,
    lowest: Option<f64>,
    highest: f64,
    lowest_index: u64,
    highest_index: u64,
    seen: u64,
    alarmed: bool,
}

impl PageHinkley {
    /// A fresh detector.
    ///
    /// # Errors
    ///
    /// Names the first setting outside of its documented range.
    pub fn new(settings: PageHinkleySettings) -> Result<Self, SettingError> {
        let PageHinkleySettings { delta, threshold, alpha, .. } = settings;
        require(usable(delta), "page_hinkley", "delta", delta, "a finite number")?;
        require(threshold > 0.0 && usable(threshold), "page_hinkley", "threshold", threshold, "above 0")?;
        require(alpha > 0.0 && alpha <= 1.0, "page_hinkley", "alpha", alpha, "above 0 and at most 1")?;
        Ok(Self::fresh(settings, 0))
    }

    fn fresh(settings: PageHinkleySettings, seen: u64) -> Self {
        Self {
            settings,
            mean: Mean::default(),
            rise: 0.0,
            fall: 0.0,
            lowest: None,
            // river starts the upper extreme at -1, not at minus infinity; alarms depend on it.
            highest: -1.0,
            lowest_index: seen,
            highest_index: seen,
            seen,
            alarmed: false,
        }
    }
}

impl Detector for PageHinkley {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        if self.alarmed {
            *self = Self::fresh(self.settings, self.seen);
        }
        let PageHinkleySettings { min_instances, delta, threshold, alpha, mode } = self.settings;
        let index = self.seen;
        self.seen += 1;
        self.mean.update(x);
        let error = x - self.mean.value;
        self.rise = alpha * self.rise + error - delta;
        self.fall = alpha * self.fall + error + delta;
        if self.lowest.is_none_or(|lowest| self.rise < lowest) {
            self.lowest = Some(self.rise);
            self.lowest_index = index;
        }
        if self.fall > self.highest {
            self.highest = self.fall;
            self.highest_index = index;
        }
        if self.mean.count < u64::from(min_instances) {
            return None;
        }
        let risen = self.rise - self.lowest.unwrap_or(self.rise);
        let fallen = self.highest - self.fall;
        let up = mode != Direction::Down && risen > threshold;
        let down = mode != Direction::Up && fallen > threshold;
        if !up && !down {
            return None;
        }
        self.alarmed = true;
        let (statistic, change_point, direction) = if up && (!down || risen >= fallen) {
            (risen, self.lowest_index, Direction::Up)
        } else {
            (fallen, self.highest_index, Direction::Down)
        };
        Some(Alarm { index, statistic, threshold, change_point, direction })
    }

    fn is_warning(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rise_and_a_fall_are_told_apart_and_dated_at_the_last_extreme() {
        for (after, direction) in [(3.0, Direction::Up), (-3.0, Direction::Down)] {
            let mut detector = PageHinkley::new(PageHinkleySettings::default()).unwrap();
            let alarm = (0..400).find_map(|row| detector.update(if row < 200 { 0.0 } else { after })).unwrap();
            assert_eq!(alarm.direction, direction);
            assert!(alarm.index < 230 && alarm.change_point.abs_diff(199) <= 1, "{alarm:?}");
        }
    }

    #[test]
    fn a_mode_silences_the_other_side() {
        let settings = PageHinkleySettings { mode: Direction::Down, ..PageHinkleySettings::default() };
        let mut detector = PageHinkley::new(settings).unwrap();
        assert!((0..400).all(|row| detector.update(if row < 200 { 0.0 } else { 3.0 }).is_none()));
    }
}
