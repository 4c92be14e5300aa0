//! The only file that reads a clock.
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fleet_protocol::names::Clock;
use ulid::Ulid;

use crate::decide::time::{Timestamp, Uptime};

/// Wall time now; before 1970 it is negative.
#[must_use]
pub fn now() -> Timestamp {
    of(SystemTime::now())
}

/// A moment as the system writes it, for instance of a file.
#[must_use]
pub fn of(moment: SystemTime) -> Timestamp {
    let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    Timestamp(moment.duration_since(UNIX_EPOCH).map_or_else(|before| -micros(before.duration()), micros))
}

/// The running clock: counts on from where the run before stopped counting, and only forward.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    before: Uptime,
    start: Instant,
}

impl Running {
    /// Counts from `before` on.
    #[must_use]
    pub fn after(before: Uptime) -> Self {
        Self { before, start: Instant::now() }
    }

    /// Running time now.
    #[must_use]
    pub fn now(&self) -> Uptime {
        self.before.plus(self.start.elapsed())
    }
}

/// From then on a clock can have been set by somebody: 2024-01-01.
pub const SET_SINCE: Timestamp = Timestamp(1_704_067_200_000_000);

/// A time that has passed for certain, in microseconds since 1970.
static PASSED_US: AtomicI64 = AtomicI64::new(SET_SINCE.0);

/// Says that `at` has passed for certain: from now on no earlier wall time is trusted.
pub fn has_passed(at: Timestamp) {
    PASSED_US.store(at.0.max(SET_SINCE.0), Ordering::Relaxed);
}

/// How far wall time can be trusted now: not at all before a time that has passed already, fully once systemd-timesyncd has said so.
#[must_use]
pub fn trust() -> Clock {
    if now().0 < PASSED_US.load(Ordering::Relaxed) {
        Clock::Unsynced
    } else if Path::new("/run/systemd/timesync/synchronized").exists() {
        Clock::Ntp
    } else {
        Clock::Rtc
    }
}

/// How far the time of something that happened at `at` can be trusted, `trust` being that of now: what an earlier start has
/// stored may have been stored before its clock was disciplined.
#[must_use]
pub fn trust_at(at: Timestamp, started_at: Timestamp, trust: Clock) -> Clock {
    match trust {
        _ if at < SET_SINCE => Clock::Unsynced,
        Clock::Ntp if at >= started_at => Clock::Ntp,
        _ => Clock::Rtc,
    }
}

/// A moment for people: `2026-11-21T01:40:00Z`.
#[must_use]
pub fn shown(at: Timestamp) -> String {
    let moment = jiff::Timestamp::from_microsecond(at.0).unwrap_or_default();
    moment.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// A moment as files write it: RFC 3339, a date and time without a zone (read as UTC), or seconds since 1970.
#[must_use]
pub fn moment(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(Timestamp(at.as_microsecond()));
    }
    if let Ok(civil) = text.parse::<jiff::civil::DateTime>() {
        let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        return Some(Timestamp(zoned.timestamp().as_microsecond()));
    }
    // Years 0 to 9999, as for the other forms.
    let seconds =
        text.parse::<f64>().ok().filter(|seconds| (-62_167_219_200.0..253_402_300_800.0).contains(seconds))?;
    #[expect(clippy::cast_possible_truncation, reason = "within the years 0 to 9999")]
    Some(Timestamp((seconds * 1e6).round() as i64))
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
    fn moments_are_read_in_the_forms_that_files_use() {
        let expected = Some(Timestamp(1_795_221_600_500_000));
        for text in ["2026-11-21T00:40:00.5Z", "2026-11-21T01:40:00.5+01:00", "2026-11-21 00:40:00.5", " 1795221600.5"]
        {
            assert_eq!(moment(text), expected, "{text}");
        }
        for text in ["", "yesterday", "nan", "1e300", "2026-13-01T00:00:00Z"] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    #[test]
    fn a_moment_is_shown_in_utc() {
        assert_eq!(shown(Timestamp(1_795_221_600_500_000)), "2026-11-21T00:40:00.500Z");
    }
}
