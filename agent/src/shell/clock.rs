//! The only file that reads a clock.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ulid::Ulid;

use crate::decide::time::Timestamp;

/// Wall time now; before 1970 it is negative.
#[must_use]
pub fn now() -> Timestamp {
    let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).map_or_else(|before| -micros(before.duration()), micros))
}

/// A moment for people: `2026-11-21T01:40:00Z`.
#[must_use]
pub fn shown(at: Timestamp) -> String {
    let moment = jiff::Timestamp::from_microsecond(at.0).unwrap_or_default();
    moment.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The moment a person writes: RFC 3339, such as `2026-11-21T01:40:00Z`.
#[must_use]
pub fn parse(text: &str) -> Option<Timestamp> {
    text.trim().parse::<jiff::Timestamp>().ok().map(|moment| Timestamp(moment.as_microsecond()))
}

/// Seconds of a moment in a recording: RFC 3339, a date and time of day without a zone, or a number of seconds.
#[must_use]
pub fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return seconds.is_finite().then_some(seconds);
    }
    let moment = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        // Any fixed zone will do: only the time of day and the distance of rows are asked of it.
        let local = text.parse::<jiff::civil::DateTime>().ok()?;
        local.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })?;
    Some(moment.as_duration().as_secs_f64())
}

/// Makes record ids: unique also if the clock jumps back, and growing within a millisecond.
#[derive(Debug)]
pub struct Ids {
    /// Drawn once per start, so that two starts at the same wall time differ.
    start: u128,
    count: AtomicU64,
}

impl Ids {
    /// Ids of this start of the agent.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Ulid::generate().random() >> 40 << 40, count: AtomicU64::new(0) }
    }

    /// The next id, for something that came at `at`.
    pub fn next(&self, at: Timestamp) -> Ulid {
        let count = self.count.fetch_add(1, Ordering::Relaxed) & 0xFF_FFFF_FFFF;
        Ulid::from_parts(u64::try_from(at.0 / 1_000).unwrap_or(0), self.start | u128::from(count))
    }
}

impl Default for Ids {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_grow_within_a_millisecond_and_stay_unique_when_the_clock_jumps_back() {
        let ids = Ids::new();
        let (first, second) = (ids.next(Timestamp(5_000_000)), ids.next(Timestamp(5_000_999)));
        assert!(first < second);
        let back = ids.next(Timestamp(-7));
        assert!(back < first && back.timestamp_ms() == 0 && back.random() > second.random());
        assert_ne!(Ids::new().next(Timestamp(5_000_000)), first);
    }

    #[test]
    fn a_moment_is_shown_in_utc() {
        assert_eq!(shown(Timestamp(1_795_221_600_500_000)), "2026-11-21T00:40:00.500Z");
        assert_eq!(parse("2026-11-21T01:40:00.5+01:00"), Some(Timestamp(1_795_221_600_500_000)));
        assert_eq!(parse("yesterday"), None);
        let times = ["1970-01-01T00:01:00Z", "1970-01-01 00:01:00", "60", "1970-01-01T01:01:00+01:00"];
        assert_eq!(times.map(seconds), [Some(60.0); 4]);
        assert_eq!(["noon", "inf", ""].map(seconds), [None; 3]);
    }
}
