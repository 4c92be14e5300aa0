//! `hone run`: the daemon.
use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Result;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::Global;
use super::ask::places;
use super::exit::{Exit, Fail};
use crate::shell::daemon::{self, DaemonError, Options};
use crate::shell::memory;
use crate::shell::systemd::Journal;

/// Arguments of `hone run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone run --state-dir ./state --model model.safetensors\n\n\
    Answers on the socket and on 127.0.0.1:8600 (`agent.listen`) until SIGTERM or Ctrl-C.")]
pub struct Args {
    /// First model of a device that has none; ignored once it is known
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// End when the process that started this one ends
    #[arg(long, hide = true)]
    with_parent: bool,
    /// Where `/sys` and `/proc` are found
    #[arg(long, hide = true, value_name = "DIR", default_value = "/")]
    sensors_root: PathBuf,
    /// What vets models in place of this binary
    #[arg(long, hide = true, value_name = "FILE")]
    vetting_program: Option<PathBuf>,
}

/// Runs the daemon until it is told to stop.
pub fn run(args: &Args, global: &Global) -> Result<()> {
    if args.with_parent {
        let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    }
    memory::keep_heap_small();
    let (config, places) = places(global)?;
    log();
    let options = Options {
        config,
        places,
        model: args.model.clone(),
        sensors_root: args.sensors_root.clone(),
        vetting_program: args.vetting_program.clone(),
    };
    Ok(daemon::run(options).map_err(fail)?)
}

/// Fields for the journal, lines for everybody else.
fn log() {
    // Whoever embeds the agent may have a subscriber already.
    let _ = match Journal::behind_stderr() {
        Some(journal) => tracing_subscriber::registry().with(LevelFilter::INFO).with(journal).try_init(),
        None => tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .with_max_level(LevelFilter::INFO)
            .finish()
            .try_init(),
    };
}

fn fail(error: DaemonError) -> Fail {
    match &error {
        DaemonError::Store(store) => Fail::new(by_number(store.exit_code()), error),
        DaemonError::ReadModel { .. } => Fail::new(Exit::Input, error).hint("make a model with `hone train`"),
        DaemonError::Bundle { .. } => Fail::new(Exit::Bundle, error).hint("`hone model inspect FILE` says more"),
        DaemonError::OtherModel { .. } => {
            Fail::new(Exit::Refused, error).hint("start without --model, then offer it with `hone promote FILE`")
        }
        DaemonError::SocketInUse(_) => Fail::new(Exit::InUse, error).hint("stop it, or set `agent.socket`"),
        DaemonError::Listen { .. } => Fail::new(Exit::Config, error)
            .hint("set `agent.listen` to another port, or to \"off\", or `agent.socket` to another place"),
        DaemonError::Fleet(_) => {
            Fail::new(Exit::Config, error).hint("set the files of [mqtt], or `mqtt.broker` to \"off\"")
        }
        DaemonError::System(_) => Fail::new(Exit::Internal, error),
    }
}

fn by_number(code: u8) -> Exit {
    match code {
        5 => Exit::Bundle,
        6 => Exit::InUse,
        7 => Exit::Disk,
        _ => Exit::Internal,
    }
}
