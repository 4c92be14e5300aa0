//! `hone approve` and `hone reject`: a person's answer to a candidate, on record with who and when.
use anyhow::Result;
use serde_json::{Value, json};

use super::Global;
use super::ask::{agent, fail, short};

/// Arguments of `hone approve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone approve --by anna\n\nThe evidence: `hone explain`, or the report `approval_required`. Exit code 9 if nobody was asked."
)]
pub struct ApproveArgs {
    /// Who says so [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Arguments of `hone reject`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone reject --reason \"wait for the new sensor\"\n\nExit code 9 if there is no candidate."
)]
pub struct RejectArgs {
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Who says so [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Lets the candidate be tried.
pub fn approve(args: &ApproveArgs, global: &Global) -> Result<()> {
    answer(global, "approve", args.by.as_deref(), None, "approved: it is being tried; `hone status` shows how it does")
}

/// Ends the candidate's way.
pub fn reject(args: &RejectArgs, global: &Global) -> Result<()> {
    let reason = args.reason.as_deref();
    answer(global, "reject", args.by.as_deref(), reason, "rejected: the champion goes on serving")
}

/// Sends a command about the candidate and prints what it came to.
pub(super) fn answer(global: &Global, command: &str, by: Option<&str>, reason: Option<&str>, done: &str) -> Result<()> {
    let answer = send(global, command, by, reason)?;
    if !global.json {
        println!("{done} (model {} serves)", short(&answer["champion"]));
    }
    Ok(())
}

/// Sends a command about the candidate.
pub(super) fn trial(global: &Global, command: &str, by: Option<&str>) -> Result<Value> {
    send(global, command, by, None)
}

fn send(global: &Global, command: &str, by: Option<&str>, reason: Option<&str>) -> Result<Value> {
    let user = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
    let mut body = json!({"command": command});
    if let Some(by) = by.map(str::to_owned).or_else(user) {
        body["by"] = json!(by);
    }
    if let Some(reason) = reason {
        body["reason"] = json!(reason);
    }
    let answer = agent(global)?.post("/v1/commands", body.to_string().into_bytes()).map_err(fail)?;
    if global.json {
        println!("{answer}");
    }
    Ok(answer)
}
