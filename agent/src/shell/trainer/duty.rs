//! The duty cycle: work for a while, sleep for a while, so that a training takes its share of one core and no more.
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Sleep that is not worth a system call yet.
const OWED_MIN_S: f64 = 0.01;
/// Longest sleep at a time, so that a request to end is heard.
const SLICE_S: f64 = 0.1;
/// Unused time that may be caught up later; without a bound a starved trainer would run at full speed afterwards.
const CREDIT_MAX_S: f64 = 0.1;

/// The two times a duty cycle compares.
pub trait Clock {
    /// CPU seconds of this process so far.
    fn cpu_s(&self) -> f64;
    /// Seconds that have passed.
    fn wall_s(&self) -> f64;
    /// Waits.
    fn sleep_s(&mut self, seconds: f64);
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn cpu_s(&self) -> f64 {
        read_s(ClockId::ProcessCPUTime)
    }

    fn wall_s(&self) -> f64 {
        read_s(ClockId::Monotonic)
    }

    fn sleep_s(&mut self, seconds: f64) {
        std::thread::sleep(Duration::from_secs_f64(seconds));
    }
}

/// Reads a clock in seconds.
#[must_use]
pub fn read_s(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// A share of one core.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Duty {
    share: f64,
    wall_s: f64,
    cpu_s: f64,
}

impl Duty {
    /// A share above 0, up to 1, from now on.
    #[must_use]
    pub fn new(share: f64, clock: &impl Clock) -> Self {
        Self { share, wall_s: clock.wall_s(), cpu_s: clock.cpu_s() }
    }

    /// The same, with another share from now on; what is owed until now is forgiven.
    #[must_use]
    pub fn at(self, share: f64, clock: &impl Clock) -> Self {
        if (share - self.share).abs() < f64::EPSILON { self } else { Self::new(share, clock) }
    }

    /// Sleeps off what was worked too much, in slices, until `awake` says so.
    pub fn rest(&mut self, clock: &mut impl Clock, awake: impl Fn() -> bool) {
        while self.share < 1.0 && !awake() {
            let owed = (clock.cpu_s() - self.cpu_s) / self.share - (clock.wall_s() - self.wall_s);
            if owed < -CREDIT_MAX_S {
                self.wall_s += -owed - CREDIT_MAX_S;
            }
            if owed < OWED_MIN_S {
                return;
            }
            clock.sleep_s(owed.min(SLICE_S));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Travelling {
        cpu_s: f64,
        wall_s: f64,
        /// `(wall, cpu)` after each piece of work.
        trace: Vec<(f64, f64)>,
    }

    impl Clock for Travelling {
        fn cpu_s(&self) -> f64 {
            self.cpu_s
        }

        fn wall_s(&self) -> f64 {
            self.wall_s
        }

        fn sleep_s(&mut self, seconds: f64) {
            assert!(seconds <= SLICE_S, "a request to end must be heard");
            // Sleeps are never short, and often late.
            self.wall_s += seconds + 0.001;
        }
    }

    impl Travelling {
        /// Works for `cpu_s`, getting `speed` of a core.
        fn work(&mut self, cpu_s: f64, speed: f64) {
            self.cpu_s += cpu_s;
            self.wall_s += cpu_s / speed;
            self.trace.push((self.wall_s, self.cpu_s));
        }

        /// The highest share over any window of at least ten seconds.
        fn highest(&self) -> f64 {
            let mut highest = 0.0_f64;
            for (index, (begin, before)) in self.trace.iter().enumerate() {
                let later = self.trace[index..].iter().find(|(end, _)| end - begin >= 10.0);
                highest = later.map_or(highest, |(end, after)| highest.max((after - before) / (end - begin)));
            }
            highest
        }
    }

    fn run(speed: impl Fn(usize) -> f64) -> Travelling {
        let mut clock = Travelling::default();
        let mut duty = Duty::new(0.25, &clock);
        for piece in 0..20_000 {
            clock.work(0.004, speed(piece));
            duty.rest(&mut clock, || false);
        }
        clock
    }

    #[test]
    fn a_quarter_of_a_core_is_never_much_more_in_ten_seconds_and_not_much_less() {
        let free = run(|_| 1.0);
        assert!(free.highest() < 0.28 && free.cpu_s / free.wall_s > 0.24, "{}", free.cpu_s / free.wall_s);
    }

    #[test]
    fn a_starved_trainer_does_not_catch_up_at_full_speed() {
        let starved = run(|piece| if piece / 1_000 % 2 == 0 { 0.02 } else { 1.0 });
        assert!(starved.highest() < 0.28, "{}", starved.highest());
    }

    #[test]
    fn another_share_holds_from_the_moment_it_is_said() {
        let mut clock = Travelling::default();
        let mut duty = Duty::new(0.5, &clock);
        for piece in 0..2_000 {
            clock.work(0.004, 1.0);
            duty = duty.at(if piece < 1_000 { 0.5 } else { 0.125 }, &clock);
            duty.rest(&mut clock, || false);
        }
        let (half, whole) = (clock.trace[999], clock.trace[1_999]);
        assert!((half.1 / half.0 - 0.5).abs() < 0.01, "{half:?}");
        assert!(((whole.1 - half.1) / (whole.0 - half.0) - 0.125).abs() < 0.005, "{whole:?}");
    }

    #[test]
    fn a_request_to_end_cuts_the_sleep_short() {
        let mut clock = Travelling::default();
        let mut duty = Duty::new(0.25, &clock);
        clock.work(100.0, 1.0);
        let wakes_at = clock.wall_s + 0.5;
        let calls = std::cell::Cell::new(0);
        duty.rest(&mut clock, || {
            calls.set(calls.get() + 1);
            calls.get() > 5
        });
        assert!(clock.wall_s < wakes_at + 0.2);
    }
}
