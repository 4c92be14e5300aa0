//! `hone retrain`: orders a training now.
use anyhow::Result;
use serde_json::json;

use super::Global;
use super::ask::{agent, fail, text};
use super::promote::verdict;

/// Arguments of `hone retrain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone retrain --strategy tail --wait")]
pub struct Args {
    /// What is trained: a ridge head, the layers above the cut, or all layers
    #[arg(long, default_value = "head", value_parser = ["head", "tail", "full"])]
    strategy: String,
    /// Wait for the gate's verdict; exit code 9 if the candidate is refused
    #[arg(long)]
    wait: bool,
}

/// Orders and perhaps waits.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let client = agent(global)?;
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
