//! The cycle around a champion that adapts: the contest of mixture and bare champion, and what the value policy makes of it.
use trainer_core::digest::Digest;

use super::{Cycle, CycleSettings, Order, OrderTask, Reason, Report};
use crate::decide::continual::{Change, Contest};
use crate::decide::gate::Evidence;
use crate::decide::plan::{self, RowsWanted, TooFew};
use crate::decide::policy::Policy;
use crate::decide::sample::BaselineRows;
use crate::decide::value::{self, Prospect, Staleness};

/// Earlier champions that are kept to be restored.
pub(super) const EARLIER_MAX: usize = 3;

impl Cycle {
    /// Mixture against bare champion.
    #[must_use]
    pub fn contest(&self) -> &Contest {
        &self.contest
    }

    /// Whether the mixture answers.
    #[must_use]
    pub fn serves_mixture(&self, settings: &CycleSettings) -> bool {
        settings.mixture && self.contest.is_mixed()
    }

    /// Champions of before that may be tried again, newest first.
    pub fn earlier(&self) -> impl Iterator<Item = Digest> + '_ {
        let candidates = self.previous.into_iter().chain(self.earlier.iter().rev().copied()).chain([self.factory]);
        let mut seen = Vec::new();
        candidates.filter(move |digest| {
            let fresh = *digest != self.champion && !self.rejected.contains(digest) && !seen.contains(digest);
            seen.push(*digest);
            fresh
        })
    }

    /// Takes the losses of bare champion and mixture on one labelled sample.
    pub fn compared(&mut self, bare: f64, mixed: f64, settings: &CycleSettings) -> Vec<Report> {
        let change = self.contest.push(bare, mixed);
        let reports = change.map(|change| Report::Adaptation {
            champion: self.champion,
            change,
            labels: self.labels,
            evidence: self.contest.evidence(),
        });
        if change == Some(Change::FellBack) {
            // What opened the gate was the mixture's doing.
            self.staleness = Staleness::default();
        }
        if self.work.is_none() && !self.contest.wants_frozen() && self.contest.is_better() {
            let (gain, error) = self.contest.evidence().gain();
            if value::worth(gain, error, &settings.value).1 {
                self.contest.want(true);
            }
        }
        reports.into_iter().collect()
    }

    /// A frozen mixture cannot be made, or not yet; it has to be shown better anew.
    pub fn not_frozen(&mut self) {
        self.contest.answered();
    }

    /// The frozen mixture is offered with what it said before it knew the truth: those answers are the rows that neither it nor the
    /// champion had seen. It goes the way of every candidate.
    pub(super) fn consolidated(
        &mut self,
        candidate: Digest,
        recent: &BaselineRows,
        settings: &CycleSettings,
    ) -> Vec<Report> {
        let evidence: Evidence = self.contest.evidence();
        self.contest.answered();
        if self.work.is_some() || candidate == self.champion || self.rejected.contains(&candidate) {
            return Vec::new();
        }
        self.runs += 1;
        let rows = evidence.rows.min(self.labels);
        let rows = RowsWanted { from_label: self.labels - rows, newest: rows, holdout: rows, history: 0 };
        let task = OrderTask::Judge { candidate };
        let order =
            Order { run: self.runs, reason: Reason::Continual, task, parent: self.champion, rows, refit_of: None };
        let run = order.run;
        self.work = Some(order.clone());
        let mut reports = vec![Report::Consolidated { order }];
        reports.extend(self.judged(run, candidate, evidence, recent, settings));
        reports
    }

    /// The turn of policy `value` while the mixture answers; `None` if this is not its turn.
    ///
    /// Heads are the mixture's business: what remains is to bring an earlier model back, or to train layers.
    pub(super) fn value_turn(&mut self, settings: &CycleSettings) -> Option<Vec<Report>> {
        if settings.policy != Policy::Value || !self.serves_mixture(settings) {
            return None;
        }
        // An alarm is a reason to look, not one to train.
        let alarmed = self.trigger.due(self.labels).is_some();
        if alarmed {
            self.trigger.attempted(false, self.labels, &settings.trigger);
        }
        let waited = match self.lately.heads_until {
            Some(until) if self.labels < until => return Some(Vec::new()),
            until => until.is_some(),
        };
        let opens = self.staleness.opens_after(self.lately.refusals, &settings.value);
        if !waited && !opens && !(alarmed && self.lately.refusals == 0) {
            return Some(Vec::new());
        }
        self.staleness = Staleness::default();
        let prospect = Prospect::of(&self.lately, self.reference, &settings.value);
        // The heads are the cheapest remedy and at work already: layers are trained for what they leave.
        let patience = (prospect.pays && !waited).then(|| self.labels + settings.value.window_rows);
        self.lately.heads_until = patience;
        let sentence = prospect.sentence(&settings.value, patience);
        let mut reports = vec![Report::Considered { labels: self.labels, prospect, sentence }];
        if prospect.pays && waited {
            reports.push(self.worth_a_try(settings));
        }
        Some(reports)
    }

    fn worth_a_try(&mut self, settings: &CycleSettings) -> Report {
        let (newest, older) = (settings.trigger.rows_max.min(self.labels), settings.trigger.rows_older);
        match plan::plan(self.labels - newest, self.labels, newest, older, self.trained_through) {
            Ok(rows) if self.earlier().next().is_some() => self.restoring(rows),
            Ok(rows) => self.order(Reason::Staleness, value::strategy_after(self.lately.refusals), rows, settings),
            Err(TooFew { missing, .. }) => Report::Waiting { reason: Reason::Staleness, missing },
        }
    }

    fn restoring(&mut self, rows: RowsWanted) -> Report {
        self.runs += 1;
        let order = Order {
            run: self.runs,
            reason: Reason::Staleness,
            task: OrderTask::Restore,
            parent: self.champion,
            rows,
            refit_of: None,
        };
        self.work = Some(order.clone());
        Report::Retrain { order }
    }

    /// After an attempt of the value policy: what the next one has to be better than.
    pub(super) fn tried(&mut self, promoted: bool) {
        if promoted { self.lately.gained() } else { self.lately.refused() }
    }

    /// No earlier model fits: train layers.
    pub(super) fn after_restoring(&mut self, rows: RowsWanted, settings: &CycleSettings) -> Report {
        self.order(Reason::Staleness, value::strategy_after(self.lately.refusals), rows, settings)
    }

    /// Another champion serves; the one before may be restored some day.
    pub(super) fn remember_earlier(&mut self, left: Digest) {
        self.earlier.retain(|digest| *digest != left);
        if self.earlier.len() == EARLIER_MAX {
            self.earlier.pop_front();
        }
        self.earlier.push_back(left);
    }
}
