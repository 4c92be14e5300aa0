//! Whether wall time can be believed: a gateway without a clock battery wakes in 1970 and jumps later.
//!
//! ```text
//!         below the floor                    a jump                    a day without one, or somebody disciplines it
//! Unset ◄──────────────── any ─► Doubted ◄──────────── Steady ◄──────────────────────────────────────────── Doubted
//! ```
//!
//! Nothing that must happen depends on it: deadlines count running time, records are ordered by their numbers. What is
//! deleted for its age, and what is told to people as a time, does.
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::{Timestamp, Uptime};

/// Wall time that moves so much more or less than running time has jumped; a clock that is slewed drifts by far less.
const JUMP: Duration = Duration::from_mins(1);
/// After a jump wall time is doubted for this long, unless somebody disciplines the clock: a jump there and back is over by then.
const DOUBT: Duration = Duration::from_hours(24);

/// How far wall time can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is before a time that has passed already: nobody has set it.
    Unset,
    /// It has jumped lately.
    Doubted,
    /// It goes as running time does.
    Steady,
}

/// Wall time against running time, as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calendar {
    /// A time that has passed for certain.
    floor: Timestamp,
    /// Both times at the last look of this start.
    #[serde(skip)]
    last: Option<(Uptime, Timestamp)>,
    /// When it jumped last.
    jumped_at: Option<Uptime>,
}

/// A jump of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    /// What it would have been.
    pub from: Timestamp,
    /// What it is.
    pub to: Timestamp,
}

impl Calendar {
    /// `floor` is a time that has passed for certain, such as that of the build.
    #[must_use]
    pub fn new(floor: Timestamp) -> Self {
        Self { floor, last: None, jumped_at: None }
    }

    /// Looks at both clocks; `disciplined` says that somebody keeps the wall clock right.
    #[must_use]
    pub fn step(self, now: Uptime, wall: Timestamp, disciplined: bool) -> (Self, Option<Jump>) {
        let expected = self.last.map(|(then, at)| {
            let ran_us = i64::try_from(now.0.saturating_sub(then.0).as_micros()).unwrap_or(i64::MAX);
            Timestamp(at.0.saturating_add(ran_us))
        });
        let apart = |from: Timestamp| Duration::from_micros(wall.0.saturating_sub(from.0).unsigned_abs());
        let jump = expected.filter(|from| apart(*from) > JUMP).map(|from| Jump { from, to: wall });
        let jumped_at = match jump {
            Some(_) => Some(now),
            None if disciplined => None,
            None => self.jumped_at.filter(|at| now.0.saturating_sub(at.0) < DOUBT),
        };
        let next = Self { last: Some((now, wall)), jumped_at, ..self };
        // Only a time that is believed raises the floor: a jump into the future must not make the present impossible.
        let floor = if next.standing(wall) == Standing::Steady { next.floor.max(wall) } else { next.floor };
        (Self { floor, ..next }, jump)
    }

    /// How far `wall` can be believed.
    #[must_use]
    pub fn standing(&self, wall: Timestamp) -> Standing {
        match self.jumped_at {
            _ if wall < self.floor => Standing::Unset,
            Some(_) => Standing::Doubted,
            None => Standing::Steady,
        }
    }

    /// A time that has passed for certain.
    #[must_use]
    pub fn floor(&self) -> Timestamp {
        self.floor
    }
}

#[cfg(test)]
mod travels;

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "hours of a test")]
mod tests {
    use super::*;

    const BUILT: Timestamp = Timestamp(1_700_000_000_000_000);

    fn at(hours: f64) -> Uptime {
        Uptime(Duration::from_secs_f64(hours * 3_600.0))
    }

    fn wall(hours: f64) -> Timestamp {
        Timestamp(BUILT.0 + 3_600_000_000 + (hours * 3_600e6) as i64)
    }

    #[test]
    fn a_device_that_wakes_in_1970_says_so_and_believes_its_clock_once_it_was_set_for_a_day() {
        let (calendar, jump) = Calendar::new(BUILT).step(at(0.0), Timestamp(5), false);
        assert_eq!((calendar.standing(Timestamp(5)), jump), (Standing::Unset, None));
        let (calendar, jump) = calendar.step(at(1.0), wall(1.0), false);
        assert_eq!(jump.map(|jump| jump.to), Some(wall(1.0)));
        assert_eq!(calendar.standing(wall(1.0)), Standing::Doubted);
        let (disciplined, _) = calendar.step(at(2.0), wall(2.0), true);
        assert_eq!(disciplined.standing(wall(2.0)), Standing::Steady, "somebody keeps it right");
        let (mut alone, mut hour) = (calendar, 1.0);
        while alone.standing(wall(hour)) == Standing::Doubted {
            hour += 1.0;
            alone = alone.step(at(hour), wall(hour), false).0;
        }
        assert!((24.0..=26.0).contains(&hour), "{hour}");
    }

    #[test]
    fn a_jump_ahead_and_back_never_makes_the_present_impossible() {
        let (calendar, _) = Calendar::new(BUILT).step(at(0.0), wall(0.0), false);
        let ahead = wall(87_600.0);
        let (calendar, jump) = calendar.step(at(1.0), ahead, false);
        assert!(jump.is_some() && calendar.standing(ahead) == Standing::Doubted);
        assert_eq!(calendar.floor(), wall(0.0), "a time that is doubted raises no floor");
        let (calendar, back) = calendar.step(at(2.0), wall(2.0), false);
        assert!(back.is_some());
        assert_eq!(calendar.standing(wall(2.0)), Standing::Doubted);
    }

    #[test]
    fn what_has_passed_stays_passed_over_a_restart() {
        let (calendar, _) = Calendar::new(BUILT).step(at(0.0), wall(9.0), false);
        let stored = serde_json::to_string(&calendar).unwrap();
        let calendar: Calendar = serde_json::from_str(&stored).unwrap();
        assert_eq!(calendar.floor(), wall(9.0));
        // The battery is empty: a plausible time, but one that was there before.
        let (calendar, jump) = calendar.step(at(1.0), wall(3.0), false);
        assert_eq!((calendar.standing(wall(3.0)), jump), (Standing::Unset, None));
    }

    #[test]
    fn a_clock_that_is_slewed_or_corrected_by_seconds_does_not_jump() {
        let mut calendar = Calendar::new(BUILT);
        for second in 0..10_000 {
            let hours = f64::from(second) / 3_600.0;
            let (next, jump) = calendar.step(at(hours), wall(hours * 1.0005 + 0.005), false);
            assert_eq!(jump, None);
            calendar = next;
        }
        assert_eq!(calendar.standing(wall(3.0)), Standing::Steady);
    }
}
