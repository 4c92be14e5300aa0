//! The lines of a file: JSON as it stands, CSV by the model's columns.
use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::mpsc::SyncSender;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{Args, Entry, Features, unreadable};
use crate::cli::exit::{Exit, Fail};
use crate::shell::clock;

/// Longest line of JSON, as the agent takes it.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// How the reason begins why a line is none of JSON.
pub(super) const NOT_JSON: &str = "not one JSON object per line";
/// Features that an error names.
const SHOWN_MAX: usize = 20;
/// What stands for a missing value, in any case.
const MISSING: [&str; 4] = ["", "na", "nan", "null"];

/// Where lines go; an error is the last thing it is told.
pub(super) type Told = SyncSender<Result<Entry>>;

/// Nobody listens any more: the agent has gone, and whoever sends has said so.
fn hand(told: &Told, entry: Entry) -> bool {
    told.send(Ok(entry)).is_ok()
}

pub(super) fn read(args: &Args, input: Box<dyn Read>, features: &Features, told: &Told) -> Result<()> {
    if is_csv(args) { csv_rows(args, input, features, told) } else { json_lines(args, input, told) }
}

fn is_csv(args: &Args) -> bool {
    args.csv || args.file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"))
}

fn json_lines(args: &Args, input: Box<dyn Read>, told: &Told) -> Result<()> {
    let mut reader = BufReader::new(input);
    let (mut line, mut lines) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let failed = |error| unreadable(&args.file, error);
        if reader.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line).map_err(failed)? == 0 {
            break;
        }
        let is_whole = line.ends_with(b"\n") || line.len() as u64 <= LINE_BYTES_MAX;
        if !is_whole {
            skip_line(&mut reader).map_err(failed)?;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        lines += 1;
        // One bad line ends no stream.
        let object = match serde_json::from_slice(&line) {
            _ if !is_whole => Err(format!("the line has more than {LINE_BYTES_MAX} bytes")),
            parsed => parsed.map_err(|error| format!("{NOT_JSON}: {error}")),
        };
        if !hand(told, Entry { number, line: object, truth: None }) {
            break;
        }
    }
    // A pipe through which nothing came is no mistake.
    if lines == 0 && args.file != std::path::Path::new("-") {
        let empty = format!("{} has no lines; one JSON object per line is expected", args.file.display());
        return Err(Fail::new(Exit::Input, empty).hint("add --csv if it is a CSV file").into());
    }
    Ok(())
}

/// Reads to the end of a line that is too long to be kept.
fn skip_line(reader: &mut impl io::BufRead) -> io::Result<()> {
    loop {
        let chunk = reader.fill_buf()?;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let (length, is_over) = (end.map_or(chunk.len(), |end| end + 1), end.is_some() || chunk.is_empty());
        reader.consume(length);
        if is_over {
            return Ok(());
        }
    }
}

fn csv_rows(args: &Args, input: Box<dyn Read>, known: &Features, told: &Told) -> Result<()> {
    let file = args.file.display();
    let refuse = |reason: String| Fail::new(Exit::Input, format!("{file}: {reason}"));
    let broken = |error: csv::Error| -> Fail {
        let reason = format!("{file}: {error}");
        match error.into_kind() {
            csv::ErrorKind::Io(error) => unreadable(&args.file, error),
            _ => Fail::new(Exit::Input, reason).hint("correct the line, or convert the file, as with `iconv -t UTF-8`"),
        }
    };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(BufReader::new(input));
    let header: Vec<String> =
        reader.headers().map_err(broken)?.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    if header.iter().all(String::is_empty) {
        return Err(refuse("the file is empty".to_owned()).hint("a header line and rows are expected").into());
    }
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
    if features.is_empty() {
        let wanted: Vec<_> = known.0.keys().take(SHOWN_MAX).map(String::as_str).collect();
        let reason = format!("none of its columns is a feature of the model; it has {}", header.join(", "));
        let hint = format!("the model that serves reads {}: is the first line a header?", wanted.join(", "));
        return Err(refuse(reason).hint(hint).into());
    }
    let (mut record, mut rows) = (csv::StringRecord::new(), 0_u64);
    loop {
        let read = reader.read_record(&mut record);
        let number = record.position().map_or(reader.position().line(), csv::Position::line);
        let wrong = match read {
            Ok(false) => break,
            Ok(true) if record.len() == header.len() => None,
            Ok(true) => Some(format!("{} cells where the header has {}", record.len(), header.len())),
            Err(error) if matches!(error.kind(), csv::ErrorKind::Utf8 { .. }) => {
                Some("not UTF-8 text; convert the file, as with `iconv -t UTF-8`".to_owned())
            }
            Err(error) => return Err(broken(error).into()),
        };
        rows += 1;
        let at = time.and_then(|column| record.get(column)).filter(|cell| !is_missing(cell));
        let moment = at.map(|cell| clock::moment(cell).ok_or(cell));
        let wrong = wrong.or_else(|| {
            let cell = moment?.err()?;
            Some(format!("`{cell}` is not a time; write 2026-11-21T01:40:00Z, or seconds since 1970"))
        });
        if let Some(wrong) = wrong {
            if !hand(told, Entry { number, line: Err(wrong), truth: None }) {
                return Ok(());
            }
            continue;
        }
        let cell = |column: usize| record.get(column).unwrap_or_default();
        let present = |column: &usize| !is_missing(cell(*column));
        let values: Map<_, _> =
            features.iter().map(|(column, name)| (name.clone(), known.value(name, cell(*column)))).collect();
        let mut object = json!({"source": source.map_or(args.source.as_str(), cell), "features": values});
        if let Some(at) = moment.and_then(Result::ok) {
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
        if !hand(told, Entry { number, line: Ok(object), truth: truth.flatten() }) {
            return Ok(());
        }
    }
    if rows == 0 {
        return Err(refuse("line 1 is the header and no row follows".to_owned()).hint("add rows").into());
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
