//! The clock: an attempt every so many hours, in certain hours of the day, or once in each night.
//!
//! A gateway's clock wakes in 1970 and jumps. So time is cut into windows by the clock alone, a window is used once whatever
//! the clock does in between, and a clock that reads before 2020 is not believed. Where hours are named, the windows begin with
//! them: cut at midnight, a night that spans it would be two.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decide::time::Timestamp;

/// Windows that are remembered as used: a clock that jumps forth and back finds them again.
const REMEMBERED: usize = 8;
/// 2020-01-01T00:00:00Z: no clock that reads less is set.
const BELIEVED_FROM: Timestamp = Timestamp(1_577_836_800_000_000);
const MINUTE: i64 = 60_000_000;
const DAY: i64 = 1_440 * MINUTE;

/// When the clock alone is reason enough.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleSettings {
    /// Hours from one attempt to the next, counted from the beginning of `hours` if there are any; from 24 on, one attempt in
    /// every so many nights at most. 0 leaves it to `hours`. Range 0 to 8,760, default 0.
    pub every_h: f64,
    /// Hours of the day, in UTC, in which attempts are made, such as `22:00-05:00`; without `every_h` one attempt in each of
    /// them. Default empty, the whole day; with `every_h` 0, the clock is no reason at all.
    pub hours: Hours,
}

/// Hours of the day, `22:00-05:00`: the end may lie on the next day. Empty means the whole day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours(Option<(Minute, Minute)>);

/// Minute of the day, 0 to 1,439.
type Minute = i64;

/// Hours that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` are no hours of the day: write them like 22:00-05:00, beginning and end differing, or leave them empty")]
pub struct HoursError(String);

impl FromStr for Hours {
    type Err = HoursError;

    fn from_str(text: &str) -> Result<Self, HoursError> {
        let refuse = || HoursError(text.to_owned());
        let digits = |part: &str| -> Option<i64> {
            (part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse().ok())?
        };
        let minute = |time: &str| -> Option<Minute> {
            let (hour, minute) = time.trim().split_once(':')?;
            let (hour, minute) = (digits(hour)?, digits(minute)?);
            (hour < 24 && minute < 60).then_some(hour * 60 + minute)
        };
        if text.trim().is_empty() {
            return Ok(Self(None));
        }
        let (from, to) = text.split_once('-').ok_or_else(refuse)?;
        let (from, to) = (minute(from).ok_or_else(refuse)?, minute(to).ok_or_else(refuse)?);
        if from == to { Err(refuse()) } else { Ok(Self(Some((from, to)))) }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => Ok(()),
            Some((from, to)) => {
                write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
            }
        }
    }
}

impl TryFrom<String> for Hours {
    type Error = HoursError;

    fn try_from(text: String) -> Result<Self, HoursError> {
        text.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

impl Hours {
    /// The first moment of the hours that `now` lies in; the day's if they are the whole day.
    fn begun(self, now: Timestamp) -> Option<Timestamp> {
        let midnight = now.0 - now.0.rem_euclid(DAY);
        let Some((from, to)) = self.0 else {
            return Some(Timestamp(midnight));
        };
        let length = (to - from).rem_euclid(1_440) * MINUTE;
        let today = midnight.saturating_add(from * MINUTE);
        [today, today - DAY].into_iter().find(|first| (0..length).contains(&(now.0 - first))).map(Timestamp)
    }
}

/// The windows that were used: bounded, plain data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// First moments of the windows that were used last, oldest first.
    used: Vec<Timestamp>,
}

impl Schedule {
    /// Whether an attempt is due at `now`; if so, the window that `now` lies in counts as used.
    pub fn take(&mut self, now: Timestamp, settings: &ScheduleSettings) -> bool {
        let Some(window) = window(now, settings).filter(|window| !self.used.contains(window)) else {
            return false;
        };
        if self.used.len() >= REMEMBERED {
            self.used.remove(0);
        }
        self.used.push(window);
        true
    }
}

/// The first moment of the window that `now` lies in, if an attempt may be made in it.
fn window(now: Timestamp, settings: &ScheduleSettings) -> Option<Timestamp> {
    if now < BELIEVED_FROM {
        return None;
    }
    let begun = settings.hours.begun(now)?;
    #[expect(clippy::cast_possible_truncation, reason = "a float that is cast saturates")]
    let every = (settings.every_h * 60.0) as i64 * MINUTE;
    let Some((from, _)) = settings.hours.0 else {
        return (every > 0).then(|| Timestamp(now.0 - now.0.rem_euclid(every)));
    };
    Some(match every {
        ..=0 => begun,
        // Several in one night, counted from its beginning.
        1..DAY => Timestamp(now.0 - (now.0 - begun.0) % every),
        // Nights are never cut: each belongs to one window as a whole.
        DAY.. => Timestamp(begun.0 - (begun.0 - from * MINUTE).rem_euclid(every)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21T00:00:00Z.
    const TODAY: i64 = 1_795_219_200_000_000;

    fn at(day: i64, hour: i64, minute: i64) -> Timestamp {
        Timestamp(TODAY + day * DAY + (hour * 60 + minute) * MINUTE)
    }

    fn settings(every_h: f64, hours: &str) -> ScheduleSettings {
        ScheduleSettings { every_h, hours: hours.parse().unwrap() }
    }

    /// Moments, in minutes from today's midnight, at which an attempt is made if the clock is looked at every five minutes.
    fn attempts(settings: &ScheduleSettings, days: i64) -> Vec<i64> {
        let mut schedule = Schedule::default();
        let minutes = (0..days * 1_440).step_by(5);
        minutes.filter(|minute| schedule.take(at(0, 0, *minute), settings)).collect()
    }

    #[test]
    fn nothing_set_is_no_reason_and_a_cadence_fires_once_in_each_of_its_windows() {
        assert!(attempts(&ScheduleSettings::default(), 3).is_empty());
        assert_eq!(attempts(&settings(8.0, ""), 1), [0, 480, 960]);
    }

    #[test]
    fn hours_that_wrap_midnight_are_one_window_with_one_attempt() {
        // Midnight lies inside the night that began the day before.
        assert_eq!(attempts(&settings(0.0, "22:00-05:00"), 2), [0, 22 * 60, 46 * 60]);
        assert_eq!(attempts(&settings(0.0, "05:00-22:00"), 2), [5 * 60, 29 * 60]);
    }

    #[test]
    fn a_cadence_within_hours_fires_only_there() {
        assert_eq!(attempts(&settings(2.0, "01:00-05:30"), 1), [60, 180, 300]);
        // The first of these two nights began the day before.
        assert_eq!(attempts(&settings(3.0, "22:00-05:00"), 1), [0, 60, 240, 22 * 60]);
    }

    #[test]
    fn a_night_that_spans_midnight_sees_one_attempt_a_day_from_its_first_night_on() {
        let nights = |every_h: f64, first_minute: i64| -> Vec<i64> {
            let (settings, mut schedule) = (settings(every_h, "22:00-05:00"), Schedule::default());
            let minutes = (first_minute..first_minute + 6 * 1_440).step_by(5);
            minutes.filter(|minute| schedule.take(at(0, 0, *minute), &settings)).map(|minute| minute / 60).collect()
        };
        for first_minute in [12 * 60, 22 * 60] {
            assert_eq!(nights(24.0, first_minute), [22, 46, 70, 94, 118, 142], "switched on at minute {first_minute}");
        }
        assert_eq!(nights(24.0, 23 * 60 + 30), [23, 46, 70, 94, 118, 142, 166], "switched on inside a night");
        // No cadence of a day or more, and none that does not divide the day, finds a night twice.
        for every_h in [20.0, 24.5, 25.0, 36.0, 47.0, 48.0, 168.0] {
            let fired = nights(every_h, 12 * 60);
            let night = |hour: &i64| (hour - 22).div_euclid(24);
            assert!(fired.windows(2).all(|pair| night(&pair[0]) < night(&pair[1])), "{every_h} h: {fired:?}");
            assert!(!fired.is_empty(), "{every_h} h");
        }
        assert_eq!(nights(48.0, 12 * 60).len(), 3, "every second night");
    }

    #[test]
    fn a_clock_that_jumps_uses_no_window_twice_and_one_before_2020_none() {
        let night = settings(0.0, "22:00-05:00");
        let mut schedule = Schedule::default();
        assert!(!schedule.take(Timestamp(3_600_000_000), &night), "1970");
        assert!(!schedule.take(Timestamp(-1), &night) && !schedule.take(Timestamp(i64::MIN), &night));
        assert!(schedule.take(at(0, 23, 0), &night));
        assert!(schedule.take(at(400, 23, 0), &night), "a jump forth is another night");
        for minute in 0..400 {
            assert!(!schedule.take(at(0, 22, minute), &night), "back again, it is the same night");
        }
        assert!(schedule.take(at(1, 22, 0), &night), "and the next night is not lost");
        assert!(!schedule.take(Timestamp(i64::MAX), &settings(0.0, "")));
        let _ = schedule.take(Timestamp(i64::MAX), &settings(8_760.0, "22:00-05:00"));
        let bytes = serde_json::to_vec(&schedule).unwrap();
        assert_eq!(serde_json::from_slice::<Schedule>(&bytes).unwrap(), schedule);
        assert!(schedule.used.len() <= REMEMBERED);
    }

    #[test]
    fn hours_are_printed_as_they_are_typed_and_nonsense_is_refused_with_the_form() {
        for text in ["", "22:00-05:00", "00:00-23:59"] {
            assert_eq!(text.parse::<Hours>().unwrap().to_string(), text);
        }
        for text in ["22-05", "24:00-05:00", "22:60-05:00", "22:00", "05:00-05:00", "1:00-2:00", "+1:00-02:00", "é"] {
            assert!(text.parse::<Hours>().unwrap_err().to_string().contains("22:00-05:00"), "{text}");
        }
    }
}
