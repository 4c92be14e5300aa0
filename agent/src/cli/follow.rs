//! Follows the running agent: redraws on a terminal, prints what changed into a pipe, until Ctrl-C.
use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::Global;
use super::ask::{agent, fail};
use super::exit::{Exit, Fail};

/// Options of commands that can follow the agent.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct FollowArgs {
    /// Follow the agent until Ctrl-C: redraw on a terminal; into a pipe print changed lines, or with --json one object for
    /// each change
    #[arg(long)]
    watch: bool,
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds, requires = "watch")]
    every: Duration,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.1..=86_400.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "give seconds from 0.1 to 86400, such as 2".to_owned())
}

/// Asks the agent for `path` once, or again and again, and prints the answer as JSON or as `draw` draws it.
///
/// # Errors
/// The agent cannot be reached or refuses; while following too.
pub(super) fn show(path: &str, args: &FollowArgs, global: &Global, draw: impl Fn(&Value) -> String) -> Result<()> {
    let client = agent(global)?;
    if !args.watch {
        let answer = client.get(path).map_err(fail)?;
        if global.json {
            println!("{answer}");
        } else {
            print!("{}", draw(&answer));
        }
        return Ok(());
    }
    let failed =
        |error: std::io::Error| Fail::new(Exit::Internal, "this system gives no signals or timers").because(error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let mut interrupt = {
        let _inside = runtime.enter();
        signal(SignalKind::interrupt()).map_err(failed)?
    };
    let mut screen = Screen { terminal: std::io::stdout().is_terminal(), every: args.every, seen: BTreeSet::new() };
    loop {
        let answer = client.get(path).map_err(fail)?;
        screen.show(&answer, global.json, &draw);
        let ended = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => true,
                () = tokio::time::sleep(args.every) => false,
            }
        });
        if ended {
            return Ok(());
        }
    }
}

/// Where the pictures go.
struct Screen {
    terminal: bool,
    every: Duration,
    /// Lines of the picture before.
    seen: BTreeSet<String>,
}

impl Screen {
    fn show(&mut self, answer: &Value, json: bool, draw: &impl Fn(&Value) -> String) {
        if self.terminal && !json {
            let text = draw(answer);
            // Home, draw, clear what was longer before: no flicker.
            let lines = text.replace('\n', "\x1b[K\n");
            print!("\x1b[H{lines}\x1b[K\nevery {} s, Ctrl-C ends\x1b[J", self.every.as_secs_f64());
        } else {
            let lasting = lasting(answer);
            let text = if json { lasting.to_string() } else { draw(&lasting) };
            let fresh = changed(&self.seen, &text);
            if json && !fresh.is_empty() {
                println!("{answer}");
            } else {
                fresh.iter().for_each(|line| println!("{line}"));
            }
            self.seen = text.lines().map(str::to_owned).collect();
        }
        // A reader that has gone ends the next print.
        let _ = std::io::stdout().flush();
    }
}

/// The answer without what changes by itself.
fn lasting(answer: &Value) -> Value {
    let mut answer = answer.clone();
    if let Some(object) = answer.as_object_mut() {
        object.remove("uptime_s");
    }
    answer
}

/// Lines of `text` that the picture before did not have; empty lines are none.
fn changed<'a>(before: &BTreeSet<String>, text: &'a str) -> Vec<&'a str> {
    text.lines().filter(|line| !line.is_empty() && !before.contains(*line)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_lines_that_changed_are_told_again_and_time_alone_is_no_change() {
        let before = "a  1\n\nb  2\n".lines().map(str::to_owned).collect();
        assert_eq!(changed(&before, "a  1\n\nb  3\nc  4\n"), ["b  3", "c  4"]);
        assert_eq!(lasting(&json!({"uptime_s": 1, "samples": 5})), lasting(&json!({"uptime_s": 2, "samples": 5})));
    }

    #[test]
    fn a_pause_is_a_number_of_seconds_within_a_day() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "nan", "inf", "1e9", "two"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
