//! The loop's hands: make the world what the stored state orders. Each may be repeated any number of times.
use std::thread;

use super::keeper::{ATTEMPTS_MAX, Keeper};
use super::shared::Event;
use super::work::Bench;
use crate::decide::cycle::{Cycle, Order, Orders};

impl Keeper {
    /// Makes the world what the stored state orders.
    pub(super) fn carry_out(&mut self) {
        self.serve();
        self.adapt();
        let Some(Orders { work, trial, .. }) = self.saved.as_ref().map(|saved| saved.cycle.orders()) else {
            return;
        };
        let frozen = self.frozen().is_some();
        if trial.regret || (trial.promote.is_some() && !frozen) {
            return self.conclude(trial);
        }
        self.drop_void(work.as_ref().map(|order| order.run));
        match work {
            Some(_) if self.is_stopping || frozen => {}
            Some(order) if self.working.is_none() => self.start(order),
            _ => self.collect(),
        }
    }

    fn start(&mut self, order: Order) {
        let Some(saved) = &mut self.saved else { return };
        if saved.attempts >= ATTEMPTS_MAX {
            let reason = format!("it was started {ATTEMPTS_MAX} times and never finished");
            return self.fail(order.run, reason);
        }
        let budget = saved.budget.clone();
        // Waiting for a budget is no attempt.
        let Some((limits, choices, post)) = self.ask_budget(&order) else { return };
        self.executes(order.run);
        let Some(saved) = &mut self.saved else { return };
        // Counted on disk before it begins, as is what it is expected to take: work that takes the agent down runs out of
        // attempts, and is not free.
        saved.attempts += 1;
        let from = i64::try_from(order.rows.from_label).unwrap_or(i64::MAX);
        let behind = i64::try_from(saved.cycle.known(&self.rules.cycle)).unwrap_or(i64::MAX);
        let from_ordinal = saved.ordinal + 1 - (behind - from);
        if !self.commit() {
            // It was not started.
            if let Some(saved) = &mut self.saved {
                saved.attempts -= 1;
            }
            return self.not_begun(budget);
        }
        let run = order.run;
        let cycle = self.saved.as_ref().map(|saved| &saved.cycle);
        let bench = Bench {
            earlier: cycle.into_iter().flat_map(Cycle::earlier).collect(),
            mixture: cycle.is_some_and(|cycle| cycle.serves_mixture(&self.rules.cycle)),
            assumes: cycle.is_some_and(|cycle| cycle.counts_rows(&self.rules.cycle)),
            order,
            from_ordinal,
            models: self.models.clone(),
            snapshots: self.snapshots.clone(),
            reader: self.shared.reader.clone(),
            recorder: self.shared.recorder.clone(),
            trainer: self.trainer.clone(),
            vetting: self.gatehouse.vetting.clone(),
            settings: self.rules.training.clone(),
            limits,
            choices,
            post,
        };
        let events = self.shared.events.clone();
        let work = move || {
            // The loop ends before its queue only when the agent stops.
            let _ = events.blocking_send(Event::Worked(Box::new(bench.work())));
        };
        match thread::Builder::new().name("work".to_owned()).spawn(work) {
            Ok(_) => self.working = Some(run),
            Err(error) => {
                self.not_begun(budget);
                self.fail(run, format!("the system gives no thread: {error}"));
            }
        }
    }

    /// Removes models and snapshots that nobody needs any more; only after a commit, and not while work may add some.
    pub(super) fn collect(&self) {
        let Some(saved) = &self.saved else { return };
        if self.working.is_none() && !self.books.is_waiting() {
            self.books.collect(&saved.cycle, &self.snapshots, self.rules.snapshot_bytes);
            self.sweep();
        }
    }
}
