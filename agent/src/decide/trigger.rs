//! Why and when a retrain is tried: after alarms, after enough new labels, by the clock; and which rows count as new.
//!
//! ```text
//!  alarms ─► votes ─ enough agree      sizes exhausted
//!  Watching ──────────► Episode{since} ───────────────────► Cooling{until} ──► Watching
//!      ▲                 │  ▲ attempt at 100, 200, 400 … labels since the change
//!      │                 └──┘ an alarm after a promotion opens a new episode
//!      │
//!  labels ─► cadence ─ `every` since the last one, doubled while nothing is gained ─► one attempt, no episode
//!  clock ──► schedule ─ once in each window ────────────────────────────────────────► one attempt, no episode
//! ```
//!
//! "Alarm, then refit at once on the last rows" can be worse than never retraining: the window is then mostly old. So an
//! episode counts only labels after the estimated change point as new, tries again as they double, and lets the gate decide
//! on the newest of them. Older rows, balanced by class, are trained on before them: what did not change need not be learnt
//! again, and the heads' horizons forget what did.
pub mod cadence;
pub mod combine;
pub mod schedule;

use serde::{Deserialize, Serialize};

use super::time::Timestamp;
use super::watch::Watcher;
pub use cadence::{Cadence, CadenceSettings, Outcome};
pub use combine::{Combine, CombineSettings, Votes};
pub use schedule::{Hours, Schedule, ScheduleSettings};

/// When retrains are tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TriggerSettings {
    /// Labels after the change point before the first attempt; each further attempt waits for twice as many. Default 100: a
    /// fifth is held out, and from fewer than 20 rows the gate learns too little to refuse what is worse.
    pub rows_first: u64,
    /// Most new labels one attempt trains on, and where an episode ends. Default 1600.
    pub rows_max: u64,
    /// Older labels, balanced by class, that are trained on first. Default 800: half of `rows_max`.
    pub rows_older: u64,
    /// Labels after an episode during which alarms are only reported. Default 100.
    pub cooling_labels: u64,
    /// Tests whose alarms open an episode; those of the others are only reported. Default e_sr, segments, psi and qt_ewma: a sensor
    /// that dies (`quality`) is not cured by training on what it says.
    pub on: Vec<Watcher>,
    /// How many tests must agree.
    pub combine: CombineSettings,
    /// New labels as a reason of their own.
    pub labels: CadenceSettings,
    /// The clock as a reason of its own.
    pub schedule: ScheduleSettings,
}

impl Default for TriggerSettings {
    fn default() -> Self {
        Self {
            rows_first: 100,
            rows_max: 1_600,
            rows_older: 800,
            cooling_labels: 100,
            combine: CombineSettings::default(),
            labels: CadenceSettings::default(),
            schedule: ScheduleSettings::default(),
            on: vec![Watcher::ESr, Watcher::Segments, Watcher::Psi, Watcher::QtEwma],
        }
    }
}

/// Where the trigger stands: the episode, and the three reasons beside it. Bounded, plain data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trigger {
    #[serde(flatten)]
    phase: Phase,
    #[serde(default)]
    votes: Votes,
    #[serde(default)]
    labels: Cadence,
    #[serde(default)]
    schedule: Schedule,
}

/// Where the episode stands. Labels are counted by their ordinal, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Phase {
    /// No drift is known.
    #[default]
    Watching,
    /// Something changed.
    Episode {
        /// First label of the new law, as estimated.
        since: u64,
        /// The first sample of the new law, while labels of older samples may still come: they move `since` on.
        #[serde(default)]
        sample: Option<u64>,
        /// Labels since then that the next attempt waits for.
        next: u64,
        /// Label at which an attempt of this episode was promoted last.
        promoted: Option<u64>,
    },
    /// An episode has ended lately.
    Cooling {
        /// First label at which alarms count again.
        until: u64,
    },
}

/// One test's alarm, as the trigger counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Which test.
    pub watcher: Watcher,
    /// Sample number at which it was raised.
    pub row: u64,
    /// First label of the new law, as this test estimates it.
    pub since: u64,
    /// First sample of it, if the test counts in samples.
    pub sample: Option<u64>,
}

/// Labels `since..` are to be trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// First label of the new law.
    pub since: u64,
}

impl Trigger {
    /// An alarm of one of `tests` tests at `labels` known labels; says whether it opened an episode.
    ///
    /// An alarm alone opens one only if the settings ask for no company; else it waits for the others.
    pub fn alarm(&mut self, heard: Heard, tests: usize, labels: u64, settings: &TriggerSettings) -> bool {
        let Some(agreed) = self.votes.hear(heard, tests, &settings.combine) else {
            return false;
        };
        let (since, sample) = (agreed.since.min(labels), agreed.sample);
        let opens = match self.phase {
            Phase::Watching => true,
            Phase::Cooling { until } => labels >= until,
            // What the promoted candidate was trained on is over: a change after it is a new one.
            Phase::Episode { promoted, .. } => promoted.is_some_and(|at| since >= at),
        };
        if opens {
            self.votes.used();
            self.phase = Phase::Episode { since, sample, next: settings.rows_first.max(1), promoted: None };
        }
        opens
    }

    /// A label of sample `sample` was the newest of `labels`: one of before the change is not counted as new.
    pub fn labelled(&mut self, sample: u64, labels: u64) {
        if let Phase::Episode { since, sample: Some(first), .. } = &mut self.phase
            && sample < *first
        {
            *since = labels;
        }
    }

    /// The attempt of the open episode that is due at `labels` known labels, if any.
    ///
    /// If labels came in a burst, sizes that were passed meanwhile are skipped: only the largest one is tried.
    #[must_use]
    pub fn due(&self, labels: u64) -> Option<Attempt> {
        let Phase::Episode { since, next, .. } = self.phase else {
            return None;
        };
        let known = labels.saturating_sub(since);
        (known >= next).then_some(Attempt { since })
    }

    /// After an attempt of the episode was made at `labels` known labels.
    pub fn attempted(&mut self, promoted: bool, labels: u64, settings: &TriggerSettings) {
        if promoted {
            self.labels.renewed(labels);
        }
        let Phase::Episode { since, next, promoted: before, .. } = &mut self.phase else {
            return;
        };
        let known = labels.saturating_sub(*since);
        while *next <= known {
            *next = next.saturating_mul(2);
        }
        if promoted {
            *before = Some(labels);
        }
        if *next > settings.rows_max {
            self.cool(labels + settings.cooling_labels);
        }
    }

    /// Alarms are only reported until label `until`.
    pub fn cool(&mut self, until: u64) {
        self.phase = Phase::Cooling { until };
    }

    /// Another model serves for a reason of its own: what was known of the one before is void.
    pub fn restart(&mut self, labels: u64) {
        self.phase = Phase::Watching;
        self.votes = Votes::default();
        self.labels.renewed(labels);
    }

    /// Whether new labels alone are reason enough at `labels` known labels.
    #[must_use]
    pub fn due_labels(&self, labels: u64, settings: &TriggerSettings) -> bool {
        self.labels.is_due(labels, &settings.labels)
    }

    /// After an attempt that only new labels were the reason for.
    pub fn attempted_labels(&mut self, outcome: Outcome, labels: u64, settings: &TriggerSettings) {
        self.labels.attempted(outcome, labels, &settings.labels);
    }

    /// Whether the clock alone is reason enough at `now`; asking twice in one window says yes once.
    pub fn due_schedule(&mut self, now: Timestamp, settings: &TriggerSettings) -> bool {
        self.schedule.take(now, &settings.schedule)
    }

    /// Where the episode stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether an episode is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Episode { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> TriggerSettings {
        TriggerSettings { rows_first: 100, rows_max: 445, cooling_labels: 50, ..TriggerSettings::default() }
    }

    fn alarmed(trigger: &mut Trigger, since: u64, sample: Option<u64>, labels: u64) -> bool {
        trigger.alarm(Heard { watcher: Watcher::ESr, row: labels, since, sample }, 2, labels, &settings())
    }

    #[test]
    fn an_episode_tries_at_100_200_and_400_labels_and_then_cools() {
        let mut trigger = Trigger::default();
        assert!(alarmed(&mut trigger, 1_000, None, 1_020));
        let mut attempts = Vec::new();
        for labels in 1_020..1_600 {
            if let Some(attempt) = trigger.due(labels) {
                attempts.push((labels, attempt.since));
                trigger.attempted(false, labels, &settings());
            }
        }
        assert_eq!(attempts, [(1_100, 1_000), (1_200, 1_000), (1_400, 1_000)]);
        assert_eq!(trigger.phase(), Phase::Cooling { until: 1_450 });
        assert!(!alarmed(&mut trigger, 1_430, None, 1_440), "cooling ignores alarms");
        assert!(alarmed(&mut trigger, 1_440, None, 1_450));
    }

    #[test]
    fn a_burst_of_labels_makes_one_attempt_and_a_second_change_after_a_promotion_a_new_episode() {
        let mut trigger = Trigger::default();
        alarmed(&mut trigger, 0, None, 0);
        let mut rejected = trigger.clone();
        assert!(trigger.due(99).is_none());
        assert!(trigger.due(250).is_some());
        trigger.attempted(true, 250, &settings());
        assert!(trigger.due(399).is_none() && trigger.due(400).is_some());
        assert!(!alarmed(&mut trigger, 240, None, 260), "a change the candidate was trained on is the same change");
        assert!(alarmed(&mut trigger, 255, None, 300));
        rejected.attempted(false, 100, &settings());
        assert!(!alarmed(&mut rejected, 120, None, 150), "without a promotion the episode goes on");
    }

    #[test]
    fn late_labels_of_samples_before_the_change_do_not_count_as_new() {
        // Sample 500 is the first of the new law, labels come 400 samples late: 100 labels are known.
        let mut trigger = Trigger::default();
        alarmed(&mut trigger, 100, Some(500), 100);
        for label in 100..700 {
            trigger.labelled(label, label + 1);
            let due = trigger.due(label + 1);
            assert_eq!(due.is_some(), label + 1 >= 600, "label {label}");
        }
        assert!(matches!(trigger.phase(), Phase::Episode { since: 500, .. }), "{trigger:?}");
    }

    #[test]
    fn where_two_tests_must_agree_one_alarm_waits_for_the_other() {
        let both = CombineSettings { tests: Combine::All, ..CombineSettings::default() };
        let settings = TriggerSettings { combine: both, ..settings() };
        let mut trigger = Trigger::default();
        let heard = |watcher, row| Heard { watcher, row, since: row - 10, sample: None };
        assert!(!trigger.alarm(heard(Watcher::ESr, 100), 2, 100, &settings) && !trigger.is_open());
        assert!(trigger.alarm(heard(Watcher::Psi, 300), 2, 300, &settings) && trigger.is_open());
        assert!(matches!(trigger.phase(), Phase::Episode { since: 290, .. }));
    }

    #[test]
    fn a_promotion_in_an_episode_lets_the_count_of_labels_begin_anew() {
        let mut trigger = Trigger::default();
        let every = settings().labels.every;
        alarmed(&mut trigger, 0, None, 0);
        trigger.attempted(true, 100, &settings());
        assert!(!trigger.due_labels(every, &settings()) && trigger.due_labels(100 + every, &settings()));
    }

    #[test]
    fn a_restart_in_the_middle_changes_nothing_and_an_older_state_is_read() {
        let mut trigger = Trigger::default();
        alarmed(&mut trigger, 40, Some(50), 60);
        trigger.attempted_labels(Outcome::Refused, 70, &settings());
        let text = serde_json::to_string(&trigger).unwrap();
        assert_eq!(serde_json::from_str::<Trigger>(&text).unwrap(), trigger);
        let old: Trigger = serde_json::from_str(r#"{"state":"cooling","until":7}"#).unwrap();
        assert_eq!(old.phase(), Phase::Cooling { until: 7 });
    }
}
