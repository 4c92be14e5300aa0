//! The command line: parse, ask, print. One file per subcommand.
pub mod approve;
mod ask;
pub mod backtest;
pub mod backup;
pub mod canary;
pub mod chart;
pub mod demo;
pub mod doctor;
pub mod drift;
pub mod energy;
pub mod exit;
pub mod explain;
pub mod follow;
pub mod init;
mod input;
pub mod join;
pub mod label;
pub mod lineage;
pub mod model;
pub mod models;
mod prices;
pub mod promote;
pub mod purge;
pub mod rebaseline;
pub mod records;
pub mod replay;
pub mod reproduce;
pub mod restore;
pub mod retrain;
pub mod rollback;
pub mod run;
pub mod snapshot;
pub mod status;
pub mod train;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

use exit::Exit;

/// Keeps a small model sharp on an edge gateway.
#[derive(Debug, Parser)]
#[command(
    name = "hone",
    version,
    about,
    propagate_version = true,
    after_help = "Try it: `hone demo` shows the whole loop on this machine in two minutes.\n\n\
        Exit codes: 0 ok, 1 internal, 2 usage, 3 configuration, 4 input data, 5 bundle, 6 state directory in use, 7 disk, \
        8 agent unreachable, 9 refused, 75 resumable."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options every command takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Global {
    /// Configuration file; conf.d/*.toml beside it is read after it [default: /etc/hone/hone.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the agent keeps its models and records [default: $STATE_DIRECTORY, else /var/lib/hone for root, else
    /// $XDG_STATE_HOME/hone]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Print facts as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole loop on this machine, in about two minutes
    Demo(demo::Args),
    /// Run the agent
    Run(run::Args),
    /// Write a commented configuration file
    Init(init::Args),
    /// Install what `hone-fleet enroll` has made
    Join(join::Args),
    /// Check this gateway, and say what each missing thing costs
    Doctor(doctor::Args),
    /// Show what the running agent is doing
    Status(status::Args),
    /// Show features against their baseline, and losses
    Drift(drift::Args),
    /// List every model this device has known
    Models(models::Args),
    /// Show which model was trained from which, on what evidence and at what price
    Lineage(lineage::Args),
    /// Show what retraining took in CPU time and energy
    Energy(energy::Args),
    /// List the newest samples with their answers
    Records(records::Args),
    /// Send a file or standard input to the agent, as if it were measured now
    Replay(replay::Args),
    /// Tell the agent what was true
    Label(label::Args),
    /// Train a candidate now
    Retrain(retrain::Args),
    /// Offer a bundle to the gate, or let the candidate on trial serve now
    Promote(promote::Args),
    /// Let the candidate that waits for an answer be tried
    Approve(approve::ApproveArgs),
    /// Do not let the candidate be tried, or end its trial
    Reject(approve::RejectArgs),
    /// Hold, resume or abort the trial of a candidate
    Canary(canary::Args),
    /// Tell why a model was promoted or refused
    Explain(explain::Args),
    /// Take the newest rows for normal: drift is measured against them from now on
    Rebaseline(rebaseline::Args),
    /// Delete the records of a time span for good
    Purge(purge::Args),
    /// Let the previous model serve again
    Rollback(rollback::Args),
    /// Train a base model from a CSV file
    Train(train::Args),
    /// Write the agent's state to one file
    Backup(backup::Args),
    /// Put a backed-up state into place
    Restore(restore::Args),
    /// Look into model bundles
    Model(model::Args),
    /// Replay a labelled file through the real loop and compare policies
    Backtest(backtest::Args),
    /// Train again what a finished run trained, and compare the digests
    Reproduce(reproduce::Args),
    /// Look at what retrains learned from
    Snapshot(snapshot::Args),
    /// Print a completion script for your shell
    #[command(after_help = "Example: hone completions bash > ~/.local/share/bash-completion/completions/hone")]
    Completions {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
    /// The trainer's child process; started by the agent, not by people
    #[command(hide = true)]
    TrainWorker,
    /// The process a new model is tried in; started by the agent, not by people
    #[command(hide = true)]
    VetWorker,
}

/// Parses the arguments, runs the command and says how it ended.
pub fn run(arguments: impl Iterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok };
        }
    };
    let global = &cli.global;
    let result = match cli.command {
        Command::Demo(args) => demo::run(&args, global),
        Command::Run(args) => run::run(&args, global),
        Command::Init(args) => init::run(&args, global),
        Command::Join(args) => join::run(&args, global),
        Command::Doctor(args) => doctor::run(&args, global),
        Command::Status(args) => status::run(&args, global),
        Command::Drift(args) => drift::run(&args, global),
        Command::Models(args) => models::run(&args, global),
        Command::Lineage(args) => lineage::run(&args, global),
        Command::Energy(args) => energy::run(&args, global),
        Command::Records(args) => records::run(&args, global),
        Command::Replay(args) => replay::run(&args, global),
        Command::Label(args) => label::run(&args, global),
        Command::Retrain(args) => retrain::run(&args, global),
        Command::Promote(args) => promote::run(&args, global),
        Command::Approve(args) => approve::approve(&args, global),
        Command::Reject(args) => approve::reject(&args, global),
        Command::Canary(args) => canary::run(&args, global),
        Command::Explain(args) => explain::run(&args, global),
        Command::Rebaseline(args) => rebaseline::run(&args, global),
        Command::Purge(args) => purge::run(&args, global),
        Command::Rollback(args) => rollback::run(&args, global),
        Command::Train(args) => train::run(&args, global),
        Command::Backup(args) => backup::run(&args, global),
        Command::Restore(args) => restore::run(&args, global),
        Command::Model(args) => model::run(&args, global),
        Command::Backtest(args) => backtest::run(&args, global),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "hone", &mut std::io::stdout());
            Ok(())
        }
        Command::Reproduce(args) => reproduce::run(&args, global),
        Command::Snapshot(args) => snapshot::run(&args, global),
        Command::TrainWorker => reproduce::train_worker(),
        Command::VetWorker => model::vet_worker(),
    };
    match result {
        Ok(()) => Exit::Ok,
        Err(error) => exit::report(&error),
    }
}
