//! Policies that retrain: the cycle of the daemon, step by step, over the rows of a file.
use trainer_core::model::Work;
use trainer_core::schema::Rows;
use trainer_core::snapshot::Snapshot;

use super::continual::Learner;
use super::summary::{Happened, Summary};
use super::{Account, Backtest, BacktestError, Shelf, Stored};
use crate::decide::cycle::{Cycle, CycleSettings, Event, Order, OrderTask, Reason, Report};
use crate::decide::gate::{Evidence, Measures};
use crate::decide::plan;
use crate::decide::policy::Policy;
use crate::decide::sample::{BaselineRows, Label, Sample};
use crate::decide::watch::BASELINE_ROWS_MAX;
use crate::shell::compare::{Timing, compare, compare_served, detection, measure};
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Model;

pub(super) fn run(test: &Backtest<'_>, base: &Stored, policy: &Policy) -> Result<Summary, BacktestError> {
    // Policy `value` stands on the heads; the others are what a device without them would do.
    let mixture = *policy == Policy::Value && test.serves && !base.model.detects();
    let settings = CycleSettings { policy: policy.clone(), mixture, ..test.settings.clone() };
    let mut replay = Replay {
        test,
        account: Account::new(base, test.rows.len()),
        shelf: Shelf::from([(base.digest, base.clone())]),
        cycle: Cycle::new(&base.model, base.digest, &settings),
        learner: if mixture { Some(Learner::new(test, &base.model)?) } else { None },
        answers: Vec::new(),
        settings,
    };
    let mut pending = std::collections::VecDeque::new();
    let mut work = Work::default();
    for row in test.first..test.rows.len() {
        let serving = replay.shelf[&replay.cycle.orders().serve].clone();
        if let Some(learner) = &mut replay.learner {
            let mixed = replay.cycle.serves_mixture(&replay.settings);
            learner.sample(&serving.model, row, mixed, &mut work);
        } else if replay.cycle.watch().wants_embedding() {
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
        replay.answers.extend_from_slice(&given);
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
            replay.learn(known, row, answered_by)?;
            replay.carry_out(row)?;
        }
    }
    let Replay { mut account, learner, .. } = replay;
    if let Some(learner) = learner {
        learner.book(&mut account);
    }
    Ok(Summary::new(policy, test, account))
}

pub(super) struct Replay<'a> {
    pub(super) test: &'a Backtest<'a>,
    pub(super) settings: CycleSettings,
    pub(super) cycle: Cycle,
    pub(super) shelf: Shelf,
    account: Account,
    learner: Option<Learner<'a>>,
    /// What was answered, `[rows, outputs]`.
    answers: Vec<f32>,
}

impl Replay<'_> {
    pub(super) fn note(&mut self, row: usize, reports: Vec<Report>) {
        self.account.events.extend(reports.into_iter().map(|report| Happened::new(row, report)));
    }

    /// Lets the heads learn the label of row `known`, and freezes them where that is wanted.
    fn learn(&mut self, known: usize, row: usize, answered_by: Digest) -> Result<(), BacktestError> {
        let Some(learner) = &mut self.learner else { return Ok(()) };
        let champion = self.shelf[&self.cycle.orders().serve].clone();
        let learnt = learner.label(&champion.model, known)?;
        // What was answered beside an earlier champion says nothing of the two that stand beside each other now.
        if let Some(mixed) = learnt.mixed.filter(|_| answered_by == champion.digest) {
            let reports = self.cycle.compared(learnt.bare, mixed, &self.settings);
            self.note(row, reports);
        }
        if !self.cycle.contest().wants_frozen() {
            return Ok(());
        }
        let Some(mut frozen) = self.learner.as_mut().and_then(|learner| learner.frozen(&champion.model, row as u64))
        else {
            self.cycle.not_frozen();
            return Ok(());
        };
        frozen.manifest.parent = Some(champion.digest);
        let (bytes, candidate) = bundle::write(&mut frozen);
        self.account.written_bytes += bytes.len() as u64;
        let stored = Stored::read(bytes)?;
        let none = champion.model.anchors.slice(0..0);
        let measures = Measures {
            bytes: Some((champion.bytes.len() as u64, stored.bytes.len() as u64)),
            ..measure(&champion.model, &stored.model, &none, &[], Timing::Left)
        };
        self.shelf.insert(candidate, stored);
        self.step(row, Event::Consolidated { candidate, measures: Box::new(measures), recent: self.recent(row) })
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
            self.step(row, event)?;
        }
        Ok(())
    }

    fn step(&mut self, row: usize, event: Event) -> Result<(), BacktestError> {
        let before = self.cycle.orders().serve;
        let reports = self.cycle.step(event, &self.settings).unwrap_or_default();
        self.note(row, reports);
        let serve = self.cycle.orders().serve;
        if serve != before
            && let Some(learner) = &mut self.learner
        {
            let known = self.test.first + usize::try_from(self.cycle.counts().1).expect("a row number");
            let from = known.saturating_sub(trainer_core::adaptive::REBUILT_ROWS);
            let rows = self.test.rows.slice(from..known);
            learner.replaced(&self.shelf[&before].model, &self.shelf[&serve].model, &rows)?;
        }
        Ok(())
    }

    fn work(&mut self, row: usize, order: &Order) -> Result<Event, BacktestError> {
        let (train, holdout) = self.rows(order);
        let parent = self.shelf[&order.parent].clone();
        let candidate = match order.task {
            OrderTask::Judge { candidate } => candidate,
            OrderTask::Restore => self.restored(&parent.model, &holdout),
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
        let evidence = self.evidence(order, &rival.model, &stored.model, &holdout);
        let recent = self.recent(row);
        let measures = Measures {
            detection: detection(&rival.model, &stored.model, &holdout, &recent.rows),
            bytes: Some((rival.bytes.len() as u64, stored.bytes.len() as u64)),
            ..measure(&rival.model, &stored.model, &holdout, &self.segments(&holdout), Timing::Left)
        };
        Ok(Event::Judged { run: order.run, candidate, evidence, measures: Box::new(measures), recent })
    }

    /// The candidate against what was served: the mixture where it answered, else the champion or the judged twin.
    fn evidence(&self, order: &Order, rival: &Model, candidate: &Model, holdout: &Rows) -> Evidence {
        if self.learner.is_none() || order.refit_of.is_some() || order.reason != Reason::Staleness {
            return compare(rival, candidate, holdout);
        }
        let outputs = rival.schema().outputs();
        let labels = usize::try_from(self.cycle.counts().1).expect("a row number");
        compare_served(rival, candidate, holdout, &self.answers[(labels - holdout.len()) * outputs..labels * outputs])
    }

    /// The best of the earlier models on the held-out rows.
    fn restored(&self, champion: &Model, holdout: &Rows) -> Digest {
        let gain = |digest: &Digest| compare(champion, &self.shelf[digest].model, holdout).gain_sum;
        let earlier: Vec<Digest> = self.cycle.earlier().collect();
        let best = earlier.iter().copied().max_by(|a, b| gain(a).total_cmp(&gain(b)));
        best.unwrap_or(self.cycle.orders().serve)
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
        let gap = usize::try_from(wanted.gap).expect("a row count");
        let new = from..if order.refit_of.is_some() { row(labels) } else { split.saturating_sub(gap).max(from) };
        let new = self.test.rows.slice(new);
        train.x.extend_from_slice(&new.x);
        train.y.extend_from_slice(&new.y);
        (train, self.test.rows.slice(split..row(labels)))
    }
}
