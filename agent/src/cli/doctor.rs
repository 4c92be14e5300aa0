//! `hone doctor`: looks this gateway over and says what each missing thing costs.
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;

use super::Global;
use super::exit::{Exit, Fail};
use crate::config::Config;
use crate::shell::clock;
use crate::shell::doctor::{self, Finding, Level, Subject};
use crate::shell::paths::{self, Surroundings};

/// Arguments of `hone doctor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: sudo hone doctor\n\nChanges nothing; with a fleet configured and the agent not connected, it connects once and \
    reports one empty set of metrics. Exit codes: 0 nothing is broken (warnings may be), 3 the configuration is refused, 9 \
    something does not work."
)]
pub struct Args {
    /// Where `/sys`, `/proc`, `/etc` and the state directory are found
    #[arg(long, hide = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Looks, prints, and ends by the worst finding.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    let (config, refused) = match paths::load(global.config.as_deref()) {
        Ok(config) => (config, None),
        Err(error) => (Config::default(), Some(error.to_string())),
    };
    let places = Surroundings::read().places(global.state_dir.as_deref(), &config);
    let subject = Subject { root: &args.root, config: &config, places: &places, now: clock::now() };
    let mut found = vec![configuration(global.config.as_deref(), refused.as_deref())];
    found.extend(doctor::examine(&subject));
    let worst = found.iter().map(|finding| finding.level).max().unwrap_or(Level::Good);
    if global.json {
        println!("{}", json!({"worst": worst, "findings": found}));
    } else {
        found.iter().for_each(print);
    }
    match (&refused, worst) {
        (Some(error), _) => {
            Err(Fail::new(Exit::Config, error).hint("everything else was looked at with the defaults").into())
        }
        (None, Level::Bad) => {
            let bad = found.iter().filter(|finding| finding.level == Level::Bad).count();
            Err(Fail::new(Exit::Refused, format!("{bad} of {} checks found something broken", found.len()))
                .hint("each line above that begins with `bad` says what to do")
                .into())
        }
        _ => Ok(()),
    }
}

fn configuration(file: Option<&Path>, refused: Option<&str>) -> Finding {
    let (level, found) = match refused {
        None => {
            let file = file.unwrap_or(Path::new(paths::CONFIG_FILE));
            let there = if file.exists() { "is understood" } else { "is not there: every setting has its default" };
            (Level::Good, format!("{} {there}", file.display()))
        }
        Some(error) => (Level::Bad, error.to_owned()),
    };
    let bad = level == Level::Bad;
    Finding {
        check: "config",
        level,
        found,
        costs: bad.then(|| "the agent does not start".to_owned()),
        next: bad.then(|| "mend the line that is named; `hone init` prints every setting".to_owned()),
    }
}

fn print(finding: &Finding) {
    let Finding { check, level, found, costs, next } = finding;
    let word = match level {
        Level::Good => "good",
        Level::Note => "note",
        Level::Warning => "warning",
        Level::Bad => "bad",
    };
    println!("{word:<8} {check:<11} {found}");
    for (what, text) in [("costs", costs), ("next", next)] {
        if let Some(text) = text {
            println!("{:<8} {:<11} {what}: {text}", "", "");
        }
    }
}
