//! `hone drift scan`: one detector over a recorded stream.
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::super::Global;
use super::super::exit::{Exit, Fail};
use super::{columns_of, listed, unusable};
use crate::decide::drift::spec::AnyDetector;
use crate::decide::drift::{Detector as _, MAGNITUDE_MAX};
use crate::shell::ingest::csv::CsvError;
use crate::shell::ingest::csv::columns::Columns;

/// Arguments of `hone drift scan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    hone drift scan --detector adwin:delta=0.002,clock=1 --input errors.txt\n  \
    hone drift scan --detector page_hinkley:threshold=20,mode=up --input press.csv --column temp\n  \
    cut -d, -f3 press.csv | hone drift scan --detector adwin --input -\n\n\
    Parameters have river's names; a wrong one is answered with the known ones. Feed unit variance to adwin and \
    page_hinkley: their bounds are in the units of the values.\n\
    A missing value (empty, NA, NaN, null), an infinity and a number beyond 1e100 are left out and counted, and keep their place \
    in the numbering.\n\n\
    JSON keys: n (values), drift and warning (0-based indices), skipped.")]
pub struct Args {
    /// NAME or NAME:parameter=value,…: adwin, page_hinkley, ddm, eddm, hddm_a, hddm_w, fhddm, kswin, e_detector
    #[arg(long, value_name = "DETECTOR")]
    detector: AnyDetector,
    /// One number per line, or a CSV file with a header; `-` is standard input
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Column of a CSV file [default: its only one]
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
}

/// Scans and prints the indices, 0-based, at which the detector alarms and warns.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let columns = columns_of(&args.input)?;
    let values = values(&columns, args.column.as_deref())?;
    let mut detector = args.detector.clone();
    let (mut drift, mut warning, mut skipped) = (Vec::new(), Vec::new(), 0_u64);
    for (index, value) in values.iter().enumerate() {
        // What is not a usable number never reaches a detector: it is counted, and keeps its place in the numbering.
        if value.is_nan() || value.abs() > MAGNITUDE_MAX {
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
        println!("{skipped} values are missing, infinite or beyond 1e100 and were left out");
    }
    Ok(())
}

fn values(columns: &Columns, column: Option<&str>) -> Result<Vec<f64>> {
    let names = columns.names();
    let name = match (column, names.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, several) => {
            return Err(Fail::new(Exit::Input, format!("the file has {} columns", several.len()))
                .hint(format!("name one with --column: {}", listed(several.iter().copied())))
                .into());
        }
    };
    columns.numbers(name).map_err(|error| match error {
        CsvError::TextInNumberColumn { file, line, value, .. } => {
            Fail::new(Exit::Input, format!("{file}:{line}: `{value}` is not a number"))
                .hint("correct it, or leave it empty if the value is missing")
                .into()
        }
        error => unusable(error).into(),
    })
}
