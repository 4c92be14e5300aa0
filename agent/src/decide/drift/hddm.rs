//! HDDM: Hoeffding bounds on a mean (A) and on an exponentially weighted mean (W) against their best earlier value.
//!
//! Same arithmetic, warnings and alarms as river 0.26.1 (Frías-Blanco et al., TKDE 27(3), 2014). Input in [0, 1], 1 = error.
#![expect(clippy::cast_precision_loss, reason = "a detector never sees 2^53 values")]
use serde::{Deserialize, Serialize};

use super::{Alarm, Detector, Direction, Mean, SettingError, require, usable};

/// Settings of [`HddmA`]; the defaults are river's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HddmASettings {
    /// Chance of a false alarm of one comparison, in (0, 1).
    pub drift_confidence: f64,
    /// Chance of a false warning of one comparison, in (0, 1).
    pub warning_confidence: f64,
    /// Whether a falling mean alarms too.
    pub two_sided: bool,
}

impl Default for HddmASettings {
    fn default() -> Self {
        Self { drift_confidence: 0.001, warning_confidence: 0.005, two_sided: false }
    }
}

/// The test on plain means; its change point follows the cut with the lowest upper (or highest lower) bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HddmA {
    settings: HddmASettings,
    all: Mean,
    low: Mean,
    high: Mean,
    warning: bool,
    seen: u64,
    alarmed: bool,
}

impl HddmA {
    /// A fresh detector.
    ///
    /// # Errors
    ///
    /// A confidence outside of (0, 1).
    pub fn new(settings: HddmASettings) -> Result<Self, SettingError> {
        confidences("hddm_a", settings.drift_confidence, settings.warning_confidence)?;
        let empty = Mean::default();
        Ok(Self { settings, all: empty, low: empty, high: empty, warning: false, seen: 0, alarmed: false })
    }

    /// Bound that the gap between the mean since `cut` and the mean up to it must reach at a confidence.
    fn bound(&self, cut: Mean, confidence: f64) -> Option<f64> {
        if cut.count == self.all.count {
            return None;
        }
        let m = (self.all.count - cut.count) as f64 / cut.count as f64 * (1.0 / self.all.count as f64);
        Some((m / 2.0 * (2.0 / confidence).ln()).sqrt())
    }

    /// The alarm of one side, or a warning noted.
    fn side(&mut self, cut: Mean, gap: f64, direction: Direction) -> Option<Alarm> {
        let index = self.seen - 1;
        let threshold = self.bound(cut, self.settings.drift_confidence);
        if let Some(threshold) = threshold.filter(|bound| gap >= *bound) {
            let change_point = index + 1 - (self.all.count - cut.count);
            return Some(Alarm { index, statistic: gap, threshold, change_point, direction });
        }
        None
    }

    fn warns(&self, cut: Mean, gap: f64) -> bool {
        self.bound(cut, self.settings.warning_confidence).is_some_and(|bound| gap >= bound)
    }
}

impl Detector for HddmA {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        if self.alarmed {
            let empty = Mean::default();
            *self = Self {
                settings: self.settings,
                all: empty,
                low: empty,
                high: empty,
                warning: false,
                seen: self.seen,
                alarmed: false,
            };
        }
        self.seen += 1;
        self.all.update(x);
        if self.low.count == 0 {
            self.low = self.all;
            self.high = self.all;
        }
        let spread = |mean: Mean| ((1.0 / self.settings.drift_confidence).ln() / (2.0 * mean.count as f64)).sqrt();
        let (all, low, high) = (self.all, self.low, self.high);
        if low.value + spread(low) >= all.value + spread(all) {
            self.low = all;
        }
        if high.value - spread(high) <= all.value - spread(all) {
            self.high = all;
        }
        let (low, high) = (self.low, self.high);
        let rise = all.value - low.value;
        let mut alarm = self.side(low, rise, Direction::Up);
        // With an alarm the warning of an earlier value stays as it was, as in river.
        if alarm.is_none() {
            self.warning = self.warns(low, rise);
        }
        if self.settings.two_sided {
            let fall = high.value - all.value;
            let falling = self.side(high, fall, Direction::Down);
            if falling.is_none() && self.warns(high, fall) {
                self.warning = true;
            }
            alarm = alarm.or(falling);
        }
        self.alarmed = alarm.is_some();
        alarm
    }

    fn is_warning(&self) -> bool {
        self.warning
    }
}

/// Settings of [`HddmW`]; the defaults are river's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HddmWSettings {
    /// Chance of a false alarm of one comparison, in (0, 1).
    pub drift_confidence: f64,
    /// Chance of a false warning of one comparison, in (0, 1).
    pub warning_confidence: f64,
    /// Weight of the newest value, in (0, 1].
    pub lambda_val: f64,
    /// Whether a falling mean alarms too.
    pub two_sided: bool,
}

impl Default for HddmWSettings {
    fn default() -> Self {
        Self { drift_confidence: 0.001, warning_confidence: 0.005, lambda_val: 0.05, two_sided: false }
    }
}

/// An exponentially weighted mean and the sum of its squared weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Weighted {
    mean: f64,
    seen: bool,
    squares: f64,
}

impl Weighted {
    const EMPTY: Self = Self { mean: 0.0, seen: false, squares: 1.0 };

    fn update(&mut self, x: f64, weight: f64) {
        let kept = 1.0 - weight;
        self.mean = if self.seen { weight * x + kept * self.mean } else { x };
        self.seen = true;
        self.squares = weight * weight + kept * kept * self.squares;
    }
}

/// One side of the test: the best record before the cut, and the record since.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Side {
    /// The extreme bound; `None` before the first value.
    cut: Option<f64>,
    cut_index: u64,
    before: Weighted,
    after: Weighted,
}

impl Side {
    const EMPTY: Self = Self { cut: None, cut_index: 0, before: Weighted::EMPTY, after: Weighted::EMPTY };

    fn gap_and_bound(&self, confidence: f64, direction: Direction) -> Option<(f64, f64)> {
        if !self.before.seen || !self.after.seen {
            return None;
        }
        let rise = self.after.mean - self.before.mean;
        let gap = if direction == Direction::Down { -rise } else { rise };
        let bound = hoeffding(self.before.squares + self.after.squares, confidence);
        (gap > bound).then_some((gap, bound))
    }
}

/// The test on exponentially weighted means; its change point is the value after the best record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HddmW {
    settings: HddmWSettings,
    total: Weighted,
    rising: Side,
    falling: Side,
    warning: bool,
    seen: u64,
    alarmed: bool,
}

impl HddmW {
    /// A fresh detector.
    ///
    /// # Errors
    ///
    /// A confidence outside of (0, 1), a weight outside of (0, 1].
    pub fn new(settings: HddmWSettings) -> Result<Self, SettingError> {
        confidences("hddm_w", settings.drift_confidence, settings.warning_confidence)?;
        let weight = settings.lambda_val;
        require(weight > 0.0 && weight <= 1.0, "hddm_w", "lambda_val", weight, "above 0 and at most 1")?;
        Ok(Self::fresh(settings, 0))
    }

    fn fresh(settings: HddmWSettings, seen: u64) -> Self {
        Self {
            settings,
            total: Weighted::EMPTY,
            rising: Side::EMPTY,
            falling: Side::EMPTY,
            warning: false,
            seen,
            alarmed: false,
        }
    }
}

impl Detector for HddmW {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        if self.alarmed {
            *self = Self::fresh(self.settings, self.seen);
        }
        let index = self.seen;
        self.seen += 1;
        let HddmWSettings { drift_confidence, warning_confidence, lambda_val: weight, two_sided } = self.settings;
        self.total.update(x, weight);
        let spread = hoeffding(self.total.squares, drift_confidence);
        let (upper, lower) = (self.total.mean + spread, self.total.mean - spread);
        let new_low = self.rising.cut.is_none_or(|cut| upper < cut);
        let new_high = self.falling.cut.is_none_or(|cut| lower > cut);
        for (side, extreme, is_new) in [(&mut self.rising, upper, new_low), (&mut self.falling, lower, new_high)] {
            if is_new {
                *side = Side { cut: Some(extreme), cut_index: index, before: self.total, after: Weighted::EMPTY };
            } else {
                side.after.update(x, weight);
            }
        }
        let alarm_of = |side: &Side, direction| {
            let (statistic, threshold) = side.gap_and_bound(drift_confidence, direction)?;
            Some(Alarm { index, statistic, threshold, change_point: (side.cut_index + 1).min(index), direction })
        };
        let mut alarm = alarm_of(&self.rising, Direction::Up);
        if alarm.is_none() {
            self.warning = self.rising.gap_and_bound(warning_confidence, Direction::Up).is_some();
        }
        if two_sided {
            let falling = alarm_of(&self.falling, Direction::Down);
            if falling.is_none() && self.falling.gap_and_bound(warning_confidence, Direction::Down).is_some() {
                self.warning = true;
            }
            alarm = alarm.or(falling);
        }
        self.alarmed = alarm.is_some();
        alarm
    }

    fn is_warning(&self) -> bool {
        self.warning
    }
}

/// Hoeffding's bound on a weighted mean with this sum of squared weights.
fn hoeffding(squares: f64, confidence: f64) -> f64 {
    (squares * (1.0 / confidence).ln() / 2.0).sqrt()
}

fn confidences(detector: &'static str, drift: f64, warning: f64) -> Result<(), SettingError> {
    for (name, value) in [("drift_confidence", drift), ("warning_confidence", warning)] {
        require(value > 0.0 && value < 1.0, detector, name, value, "between 0 and 1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(row: u64, before: u64, after: u64) -> f64 {
        if row.is_multiple_of(if row < 1000 { before } else { after }) { 1.0 } else { 0.0 }
    }

    fn first(detector: &mut impl Detector, before: u64, after: u64) -> Option<Alarm> {
        (0..3000).find_map(|row| detector.update(errors(row, before, after)))
    }

    #[test]
    fn a_rise_is_found_and_dated_by_both() {
        let alarms = [
            first(&mut HddmA::new(HddmASettings::default()).unwrap(), 10, 2),
            first(&mut HddmW::new(HddmWSettings::default()).unwrap(), 10, 2),
        ];
        // The weighted mean forgets: its best record may lie anywhere before the change.
        for (alarm, earliest) in alarms.into_iter().zip([990, 0]) {
            let alarm = alarm.unwrap();
            assert!((1000..1200).contains(&alarm.index), "{alarm:?}");
            assert!((earliest..1030).contains(&alarm.change_point), "{alarm:?}");
            assert_eq!(alarm.direction, Direction::Up);
        }
    }

    #[test]
    fn a_fall_is_found_only_when_two_sided() {
        for two_sided in [false, true] {
            let alarms = [
                first(&mut HddmA::new(HddmASettings { two_sided, ..HddmASettings::default() }).unwrap(), 2, 20),
                first(&mut HddmW::new(HddmWSettings { two_sided, ..HddmWSettings::default() }).unwrap(), 2, 20),
            ];
            for alarm in alarms {
                assert_eq!(alarm.map(|alarm| alarm.direction), two_sided.then_some(Direction::Down));
            }
        }
    }
}
