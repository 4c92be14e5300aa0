//! `hone-fleet`: sees and steers gateways over MQTT, from what the broker retains; it holds no truth of its own.
mod approve;
mod authority;
mod broker;
mod configure;
mod devices;
mod enroll;
mod exit;
mod install;
mod keys;
mod notices;
mod orders;
mod picture;
mod rollout;
mod send;
mod session;
mod show;
mod sim;
mod transfer;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use fleet_protocol::broker::Broker;

use exit::Exit;

/// Sees and steers a fleet of hone gateways.
#[derive(Debug, Parser)]
#[command(
    name = "hone-fleet",
    version,
    about,
    propagate_version = true,
    after_help = "Exit codes: 0 ok, 1 internal, 2 usage, 4 input data, 7 disk, 8 broker unreachable, 9 refused by the device, \
        75 not ended in time."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options every command takes.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Broker and output")]
struct Global {
    /// Broker: mqtts://HOST:PORT, or mqtt://HOST:PORT without encryption
    #[arg(long, global = true, value_name = "URL", default_value = "mqtt://127.0.0.1:1883")]
    broker: Broker,
    /// Certificate authority of the broker, PEM
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our certificate, PEM
    #[arg(long, global = true, value_name = "FILE", requires = "certificate_key")]
    certificate: Option<PathBuf>,
    /// The private key of our certificate, PEM
    #[arg(long, global = true, value_name = "FILE", requires = "certificate")]
    certificate_key: Option<PathBuf>,
    /// Print facts as JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key that signs commands
    Keygen(keys::Args),
    /// Sign a command for one device, without any network
    Sign(orders::Args),
    /// Send a signed command and wait for its end
    Send(send::Args),
    /// List every device the broker knows
    Devices(devices::Args),
    /// Show everything one device says of itself
    Show(show::Args),
    /// Follow what devices say, until Ctrl-C
    Watch(watch::Args),
    /// Bring a bundle to a device, in pieces
    Install(install::Args),
    /// Agree to the candidate that a device is trying
    Approve(approve::Args),
    /// Refuse the candidate that a device is trying
    Reject(approve::Args),
    /// Set what a device runs with
    Configure(configure::Args),
    /// Take away the trust in a key
    Revoke(notices::Revoke),
    /// Forbid a group, or the whole fleet, everything new for a while
    Freeze(notices::Freeze),
    /// End a freeze
    Thaw(notices::Thaw),
    /// Bring a bundle to many devices, in waves
    Rollout(rollout::Args),
    /// Make certificate, key and settings for a new device
    Enroll(enroll::Args),
    /// Write a broker's configuration, or try to break one
    Broker(broker::Args),
    /// Run many small agents on this machine, for trying things out
    Sim(sim::Args),
    /// Print a completion script for your shell
    Completions {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Ok }.into();
        }
    };
    let global = &cli.global;
    let result = match cli.command {
        Command::Keygen(args) => keys::run(&args, global),
        Command::Sign(args) => orders::run(&args, global),
        Command::Send(args) => send::run(&args, global),
        Command::Devices(args) => devices::run(&args, global),
        Command::Show(args) => show::run(&args, global),
        Command::Watch(args) => watch::run(&args, global),
        Command::Install(args) => install::run(&args, global),
        Command::Approve(args) => approve::run(&args, true, global),
        Command::Reject(args) => approve::run(&args, false, global),
        Command::Configure(args) => configure::run(&args, global),
        Command::Revoke(args) => notices::revoke(&args, global),
        Command::Freeze(args) => notices::freeze(&args, global),
        Command::Thaw(args) => notices::thaw(&args, global),
        Command::Rollout(args) => rollout::run(&args, global),
        Command::Enroll(args) => enroll::run(&args, global),
        Command::Broker(args) => broker::run(&args, global),
        Command::Sim(args) => sim::run(&args, global),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "hone-fleet", &mut std::io::stdout());
            Ok(Exit::Ok)
        }
    };
    result.unwrap_or_else(|error| exit::report(&error)).into()
}
