//! The mixture as a bundle: a candidate that this device answers for, offered to the gate.
use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};
use trainer_core::bundle;

use crate::decide::cycle::{Event, Report};
use crate::decide::gate::Measures;
use crate::decide::watch::BASELINE_ROWS_MAX;
use crate::shell::compare::{Timing, measure};
use crate::shell::daemon::keeper::Keeper;
use crate::shell::daemon::work::baseline;

/// Why there is nothing to freeze.
const NO_HEADS: &str =
    "no heads learn here: they do under `[cycle] policy = \"value\"` where `[continual] serve` lets them answer";

impl Keeper {
    /// Freezes the mixture where the cycle wants it, and offers it as a candidate; returns the number of the run.
    pub(in crate::shell::daemon) fn freeze_mixture(&mut self) -> Result<Option<i64>, String> {
        // What is wanted during a freeze is done after it.
        let Some(saved) = self.saved.as_mut().filter(|_| !self.heads.held) else { return Ok(None) };
        if !saved.cycle.contest().wants_frozen() {
            return Ok(None);
        }
        let Some(learner) = &mut self.heads.learner else {
            saved.cycle.not_frozen();
            return Err(NO_HEADS.to_owned());
        };
        let seed = u64::try_from(learner.through).unwrap_or(0);
        let mut frozen = match learner.adaptive.consolidate(&learner.model, seed) {
            Ok(frozen) => frozen,
            Err(reason) => {
                tracing::info!(%reason, "the mixture is not frozen");
                saved.cycle.not_frozen();
                return Err(reason.to_string());
            }
        };
        frozen.manifest.parent = Some(learner.champion);
        let (bytes, _) = bundle::write(&mut frozen);
        let candidate = match self.models.put(&bytes) {
            Ok(candidate) => candidate,
            Err(error) => {
                tracing::warn!(error = %error.chain(), "the frozen mixture cannot be stored; it is tried again later");
                return Err(error.chain());
            }
        };
        let (parent, model) = (learner.champion, Arc::clone(&learner.model));
        if let Err(reason) = self.answer_for(candidate, parent) {
            tracing::info!(reason, "this device may not answer for its frozen mixture");
            self.give_up_freezing();
            return Err(reason);
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
        let Some(saved) = &mut self.saved else { return Ok(None) };
        let reports = saved.cycle.step(event, &self.rules.cycle).unwrap_or_default();
        let run = reports.iter().find_map(|report| match report {
            Report::Consolidated { order } => i64::try_from(order.run).ok(),
            _ => None,
        });
        self.books.candidate(candidate, Some(parent), run, "device");
        self.changed += 1;
        self.after(&reports);
        if let (Some(run), Some(learner)) = (run, &mut self.heads.learner) {
            let (rows, spent_mac) = learner.book();
            self.books.frozen(run, rows, spent_mac);
            self.commit();
        }
        Ok(run)
    }

    fn give_up_freezing(&mut self) {
        if let Some(saved) = &mut self.saved {
            saved.cycle.not_frozen();
        }
    }

    /// What would be frozen now, for `hone retrain --strategy continual --dry-run`.
    pub(in crate::shell::daemon) fn consolidation_view(&self) -> Value {
        let (Some(saved), Some(learner)) = (&self.saved, &self.heads.learner) else {
            return json!({"strategy": "continual", "possible": false, "code": "no_heads", "reasons": [NO_HEADS]});
        };
        let evidence = saved.cycle.contest().evidence();
        let (gain, error) = evidence.gain();
        let under_way = saved.cycle.orders().work.map(|order| order.run);
        let learnt = learner.adaptive.horizons().rows();
        let mut reasons = vec![
            format!("the heads have learnt {learnt} labels: nothing is trained, their mixture is frozen as it is"),
            format!(
                "{} newest labelled answers, each given before its label was known, are what the gate judges: {:+.4} ± {:.4} of loss \
                 less than the champion's",
                evidence.rows, gain, error
            ),
        ];
        let (ready, free) = (learner.adaptive.may_freeze(&learner.model), saved.cycle.may_freeze());
        let possible = ready.is_ok() && free.is_ok();
        reasons.extend(ready.err().map(|reason| reason.to_string()));
        reasons.extend(free.err().map(|reason| reason.to_string()));
        json!({
            "strategy": "continual", "parent": learner.champion, "labels": saved.cycle.counts().1, "under_way": under_way,
            "possible": possible,
            "rows": {
                "train": learnt, "new": learnt, "held_out": evidence.rows, "history": 0,
                "anchors": learner.model.anchors.len(),
            },
            "reasons": reasons,
        })
    }
}
