//! `hone backup`: writes the state to one file, also while the agent runs.
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::Global;
use super::ask::places;
use super::exit::{Exit, Fail, is_disk};
use crate::shell::backup::{self, BackupError};
use crate::shell::clock;

/// Arguments of `hone backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone backup /media/stick/press-7.tar --records\n\n\
    Holds models, state, reports, ledger and lineage; with --records also records, labels and snapshots. Keys and settings\n\
    are not in it: copy /etc/hone yourself, and let a device that is replaced join the fleet anew.")]
pub struct Args {
    /// New file (a tar archive)
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// With records, labels and what retrains learned from
    #[arg(long)]
    records: bool,
}

/// Writes the backup.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let (_, places) = places(global)?;
    let made = backup::back_up(&places.state_dir, &args.file, args.records, clock::now()).map_err(fail)?;
    let bytes: u64 = made.files.iter().map(|entry| entry.bytes).sum();
    if global.json {
        println!("{}", json!(made));
    } else {
        println!("{}: {} files, {bytes} bytes", args.file.display(), made.files.len());
    }
    Ok(())
}

/// A backup or restore that came to nothing, as the command's end.
pub(super) fn fail(error: BackupError) -> Fail {
    match &error {
        BackupError::Store(store) => {
            let exit = match store.exit_code() {
                6 => Exit::InUse,
                7 => Exit::Disk,
                _ => Exit::Internal,
            };
            Fail::new(exit, error)
        }
        BackupError::Io { source, action, .. } => {
            let exit = if is_disk(source) || *action != "read" { Exit::Disk } else { Exit::Input };
            let hint = match source.kind() {
                ErrorKind::NotFound => "check the path",
                ErrorKind::PermissionDenied => "run it as a user who may use that folder, or name another file",
                _ => "look at the disk with `df -h`, or name a file on another one",
            };
            Fail::new(exit, error).hint(hint)
        }
        BackupError::Nothing(_) => Fail::new(Exit::Input, error).hint("name another directory with --state-dir"),
        BackupError::Damaged { .. } => Fail::new(Exit::Input, error).hint("copy it again from where it was made"),
        BackupError::Newer { .. } => Fail::new(Exit::Refused, error),
        BackupError::Taken(_) => {
            Fail::new(Exit::Refused, error).hint("add --replace: what is there is kept in before-restore-1")
        }
    }
}
