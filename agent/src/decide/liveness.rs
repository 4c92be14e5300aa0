//! Whether the agent still moves: the watchdog is fed only while every part does.
//!
//! ```text
//!            moved                        still for `patience`
//!  Moving ◄────────── Still { for … } ──────────────────────► Hung: nothing feeds the watchdog, the system restarts us
//!     └──────────────────►┘ ▲                                   │ moves again
//!        did not move       └───────────────────────────────────┘
//! ```
//! Being offline is no stillness: the link's loop turns without a connection.
use std::fmt;
use std::time::Duration;

use super::time::Uptime;

/// Most that one look adds to a part's stillness: a process that was stopped and goes on has not hung meanwhile.
pub const LOOK_MAX: Duration = Duration::from_secs(5);

/// What must move for the agent to be of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The threads that take samples and answer requests.
    Ingest,
    /// The loop that owns the state.
    Control,
    /// The thread that stores records.
    Records,
    /// The link to the fleet, connected or not.
    Link,
}

/// What a part shows of itself at one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pulse {
    /// How often it has turned; a part that has nothing to do turns all the same.
    pub turns: u64,
    /// Number of the oldest piece of work it has begun and not ended; the same one at every look is a thread that hangs.
    pub oldest: Option<u64>,
}

/// What all parts show; none of a part that this agent does not have.
pub type Pulses = [(Part, Option<Pulse>); 4];

/// A part that has not moved for longer than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hung {
    /// Which.
    pub part: Part,
    /// For how long, as far as it was looked at.
    pub still: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    pulse: Pulse,
    still: Duration,
}

/// What was seen of all parts so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    looked: Option<Uptime>,
    seen: [Option<Seen>; 4],
}

impl Liveness {
    /// Looks once; the part that has been still for longest, if that is at least `patience`.
    #[must_use]
    pub fn step(self, pulses: &Pulses, now: Uptime, patience: Duration) -> (Self, Option<Hung>) {
        let passed = self.looked.map_or(Duration::ZERO, |before| now.0.saturating_sub(before.0)).min(LOOK_MAX);
        let mut next = Self { looked: Some(now), seen: [None; 4] };
        let mut hung: Option<Hung> = None;
        for ((place, before), (part, pulse)) in next.seen.iter_mut().zip(self.seen).zip(pulses) {
            let Some(pulse) = *pulse else { continue };
            let still =
                before.filter(|seen| !moved(seen.pulse, pulse)).map_or(Duration::ZERO, |seen| seen.still + passed);
            *place = Some(Seen { pulse, still });
            if still >= patience && hung.is_none_or(|worst| worst.still < still) {
                hung = Some(Hung { part: *part, still });
            }
        }
        (next, hung)
    }
}

fn moved(before: Pulse, now: Pulse) -> bool {
    before.turns != now.turns && (now.oldest.is_none() || now.oldest != before.oldest)
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingest => "the threads that answer",
            Self::Control => "the loop that owns the state",
            Self::Records => "the recorder",
            Self::Link => "the link to the fleet",
        })
    }
}

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has not moved for {} s", self.part, self.still.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[expect(clippy::unnecessary_wraps, reason = "as a look shows it")]
    fn pulse(turns: u64) -> Option<Pulse> {
        Some(Pulse { turns, oldest: None })
    }

    /// Looks every second; `at` says what the parts show.
    fn first_hung(seconds: u64, at: impl Fn(u64) -> [Option<Pulse>; 4]) -> Option<(u64, Part)> {
        let mut liveness = Liveness::default();
        for second in 0..seconds {
            let [ingest, control, records, link] = at(second);
            let pulses =
                [(Part::Ingest, ingest), (Part::Control, control), (Part::Records, records), (Part::Link, link)];
            let hung;
            (liveness, hung) = liveness.step(&pulses, Uptime(Duration::from_secs(second)), PATIENCE);
            if let Some(hung) = hung {
                return Some((second, hung.part));
            }
        }
        None
    }

    #[test]
    fn parts_that_turn_are_alive_and_a_part_that_is_not_there_is_not_missed() {
        assert_eq!(first_hung(1_000, |second| [pulse(second); 4]), None);
        assert_eq!(first_hung(1_000, |second| [pulse(second), pulse(second), pulse(second), None]), None);
    }

    #[test]
    fn any_one_part_that_stops_is_named_after_the_patience_and_not_before() {
        for (place, part) in [Part::Ingest, Part::Control, Part::Records, Part::Link].into_iter().enumerate() {
            let stops = |second: u64| {
                let mut pulses = [pulse(second); 4];
                pulses[place] = pulse(second.min(20));
                pulses
            };
            assert_eq!(first_hung(1_000, stops), Some((30, part)));
        }
    }

    #[test]
    fn one_thread_that_hangs_is_seen_while_its_neighbours_turn() {
        let busy = |second: u64, oldest| Some(Pulse { turns: second, oldest: Some(oldest) });
        let pulses = |oldest: u64, second| [busy(second, oldest), pulse(second), pulse(second), None];
        assert_eq!(first_hung(1_000, |second| pulses(second / 9, second)), None, "work that ends is no hang");
        assert_eq!(first_hung(1_000, |second| pulses(second.min(5), second)), Some((15, Part::Ingest)));
    }

    #[test]
    fn a_part_that_moves_again_is_alive_again() {
        let mut liveness = Liveness::default();
        let mut look = |turns, second| {
            let pulses =
                [(Part::Ingest, pulse(turns)), (Part::Control, None), (Part::Records, None), (Part::Link, None)];
            let hung;
            (liveness, hung) = liveness.step(&pulses, Uptime(Duration::from_secs(second)), PATIENCE);
            hung.map(|hung| hung.still.as_secs())
        };
        assert_eq!([look(1, 0), look(1, 5), look(1, 10), look(1, 12)], [None, None, Some(10), Some(12)]);
        assert_eq!([look(2, 13), look(2, 18), look(2, 22), look(2, 23)], [None, None, None, Some(10)]);
    }

    #[test]
    fn a_process_that_was_stopped_for_an_hour_goes_on_without_being_called_hung() {
        let mut liveness = Liveness::default();
        let still = [(Part::Ingest, pulse(7)), (Part::Control, pulse(7)), (Part::Records, None), (Part::Link, None)];
        let hung;
        (liveness, _) = liveness.step(&still, Uptime(Duration::from_secs(1)), PATIENCE);
        (_, hung) = liveness.step(&still, Uptime(Duration::from_hours(1)), PATIENCE);
        assert_eq!(hung, None);
    }
}
