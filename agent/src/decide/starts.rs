//! How long a start waits after many that ended early: the system restarts without end, the pause between grows here.
//!
//! ```text
//! begun ─► count + 1, stored ─► wait(count) ─► runs ─► held for `HELD`, or ended in order: count = 0, stored
//!                                                └──── killed, aborted, failed: the count stays
//! ```
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Starts that may end early before any waits: the champion, the last good and the factory model have three each.
pub const FREE: u32 = 9;
/// First pause; each further early end doubles it.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
/// Longest pause: a gateway in the field must not be without its agent for longer.
const PAUSE_MAX: Duration = Duration::from_mins(5);
/// A start that ran this long has held, whatever ends it later.
pub const HELD: Duration = Duration::from_mins(10);

/// Starts in a row that ended early, as stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starts {
    /// How many have begun since one held.
    pub in_a_row: u32,
}

impl Starts {
    /// One more begins; it is stored before anything is tried, so that a start that kills the agent is counted.
    #[must_use]
    pub fn begin(self) -> Self {
        Self { in_a_row: self.in_a_row.saturating_add(1) }
    }

    /// How long the start that was just counted waits before it tries anything.
    #[must_use]
    pub fn pause(self) -> Duration {
        match self.in_a_row.checked_sub(FREE + 1) {
            None => Duration::ZERO,
            Some(doublings) => PAUSE_FIRST.saturating_mul(1 << doublings.min(20)).min(PAUSE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fallback_chain_never_waits_and_what_fails_on_and_on_waits_five_minutes_at_most() {
        let mut starts = Starts::default();
        let pauses: Vec<u64> = (0..16)
            .map(|_| {
                starts = starts.begin();
                starts.pause().as_secs()
            })
            .collect();
        assert_eq!(pauses, [0, 0, 0, 0, 0, 0, 0, 0, 0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(Starts { in_a_row: u32::MAX }.begin().pause(), PAUSE_MAX);
    }
}
