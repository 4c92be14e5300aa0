//! From the gate to the champion: what a candidate brings along while it is asked for and tried.
use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;
use trainer_core::model::Reference;

use super::{Cycle, CycleSettings, Order, Refusal, Report};
use crate::decide::rollout::{self, Approval, Candidate, Mode, Pair, Told, Why};
use crate::decide::sample::BaselineRows;
use crate::decide::time::{Timestamp, Uptime};

/// What is known of a candidate that passed the gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Admitted {
    order: Order,
    reference: Reference,
    /// It may have been trained on labels up to here.
    through: u64,
    /// The same in samples.
    #[serde(default)]
    rows_through: u64,
}

impl Cycle {
    /// Takes a sample that the champion and the model of [`rollout::Orders::compare`] both answered.
    pub fn pair(&mut self, pair: &Pair<'_>, settings: &CycleSettings) -> Vec<Report> {
        let reports = self.rollout.pair(pair, &settings.rollout);
        self.follow_rollout(reports, settings)
    }

    /// Takes a label for the rollout.
    pub fn told(&mut self, told: &Told<'_>, settings: &CycleSettings) -> Vec<Report> {
        let reports = self.rollout.label(told, &settings.rollout);
        self.follow_rollout(reports, settings)
    }

    /// Takes both times: questions and trials end by the running one.
    pub fn beat(&mut self, now: Uptime, wall: Timestamp, settings: &CycleSettings) -> Vec<Report> {
        self.uptime = self.uptime.max(now);
        self.rolled(rollout::Event::Tick(wall), settings).unwrap_or_default()
    }

    pub(super) fn rolled(&mut self, event: rollout::Event, settings: &CycleSettings) -> Result<Vec<Report>, Refusal> {
        let reports = self.rollout.step(event, self.uptime, &settings.rollout)?;
        Ok(self.follow_rollout(reports, settings))
    }

    /// The candidate may be tried; where nothing is tried and nobody asked, it serves.
    pub(super) fn admit(
        &mut self,
        order: &Order,
        to: Digest,
        reference: Reference,
        recent: &BaselineRows,
        settings: &CycleSettings,
    ) -> Vec<Report> {
        let at_once = settings.rollout.mode == Mode::Gate && settings.rollout.approval == Approval::Auto;
        let verdict = self.verdict.take();
        if at_once {
            return self.promote(order, to, reference, recent, settings);
        }
        let Some(verdict) = verdict else {
            // Judged by a version that kept no verdict: nothing is promoted without evidence on record.
            self.ended(order.reason, false, recent, settings);
            return Vec::new();
        };
        let (through, rows_through) = (self.labels, self.samples);
        self.admitted = Some(Admitted { order: order.clone(), reference, through, rows_through });
        let candidate = Candidate { digest: to, run: order.run, verdict };
        self.rolled(rollout::Event::Passed(Box::new(candidate)), settings).unwrap_or_default()
    }

    /// The rollout's promotion, with the newest rows for its baseline.
    pub(super) fn adopted(&mut self, recent: &BaselineRows, settings: &CycleSettings) -> Vec<Report> {
        let (Some(to), from) = (self.rollout.orders().promote, self.champion) else { return Vec::new() };
        let Some(Admitted { order, reference, through, rows_through }) = self.admitted.take() else {
            // A state that no version of this agent has stored: the champion is the safe side.
            return self.void();
        };
        let mut reports = self.promote(&order, to, reference, recent, settings);
        (self.trained_through, self.trained_rows) = (through, rows_through);
        reports.extend(self.rolled(rollout::Event::Promoted(from), settings).unwrap_or_default());
        reports
    }

    /// What was tried against this champion is void.
    pub(super) fn void(&mut self) -> Vec<Report> {
        self.admitted = None;
        self.verdict = None;
        let reports = self.rollout.step(rollout::Event::Void, self.uptime, &rollout::RolloutSettings::default());
        reports.unwrap_or_default().into_iter().map(Report::Rollout).collect()
    }

    fn follow_rollout(&mut self, reports: Vec<rollout::Report>, settings: &CycleSettings) -> Vec<Report> {
        for report in &reports {
            let rollout::Report::TrialEnded { challenger, why, .. } = report else { continue };
            let admitted = self.admitted.take();
            match why {
                Why::Worse | Why::Guard { .. } | Why::Person { .. } | Why::Silence | Why::Broken { .. } => {
                    self.reject(*challenger);
                }
                Why::Undecided | Why::Void => {}
            }
            if let Some(Admitted { order, .. }) = admitted {
                self.ended(order.reason, false, &BaselineRows::default(), settings);
            }
        }
        reports.into_iter().map(Report::Rollout).collect()
    }
}
