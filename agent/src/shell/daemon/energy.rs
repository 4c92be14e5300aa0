//! What retraining took and what it brought: the ledger by day and week, by outcome and by run, and the family tree of models.
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keeper::Keeper;
use crate::decide::time::Timestamp;
use crate::shell::clock::{self, shown};
use crate::shell::store::{ModelRow, RunRow, StoreError};

/// Newest runs that are added up; a gateway that retrains ten times a day has three months of them.
const RUNS_MAX: usize = 1_000;
/// Newest runs that are listed one by one.
const RUNS_SHOWN: usize = 20;
const DAY_US: i64 = 86_400_000_000;

/// Answers [`super::Question::Energy`].
pub(super) fn view(keeper: &Keeper) -> Result<Value, StoreError> {
    let rows = keeper.books.runs_newest(RUNS_MAX)?;
    Ok(account(&rows, clock::now(), keeper.rules.cycle.value.cost_errors))
}

/// Answers [`super::Question::Lineage`].
pub(super) fn lineage(keeper: &Keeper) -> Result<Value, StoreError> {
    let factory = keeper.saved.as_ref().map(|saved| saved.cycle.models().2);
    let runs = keeper.books.runs_newest(RUNS_MAX)?;
    let runs: BTreeMap<i64, &RunRow> = runs.iter().map(|row| (row.number, row)).collect();
    let cost_errors = keeper.rules.cycle.value.cost_errors;
    let shown_model = |row: &ModelRow| {
        // One that came from outside was not made by a run, only judged by one.
        let judged = || runs.values().rev().find(|run| run.candidate == Some(row.digest)).copied();
        let run = row.run.and_then(|number| runs.get(&number).copied()).or_else(judged);
        json!({
            "digest": row.digest,
            "parent": row.parent,
            "status": row.status.as_str(),
            "factory": Some(row.digest) == factory,
            "role": row.role,
            "installed_at": shown(row.installed_at),
            "run": run.map(|run| shown_run(run, cost_errors)),
        })
    };
    Ok(json!({"models": keeper.books.models()?.iter().map(shown_model).collect::<Vec<_>>()}))
}

/// Adds the runs up, newest first as they come.
fn account(rows: &[RunRow], now: Timestamp, cost_errors: f64) -> Value {
    let since = |days: i64| Timestamp(now.0.saturating_sub(days.saturating_mul(DAY_US)));
    let newer = |from: Timestamp| rows.iter().filter(move |row| row.started_at >= from && row.started_at <= now);
    json!({
        "at": shown(now),
        "day": total(newer(since(1))),
        "week": total(newer(since(7))),
        "kept": total(rows.iter()),
        "runs": rows.iter().take(RUNS_SHOWN).map(|row| shown_run(row, cost_errors)).collect::<Vec<_>>(),
    })
}

fn total<'a>(rows: impl Iterator<Item = &'a RunRow>) -> Value {
    let mut all = Sum::default();
    let mut outcomes: BTreeMap<&str, Sum> = BTreeMap::new();
    for row in rows {
        all.add(row);
        outcomes.entry(&row.state).or_default().add(row);
    }
    let mut value = all.shown();
    value["by_outcome"] =
        outcomes.into_iter().map(|(state, sum)| (state.to_owned(), sum.shown())).collect::<Map<_, _>>().into();
    value
}

#[derive(Default)]
struct Sum {
    runs: u64,
    cpu_s: f64,
    joules: f64,
    joules_measured: f64,
    bytes_written: i64,
}

impl Sum {
    fn add(&mut self, row: &RunRow) {
        let (joules, measured) = row.energy().unwrap_or_default();
        self.runs += 1;
        self.cpu_s += row.cpu_s;
        self.joules += joules;
        self.joules_measured += if measured { joules } else { 0.0 };
        self.bytes_written = self.bytes_written.saturating_add(row.cost.bytes_written.unwrap_or(0));
    }

    fn shown(&self) -> Value {
        let measured = (self.joules > 0.0).then(|| self.joules_measured / self.joules);
        json!({
            "runs": self.runs,
            "cpu_s": self.cpu_s,
            "joules": self.joules,
            "measured_share": measured,
            "bytes_written": self.bytes_written,
        })
    }
}

fn shown_run(row: &RunRow, cost_errors: f64) -> Value {
    let energy = row.energy();
    let source = row.cost.joules_source.clone().or_else(|| energy.map(|_| "model".to_owned()));
    let segments = row
        .gain
        .segments
        .as_ref()
        .map(|segments| segments.iter().map(|(name, gain)| (name.clone(), json!(gain))).collect::<Map<_, _>>());
    json!({
        "run": row.number,
        "state": row.state,
        "adopted": row.is_adopted(),
        "reason": row.reason,
        "strategy": row.strategy,
        "rows": row.rows,
        "cpu_s": row.cpu_s,
        "wall_s": row.cost.wall_s,
        "joules": energy.map(|(joules, _)| joules),
        "joules_error": row.cost.joules_error,
        "joules_source": source,
        "joules_measured": energy.map(|(_, measured)| measured),
        "peak_bytes": row.cost.peak_bytes,
        "bytes_written": row.cost.bytes_written,
        "verdict": row.verdict.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok()),
        "holdout": row.gain.holdout,
        "anchors": row.gain.anchors,
        "segments": segments,
        "realised": row.gain.realised,
        "points_per_joule": row.points_per_joule(),
        "break_even_rows": row.break_even_rows(cost_errors),
        "started_at": shown(row.started_at),
        "finished_at": row.finished_at.map(shown),
    })
}

#[cfg(test)]
mod tests {
    use trainer_core::digest::Digest;

    use super::*;
    use crate::shell::store::{Interval, RunCost, RunGain};

    fn run(number: i64, state: &str, days_ago: i64, measured: Option<f64>) -> RunRow {
        RunRow {
            number,
            state: state.to_owned(),
            parent: Digest::of(b"parent"),
            candidate: None,
            snapshot: None,
            strategy: "head".to_owned(),
            reason: Some("drift".to_owned()),
            rows: 400,
            cpu_s: 0.5,
            joules_modelled: Some(1.0),
            verdict: None,
            cost: RunCost {
                joules: measured,
                joules_source: measured.map(|_| "rapl".to_owned()),
                bytes_written: Some(1_000),
                ..RunCost::default()
            },
            gain: RunGain {
                holdout: Some(Interval { rows: 80, gain: 0.05, low: 0.0, high: 0.1 }),
                ..RunGain::default()
            },
            started_at: Timestamp(NOW.0 - days_ago * DAY_US),
            finished_at: None,
        }
    }

    const NOW: Timestamp = Timestamp(1_795_219_200_000_000);

    #[test]
    fn days_weeks_outcomes_and_the_measured_share_add_up() {
        let rows = [
            run(4, "promoted", -1, Some(9.0)),
            run(3, "promoted", 0, Some(3.0)),
            run(2, "refused", 3, None),
            run(1, "failed", 30, None),
        ];
        let energy = account(&rows, NOW, 10.0);
        assert_eq!(
            (&energy["day"]["runs"], &energy["week"]["runs"], &energy["kept"]["runs"]),
            (&json!(1), &json!(2), &json!(4))
        );
        assert_eq!((&energy["week"]["joules"], &energy["week"]["measured_share"]), (&json!(4.0), &json!(0.75)));
        assert_eq!(energy["week"]["by_outcome"]["refused"]["cpu_s"], json!(0.5));
        assert_eq!(energy["week"]["bytes_written"], json!(2_000));
        let first = &energy["runs"][1];
        assert_eq!((&first["joules_source"], &first["break_even_rows"]), (&json!("rapl"), &json!(200.0)));
        assert_eq!(energy["runs"][2]["joules_source"], json!("model"), "never unmarked");
        assert_eq!(account(&[], NOW, 10.0)["day"]["measured_share"], Value::Null);
    }
}
