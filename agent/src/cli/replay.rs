//! `hone replay`: sends a file, or standard input, to the running agent as if it were measured now.
mod features;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::Global;
use super::ask::{agent, fail};
use super::exit::{Exit, Fail};
use crate::shell::client::Client;
use crate::shell::clock;
use features::{Features, guess, is_missing};

/// Lines of one request: the agent answers them before it is given more, which is all the back-pressure there is.
const BATCH: usize = 256;
/// Longest line of JSON, as the agent takes it.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// Arguments of `hone replay`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example: hone replay shift.csv --time at --label state --label-delay 100\n\
    Example: collect | hone replay -\n\n\
    A name that ends in .csv has a header line; anything else is one JSON object per line: samples as for POST /v1/samples,\n\
    and labels, which have a record_id. Exit code 4 if anything was refused.")]
pub struct Args {
    /// CSV file, file of JSON lines, or - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Read standard input, or a file of another name, as CSV
    #[arg(long)]
    csv: bool,
    /// Column of the truth; several regression targets are separated by commas
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    label: Vec<String>,
    /// Rows after which the truth of a row becomes known
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    label_delay: usize,
    /// Column of the time: RFC 3339, a date and time read as UTC, or seconds since 1970
    #[arg(long, value_name = "COLUMN")]
    time: Option<String>,
    /// Column of the segment
    #[arg(long, value_name = "COLUMN")]
    segment: Option<String>,
    /// Who measured, for CSV
    #[arg(long, value_name = "NAME", default_value = "replay")]
    source: String,
    /// Column that says who measured
    #[arg(long, value_name = "COLUMN", conflicts_with = "source")]
    source_column: Option<String>,
    /// Rows a second [default: as fast as they are answered]
    #[arg(long, value_name = "ROWS")]
    rate: Option<f64>,
}

/// What became of everything.
#[derive(Debug, Default)]
struct Summary {
    answered: u64,
    kept: u64,
    not_stored: u64,
    labels: BTreeMap<String, u64>,
    refused: BTreeMap<String, u64>,
    first_refusal: Option<String>,
}

impl Summary {
    fn refuse(&mut self, answer: &Value) {
        let code = answer["code"].as_str().unwrap_or("refused");
        *self.refused.entry(code.to_owned()).or_default() += 1;
        self.first_refusal.get_or_insert_with(|| answer["error"].as_str().unwrap_or_default().to_owned());
    }
}

/// One line on its way: a sample with the truth that will be known of it, or a label.
struct Entry {
    line: Value,
    truth: Option<Value>,
}

/// Sends everything and prints what became of it.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if args.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
        return Err(Fail::new(Exit::Usage, "--rate must be above 0").into());
    }
    let client = agent(global)?;
    let mut sender = Sender::new(&client, args)?;
    let input = open(&args.file)?;
    let (told, heard) = mpsc::sync_channel(BATCH);
    let (reading, features) = (args.clone(), sender.features.clone());
    // A thread of its own, so that what has come is sent while the next line is waited for. It ends with its input or with us.
    thread::spawn(move || {
        let end = read(&reading, input, &features, &told);
        if let Err(error) = end {
            let _ = told.send(Err(error));
        }
    });
    sender.follow(&heard)?;
    let summary = sender.finish()?;
    print(&summary, global);
    match summary.first_refusal {
        None => Ok(()),
        Some(first) => {
            let refused: u64 = summary.refused.values().sum();
            Err(Fail::new(Exit::Input, format!("{refused} lines were refused; the first: {first}")).into())
        }
    }
}

/// Where lines go; an error is the last thing it is told.
type Told = SyncSender<Result<Entry>>;

/// Nobody listens any more: the agent has gone, and whoever sends has said so.
fn hand(told: &Told, entry: Entry) -> bool {
    told.send(Ok(entry)).is_ok()
}

fn read(args: &Args, input: Box<dyn Read>, features: &Features, told: &Told) -> Result<()> {
    if args.csv || args.file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
        csv_rows(args, input, features, told)
    } else {
        json_lines(args, input, told)
    }
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path);
    Ok(Box::new(
        file.map_err(|error| Fail::new(Exit::Input, format!("cannot read {}", path.display())).because(error))?,
    ))
}

fn print(summary: &Summary, global: &Global) {
    if global.json {
        let Summary { answered, kept, not_stored, labels, refused, .. } = summary;
        println!(
            "{}",
            json!({"answered": answered, "kept": kept, "not_stored": not_stored, "labels": labels, "refused": refused})
        );
        return;
    }
    println!("{} samples answered", summary.answered);
    if summary.kept > 0 {
        println!("{} readings kept for rows of a window", summary.kept);
    }
    if summary.not_stored > 0 {
        println!("{} answers are not on record: `hone status` says why", summary.not_stored);
    }
    for (what, counts) in [("labels", &summary.labels), ("refused", &summary.refused)] {
        if !counts.is_empty() {
            let parts: Vec<_> =
                counts.iter().map(|(word, count)| format!("{count} {}", word.replace('_', " "))).collect();
            println!("{what}: {}", parts.join(", "));
        }
    }
}

/// Sends in batches and waits for each: what the agent cannot take at once makes this wait.
struct Sender<'a> {
    client: &'a Client,
    batch: Vec<Entry>,
    /// Truths whose time has not come: number of the row after which it has, record id, truth.
    due: VecDeque<(usize, Value, Value)>,
    rows: usize,
    delay: usize,
    rate: Option<f64>,
    begun: Instant,
    features: Features,
    summary: Summary,
}

impl<'a> Sender<'a> {
    fn new(client: &'a Client, args: &Args) -> Result<Self> {
        // Also finds out whether anybody is there before a long file is read.
        let status = client.get("/v1/status").map_err(fail)?;
        let name = status["model_name"].as_str().unwrap_or("main").to_owned();
        let model = client.get(&format!("/v2/models/{name}")).map_err(fail)?;
        let inputs = model["inputs"].as_array().cloned().unwrap_or_default();
        let number = |input: &Value| Some((input["name"].as_str()?.to_owned(), input["datatype"] != "BYTES"));
        Ok(Self {
            client,
            batch: Vec::new(),
            due: VecDeque::new(),
            rows: 0,
            delay: args.label_delay,
            rate: args.rate,
            begun: Instant::now(),
            features: Features(inputs.iter().filter_map(number).collect()),
            summary: Summary::default(),
        })
    }

    /// Sends what comes until its end: in batches while it comes fast, at once while it comes slowly.
    fn follow(&mut self, heard: &Receiver<Result<Entry>>) -> Result<()> {
        loop {
            let entry = match heard.try_recv() {
                Ok(entry) => entry,
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    self.send()?;
                    match heard.recv() {
                        Ok(entry) => entry,
                        Err(_) => return Ok(()),
                    }
                }
            };
            self.push(entry?)?;
        }
    }

    fn push(&mut self, entry: Entry) -> Result<()> {
        self.batch.push(entry);
        // At a given pace each row has its moment.
        let most = self.rate.map_or(BATCH, |rate| if rate < 256.0 { 1 } else { BATCH });
        if self.batch.len() >= most { self.send() } else { Ok(()) }
    }

    fn send(&mut self) -> Result<()> {
        if let Some(rate) = self.rate {
            let due = Duration::from_secs_f64(self.rows as f64 / rate);
            thread::sleep(due.saturating_sub(self.begun.elapsed()));
        }
        let batch = std::mem::take(&mut self.batch);
        let (labels, samples): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|entry| entry.line.get("record_id").is_some());
        if !samples.is_empty() {
            let answers = self.post("/v1/samples", samples.iter().map(|entry| &entry.line))?;
            for (answer, entry) in answers.iter().zip(samples) {
                self.rows += 1;
                self.answered(answer, entry.truth);
            }
        }
        if !labels.is_empty() {
            let answers = self.post("/v1/labels", labels.iter().map(|entry| &entry.line))?;
            answers.iter().for_each(|answer| self.labelled(answer));
        }
        self.tell_due(self.rows)
    }

    fn answered(&mut self, answer: &Value, truth: Option<Value>) {
        if answer.get("code").is_some() {
            return self.summary.refuse(answer);
        }
        let Some(id) = answer.get("record_id") else {
            self.summary.kept += 1;
            return;
        };
        self.summary.answered += 1;
        self.summary.not_stored += u64::from(answer["stored"] != true);
        if let Some(truth) = truth {
            self.due.push_back((self.rows + self.delay, id.clone(), truth));
        }
    }

    fn labelled(&mut self, answer: &Value) {
        match answer["outcome"].as_str() {
            Some(outcome) => *self.summary.labels.entry(outcome.to_owned()).or_default() += 1,
            None => self.summary.refuse(answer),
        }
    }

    /// Tells the truths whose time has come.
    fn tell_due(&mut self, rows: usize) -> Result<()> {
        let mut lines = Vec::new();
        while self.due.front().is_some_and(|(due, ..)| *due <= rows) && lines.len() < BATCH {
            let Some((_, id, truth)) = self.due.pop_front() else { break };
            lines.push(json!({"record_id": id, "label": truth, "source": "replay"}));
        }
        if lines.is_empty() {
            return Ok(());
        }
        let answers = self.post("/v1/labels", lines.iter())?;
        answers.iter().for_each(|answer| self.labelled(answer));
        self.tell_due(rows)
    }

    fn finish(mut self) -> Result<Summary> {
        self.send()?;
        self.tell_due(usize::MAX)?;
        Ok(self.summary)
    }

    /// The answers, one per line; a batch that is refused whole still answers each line.
    fn post<'l>(&self, path: &str, lines: impl Iterator<Item = &'l Value>) -> Result<Vec<Value>> {
        let body: String = lines.map(|line| format!("{line}\n")).collect();
        Ok(self.client.post_lines_whatever(path, body.into_bytes()).map_err(fail)?)
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
