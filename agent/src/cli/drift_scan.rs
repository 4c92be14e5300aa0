//! `hone drift scan`: one detector over a recorded stream.
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Fail};
use crate::decide::drift::Detector as _;
use crate::decide::drift::spec::AnyDetector;

/// Arguments of `hone drift scan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone drift scan --detector adwin:delta=0.002,clock=1 --input errors.txt\n\n\
    Parameters have river's names; a wrong one is answered with the known ones.")]
pub struct Args {
    /// NAME or NAME:parameter=value,…: adwin, page_hinkley, ddm, eddm, hddm_a, hddm_w, fhddm, kswin, e_detector
    #[arg(long, value_name = "DETECTOR")]
    detector: AnyDetector,
    /// One number per line, or a CSV file with --column
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Column of a CSV file
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
}

/// Scans and prints the indices, 0-based, at which the detector alarms and warns.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let values = match &args.column {
        Some(column) => column_of(&args.input, column)?,
        None => lines_of(&args.input)?,
    };
    let mut detector = args.detector.clone();
    let (mut drift, mut warning, mut skipped) = (Vec::new(), Vec::new(), 0_u64);
    for (index, value) in values.iter().enumerate() {
        // What is not a finite number never reaches a detector: it is counted, and keeps its place in the numbering.
        if !value.is_finite() {
            skipped += 1;
        } else if detector.update(*value).is_some() {
            drift.push(index);
        } else if detector.is_warning() {
            warning.push(index);
        }
    }
    if global.json {
        println!("{}", json!({"n": values.len(), "drift": drift, "warning": warning, "skipped": skipped}));
        return Ok(());
    }
    println!("{} values, {} alarms, {} warnings by {}", values.len(), drift.len(), warning.len(), args.detector.name());
    for index in &drift {
        println!("{index}");
    }
    if skipped > 0 {
        println!("{skipped} values are no finite numbers and were left out");
    }
    Ok(())
}

fn unreadable(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fail {
    Fail::new(Exit::Input, format!("cannot read {}", path.display()))
        .because(error)
        .hint("name a text or CSV file with --input")
}

fn number(path: &Path, line: usize, text: &str) -> Result<f64> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(f64::NAN);
    }
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        Fail::new(Exit::Input, format!("{}:{line}: `{shown}` is not a number", path.display()))
            .hint("a CSV file needs --column COLUMN; an empty cell is a missing value")
            .into()
    })
}

fn lines_of(path: &Path) -> Result<Vec<f64>> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
    text.lines().enumerate().map(|(index, line)| number(path, index + 1, line)).collect()
}

fn column_of(path: &Path, column: &str) -> Result<Vec<f64>> {
    let mut reader = csv::Reader::from_path(path).map_err(|error| unreadable(path, error))?;
    let header = reader.headers().map_err(|error| unreadable(path, error))?.clone();
    let at = header.iter().position(|name| name.trim() == column).ok_or_else(|| {
        let names: Vec<&str> = header.iter().collect();
        Fail::new(Exit::Input, format!("{}:1: no column `{column}`", path.display()))
            .hint(format!("its columns are {}", names.join(", ")))
    })?;
    let each = reader.records().map(|record| {
        let record = record.map_err(|error| unreadable(path, error))?;
        let line = record.position().map_or(0, |position| usize::try_from(position.line()).unwrap_or(0));
        number(path, line, record.get(at).unwrap_or_default())
    });
    each.collect()
}
