//! `hone drift compare`: how far one recording lies from another, column by column.
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::super::Global;
use super::super::ask::table;
use super::super::exit::{Exit, Fail};
use super::{columns_of, listed, unusable};
use crate::decide::drift::compare::{Comparison, Pair, Rule, Tally, Verdict, compare};
use crate::decide::drift::distances::VERDICT_ROWS_MIN;
use crate::shell::ingest::csv::CsvError;
use crate::shell::ingest::csv::columns::{Cells, Columns};

/// Arguments of `hone drift compare`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone drift compare --reference january.csv --current june.csv --column temp\n\n\
    A file is a CSV file with a header, or one number per line (column `value`). A column of texts is compared by category.\n\
    PSI: population stability index on the deciles of the reference; without drift it is about the number beside it.\n\
    JS: Jensen-Shannon distance. TVD: total variation distance. KS: largest gap of the distribution functions.\n\n\
    JSON keys: rule {psi, level, rows_min}; columns [{name, kind, verdict (drift, notice, none, too_few_rows),\n\
    reference {rows, missing, infinite}, current {rows, missing, infinite}, unseen, psi, psi_without_drift, js, tvd,\n\
    hellinger, ks_binned, ks, ks_p, wasserstein, energy, cramer_von_mises, chi_square_p, p (adjusted for all columns)}];\n\
    left_out [{name, reason}]. A number that does not exist is null.")]
pub struct Args {
    /// The recording that is taken for normal; `-` is standard input
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// The recording in question; `-` is standard input
    #[arg(long, value_name = "FILE")]
    current: PathBuf,
    /// Columns to compare [default: all]
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',', conflicts_with = "all")]
    column: Vec<String>,
    /// Compare every column that both files have
    #[arg(long)]
    all: bool,
    /// Columns to leave out
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    ignore: Vec<String>,
    /// PSI above which a difference is large
    #[arg(long, default_value_t = 0.25, value_parser = positive)]
    psi: f64,
    /// Accepted chance of any false verdict over all columns together
    #[arg(long, default_value_t = 0.01, value_parser = chance)]
    level: f64,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "give a number above 0, such as 0.25".to_owned())
}

fn chance(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && *number < 1.0);
    number.ok_or_else(|| "give a number between 0 and 1, such as 0.01".to_owned())
}

/// A column as both files hold it.
struct Both {
    name: String,
    reference: Cells,
    current: Cells,
}

/// A column that is not compared, and why.
struct LeftOut {
    name: String,
    reason: String,
}

/// Reads, compares and prints.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if args.reference.as_os_str() == "-" && args.current.as_os_str() == "-" {
        return Err(Fail::new(Exit::Usage, "both recordings cannot come from standard input")
            .hint("name a file for one of them")
            .into());
    }
    let (reference, current) = (columns_of(&args.reference)?, columns_of(&args.current)?);
    let (both, left_out) = if args.column.is_empty() {
        every(args, &reference, &current)?
    } else {
        let named = args.column.iter().map(|name| pair(name, &reference, &current).map_err(unusable));
        (named.collect::<Result<Vec<_>, _>>()?, Vec::new())
    };
    let rule = Rule { psi: args.psi, level: args.level };
    let found = compare(&both.iter().map(as_pair).collect::<Vec<_>>(), &rule);
    if global.json {
        println!("{}", facts(&both, &found, &left_out, &rule));
    } else {
        print(&both, &found, &left_out, &rule);
    }
    Ok(())
}

/// Every column of both files; what cannot be compared is named with its reason.
fn every(args: &Args, reference: &Columns, current: &Columns) -> Result<(Vec<Both>, Vec<LeftOut>)> {
    let (mut both, mut left_out) = (Vec::new(), Vec::new());
    let ignored = |name: &&str| !args.ignore.iter().any(|ignored| ignored == name);
    for name in reference.names().into_iter().filter(ignored) {
        if !current.names().contains(&name) {
            left_out.push(LeftOut { name: name.to_owned(), reason: "only in the reference".to_owned() });
            continue;
        }
        match pair(name, reference, current) {
            Ok(found) => both.push(found),
            Err(CsvError::TooManyCategories { .. }) => {
                let reason = "text with too many distinct values to be categories".to_owned();
                left_out.push(LeftOut { name: name.to_owned(), reason });
            }
            Err(error) => return Err(unusable(error).into()),
        }
    }
    for name in current.names().into_iter().filter(ignored) {
        if !reference.names().contains(&name) {
            left_out.push(LeftOut { name: name.to_owned(), reason: "only in the current recording".to_owned() });
        }
    }
    if both.is_empty() {
        let parts: Vec<_> = left_out.iter().map(|out| format!("`{}` {}", out.name, out.reason)).collect();
        return Err(Fail::new(Exit::Input, "the two recordings have no column that can be compared")
            .hint(format!("left out: {}", listed(parts.iter().map(String::as_str))))
            .into());
    }
    Ok((both, left_out))
}

/// A column that is text in either file is text in both.
fn pair(name: &str, reference: &Columns, current: &Columns) -> Result<Both, CsvError> {
    let (mut first, mut second) = (reference.column(name)?, current.column(name)?);
    let empty = |cells: &Cells| matches!(cells, Cells::Numbers(values) if values.iter().all(|value| value.is_nan()));
    match (&first, &second) {
        (Cells::Texts(_), Cells::Numbers(_)) if !empty(&second) => {
            second = Cells::Texts(current.texts(name, "--column")?)
        }
        (Cells::Numbers(_), Cells::Texts(_)) if !empty(&first) => {
            first = Cells::Texts(reference.texts(name, "--column")?)
        }
        (Cells::Texts(_), Cells::Numbers(values)) => second = Cells::Texts(vec![None; values.len()]),
        (Cells::Numbers(values), Cells::Texts(_)) => first = Cells::Texts(vec![None; values.len()]),
        _ => {}
    }
    Ok(Both { name: name.to_owned(), reference: first, current: second })
}

fn as_pair(both: &Both) -> Pair<'_> {
    match (&both.reference, &both.current) {
        (Cells::Numbers(reference), Cells::Numbers(current)) => Pair::Numbers { reference, current },
        (Cells::Texts(reference), Cells::Texts(current)) => Pair::Texts { reference, current },
        // `pair` has made them equal in kind.
        (Cells::Numbers(_), Cells::Texts(current)) => Pair::Texts { reference: &[], current },
        (Cells::Texts(reference), Cells::Numbers(_)) => Pair::Texts { reference, current: &[] },
    }
}

fn facts(both: &[Both], found: &[Comparison], left_out: &[LeftOut], rule: &Rule) -> Value {
    let columns = both.iter().zip(found).map(|(column, found)| {
        let binned = found.distances;
        let values = found.values;
        json!({
            "name": column.name,
            "kind": if matches!(column.reference, Cells::Numbers(_)) { "number" } else { "category" },
            "verdict": found.verdict,
            "reference": found.reference,
            "current": found.current,
            "unseen": found.unseen,
            "psi": binned.map(|reading| reading.psi.psi),
            "psi_without_drift": binned.map(|reading| reading.psi.null_mean),
            "js": binned.map(|reading| reading.jensen_shannon),
            "tvd": binned.map(|reading| reading.total_variation),
            "hellinger": binned.map(|reading| reading.hellinger),
            "ks_binned": binned.map(|reading| reading.binned_ks),
            "ks": values.map(|(values, _)| values.ks),
            "ks_p": values.map(|(_, p)| p),
            "wasserstein": values.map(|(values, _)| values.wasserstein),
            "energy": values.map(|(values, _)| values.energy),
            "cramer_von_mises": values.map(|(values, _)| values.cramer_von_mises),
            "chi_square_p": binned.map(|reading| reading.psi.p),
            "p": found.adjusted_p,
        })
    });
    let left_out = left_out.iter().map(|out| json!({"name": out.name, "reason": out.reason}));
    json!({
        "rule": {"psi": rule.psi, "level": rule.level, "rows_min": VERDICT_ROWS_MIN},
        "columns": columns.collect::<Vec<_>>(),
        "left_out": left_out.collect::<Vec<_>>(),
    })
}

fn print(both: &[Both], found: &[Comparison], left_out: &[LeftOut], rule: &Rule) {
    let mut order: Vec<usize> = (0..found.len()).collect();
    let psi = |index: usize| found[index].distances.map_or(-1.0, |reading| reading.psi.psi);
    order.sort_by(|a, b| psi(*b).total_cmp(&psi(*a)));
    let rows: Vec<_> = order.iter().map(|&index| row(&both[index].name, &found[index])).collect();
    table(
        &[
            "COLUMN",
            "VERDICT",
            "PSI",
            "NO DRIFT",
            "JS",
            "TVD",
            "HELLINGER",
            "KS BINNED",
            "KS",
            "KS P",
            "CHI2 P",
            "P",
            "ROWS",
            "MISSING",
            "INFINITE",
        ],
        &rows,
    );
    println!(
        "\ndrift: psi above {} and p at most {}; notice: p at most {} alone; no verdict below {VERDICT_ROWS_MIN} usable rows \
         on either side\np is the chi-square p adjusted for all columns together (Holm): it assumes independent rows, `hone \
         drift calibrate` tells whether they are",
        rule.psi, rule.level, rule.level
    );
    for (column, found) in both.iter().zip(found).filter(|(_, found)| found.unseen > 0) {
        println!("{}: {} rows hold a category the reference does not know", column.name, found.unseen);
    }
    for out in left_out {
        println!("left out: {}, {}", out.name, out.reason);
    }
}

fn row(name: &str, found: &Comparison) -> Vec<String> {
    let three = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let (binned, values) = (found.distances, found.values);
    let verdict = match found.verdict {
        Verdict::Drift => "drift",
        Verdict::Notice => "notice",
        Verdict::None => "none",
        Verdict::TooFewRows => "too few rows",
    };
    let pair = |of: fn(Tally) -> u64| format!("{}/{}", of(found.reference), of(found.current));
    vec![
        name.to_owned(),
        verdict.to_owned(),
        three(binned.map(|reading| reading.psi.psi)),
        three(binned.map(|reading| reading.psi.null_mean)),
        three(binned.map(|reading| reading.jensen_shannon)),
        three(binned.map(|reading| reading.total_variation)),
        three(binned.map(|reading| reading.hellinger)),
        three(binned.map(|reading| reading.binned_ks)),
        three(values.map(|(values, _)| values.ks)),
        probability(values.map(|(_, p)| p)),
        probability(binned.map(|reading| reading.psi.p)),
        probability(found.adjusted_p),
        pair(|tally| tally.rows),
        pair(|tally| tally.missing),
        pair(|tally| tally.infinite),
    ]
}

/// A p-value, short.
pub(super) fn probability(p: Option<f64>) -> String {
    match p {
        None => "-".to_owned(),
        Some(p) if p < 1e-9 => "<1e-9".to_owned(),
        Some(p) if p < 0.001 => format!("{p:.0e}"),
        Some(p) => format!("{p:.3}"),
    }
}
