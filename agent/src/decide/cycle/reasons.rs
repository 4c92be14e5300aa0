//! The reasons for a retrain, in the order in which they are asked: an open episode, the policy's own, the clock.
use trainer_core::model::Strategy;

use super::{Cycle, CycleSettings, Reason, Report};
use crate::decide::plan::{self, TooFew};
use crate::decide::policy::Policy;
use crate::decide::time::Timestamp;
use crate::decide::trigger::{Outcome, TriggerSettings};
use crate::decide::value::Staleness;

impl Cycle {
    /// Orders work if some is due and none is under way.
    pub(super) fn consider(&mut self, settings: &CycleSettings, reports: &mut Vec<Report>) {
        // While a candidate is tried, what is due stays due.
        if self.work.is_some() || self.rollout.is_busy() {
            return;
        }
        if let Some(turn) = self.value_turn(settings) {
            reports.extend(turn);
            return;
        }
        let TriggerSettings { rows_max, rows_older, .. } = settings.trigger;
        let known = self.known(settings);
        if let Some(attempt) = self.trigger.due(known) {
            match plan::episode(attempt.since, known, rows_max, rows_older, self.trained(settings)) {
                Ok(rows) => reports.push(self.order(Reason::Drift, Strategy::Head, rows, settings)),
                Err(_) => self.trigger.attempted(false, known, &settings.trigger),
            }
            return;
        }
        let (reason, newest, older) = match &settings.policy {
            Policy::Fixed { labels } if known.saturating_sub(self.scheduled) >= *labels => {
                self.scheduled = known;
                (Reason::Schedule, rows_max, rows_older)
            }
            Policy::Value if self.staleness.opens(&settings.value) => {
                self.staleness = Staleness::default();
                (Reason::Staleness, settings.value.window_rows, settings.value.window_rows / 2)
            }
            // Rows that nobody labels are no news by themselves: of an anomaly model, alarms and the clock are reasons.
            policy
                if policy.counts_labels()
                    && !self.counts_rows(settings)
                    && self.trigger.due_labels(known, &settings.trigger) =>
            {
                (Reason::Labels, rows_max, rows_older)
            }
            _ => return,
        };
        reports.push(self.attempt(reason, newest, older, settings));
    }

    /// Takes the time of the wall clock: orders the attempt that the schedule wants, if nothing else is under way.
    ///
    /// While something is, the window of the schedule stays unused and is asked for again.
    pub fn tick(&mut self, now: Timestamp, settings: &CycleSettings) -> Vec<Report> {
        let acts = !matches!(settings.policy, Policy::Static);
        if !acts || self.work.is_some() || self.rollout.is_busy() || !self.trigger.due_schedule(now, &settings.trigger)
        {
            return Vec::new();
        }
        vec![self.attempt(Reason::Schedule, settings.trigger.rows_max, settings.trigger.rows_older, settings)]
    }

    /// Orders a head trained on the newest labels, or says how many are missing.
    fn attempt(&mut self, reason: Reason, newest: u64, older: u64, settings: &CycleSettings) -> Report {
        match self.newest_rows(newest, older, settings) {
            Ok(rows) => self.order(reason, Strategy::Head, rows, settings),
            Err(TooFew { missing, .. }) => {
                if reason == Reason::Labels {
                    self.trigger.attempted_labels(Outcome::Refused, self.labels, &settings.trigger);
                }
                Report::Waiting { reason, missing }
            }
        }
    }
}
