//! DDM: fires when the error rate rises three standard errors above its best.
//!
//! Same arithmetic, warnings and alarms as river 0.26.1 (Gama et al., SBIA 2004). Input: 1 = error. Known weakness: after a first
//! error-free stretch the best spread is 0, so any error alarms.
#![expect(clippy::cast_precision_loss, reason = "a detector never sees 2^53 values")]
use serde::{Deserialize, Serialize};

use super::{Alarm, Detector, Direction, Mean, SettingError, require, usable};

/// Settings of [`Ddm`]; the defaults are river's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DdmSettings {
    /// No test until more than this many values came.
    pub warm_start: u32,
    /// Standard errors above the best that warn.
    pub warning_threshold: f64,
    /// Standard errors above the best that alarm.
    pub drift_threshold: f64,
}

impl Default for DdmSettings {
    fn default() -> Self {
        Self { warm_start: 30, warning_threshold: 2.0, drift_threshold: 3.0 }
    }
}

/// The lowest `rate + error` so far, in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    rate: f64,
    error: f64,
}

/// The test; its change point is where the current warning began, or the alarm itself if nothing warned before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ddm {
    settings: DdmSettings,
    rate: Mean,
    best: Option<Best>,
    warning_start: Option<u64>,
    seen: u64,
    alarmed: bool,
}

impl Ddm {
    /// A fresh detector.
    ///
    /// # Errors
    ///
    /// A threshold that is not finite and above 0.
    pub fn new(settings: DdmSettings) -> Result<Self, SettingError> {
        for (name, value) in
            [("warning_threshold", settings.warning_threshold), ("drift_threshold", settings.drift_threshold)]
        {
            require(value > 0.0 && usable(value), "ddm", name, value, "above 0")?;
        }
        Ok(Self { settings, rate: Mean::default(), best: None, warning_start: None, seen: 0, alarmed: false })
    }
}

impl Detector for Ddm {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        if self.alarmed {
            *self = Self {
                settings: self.settings,
                rate: Mean::default(),
                best: None,
                warning_start: None,
                seen: self.seen,
                alarmed: false,
            };
        }
        let index = self.seen;
        self.seen += 1;
        self.rate.update(x);
        if self.rate.count <= u64::from(self.settings.warm_start) {
            return None;
        }
        let rate = self.rate.value;
        // A real-valued loss above 1 has no binomial error.
        let error = (rate * (1.0 - rate) / self.rate.count as f64).max(0.0).sqrt();
        let sum = rate + error;
        let best = match self.best {
            Some(best) if sum > best.rate + best.error => best,
            _ => Best { rate, error },
        };
        self.best = Some(best);
        let warned_at = self.warning_start.take();
        if sum > best.rate + self.settings.warning_threshold * best.error {
            self.warning_start = Some(warned_at.unwrap_or(index));
        }
        let threshold = best.rate + self.settings.drift_threshold * best.error;
        if sum <= threshold {
            return None;
        }
        let change_point = self.warning_start.take().unwrap_or(index);
        self.alarmed = true;
        Some(Alarm { index, statistic: sum, threshold, change_point, direction: Direction::Up })
    }

    fn is_warning(&self) -> bool {
        self.warning_start.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rising_error_rate_warns_before_it_alarms_and_is_dated_at_the_warning() {
        let mut ddm = Ddm::new(DdmSettings::default()).unwrap();
        let mut first_warning = None;
        for row in 0..2000_u64 {
            let every = if row < 1000 { 10 } else { 2 };
            if let Some(alarm) = ddm.update(if row % every == 0 { 1.0 } else { 0.0 }) {
                assert!((1000..1300).contains(&alarm.index), "{alarm:?}");
                assert_eq!(Some(alarm.change_point), first_warning);
                assert!(!ddm.is_warning());
                return;
            }
            match (ddm.is_warning(), first_warning) {
                (true, None) => first_warning = Some(row),
                (false, _) => first_warning = None,
                _ => {}
            }
        }
        panic!("no alarm");
    }

    #[test]
    fn a_threshold_of_zero_is_refused() {
        assert!(Ddm::new(DdmSettings { drift_threshold: 0.0, ..DdmSettings::default() }).is_err());
    }
}
