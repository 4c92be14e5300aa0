//! `hone backtest`: which policy would have served this stream best, and at what cost.
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::Global;
use super::chart::{Change, Chart, Mark, MarkKind, Series};
use super::exit::{Exit, Fail, unwritable};
use super::input::{DataArgs, moments, read_bundle, settings, trainer, training_exit};
use super::prices;
use crate::config::Config;
use crate::decide::cycle::{CycleSettings, Report};
use crate::decide::policy::Policy;
use crate::decide::rollout::{Approval, Mode, RolloutSettings};
use crate::shell::backtest::summary::Summary;
use crate::shell::backtest::{self, Backtest};
use crate::shell::files;

/// Arguments of `hone backtest`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone backtest --data press.csv --label state --first-rows 1000 --label-delay 50 \\\n           \
                  --policy static --policy trigger:any --policy continual --svg press.svg"
)]
pub struct Args {
    #[command(flatten)]
    data: DataArgs,
    /// Bundle to start from; every row of the file is then streamed
    #[arg(long, value_name = "FILE", conflicts_with_all = ["first_rows", "arch"], required_unless_present = "first_rows")]
    model: Option<PathBuf>,
    /// Train the first model on so many rows and stream the rest
    #[arg(long, value_name = "ROWS")]
    first_rows: Option<usize>,
    /// Network of the first model, as for `hone train`
    #[arg(long, value_name = "FILE")]
    arch: Option<PathBuf>,
    /// Rows until the label of a row is known
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    label_delay: usize,
    /// Rows that come in a week, for cost and value per week [default: as the times of --time say]
    #[arg(long, value_name = "ROWS_PER_WEEK")]
    rate: Option<f64>,
    /// Rows at which the world is known to have changed
    #[arg(long, value_name = "ROW,…", value_delimiter = ',')]
    change_at: Vec<usize>,
    /// static, fixed:LABELS, trigger:NAME, value or continual; may be repeated [default: all of them]
    #[arg(long, value_name = "POLICY")]
    policy: Vec<Policy>,
    /// Promote at the gate, or after shadow and canary as a device does by default
    #[arg(long, value_name = "HOW", default_value = "gate")]
    rollout: Rollout,
    /// Seed of every random choice
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Train in this process instead of a child
    #[arg(long)]
    in_process: bool,
    /// Leave measured times out, so that equal runs print equal bytes
    #[arg(long)]
    no_measured: bool,
    /// Draw accuracy (or error) over time with the events
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// The same as a page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// How a candidate that passed the gate becomes champion.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Rollout {
    /// At once
    Gate,
    /// After shadow and canary
    Full,
}

/// Replays and prints.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let trainer = trainer(args.in_process)?;
    let Config { cycle, rollout, training, value: prices, continual, .. } = settings(global)?;
    let rollout = match args.rollout {
        Rollout::Gate => RolloutSettings { mode: Mode::Gate, approval: Approval::Auto, ..rollout },
        Rollout::Full => RolloutSettings { mode: Mode::Full, approval: Approval::Auto, ..rollout },
    };
    if args.rate.is_some_and(|rate| !(rate.is_finite() && rate > 0.0)) {
        return Err(Fail::new(Exit::Usage, "--rate must be a number above 0").into());
    }
    let given = args.model.as_deref().map(read_bundle).transpose()?;
    let data = args.data.read(given.as_ref().map(|stored| stored.model.schema()))?;
    let first = args.first_rows.unwrap_or(0);
    if first >= data.rows.len() {
        let message = format!(
            "--first-rows {first} leaves nothing to stream: {} has {} usable rows",
            args.data.data.display(),
            data.rows.len()
        );
        return Err(Fail::new(Exit::Input, message).hint("name fewer rows").into());
    }
    let times = moments(&args.data.data, &data)?;
    let base = match given {
        Some(stored) => stored,
        None => {
            let spec = args.data.spec(args.arch.as_deref(), &data)?;
            let seconds: Vec<i64> = times.iter().flatten().take(first).map(|at| at.0.div_euclid(1_000_000)).collect();
            backtest::train_base(
                &trainer,
                &data.schema,
                &spec,
                data.rows.slice(0..first),
                &seconds,
                &training,
                args.seed,
            )
            .map_err(|error| {
                Fail::new(training_exit(&error), format!("cannot train on the first {first} rows"))
                    .because(error)
                    .hint("name more rows with --first-rows")
            })?
            .0
        }
    };
    let mut changes = args.change_at.clone();
    changes.sort_unstable();
    let test = Backtest {
        rows: &data.rows,
        times: times.as_deref(),
        segments: data.segments.as_deref(),
        first,
        delay: args.label_delay,
        settings: CycleSettings { seed: args.seed, rollout, ..cycle },
        training,
        trainer: &trainer,
        serves: continual.serves(false),
        changes: &changes,
    };
    let mut summaries = Vec::new();
    for policy in policies(&args.policy, first, base.model.detects()) {
        let mut summary = test
            .run(&base, &policy)
            .map_err(|error| Fail::new(Exit::Internal, format!("{policy} cannot be replayed")).because(error))?;
        if args.no_measured {
            summary.measured = None;
        }
        summaries.push(summary);
    }
    let still = match summaries.iter().find(|summary| summary.policy == "static") {
        Some(summary) => summary.loss_sum(),
        None => test.run(&base, &Policy::Static).map_err(|error| Fail::new(Exit::Internal, error))?.loss_sum(),
    };
    summaries.iter_mut().for_each(|summary| summary.against(still, test.settings.value.cost_errors));
    let span_s = prices::span_s(args.rate, times.as_deref().map(|times| &times[first..]), data.rows.len() - first);
    summaries.iter_mut().for_each(|summary| summary.priced(&prices, span_s.unwrap_or_default()));
    if global.json {
        let file = args.data.data.file_name().map(|name| name.to_string_lossy().into_owned());
        println!(
            "{}",
            json!({ "data": file, "rows": data.rows.len(), "first_rows": first, "label_delay": args.label_delay, "value": prices::view(&summaries, &prices, span_s), "policies": summaries })
        );
    } else {
        print(&summaries, &changes, args.no_measured);
        print!("{}", prices::table(&summaries, &prices, span_s));
    }
    // Drawn last: a place that cannot be written must not cost the figures of a long replay.
    if args.svg.is_some() || args.html.is_some() {
        draw(args, &summaries, first, &changes)?;
    }
    Ok(())
}

fn policies(asked: &[Policy], first: usize, detects: bool) -> Vec<Policy> {
    if !asked.is_empty() {
        return asked.to_vec();
    }
    let fixed = Policy::Fixed { labels: (first as u64 / 2).max(200) };
    let names = ["trigger:adwin", "trigger:page_hinkley", "trigger:psi", "trigger:any", "value", "continual"];
    // A model that tells anomalies by what it cannot give back has no heads to learn.
    let names = names.iter().filter(|name| !(detects && **name == "continual"));
    let named = names.map(|name| name.parse().expect("the names are policies"));
    [Policy::Static, fixed].into_iter().chain(named).collect()
}

fn print(summaries: &[Summary], changes: &[usize], no_measured: bool) {
    let classes = summaries.iter().any(|summary| summary.accuracy.is_some());
    let columns = if classes { "accuracy  macro F1  log loss" } else { "    RMSE       MAE        R2" };
    println!("{:<22}{:>8}  {columns}  retrains  promoted  train CPU s  joules*     worth†", "policy", "rows");
    for summary in summaries {
        let figures =
            match (summary.accuracy, summary.f1_macro, summary.log_loss, summary.rmse, summary.mae, summary.r2) {
                (Some(accuracy), Some(f1), Some(log_loss), ..) => {
                    format!("{accuracy:>8.4}  {f1:>8.4}  {log_loss:>8.4}")
                }
                (.., Some(rmse), Some(mae), Some(r2)) => format!("{rmse:>8.4}  {mae:>8.4}  {r2:>8.4}"),
                _ => String::new(),
            };
        let cpu = if no_measured {
            "-".to_owned()
        } else {
            summary.measured.map_or("-".into(), |m| format!("{:.3}", m.train_cpu_s))
        };
        println!(
            "{:<22}{:>8}  {figures}  {:>8}  {:>8}  {cpu:>11}  {:>7.2}  {:>8.0}",
            summary.policy,
            summary.n,
            summary.retrains,
            summary.promotions,
            summary.joules_modelled,
            summary.worth_errors.unwrap_or_default()
        );
    }
    println!("* modelled from multiply-adds, not measured");
    println!("† errors avoided against `static`, less value.cost_errors for each retrain");
    if !changes.is_empty() {
        println!("\nrows from a change to the first alarm after it (- none)");
        println!("{:<22}{}", "policy", changes.iter().map(|change| format!("{change:>9}")).collect::<String>());
        for summary in summaries {
            let cell = |delay: &Option<u64>| delay.map_or(format!("{:>9}", "-"), |delay| format!("{delay:>9}"));
            println!("{:<22}{}", summary.policy, summary.detection_rows.iter().map(cell).collect::<String>());
        }
    }
}

fn draw(args: &Args, summaries: &[Summary], first: usize, changes: &[usize]) -> Result<()> {
    let classes = summaries.iter().any(|summary| summary.accuracy.is_some());
    let window = summaries.first().map_or(1, |summary| (summary.losses.len() / 60).clamp(50, 2_000));
    let chart = Chart {
        title: format!("{} over time", if classes { "Accuracy" } else { "Relative error" }),
        subtitle: format!(
            "{}, mean over {window} rows, labels {} rows late",
            args.data.data.display(),
            args.label_delay
        ),
        x_label: "row".to_owned(),
        y_label: if classes { "accuracy" } else { "loss" }.to_owned(),
        y_range: classes.then_some((0.0, 1.0)),
        series: summaries.iter().map(|summary| series(summary, first, window, classes)).collect(),
        events: summaries.iter().enumerate().flat_map(|(index, summary)| marks(index, summary)).collect(),
        #[expect(clippy::cast_precision_loss, reason = "row numbers are drawn")]
        changes: changes.iter().map(|row| Change { x: *row as f64, label: format!("change at {row}") }).collect(),
        ..Chart::default()
    };
    for (path, option, text) in [(&args.svg, "--svg", chart.svg()), (&args.html, "--html", chart.html())] {
        if let Some(path) = path {
            files::write_durable(path, text.as_bytes()).map_err(|error| unwritable(path, option, error))?;
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "row numbers are drawn")]
fn series(summary: &Summary, first: usize, window: usize, classes: bool) -> Series {
    let mut points = Vec::new();
    let mut sum = 0.0;
    for (index, loss) in summary.losses.iter().enumerate() {
        sum += f64::from(*loss);
        if index >= window {
            sum -= f64::from(summary.losses[index - window]);
        }
        if index + 1 >= window {
            let mean = sum / window as f64;
            points.push(((first + index) as f64, if classes { 1.0 - mean } else { mean }));
        }
    }
    Series { name: summary.policy.clone(), figure: format!("{:.3}", summary.figure()), points }
}

#[expect(clippy::cast_precision_loss, reason = "row numbers are drawn")]
fn marks(series: usize, summary: &Summary) -> impl Iterator<Item = Mark> + '_ {
    summary.events.iter().filter_map(move |event| {
        let kind = match &event.report {
            Report::Drift { .. } => MarkKind::Drift,
            Report::Retrain { .. } | Report::Consolidated { .. } => MarkKind::Retrain,
            Report::Promote { .. } => MarkKind::Promoted,
            Report::Rollback { .. } => MarkKind::RolledBack,
            Report::Gate { verdict, .. } if !verdict.passed => MarkKind::Rejected,
            Report::Gate { .. }
            | Report::Waiting { .. }
            | Report::Failed { .. }
            | Report::Rebaseline { .. }
            | Report::Considered { .. }
            | Report::Adaptation { .. }
            | Report::Rollout(_) => {
                return None;
            }
        };
        Some(Mark { series, x: event.row as f64, kind })
    })
}
