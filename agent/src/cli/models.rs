//! `hone models`: every model this device has known, what became of it, and which files may go.
use anyhow::Result;
use serde_json::Value;

use super::Global;
use super::ask::{agent, fail, list, short, table, text};

/// Arguments of `hone models`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone models\n         hone models gc --dry-run")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List every model this device has known (the default)
    #[command(after_help = "Example: hone models list")]
    List,
    /// Remove model files nothing needs any more, also those nothing is known of
    #[command(after_help = "Example: hone models gc --dry-run\n\n\
        Champion, last good, previous, factory, challenger, their ancestors, and the two newest others stay.")]
    Gc {
        /// Say what would go, remove nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// Asks and prints.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    match args.command {
        None | Some(Command::List) => show(global),
        Some(Command::Gc { dry_run }) => collect(dry_run, global),
    }
}

fn collect(dry_run: bool, global: &Global) -> Result<()> {
    let answer = agent(global)?.post(&format!("/v1/models/collect?dry_run={dry_run}"), Vec::new()).map_err(fail)?;
    if global.json {
        println!("{answer}");
        return Ok(());
    }
    let removed = list(&answer, "removed");
    for file in removed {
        println!("{}  {} bytes", text(&file["digest"]), text(&file["bytes"]));
    }
    let bytes: u64 = removed.iter().filter_map(|file| file["bytes"].as_u64()).sum();
    let verb = if dry_run { "would go" } else { "removed" };
    println!("{} files {verb}, {bytes} bytes; {} stay", removed.len(), text(&answer["kept"]));
    Ok(())
}

fn show(global: &Global) -> Result<()> {
    let models: Value = agent(global)?.get("/v1/models").map_err(fail)?;
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
