//! Multi-horizon heads in a replay: they learn from every label, the champion is one of the experts.
use trainer_core::adaptive::{Adaptive, Learnt};
use trainer_core::model::{Model, Work};
use trainer_core::schema::Rows;

use super::summary::Summary;
use super::{Account, Backtest, BacktestError, Stored};
use crate::decide::policy::Policy;
use crate::shell::trainer::worker::Meter;

/// Heads that learn while a file is replayed; what learning takes is measured.
pub(super) struct Learner<'a> {
    test: &'a Backtest<'a>,
    adaptive: Adaptive,
    /// Multiply-adds of heads that a new backbone has ended.
    ended_mac: u64,
    cpu_s: f64,
}

impl<'a> Learner<'a> {
    pub(super) fn new(test: &'a Backtest<'a>, model: &Model) -> Result<Self, BacktestError> {
        Ok(Self { test, adaptive: Adaptive::new(model, &test.training.heads)?, ended_mac: 0, cpu_s: 0.0 })
    }

    /// Takes the sample `row`; what the mixture says to it comes back in `work.answer`, with the features, if it `answers`, else what
    /// the champion says.
    pub(super) fn sample(&mut self, model: &Model, row: usize, answers: bool, work: &mut Work) {
        self.adaptive.sampled(model, row as u128, self.test.rows.x(row));
        work.h.clear();
        work.h.extend_from_slice(self.adaptive.features());
        if answers {
            self.adaptive.answer(model, &mut work.answer);
        } else {
            work.answer.clear();
            work.answer.extend_from_slice(self.adaptive.bare());
        }
    }

    /// Learns the label of `row`.
    pub(super) fn label(&mut self, model: &Model, row: usize) -> Result<Learnt, BacktestError> {
        let meter = Meter::thread();
        let learnt = self.adaptive.labelled(model, row as u128, self.test.rows.x(row), self.test.rows.y(row))?;
        self.cpu_s += meter.cpu_s();
        Ok(learnt)
    }

    /// Another champion: heads that read the same features go on, those of another backbone begin with the newest labelled `rows`.
    pub(super) fn replaced(&mut self, before: &Model, model: &Model, rows: &Rows) -> Result<(), BacktestError> {
        if Adaptive::fits(before, model) {
            self.adaptive.champion_replaced();
            return Ok(());
        }
        let meter = Meter::thread();
        self.ended_mac += self.adaptive.horizons().work_mac();
        self.adaptive = Adaptive::rebuilt(model, &self.test.training.heads, rows, Some(&self.adaptive))?;
        self.cpu_s += meter.cpu_s();
        Ok(())
    }

    /// The frozen mixture, if there is anything to freeze.
    pub(super) fn frozen(&mut self, parent: &Model, seed: u64) -> Option<Model> {
        let meter = Meter::thread();
        let frozen = self.adaptive.consolidate(parent, seed).ok();
        self.cpu_s += meter.cpu_s();
        frozen
    }

    /// Adds what learning took.
    pub(super) fn book(&self, account: &mut Account) {
        account.work_mac += self.ended_mac + self.adaptive.horizons().work_mac();
        account.measured.train_cpu_s += self.cpu_s;
    }
}

/// The `continual` policy: nothing but the heads.
pub(super) fn run(test: &Backtest<'_>, base: &Stored) -> Result<Summary, BacktestError> {
    let model = &base.model;
    let mut account = Account::new(base, test.rows.len());
    let mut learner = Learner::new(test, model)?;
    let mut work = Work::default();
    for row in test.first..test.rows.len() {
        learner.sample(model, row, true, &mut work);
        account.answer(model, &work.answer, test.rows.y(row));
        if let Some(known) = row.checked_sub(test.delay).filter(|known| *known >= test.first) {
            learner.label(model, known)?;
        }
    }
    learner.book(&mut account);
    Ok(Summary::new(&Policy::Continual, test, account))
}
