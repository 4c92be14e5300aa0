//! The ledger's line of each retrain, told to the fleet once the retrain has ended and its costs are booked.
use fleet_protocol::event::RetrainOutcome;
use serde_json::{Value, json};

use super::books::Books;
use super::keeper::Keeper;
use crate::decide::cycle::Report;
use crate::decide::rollout;
use crate::shell::store::RunRow;

/// The reason that a person's cancelling gives.
pub(super) const CANCELLED: &str = "cancelled by command";

impl Keeper {
    /// Tells the lines of the runs that these reports end. One whose training is still told to stop follows when it has.
    pub(super) fn tell_ledger(&mut self, reports: &[Report]) {
        let Some(saved) = &self.saved else { return };
        let work = saved.cycle.orders().work;
        let going_on = |run: u64| {
            work.as_ref().is_some_and(|order| order.run == run)
                || saved.cycle.rollout().candidate().is_some_and(|candidate| candidate.run == run)
        };
        let ended = reports.iter().filter_map(|report| match report {
            Report::Failed { run, .. }
            | Report::Gate { run, .. }
            | Report::Promote { run, .. }
            | Report::Rollout(rollout::Report::TrialEnded { run, .. }) => Some(*run),
            _ => None,
        });
        let mut ended: Vec<u64> = ended.filter(|run| !going_on(*run) && self.working != Some(*run)).collect();
        ended.dedup();
        let cancelled = |run: u64| {
            let by_person = |report: &Report| matches!(report, Report::Failed { run: failed, reason } if *failed == run && reason == CANCELLED);
            reports.iter().any(by_person)
        };
        for run in ended {
            if cancelled(run) {
                self.books.stands(run, "cancelled");
            }
            self.books.ledger_line(run);
        }
    }
}

impl Books {
    /// Adds the ledger's line of a run that has ended; nothing for a bundle that was only judged.
    pub(super) fn ledger_line(&mut self, run: u64) {
        let mut line = None;
        self.run(run, |row| line = payload(row));
        if let Some(line) = line {
            self.say("retrain_finished", &line);
        }
    }
}

fn payload(row: &RunRow) -> Option<Value> {
    if row.strategy == "judge" {
        return None;
    }
    let outcome = match row.state.as_str() {
        "promoted" => RetrainOutcome::Promoted,
        "refused" => RetrainOutcome::NoGain,
        "not_promoted" => RetrainOutcome::NotPromoted,
        "cancelled" => RetrainOutcome::Canceled,
        "failed" => RetrainOutcome::Failed,
        other => RetrainOutcome::Other(other.to_owned()),
    };
    let (joules, measured) = row.energy().unwrap_or((0.0, false));
    let mut line = json!({
        "kind": "retrain_finished", "run": row.number, "outcome": outcome, "strategy": row.strategy,
        "trigger": row.reason.as_deref().unwrap_or("unknown"), "rows": row.rows, "cpu_s": row.cpu_s, "energy_j": joules,
        "energy_source": if measured { "measured" } else { "modelled" },
        "peak_bytes": row.cost.peak_bytes.unwrap_or(0), "written_bytes": row.cost.bytes_written.unwrap_or(0),
        "parent": row.parent,
    });
    let more = [
        ("candidate", json!(row.candidate)),
        ("snapshot", json!(row.snapshot)),
        ("gain", json!(row.gain.holdout)),
        ("wall_s", json!(row.cost.wall_s)),
        ("energy_error_j", json!(row.cost.joules_error)),
        ("points_per_joule", json!(row.points_per_joule())),
    ];
    for (key, value) in more.into_iter().filter(|(_, value)| !value.is_null()) {
        line[key] = value;
    }
    Some(line)
}
