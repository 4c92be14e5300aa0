//! What is written with the state: reports, the ledger of runs, the lineage of models; held until the disk has taken them.
mod family;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use trainer_core::digest::Digest;
use trainer_core::model::Strategy;
use ulid::Ulid;

use super::budget::Taken;
use super::keeper::Saved;
use super::orders::Orders;
use super::saved;
use super::work::Done;
use crate::decide::cycle::{Cycle, Order, OrderTask, Reason, Report};
use crate::decide::gate::Evidence;
use crate::decide::rollout;
use crate::decide::value::JOULES_PER_MAC;
use crate::shell::clock;
use crate::shell::models::ModelStore;
use crate::shell::store::{
    Control, CycleRow, Interval, ModelRow, ReportRow, RunCost, RunGain, RunRow, StoreError, StoredReport,
};
use crate::shell::trainer::runs;

/// Newest runs that are looked through for the one of a model.
const RUNS_MAX: usize = 1_000;
/// Reports that wait in memory while the disk refuses; the oldest beyond are given up.
const WAITING_MAX: usize = 1_000;
/// Reports kept on the disk.
const KEPT_MAX: i64 = 10_000;

/// `control.db` and what waits for it.
pub(super) struct Books {
    control: Control,
    /// What waits for the broker is not forgotten.
    linked: bool,
    /// Commands of the fleet that change with the next commit.
    pub(super) orders: Orders,
    generation: i64,
    /// Of the state stored last.
    state_bytes: usize,
    reports: Vec<ReportRow>,
    runs: BTreeMap<i64, RunRow>,
    models: BTreeMap<Digest, ModelRow>,
    trouble: Option<String>,
}

impl Books {
    /// Continues after the stored generation.
    pub(super) fn new(control: Control, generation: i64, linked: bool) -> Self {
        let mut books = Self {
            control,
            linked,
            orders: Orders::default(),
            generation,
            state_bytes: 0,
            reports: Vec::new(),
            runs: BTreeMap::new(),
            models: BTreeMap::new(),
            trouble: None,
        };
        books.forget_old();
        books
    }

    /// Lets old reports go: without a fleet to take them they would grow for ever.
    pub(super) fn forget_old(&mut self) {
        let newest =
            self.control.reports_newest(1).ok().and_then(|reports| reports.first().map(|stored| stored.position));
        if let Some(newest) = newest.filter(|newest| *newest > KEPT_MAX)
            && let Err(error) = self.control.forget_reports_through(self.known_to_fleet().min(newest - KEPT_MAX))
        {
            tracing::warn!(error = %error.chain(), "old reports stay");
        }
    }

    /// Up to here the fleet has everything; without a fleet, all of it.
    fn known_to_fleet(&self) -> i64 {
        if self.linked { self.control.link_through().unwrap_or(0) } else { i64::MAX }
    }

    /// The database, for what belongs to the link alone.
    pub(super) fn control(&mut self) -> &mut Control {
        &mut self.control
    }

    /// The rows of commands that change, and where the others are.
    pub(super) fn orders_and_control(&mut self) -> (&mut Orders, &Control) {
        (&mut self.orders, &self.control)
    }

    /// Why the last commit was refused.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether something waits for the disk.
    pub(super) fn is_waiting(&self) -> bool {
        let nothing = self.reports.is_empty() && self.runs.is_empty() && self.models.is_empty();
        self.trouble.is_some() || !nothing || !self.orders.is_empty()
    }

    /// Stores state and everything that waits, in one transaction.
    pub(super) fn commit(&mut self, saved: &Saved) -> bool {
        let state = match saved::encode(saved, self.state_bytes) {
            Ok(state) => state,
            Err(error) => return self.refused(format!("the state cannot be written down, which is a bug: {error}")),
        };
        self.state_bytes = state.len();
        let row = CycleRow { generation: self.generation + 1, state };
        let runs: Vec<_> = self.runs.values().cloned().collect();
        let models: Vec<_> = self.models.values().cloned().collect();
        match self.control.commit_with(&row, &self.reports, &runs, &models, &self.orders.rows()) {
            Ok(()) => {
                self.generation += 1;
                self.reports.clear();
                self.runs.clear();
                self.models.clear();
                self.orders.stored();
                if self.trouble.take().is_some() {
                    tracing::info!("the disk takes the state again");
                }
                true
            }
            Err(error) => self.refused(error.chain()),
        }
    }

    fn refused(&mut self, reason: String) -> bool {
        if self.trouble.as_ref() != Some(&reason) {
            tracing::error!(reason, "the state cannot be stored; nothing new is carried out until it can");
        }
        self.trouble = Some(reason);
        false
    }

    /// Adds a fact that the loop itself found.
    pub(super) fn say(&mut self, kind: &str, payload: &Value) {
        let at = clock::now();
        if self.reports.len() == WAITING_MAX {
            self.reports.remove(0);
        }
        self.reports.push(ReportRow { id: Ulid::generate(), kind: kind.to_owned(), json: payload.to_string(), at });
    }

    /// Adds what a step of the cycle reported, with the ledger and lineage it changes.
    pub(super) fn note(&mut self, reports: &[Report], cycle: &Cycle) {
        let mut rejected = Vec::new();
        self.orders.follow(reports, cycle, &self.control);
        for report in reports {
            let mut payload = serde_json::to_value(report).unwrap_or_default();
            let kind = payload.get("kind").and_then(Value::as_str).unwrap_or("report").to_owned();
            match report {
                Report::Retrain { order } | Report::Consolidated { order } => self.ordered(order),
                Report::Gate { run, candidate, verdict } => {
                    payload["sentence"] = json!(verdict.sentence());
                    if !verdict.passed {
                        rejected.push(*candidate);
                    }
                    let text = payload["verdict"].to_string();
                    let holdout = interval(&verdict.evidence);
                    self.run(*run, |row| {
                        row.gain.holdout = holdout;
                        let word = if verdict.passed { "passed" } else { "refused" };
                        word.clone_into(&mut row.state);
                        row.verdict = Some(text);
                        row.finished_at = Some(clock::now());
                    });
                }
                Report::Failed { run, .. } => self.run(*run, |row| {
                    "failed".clone_into(&mut row.state);
                    row.finished_at = Some(clock::now());
                }),
                Report::Promote { run, to, .. } => self.run(*run, |row| {
                    "promoted".clone_into(&mut row.state);
                    row.candidate = Some(*to);
                    row.finished_at = Some(clock::now());
                }),
                // One that fell back from damage may come again.
                Report::Rollback { from, .. } => rejected.extend(Some(*from).filter(|from| cycle.is_rejected(*from))),
                Report::Rollout(report) => {
                    if let rollout::Report::TrialEnded { challenger, .. } = report
                        && cycle.is_rejected(*challenger)
                    {
                        rejected.push(*challenger);
                    }
                    self.tried(report, &mut payload);
                }
                Report::Drift { .. }
                | Report::Waiting { .. }
                | Report::Rebaseline { .. }
                | Report::Considered { .. }
                | Report::Adaptation { .. } => {}
            }
            tracing::info!(kind, report = %payload, "{}", words(&kind, &payload));
            self.say(&kind, &payload);
        }
        self.lineage(cycle, &rejected);
    }

    fn ordered(&mut self, order: &Order) {
        let strategy = match order.task {
            OrderTask::Train { strategy: Strategy::Base, .. } => "base",
            OrderTask::Train { strategy: Strategy::Head, .. } => "head",
            OrderTask::Train { strategy: Strategy::Tail, .. } => "tail",
            OrderTask::Train { strategy: Strategy::Full, .. } => "full",
            OrderTask::Train { strategy: Strategy::Norm, .. } => "norm",
            OrderTask::Judge { .. } if order.reason == Reason::Continual => "continual",
            OrderTask::Judge { .. } => "judge",
            OrderTask::Restore => "restore",
        };
        let candidate = match order.task {
            OrderTask::Judge { candidate } => Some(candidate),
            OrderTask::Train { .. } | OrderTask::Restore => None,
        };
        let number = i64::try_from(order.run).unwrap_or(i64::MAX);
        let row = RunRow {
            number,
            state: "ordered".to_owned(),
            parent: order.parent,
            candidate,
            snapshot: None,
            strategy: strategy.to_owned(),
            reason: serde_json::to_value(order.reason).ok().and_then(|word| word.as_str().map(ToOwned::to_owned)),
            rows: 0,
            cpu_s: 0.0,
            joules_modelled: None,
            verdict: None,
            cost: RunCost::default(),
            gain: RunGain::default(),
            started_at: clock::now(),
            finished_at: None,
        };
        self.runs.insert(number, row);
    }

    /// Books what a training has taken, however it ended.
    pub(super) fn took(&mut self, run: u64, taken: &Taken) {
        let Taken { usage, wall_s, booked, written_bytes, .. } = taken;
        self.run(run, |row| {
            let add = |sum: &mut Option<f64>, more: f64| *sum = Some(sum.unwrap_or(0.0) + more);
            // A run trains twice if its candidate passes: once to be judged, once on all rows.
            row.cpu_s += usage.cpu_s;
            let cost = &mut row.cost;
            add(&mut cost.wall_s, *wall_s);
            add(&mut cost.joules, booked.joules);
            add(&mut cost.joules_error, booked.error);
            // A sum is only as well measured as its worst part.
            if cost.joules_source.is_none() || !booked.source.is_measured() {
                cost.joules_source = Some(booked.source.to_string());
            }
            let peak = i64::try_from(usage.peak_bytes).unwrap_or(i64::MAX);
            cost.peak_bytes = Some(cost.peak_bytes.unwrap_or(0).max(peak));
            let written = i64::try_from(*written_bytes).unwrap_or(i64::MAX);
            cost.bytes_written = Some(cost.bytes_written.unwrap_or(0).saturating_add(written));
        });
    }

    /// Books what a finished run made.
    #[expect(clippy::cast_precision_loss, reason = "multiply-adds of a training fit an f64")]
    pub(super) fn trained(&mut self, run: u64, done: &Done, taken: Option<&Taken>, parent: Option<Digest>) {
        let cost = done.cost;
        let joules = cost.work_mac as f64 * JOULES_PER_MAC;
        self.run(run, |row| {
            "trained".clone_into(&mut row.state);
            row.candidate = Some(done.candidate);
            row.snapshot = done.snapshot;
            row.rows = i64::try_from(cost.rows).unwrap_or(i64::MAX);
            row.joules_modelled = Some(row.joules_modelled.unwrap_or(0.0) + joules);
        });
        if let (Some(_), Some(taken)) = (done.snapshot, taken) {
            let Taken { usage, wall_s, booked, written_bytes, .. } = taken;
            self.say(
                "trained",
                &json!({
                    "kind": "trained", "run": run, "candidate": done.candidate, "rows": cost.rows, "cpu_s": usage.cpu_s,
                    "peak_bytes": usage.peak_bytes, "work_mac": cost.work_mac, "joules_modelled": joules,
                    "wall_s": wall_s, "joules": booked.joules, "joules_error": booked.error,
                    "joules_source": booked.source, "bytes_written": written_bytes,
                }),
            );
            self.candidate(done.candidate, parent, i64::try_from(run).ok(), "device");
        }
    }

    /// Books what frozen heads have learnt from, and what learning took since heads were last frozen.
    pub(super) fn frozen(&mut self, run: i64, rows: i64, spent_mac: u64) {
        self.run(u64::try_from(run).unwrap_or(0), |row| {
            row.rows = rows;
            row.joules_modelled = Some(spent_mac as f64 * JOULES_PER_MAC);
        });
    }

    /// Books what a promotion has brought in service so far.
    pub(super) fn realised(&mut self, run: u64, evidence: &Evidence) {
        let realised = interval(evidence);
        self.run(run, |row| row.gain.realised = realised);
    }

    /// Books that a run waits, and why, or that it goes on.
    pub(super) fn stands(&mut self, run: u64, state: &str) {
        self.run(run, |row| state.clone_into(&mut row.state));
    }

    pub(super) fn run(&mut self, run: u64, change: impl FnOnce(&mut RunRow)) {
        let number = i64::try_from(run).unwrap_or(i64::MAX);
        let known = self.runs.remove(&number).or_else(|| self.control.run(number).ok().flatten());
        if let Some(mut row) = known {
            change(&mut row);
            self.runs.insert(number, row);
        }
    }

    /// Removes snapshots beyond `snapshot_bytes`.
    pub(super) fn collect(&self, cycle: &Cycle, snapshots: &ModelStore, snapshot_bytes: u64) {
        let (champion, previous, _) = cycle.models();
        let known = self.control.models().unwrap_or_default();
        let serving = [Some(champion), previous];
        let made_by = known.iter().filter(|row| serving.contains(&Some(row.digest))).filter_map(|row| row.run);
        // Work that was suspended goes on from its snapshot.
        let under_way = cycle.orders().work.and_then(|order| i64::try_from(order.run).ok());
        let learned_from = made_by.chain(under_way).filter_map(|run| self.control.run(run).ok().flatten()?.snapshot);
        if let Err(error) = runs::sweep(snapshots.folder(), &learned_from.collect::<Vec<_>>(), snapshot_bytes) {
            tracing::warn!(error = %error.chain(), "old snapshots stay");
        }
    }

    pub(super) fn reports_newest(&self, limit: usize) -> Result<Vec<StoredReport>, StoreError> {
        self.control.reports_newest(limit)
    }

    pub(super) fn runs_newest(&self, limit: usize) -> Result<Vec<RunRow>, StoreError> {
        self.control.runs_newest(limit)
    }
}

/// The hold-out's gain with one-sided bounds of 95 %; none if nothing was compared.
fn interval(evidence: &Evidence) -> Option<Interval> {
    const Z: f64 = 1.645;
    let (gain, error) = evidence.gain();
    let known = evidence.rows > 0 && evidence.not_finite == 0 && gain.is_finite() && error.is_finite();
    known.then_some(Interval { rows: evidence.rows, gain, low: gain - Z * error, high: gain + Z * error })
}

/// A report in one line for the log: its kind, and what it says in words.
fn words(kind: &str, report: &Value) -> String {
    let said = ["sentence", "reason"].into_iter().find_map(|key| report[key].as_str());
    said.map_or_else(|| kind.to_owned(), |said| format!("{kind}: {said}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_logged_in_its_own_words() {
        assert_eq!(words("gate", &json!({"sentence": "refused: no gain", "reason": "x"})), "gate: refused: no gain");
        assert_eq!(words("failed", &json!({"run": 1, "reason": "killed"})), "failed: killed");
        assert_eq!(words("retrain", &json!({"order": {}})), "retrain");
    }
}
