//! `hone records`: the newest samples with their answers.
use anyhow::Result;
use serde_json::Value;

use super::Global;
use super::ask::{agent, fail, list, short, table, text};

/// Arguments of `hone records`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone records --limit 5")]
pub struct Args {
    /// How many, newest first
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Only records below this number
    #[arg(long, value_name = "SEQ")]
    before: Option<i64>,
}

/// Asks and prints.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let before = args.before.map_or_else(String::new, |before| format!("&before={before}"));
    let records = agent(global)?.get(&format!("/v1/records?limit={}{before}", args.limit)).map_err(fail)?;
    if global.json {
        println!("{records}");
        return Ok(());
    }
    let said = |output: &Value| match (&output["label"], &output["targets"]) {
        (Value::String(label), _) => label.clone(),
        (_, Value::Object(targets)) => {
            targets.iter().map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>().join(" ")
        }
        _ => output.to_string(),
    };
    let rows: Vec<_> = list(&records, "records")
        .iter()
        .map(|record| {
            vec![
                text(&record["seq"]),
                text(&record["record_id"]),
                text(&record["time"]),
                text(&record["source"]),
                said(&record["output"]),
                short(&record["digest"]),
            ]
        })
        .collect();
    table(&["SEQ", "RECORD", "TIME", "SOURCE", "ANSWER", "MODEL"], &rows);
    Ok(())
}
