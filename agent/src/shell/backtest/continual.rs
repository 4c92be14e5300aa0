//! The `continual` policy: multi-horizon heads learn from every label, the base model is one of the experts.
use std::collections::VecDeque;

use trainer_core::horizons::{Horizons, Scoring};
use trainer_core::model::Work;
use trainer_core::ridge::SolveMemory;

use super::summary::Summary;
use super::{Account, Backtest, BacktestError, Stored};
use crate::decide::policy::Policy;
use crate::shell::trainer::worker::Meter;

/// Samples whose expert answers wait for their labels; a later label teaches the sums but not the weights.
const WAITING: usize = 4_096;

pub(super) fn run(test: &Backtest<'_>, base: &Stored) -> Result<Summary, BacktestError> {
    let model = &base.model;
    let mut account = Account::new(base, test.rows.len());
    let mut memory = SolveMemory::default();
    let mut horizons = Horizons::new(model.factory.clone(), model.scoring(), test.training.heads.clone(), &mut memory)?;
    let (mut work, mut mixture, mut answer, mut y) = (Work::default(), Vec::new(), Vec::new(), Vec::new());
    let mut waiting = VecDeque::new();
    let mut late = VecDeque::new();
    for row in test.first..test.rows.len() {
        model.embed(test.rows.x(row), &mut work);
        let said = horizons.answer(&work.h, &work.standard, &mut mixture);
        if model.scoring() == Scoring::Classes {
            probabilities(&mut mixture);
        }
        model.answer_of(&mixture, &mut answer);
        account.answer(model, &answer, test.rows.y(row));
        if waiting.len() == WAITING {
            let (row, _) = waiting.pop_front().expect("it is full");
            late.push_back(row);
        }
        waiting.push_back((row, said));
        let meter = Meter::thread();
        loop {
            let (known, said) = if late.front().is_some_and(|known| known + test.delay <= row) {
                (late.pop_front().expect("looked at"), None)
            } else if waiting.front().is_some_and(|(known, _)| known + test.delay <= row) {
                let (known, said) = waiting.pop_front().expect("looked at");
                (known, Some(said))
            } else {
                break;
            };
            // The features are computed anew: keeping them would cost a kilobyte per waiting sample.
            if known != row {
                model.embed(test.rows.x(known), &mut work);
            }
            model.target(test.rows.y(known), &mut y);
            horizons.learn(&work.h, &y, said.as_ref(), &mut memory)?;
        }
        account.measured.train_cpu_s += meter.cpu_s();
    }
    account.work_mac = horizons.work_mac();
    Ok(Summary::new(&Policy::Continual, test, account))
}

/// Scores of the mixture as probabilities: ridge scores sum to about one, but may leave [0, 1].
fn probabilities(scores: &mut [f32]) {
    scores.iter_mut().for_each(|score| *score = score.max(0.0));
    let total: f32 = scores.iter().sum();
    if total > 0.0 {
        scores.iter_mut().for_each(|score| *score /= total);
    }
}
