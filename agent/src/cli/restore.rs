//! `hone restore`: puts a backed-up state into place.
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::Global;
use super::ask::places;
use super::backup::fail;
use crate::shell::{backup, clock};

/// Arguments of `hone restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: systemctl stop hone && hone restore press-7.tar && systemctl start hone\n\n\
    Everything is checked before anything is replaced. Keys stay those of this device.")]
pub struct Args {
    /// File that `hone backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the state that is there; it is kept beside, in before-restore-<n>
    #[arg(long)]
    replace: bool,
}

/// Restores the backup.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let (_, places) = places(global)?;
    let made = backup::restore(&args.file, &places.state_dir, args.replace, clock::now()).map_err(fail)?;
    if global.json {
        println!("{}", json!(made));
    } else {
        let (count, state_dir) = (made.files.len(), places.state_dir.display());
        println!("{count} files of hone {}, {}, are in {state_dir}", made.version, made.created_at);
    }
    Ok(())
}
