//! How work ends: judged, suspended, failed, or no longer wanted.
use serde_json::json;

use super::{ATTEMPTS_MAX, Keeper};
use crate::decide::budget::Refusal;
use crate::decide::cycle;
use crate::shell::daemon::work::{Next, Undone, Worked};

impl Keeper {
    pub(in crate::shell::daemon) fn worked(&mut self, worked: Worked) {
        let Worked { run, outcome } = worked;
        if self.working.take_if(|working| *working == run).is_none() {
            return;
        }
        let taken = self.settle(run);
        // What was found out while frozen may promote: it is found out again afterwards.
        let outcome = if self.frozen().is_some() { outcome.and_then(|_| Err(Undone::frozen())) } else { outcome };
        let Some(saved) = &mut self.saved else { return };
        match outcome {
            Ok(done) => {
                let before = saved.cycle.orders().work;
                self.books.trained(run, &done, taken.as_ref(), before.as_ref().map(|order| order.parent));
                let sound = done.measures.soundness.is_none_or(|soundness| soundness.is_sound());
                if sound {
                    self.gatehouse.vetted.insert(done.candidate);
                }
                if let (Some(_), Some(order)) = (done.snapshot.filter(|_| sound), &before)
                    && let Err(reason) = self.answer_for(done.candidate, order.parent)
                {
                    return self.fail(run, format!("this device may not answer for its candidate: {reason}"));
                }
                let Some(saved) = &mut self.saved else { return };
                let event = cycle::Event::Judged {
                    run,
                    candidate: done.candidate,
                    evidence: done.evidence,
                    measures: Box::new(done.measures),
                    recent: done.recent,
                };
                let reports = saved.cycle.step(event, &self.rules.cycle).unwrap_or_default();
                if saved.cycle.orders().work != before {
                    saved.attempts = 0;
                }
                if before.is_none_or(|order| order.run != run) {
                    self.books.stands(run, "cancelled");
                    self.books.ledger_line(run);
                }
                self.changed += 1;
                if reports.is_empty() {
                    // A rollback made it void; whatever was ordered meanwhile has waited for this thread.
                    self.carry_out();
                } else {
                    self.after(&reports);
                }
            }
            Err(Undone { next: Next::Resume, .. })
                if saved.cycle.orders().work.is_some_and(|order| order.run == run) =>
            {
                saved.attempts = saved.attempts.saturating_sub(1);
                self.changed += 1;
                self.suspended(run, taken.as_ref().and_then(|taken| taken.held.as_ref()));
            }
            Err(Undone { reason, next }) => {
                tracing::warn!(run, reason, "a run could not be finished");
                if saved.cycle.orders().work.is_none_or(|order| order.run != run) {
                    // A command made it void; whatever was ordered meanwhile has waited for this thread.
                    self.books.ledger_line(run);
                    self.carry_out();
                } else if next == Next::TryAgain && saved.attempts < ATTEMPTS_MAX {
                    self.carry_out()
                } else {
                    self.fail(run, reason)
                }
            }
        }
    }

    /// A training has left a checkpoint: it goes on when the budgets allow, or at once if something else ended it.
    fn suspended(&mut self, run: u64, held: Option<&Refusal>) {
        self.books.stands(run, "suspended");
        let mut payload = held.map_or_else(|| json!({}), |refusal| self.shown_refusal(refusal));
        payload["kind"] = json!("suspended");
        payload["run"] = json!(run);
        tracing::info!(run, "training is suspended: {}", held.map_or("it was told to end", |held| &held.sentence));
        self.books.say("suspended", &payload);
        if self.commit() {
            self.carry_out();
        }
    }

    pub(in crate::shell::daemon) fn fail(&mut self, run: u64, reason: String) {
        let Some(saved) = &mut self.saved else { return };
        let reports = saved.cycle.step(cycle::Event::Failed { run, reason }, &self.rules.cycle).unwrap_or_default();
        self.after(&reports);
    }
}
