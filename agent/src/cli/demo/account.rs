//! The live account of a demonstration: plain lines when piped, colour and a moving line on a terminal.
use std::io::{IsTerminal as _, Write as _};

use serde_json::{Value, json};
use trainer_core::evaluate::Metrics;

use super::Summary;
use super::gateway::Gateway;

/// Writes a line; a closed pipe ends the demonstration, not with a panic.
macro_rules! say {
    ($($text:tt)*) => {
        if writeln!(std::io::stdout(), $($text)*).is_err() {
            super::STOP.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    };
}

/// Columns of the two little curves.
const CURVE: usize = 40;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Who tells.
pub(super) struct Account {
    manner: Manner,
    curves: [Vec<f64>; 2],
    /// Looks since the curves last moved.
    looks: usize,
    promotions: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Live,
    Plain,
    Json,
}

#[derive(Clone, Copy)]
enum Tone {
    World,
    Bad,
    Work,
    Good,
}

impl Account {
    pub(super) fn new(json: bool) -> Self {
        let live = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let manner = if json {
            Manner::Json
        } else if live {
            Manner::Live
        } else {
            Manner::Plain
        };
        Self { manner, curves: [Vec::new(), Vec::new()], looks: 0, promotions: 0 }
    }

    pub(super) fn title(&self, gateway: &Gateway) {
        if self.manner != Manner::Json {
            say!("hone demo: {}", gateway.name);
            say!("nothing leaves this machine; everything is removed at the end");
        }
    }

    pub(super) fn step(&self, number: usize, text: &str) {
        match self.manner {
            Manner::Live => say!("\n\x1b[1m{number}  {text}\x1b[0m"),
            Manner::Plain => say!("\n{number}  {text}"),
            Manner::Json => {}
        }
    }

    pub(super) fn say(&self, text: &str) {
        if self.manner != Manner::Json {
            say!("   {text}");
        }
    }

    pub(super) fn world(&self, row: usize, text: &str) {
        self.line(row, "world", Tone::World, text);
    }

    /// One of the agent's reports, in words.
    pub(super) fn report(&mut self, row: usize, entry: &Value) {
        let report = &entry["report"];
        let text = |key: &str| report[key].as_str().unwrap_or_default();
        let short = |key: &str| text(key).chars().take(12).collect::<String>();
        match entry["kind"].as_str().unwrap_or_default() {
            // Notices are in `hone drift`; the account tells of alarms.
            "drift" => {
                if let Some(said) = drift(report) {
                    self.line(row, "drift", Tone::Bad, &said);
                }
            }
            "retrain" => {
                let order = &report["order"];
                let rows = &order["rows"];
                let what = match order["task"]["train"]["strategy"].as_str() {
                    Some(strategy) => format!("run {}: train `{strategy}`", order["run"]),
                    None => format!("run {}: compare the offered model", order["run"]),
                };
                let held = format!("{} labelled rows, the newest {} held out", rows["newest"], rows["holdout"]);
                self.line(row, "retrain", Tone::Work, &format!("{what}; {held}"));
            }
            "gate" => {
                let passed = report["verdict"]["passed"] == true;
                self.line(row, "gate", if passed { Tone::Work } else { Tone::Bad }, text("sentence"));
            }
            "canary_step" => {
                let share = report["share"].as_u64();
                let what = share.map_or_else(
                    || {
                        format!(
                            "{} is computed on every sample beside the champion, which goes on answering",
                            short("challenger")
                        )
                    },
                    |share| format!("{} answers {share} % of the samples", short("challenger")),
                );
                self.line(row, if share.is_some() { "canary" } else { "shadow" }, Tone::Work, &what);
            }
            "trial_ended" => {
                self.line(
                    row,
                    "trial",
                    Tone::Bad,
                    &format!("{} does not serve: {}", short("challenger"), text("sentence")),
                );
            }
            "trial_won" => {
                let standing = &report["standing"];
                let what = format!(
                    "{} is not worse: evidence {:.0} after {} samples, {} labels of those that differed",
                    short("challenger"),
                    standing["promote_e"].as_f64().unwrap_or(0.0).min(1e6),
                    standing["pairs"],
                    standing["labelled"]
                );
                self.line(row, "trial", Tone::Good, &what);
            }
            "promote" => {
                self.promotions += 1;
                self.line(
                    row,
                    "promote",
                    Tone::Good,
                    &format!("{} serves; {} is kept to fall back to", short("to"), short("from")),
                );
            }
            "rollback" => self.line(row, "rollback", Tone::Bad, &format!("{} serves again", short("to"))),
            "waiting" => {
                self.line(row, "waiting", Tone::Work, &format!("{} more labels are needed", report["missing"]))
            }
            "failed" => self.line(row, "failed", Tone::Bad, text("reason")),
            _ => {}
        }
    }

    /// How many promotions were told.
    pub(super) fn promotions(&self) -> usize {
        self.promotions
    }

    fn line(&self, row: usize, word: &str, tone: Tone, text: &str) {
        match self.manner {
            Manner::Live => {
                let colour = match tone {
                    Tone::World => 36,
                    Tone::Bad => 33,
                    Tone::Work => 34,
                    Tone::Good => 32,
                };
                say!("\r\x1b[2K   {row:>6}  \x1b[{colour}m{word:<8}\x1b[0m {text}");
            }
            Manner::Plain => say!("   {row:>6}  {word:<8} {text}"),
            Manner::Json => say!("{}", json!({"row": row, "event": word, "text": text})),
        }
    }

    /// The moving line: share of right answers over the last rows, with and without hone.
    pub(super) fn live(&mut self, row: usize, rows: usize, with: f64, without: f64) {
        self.looks += 1;
        if self.manner == Manner::Plain && self.looks.is_multiple_of(60) {
            say!("   {row:>6}  quality  {with:.2} with hone, {without:.2} without, over the last rows");
        }
        if self.manner != Manner::Live {
            return;
        }
        if self.looks % 8 == 1 {
            for (curve, value) in self.curves.iter_mut().zip([with, without]) {
                if curve.len() == CURVE {
                    curve.remove(0);
                }
                curve.push(value);
            }
        }
        let [first, second] = &self.curves;
        let _ = write!(
            std::io::stdout(),
            "\r\x1b[2K   {row:>6} of {rows}  with hone \x1b[32m{} {with:.2}\x1b[0m  without \x1b[33m{} {without:.2}\x1b[0m",
            bars(&first[first.len().saturating_sub(CURVE / 2)..]),
            bars(&second[second.len().saturating_sub(CURVE / 2)..]),
        );
        let _ = std::io::stdout().flush();
    }

    /// Ends the moving line.
    pub(super) fn end_live(&self) {
        if self.manner == Manner::Live {
            say!();
        }
    }

    pub(super) fn summary(&mut self, summary: &Summary) {
        let (name, with, without) = figures(summary);
        if self.manner == Manner::Json {
            let text = json!({
                "measure": name, "with_hone": with, "without_hone": without, "retrains": summary.retrains,
                "promotions": summary.promotions, "train_cpu_s": summary.cpu_s, "joules_modelled": summary.joules_modelled,
                "poisoned": "refused", "verdict": summary.refused, "refused_samples": summary.refused_samples,
            });
            say!("{text}");
            return;
        }
        self.step(5, "what it was worth");
        say!("   {name:<28}{with:>8.3} with hone{without:>10.3} without");
        say!(
            "   {:<28}{:>8} trainings, {} promoted, each only after it won on held-out rows",
            "retrains",
            summary.retrains,
            summary.promotions
        );
        say!("   {:<28}{:>8.2} s in all", "CPU of all trainings", summary.cpu_s);
        say!(
            "   {:<28}{:>8.2} J, modelled from multiply-adds, not measured",
            "energy of all trainings",
            summary.joules_modelled
        );
        say!("   {:<28}{}", "the bad candidate was", summary.refused);
        if summary.refused_samples > 0 {
            say!("   {:<28}{:>8}", "samples refused", summary.refused_samples);
        }
        say!("\nNext: `hone backtest --help` compares policies on your own recording.");
    }
}

/// The last alarm of a report, in words; none if it only gives notice.
fn drift(report: &Value) -> Option<String> {
    let findings = report["findings"].as_array()?;
    let finding = findings.iter().rev().find(|finding| finding["grade"] == "alarm")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (watcher, name) = (text(&finding["watcher"]), text(&finding["measure"]["name"]));
    let (statistic, limit) = (number(&finding["statistic"]), number(&finding["threshold"]));
    Some(match finding["measure"]["of"].as_str().unwrap_or_default() {
        "feature" => format!("{name} moved ({watcher}: {statistic:.2}, limit {limit:.2})"),
        "features" if watcher == "psi" => {
            let strongest = finding["picture"]["strongest"].as_array();
            let names: Vec<_> = strongest
                .into_iter()
                .flatten()
                .take(3)
                .map(|pair| format!("{} (PSI {:.2})", text(&pair[0]), number(&pair[1])))
                .collect();
            format!("{:.0} % of the inputs moved: {}", 100.0 * statistic, names.join(", "))
        }
        "features" | "embedding" => format!("the inputs together moved ({watcher}: {statistic:.2}, limit {limit:.2})"),
        "missing" => format!("{name} is missing more often"),
        "out_of_range" => format!("{name} is out of its range more often"),
        "score" | "predicted_class" => format!("the answers moved ({watcher}: {statistic:.2}, limit {limit:.2})"),
        "segment" => format!("the errors of segment {name} rose ({statistic:.0}, limit {limit:.0})"),
        _ => format!("the errors rose ({watcher}: {statistic:.0}, limit {limit:.0})"),
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn figures(summary: &Summary) -> (&'static str, f64, f64) {
    let figure = |metrics: &Option<Metrics>| match metrics {
        Some(Metrics::Classification { accuracy, .. }) => ("accuracy", *accuracy),
        Some(Metrics::Regression { rmse, .. }) => ("RMSE, lower is better", *rmse),
        None => ("accuracy", f64::NAN),
    };
    (figure(&summary.with).0, figure(&summary.with).1, figure(&summary.without).1)
}

/// Values between 0.4 and 1 as bars.
fn bars(values: &[f64]) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the eight bars")]
    let bar = |value: &f64| BARS[(((value - 0.4) / 0.6 * 7.0).round().clamp(0.0, 7.0)) as usize];
    values.iter().map(bar).collect()
}
