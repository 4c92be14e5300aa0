//! `hone lineage`: the family tree of models, with who made each, why, on what evidence and at what price.
use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use super::Global;
use super::ask::{agent, fail, list, short, text};
use super::energy::{gain, joules};

/// Arguments of `hone lineage`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone lineage\n         hone lineage --json | jq '.models[] | {digest, parent}'")]
pub struct Args {}

/// Asks and prints.
pub fn run(_args: &Args, global: &Global) -> Result<()> {
    let lineage = agent(global)?.get("/v1/lineage").map_err(fail)?;
    if global.json {
        println!("{lineage}");
        return Ok(());
    }
    let models = list(&lineage, "models");
    if models.is_empty() {
        println!("no model yet: start with `hone run --model FILE`, or `hone promote FILE`");
    }
    tree(models).iter().for_each(|line| println!("{line}"));
    if models.iter().any(|model| model["run"]["joules_measured"] == false) {
        println!("\n* modelled from CPU work, not measured");
    }
    Ok(())
}

/// One line per model, each below the one it was trained from. Whoever has no known parent stands at the edge.
fn tree(models: &[Value]) -> Vec<String> {
    let known: BTreeSet<_> = models.iter().filter_map(|model| model["digest"].as_str()).collect();
    let is_root = |model: &Value| model["parent"].as_str().is_none_or(|parent| !known.contains(parent));
    let mut lines = Vec::new();
    let mut seen = BTreeSet::new();
    // Depth first, without recursion; what a damaged table links in a circle is listed at the edge as well.
    for root in models.iter().filter(|model| is_root(model)).chain(models) {
        let mut open = vec![(root, Vec::new())];
        while let Some((model, above)) = open.pop() {
            if !seen.insert(model["digest"].to_string()) {
                continue;
            }
            lines.push(format!("{}{}", branch(&above), describe(model)));
            let children: Vec<_> = models.iter().filter(|child| child["parent"] == model["digest"]).collect();
            for (index, child) in children.iter().enumerate().rev() {
                let mut path: Vec<bool> = above.clone();
                path.push(index + 1 == children.len());
                open.push((child, path));
            }
        }
    }
    lines
}

/// The lines to the left of a model; each entry says whether that ancestor is the last of its siblings.
fn branch(above: &[bool]) -> String {
    let Some((last, before)) = above.split_last() else { return String::new() };
    let stems: String = before.iter().map(|last| if *last { "   " } else { "│  " }).collect();
    format!("{stems}{}", if *last { "└─ " } else { "├─ " })
}

fn describe(model: &Value) -> String {
    let status = text(&model["status"]);
    let factory = if model["factory"] == true && status != "factory" { ", factory" } else { "" };
    let mut line = format!("{}  {status}{factory}, {}", short(&model["digest"]), text(&model["role"]));
    let run = &model["run"];
    if run.is_object() {
        let why = run["reason"].as_str().map_or_else(String::new, |reason| format!(" because of {reason}"));
        let (number, strategy, rows) = (&run["run"], text(&run["strategy"]), &run["rows"]);
        let (gain, joules) = (gain(&run["holdout"]), joules(run));
        line = format!("{line}, run {number} ({strategy} on {rows} rows){why}, gain {gain}, {joules} J");
        let facts = &run["verdict"];
        if let Some(by) = facts["approved"]["answer"]["by"].as_str() {
            line = format!("{line}, approved by {by}");
        }
        let trial = &facts["trial"];
        if trial.is_object() {
            let (pairs, evidence) = (&trial["standing"]["pairs"], &trial["standing"]["promote_e"]);
            let end = match trial["kind"].as_str() {
                Some("trial_won") => "won",
                Some("trial_ended") => trial["why"].as_str().unwrap_or("ended"),
                _ => "under way",
            };
            line =
                format!("{line}, trial {end} after {pairs} samples (evidence {:.1})", evidence.as_f64().unwrap_or(0.0));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_model_stands_below_the_one_it_was_trained_from() {
        let model = |digest: &str, parent: Value, status: &str| json!({"digest": digest, "parent": parent, "status": status, "role": "device", "factory": digest == "aaaa"});
        let mut models = vec![
            model("aaaa", Value::Null, "previous"),
            model("bbbb", json!("aaaa"), "champion"),
            model("cccc", json!("bbbb"), "rejected"),
            model("dddd", json!("aaaa"), "retired"),
            model("eeee", json!("gone"), "retired"),
        ];
        models[1]["run"] = json!({
            "verdict": {
                "approved": {"answer": {"by": "anna"}},
                "trial": {"kind": "trial_won", "standing": {"pairs": 212, "promote_e": 23.456}},
            },
            "run": 1, "strategy": "head", "rows": 400, "reason": "drift", "joules": 0.5, "joules_measured": false,
            "holdout": {"gain": 0.04, "low": 0.01, "high": 0.07},
        });
        let shown = |models: &[Value]| tree(models).join("\n") + "\n";
        expect![[r#"
            aaaa  previous, factory, device
            ├─ bbbb  champion, device, run 1 (head on 400 rows) because of drift, gain +4.00 [+1.00, +7.00], 0.50* J, approved by anna, trial won after 212 samples (evidence 23.5)
            │  └─ cccc  rejected, device
            └─ dddd  retired, device
            eeee  retired, device
        "#]]
        .assert_eq(&shown(&models));
        let circle = [model("aaaa", json!("bbbb"), "retired"), model("bbbb", json!("aaaa"), "retired")];
        assert_eq!(tree(&circle).len(), 2);
    }
}
