//! ADWIN: a window that grows while its mean is steady and drops its oldest part when two halves of it disagree.
//!
//! Same arithmetic and alarms as river 0.26.1 (Bifet, Gavaldà, SDM 2007). It is not scale-free: the bound holds a term in raw
//! units, so feed values of unit variance or losses in [0, 1].
#![expect(clippy::cast_precision_loss, reason = "a window never holds 2^53 values")]
use serde::{Deserialize, Serialize};

use super::{Alarm, Detector, Direction, SettingError, require, usable};

/// Settings of [`Adwin`]; the defaults are river's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdwinSettings {
    /// Bound of a false cut of one test, in (0, 1).
    pub delta: f64,
    /// Tests every `clock`-th value; at least 1.
    pub clock: u32,
    /// Buckets kept per level, 1 to 64. More cut places, more memory.
    pub max_buckets: u32,
    /// Shortest half window that is compared; at least 1.
    pub min_window_length: u32,
    /// No test before the window is longer than this.
    pub grace_period: u32,
}

impl Default for AdwinSettings {
    fn default() -> Self {
        Self { delta: 0.002, clock: 32, max_buckets: 5, min_window_length: 5, grace_period: 10 }
    }
}

/// Sum and squared deviation of `2^level` successive values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Bucket {
    total: f64,
    deviation: f64,
}

/// The adaptive window; memory grows with the logarithm of its length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adwin {
    settings: AdwinSettings,
    /// Level `i` holds buckets of `2^i` values, oldest first.
    levels: Vec<Vec<Bucket>>,
    width: u64,
    total: f64,
    deviation: f64,
    tick: u64,
    seen: u64,
    alarmed: bool,
}

/// A place at which the window disagrees with itself.
struct Cut {
    difference: f64,
    bound: f64,
}

impl Adwin {
    /// A fresh detector.
    ///
    /// # Errors
    ///
    /// Names the first setting outside of its documented range.
    pub fn new(settings: AdwinSettings) -> Result<Self, SettingError> {
        let AdwinSettings { delta, clock, max_buckets, min_window_length, .. } = settings;
        require(delta > 0.0 && delta < 1.0, "adwin", "delta", delta, "between 0 and 1")?;
        require(clock >= 1, "adwin", "clock", clock.into(), "at least 1")?;
        require((1..=64).contains(&max_buckets), "adwin", "max_buckets", max_buckets.into(), "1 to 64")?;
        require(min_window_length >= 1, "adwin", "min_window_length", min_window_length.into(), "at least 1")?;
        Ok(Self {
            settings,
            levels: vec![Vec::with_capacity(max_buckets as usize + 1)],
            width: 0,
            total: 0.0,
            deviation: 0.0,
            tick: 0,
            seen: 0,
            alarmed: false,
        })
    }

    /// Values in the window; right after an alarm, those since the estimated change.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.width
    }

    /// Mean of the window; 0 while it is empty.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.width == 0 { 0.0 } else { self.total / self.width as f64 }
    }

    /// Sum of squared deviations from the mean of the window.
    #[must_use]
    pub fn deviation_sum(&self) -> f64 {
        self.deviation
    }

    fn reset(&mut self) {
        self.levels.truncate(1);
        self.levels[0].clear();
        self.width = 0;
        self.total = 0.0;
        self.deviation = 0.0;
        self.tick = 0;
        self.alarmed = false;
    }

    fn insert(&mut self, x: f64) {
        self.levels[0].push(Bucket { total: x, deviation: 0.0 });
        self.width += 1;
        if self.width > 1 {
            let before = (self.width - 1) as f64;
            let d = x - self.total / before;
            self.deviation += before * d * d / self.width as f64;
        }
        self.total += x;
        self.compress();
    }

    /// Merges the two oldest buckets of every full level into one of the next.
    fn compress(&mut self) {
        let full = self.settings.max_buckets as usize + 1;
        // A power of two and its inverse are exact, so multiplying gives the bits of the division.
        let (mut half_size, mut inverse) = (0.5, 1.0);
        for level in 0.. {
            let buckets = &mut self.levels[level];
            if buckets.len() < full {
                break;
            }
            let (first, second) = (buckets[0], buckets[1]);
            let gap = first.total * inverse - second.total * inverse;
            let merged = Bucket {
                total: first.total + second.total,
                deviation: first.deviation + second.deviation + half_size * gap * gap,
            };
            buckets.copy_within(2.., 0);
            buckets.truncate(full - 2);
            if self.levels.len() == level + 1 {
                self.levels.push(Vec::with_capacity(full));
            }
            self.levels[level + 1].push(merged);
            half_size *= 2.0;
            inverse *= 0.5;
        }
    }

    /// Walks from the oldest bucket on and returns the first disagreement.
    fn find_cut(&self) -> Option<Cut> {
        let shortest = u64::from(self.settings.min_window_length);
        let width = self.width as f64;
        let delta = (2.0 * width.ln() / self.settings.delta).ln();
        // Cancellation can leave the sum slightly negative, and the root of that would silence the test.
        let variance = (self.deviation / width).max(0.0);
        // What both totals may err by: river has no such floor, and the rounding of a constant of 1e99 exceeds any absolute bound.
        let rounding = 2.0 * f64::EPSILON * width * self.total.abs();
        let (mut old_count, mut old_total) = (0, 0.0);
        let (mut new_count, mut new_total) = (self.width, self.total);
        for (level, buckets) in self.levels.iter().enumerate().rev() {
            for (place, bucket) in buckets.iter().enumerate() {
                let size = bucket_size(level);
                old_count += size;
                old_total += bucket.total;
                new_count -= size;
                new_total -= bucket.total;
                if level == 0 && place + 1 == buckets.len() {
                    return None;
                }
                if old_count < shortest || new_count < shortest {
                    continue;
                }
                let m = 1.0 / (old_count - shortest + 1) as f64 + 1.0 / (new_count - shortest + 1) as f64;
                let bound = (2.0 * m * variance * delta).sqrt() + 2.0 / 3.0 * delta * m;
                let difference = new_total / new_count as f64 - old_total / old_count as f64;
                if difference.abs() > bound && difference.abs() > rounding / new_count.min(old_count) as f64 {
                    return Some(Cut { difference, bound });
                }
            }
        }
        None
    }

    fn drop_oldest(&mut self) {
        let top = self.levels.len() - 1;
        if self.levels[top].is_empty() {
            return;
        }
        let bucket = self.levels[top].remove(0);
        let size = bucket_size(top);
        self.width -= size;
        self.total -= bucket.total;
        let (n, width) = (size as f64, self.width as f64);
        let gap = bucket.total / n - self.total / width;
        self.deviation -= bucket.deviation + n * width * gap * gap / (n + width);
        if self.levels[top].is_empty() && top > 0 {
            self.levels.pop();
        }
    }
}

/// Values in one bucket of a level.
fn bucket_size(level: usize) -> u64 {
    1 << level
}

impl Detector for Adwin {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        if !usable(x) {
            return None;
        }
        if self.alarmed {
            self.reset();
        }
        let index = self.seen;
        self.seen += 1;
        self.tick += 1;
        self.insert(x);
        if !self.tick.is_multiple_of(u64::from(self.settings.clock))
            || self.width <= u64::from(self.settings.grace_period)
        {
            return None;
        }
        let mut last = None;
        while let Some(cut) = self.find_cut() {
            self.drop_oldest();
            last = Some(cut);
        }
        let cut = last?;
        self.alarmed = true;
        Some(Alarm {
            index,
            statistic: cut.difference.abs(),
            threshold: cut.bound,
            change_point: index + 1 - self.width,
            direction: if cut.difference > 0.0 { Direction::Up } else { Direction::Down },
        })
    }

    fn is_warning(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(before: f64, after: f64, rows: usize) -> Vec<f64> {
        (0..2 * rows)
            .map(|row| f64::from(u32::from(row % 7 == 0)) * 0.1 + if row < rows { before } else { after })
            .collect()
    }

    #[test]
    fn a_step_is_found_soon_and_dated_close_to_where_it_was() {
        for (before, after, direction) in [(0.0, 1.0, Direction::Up), (1.0, 0.0, Direction::Down)] {
            let mut adwin = Adwin::new(AdwinSettings::default()).unwrap();
            let alarms: Vec<Alarm> = step(before, after, 1000).into_iter().filter_map(|x| adwin.update(x)).collect();
            assert_eq!(alarms.len(), 1);
            assert!((1000..1040).contains(&alarms[0].index), "{alarms:?}");
            // The window drops whole buckets, so a change found within 24 rows is dated to within one of 32.
            assert!((968..=1000).contains(&alarms[0].change_point), "{alarms:?}");
            assert_eq!(alarms[0].direction, direction);
            assert!(alarms[0].statistic > alarms[0].threshold);
        }
    }

    #[test]
    fn the_rounding_of_a_huge_constant_is_no_drift_and_its_doubling_is() {
        let mut adwin = Adwin::new(AdwinSettings::default()).unwrap();
        assert_eq!((0..20_000).filter_map(|_| adwin.update(1e99)).count(), 0);
        assert_eq!((0..64).filter_map(|_| adwin.update(2e99)).count(), 1);
        let mut adwin = Adwin::new(AdwinSettings::default()).unwrap();
        assert_eq!((0..20_000).filter_map(|row| adwin.update(1e15 / f64::from(3 + row % 2))).count(), 0);
    }

    #[test]
    fn a_million_values_stay_below_two_kilobytes() {
        let mut adwin = Adwin::new(AdwinSettings { clock: 1024, ..AdwinSettings::default() }).unwrap();
        for row in 0..1_000_000_u32 {
            adwin.update(f64::from(row % 10));
        }
        assert_eq!(adwin.width(), 1_000_000);
        assert!(postcard::to_stdvec(&adwin).unwrap().len() < 2048);
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let error = Adwin::new(AdwinSettings { clock: 0, ..AdwinSettings::default() }).unwrap_err();
        assert_eq!(error.to_string(), "adwin: `clock` is 0; it must be at least 1");
        assert!(Adwin::new(AdwinSettings { delta: f64::NAN, ..AdwinSettings::default() }).is_err());
    }
}
