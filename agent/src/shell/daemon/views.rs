//! What the loop answers when asked: its state as JSON.
use serde_json::{Value, json};

use super::keeper::Keeper;
use super::shared::Question;
use super::{energy, explain, plan, trial};
use crate::decide::cycle::Cycle;
use crate::decide::watch::WatchView;
use crate::decide::watch::columns::{ColumnView, Standing};
use crate::decide::watch::finding::{Finding, Measure};
use crate::shell::clock::shown;
use crate::shell::store::StoreError;

/// Answers one question.
pub(super) fn answer(keeper: &Keeper, question: Question) -> Value {
    match question {
        Question::Status => status(keeper),
        Question::Drift => {
            keeper.saved.as_ref().map_or_else(|| json!({"state": "no_model"}), |saved| drift(&saved.cycle, keeper))
        }
        Question::Models => models(keeper).unwrap_or_else(|error| failed(&error)),
        Question::Reports(limit) => reports(keeper, limit).unwrap_or_else(|error| failed(&error)),
        Question::Energy => energy::view(keeper).unwrap_or_else(|error| failed(&error)),
        Question::Lineage => energy::lineage(keeper).unwrap_or_else(|error| failed(&error)),
        Question::Plan(strategy) => plan::view(keeper, strategy),
        Question::LabelRequests(limit) => trial::label_requests(keeper, limit),
        Question::Explain(model) => explain::view(keeper, model.as_deref()).unwrap_or_else(|error| failed(&error)),
        Question::Runs(limit) => runs(keeper, limit).unwrap_or_else(|error| failed(&error)),
    }
}

fn failed(error: &StoreError) -> Value {
    json!({"error": error.chain(), "code": "disk"})
}

fn status(keeper: &Keeper) -> Value {
    let serving = keeper.shared.slot.serving();
    let policy = keeper.rules.cycle.policy.to_string();
    let control = match keeper.books.trouble() {
        None => json!({"state": "ok"}),
        Some(reason) => json!({"state": "degraded", "reason": reason}),
    };
    let state = if serving.is_some() { "serving" } else { "no_model" };
    let Some(saved) = &keeper.saved else {
        return json!({"state": state, "policy": policy, "control": control, "storage": keeper.storage_view()});
    };
    let (champion, previous, factory) = saved.cycle.models();
    let (samples, labels) = saved.cycle.counts();
    let mut status = json!({
        "state": state,
        "policy": policy,
        "champion": champion,
        "previous": previous,
        "factory": factory,
        "signature": keeper.gatehouse.champion.map_or("unsigned", |(standing, _)| standing.as_str()),
        "trusted": keeper.gatehouse.champion.map(|(standing, _)| standing.sentence()),
        "loading": keeper.loading_view(),
        "samples": samples,
        "labels": labels,
        "loss": loss(&saved.cycle),
        "trigger": saved.cycle.trigger(),
        "work": saved.cycle.orders().work,
        "rollout": saved.cycle.rollout().view(keeper.warden.now()),
        "control": control,
        "storage": keeper.storage_view(),
        "frozen": keeper.frozen_view(),
    });
    status["continual"] = keeper.heads_view();
    for (key, value) in keeper.budget_view() {
        status[key] = value;
    }
    status
}

fn loss(cycle: &Cycle) -> Value {
    cycle.watch().recent_loss().map_or(Value::Null, |(mean, labels)| json!({"mean": mean, "labels": labels}))
}

fn drift(cycle: &Cycle, keeper: &Keeper) -> Value {
    let (samples, labels) = cycle.counts();
    let settings = &keeper.rules.cycle.watch;
    let WatchView { features, answers, joint, performance, gathering } = cycle.watch().view();
    let findings: Vec<_> = cycle.findings().rev().map(finding).collect();
    json!({
        "state": "watching",
        "policy": keeper.rules.cycle.policy.to_string(),
        "samples": samples,
        "labels": labels,
        "run_length_rows": settings.run_length_rows,
        "psi_threshold": settings.columns.psi,
        "share_threshold": settings.columns.share,
        "features": features.iter().map(column).collect::<Vec<_>>(),
        "answers": answers.iter().map(column).collect::<Vec<_>>(),
        "answers_gathered": gathering,
        "joint": joint,
        "loss": loss(cycle),
        "estimate": performance.estimate.as_ref().map(|view| {
            json!({
                "accuracy": view.estimate.map(|estimate| estimate.accuracy),
                "expected": view.expected,
                "realised": view.realised,
                "gap": view.gap,
                "calibrated": view.calibrated,
            })
        }),
        "performance": performance,
        "segments": performance.segments,
        "findings": findings,
        "trigger": cycle.trigger(),
    })
}

/// A finding with its time as people read it.
fn finding(finding: &Finding) -> Value {
    let mut value = json!(finding);
    value["since_at"] = json!(finding.since_at.map(shown));
    value
}

fn column(column: &ColumnView) -> Value {
    let name = match &column.measure {
        Measure::Feature(name) => name.as_str(),
        Measure::PredictedClass => "predicted class",
        _ => "score",
    };
    let distances = column.distances.as_ref();
    json!({
        "name": name,
        "psi": distances.map(|distances| {
            json!({"value": distances.reading.psi, "expected": distances.reading.null_mean, "p": distances.reading.p})
        }),
        "js": distances.map(|distances| distances.jensen_shannon),
        "tvd": distances.map(|distances| distances.total_variation),
        "hellinger": distances.map(|distances| distances.hellinger),
        "ks": distances.map(|distances| distances.ks),
        "ks_p": distances.map(|distances| distances.ks_p),
        "drifted": column.standing == Standing::Alarmed,
        "standing": column.standing,
        "held": column.held,
        "baseline_rows": column.baseline_rows,
        "rows": column.rows,
        "step_rows": column.step_rows,
        "missing": column.missing,
        "missing_rate": column.missing_rate,
        "out_of_range": column.out_of_range,
        "out_of_range_rate": column.out_of_range_rate,
        "untimed": column.untimed,
        "correlation": column.correlation,
        "block_rows": column.block_rows,
        "season": column.has_season,
        "mean_baseline": column.mean_baseline,
        "mean": column.mean_now,
    })
}

fn models(keeper: &Keeper) -> Result<Value, StoreError> {
    let factory = keeper.saved.as_ref().map(|saved| saved.cycle.models().2);
    let rows = keeper.books.models()?;
    let rows = rows.iter().map(|row| {
        json!({
            "digest": row.digest,
            "status": row.status.as_str(),
            "factory": Some(row.digest) == factory,
            "role": row.role,
            "parent": row.parent,
            "run": row.run,
            "installed_at": shown(row.installed_at),
        })
    });
    Ok(json!({"models": rows.collect::<Vec<_>>()}))
}

fn reports(keeper: &Keeper, limit: usize) -> Result<Value, StoreError> {
    let stored = keeper.books.reports_newest(limit)?;
    let reports = stored.iter().map(|stored| {
        let report = &stored.report;
        json!({
            "position": stored.position,
            "id": report.id.to_string(),
            "kind": report.kind,
            "at": shown(report.at),
            "report": serde_json::from_str::<Value>(&report.json).unwrap_or_default(),
        })
    });
    Ok(json!({"reports": reports.collect::<Vec<_>>()}))
}

fn runs(keeper: &Keeper, limit: usize) -> Result<Value, StoreError> {
    let rows = keeper.books.runs_newest(limit)?;
    let runs = rows.iter().map(|row| {
        json!({
            "run": row.number,
            "state": row.state,
            "strategy": row.strategy,
            "parent": row.parent,
            "candidate": row.candidate,
            "snapshot": row.snapshot,
            "rows": row.rows,
            "cpu_s": row.cpu_s,
            "joules_modelled": row.joules_modelled,
            "verdict": row.verdict.as_ref().and_then(|text| serde_json::from_str::<Value>(text).ok()),
            "started_at": shown(row.started_at),
            "finished_at": row.finished_at.map(shown),
        })
    });
    Ok(json!({"runs": runs.collect::<Vec<_>>()}))
}
