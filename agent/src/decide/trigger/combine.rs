//! How many drift tests must agree before an episode begins, within how many rows, and when one of them counts again.
use serde::{Deserialize, Serialize};

use super::Heard;
use crate::decide::watch::Watcher;

/// How alarms are combined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CombineSettings {
    /// `any` test is enough, `all` of the enabled ones must agree, or `{ at_least = 2 }` of them. Default `any`: the gate
    /// refuses what a false alarm brings, so it costs one training, while a change that only one test can see is seen.
    pub tests: Combine,
    /// Alarms agree if they come within so many rows. Range 1 to 1,000,000, default 500: a look at the inputs, and as many labels
    /// as a test on the losses needs for a plain change.
    pub within_rows: u64,
    /// Once a test has begun an episode, it counts again only after so many rows without an alarm of it. 0 lets every alarm count.
    /// Range 0 to 1,000,000, default 0: cooling and a new baseline end what would go on for ever.
    pub quiet_rows: u64,
}

/// How many tests must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// One.
    #[default]
    Any,
    /// Every enabled one.
    All,
    /// So many of them, or all if fewer are enabled.
    AtLeast(u32),
}

impl Default for CombineSettings {
    fn default() -> Self {
        Self { tests: Combine::Any, within_rows: 500, quiet_rows: 0 }
    }
}

impl Combine {
    fn needed(self, tests: usize) -> usize {
        let wanted = match self {
            Self::Any => 1,
            Self::All => tests,
            Self::AtLeast(count) => usize::try_from(count).unwrap_or(usize::MAX).min(tests),
        };
        wanted.max(1)
    }
}

/// The last alarm of each test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Votes {
    heard: Vec<Vote>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Vote {
    watcher: Watcher,
    /// Sample number of its last alarm.
    row: u64,
    since: u64,
    sample: Option<u64>,
    /// It has helped to begin an episode already.
    spent: bool,
}

/// What the tests that agree have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The latest of their change points, in labels: rows from there on are new to all of them.
    pub since: u64,
    /// The same in samples, as far as they count in samples.
    pub sample: Option<u64>,
}

impl Votes {
    /// Takes one alarm of one of `tests` enabled tests; returns what they agree on once enough of them do.
    pub fn hear(&mut self, heard: Heard, tests: usize, settings: &CombineSettings) -> Option<Agreed> {
        let Heard { watcher, row, since, sample } = heard;
        let known = self.heard.iter().position(|vote| vote.watcher == watcher);
        let goes_on = known.is_some_and(|at| {
            let before = self.heard[at];
            before.spent && row.saturating_sub(before.row) < settings.quiet_rows
        });
        let vote = Vote { watcher, row, since, sample, spent: goes_on };
        match known {
            Some(at) => self.heard[at] = vote,
            None => self.heard.push(vote),
        }
        let agree = || {
            let near = |vote: &&Vote| !vote.spent && row.saturating_sub(vote.row) <= settings.within_rows;
            self.heard.iter().filter(near)
        };
        if goes_on || agree().count() < settings.tests.needed(tests) {
            return None;
        }
        let since = agree().map(|vote| vote.since).max()?;
        Some(Agreed { since, sample: agree().filter_map(|vote| vote.sample).max() })
    }

    /// They have begun an episode: each counts again with its next alarm that is a new one.
    pub fn used(&mut self) {
        self.heard.iter_mut().for_each(|vote| vote.spent = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows at which `alarms` begin an episode, of three enabled tests.
    fn episodes(alarms: &[(u64, Watcher)], settings: &CombineSettings) -> Vec<u64> {
        let mut votes = Votes::default();
        let mut begun = Vec::new();
        for (row, watcher) in alarms {
            let heard = Heard { watcher: *watcher, row: *row, since: row - 10, sample: None };
            if votes.hear(heard, 3, settings).is_some() {
                votes.used();
                begun.push(*row);
            }
        }
        begun
    }

    const ALARMS: [(u64, Watcher); 6] = [
        (100, Watcher::ESr),
        (160, Watcher::ESr),
        (400, Watcher::Psi),
        (1_500, Watcher::Psi),
        (1_700, Watcher::ESr),
        (1_900, Watcher::Adwin),
    ];

    #[test]
    fn any_needs_one_alarm_all_needs_every_test_and_at_least_two_need_two_tests() {
        let settings = |tests| CombineSettings { tests, within_rows: 500, quiet_rows: 0 };
        assert_eq!(episodes(&ALARMS, &settings(Combine::Any)), [100, 160, 400, 1_500, 1_700, 1_900]);
        assert_eq!(episodes(&ALARMS, &settings(Combine::AtLeast(2))), [400, 1_700]);
        assert_eq!(episodes(&ALARMS, &settings(Combine::All)), [1_900]);
        assert_eq!(episodes(&ALARMS, &settings(Combine::AtLeast(9))), [1_900], "more than there are is all of them");
        assert_eq!(episodes(&ALARMS, &settings(Combine::AtLeast(0))).len(), 6, "none is one");
    }

    #[test]
    fn alarms_too_far_apart_do_not_agree() {
        let settings = CombineSettings { tests: Combine::AtLeast(2), within_rows: 239, quiet_rows: 0 };
        assert_eq!(episodes(&ALARMS, &settings), [1_700], "160 and 400 are 240 rows apart");
    }

    #[test]
    fn a_test_that_goes_on_alarming_counts_again_only_after_it_was_quiet() {
        let settings = CombineSettings { tests: Combine::Any, within_rows: 500, quiet_rows: 200 };
        let every_64: Vec<_> = (1..10).map(|look| (look * 64, Watcher::Psi)).chain([(800, Watcher::Psi)]).collect();
        assert_eq!(episodes(&every_64, &settings), [64, 800]);
        assert_eq!(episodes(&[(64, Watcher::Psi), (100, Watcher::ESr)], &settings), [64, 100], "others are heard");
    }

    #[test]
    fn only_rows_that_are_new_to_every_test_count_as_new() {
        let settings = CombineSettings { tests: Combine::AtLeast(2), ..CombineSettings::default() };
        let mut votes = Votes::default();
        let psi = Heard { watcher: Watcher::Psi, row: 300, since: 90, sample: Some(100) };
        assert_eq!(votes.hear(psi, 2, &settings), None);
        let e_sr = Heard { watcher: Watcher::ESr, row: 320, since: 200, sample: None };
        assert_eq!(votes.hear(e_sr, 2, &settings), Some(Agreed { since: 200, sample: Some(100) }));
    }
}
