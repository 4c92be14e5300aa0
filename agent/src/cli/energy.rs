//! `hone energy`: what retraining took, by day and week, by outcome and by run.
use anyhow::Result;
use serde_json::Value;

use super::Global;
use super::ask::{agent, fail, list, table, text};

/// Arguments of `hone energy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone energy --json | jq .week.joules")]
pub struct Args {}

/// Asks and prints.
pub fn run(_args: &Args, global: &Global) -> Result<()> {
    let energy = agent(global)?.get("/v1/energy").map_err(fail)?;
    if global.json {
        println!("{energy}");
        return Ok(());
    }
    let mut rows = Vec::new();
    for (key, name) in [("day", "last 24 hours"), ("week", "last 7 days"), ("kept", "all kept")] {
        let period = &energy[key];
        rows.push(total(name, period));
        for (outcome, sum) in period["by_outcome"].as_object().into_iter().flatten() {
            rows.push(total(&format!("  {outcome}"), sum));
        }
    }
    table(&["RETRAINING", "RUNS", "CPU S", "JOULES", "MEASURED", "WRITTEN MB"], &rows);
    let runs = list(&energy, "runs");
    if runs.is_empty() {
        println!("\nno retrain yet");
        return Ok(());
    }
    println!();
    let rows: Vec<_> = runs.iter().map(one).collect();
    table(
        &["RUN", "WHY", "STRATEGY", "ROWS", "CPU S", "JOULES", "GAIN, POINTS", "POINTS/J", "PAID BACK AFTER", "ENDED"],
        &rows,
    );
    println!("\n* modelled from CPU work, not measured");
    Ok(())
}

fn total(name: &str, sum: &Value) -> Vec<String> {
    let measured =
        sum["measured_share"].as_f64().map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0));
    vec![
        name.to_owned(),
        text(&sum["runs"]),
        number(&sum["cpu_s"], 1.0, 2),
        number(&sum["joules"], 1.0, 2),
        measured,
        number(&sum["bytes_written"], 1e-6, 2),
    ]
}

fn one(run: &Value) -> Vec<String> {
    let rows = run["break_even_rows"].as_f64().map_or_else(|| "-".to_owned(), |rows| format!("{rows:.0} labels"));
    vec![
        text(&run["run"]),
        text(&run["reason"]),
        text(&run["strategy"]),
        text(&run["rows"]),
        number(&run["cpu_s"], 1.0, 2),
        joules(run),
        gain(&run["holdout"]),
        number(&run["points_per_joule"], 1.0, 2),
        rows,
        text(&run["state"]),
    ]
}

/// Joules with their error, marked if no sensor stands behind them.
pub(super) fn joules(run: &Value) -> String {
    let Some(joules) = run["joules"].as_f64() else { return "-".to_owned() };
    let error = run["joules_error"].as_f64().map_or_else(String::new, |error| format!(" ± {error:.2}"));
    let mark = if run["joules_measured"] == true { "" } else { "*" };
    format!("{joules:.2}{error}{mark}")
}

/// A gain with its bounds, in points.
pub(super) fn gain(interval: &Value) -> String {
    let points = |key: &str| interval[key].as_f64().map(|value| value * 100.0);
    match (points("gain"), points("low"), points("high")) {
        (Some(gain), Some(low), Some(high)) => format!("{gain:+.2} [{low:+.2}, {high:+.2}]"),
        _ => "-".to_owned(),
    }
}

fn number(value: &Value, scale: f64, digits: usize) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{:.digits$}", value * scale))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_figure_that_no_sensor_measured_is_marked() {
        assert_eq!(joules(&json!({"joules": 4.0, "joules_error": 0.5, "joules_measured": true})), "4.00 ± 0.50");
        assert_eq!(joules(&json!({"joules": 4.0, "joules_measured": false})), "4.00*");
        assert_eq!(joules(&json!({"joules": null})), "-");
        assert_eq!(gain(&json!({"gain": 0.04, "low": -0.01, "high": 0.09})), "+4.00 [-1.00, +9.00]");
        assert_eq!(gain(&Value::Null), "-");
    }
}
