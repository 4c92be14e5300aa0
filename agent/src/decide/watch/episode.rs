//! Said once: an alarm that keeps coming back is one finding, not many.
use serde::{Deserialize, Serialize};

/// What one test last said about one measure. Rows are those of the measure.
///
/// Alarms less than `quiet` rows apart belong to one episode. An episode is said when it begins and then at most once every `quiet`
/// rows while it lasts, always with its first change point. A promotion starts everything anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Episode {
    current: Option<Running>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Running {
    said_at: u64,
    alarmed_at: u64,
    since: u64,
}

impl Episode {
    /// An alarm at row `now` about a change at `since`; returns the change point to be said, or nothing if it was said already.
    pub(super) fn admit(&mut self, now: u64, since: u64, quiet: u64) -> Option<u64> {
        let running = self.current.filter(|running| now.saturating_sub(running.alarmed_at) < quiet);
        match running {
            None => {
                self.current = Some(Running { said_at: now, alarmed_at: now, since });
                Some(since)
            }
            Some(running) => {
                let due = now.saturating_sub(running.said_at) >= quiet;
                let said_at = if due { now } else { running.said_at };
                self.current = Some(Running { said_at, alarmed_at: now, ..running });
                due.then_some(running.since)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_episode_is_said_when_it_begins_and_again_only_after_the_quiet_rows() {
        let mut episode = Episode::default();
        let said: Vec<_> =
            [100, 160, 599, 600, 700, 1300, 1301].map(|now| episode.admit(now, now - 10, 500)).into_iter().collect();
        // 1300 comes 600 rows after the alarm at 700: another episode, with its own change point.
        assert_eq!(said, [Some(90), None, None, Some(90), None, Some(1290), None]);
    }
}
