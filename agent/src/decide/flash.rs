//! The day's budget of bytes that recording may write: a bucket that fills with running time, and what is recorded as it empties.
//!
//! ```text
//! more than half ─► every sample      a quarter to half ─► every 2nd      up to a quarter ─► every 10th      empty ─► none
//! ```
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::Uptime;

const DAY_S: f64 = 86_400.0;

/// The bucket, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Flash {
    /// Bytes that may still be written.
    level: f64,
    /// Up to when it was filled.
    filled_at: Uptime,
}

impl Flash {
    /// A full bucket of `bytes_per_day`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "bytes of a day")]
    pub fn new(bytes_per_day: u64, now: Uptime) -> Self {
        Self { level: bytes_per_day as f64, filled_at: now }
    }

    /// Fills for the time since the last call and takes out what was written in it. Wall time plays no part.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "bytes of a day")]
    pub fn after(self, written_bytes: u64, bytes_per_day: u64, now: Uptime) -> Self {
        let day = bytes_per_day as f64;
        let elapsed = now.0.saturating_sub(self.filled_at.0).min(Duration::from_hours(24));
        // A limit that was lowered counts at once; a debt is at most a day's.
        let level = self.level.min(day) + day * elapsed.as_secs_f64() / DAY_S - written_bytes as f64;
        Self { level: level.clamp(-day, day), filled_at: now.max(self.filled_at) }
    }

    /// Of how many samples one is recorded; 0 for none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "bytes of a day")]
    pub fn every(&self, bytes_per_day: u64) -> u32 {
        match self.level / bytes_per_day.max(1) as f64 {
            share if share > 0.5 => 1,
            share if share > 0.25 => 2,
            share if share > 0.0 => 10,
            _ => 0,
        }
    }

    /// Bytes that may still be written; below 0 more was written than the day had.
    #[must_use]
    pub fn level(&self) -> f64 {
        self.level
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shares of a day")]
mod tests {
    use super::*;

    const DAY: u64 = 864_000_000;

    fn hours(hours: f64) -> Uptime {
        Uptime(Duration::from_secs_f64(hours * 3_600.0))
    }

    #[test]
    fn as_the_day_runs_out_less_is_recorded_and_with_time_more_again() {
        let full = Flash::new(DAY, hours(0.0));
        let written = |share: f64| full.after((share * DAY as f64) as u64, DAY, hours(0.0)).every(DAY);
        assert_eq!([0.0, 0.4, 0.6, 0.8, 1.0, 3.0].map(written), [1, 1, 2, 10, 0, 0]);
        let empty = full.after(DAY, DAY, hours(0.0));
        let later = |time: f64| empty.after(0, DAY, hours(time)).every(DAY);
        assert_eq!([1.0, 7.0, 13.0, 99.0].map(later), [10, 2, 1, 1]);
        assert!(full.after(9 * DAY, DAY, hours(0.0)).after(0, DAY, hours(30.0)).level() <= 0.0, "a debt is a day's");
    }

    #[test]
    fn a_day_at_any_pace_writes_at_most_two_days_bytes_and_settles_at_one() {
        // The pace follows the order: what is not recorded is not written.
        let (mut flash, mut total) = (Flash::new(DAY, hours(0.0)), 0_u64);
        let asked_per_minute = 5 * DAY / 1_440;
        let mut days = Vec::new();
        for minute in 1..=4 * 1_440_u32 {
            let every = u64::from(flash.every(DAY));
            let written = asked_per_minute.checked_div(every).unwrap_or(0);
            total += written;
            flash = flash.after(written, DAY, hours(f64::from(minute) / 60.0));
            if minute % 1_440 == 0 {
                days.push(std::mem::take(&mut total));
            }
        }
        assert!(days[0] <= 2 * DAY, "{days:?}");
        assert!(days[1..].iter().all(|written| written.abs_diff(DAY) < DAY / 10), "{days:?}");
    }

    #[test]
    fn a_clock_that_stands_still_or_a_lowered_limit_gives_nothing_away() {
        let full = Flash::new(DAY, hours(5.0));
        assert_eq!(full.after(0, DAY, hours(1.0)), full);
        assert!(full.after(0, DAY / 2, hours(5.0)).level() <= DAY as f64 / 2.0);
    }
}
