//! `hone reproduce`: trains again what a finished run trained and compares the digests; and the trainer's own door.
use anyhow::Result;
use serde_json::json;

use super::Global;
use super::ask::places;
use super::exit::{Exit, Fail};
use super::input::trainer;
use crate::shell::trainer::TrainerError;
use crate::shell::trainer::runs::{Shelf, ShelfError, build};
use crate::shell::trainer::worker::{self, Served};

/// Arguments of `hone reproduce`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone reproduce 7\n\nExit codes: 0 the same digest, 9 another one, 4 no such run.")]
pub struct Args {
    /// Number of the run in `hone lineage`, or the first digits of its snapshot
    run: String,
}

/// Trains and compares.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let shelf = Shelf::of(&places(global)?.1);
    let repeated = shelf.reproduce(&args.run, &trainer(false)?).map_err(fail)?;
    let record = &repeated.record;
    let equal = repeated.found == record.candidate;
    if global.json {
        let text = json!({
            "run": record.run, "snapshot": record.snapshot, "parent": record.parent, "recorded": record.candidate,
            "found": repeated.found, "equal": equal, "choices": record.choices, "recorded_build": record.build,
            "build": build(), "cpu_s": repeated.usage.cpu_s, "peak_bytes": repeated.usage.peak_bytes,
        });
        println!("{text}");
    } else {
        println!("snapshot  {}", record.snapshot);
        println!("recorded  {}", record.candidate);
        println!("found     {}  ({:.1} CPU s)", repeated.found, repeated.usage.cpu_s);
    }
    if equal {
        return Ok(());
    }
    let hint = if record.build == build() {
        "same version and architecture: the stored files or the machine are at fault; `hone snapshot verify` checks the first"
            .to_owned()
    } else {
        format!(
            "it was trained by hone {}, this is {}: bits are promised on the same build only",
            record.build,
            build()
        )
    };
    Err(Fail::new(Exit::Refused, "the run gives another candidate now").hint(hint).into())
}

/// What `hone train-worker` does.
pub(super) fn train_worker() -> Result<()> {
    match worker::serve(std::io::stdin(), std::io::stdout().lock())? {
        Served::Answered => Ok(()),
        Served::Stopped => Err(Fail::new(Exit::Resumable, "stopped on request").into()),
    }
}

/// A failure at the shelf as the command's end.
pub(super) fn fail(error: impl std::borrow::Borrow<ShelfError>) -> Fail {
    let error = error.borrow();
    let (code, hint) = match error {
        ShelfError::Unknown { .. } | ShelfError::Ambiguous(_) | ShelfError::Trainer(TrainerError::Refused(_)) => {
            (Exit::Input, None)
        }
        ShelfError::Unfinished(_) => (Exit::Input, Some("wait until `hone status` shows its end")),
        ShelfError::Read { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            (Exit::Input, Some("it may have been removed to save space, or `--state-dir` names another device"))
        }
        ShelfError::Read { .. } | ShelfError::Store(_) => (Exit::Disk, Some("look at the disk with `hone status`")),
        ShelfError::Snapshot(_) => (Exit::Input, Some("`hone snapshot verify` tells which files are damaged")),
        ShelfError::Trainer(_) => (Exit::Internal, None),
    };
    let message = error.to_string();
    let mut fail = Fail::new(code, message);
    if let Some(hint) = hint {
        fail = fail.hint(hint);
    }
    match std::error::Error::source(error) {
        Some(source) => fail.because(source.to_string()),
        None => fail,
    }
}
