//! `hone drift`: the running agent's picture, and commands over recordings that need no agent.
pub mod calibrate;
pub mod compare;
pub mod scan;
pub mod status;
mod units;

use std::path::Path;

use anyhow::Result;

use super::Global;
use super::exit::{Exit, Fail};
use super::follow::FollowArgs;
use crate::shell::ingest::csv::CsvError;
use crate::shell::ingest::csv::columns::Columns;

/// Arguments of `hone drift`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        hone drift --watch\n  \
        hone drift scan --detector adwin --input errors.txt\n  \
        hone drift compare --reference january.csv --current june.csv\n  \
        hone drift calibrate --data quiet.csv --false-alarms \"1 per 30 days\" --rate \"10/min\""
)]
pub struct Args {
    #[command(flatten)]
    follow: FollowArgs,
    #[command(subcommand)]
    command: Option<DriftCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum DriftCommand {
    /// Run a detector over a recorded stream; needs no agent
    Scan(scan::Args),
    /// Compare two recordings column by column; needs no agent
    Compare(compare::Args),
    /// Propose settings from a quiet recording and measure their delays; needs no agent
    Calibrate(calibrate::Args),
}

/// Runs the subcommand, or shows what the agent sees.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    match &args.command {
        None => status::run(&args.follow, global),
        Some(DriftCommand::Scan(args)) => scan::run(args, global),
        Some(DriftCommand::Compare(args)) => compare::run(args, global),
        Some(DriftCommand::Calibrate(args)) => calibrate::run(args, global),
    }
}

/// A number of any size in a few digits.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 1e9 || size > 0.0 && size < 1e-4 { format!("{value:.4e}") } else { format!("{value:.4}") }
}

/// Names for a hint: a file of thousands of columns must not fill the screen.
fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const MOST: usize = 12;
    let more = names.len().saturating_sub(MOST);
    let shown = names.take(MOST).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// A recording; `-` is standard input.
fn columns_of(path: &Path) -> Result<Columns> {
    Columns::read(path).map_err(|error| unusable(error).into())
}

fn unusable(error: CsvError) -> Fail {
    match error {
        CsvError::Unreadable { file, source } => Fail::new(Exit::Input, format!("cannot read {file}"))
            .because(source)
            .hint("name a CSV file, a file with one number per line, or `-` for standard input"),
        error => Fail::new(Exit::Input, error),
    }
}
