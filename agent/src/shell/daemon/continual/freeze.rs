//! The mixture as a bundle: a candidate that this device answers for, offered to the gate.
use std::fs;
use std::sync::Arc;

use trainer_core::bundle;

use crate::decide::cycle::{Event, Report};
use crate::decide::gate::Measures;
use crate::decide::watch::BASELINE_ROWS_MAX;
use crate::shell::compare::{Timing, measure};
use crate::shell::daemon::keeper::Keeper;
use crate::shell::daemon::work::baseline;

impl Keeper {
    /// Freezes the mixture where the cycle wants it, and offers it as a candidate.
    pub(super) fn freeze(&mut self) {
        let (Some(saved), Some(learner)) = (&mut self.saved, &mut self.heads.learner) else { return };
        if !saved.cycle.contest().wants_frozen() {
            return;
        }
        let seed = u64::try_from(learner.through).unwrap_or(0);
        let mut frozen = match learner.adaptive.consolidate(&learner.model, seed) {
            Ok(frozen) => frozen,
            Err(reason) => {
                tracing::info!(%reason, "the mixture is not frozen");
                return saved.cycle.not_frozen();
            }
        };
        frozen.manifest.parent = Some(learner.champion);
        let (bytes, _) = bundle::write(&mut frozen);
        let candidate = match self.models.put(&bytes) {
            Ok(candidate) => candidate,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "the frozen mixture cannot be stored; it is tried again later");
                return;
            }
        };
        let (parent, model) = (learner.champion, Arc::clone(&learner.model));
        if let Err(reason) = self.answer_for(candidate, parent) {
            tracing::info!(reason, "this device may not answer for its frozen mixture");
            return self.give_up_freezing();
        }
        let recent = self.shared.reader.recent(BASELINE_ROWS_MAX, None).unwrap_or_default();
        let width = frozen.schema().features.len();
        let fitting = recent.into_iter().rev().filter(|record| record.record.features.len() == width);
        let recent = baseline(fitting.map(|record| record.record));
        let parent_bytes = fs::metadata(self.models.path(&parent)).map(|file| file.len()).ok();
        let measures = Measures {
            bytes: parent_bytes.map(|parent| (parent, bytes.len() as u64)),
            // The pairs of the contest are the hold-out; the anchors come with the model.
            ..measure(&model, &frozen, &model.anchors.slice(0..0), &[], Timing::Left)
        };
        let event = Event::Consolidated { candidate, measures: Box::new(measures), recent };
        let Some(saved) = &mut self.saved else { return };
        let reports = saved.cycle.step(event, &self.rules.cycle).unwrap_or_default();
        let run = reports.iter().find_map(|report| match report {
            Report::Consolidated { order } => i64::try_from(order.run).ok(),
            _ => None,
        });
        self.books.candidate(candidate, Some(parent), run, "device");
        self.changed += 1;
        self.after(&reports);
    }

    fn give_up_freezing(&mut self) {
        if let Some(saved) = &mut self.saved {
            saved.cycle.not_frozen();
        }
    }
}
