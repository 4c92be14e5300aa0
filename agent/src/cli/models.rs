//! `hone models`: every model this device has known, and what became of it.
use anyhow::Result;

use super::Global;
use super::ask::{agent, fail, list, short, table, text};

/// Arguments of `hone models`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone models")]
pub struct Args {}

/// Asks and prints.
pub fn run(_args: &Args, global: &Global) -> Result<()> {
    let models = agent(global)?.get("/v1/models").map_err(fail)?;
    if global.json {
        println!("{models}");
        return Ok(());
    }
    let rows: Vec<_> = list(&models, "models")
        .iter()
        .map(|model| {
            let status = text(&model["status"]);
            let also = model["factory"] == true && status != "factory";
            vec![
                short(&model["digest"]),
                if also { format!("{status}, factory") } else { status },
                text(&model["role"]),
                short(&model["parent"]),
                text(&model["run"]),
                text(&model["installed_at"]),
            ]
        })
        .collect();
    table(&["MODEL", "STATUS", "ROLE", "PARENT", "RUN", "INSTALLED"], &rows);
    Ok(())
}
