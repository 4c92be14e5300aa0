//! Why a model serves, or does not: its run, the gate's number, who approved it, how its trial went.
use serde_json::{Value, json};

use super::keeper::Keeper;
use crate::decide::gate::Verdict;
use crate::decide::rollout;
use crate::shell::clock::shown;
use crate::shell::store::{ModelRow, ModelStatus, RunRow, StoreError};

/// Newest runs that are looked through for the one that judged a model.
const RUNS_MAX: usize = 1_000;

/// Answers [`super::Question::Explain`] for the model whose digest begins with `wanted`, or the champion.
pub(super) fn view(keeper: &Keeper, wanted: Option<&str>) -> Result<Value, StoreError> {
    let champion = keeper.saved.as_ref().map(|saved| saved.cycle.models().0.to_string());
    let Some(wanted) = wanted.map(str::to_owned).or(champion) else {
        return Ok(json!({"code": "no_model", "error": "this device has no model yet"}));
    };
    let rows = keeper.books.models()?;
    let found: Vec<_> = rows.iter().filter(|row| row.digest.to_string().starts_with(&wanted)).collect();
    let row = match found.as_slice() {
        [row] => *row,
        [] => {
            let error = format!("no model's digest begins with `{wanted}` (`hone models` lists them)");
            return Ok(json!({"code": "unknown_model", "error": error}));
        }
        several => {
            let error = format!("{} models' digests begin with `{wanted}`: give more of it", several.len());
            return Ok(json!({"code": "ambiguous", "error": error}));
        }
    };
    let runs = keeper.books.runs_newest(RUNS_MAX)?;
    let of = |run: &&RunRow| run.candidate == Some(row.digest) || Some(run.number) == row.run;
    let run = runs.iter().find(of);
    let factory = keeper.saved.as_ref().is_some_and(|saved| saved.cycle.models().2 == row.digest);
    Ok(json!({
        "digest": row.digest,
        "status": row.status.as_str(),
        "factory": factory,
        "parent": row.parent,
        "run": run.map(|run| run.number),
        "facts": run.and_then(|run| run.verdict.as_ref()).and_then(|text| serde_json::from_str::<Value>(text).ok()),
        "because": because(row, run, factory),
    }))
}

/// One sentence per fact, in the order in which they came about.
fn because(row: &ModelRow, run: Option<&RunRow>, factory: bool) -> Vec<String> {
    let mut said = Vec::new();
    if factory {
        said.push("it is the model this device came with".to_owned());
    }
    if let Some(run) = run {
        let reason = run.reason.as_deref().unwrap_or("an unknown reason");
        let energy = run.energy().map_or_else(String::new, |(joules, measured)| {
            format!(", for {joules:.2} J{}", if measured { "" } else { " (modelled)" })
        });
        said.push(match run.strategy.as_str() {
            "judge" => format!("run {} judged it because of {reason}", run.number),
            strategy => {
                format!("run {} trained it ({strategy} on {} rows) because of {reason}{energy}", run.number, run.rows)
            }
        });
        let facts = run.verdict.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let facts = facts.unwrap_or_default();
        if let Ok(verdict) = serde_json::from_value::<Verdict>(facts.clone()) {
            let weak = if verdict.weak { ", which is weak evidence" } else { "" };
            said.push(format!("the gate: {}{weak}", verdict.sentence()));
        }
        if let Some(by) = facts["approved"]["answer"]["by"].as_str() {
            let at = facts["approved"]["answer"]["at"].as_i64().map(|at| shown(crate::decide::time::Timestamp(at)));
            said.push(format!("approved by {by} at {}", at.unwrap_or_else(|| "-".to_owned())));
        }
        let report = serde_json::from_value::<rollout::Report>(facts["trial"].clone());
        if let Ok(report) = &report {
            said.push(trial(report));
        }
        if let Ok(unsure) = serde_json::from_value::<rollout::Unsure>(facts["confidence"].clone()) {
            let rollout::Unsure { rows, champion, challenger, .. } = unsure;
            said.push(format!(
                "an alarm: on {rows} samples it was {challenger:.2} sure on average, the model before it {champion:.2}"
            ));
        }
        if let Ok(rollout::Report::Regretted { standing, .. }) = serde_json::from_value(facts["regret"].clone()) {
            said.push(format!("after its promotion it proved worse than the model before it ({})", numbers(&standing)));
        } else if row.status == ModelStatus::Rejected && matches!(report, Ok(rollout::Report::TrialWon { .. })) {
            said.push("it served until it was rolled back".to_owned());
        }
    }
    said.push(
        match row.status {
            ModelStatus::Champion => "it serves now",
            ModelStatus::Previous => "it served before and is kept to go back to",
            ModelStatus::Factory => "it is kept as the last resort",
            ModelStatus::Candidate => "it has not served yet",
            ModelStatus::Rejected => "it is rejected and is not offered again",
            ModelStatus::Retired => "it does not serve any more, or never did",
        }
        .to_owned(),
    );
    said
}

fn numbers(standing: &rollout::Standing) -> String {
    format!(
        "{} samples, {} agreed, {} labelled, {} missed; evidence of being worse {:.2}, of not being worse {:.2}, {:.0} decides",
        standing.pairs,
        standing.agreed,
        standing.labelled,
        standing.missed,
        standing.abort_e,
        standing.promote_e,
        standing.limit
    )
}

fn trial(report: &rollout::Report) -> String {
    match report {
        rollout::Report::TrialEnded { why, standing, answer, .. } => {
            let by = answer.as_ref().map_or_else(String::new, |answer| format!(" ({})", answer.by));
            format!("the trial ended{by}: {} ({})", why.sentence(), numbers(standing))
        }
        rollout::Report::TrialWon { standing, answer: Some(answer), .. } => {
            format!("{} promoted it ({})", answer.by, numbers(standing))
        }
        rollout::Report::TrialWon { standing, .. } => format!("it won its trial ({})", numbers(standing)),
        rollout::Report::CanaryStep { standing, .. } => format!("it is on trial ({})", numbers(standing)),
        rollout::Report::ApprovalRequired { .. }
        | rollout::Report::Approved { .. }
        | rollout::Report::Regretted { .. }
        | rollout::Report::ConfidenceShift { .. }
        | rollout::Report::ClassShift { .. } => "it is on trial".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use trainer_core::digest::Digest;

    use super::*;
    use crate::decide::gate::{Evidence, GateSettings, judge};
    use crate::decide::time::Timestamp;
    use crate::shell::store::{RunCost, RunGain};

    fn run(rows: u64, strategy: &str) -> RunRow {
        let mut evidence = Evidence::default();
        (0..rows).for_each(|row| evidence.push(f64::from(u8::from(row % 4 == 0)), 0.0));
        let mut facts = serde_json::to_value(judge(&evidence, &GateSettings::default())).unwrap();
        facts["approved"] = json!({"answer": {"by": "anna", "at": 0}});
        RunRow {
            number: 7,
            state: "promoted".to_owned(),
            parent: Digest::of(b"parent"),
            candidate: Some(Digest::of(b"candidate")),
            snapshot: None,
            strategy: strategy.to_owned(),
            reason: Some("drift".to_owned()),
            rows: 120,
            cpu_s: 1.0,
            joules_modelled: Some(2.5),
            verdict: Some(facts.to_string()),
            cost: RunCost::default(),
            gain: RunGain::default(),
            started_at: Timestamp(0),
            finished_at: None,
        }
    }

    #[test]
    fn a_model_is_explained_by_its_run_the_number_of_the_gate_and_who_approved_it() {
        let row = ModelRow {
            digest: Digest::of(b"candidate"),
            parent: Some(Digest::of(b"parent")),
            role: "device".to_owned(),
            status: ModelStatus::Champion,
            run: Some(7),
            installed_at: Timestamp(0),
        };
        let said = because(&row, Some(&run(200, "tail")), false);
        assert_eq!(said[0], "run 7 trained it (tail on 120 rows) because of drift, for 2.50 J (modelled)");
        assert!(said[1].starts_with("the gate: passed: gain is at least +0.") && !said[1].contains("weak"), "{said:?}");
        assert!(said[2].starts_with("approved by anna at 1970-01-01"), "{said:?}");
        assert_eq!(said[3], "it serves now");
        let weak = because(&row, Some(&run(60, "judge")), true);
        assert_eq!(weak[..2], ["it is the model this device came with", "run 7 judged it because of drift"]);
        assert!(weak[2].ends_with(", which is weak evidence"), "{weak:?}");
        let unknown = ModelRow { status: ModelStatus::Rejected, ..row };
        assert_eq!(because(&unknown, None, false), ["it is rejected and is not offered again"]);
    }
}
