//! `hone drift calibrate`: settings from a quiet recording, with the delays measured on it.
mod whole;

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::Global;
use super::super::ask::table;
use super::super::exit::{Exit, Fail};
use super::units::{FalseAlarms, Rate, duration};
use super::{columns_of, number, unusable};
use crate::decide::drift::season::SPAN_HOURS_MIN;
use crate::decide::time::Timestamp;
use crate::decide::watch::calibrate::{Column, Delays, RESAMPLES, ROWS_MIN, Season, Survey, Test, Wanted};
use crate::shell::clock;
use crate::shell::ingest::csv::CsvError;
use crate::shell::ingest::csv::columns::{Cells, Columns};
use whole::Wholes;

/// Longest run length the configuration accepts.
const RUN_LENGTH_ROWS_MAX: f64 = 1e9;
/// Recorded and given rates that differ by more than this factor are told of.
const RATE_FACTOR: f64 = 1.2;

/// Arguments of `hone drift calibrate`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone drift calibrate --data quiet.csv --false-alarms \"1 per 30 days\" --rate \"10/min\"\n\n\
    The recording should be quiet: hours or days in which nothing was wrong, at least 1000 rows, and two days if the values follow \
    the time of day. Delays are measured by adding a shift to 100 block-bootstrapped resamples of the recording; the same --seed \
    gives the same figures. psi is the population stability of one window, mean is ADWIN on guarded means, qt_ewma looks at whole \
    rows, e_sr at the losses of --loss.\n\n\
    Rates: \"10/min\", \"1 per 5 s\", \"100/s\", \"1/h\". False alarms: \"1 per 30 days\", \"2/week\", \"1 per 10000 rows\".\n\n\
    JSON keys: run_length_rows, window_rows, rows, seed, config (text for hone.toml), left_out [{name, reason}],\n\
    columns [{name, missing_rate, mean, deviation, correlation, block_rows, season {season, explained or hours}, mean_alarms,\n\
    windows [{window_rows, looks, above, largest_psi}], window_rows, quiet, quiet_rows, psi_false_alarms, mean_false_alarms,\n\
    delays [{test, shift, median_rows, p90_rows, median_s, p90_s, found, followed_rows}]}],\n\
    joint and loss (null without --loss) {delays [{test, shift, …}], quiet_rows, false_alarms, block_rows, silent, loss},\n\
    not_covered [{tests, reason}]; a delay that was not reached is null."
)]
pub struct Args {
    /// CSV file with a header, or one number per line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Columns to look at [default: all with numbers]
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    column: Vec<String>,
    /// Columns to leave out
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    ignore: Vec<String>,
    /// Column with the loss of each answer (0 right, 1 wrong, or between), for the delay of e_sr
    #[arg(long, value_name = "COLUMN")]
    loss: Option<String>,
    /// Column with the time of a row [default: rows come evenly at --rate]
    #[arg(long, value_name = "COLUMN")]
    time: Option<String>,
    /// How often a false alarm may be raised: "1 per 30 days", "1 per 10000 rows"
    #[arg(long, value_name = "TARGET")]
    false_alarms: FalseAlarms,
    /// How often a row comes in production: "10/min", "1 per 5 s"
    #[arg(long, value_name = "RATE")]
    rate: Rate,
    /// Seed of the resamples
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// A column with its figures.
struct Measured {
    name: String,
    column: Column,
    delays: Delays,
}

/// Columns of numbers by name.
type Named = Vec<(String, Vec<f64>)>;

/// What is not looked at, and why.
type LeftOut = Vec<(String, String)>;

/// Reads, measures and prints.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let columns = columns_of(&args.data)?;
    let file = args.data.display().to_string();
    let rows = columns.rows() as u64;
    if rows < ROWS_MIN {
        return Err(Fail::new(
            Exit::Input,
            format!("{file}: {rows} rows are too few: {} more are needed", ROWS_MIN - rows),
        )
        .hint("record for longer; the recording should show every state that is normal")
        .into());
    }
    let run_length_rows = args.false_alarms.rows(args.rate);
    if !(2.0..=RUN_LENGTH_ROWS_MAX).contains(&run_length_rows) {
        return Err(Fail::new(Exit::Usage, format!("a false alarm in {} rows cannot be promised", number(run_length_rows)))
            .hint("choose --false-alarms so that 2 to 1000000000 rows lie between two: \"1 per 30 days\", \"1 per 10000 rows\"")
            .into());
    }
    let times = times(&columns, args)?;
    let (named, mut left_out) = numbers(&columns, args)?;
    let wanted = Wanted { run_length_rows, features: named.len(), seed: args.seed };
    let mut surveyed = Vec::new();
    for (name, values) in named {
        match Column::new(&values, &times, &wanted) {
            Ok(column) => surveyed.push((name, column)),
            Err(short) => left_out.push((name, short.to_string())),
        }
    }
    // One window serves all features, so the one that needs the longest decides.
    let Some(window_rows) = surveyed.iter().map(|(_, column)| column.survey().window_rows).max() else {
        let parts: Vec<_> = left_out.iter().map(|(name, reason)| format!("`{name}`: {reason}")).collect();
        return Err(Fail::new(Exit::Input, format!("{file}: no column can be calibrated"))
            .hint(parts.join("; "))
            .into());
    };
    let measure = |(name, column): (String, Column)| {
        let delays = column.delays(window_rows, &wanted);
        Measured { name, column, delays }
    };
    let measured: Vec<_> = surveyed.into_iter().map(measure).collect();
    let wholes = Wholes::measure(&measured, &columns, args, &wanted)?;
    let config = config(&wanted, window_rows);
    if global.json {
        let mut facts = facts(&measured, &left_out, &wanted, window_rows, rows, &config, args.rate);
        wholes.facts(args.rate).into_iter().for_each(|(key, value)| facts[key] = value);
        println!("{facts}");
    } else {
        print(&measured, &left_out, &wanted, window_rows, rows, args.rate);
        wholes.print(args.rate);
        if let Some(recorded) = recorded_rate(args, &times, rows) {
            println!(
                "note: the recording has a row every {}, --rate says {}",
                duration(1.0 / recorded),
                duration(1.0 / args.rate.rows_per_s)
            );
        }
        println!("\n{config}");
    }
    Ok(())
}

/// The rows per second of the time column if they differ from those given.
fn recorded_rate(args: &Args, times: &[Timestamp], rows: u64) -> Option<f64> {
    args.time.as_ref()?;
    let span = times.last()?.0.checked_sub(times.first()?.0)?;
    #[expect(clippy::cast_precision_loss, reason = "row counts and microseconds of this century stay below 2^53")]
    let recorded = (rows - 1) as f64 / (span as f64 / 1e6);
    let factor = recorded / args.rate.rows_per_s;
    (factor.is_finite() && !(1.0 / RATE_FACTOR..=RATE_FACTOR).contains(&factor)).then_some(recorded)
}

/// Columns with numbers, and those left out with the reason.
fn numbers(columns: &Columns, args: &Args) -> Result<(Named, LeftOut)> {
    if !args.column.is_empty() {
        let named = args.column.iter().map(|name| columns.numbers(name).map(|values| (name.clone(), values)));
        return Ok((named.collect::<Result<_, _>>().map_err(unusable)?, Vec::new()));
    }
    let (mut named, mut left_out) = (Vec::new(), Vec::new());
    for name in columns.names() {
        if [args.time.as_deref(), args.loss.as_deref()].contains(&Some(name))
            || args.ignore.iter().any(|ignored| ignored == name)
        {
            continue;
        }
        match columns.column(name) {
            Ok(Cells::Numbers(values)) => named.push((name.to_owned(), values)),
            Ok(Cells::Texts(_)) | Err(CsvError::TooManyCategories { .. }) => {
                left_out.push((name.to_owned(), "text: there is no standard deviation to shift it by".to_owned()));
            }
            Err(error) => return Err(unusable(error).into()),
        }
    }
    Ok((named, left_out))
}

/// The time of each row: of its column, or evenly at the rate.
fn times(columns: &Columns, args: &Args) -> Result<Vec<Timestamp>> {
    let Some(name) = &args.time else {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "row counts; whole microseconds"
        )]
        let at = |row: usize| Timestamp((row as f64 / args.rate.rows_per_s * 1e6) as i64);
        return Ok((0..columns.rows()).map(at).collect());
    };
    let texts = columns.texts(name, "--time").map_err(unusable)?;
    let mut times: Vec<Timestamp> = Vec::with_capacity(texts.len());
    for (row, text) in texts.into_iter().enumerate() {
        let place = || format!("{}:{}", args.data.display(), columns.line(row));
        let Some(at) = text.as_deref().and_then(clock::moment) else {
            let shown: String = text.unwrap_or_default().chars().take(40).collect();
            return Err(Fail::new(Exit::Input, format!("{}: `{shown}` in column `{name}` is no time", place()))
                .hint("write 2026-11-21T06:00:00Z, 2026-11-21 06:00:00, or seconds as a number; or leave --time away")
                .into());
        };
        if times.last().is_some_and(|before| at.0 < before.0) {
            return Err(Fail::new(Exit::Input, format!("{}: the time in column `{name}` goes back", place()))
                .hint("sort the rows by time, or leave --time away")
                .into());
        }
        times.push(at);
    }
    Ok(times)
}

fn config(wanted: &Wanted, window_rows: u32) -> String {
    format!(
        "[cycle.watch]\nrun_length_rows = {:.1}\n\n[cycle.watch.columns]\nwindow_rows = {window_rows}\n",
        wanted.run_length_rows
    )
}

fn facts(
    measured: &[Measured],
    left_out: &LeftOut,
    wanted: &Wanted,
    window_rows: u32,
    rows: u64,
    config: &str,
    rate: Rate,
) -> Value {
    let columns = measured.iter().map(|Measured { name, column, delays }| {
        let survey = column.survey();
        #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
        let time = |rows: Option<u64>| rows.map(|rows| rows as f64 / rate.rows_per_s);
        let each = delays.delays.iter().map(|delay| {
            json!({
                "test": delay.test, "shift": delay.shift, "median_rows": delay.median_rows, "p90_rows": delay.p90_rows,
                "median_s": time(delay.median_rows), "p90_s": time(delay.p90_rows), "found": delay.found,
                "followed_rows": delay.followed_rows,
            })
        });
        json!({
            "name": name, "missing_rate": survey.missing_rate, "mean": survey.mean, "deviation": survey.deviation,
            "correlation": survey.correlation, "block_rows": survey.block_rows, "season": survey.season,
            "mean_alarms": survey.mean_alarms, "windows": survey.windows, "window_rows": survey.window_rows,
            "quiet": survey.quiet, "quiet_rows": delays.quiet_rows, "psi_false_alarms": delays.psi_false_alarms,
            "mean_false_alarms": delays.mean_false_alarms, "delays": each.collect::<Vec<_>>(),
        })
    });
    let left_out = left_out.iter().map(|(name, reason)| json!({"name": name, "reason": reason}));
    json!({
        "run_length_rows": wanted.run_length_rows, "window_rows": window_rows, "rows": rows,
        "seed": wanted.seed, "config": config, "left_out": left_out.collect::<Vec<_>>(),
        "columns": columns.collect::<Vec<_>>(),
    })
}

fn print(measured: &[Measured], left_out: &LeftOut, wanted: &Wanted, window_rows: u32, rows: u64, rate: Rate) {
    println!(
        "{rows} rows; one false alarm in {:.0} rows, which take {}\n",
        wanted.run_length_rows,
        duration(wanted.run_length_rows / rate.rows_per_s)
    );
    let each: Vec<_> = measured.iter().map(survey_row).collect();
    table(
        &[
            "COLUMN",
            "MEAN",
            "DEVIATION",
            "MISSING",
            "CORRELATION",
            "BLOCK ROWS",
            "SEASON",
            "WINDOW ROWS",
            "LARGEST PSI",
            "MEAN ALARMS",
        ],
        &each,
    );
    println!(
        "\nrows from a shift to the alarm with windows of {window_rows} rows: median, 90 % quantile, time at this rate"
    );
    let each: Vec<_> = measured.iter().flat_map(|measured| delay_rows(measured, rate)).collect();
    table(&["COLUMN", "TEST", "0.5 DEVIATIONS", "1 DEVIATION", "2 DEVIATIONS", "FALSE ALARMS BEFORE IT"], &each);
    println!("\n`-`: not found in {} rows by that share of {RESAMPLES} resamples", followed(measured));
    remarks(measured, left_out);
}

fn followed(measured: &[Measured]) -> u64 {
    measured.iter().flat_map(|measured| &measured.delays.delays).map(|delay| delay.followed_rows).max().unwrap_or(0)
}

fn survey_row(measured: &Measured) -> Vec<String> {
    let survey = measured.column.survey();
    let last = survey.windows.last();
    vec![
        measured.name.clone(),
        number(survey.mean),
        number(survey.deviation),
        format!("{:.1} %", 100.0 * survey.missing_rate),
        format!("{:.2}", survey.correlation),
        survey.block_rows.to_string(),
        match survey.season {
            Season::Daily { explained } => format!("daily, {:.0} %", 100.0 * explained),
            Season::None { .. } => "none".to_owned(),
            Season::TooShort { .. } => "?".to_owned(),
        },
        format!("{}{}", survey.window_rows, if survey.quiet { "" } else { " !" }),
        last.map_or_else(|| "-".to_owned(), |trial| format!("{:.3}", trial.largest_psi)),
        survey.mean_alarms.to_string(),
    ]
}

fn delay_rows(measured: &Measured, rate: Rate) -> Vec<Vec<String>> {
    let delays = &measured.delays;
    let tests = [(Test::Psi, "psi", delays.psi_false_alarms), (Test::Mean, "mean", delays.mean_false_alarms)];
    let rows = |(test, word, false_alarms): (Test, &str, u64)| {
        let cells = delays.delays.iter().filter(|delay| delay.test == test).map(|delay| {
            let rows = |rows: Option<u64>| rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
            #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
            let time = delay
                .median_rows
                .map_or_else(String::new, |rows| format!(" ({})", duration(rows as f64 / rate.rows_per_s)));
            format!("{}, {}{time}", rows(delay.median_rows), rows(delay.p90_rows))
        });
        let head = [measured.name.clone(), word.to_owned()];
        let tail = [format!("{false_alarms} in {} rows", delays.quiet_rows)];
        head.into_iter().chain(cells).chain(tail).collect::<Vec<_>>()
    };
    if delays.delays.is_empty() { Vec::new() } else { tests.map(rows).to_vec() }
}

fn remarks(measured: &[Measured], left_out: &LeftOut) {
    for Measured { name, column, .. } in measured {
        let Survey { quiet, deviation, season, mean_alarms, windows, .. } = column.survey();
        if *deviation == 0.0 {
            println!("{name}: constant, so no shift can be measured; any other value is drift");
        }
        if !quiet {
            let above = windows.last().map_or(0, |trial| trial.above);
            println!(
                "{name}: ! psi alone exceeds its limit at {above} of {} looks: the recording is not quiet, or too short",
                windows.last().map_or(0, |trial| trial.looks)
            );
        }
        if *mean_alarms > 0 {
            println!(
                "{name}: the mean moved {mean_alarms} times in this recording (guarded ADWIN): look at it with `hone drift scan`"
            );
        }
        if let Season::TooShort { hours } = season {
            println!("{name}: {hours} h are too few to tell a daily season: {SPAN_HOURS_MIN} h are needed");
        }
    }
    for (name, reason) in left_out {
        println!("left out: {name}, {reason}");
    }
}
