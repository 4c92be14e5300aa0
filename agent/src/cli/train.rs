//! `hone train`: a base model from a CSV file.
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use trainer_core::evaluate::Metrics;

use super::Global;
use super::exit::{Fail, unwritable};
use super::input::{DataArgs, moments, settings, trainer, training_exit};
use crate::shell::backtest;
use crate::shell::files;

/// Arguments of `hone train`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone train --data press.csv --label state -o model.safetensors")]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Bundle to write
    #[arg(short, long, value_name = "FILE", default_value = "model.safetensors")]
    output: PathBuf,
    /// Network as TOML: `cut` and a list of `[[layers]]` [default: 64-relu-32-relu, cut after the first relu]
    #[arg(long, value_name = "FILE")]
    arch: Option<PathBuf>,
    /// Seed of every random choice; same rows, same seed, same bytes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Train in this process instead of a child
    #[arg(long)]
    in_process: bool,
}

/// Trains and writes.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let data = args.data.read(None)?;
    let spec = args.data.spec(args.arch.as_deref(), &data)?;
    let trainer = trainer(args.in_process)?;
    let rows = data.rows.len();
    let times = moments(&args.data.data, &data)?;
    let seconds: Vec<i64> = times.iter().flatten().map(|at| at.0.div_euclid(1_000_000)).collect();
    let (stored, finished) = backtest::train_base(
        &trainer,
        &data.schema,
        &spec,
        data.rows,
        &seconds,
        &settings(global)?.training,
        args.seed,
    )
    .map_err(|error| {
        Fail::new(training_exit(&error), format!("cannot train on {}", args.data.data.display())).because(error)
    })?;
    files::write_durable(&args.output, &stored.bytes).map_err(|error| unwritable(&args.output, "--output", error))?;
    if global.json {
        let metrics = &stored.model.manifest.metrics;
        println!(
            "{}",
            json!({
                "file": args.output, "digest": stored.digest, "bytes": stored.bytes.len(), "rows": rows,
                "unlabelled": data.unlabelled, "dropped_incomplete": data.dropped_incomplete,
                "holdout": metrics, "cpu_s": finished.cpu_s, "work_mac": finished.work_mac,
            })
        );
        return Ok(());
    }
    let schema = stored.model.schema();
    println!("trained on {rows} rows, {} features; {:.1} CPU seconds", schema.features.len(), finished.cpu_s);
    if data.unlabelled + data.dropped_incomplete > 0 {
        println!("left out: {} rows without a label, {} incomplete rows", data.unlabelled, data.dropped_incomplete);
    }
    println!("on the newest rows, held out first: {}", describe(stored.model.manifest.metrics.as_ref()));
    println!("{} written, {} bytes, digest {}", args.output.display(), stored.bytes.len(), stored.digest);
    Ok(())
}

/// Measures in one line.
pub(super) fn describe(metrics: Option<&Metrics>) -> String {
    match metrics {
        None => "not measured, too few rows".to_owned(),
        Some(Metrics::Classification { rows, accuracy, f1_macro, log_loss }) => {
            format!("accuracy {accuracy:.4}, macro F1 {f1_macro:.4}, log loss {log_loss:.4} on {rows} rows")
        }
        Some(Metrics::Regression { rows, rmse, mae, r2 }) => {
            format!("RMSE {rmse:.4}, MAE {mae:.4}, R2 {r2:.4} on {rows} rows")
        }
    }
}
