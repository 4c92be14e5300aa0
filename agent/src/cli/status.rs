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

/// What the records may fill, what is free, and what the card takes; none from an agent that does not say.
fn storage(storage: &Value) -> Option<String> {
    let size = |value: &Value| value.as_f64().map(bytes);
    let flash = &storage["flash"];
    let mut parts = vec![format!("records may take {}", size(&storage["keep_bytes"])?)];
    parts.extend(size(&storage["free_bytes"]).map(|free| format!("{free} free")));
    parts.extend(flash["amplification"].as_f64().map(|factor| format!("{factor:.1} bytes written per byte recorded")));
    parts.extend(size(&flash["written_bytes_per_day"]).map(|day| match size(&flash["limit_bytes_per_day"]) {
        Some(limit) => format!("{day} a day of {limit} allowed"),
        None => format!("{day} a day"),
    }));
    parts.extend(flash["life_years"].as_f64().map(|years| format!("the card lasts {years:.1} years")));
    match flash["recording_every"].as_u64() {
        Some(0) => parts.push("nothing is recorded until the day's bytes suffice".to_owned()),
        Some(every @ 2..) => parts.push(format!("one of {every} samples is recorded, to stay within the day's bytes")),
        _ => {}
    }
    Some(parts.join(", "))
}

/// Records that are on no disk, by what became of them; none if there are none.
fn lost(recorder: &Value) -> Option<String> {
    let lost = ["dropped", "unrecorded", "repeated"].map(|key| recorder[key].as_u64().unwrap_or(0));
    let all: u64 = lost.iter().sum();
    let [dropped, unrecorded, repeated] = lost;
    (all > 0).then(|| format!("{all} records: {dropped} dropped, {unrecorded} given up, {repeated} repeated"))
}

/// Partitions that were found damaged while the agent runs; none if there are none.
fn set_aside(recorder: &Value) -> Option<String> {
    let count = recorder["set_aside"].as_u64().filter(|count| *count > 0)?;
    let last = &recorder["last_set_aside"];
    Some(format!(
        "{count} record files were set aside, the last as {} ({}); look at the disk with `hone doctor`",
        text(&last["path"]),
        text(&last["reason"])
    ))
}

/// A size for people, in powers of ten as cards are sold.
fn bytes(bytes: f64) -> String {
    let (unit, name) = [(1e9, "GB"), (1e6, "MB")].into_iter().find(|(unit, _)| bytes >= *unit).unwrap_or((1e3, "kB"));
    format!("{:.1} {name}", bytes / unit)
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
    if let Some(said) = storage(at("/storage")) {
        line("storage", &said);
    }
    let recorder = at("/recorder");
    if recorder["state"]["state"] != "recording" {
        line("disk", &format!("degraded: {}", text(&recorder["state"]["reason"])));
    }
    if at("/control/state") != "ok" {
        line("disk", &format!("degraded: {}", text(at("/control/reason"))));
    }
    if let Some(said) = lost(recorder) {
        line("lost", &said);
    }
    if let Some(said) = set_aside(recorder) {
        line("damaged", &said);
    }
    if let Some(refused) = at("/requests/refused").as_object().filter(|refused| !refused.is_empty()) {
        let parts: Vec<_> = refused.iter().map(|(code, count)| format!("{count} {code}")).collect();
        line("refused", &parts.join(", "));
    }
    picture
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_storage_is_told_in_words_as_far_as_it_is_known() {
        let flash = json!({"amplification": 2.72, "written_bytes_per_day": 3.4e7, "limit_bytes_per_day": null,
            "life_years": 12.34, "recording_every": 1});
        let full = json!({"keep_bytes": 536_870_912_u64, "free_bytes": 12_300_000_000_u64, "flash": flash});
        assert_eq!(
            storage(&full).as_deref(),
            Some(
                "records may take 536.9 MB, 12.3 GB free, 2.7 bytes written per byte recorded, 34.0 MB a day, the card lasts 12.3 years"
            )
        );
        let thin = json!({"keep_bytes": 4096, "flash": {"written_bytes_per_day": 2e6, "limit_bytes_per_day": 1_000_000,
            "recording_every": 4}});
        assert_eq!(
            storage(&thin).as_deref(),
            Some(
                "records may take 4.1 kB, 2.0 MB a day of 1.0 MB allowed, one of 4 samples is recorded, to stay within the day's bytes"
            )
        );
        assert_eq!(storage(&Value::Null), None);
    }

    #[test]
    fn record_files_that_were_set_aside_are_named_with_their_reason() {
        let said = |recorder: Value| picture(&json!({"recorder": recorder}));
        assert!(!said(json!({"set_aside": 0})).contains("damaged"));
        let last = json!({"path": "/s/records/1.db.damaged-1", "reason": "malformed"});
        let said = said(json!({"set_aside": 1, "last_set_aside": last}));
        assert!(
            said.contains("1 record files were set aside, the last as /s/records/1.db.damaged-1 (malformed)"),
            "{said}"
        );
    }
}
