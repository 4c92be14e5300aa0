//! From alarm to retrain: which rows count as new, and when the next attempt is due.
//!
//! ```text
//!              alarm                      sizes exhausted
//!  Watching ──────────► Episode{since} ───────────────────► Cooling{until} ──► Watching
//!      ▲                 │  ▲ attempt at 100, 200, 400 … labels since the change
//!      │                 └──┘ an alarm after a promotion opens a new episode
//!      └── a command or the schedule asks for one attempt without an episode
//! ```
//!
//! "Alarm, then refit at once on the last rows" can be worse than never retraining: the window is then mostly old. So an
//! episode uses only labels after the estimated change point, tries again as they double, and lets the gate decide.
use serde::{Deserialize, Serialize};

use super::watch::Watcher;

/// When retrains are tried after an alarm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TriggerSettings {
    /// Labels after the change point before the first attempt; each further attempt waits for twice as many. Default 100.
    pub rows_first: u64,
    /// Most labels one attempt trains on, and where an episode ends. Default 1600.
    pub rows_max: u64,
    /// Labels after an episode during which alarms are only reported. Default 100.
    pub cooling_labels: u64,
    /// Tests whose alarms open an episode; those of the others are only reported. Default e_sr, segments, psi and qt_ewma: a sensor
    /// that dies (`quality`) is not cured by training on what it says.
    pub on: Vec<Watcher>,
}

impl Default for TriggerSettings {
    fn default() -> Self {
        let on = vec![Watcher::ESr, Watcher::Segments, Watcher::Psi, Watcher::QtEwma];
        Self { rows_first: 100, rows_max: 1_600, cooling_labels: 100, on }
    }
}

/// Where the trigger stands. Labels are counted by their ordinal, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Trigger {
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

/// Labels `since..` are to be trained on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// First label of the new law.
    pub since: u64,
}

impl Trigger {
    /// An alarm with an estimated change point, at `labels` known labels; says whether an episode was opened.
    #[must_use]
    pub fn alarm(self, since: u64, sample: Option<u64>, labels: u64, settings: &TriggerSettings) -> (Self, bool) {
        let since = since.min(labels);
        let opened = Self::Episode { since, sample, next: settings.rows_first.max(1), promoted: None };
        match self {
            Self::Watching => (opened, true),
            Self::Cooling { until } if labels >= until => (opened, true),
            // What the promoted candidate was trained on is over: a change after it is a new one.
            Self::Episode { promoted: Some(at), .. } if since >= at => (opened, true),
            Self::Cooling { .. } | Self::Episode { .. } => (self, false),
        }
    }

    /// A label of sample `sample` was the newest of `labels`: one of before the change is not counted as new.
    #[must_use]
    pub fn labelled(self, sample: u64, labels: u64) -> Self {
        match self {
            Self::Episode { sample: Some(first), next, promoted, .. } if sample < first => {
                Self::Episode { since: labels, sample: Some(first), next, promoted }
            }
            Self::Episode { .. } | Self::Watching | Self::Cooling { .. } => self,
        }
    }

    /// The attempt that is due at `labels` known labels, if any.
    ///
    /// If labels came in a burst, sizes that were passed meanwhile are skipped: only the largest one is tried.
    #[must_use]
    pub fn due(self, labels: u64) -> Option<Attempt> {
        let Self::Episode { since, next, .. } = self else {
            return None;
        };
        let known = labels.saturating_sub(since);
        (known >= next).then_some(Attempt { since })
    }

    /// After an attempt was made at `labels` known labels.
    #[must_use]
    pub fn attempted(self, promoted: bool, labels: u64, settings: &TriggerSettings) -> Self {
        let Self::Episode { since, sample, next, promoted: before } = self else {
            return self;
        };
        let known = labels.saturating_sub(since);
        let mut next = next;
        while next <= known {
            next = next.saturating_mul(2);
        }
        if next > settings.rows_max {
            return Self::Cooling { until: labels + settings.cooling_labels };
        }
        Self::Episode { since, sample, next, promoted: if promoted { Some(labels) } else { before } }
    }

    /// Whether an episode is open.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Episode { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: TriggerSettings =
        TriggerSettings { rows_first: 100, rows_max: 445, cooling_labels: 50, on: Vec::new() };

    #[test]
    fn an_episode_tries_at_100_200_and_400_labels_and_then_cools() {
        let (mut trigger, opened) = Trigger::Watching.alarm(1_000, None, 1_020, &SETTINGS);
        assert!(opened);
        let mut attempts = Vec::new();
        for labels in 1_020..1_600 {
            if let Some(attempt) = trigger.due(labels) {
                attempts.push((labels, attempt.since));
                trigger = trigger.attempted(false, labels, &SETTINGS);
            }
        }
        assert_eq!(attempts, [(1_100, 1_000), (1_200, 1_000), (1_400, 1_000)]);
        assert_eq!(trigger, Trigger::Cooling { until: 1_450 });
        assert!(!trigger.alarm(1_430, None, 1_440, &SETTINGS).1, "cooling ignores alarms");
        assert!(trigger.alarm(1_440, None, 1_450, &SETTINGS).1);
    }

    #[test]
    fn a_burst_of_labels_makes_one_attempt_and_a_second_change_after_a_promotion_a_new_episode() {
        let (trigger, _) = Trigger::Watching.alarm(0, None, 0, &SETTINGS);
        assert!(trigger.due(99).is_none());
        assert!(trigger.due(250).is_some());
        let trigger = trigger.attempted(true, 250, &SETTINGS);
        assert!(trigger.due(399).is_none() && trigger.due(400).is_some());
        assert!(
            !trigger.alarm(240, None, 260, &SETTINGS).1,
            "a change the candidate was trained on is the same change"
        );
        assert!(trigger.alarm(255, None, 300, &SETTINGS).1);
        let rejected = Trigger::Watching.alarm(0, None, 0, &SETTINGS).0.attempted(false, 100, &SETTINGS);
        assert!(!rejected.alarm(120, None, 150, &SETTINGS).1, "without a promotion the episode goes on");
    }

    #[test]
    fn late_labels_of_samples_before_the_change_do_not_count_as_new() {
        // Sample 500 is the first of the new law, labels come 400 samples late: 100 labels are known.
        let (mut trigger, _) = Trigger::Watching.alarm(100, Some(500), 100, &SETTINGS);
        for label in 100..700 {
            trigger = trigger.labelled(label, label + 1);
            let due = trigger.due(label + 1);
            assert_eq!(due.is_some(), label + 1 >= 600, "label {label}");
        }
        assert!(matches!(trigger, Trigger::Episode { since: 500, .. }), "{trigger:?}");
    }
}
