//! `hone rebaseline`: the newest rows are normal from now on.
use anyhow::Result;
use serde_json::json;

use super::Global;
use super::ask::{agent, fail, text};
use crate::shell::client::ClientError;

/// Arguments of `hone rebaseline`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  hone rebaseline\n  hone rebaseline --rows 2000\n  \
    hone rebaseline --since 2026-11-21T06:00:00Z\n\n\
    Drift of the features is measured against these rows from now on; there is no verdict until the window has filled again. \
    What the model is expected to lose stays as it is.\n\
    Exit code 9 if fewer than 200 rows are stored.\n\n\
    JSON keys: rows (of the new baseline), champion.")]
pub struct Args {
    /// How many of the newest rows, 200 to 4096 [default: 512]
    #[arg(long, value_name = "N", conflicts_with = "since", value_parser = clap::value_parser!(u64).range(200..=4096))]
    rows: Option<u64>,
    /// Rows from this moment on, the newest 4096 at most: 2026-11-21T06:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
}

/// Orders; the answer comes when the new baseline is stored.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let mut body = json!({});
    if let Some(rows) = args.rows {
        body["rows"] = json!(rows);
    }
    if let Some(since) = &args.since {
        body["since"] = json!(since);
    }
    let answer = agent(global)?.post("/v1/rebaseline", body.to_string().into_bytes()).map_err(|error| {
        let hint = matches!(&error, ClientError::Refused { code, .. } if code == "too_few_rows");
        let fail = fail(error);
        if hint { fail.hint("`hone status` tells how many records there are") } else { fail }
    })?;
    if global.json {
        println!("{answer}");
    } else {
        println!("features are measured against the newest {} rows from now on", text(&answer["rows"]));
    }
    Ok(())
}
