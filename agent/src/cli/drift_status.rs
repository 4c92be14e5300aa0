//! `hone drift`: features against their baseline, losses, trigger, as the running agent sees them.
use anyhow::Result;
use serde_json::Value;

use super::Global;
use super::ask::{agent, fail, list, table, text};

/// Arguments of `hone drift`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone drift\n         hone drift scan --detector adwin --input errors.txt")]
pub struct Args {
    #[command(subcommand)]
    command: Option<DriftCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum DriftCommand {
    /// Run a detector over a recorded stream; needs no agent
    Scan(super::drift_scan::Args),
}

/// Asks and prints.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if let Some(DriftCommand::Scan(args)) = &args.command {
        return super::drift_scan::run(args, global);
    }
    let drift = agent(global)?.get("/v1/drift").map_err(fail)?;
    if global.json {
        println!("{drift}");
        return Ok(());
    }
    if drift["state"] == "no_model" {
        println!("no model yet, so nothing to measure against");
        return Ok(());
    }
    let number = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let rows: Vec<_> = list(&drift, "features")
        .iter()
        .map(|feature| {
            vec![
                text(&feature["name"]),
                number(&feature["psi"]["value"]),
                number(&feature["psi"]["expected"]),
                if feature["drifted"] == true { "above".to_owned() } else { String::new() },
                text(&feature["rows"]),
                text(&feature["missing"]),
                text(&feature["out_of_range"]),
            ]
        })
        .collect();
    table(&["FEATURE", "PSI", "WITHOUT DRIFT", "", "ROWS", "MISSING", "OUT OF RANGE"], &rows);
    println!(
        "\npsi counts as drift above {}, on at least {} of the features",
        text(&drift["psi_threshold"]),
        text(&drift["share_threshold"])
    );
    match &drift["loss"] {
        Value::Null => println!("loss: no labels yet"),
        loss => println!("loss: {} over the last {} labels", text(&loss["mean"]), text(&loss["labels"])),
    }
    println!("trigger: {} (policy {})", text(&drift["trigger"]["state"]), text(&drift["policy"]));
    Ok(())
}
