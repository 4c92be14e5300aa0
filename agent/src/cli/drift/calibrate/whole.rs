//! The part of `hone drift calibrate` about the tests that look at whole rows, and at losses.
use serde_json::{Value, json};

use super::super::super::ask::table;
use super::super::units::{Rate, duration};
use super::{Args, Measured};
use crate::cli::exit::{Exit, Fail};
use crate::decide::watch::calibrate::whole::{WHOLE_RESAMPLES, Whole, joint, losses};
use crate::decide::watch::calibrate::{RESAMPLES, Test, Wanted};
use crate::shell::ingest::csv::columns::Columns;

/// What is not measured here, and why: no test is left out in silence.
pub(super) const NOT_COVERED: [(&str, &str); 4] = [
    (
        "segments",
        "each segment is watched as the loss is, against its own first labels: calibrate with --loss on the rows of one segment; with n \
         segments its run length is n times as long, which adds some labels to the delay",
    ),
    (
        "prediction",
        "the score and the answered class are watched as psi watches a column: put recorded scores into the file as a column",
    ),
    ("quality", "gaps and values out of range are rates, so there is no deviation to shift them by"),
    (
        "adwin, page_hinkley, ddm, eddm, hddm_a, hddm_w, fhddm, kswin, newma, cbpe",
        "they are for comparison and promise no run length that could be set",
    ),
];

/// What QT-EWMA does on the whole rows, and e-SR on the losses, if there are any.
pub(super) struct Wholes {
    joint: Whole,
    loss: Option<Whole>,
}

impl Wholes {
    /// Measures both.
    pub(super) fn measure(
        measured: &[Measured],
        columns: &Columns,
        args: &Args,
        wanted: &Wanted,
    ) -> anyhow::Result<Self> {
        let all: Vec<_> = measured.iter().map(|measured| &measured.column).collect();
        let loss = args.loss.as_ref().map(|name| -> anyhow::Result<Whole> {
            let values = columns.numbers_of(name, "--loss").map_err(super::super::unusable)?;
            losses(&values, wanted).map_err(|error| {
                Fail::new(Exit::Input, format!("{}: column `{name}`", args.data.display()))
                    .because(error)
                    .hint("--loss takes a column with the loss of each answer: 0 for right and 1 for wrong, or min(|error| / deviation, 4) / 4")
                    .into()
            })
        });
        Ok(Self { joint: joint(&all, wanted), loss: loss.transpose()? })
    }

    /// For `--json`.
    pub(super) fn facts(&self, rate: Rate) -> [(&'static str, Value); 3] {
        let whole = |whole: &Whole| {
            let mut facts = serde_json::to_value(whole).unwrap_or_default();
            for delay in facts["delays"].as_array_mut().into_iter().flatten() {
                for (rows, seconds) in [("median_rows", "median_s"), ("p90_rows", "p90_s")] {
                    delay[seconds] = json!(delay[rows].as_f64().map(|rows| rows / rate.rows_per_s));
                }
            }
            facts
        };
        let not_covered = NOT_COVERED.iter().map(|(tests, why)| json!({"tests": tests, "reason": why}));
        [
            ("joint", whole(&self.joint)),
            ("loss", self.loss.as_ref().map_or(Value::Null, whole)),
            ("not_covered", not_covered.collect()),
        ]
    }

    /// For people.
    pub(super) fn print(&self, rate: Rate) {
        println!("\nthe tests that look at whole rows, and at losses: median, 90 % quantile, time at this rate");
        let kinds = [
            (Test::QtEwmaOne, "qt_ewma", "one column", Some(&self.joint)),
            (Test::QtEwmaAll, "qt_ewma", "all columns", Some(&self.joint)),
            (Test::ESr, "e_sr", "mean loss, in labels", self.loss.as_ref()),
        ];
        let each: Vec<_> = kinds
            .into_iter()
            .filter_map(|(test, word, what, whole)| Some(delay_row(test, [word, what], whole?, rate)))
            .collect();
        table(
            &["TEST", "WHAT MOVES", "0.5 DEVIATIONS", "1 DEVIATION", "2 DEVIATIONS", "FALSE ALARMS BEFORE IT"],
            &each,
        );
        println!("\n`-`: not found in 5000 rows by that share of {WHOLE_RESAMPLES} resamples (e_sr: {RESAMPLES})");
        match (&self.joint.silent, self.joint.block_rows) {
            (Some(silent), _) => println!("qt_ewma: no verdict on rows like these: {silent}"),
            (None, Some(rows)) if rows > 1 => println!("qt_ewma: rows follow each other, so one in {rows} is tested"),
            (None, _) => {}
        }
        match self.loss.as_ref().and_then(|whole| whole.loss) {
            Some(loss) => {
                println!(
                    "e_sr: mean loss {:.4}, deviation {:.4}, bound from {} labels as after a promotion",
                    loss.mean, loss.deviation, loss.calibration_labels
                );
                if loss.correlation > 0.1 {
                    println!(
                        "e_sr: ! errors come in runs (correlation {:.2}): the run length is not kept, raise run_length_rows or combine tests",
                        loss.correlation
                    );
                }
            }
            None => println!("e_sr: not measured: name a column with recorded losses by --loss"),
        }
        for (tests, why) in NOT_COVERED {
            println!("not measured: {tests}: {why}");
        }
    }
}

fn delay_row(test: Test, head: [&str; 2], whole: &Whole, rate: Rate) -> Vec<String> {
    let cells = whole.delays.iter().filter(|delay| delay.test == test).map(|delay| {
        let rows = |rows: Option<u64>| rows.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
        #[expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
        let time = |rows: u64| format!(" ({})", duration(rows as f64 / rate.rows_per_s));
        format!(
            "{}, {}{}",
            rows(delay.median_rows),
            rows(delay.p90_rows),
            delay.median_rows.map_or_else(String::new, time)
        )
    });
    let head = head.map(str::to_owned);
    let tail = [format!("{} in {} rows", whole.false_alarms, whole.quiet_rows)];
    head.into_iter().chain(cells).chain(tail).collect()
}
