//! What a retrain would learn from, take and be told by the budgets, were it ordered now. Orders nothing.
use serde_json::{Value, json};
use trainer_core::model::Strategy;

use super::Retraining;
use super::keeper::Keeper;
use crate::decide::budget::{Allowance, Forecast, Refusal};
use crate::decide::cycle::{Order, OrderTask, Reason, Refusal as NotNow};
use crate::decide::plan::{RowsWanted, TooFew};

/// Answers [`super::Question::Plan`].
pub(super) fn view(keeper: &Keeper, retraining: Retraining) -> Value {
    match retraining {
        Retraining::Train(strategy) => training(keeper, strategy),
        Retraining::Continual => keeper.consolidation_view(),
    }
}

fn training(keeper: &Keeper, strategy: Strategy) -> Value {
    let Some(saved) = &keeper.saved else {
        return json!({
            "strategy": strategy, "possible": false, "code": "no_model",
            "reasons": ["this device has no model yet: there is nothing to train from"],
        });
    };
    let (champion, ..) = saved.cycle.models();
    let (_, labels) = saved.cycle.counts();
    let under_way = saved.cycle.orders().work.map(|order| order.run);
    let rules = &keeper.rules.cycle;
    let (assumes, all) = (saved.cycle.counts_rows(rules), saved.cycle.known(rules));
    let rows = match saved.cycle.rows_now(rules) {
        Ok(rows) => rows,
        Err(error) => {
            let (code, known, missing) = match error {
                NotNow::TooFew(TooFew { known, missing }) => ("too_few_labels", known, missing),
                NotNow::TooFewSamples { known, missing } => ("too_few_samples", known, missing),
                _ => ("refused", all, 0),
            };
            return json!({
                "strategy": strategy, "possible": false, "code": code, "labels": labels, "known": known,
                "missing": missing, "under_way": under_way, "reasons": [error.to_string()],
            });
        }
    };
    let task = OrderTask::Train { strategy, seed: 0 };
    let order = Order { run: 0, reason: Reason::Command, task, parent: champion, rows, refit_of: None };
    let anchors = keeper.load(&champion).map_or(0, |loaded| loaded.model.anchors.len());
    let RowsWanted { from_label, newest, holdout, history, .. } = rows;
    let older = history.min(all.saturating_sub(newest));
    let new = newest - holdout;
    let mut reasons = vec![
        if assumes {
            format!(
                "up to {new} new rows: the newest samples but for those held out; without a label they count as normal, unless the \
                 champion calls them anomalous and they stand out from the others"
            )
        } else {
            format!("{new} new rows: the newest labels, from number {from_label} on, but for those held out")
        },
        format!(
            "{holdout} newest rows held out: candidate and champion are compared on rows neither has seen; once it passes, \
             it is trained again with them"
        ),
        format!(
            "up to {older} older rows, from all of the past{}: what still holds is kept",
            if assumes { "" } else { " and as many of each class" }
        ),
        format!("{anchors} anchors of the factory in the champion: they are always kept"),
        match strategy {
            Strategy::Head => "head: ridge heads on the features of the champion, the cheapest that can work",
            Strategy::Tail => "tail: the layers above the cut, then the heads",
            Strategy::Norm => "norm: the statistics of the batch norms, or of the inputs, without a look at any label",
            Strategy::Full | Strategy::Base => "full: all layers, then the heads",
        }
        .to_owned(),
    ];
    reasons
        .extend(under_way.map(|run| format!("run {run} is still under way: another one can be ordered when it ends")));
    let (expected, budget) = match keeper.consult(&order, strategy) {
        None => (Value::Null, Value::Null),
        Some((forecast, answer)) => {
            reasons.push(match &answer {
                Ok(_) => "the budgets allow it now".to_owned(),
                Err(refusal) => format!("the budgets make it wait: {refusal}"),
            });
            (expected(&forecast), answered(keeper, &answer))
        }
    };
    json!({
        "strategy": strategy, "possible": under_way.is_none(), "parent": champion, "labels": labels,
        "under_way": under_way,
        "rows": {
            "train": newest - holdout + older, "new": newest - holdout, "new_from_label": from_label,
            "held_out": holdout, "history": older, "anchors": anchors,
        },
        "expected": expected, "budget": budget, "reasons": reasons,
    })
}

fn expected(forecast: &Forecast) -> Value {
    let job = &forecast.job;
    json!({
        "memory_bytes": job.memory_bytes, "cpu_s": job.cpu_s, "joules": job.joules, "joules_source": "model",
        "bytes_written": job.write_bytes, "work_mac": forecast.work_mac,
    })
}

fn answered(keeper: &Keeper, answer: &Result<Allowance, Refusal>) -> Value {
    let mut value = match answer {
        Ok(given) => json!({
            "memory_bytes": given.memory_bytes, "cpu_share": given.duty, "deadline_s": given.deadline_s,
        }),
        Err(refusal) => keeper.shown_refusal(refusal),
    };
    value["allowed"] = json!(answer.is_ok());
    value
}
