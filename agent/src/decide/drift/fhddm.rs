//! FHDDM: fires when the mean of a short window has fallen too far below its best.
//!
//! Same arithmetic and alarms as river 0.26.1 (Pesaranghader, Viktor, ECML-PKDD 2016). Fed errors as river documents it, it fires
//! when the error *falls* and is silent when it rises; `watch = up` feeds it `1 − x`, which is the useful way round.
use serde::{Deserialize, Serialize};

use super::{Alarm, Detector, Direction, SettingError, require, usable};

/// Longest window that is accepted.
pub const WINDOW_MAX: u32 = 100_000;

/// Settings of [`Fhddm`]; the defaults are river's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FhddmSettings {
    /// Values compared, 1 to [`WINDOW_MAX`].
    pub sliding_window_size: u32,
    /// Chance of a false alarm of one comparison, in (0, 1).
    pub confidence_level: f64,
    /// `Down` as river: alarms when the mean of the values falls; `Up`: when it rises, for values in [0, 1].
    pub watch: Direction,
}

impl Default for FhddmSettings {
    fn default() -> Self {
        Self { sliding_window_size: 100, confidence_level: 1e-6, watch: Direction::Down }
    }
}

/// The test; its change point is the value after which the window was last at its best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fhddm {
    settings: FhddmSettings,
    epsilon: f64,
    ring: Vec<f64>,
    next: u32,
    total: f64,
    best: Option<f64>,
    best_index: u64,
    seen: u64,
    alarmed: bool,
}

impl Fhddm {
    /// A fresh detector.
    ///
    /// # Errors
    ///
    /// Names the first setting outside of its documented range.
    pub fn new(settings: FhddmSettings) -> Result<Self, SettingError> {
        let FhddmSettings { sliding_window_size: size, confidence_level: confidence, watch } = settings;
        require((1..=WINDOW_MAX).contains(&size), "fhddm", "sliding_window_size", size.into(), "1 to 100000")?;
        require(confidence > 0.0 && confidence < 1.0, "fhddm", "confidence_level", confidence, "between 0 and 1")?;
        require(watch != Direction::Both, "fhddm", "watch", f64::NAN, "up or down")?;
        let epsilon = ((1.0 / confidence).ln() / (2.0 * f64::from(size))).sqrt();
        Ok(Self {
            settings,
            epsilon,
            ring: Vec::new(),
            next: 0,
            total: 0.0,
            best: None,
            best_index: 0,
            seen: 0,
            alarmed: false,
        })
    }
}

impl Detector for Fhddm {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        if self.alarmed {
            self.ring.clear();
            self.next = 0;
            self.total = 0.0;
            self.best = None;
            self.alarmed = false;
        }
        let index = self.seen;
        self.seen += 1;
        let value = if self.settings.watch == Direction::Up { 1.0 - x } else { x };
        self.total += value;
        match self.ring.get_mut(self.next as usize) {
            Some(oldest) => {
                self.total -= *oldest;
                *oldest = value;
            }
            None => self.ring.push(value),
        }
        self.next = (self.next + 1) % self.settings.sliding_window_size;
        if self.ring.len() < self.settings.sliding_window_size as usize {
            return None;
        }
        let mean = self.total / f64::from(self.settings.sliding_window_size);
        let best = match self.best {
            Some(best) if mean < best => best,
            _ => {
                self.best_index = index;
                mean
            }
        };
        self.best = Some(best);
        if best - mean <= self.epsilon {
            return None;
        }
        self.alarmed = true;
        Some(Alarm {
            index,
            statistic: best - mean,
            threshold: self.epsilon,
            change_point: (self.best_index + 1).min(index),
            direction: self.settings.watch,
        })
    }

    fn is_warning(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(row: u64) -> f64 {
        let every = if row < 1000 { 10 } else { 2 };
        if row.is_multiple_of(every) { 1.0 } else { 0.0 }
    }

    #[test]
    fn a_rising_error_is_found_when_watching_up_and_missed_as_river_feeds_it() {
        let mut up = Fhddm::new(FhddmSettings { watch: Direction::Up, ..FhddmSettings::default() }).unwrap();
        let alarm = (0..2000).find_map(|row| up.update(errors(row))).unwrap();
        assert!(alarm.index > 1000 && alarm.index < 1100 && alarm.change_point.abs_diff(1000) < 12, "{alarm:?}");
        let mut river = Fhddm::new(FhddmSettings::default()).unwrap();
        assert!((0..2000).all(|row| river.update(errors(row)).is_none()));
    }

    #[test]
    fn an_endless_window_is_refused() {
        assert!(Fhddm::new(FhddmSettings { sliding_window_size: u32::MAX, ..FhddmSettings::default() }).is_err());
        assert!(Fhddm::new(FhddmSettings { sliding_window_size: 0, ..FhddmSettings::default() }).is_err());
    }
}
