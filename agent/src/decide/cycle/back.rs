//! The way back to a model of before: by command, or because the champion cannot serve.
use trainer_core::digest::Digest;
use trainer_core::model::Reference;

use super::{Cycle, CycleSettings, Refusal, Report};
use crate::decide::sample::BaselineRows;

/// Rejected bundles that are remembered.
const REJECTED_MAX: usize = 256;

impl Cycle {
    pub(super) fn reject(&mut self, model: Digest) {
        if self.rejected.len() == REJECTED_MAX {
            self.rejected.pop_front();
        }
        self.rejected.push_back(model);
    }

    pub(super) fn roll_back(
        &mut self,
        reference: Reference,
        baseline: &BaselineRows,
        settings: &CycleSettings,
    ) -> Result<Vec<Report>, Refusal> {
        let previous = self.previous.ok_or(Refusal::NoPrevious)?;
        // Work that began from the model being left is void.
        self.work = None;
        let from = self.champion;
        self.reject(from);
        let mut reports = self.void();
        self.serve(previous, None, Some(reference), baseline);
        self.trigger.restart(self.known(settings));
        reports.push(Report::Rollback { from, to: previous });
        Ok(reports)
    }

    /// Unlike after a rollback the model left behind is not rejected: whole again, it may be offered again.
    pub(super) fn fall_back(
        &mut self,
        to: Digest,
        reference: Reference,
        baseline: &BaselineRows,
        settings: &CycleSettings,
    ) -> Vec<Report> {
        let from = self.champion;
        if from == to {
            return Vec::new();
        }
        self.work = None;
        let mut reports = self.void();
        self.serve(to, self.previous.filter(|previous| *previous != to), Some(reference), baseline);
        self.trigger.restart(self.known(settings));
        reports.push(Report::Rollback { from, to });
        reports
    }
}
