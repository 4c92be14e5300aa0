//! Policies that retrain: the cycle of the daemon, step by step, over the rows of a file.
use trainer_core::model::Work;
use trainer_core::schema::Rows;
use trainer_core::snapshot::Snapshot;

use super::summary::{Happened, Summary};
use super::{Account, Backtest, BacktestError, Shelf, Stored};
use crate::decide::cycle::{Cycle, CycleSettings, Event, Order, OrderTask, Report};
use crate::decide::gate::Measures;
use crate::decide::plan;
use crate::decide::policy::Policy;
use crate::decide::sample::{BaselineRows, Label, Sample};
use crate::decide::watch::BASELINE_ROWS_MAX;
use crate::shell::compare::{Timing, compare, detection, measure};

pub(super) fn run(test: &Backtest<'_>, base: &Stored, policy: &Policy) -> Result<Summary, BacktestError> {
    let settings = CycleSettings { policy: policy.clone(), ..test.settings.clone() };
    let mut replay = Replay {
        test,
        account: Account::new(base, test.rows.len()),
        shelf: Shelf::from([(base.digest, base.clone())]),
        cycle: Cycle::new(&base.model, base.digest, &settings),
        settings,
    };
    let mut pending = std::collections::VecDeque::new();
    let mut work = Work::default();
    for row in test.first..test.rows.len() {
        let serving = replay.shelf[&replay.cycle.orders().serve].clone();
        if replay.cycle.watch().wants_embedding() {
            serving.model.embed(test.rows.x(row), &mut work);
        } else {
            serving.model.answer(test.rows.x(row), &mut work);
        }
        let tried = replay.tried(row, &work.answer, &serving);
        let (given, answered_by) = match &tried {
            Some(tried) if tried.served => (&tried.answer, tried.digest),
            _ => (&work.answer, serving.digest),
        };
        let (loss, given) = (replay.account.answer(&serving.model, given, test.rows.y(row)), given.clone());
        let at = test.times.map(|times| times[row]);
        let sample = Sample { row: test.rows.x(row), answer: &work.answer, embedding: &work.h, at };
        let reports = replay.cycle.sample(&sample, &replay.settings);
        replay.note(row, reports);
        replay.paired(row, &work.answer, tried.as_ref(), &serving);
        pending.push_back((row, loss, answered_by, given));
        while pending.front().is_some_and(|(known, ..)| known + test.delay <= row) {
            let Some((known, loss, answered_by, answer)) = pending.pop_front() else { break };
            let label = Label {
                sample: (known - test.first) as u64,
                loss,
                answer: &answer,
                truth: test.rows.y(known),
                segment: test.segments.map(|names| names[known].as_str()).filter(|name| !name.is_empty()),
                answered_by,
            };
            let reports = replay.cycle.label(&label, &replay.settings);
            replay.note(row, reports);
            replay.told(row, known, test.rows.y(known));
            replay.carry_out(row)?;
        }
    }
    let Replay { account, .. } = replay;
    Ok(Summary::new(policy, test, account))
}

pub(super) struct Replay<'a> {
    pub(super) test: &'a Backtest<'a>,
    pub(super) settings: CycleSettings,
    pub(super) cycle: Cycle,
    pub(super) shelf: Shelf,
    account: Account,
}

impl Replay<'_> {
    pub(super) fn note(&mut self, row: usize, reports: Vec<Report>) {
        self.account.events.extend(reports.into_iter().map(|report| Happened::new(row, report)));
    }

    /// Carries out what is ordered until nothing is; simulated time stands still meanwhile.
    fn carry_out(&mut self, row: usize) -> Result<(), BacktestError> {
        loop {
            let orders = self.cycle.orders();
            let event = match (self.concluded(row, orders.trial), orders.work) {
                (Some(event), _) => event,
                (None, Some(order)) => self.work(row, &order)?,
                (None, None) => break,
            };
            let reports = self.cycle.step(event, &self.settings).unwrap_or_default();
            self.note(row, reports);
        }
        Ok(())
    }

    fn work(&mut self, row: usize, order: &Order) -> Result<Event, BacktestError> {
        let (train, holdout) = self.rows(order);
        let parent = self.shelf[&order.parent].clone();
        let candidate = match order.task {
            OrderTask::Judge { candidate } => candidate,
            OrderTask::Train { strategy, seed } => {
                let snapshot = Snapshot::adapt(parent.digest, strategy, train, self.test.training.clone(), seed);
                let snapshot = snapshot.to_bytes();
                let snapshot_bytes = snapshot.len();
                let finished = self.test.trainer.train(snapshot, Some(parent.bytes.to_vec()))?;
                self.account.trained(snapshot_bytes, &finished);
                let stored = Stored::read(finished.bundle)?;
                let digest = stored.digest;
                self.shelf.insert(digest, stored);
                digest
            }
        };
        let rival = self.shelf[&order.refit_of.unwrap_or(order.parent)].clone();
        let stored = &self.shelf[&candidate];
        let evidence = compare(&rival.model, &stored.model, &holdout);
        let recent = self.recent(row);
        let measures = Measures {
            detection: detection(&rival.model, &stored.model, &holdout, &recent.rows),
            bytes: Some((rival.bytes.len() as u64, stored.bytes.len() as u64)),
            ..measure(&rival.model, &stored.model, &holdout, &self.segments(&holdout), Timing::Left)
        };
        Ok(Event::Judged { run: order.run, candidate, evidence, measures: Box::new(measures), recent })
    }

    /// Segments of the held-out rows, which are the newest labelled ones.
    fn segments(&self, holdout: &Rows) -> Vec<Option<String>> {
        let labels = usize::try_from(self.cycle.counts().1).expect("a row count");
        let until = self.test.first + labels;
        let named = |row: usize| self.test.segments.map(|names| names[row].clone()).filter(|name| !name.is_empty());
        (until - holdout.len()..until).map(named).collect()
    }

    /// The newest rows up to `row`.
    pub(super) fn recent(&self, row: usize) -> BaselineRows {
        let from = (row + 1).saturating_sub(BASELINE_ROWS_MAX);
        let at = self.test.times.map_or_else(Vec::new, |times| times[from..=row].to_vec());
        BaselineRows { rows: self.test.rows.slice(from..row + 1).x, at }
    }

    /// Rows to train on (history first, then the new ones, in time order) and the newest ones, held out.
    fn rows(&self, order: &Order) -> (Rows, Rows) {
        let wanted = order.rows;
        let (_, labels) = self.cycle.counts();
        // Label number `n` belongs to row `first + n`: labels come in the order of their rows.
        let row = |label: u64| self.test.first + usize::try_from(label).expect("a row number");
        let from = row(wanted.from_label.max(labels - wanted.newest.min(labels)));
        let split = row(labels - wanted.holdout.min(labels)).max(from);
        let older = self.test.rows.slice(0..from);
        let count = usize::try_from(wanted.history).expect("a row count").min(older.len());
        let mut train = if count == 0 {
            Rows::empty(older.features, older.truths)
        } else {
            let champion = &self.shelf[&order.parent].model;
            plan::history_of(&older, &champion.schema().task, count)
        };
        let new = self.test.rows.slice(from..if order.refit_of.is_some() { row(labels) } else { split });
        train.x.extend_from_slice(&new.x);
        train.y.extend_from_slice(&new.y);
        (train, self.test.rows.slice(split..row(labels)))
    }
}
