//! `hone promote`: offers a bundle; it serves if it does no worse than the champion on this device's own labels. Without a bundle, the
//! candidate on trial serves now.
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::Global;
use super::approve::trial;
use super::ask::{agent, fail, list, short, text};
use super::exit::{Exit, Fail};
use crate::shell::client::Client;

/// From one look at the run to the next.
const EVERY: Duration = Duration::from_millis(100);
/// Looks before this command stops waiting; the run goes on.
const LOOKS_MAX: u32 = 6_000;

/// Arguments of `hone promote`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone promote model.safetensors\n         hone promote\n\nExit code 9 if the gate refuses it."
)]
pub struct Args {
    /// Bundle, as `hone train` writes it; without one, the candidate that is being tried serves now
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Who says so, without a file [default: $USER]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    by: Option<String>,
}

/// Offers and waits for the verdict.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let client = agent(global)?;
    let Some(file) = &args.file else {
        let answer = trial(global, "promote", args.by.as_deref())?;
        if !global.json {
            println!("model {} serves now; `hone rollback` brings the former one back", short(&answer["champion"]));
        }
        return Ok(());
    };
    let bytes = std::fs::read(file)
        .map_err(|error| Fail::new(Exit::Input, format!("cannot read {}", file.display())).because(error))?;
    let answer = client.post("/v1/models", bytes).map_err(fail)?;
    if answer["installed"] == true {
        if global.json {
            println!("{answer}");
        } else {
            println!("model {} serves: this device had none", short(&answer["digest"]));
        }
        return Ok(());
    }
    verdict(&client, &answer["run"], global)
}

/// Waits for the end of a run and prints the gate's verdict.
///
/// # Errors
/// [`Exit::Refused`] if the candidate may not serve or the run failed; [`Exit::Resumable`] if it takes too long.
pub(super) fn verdict(client: &Client, run: &Value, global: &Global) -> Result<()> {
    for _ in 0..LOOKS_MAX {
        let reports = client.get("/v1/reports?limit=100").map_err(fail)?;
        let of = |kind: &str| {
            let mut all = list(&reports, "reports").iter();
            all.find(|entry| entry["kind"] == kind && entry["report"]["run"] == *run).map(|entry| &entry["report"])
        };
        let gate = of("gate");
        // A passed candidate is first refitted on all rows, then it serves.
        if let (Some(gate), Some(promoted)) = (gate, of("promote")) {
            if global.json {
                println!("{}", serde_json::json!({"gate": gate, "promote": promoted}));
            } else {
                println!("model {} serves now; {}", short(&promoted["to"]), text(&gate["sentence"]));
            }
            return Ok(());
        }
        let entered = of("approval_required").or_else(|| of("canary_step"));
        if let (Some(gate), Some(entered)) = (gate, entered) {
            if global.json {
                println!("{}", serde_json::json!({"gate": gate, "rollout": entered}));
            } else {
                let next =
                    if entered["kind"] == "approval_required" { "waits for `hone approve`" } else { "is being tried" };
                let model = [&entered["candidate"], &entered["challenger"]].into_iter().find(|model| model.is_string());
                println!("model {} {next}; {}", model.map_or_else(String::new, short), text(&gate["sentence"]));
                println!("`hone status` shows how it does, `hone explain MODEL` why it ended");
            }
            return Ok(());
        }
        let refused = gate.filter(|gate| gate["verdict"]["passed"] == false);
        let refused = refused.map(|gate| (gate, "sentence"));
        // A failed refit promotes what was judged: wait for that.
        let failed = || of("failed").filter(|_| gate.is_none()).map(|failed| (failed, "reason"));
        if let Some((report, reason)) = refused.or_else(failed) {
            if global.json {
                println!("{report}");
            }
            let reason = format!("run {}: {}", text(run), text(&report[reason]));
            return Err(Fail::new(Exit::Refused, reason).hint("the champion goes on serving").into());
        }
        sleep(EVERY);
    }
    Err(Fail::new(Exit::Resumable, format!("run {} is still under way", text(run)))
        .hint("`hone status` shows when it has ended")
        .into())
}
