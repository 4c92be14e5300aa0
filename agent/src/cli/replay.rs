//! `hone replay`: sends a file, or standard input, to the running agent as if it were measured now.
mod lines;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::Global;
use super::ask::{agent, fail};
use super::exit::{Exit, Fail};
use crate::shell::client::Client;

/// Lines of one request: the agent answers them before it is given more, which is all the back-pressure there is.
const BATCH: usize = 256;

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
    /// Line of the file, and why.
    first_refusal: Option<(u64, String)>,
}

impl Summary {
    /// Counts what the agent refused of line `number`.
    fn refuse(&mut self, number: u64, answer: &Value) {
        let (code, reason) = (answer["code"].as_str(), answer["error"].as_str());
        self.refuse_for(number, code.unwrap_or("refused"), reason.unwrap_or_default());
    }

    fn refuse_for(&mut self, number: u64, code: &str, reason: &str) {
        *self.refused.entry(code.to_owned()).or_default() += 1;
        self.first_refusal.get_or_insert_with(|| (number, reason.to_owned()));
    }
}

/// One line on its way: a sample with the truth that will be known of it, a label, or why it is neither.
struct Entry {
    /// Of the file, from 1.
    number: u64,
    line: Result<Value, String>,
    truth: Option<Value>,
}

/// A line that the agent gets.
struct Sent {
    number: u64,
    line: Value,
    truth: Option<Value>,
}

/// A truth whose time has not come.
struct Due {
    /// Number of the row after which it has.
    row: usize,
    number: u64,
    record_id: Value,
    truth: Value,
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
        let end = lines::read(&reading, input, &features, &told);
        if let Err(error) = end {
            let _ = told.send(Err(error));
        }
    });
    let end = sender.follow(&heard)?;
    // What could be read is sent, and told of, however the input ended.
    let summary = sender.finish()?;
    print(&summary, global);
    end?;
    let Some((number, first)) = summary.first_refusal else { return Ok(()) };
    let (file, refused) = (args.file.display(), summary.refused.values().sum::<u64>());
    let what = if refused == 1 { "line was" } else { "lines were" };
    let fail = Fail::new(Exit::Input, format!("{refused} {what} refused; the first: {file}:{number}: {first}"));
    let all = summary.answered + summary.kept == 0 && summary.labels.is_empty();
    let hint = if all && first.starts_with(lines::NOT_JSON) {
        "add --csv if it is a CSV file"
    } else {
        "correct them and send them alone: the other lines were taken"
    };
    Err(fail.hint(hint).into())
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin()));
    }
    let file = File::open(path);
    Ok(Box::new(file.map_err(|error| unreadable(path, error))?))
}

fn unreadable(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Fail {
    let hint = "name a file that you may read, or - for standard input";
    Fail::new(Exit::Input, format!("cannot read {}", path.display())).because(error).hint(hint)
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
    batch: Vec<Sent>,
    due: VecDeque<Due>,
    rows: usize,
    delay: usize,
    rate: Option<f64>,
    begun: Instant,
    features: Features,
    summary: Summary,
}

/// Whether each feature of the model is a number, by name.
#[derive(Clone, Debug)]
struct Features(BTreeMap<String, bool>);

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

    /// Sends what comes until its end: in batches while it comes fast, at once while it comes slowly. Fails if the agent does;
    /// the inner result is how the input ended.
    fn follow(&mut self, heard: &Receiver<Result<Entry>>) -> Result<Result<()>> {
        loop {
            let entry = match heard.try_recv() {
                Ok(entry) => entry,
                Err(TryRecvError::Disconnected) => return Ok(Ok(())),
                Err(TryRecvError::Empty) => {
                    self.send()?;
                    match heard.recv() {
                        Ok(entry) => entry,
                        Err(_) => return Ok(Ok(())),
                    }
                }
            };
            match entry {
                Ok(entry) => self.push(entry)?,
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn push(&mut self, entry: Entry) -> Result<()> {
        let Entry { number, line, truth } = entry;
        match line {
            Ok(line) => self.batch.push(Sent { number, line, truth }),
            Err(reason) => self.summary.refuse_for(number, "malformed", &reason),
        }
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
                self.answered(answer, entry.number, entry.truth);
            }
        }
        if !labels.is_empty() {
            let answers = self.post("/v1/labels", labels.iter().map(|entry| &entry.line))?;
            answers.iter().zip(labels).for_each(|(answer, entry)| self.labelled(answer, entry.number));
        }
        self.tell_due(self.rows)
    }

    fn answered(&mut self, answer: &Value, number: u64, truth: Option<Value>) {
        if answer.get("code").is_some() {
            return self.summary.refuse(number, answer);
        }
        let Some(id) = answer.get("record_id") else {
            self.summary.kept += 1;
            return;
        };
        self.summary.answered += 1;
        self.summary.not_stored += u64::from(answer["stored"] != true);
        if let Some(truth) = truth {
            self.due.push_back(Due { row: self.rows + self.delay, number, record_id: id.clone(), truth });
        }
    }

    fn labelled(&mut self, answer: &Value, number: u64) {
        match answer["outcome"].as_str() {
            Some(outcome) => *self.summary.labels.entry(outcome.to_owned()).or_default() += 1,
            None => self.summary.refuse(number, answer),
        }
    }

    /// Tells the truths whose time has come.
    fn tell_due(&mut self, rows: usize) -> Result<()> {
        let (mut lines, mut numbers) = (Vec::new(), Vec::new());
        while self.due.front().is_some_and(|due| due.row <= rows) && lines.len() < BATCH {
            let Some(Due { number, record_id, truth, .. }) = self.due.pop_front() else { break };
            lines.push(json!({"record_id": record_id, "label": truth, "source": "replay"}));
            numbers.push(number);
        }
        if lines.is_empty() {
            return Ok(());
        }
        let answers = self.post("/v1/labels", lines.iter())?;
        answers.iter().zip(numbers).for_each(|(answer, number)| self.labelled(answer, number));
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
