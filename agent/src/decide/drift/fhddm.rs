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
    /// Newest values whose mean is compared with its own best beside that, at most `sliding_window_size`; 0 compares none.
    pub short_window_size: u32,
    /// `Down` as river: alarms when the mean of the values falls; `Up`: when it rises, for values in [0, 1].
    pub watch: Direction,
}

impl Default for FhddmSettings {
    fn default() -> Self {
        Self { sliding_window_size: 100, confidence_level: 1e-6, short_window_size: 0, watch: Direction::Down }
    }
}

/// The best mean of a window so far, and by how much a later one may fall short of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Best {
    epsilon: f64,
    mean: f64,
    index: u64,
}

impl Best {
    fn new(confidence: f64, size: u32) -> Self {
        let epsilon = ((1.0 / confidence).ln() / (2.0 * f64::from(size.max(1)))).sqrt();
        Self { epsilon, mean: 0.0, index: 0 }
    }

    /// Takes the next mean; returns by how much it falls short of the best, if that is too much.
    fn take(&mut self, mean: f64, index: u64) -> Option<f64> {
        if mean >= self.mean {
            (self.mean, self.index) = (mean, index);
        }
        let short = self.mean - mean;
        (short > self.epsilon).then_some(short)
    }

    fn reset(&mut self, seen: u64) {
        (self.mean, self.index) = (0.0, seen);
    }
}

/// The test; its change point is the value after which the window was last at its best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fhddm {
    settings: FhddmSettings,
    long: Best,
    short: Best,
    ring: Vec<f64>,
    next: u32,
    /// Of the values in the ring but the one that is overwritten next, once it is full.
    total: f64,
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
        let FhddmSettings { sliding_window_size: size, confidence_level: confidence, short_window_size: short, watch } =
            settings;
        require((1..=WINDOW_MAX).contains(&size), "fhddm", "sliding_window_size", size.into(), "1 to 100000")?;
        require(confidence > 0.0 && confidence < 1.0, "fhddm", "confidence_level", confidence, "between 0 and 1")?;
        require(short <= size, "fhddm", "short_window_size", short.into(), "at most sliding_window_size")?;
        require(watch != Direction::Both, "fhddm", "watch", f64::NAN, "up or down")?;
        Ok(Self {
            settings,
            long: Best::new(confidence, size),
            short: Best::new(confidence, short),
            ring: Vec::new(),
            next: 0,
            total: 0.0,
            seen: 0,
            alarmed: false,
        })
    }

    /// Mean of the newest `size` values of a full ring, summed from the oldest on as river does.
    fn newest(&self, size: u32) -> f64 {
        let (size, from) = (size as usize, self.next as usize + self.ring.len() - size as usize);
        let sum: f64 = (from..from + size).map(|at| self.ring[at % self.ring.len()]).sum();
        #[expect(clippy::cast_precision_loss, reason = "at most 100,000")]
        let mean = sum / size as f64;
        mean
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
            self.long.reset(self.seen);
            self.short.reset(self.seen);
            self.alarmed = false;
        }
        let index = self.seen;
        self.seen += 1;
        let value = if self.settings.watch == Direction::Up { 1.0 - x } else { x };
        match self.ring.get_mut(self.next as usize) {
            Some(oldest) => *oldest = value,
            None => self.ring.push(value),
        }
        let FhddmSettings { sliding_window_size: size, short_window_size: short, watch, .. } = self.settings;
        self.total += value;
        self.next = (self.next + 1) % size;
        if self.ring.len() < size as usize {
            return None;
        }
        let by_short = if short > 0 { self.short.take(self.newest(short), index) } else { None };
        let by_long = self.long.take(self.total / f64::from(size), index);
        self.total -= self.ring[self.next as usize];
        let long = by_long.map(|statistic| (statistic, self.long));
        let (statistic, best) = long.or(by_short.map(|statistic| (statistic, self.short)))?;
        self.alarmed = true;
        let change_point = (best.index + 1).min(index);
        Some(Alarm { index, statistic, threshold: best.epsilon, change_point, direction: watch })
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
        assert!(Fhddm::new(FhddmSettings { short_window_size: 101, ..FhddmSettings::default() }).is_err());
    }

    #[test]
    fn a_short_window_beside_the_long_one_is_sooner() {
        let first = |short_window_size| {
            let settings = FhddmSettings { short_window_size, watch: Direction::Up, ..FhddmSettings::default() };
            let mut fhddm = Fhddm::new(settings).unwrap();
            (0..2000).find_map(|row| fhddm.update(errors(row))).unwrap().index
        };
        assert!(first(50) < first(0), "{} {}", first(50), first(0));
    }
}
