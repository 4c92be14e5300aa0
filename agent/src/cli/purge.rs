//! `hone purge`: deletes the records of a time span for good.
use anyhow::Result;
use serde_json::json;

use super::Global;
use super::ask::{agent, fail, text};
use super::exit::{Exit, Fail};

/// Arguments of `hone purge`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone purge --since 2026-11-20T06:00:00Z --until 2026-11-20T14:00:00Z --yes\n\n\
    Deletes the records that were taken in the span, with their labels, from every file of the records: the files are written again \
    without them. Damaged files that were set aside cannot be read and go too, unless they were last written to before the span. Snapshots of finished trainings keep the rows they were made of until they are collected, and models keep what they \
    have learned. Refused while a training or a trial still needs these records.\n\
    Exit code 9 if it is refused.\n\n\
    JSON keys: since, until, records, labels, files_removed, files_rewritten, damaged_files_removed, snapshots_kept.")]
pub struct Args {
    /// The first moment that goes: 2026-11-20T06:00:00Z
    #[arg(long, value_name = "TIME")]
    since: String,
    /// The first moment that stays
    #[arg(long, value_name = "TIME")]
    until: String,
    /// Do it: nothing brings these records back
    #[arg(long)]
    yes: bool,
}

/// Orders; the answer comes when they are gone.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if !args.yes {
        let text = format!("nothing brings the records from {} to {} back", args.since, args.until);
        return Err(Fail::new(Exit::Usage, text).hint("add --yes if they shall go").into());
    }
    let body = json!({"since": args.since, "until": args.until});
    let answer = agent(global)?.post("/v1/purge", body.to_string().into_bytes()).map_err(fail)?;
    if global.json {
        println!("{answer}");
    } else {
        let count = |key: &str| text(&answer[key]);
        println!(
            "{} records and {} labels are gone ({} files removed, {} written again, {} damaged ones removed); {} snapshots keep rows of their own",
            count("records"),
            count("labels"),
            count("files_removed"),
            count("files_rewritten"),
            count("damaged_files_removed"),
            count("snapshots_kept")
        );
    }
    Ok(())
}
