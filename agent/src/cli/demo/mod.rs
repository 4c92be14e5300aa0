//! `hone demo`: the whole loop on this machine, with a real agent in a child process and a simulated gateway in front of it.
mod account;
mod agent;
mod gateway;
pub mod plant;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use trainer_core::digest::Digest;
use trainer_core::evaluate::{Metrics, Tally};
use trainer_core::model::{Strategy, Work};
use trainer_core::schema::{Rows, Task};
use trainer_core::snapshot::Snapshot;
use trainer_core::spec::Spec;
use trainer_core::train::TrainSettings;

use super::Global;
use super::exit::{Exit, Fail};
use super::input::training_exit;
use crate::shell::backtest::{Stored, train_base};
use crate::shell::trainer::Trainer;
use account::Account;
use agent::Agent;
use gateway::Gateway;

/// How long the stream takes at its own pace.
const STREAM_S: f64 = 100.0;
/// Batches of samples per second.
const BATCHES_PER_S: f64 = 6.0;
/// Rows between a sample and its label.
const LABEL_DELAY: usize = 60;
/// Rows whose accuracy the live line shows.
const WINDOW: usize = 200;

/// Set when a person, or a closed pipe, wants no more of it.
static STOP: AtomicBool = AtomicBool::new(false);

/// Arguments of `hone demo`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples: hone demo\n          hone demo --data press.csv --label state\n          hone demo --fast | cat"
)]
pub struct Args {
    /// Your own CSV instead of the simulated press line; rows in time order
    #[arg(long, value_name = "FILE", requires = "label")]
    data: Option<PathBuf>,
    /// Its column to predict
    #[arg(long, value_name = "COLUMN", requires = "data")]
    label: Option<String>,
    /// Columns of it to leave out
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',', requires = "data")]
    ignore: Vec<String>,
    /// As fast as this machine can, instead of about two minutes
    #[arg(long)]
    fast: bool,
    /// Seed of the simulation and of every training
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Runs the demonstration to its end, or until it is interrupted: either way nothing is left behind.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    listen_for_stop();
    match show(args, global) {
        // Whatever broke, it broke because somebody wanted it to end.
        Err(_) if STOP.load(Ordering::Relaxed) => {
            eprintln!("interrupted: the agent is stopped, its directory is removed");
            Ok(())
        }
        result => result,
    }
}

/// Turns Ctrl-C and SIGTERM into [`STOP`], so that the agent is stopped and the directory removed on the way out.
fn listen_for_stop() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            STOP.store(true, Ordering::Relaxed);
        });
    });
}

fn go_on() -> Result<()> {
    if STOP.load(Ordering::Relaxed) {
        return Err(Fail::new(Exit::Internal, "interrupted").into());
    }
    Ok(())
}

fn show(args: &Args, global: &Global) -> Result<()> {
    let gateway = Gateway::open(args.data.as_deref(), args.label.as_deref(), &args.ignore, args.seed)?;
    let account = Account::new(global.json);
    account.title(&gateway);
    let trainer = super::input::trainer(false)?;
    account.step(1, &format!("train a base model on the first {} rows", gateway.first));
    let training = TrainSettings::default();
    let history = gateway.rows.slice(0..gateway.first);
    let (base, finished) = train_base(&trainer, &gateway.schema, &Spec::default(), history, &[], &training, args.seed)
        .map_err(|error| Fail::new(training_exit(&error), "the first rows cannot be trained on").because(error))?;
    let held = super::train::describe(base.model.manifest.metrics.as_ref());
    account.say(&format!("{:.1} CPU seconds; on rows held out: {held}", finished.cpu_s));
    account.step(2, "start the agent: a process of its own, a temporary state directory, no broker, no network");
    go_on()?;
    let agent = Agent::start(&base, args.seed)?;
    account.say(&format!("look inside from another terminal: hone status --config {}", agent.config().display()));
    account.step(
        3,
        &format!("stream {} rows; each label comes {LABEL_DELAY} rows late", gateway.rows.len() - gateway.first),
    );
    let mut show = Show::new(&gateway, &base, &agent, account);
    show.stream(args.fast)?;
    show.account.step(4, "a bad candidate: trained on labels that somebody mixed up, offered to the agent");
    let refused = show.poison(&trainer, args.seed)?;
    let summary = show.summary(refused)?;
    let mut account = show.account;
    agent.stop()?;
    account.summary(&summary);
    Ok(())
}

/// The stream while it runs.
struct Show<'a> {
    gateway: &'a Gateway,
    base: &'a Stored,
    agent: &'a Agent,
    account: Account,
    /// Rows whose labels are still to come, with their record.
    waiting: VecDeque<(usize, String)>,
    with: Tally,
    without: Tally,
    recent: VecDeque<(f64, f64)>,
    work: Work,
    refused_samples: usize,
}

impl<'a> Show<'a> {
    fn new(gateway: &'a Gateway, base: &'a Stored, agent: &'a Agent, account: Account) -> Self {
        Self {
            gateway,
            base,
            agent,
            account,
            waiting: VecDeque::new(),
            with: Tally::new(&gateway.schema.task),
            without: Tally::new(&gateway.schema.task),
            recent: VecDeque::new(),
            work: Work::default(),
            refused_samples: 0,
        }
    }

    fn stream(&mut self, fast: bool) -> Result<()> {
        let rows = self.gateway.rows.len() - self.gateway.first;
        let rate = rows as f64 / STREAM_S;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a batch size between 1 and 500")]
        let batch = ((rate / BATCHES_PER_S).ceil() as usize).clamp(8, 500);
        let start = Instant::now();
        let mut next = self.gateway.first;
        while next < self.gateway.rows.len() {
            go_on()?;
            let end = (next + batch).min(self.gateway.rows.len());
            self.send(next..end)?;
            self.send_labels(end)?;
            next = end;
            self.tell(next)?;
            let due = Duration::from_secs_f64((next - self.gateway.first) as f64 / rate);
            if fast {
                // Without a pause the stream would run ahead of every retrain, as no gateway's does.
                self.agent.until_idle(Duration::from_secs(20))?;
            } else {
                std::thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        // The last labels are in: what they set off shall be seen to its end.
        self.agent.until_idle(Duration::from_secs(30))?;
        self.tell(next)?;
        self.account.end_live();
        Ok(())
    }

    fn send(&mut self, rows: std::ops::Range<usize>) -> Result<()> {
        let lines: String = rows.clone().map(|row| format!("{}\n", self.gateway.sample(row))).collect();
        let answers = self.agent.post_lines("/v1/samples", lines)?;
        for (row, answer) in rows.zip(answers) {
            let Some(id) = answer["record_id"].as_str() else {
                self.refused_samples += 1;
                continue;
            };
            let truth = self.gateway.rows.y(row);
            let said = self.gateway.answer(&answer);
            self.base.model.answer(self.gateway.rows.x(row), &mut self.work);
            self.with.push(&said, truth);
            self.without.push(&self.work.answer, truth);
            let model = &self.base.model;
            self.recent.push_back((model.loss(&said, truth), model.loss(&self.work.answer, truth)));
            if self.recent.len() > WINDOW {
                self.recent.pop_front();
            }
            self.waiting.push_back((row, id.to_owned()));
        }
        Ok(())
    }

    fn send_labels(&mut self, now: usize) -> Result<()> {
        let mut lines = String::new();
        while let Some((row, id)) = self.waiting.pop_front_if(|(row, _)| *row + LABEL_DELAY <= now) {
            lines += &json!({"record_id": id, "label": self.gateway.label(row), "source": "inspector"}).to_string();
            lines.push('\n');
        }
        if !lines.is_empty() {
            self.agent.post_lines("/v1/labels", lines)?;
        }
        Ok(())
    }

    fn tell(&mut self, row: usize) -> Result<()> {
        for report in self.agent.news()? {
            self.account.report(row, &report);
        }
        for text in self.gateway.happenings(row) {
            self.account.world(row, &text);
        }
        let n = self.recent.len().max(1) as f64;
        let mean = |pick: fn(&(f64, f64)) -> f64| 1.0 - self.recent.iter().map(pick).sum::<f64>() / n;
        self.account.live(row, self.gateway.rows.len(), mean(|pair| pair.0), mean(|pair| pair.1));
        Ok(())
    }

    /// Offers a model trained on mixed-up labels; says how the gate refused it.
    fn poison(&mut self, trainer: &Trainer, seed: u64) -> Result<String> {
        let serving: Digest = self.agent.champion()?;
        let bytes = self.agent.bundle(&serving)?;
        let last = self.gateway.rows.len();
        let rows = poisoned(
            &self.gateway.rows.slice(last.saturating_sub(400).max(self.gateway.first)..last),
            &self.gateway.schema.task,
        );
        let snapshot = Snapshot::adapt(serving, Strategy::Head, rows, TrainSettings::default(), seed);
        let candidate = trainer
            .train(snapshot.to_bytes(), Some(bytes))
            .map_err(|error| Fail::new(Exit::Internal, "the bad candidate cannot be trained").because(error))?;
        self.account.say(&format!(
            "model {} is whole and its checksum is right: only the labels behind it are wrong",
            candidate.digest.short()
        ));
        let verdict = self.agent.offer(candidate.bundle)?;
        let sentence = verdict["sentence"].as_str().unwrap_or_default().to_owned();
        if verdict["verdict"]["passed"] == true {
            return Err(Fail::new(Exit::Internal, format!("the bad candidate was let in: {sentence}")).into());
        }
        for report in self.agent.news()? {
            self.account.report(last, &report);
        }
        let now = self.agent.champion()?;
        self.account.say(&format!("model {} goes on serving", now.short()));
        Ok(sentence)
    }

    fn summary(&mut self, refused: String) -> Result<Summary> {
        let runs = self.agent.get("/v1/runs?limit=1000")?;
        let runs: Vec<&Value> =
            runs["runs"].as_array().into_iter().flatten().filter(|run| run["strategy"] != "judge").collect();
        let sum = |key: &str| runs.iter().filter_map(|run| run[key].as_f64()).sum::<f64>();
        Ok(Summary {
            with: self.with.metrics(),
            without: self.without.metrics(),
            retrains: runs.len(),
            promotions: self.account.promotions(),
            cpu_s: sum("cpu_s"),
            joules_modelled: sum("joules_modelled"),
            refused,
            refused_samples: self.refused_samples,
        })
    }
}

/// Labels as somebody mixed them up: every class named as the next one, every target mirrored at its mean.
fn poisoned(rows: &Rows, task: &Task) -> Rows {
    let mut rows = rows.clone();
    match task {
        Task::Classification { classes } => rows.y.iter_mut().for_each(|y| *y = (*y + 1.0) % classes.len() as f32),
        Task::Regression { targets } => {
            for target in 0..targets.len() {
                let column = || (0..rows.len()).map(|row| rows.y(row)[target]);
                let mean = column().sum::<f32>() / rows.len() as f32;
                rows.y.iter_mut().skip(target).step_by(targets.len()).for_each(|y| *y = 2.0 * mean - *y);
            }
        }
    }
    rows
}

/// What is left to say at the end.
struct Summary {
    with: Option<Metrics>,
    without: Option<Metrics>,
    retrains: usize,
    promotions: usize,
    cpu_s: f64,
    joules_modelled: f64,
    refused: String,
    refused_samples: usize,
}
