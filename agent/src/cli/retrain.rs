//! `hone retrain`: orders a training now.
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use super::Global;
use super::ask::{agent, fail, list, short, text};
use super::promote::verdict;

/// Arguments of `hone retrain`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  hone retrain --dry-run\n  hone retrain --strategy tail --wait\n  hone retrain --cancel\n\n\
    Too few labels are an answer of --dry-run, with the number that is missing."
)]
pub struct Args {
    /// What is trained: a ridge head, the layers above the cut, all layers, without labels the statistics of the norms alone
    /// (`norm` or `bn-only`), or `continual`: the heads that learn from every label are frozen as they are
    #[arg(long, default_value = "head", value_parser = ["head", "tail", "full", "norm", "bn-only", "continual"])]
    strategy: String,
    /// Wait for the gate's verdict; exit code 9 if the candidate is refused
    #[arg(long)]
    wait: bool,
    /// Print what would be trained on, what it would take and what the budgets say, and order nothing
    #[arg(long, conflicts_with_all = ["wait", "cancel"])]
    dry_run: bool,
    /// End the training that is under way or waits; its checkpoint is removed
    #[arg(long, conflicts_with_all = ["wait", "strategy"])]
    cancel: bool,
}

/// Orders and perhaps waits.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let client = agent(global)?;
    if args.dry_run {
        let plan = client.get(&format!("/v1/plan?strategy={}", args.strategy)).map_err(fail)?;
        if global.json {
            println!("{plan}");
        } else {
            print!("{}", picture(&plan));
        }
        return Ok(());
    }
    if args.cancel {
        let answer =
            client.post("/v1/commands", json!({"command": "cancel"}).to_string().into_bytes()).map_err(fail)?;
        if global.json {
            println!("{answer}");
        } else {
            println!("run {} is cancelled; {} serves", text(&answer["run"]), short(&answer["champion"]));
        }
        return Ok(());
    }
    let command = json!({"command": "retrain", "strategy": args.strategy});
    let answer = client.post("/v1/commands", command.to_string().into_bytes()).map_err(fail)?;
    if args.wait {
        return verdict(&client, &answer["run"], global);
    }
    if global.json {
        println!("{answer}");
    } else {
        println!(
            "run {} ordered; `hone status` shows when it has ended, `hone models` what became of it",
            text(&answer["run"])
        );
    }
    Ok(())
}

/// The plan for people: the numbers, then the reasons.
fn picture(plan: &Value) -> String {
    let mut picture = String::new();
    // Writing to a text cannot fail.
    let mut line = |name: &str, value: String| {
        let _ = writeln!(picture, "{name:<10}{value}");
    };
    line("strategy", text(&plan["strategy"]));
    if let rows @ Value::Object(_) = &plan["rows"] {
        let counts = ["train", "new", "history", "held_out", "anchors"].map(|key| text(&rows[key]));
        let [train, new, history, held_out, anchors] = counts;
        line("rows", format!("{train}: {new} new, {history} of history; {held_out} held out, {anchors} anchors"));
    } else if plan["missing"].is_number() {
        line("rows", format!("too few: {} more labels are needed", text(&plan["missing"])));
    }
    if let expected @ Value::Object(_) = &plan["expected"] {
        let number = |key: &str| expected[key].as_f64().unwrap_or(0.0);
        line(
            "expected",
            format!(
                "{:.1} MB of memory, {:.2} CPU s, {:.2} J (model), {:.2} MB written",
                number("memory_bytes") / 1e6,
                number("cpu_s"),
                number("joules"),
                number("bytes_written") / 1e6
            ),
        );
    }
    match &plan["budget"] {
        Value::Null => {}
        budget if budget["allowed"] == true => line(
            "budget",
            format!(
                "allowed: {:.1} MB, {:.0} % of a core, {} s",
                budget["memory_bytes"].as_f64().unwrap_or(0.0) / 1e6,
                budget["cpu_share"].as_f64().unwrap_or(0.0) * 100.0,
                text(&budget["deadline_s"])
            ),
        ),
        budget => line("budget", format!("waits: {} ({})", text(&budget["sentence"]), text(&budget["code"]))),
    }
    for reason in list(plan, "reasons") {
        line("because", text(reason));
    }
    picture
}
