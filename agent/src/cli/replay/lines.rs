//! The lines of a file: JSON as it stands, CSV by the model's columns.
use std::io::{BufRead as _, BufReader, Read};
use std::sync::mpsc::SyncSender;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Args, Entry, Features};
use crate::cli::exit::{Exit, Fail};
use crate::shell::clock;

/// Longest line of JSON, as the agent takes it.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// What stands for a missing value, in any case.
const MISSING: [&str; 4] = ["", "na", "nan", "null"];

/// Where lines go; an error is the last thing it is told.
pub(super) type Told = SyncSender<Result<Entry>>;

/// Nobody listens any more: the agent has gone, and whoever sends has said so.
fn hand(told: &Told, entry: Entry) -> bool {
    told.send(Ok(entry)).is_ok()
}

pub(super) fn read(args: &Args, input: Box<dyn Read>, features: &Features, told: &Told) -> Result<()> {
    if args.csv || args.file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
        csv_rows(args, input, features, told)
    } else {
        json_lines(args, input, told)
    }
}

fn json_lines(args: &Args, input: Box<dyn Read>, told: &Told) -> Result<()> {
    let file = args.file.display();
    let unreadable = |error| Fail::new(Exit::Input, format!("cannot read {file}")).because(error);
    let mut reader = BufReader::new(input);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let object: Value = serde_json::from_slice(&line).map_err(|error| {
            Fail::new(Exit::Input, format!("{file}:{number}: not one JSON object per line"))
                .because(error)
                .hint("add --csv if it is a CSV file")
        })?;
        if !hand(told, Entry { line: object, truth: None }) {
            break;
        }
    }
    Ok(())
}

fn csv_rows(args: &Args, input: Box<dyn Read>, known: &Features, told: &Told) -> Result<()> {
    let file = args.file.display();
    let refuse = |reason: String| Fail::new(Exit::Input, format!("{file}: {reason}"));
    let broken = |error: csv::Error| refuse(error.to_string());
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(BufReader::new(input));
    let header: Vec<String> =
        reader.headers().map_err(broken)?.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    let place = |name: &String| {
        header
            .iter()
            .position(|known| known == name)
            .ok_or_else(|| refuse(format!("there is no column `{name}`, only {}", header.join(", "))))
    };
    let time = args.time.as_ref().map(place).transpose()?;
    let segment = args.segment.as_ref().map(place).transpose()?;
    let source = args.source_column.as_ref().map(place).transpose()?;
    let labels: Vec<usize> = args.label.iter().map(place).collect::<Result<_, _>>()?;
    let roles: Vec<_> = time.iter().chain(&segment).chain(&source).chain(&labels).copied().collect();
    let features: Vec<_> = header
        .iter()
        .enumerate()
        .filter(|(column, name)| !roles.contains(column) && known.has(name))
        .map(|(column, name)| (column, name.clone()))
        .collect();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(broken)? {
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |column: usize| record.get(column).unwrap_or_default();
        let present = |column: &usize| !is_missing(cell(*column));
        let values: Map<_, _> =
            features.iter().map(|(column, name)| (name.clone(), known.value(name, cell(*column)))).collect();
        let mut object = json!({"source": source.map_or(args.source.as_str(), cell), "features": values});
        if let Some(column) = time.filter(present) {
            let at = clock::moment(cell(column))
                .ok_or_else(|| refuse(format!("line {line}: `{}` is not a time", cell(column))))?;
            object["time"] = json!(clock::shown(at));
        }
        if let Some(column) = segment.filter(present) {
            object["segment"] = json!(cell(column));
        }
        let truth = labels.iter().all(present).then(|| match labels.as_slice() {
            [] => None,
            [one] => Some(guess(cell(*one))),
            several => Some(json!(several.iter().map(|column| guess(cell(*column))).collect::<Vec<_>>())),
        });
        if !hand(told, Entry { line: object, truth: truth.flatten() }) {
            break;
        }
    }
    Ok(())
}

fn is_missing(cell: &str) -> bool {
    MISSING.iter().any(|word| cell.eq_ignore_ascii_case(word))
}

/// A truth: a number if it reads like one. A class that is written as a number is understood by the agent.
fn guess(cell: &str) -> Value {
    cell.parse::<f64>().ok().filter(|number| number.is_finite()).map_or_else(|| json!(cell), |number| json!(number))
}

impl Features {
    /// Whether the model reads a column of this name, also through a window.
    fn has(&self, name: &str) -> bool {
        let of_window = |known: &String| {
            known.strip_prefix(name).is_some_and(|rest| {
                (rest.starts_with('[') && rest.ends_with(']')) || [".mean", ".min", ".max", ".std"].contains(&rest)
            })
        };
        self.0.contains_key(name) || self.0.keys().any(of_window)
    }

    fn value(&self, name: &str, cell: &str) -> Value {
        if is_missing(cell) {
            Value::Null
        } else if self.0.get(name).copied().unwrap_or(true) {
            guess(cell)
        } else {
            json!(cell)
        }
    }
}
