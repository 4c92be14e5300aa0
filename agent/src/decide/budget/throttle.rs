//! Slows training down before a limit is reached: halves above it, creeps up again below it (AIMD), stops near the trip.
//!
//! ```text
//!            value > high: × ½ every 2 s          value > stop
//!  full ◄──────────────────────────────► slow ─────────────────► stopped
//!    ▲    value < low: + 5 % every 2 s                              │ value < low for 60 s
//!    └──────────────────────────────────────────────────────────────┘
//! ```
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Time between two moves: a gateway's case warms and cools slower than this.
const MOVE: Duration = Duration::from_secs(2);
/// What one move up gives back.
const RISE: f64 = 0.05;
/// Never slower than this share of full speed: below it only stopping helps.
const FLOOR: f64 = 1.0 / 16.0;
/// After a stop the value must have been low for this long.
const CALM: Duration = Duration::from_mins(1);
/// A sensor that has been gone for this long counts as one that was never there.
const ABSENT: Duration = Duration::from_mins(10);

/// Where the limits of one value lie.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    /// Below this, speed rises.
    pub(super) low: f64,
    /// Above this, speed is halved.
    pub(super) high: f64,
    /// Above this, training stops.
    pub(super) stop: f64,
}

/// How far one value lets training go.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Throttle {
    factor: f64,
    since_move: Duration,
    stopped: bool,
    calm: Duration,
    absent: Duration,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { factor: 1.0, since_move: MOVE, stopped: false, calm: Duration::ZERO, absent: Duration::ZERO }
    }
}

impl Throttle {
    /// Share of full speed, 1/16 to 1.
    #[must_use]
    pub(super) fn factor(self) -> f64 {
        self.factor
    }

    /// Whether training must not run at all.
    #[must_use]
    pub(super) fn is_stopped(self) -> bool {
        self.stopped
    }

    /// After `elapsed`, with the value read now. While a sensor is gone nothing is given back, for ten minutes.
    #[must_use]
    pub(super) fn step(mut self, value: Option<f64>, bounds: Bounds, elapsed: Duration) -> Self {
        let Some(value) = value.filter(|value| value.is_finite()) else {
            self.absent = self.absent.saturating_add(elapsed);
            return if self.absent >= ABSENT { Self { absent: ABSENT, ..Self::default() } } else { self };
        };
        self.absent = Duration::ZERO;
        self.since_move = self.since_move.saturating_add(elapsed).min(MOVE);
        self.calm = if value < bounds.low { self.calm.saturating_add(elapsed).min(CALM) } else { Duration::ZERO };
        if value > bounds.stop {
            self.stopped = true;
        } else if self.calm >= CALM {
            self.stopped = false;
        }
        if self.since_move >= MOVE {
            if value > bounds.high {
                self.factor = (self.factor / 2.0).max(FLOOR);
                self.since_move = Duration::ZERO;
            } else if value < bounds.low {
                self.factor = (self.factor + RISE).min(1.0);
                self.since_move = Duration::ZERO;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { low: 68.0, high: 75.0, stop: 79.0 };

    fn after(throttle: Throttle, values: impl IntoIterator<Item = Option<f64>>) -> Throttle {
        values.into_iter().fold(throttle, |throttle, value| throttle.step(value, BOUNDS, MOVE))
    }

    #[test]
    fn above_the_limit_speed_is_halved_and_below_it_creeps_up_and_between_it_holds() {
        let warm = after(Throttle::default(), [Some(76.0), Some(76.0), Some(70.0)]);
        assert!((warm.factor() - 0.25).abs() < 1e-12);
        assert!((after(warm, [Some(60.0); 3]).factor() - 0.4).abs() < 1e-12);
        assert!((after(warm, [Some(60.0); 50]).factor() - 1.0).abs() < 1e-12);
        assert!((after(warm, [Some(78.0); 50]).factor() - FLOOR).abs() < 1e-12);
        let often = (0..10)
            .fold(Throttle::default(), |throttle, _| throttle.step(Some(76.0), BOUNDS, Duration::from_millis(100)));
        assert!((often.factor() - 0.5).abs() < 1e-12, "one move in two seconds, however often it is read");
    }

    #[test]
    fn near_the_trip_point_it_stops_and_goes_on_after_a_calm_minute() {
        let hot = after(Throttle::default(), [Some(79.5)]);
        assert!(hot.is_stopped());
        assert!(after(hot, [Some(60.0); 29]).is_stopped());
        assert!(!after(hot, [Some(60.0); 30]).is_stopped());
        let restless = after(hot, [[Some(60.0); 20].as_slice(), &[Some(70.0)], &[Some(60.0); 20]].concat());
        assert!(restless.is_stopped(), "the minute is counted from its start");
    }

    #[test]
    fn a_sensor_that_vanishes_gives_nothing_back_for_ten_minutes() {
        let hot = after(Throttle::default(), [Some(79.5)]);
        assert!(after(hot, [None; 299]).is_stopped() && !after(hot, [None; 300]).is_stopped());
        assert_eq!(after(hot, [Some(f64::NAN)]), after(hot, [None]));
    }
}
