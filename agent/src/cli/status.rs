//! `hone status`: what the running agent is doing.
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use super::Global;
use super::ask::{short, text};
use super::follow::{FollowArgs, show};

/// Arguments of `hone status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hone status --json | jq .champion\n  hone status --watch")]
pub struct Args {
    #[command(flatten)]
    follow: FollowArgs,
}

/// Asks and prints.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    show("/v1/status", &args.follow, global, picture)
}

/// How the candidate on its way stands; none if there is none.
fn trial(rollout: &Value) -> Option<String> {
    let standing = &rollout["standing"];
    let evidence = || {
        let number = |key: &str| standing[key].as_f64().unwrap_or(0.0);
        format!(
            "{} samples, {} labels; evidence of being worse {:.2}, of not being worse {:.2}, {:.0} decides",
            standing["pairs"],
            standing["labelled"],
            number("abort_e"),
            number("promote_e"),
            number("limit")
        )
    };
    match rollout["phase"].as_str()? {
        "awaiting_approval" => Some(format!(
            "{} waits for `hone approve` or `hone reject`; in {} s the answer is {}",
            short(&rollout["candidate"]),
            rollout["left_s"],
            text(&rollout["silence"])
        )),
        "trial" => {
            let held = rollout["held"]["by"].as_str().map_or_else(String::new, |by| format!(", held by {by}"));
            let (stage, share) = (text(&rollout["stage"]), &rollout["canary_percent"]);
            Some(format!("{} in {stage} at {share} %{held}: {}", short(&rollout["challenger"]), evidence()))
        }
        "watching" => Some(format!("the former champion {} looks on: {}", short(&rollout["former"]), evidence())),
        "promoting" | "returning" => Some("is being decided".to_owned()),
        _ => None,
    }
}

fn picture(status: &Value) -> String {
    let mut picture = String::new();
    let at = |path: &str| status.pointer(path).unwrap_or(&Value::Null);
    // Writing to a text cannot fail.
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(picture, "{name:<10}{value}");
    };
    let up = at("/uptime_s").as_u64().map_or_else(String::new, |seconds| format!(", up {seconds} s"));
    line("agent", &format!("hone {}, process {}{up}", text(at("/version")), at("/process")));
    line("listens", &format!("{} and {}", text(at("/socket")), text(at("/listen"))));
    match at("/state").as_str() {
        Some("serving") => {
            line("champion", &format!("{} ({})", short(at("/champion")), text(at("/signature"))));
            line("previous", &short(at("/previous")));
            line("factory", &short(at("/factory")));
        }
        _ => line("champion", "none: start with `hone run --model FILE`, or `hone promote FILE`"),
    }
    line("policy", &text(at("/policy")));
    line("seen", &format!("{} samples, {} labels", text(at("/samples")), text(at("/labels"))));
    if let (Some(mean), Some(labels)) = (at("/loss/mean").as_f64(), at("/loss/labels").as_u64()) {
        line("loss", &format!("{mean:.4} over the last {labels} labels"));
    }
    line("trigger", &text(at("/trigger/state")));
    match at("/work") {
        Value::Null => line("work", "none"),
        work => line("work", &format!("run {}, because of {}", work["run"], text(&work["reason"]))),
    }
    if let Some(said) = trial(at("/rollout")) {
        line("trial", &said);
    }
    if let waiting @ Value::Object(_) = at("/waiting_budget") {
        let again = match waiting["try_again"]["in_s"].as_u64() {
            Some(wait) => format!("asked again in {wait} s"),
            None => "until a setting changes".to_owned(),
        };
        let starved = if waiting["starved"] == true { "STARVED, " } else { "" };
        line("waits", &format!("{starved}{} ({}; {again})", text(&waiting["sentence"]), text(&waiting["code"])));
    }
    if let training @ Value::Object(_) = at("/training") {
        let number = |key: &str| training[key].as_f64().unwrap_or(0.0);
        let left =
            training["remaining_s"].as_f64().map_or_else(String::new, |left| format!(", {left:.0} s left at most"));
        let ends = if training["suspending"] == true { "; leaves a checkpoint and ends" } else { "" };
        line(
            "trains",
            &format!(
                "{:.0} % of a core, {:.1} CPU s in {:.0} s, {:.1} J ({}){left}{ends}",
                number("share") * 100.0,
                number("cpu_s"),
                number("wall_s"),
                number("joules"),
                text(&training["joules_source"])
            ),
        );
    }
    let link = at("/link");
    if link["state"] != "off" && !link.is_null() {
        let waiting = link["waiting_reports"].as_i64().unwrap_or(0);
        let why = link["alarm"].as_str().or_else(|| link["reason"].as_str()).unwrap_or_default();
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        let (device, broker) = (text(&link["device"]), text(&link["broker"]));
        line("fleet", &format!("{} as {device} at {broker}{why}, {waiting} reports wait", text(&link["state"])));
    }
    let records = at("/records");
    line(
        "records",
        &format!(
            "{} records, {} labels, {} bytes in {}",
            text(&records["records"]),
            text(&records["labels"]),
            text(&records["bytes"]),
            text(at("/state_dir"))
        ),
    );
    let recorder = at("/recorder");
    if recorder["state"]["state"] != "recording" {
        line("disk", &format!("degraded: {}", text(&recorder["state"]["reason"])));
    }
    if at("/control/state") != "ok" {
        line("disk", &format!("degraded: {}", text(at("/control/reason"))));
    }
    let lost = ["dropped", "unrecorded", "repeated"].map(|key| recorder[key].as_u64().unwrap_or(0));
    if lost.iter().sum::<u64>() > 0 {
        line(
            "lost",
            &format!(
                "{} records: {} dropped, {} given up, {} repeated",
                lost.iter().sum::<u64>(),
                lost[0],
                lost[1],
                lost[2]
            ),
        );
    }
    if let Some(refused) = at("/requests/refused").as_object().filter(|refused| !refused.is_empty()) {
        let parts: Vec<_> = refused.iter().map(|(code, count)| format!("{count} {code}")).collect();
        line("refused", &parts.join(", "));
    }
    picture
}
