//! `hone rollback`: the previous model serves again.
use anyhow::Result;

use super::Global;
use super::ask::{agent, fail, short};

/// Arguments of `hone rollback`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone rollback")]
pub struct Args {}

/// Orders; the answer comes when the previous model serves.
pub fn run(_args: &Args, global: &Global) -> Result<()> {
    let answer = agent(global)?.post("/v1/commands", br#"{"command":"rollback"}"#.to_vec()).map_err(fail)?;
    if global.json {
        println!("{answer}");
    } else {
        println!("model {} serves again; the one it replaces will not be tried again", short(&answer["champion"]));
    }
    Ok(())
}
