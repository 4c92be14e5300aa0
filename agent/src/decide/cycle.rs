//! The loop's state: facts go in by `sample`, `label` and `step`, reports come out, `orders` says what the world must look
//! like.
//!
//! ```text
//!  samples ─► watch ─┐                     ┌─ refused ──► (tail, or wait for more labels)
//!  labels  ─► watch ─┼─► trigger ─► order ─┤
//!  commands ─────────┘     (plan)    train └─ passed ───► rollout ─► champion, old champion kept as previous
//! ```
mod admitted;
mod back;
mod continual;
mod drifts;
mod facts;
mod known;
mod reasons;
mod settings;
mod views;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;
use trainer_core::model::{Model, Reference, Strategy};

use super::continual::Contest;
use super::gate::{self, Check, Evidence, Measures, Verdict};
use super::plan::{self, RowsWanted, TooFew};
use super::rollout::Rollout;
use super::sample::{BaselineRows, Label, Sample};
use super::time::Uptime;
use super::trigger::{Outcome, Trigger};
use super::value::{self, Lately, Staleness};
use super::watch::{BASELINE_ROWS_MIN, Watch};
use admitted::Admitted;
use drifts::Drifts;
pub use facts::{Event, FINDINGS_MAX, Order, OrderTask, Orders, Reason, Refusal, Report};
pub use settings::CycleSettings;
use settings::watch_settings;

/// Label numbers that can be traced back to their samples.
const TRACED: usize = 4_096;

/// The loop's whole state: plain data, bounded, one row of `control.db`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cycle {
    champion: Digest,
    previous: Option<Digest>,
    factory: Digest,
    watch: Watch,
    trigger: Trigger,
    staleness: Staleness,
    reference: f64,
    work: Option<Order>,
    runs: u64,
    samples: u64,
    labels: u64,
    /// Labels known when the schedule last asked.
    scheduled: u64,
    /// Labels known when the champion was promoted: it may have been trained on any of them.
    trained_through: u64,
    /// The same in samples, which count for an anomaly model.
    #[serde(default)]
    trained_rows: u64,
    /// What the candidate that is being refitted lost on the hold-out.
    judged: Reference,
    /// Whether it was better by more than chance.
    #[serde(default)]
    judged_gained: bool,
    /// Sample number of each of the last labels.
    traced: VecDeque<u64>,
    rejected: VecDeque<Digest>,
    drifts: Drifts,
    /// What the gate said of the candidate that is being refitted.
    #[serde(default)]
    verdict: Option<Verdict>,
    /// How a candidate that passed the gate becomes champion.
    #[serde(default)]
    rollout: Rollout,
    /// What it brings along.
    #[serde(default)]
    admitted: Option<Admitted>,
    /// Running time as last told.
    #[serde(default)]
    uptime: Uptime,
    /// The champion's adaptive form against its bare one.
    #[serde(default)]
    contest: Contest,
    /// What was served lately, for the value policy.
    #[serde(default)]
    lately: Lately,
    /// Champions before the previous one, oldest first.
    #[serde(default)]
    earlier: VecDeque<Digest>,
    /// Whether the champion tells anomalies by what it cannot give back: then there is no head to train.
    #[serde(default)]
    detects: bool,
}

impl Cycle {
    /// The loop around a first model, which is champion and factory model at once.
    #[must_use]
    pub fn new(model: &Model, digest: Digest, settings: &CycleSettings) -> Self {
        Self {
            champion: digest,
            previous: None,
            factory: digest,
            watch: Watch::new(model, &watch_settings(settings)),
            trigger: Trigger::default(),
            staleness: Staleness::default(),
            reference: model.manifest.reference.mean,
            work: None,
            runs: 0,
            samples: 0,
            labels: 0,
            scheduled: 0,
            trained_through: 0,
            trained_rows: 0,
            judged: Reference::default(),
            judged_gained: false,
            traced: VecDeque::new(),
            rejected: VecDeque::new(),
            drifts: Drifts::default(),
            contest: Contest::default(),
            lately: Lately::default(),
            earlier: VecDeque::new(),
            verdict: None,
            rollout: Rollout::default(),
            admitted: None,
            uptime: Uptime::default(),
            detects: model.detects(),
        }
    }

    /// Takes one sample.
    pub fn sample(&mut self, sample: &Sample<'_>, settings: &CycleSettings) -> Vec<Report> {
        self.samples += 1;
        let findings = self.watch.sample(sample);
        let mut reports = self.notice(findings, settings);
        if self.samples.is_multiple_of(settings.watch.columns.every_rows.max(1).into()) {
            reports.extend(self.drifts.flush(false));
        }
        if self.counts_rows(settings) {
            self.consider(settings, &mut reports);
        }
        reports
    }

    /// Takes the label of one sample.
    pub fn label(&mut self, label: &Label<'_>, settings: &CycleSettings) -> Vec<Report> {
        let Label { sample, loss, .. } = *label;
        let ordinal = self.labels;
        self.labels += 1;
        if self.traced.len() == TRACED {
            self.traced.pop_front();
        }
        self.traced.push_back(sample);
        if !self.counts_rows(settings) {
            self.trigger.labelled(sample, self.labels);
        }
        let mut reports = Vec::new();
        // The late errors of an earlier model say nothing about this one.
        if label.answered_by == self.champion {
            self.staleness.push(loss, self.lately.best_known.map_or(self.reference, |best| best.max(self.reference)));
            self.lately.push(loss);
            self.lately.awaited(sample);
            let findings = self.watch.label(label, ordinal);
            reports = self.notice(findings, settings);
        }
        self.consider(settings, &mut reports);
        reports
    }

    fn order(&mut self, reason: Reason, strategy: Strategy, rows: RowsWanted, settings: &CycleSettings) -> Report {
        self.runs += 1;
        let strategy =
            if self.detects && matches!(strategy, Strategy::Head | Strategy::Norm) { Strategy::Tail } else { strategy };
        let seed = settings.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(self.runs);
        let task = OrderTask::Train { strategy, seed };
        let order = Order { run: self.runs, reason, task, parent: self.champion, rows, refit_of: None };
        self.work = Some(order.clone());
        Report::Retrain { order }
    }

    /// Advances the loop by one event; a command that cannot be followed is refused with the reason and changes nothing.
    pub fn step(&mut self, event: Event, settings: &CycleSettings) -> Result<Vec<Report>, Refusal> {
        match event {
            Event::Judged { run, candidate, evidence, measures, recent } => {
                Ok(self.judged(run, candidate, evidence, &measures, &recent, settings))
            }
            Event::Failed { run, reason } => Ok(self.failed(run, reason, settings)),
            Event::Retrain { strategy } => {
                self.idle()?;
                let rows = self.rows_now(settings)?;
                Ok(vec![self.order(Reason::Command, strategy, rows, settings)])
            }
            Event::Offered { candidate } => self.offered(candidate),
            Event::Consolidated { candidate, measures, recent } => {
                Ok(self.consolidated(candidate, &measures, &recent, settings))
            }
            Event::Rebaseline { baseline } => self.rebaseline(&baseline),
            Event::RollBack { reference, baseline } => self.roll_back(reference, &baseline, settings),
            Event::FallBack { to, reference, baseline } => Ok(self.fall_back(to, reference, &baseline, settings)),
            Event::Rollout(event) => self.rolled(event, settings),
            Event::Adopt { recent } => Ok(self.adopted(&recent, settings)),
        }
    }

    fn idle(&self) -> Result<(), Refusal> {
        match (&self.work, self.rollout.candidate()) {
            (Some(order), _) => Err(Refusal::Busy(order.run)),
            (None, Some(_)) => Err(Refusal::Rollout(super::rollout::Refused::Busy)),
            (None, None) => Ok(()),
        }
    }

    fn offered(&mut self, candidate: Digest) -> Result<Vec<Report>, Refusal> {
        self.idle()?;
        if candidate == self.champion {
            return Err(Refusal::Pointless(candidate.short(), "is serving already"));
        }
        if self.rejected.contains(&candidate) {
            return Err(Refusal::Pointless(candidate.short(), "was refused before: train another one"));
        }
        let known = (self.labels - self.trained_through).min(plan::HOLDOUT_MAX);
        if known < plan::HOLDOUT_MIN {
            return Err(TooFew { known, missing: plan::HOLDOUT_MIN - known }.into());
        }
        self.runs += 1;
        let rows = RowsWanted { from_label: self.labels - known, newest: known, holdout: known, history: 0, gap: 0 };
        let task = OrderTask::Judge { candidate };
        let order = Order { run: self.runs, reason: Reason::Offer, task, parent: self.champion, rows, refit_of: None };
        self.work = Some(order.clone());
        Ok(vec![Report::Retrain { order }])
    }

    /// What the features are now is normal. The losses keep their reference: a model does not get better by this.
    fn rebaseline(&mut self, baseline: &BaselineRows) -> Result<Vec<Report>, Refusal> {
        let (known, least) = (self.watch.rows_of(baseline) as u64, BASELINE_ROWS_MIN as u64);
        if known < least {
            return Err(Refusal::TooFewRows { known, missing: least - known });
        }
        self.watch.rebaseline(baseline);
        Ok(vec![Report::Rebaseline { rows: known }])
    }

    fn judged(
        &mut self,
        run: u64,
        candidate: Digest,
        evidence: Evidence,
        measures: &Measures,
        recent: &BaselineRows,
        settings: &CycleSettings,
    ) -> Vec<Report> {
        // A result nobody waits for any more: the run was dropped by a rollback.
        let Some(order) = self.work.take_if(|order| order.run == run) else {
            return Vec::new();
        };
        if let Some(judged) = order.refit_of {
            // The rows were seen in the refit: they can unmask a broken candidate, not prove a better one.
            let sound = measures.soundness.is_none_or(|soundness| soundness.is_sound())
                && gate::judge(&evidence, &settings.gate).decided_by != Check::Finite
                && evidence.gain().0 > -settings.gate.margin;
            let serving = if sound { candidate } else { judged };
            return self.admit(&order, serving, self.judged, recent, settings);
        }
        let mut verdict = gate::judge_all(&evidence, &order.reason.measures(measures), &settings.gate);
        if verdict.passed && matches!(order.reason, Reason::Staleness | Reason::Continual) {
            let (gain, error) = evidence.gain();
            let (worth, pays) = value::worth(gain, error, &settings.value);
            let limit = settings.value.cost_errors;
            verdict = Verdict { passed: pays, decided_by: Check::Worth, value: worth, limit, ..verdict };
        }
        if candidate == self.champion {
            verdict = Verdict { passed: false, decided_by: Check::Other, ..verdict };
        }
        let passed = verdict.passed;
        self.verdict = passed.then(|| verdict.clone());
        let mut reports = vec![Report::Gate { run, candidate, verdict }];
        match order.task {
            OrderTask::Train { .. } if passed => {
                self.judged = evidence.reference();
                let (gain, error) = evidence.gain();
                self.judged_gained = gain > error;
                self.work = Some(Order { refit_of: Some(candidate), ..order });
            }
            OrderTask::Judge { .. } | OrderTask::Restore if passed => {
                reports.extend(self.admit(&order, candidate, evidence.reference(), recent, settings));
            }
            OrderTask::Restore => reports.push(self.after_restoring(order.rows, settings)),
            OrderTask::Judge { .. } => {
                self.reject(candidate);
                self.ended(order.reason, false, recent, settings);
            }
            OrderTask::Train { .. } => match self.second_try(&order, &evidence, settings) {
                Some(again) => reports.push(again),
                None => self.ended(order.reason, false, recent, settings),
            },
        }
        reports
    }

    fn promote(
        &mut self,
        order: &Order,
        to: Digest,
        reference: Reference,
        recent: &BaselineRows,
        settings: &CycleSettings,
    ) -> Vec<Report> {
        let from = self.champion;
        self.serve(to, Some(from), Some(reference), recent);
        self.ended(order.reason, true, recent, settings);
        vec![Report::Promote { run: order.run, from, to }]
    }

    /// A head that gains nothing although the champion is failing: the features are to blame, so the tail is trained.
    fn second_try(&mut self, order: &Order, evidence: &Evidence, settings: &CycleSettings) -> Option<Report> {
        let OrderTask::Train { strategy: Strategy::Head, .. } = order.task else {
            return None;
        };
        let failing = evidence.losses().0 > 2.0 * self.reference + 0.02;
        let enough = order.rows.newest >= 2 * settings.trigger.rows_first;
        let wanted = failing && enough && order.reason != Reason::Command;
        wanted.then(|| self.order(order.reason, Strategy::Tail, order.rows, settings))
    }

    fn failed(&mut self, run: u64, reason: String, settings: &CycleSettings) -> Vec<Report> {
        let Some(order) = self.work.take_if(|order| order.run == run) else {
            return Vec::new();
        };
        let mut reports = vec![Report::Failed { run, reason }];
        match order.refit_of {
            // The judged candidate is good enough without the newest rows.
            Some(judged) => reports.extend(self.admit(&order, judged, self.judged, &BaselineRows::default(), settings)),
            None => self.ended(order.reason, false, &BaselineRows::default(), settings),
        }
        reports
    }

    fn ended(&mut self, reason: Reason, promoted: bool, recent: &BaselineRows, settings: &CycleSettings) {
        self.staleness = Staleness::default();
        if reason == Reason::Staleness {
            self.tried(promoted);
        }
        if reason == Reason::Labels {
            let outcome = match (promoted, self.judged_gained) {
                (false, _) => Outcome::Refused,
                (true, false) => Outcome::Even,
                (true, true) => Outcome::Gained,
            };
            self.trigger.attempted_labels(outcome, self.labels, &settings.trigger);
        }
        if reason == Reason::Drift {
            self.trigger.attempted(promoted, self.known(settings), &settings.trigger);
            if !self.trigger.is_open() && !promoted && !recent.rows.is_empty() {
                // The inputs moved and no better model exists: this is the new normal.
                self.watch.rebaseline(recent);
            }
        }
    }

    fn serve(
        &mut self,
        model: Digest,
        previous: Option<Digest>,
        reference: Option<Reference>,
        baseline: &BaselineRows,
    ) {
        if self.champion != model {
            self.contest.replaced();
            self.remember_earlier(self.champion);
        }
        self.champion = model;
        self.previous = previous;
        (self.trained_through, self.trained_rows) = (self.labels, self.samples);
        self.staleness = Staleness::default();
        if let Some(reference) = reference {
            self.reference = reference.mean;
        }
        self.watch.replaced();
        self.watch.rebaseline(baseline);
        self.watch.expect(reference);
    }

    /// After a restart with perhaps other settings: drift tests whose settings changed start anew.
    pub fn adopt(&mut self, settings: &CycleSettings, champion: &Model) {
        self.watch.adopt(&watch_settings(settings), champion);
        self.detects = champion.detects();
    }
}

#[cfg(test)]
mod stories;
