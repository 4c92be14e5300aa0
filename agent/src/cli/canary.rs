//! `hone canary`: holds, resumes or aborts the trial of a candidate.
use anyhow::Result;

use super::Global;
use super::approve::answer;

/// Arguments of `hone canary`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone canary hold\n         hone canary abort --reason \"complaints from line 3\"\n\nExit code 9 if no candidate is being tried."
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Leave no stage until `resume`; the trial's deadline stays
    Hold(By),
    /// Let stages go on
    Resume(By),
    /// End the trial: the champion answers everything again
    Abort {
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        by: By,
    },
}

#[derive(Debug, clap::Args)]
struct By {
    /// Who says so [default: $USER]
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Sends the command.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let (command, by, reason, done) = match &args.command {
        Command::Hold(by) => ("canary_hold", by, None, "held: it stays at this stage until `hone canary resume`"),
        Command::Resume(by) => ("canary_resume", by, None, "stages go on"),
        Command::Abort { reason, by } => {
            ("canary_abort", by, reason.as_deref(), "aborted: the champion answers everything")
        }
    };
    answer(global, command, by.by.as_deref(), reason, done)
}
