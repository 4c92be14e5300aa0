//! EDDM: fires when errors come closer together than they did at their best.
//!
//! Same arithmetic, warnings and alarms as river 0.26.1 (Baena-García et al., 2006). Input: 1 = error. It has 18 to 21 false alarms
//! per 10,000 values without drift: offered for compatibility, never a default.
#![expect(clippy::cast_precision_loss, reason = "a detector never sees 2^53 values")]
use serde::{Deserialize, Serialize};

use super::{Alarm, Detector, Direction, SettingError, require, usable};

/// Settings of [`Eddm`]; the defaults are river's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EddmSettings {
    /// No test until more than this many values came, and more than this many errors.
    pub warm_start: u32,
    /// Ratio to the best spacing below which it warns, in (0, 1].
    pub alpha: f64,
    /// Ratio to the best spacing below which it alarms, in (0, 1].
    pub beta: f64,
}

impl Default for EddmSettings {
    fn default() -> Self {
        Self { warm_start: 30, alpha: 0.95, beta: 0.9 }
    }
}

/// The test; its change point is the error at which the spacing was last at its best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Eddm {
    settings: EddmSettings,
    count: u64,
    errors: u64,
    previous_error: u64,
    mean: f64,
    deviation: f64,
    best: f64,
    best_index: u64,
    warning: bool,
    seen: u64,
    alarmed: bool,
}

impl Eddm {
    /// A fresh detector.
    ///
    /// # Errors
    ///
    /// A ratio outside of (0, 1].
    pub fn new(settings: EddmSettings) -> Result<Self, SettingError> {
        for (name, value) in [("alpha", settings.alpha), ("beta", settings.beta)] {
            require(value > 0.0 && value <= 1.0, "eddm", name, value, "above 0 and at most 1")?;
        }
        Ok(Self::fresh(settings, 0))
    }

    fn fresh(settings: EddmSettings, seen: u64) -> Self {
        Self {
            settings,
            count: 0,
            errors: 0,
            previous_error: 0,
            mean: 0.0,
            deviation: 0.0,
            best: -1.0,
            best_index: seen,
            warning: false,
            seen,
            alarmed: false,
        }
    }

    /// Takes the distance to the previous error and returns mean plus two deviations of all of them.
    fn spacing(&mut self, distance: f64) -> f64 {
        let errors = self.errors as f64;
        let before = distance - self.mean;
        self.mean += before / errors;
        self.deviation += before * (distance - self.mean);
        let variance = if self.errors > 1 { self.deviation / (errors - 1.0) } else { 0.0 };
        self.mean + 2.0 * variance.max(0.0).sqrt()
    }
}

impl Detector for Eddm {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        if self.alarmed {
            *self = Self::fresh(self.settings, self.seen);
        }
        let index = self.seen;
        self.seen += 1;
        self.count += 1;
        if x.total_cmp(&1.0).is_ne() {
            return None;
        }
        self.errors += 1;
        let spacing = self.spacing((self.count - self.previous_error) as f64);
        self.previous_error = self.count;
        let warm_start = u64::from(self.settings.warm_start);
        if self.count <= warm_start {
            return None;
        }
        if spacing > self.best {
            self.best = spacing;
            self.best_index = index;
            return None;
        }
        if self.errors <= warm_start {
            return None;
        }
        let ratio = spacing / self.best;
        if ratio < self.settings.beta {
            self.alarmed = true;
            let (threshold, change_point) = (self.settings.beta, self.best_index);
            return Some(Alarm { index, statistic: ratio, threshold, change_point, direction: Direction::Up });
        }
        self.warning = ratio < self.settings.alpha;
        None
    }

    fn is_warning(&self) -> bool {
        self.warning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_come_closer_together_are_found() {
        let mut eddm = Eddm::new(EddmSettings::default()).unwrap();
        let alarm = (0..4000_u32).find_map(|row| {
            let every = if row < 2000 { 20 } else { 3 };
            eddm.update(if row % every == every - 1 { 1.0 } else { 0.0 })
        });
        let alarm = alarm.unwrap();
        assert!(
            (2000..2600).contains(&alarm.index) && alarm.change_point < alarm.index && alarm.statistic < 0.9,
            "{alarm:?}"
        );
    }

    #[test]
    fn ratios_out_of_range_are_refused() {
        assert!(Eddm::new(EddmSettings { beta: 1.5, ..EddmSettings::default() }).is_err());
    }
}
