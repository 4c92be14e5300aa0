//! `hone-fleet rollout`: brings a bundle to many devices, the canary device first, each wave only after the one ahead has won.
mod run;
mod start;

use std::path::PathBuf;

use anyhow::Result;
use fleet_protocol::names::Name;
use fleet_protocol::rollout::{Rollout, State, Wish, WishKind};
use fleet_protocol::topics::Topic;
use serde_json::json;

use crate::Global;
use crate::devices::{LONGEST, QUIET};
use crate::exit::{Exit, Fail};
use crate::orders::now;
use crate::session::{Session, talk};

/// What is printed of a rollout for machines.
const SHOWN: &str =
    "JSON keys: rollout, digest, state (state, reason), wave, waves, rules, devices (by name: standing, since).";

/// Arguments of `hone-fleet rollout`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    hone-fleet rollout start autumn new.safetensors --key ada.key --canary press-07 --group hall-3 --group hall-4\n  \
    hone-fleet rollout pause autumn\n  \
    hone-fleet rollout run autumn new.safetensors\n\n\
    Its state and its signed commands are retained at the broker: whoever runs it may be killed, `run` goes on.\n\n\
    Exit codes: 0 finished, 9 stopped, 75 running or paused.")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Name of this controller, as its certificate says
    #[arg(long, global = true, value_name = "NAME", default_value = "ctl1")]
    controller: Name,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Sign the commands of a new rollout, and run it
    Start(start::Args),
    /// Go on with one that was begun
    Run(Run),
    /// Begin nothing new until it is resumed
    Pause(Wished),
    /// Go on after a pause, whoever caused it
    Resume(Wished),
    /// Stop for good, and take back every command that has not ended
    Stop(Wished),
    /// Show how it stands
    Show(Named),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet rollout pause autumn --json\n\n\
    JSON keys: rollout, wish.")]
struct Wished {
    /// The rollout
    id: Name,
}

#[derive(Debug, clap::Args)]
#[command(after_help = SHOWN)]
struct Named {
    /// The rollout
    id: Name,
}

#[derive(Debug, clap::Args)]
#[command(after_help = SHOWN)]
struct Run {
    /// The rollout
    id: Name,
    /// The bundle it brings
    bundle: PathBuf,
}

/// Starts, runs, or says what is wanted.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    let controller = &args.controller;
    match &args.command {
        Command::Start(args) => start::start(args, controller, global),
        Command::Run(args) => {
            run::run(global, controller, &args.id, crate::transfer::Bundle::read(&args.bundle)?, None)
        }
        Command::Pause(named) => wish(global, controller, &named.id, WishKind::Pause),
        Command::Resume(named) => wish(global, controller, &named.id, WishKind::Run),
        Command::Stop(named) => wish(global, controller, &named.id, WishKind::Stop),
        Command::Show(named) => {
            let rollout = known(global, controller, &named.id)?;
            show(&rollout, global);
            Ok(exit(&rollout))
        }
    }
}

fn wish(global: &Global, controller: &Name, id: &Name, wish: WishKind) -> Result<Exit> {
    known(global, controller, id)?;
    let topic = Topic::WaveWish { controller: controller.clone(), id: id.clone() }.to_string();
    let payload = serde_json::to_vec(&Wish { wish, ts: now() })?;
    talk(async { Session::open(global, vec![topic.clone()]).await?.publish(&topic, payload, None).await })?;
    if global.json {
        println!("{}", json!({"rollout": id, "wish": wish}));
    } else {
        println!("{id}: said so; whoever runs it (`hone-fleet rollout run {id} BUNDLE`) does it at once");
    }
    Ok(Exit::Ok)
}

fn known(global: &Global, controller: &Name, id: &Name) -> Result<Rollout> {
    let topic = Topic::Wave { controller: controller.clone(), id: id.clone() }.to_string();
    let came = talk(async { Session::open(global, vec![topic]).await?.all(QUIET, LONGEST).await })?;
    let rollout = came.iter().rev().find_map(|came| serde_json::from_slice(&came.payload).ok());
    rollout.ok_or_else(|| {
        Fail::new(Exit::Input, format!("the broker knows no rollout `{id}` of {controller}"))
            .hint("begin one with `hone-fleet rollout start`, or name its --controller")
            .into()
    })
}

/// Prints how a rollout stands.
fn show(rollout: &Rollout, global: &Global) {
    if global.json {
        // Signed commands are of no use to a reader.
        let devices: serde_json::Map<_, _> = rollout
            .devices
            .iter()
            .map(|(device, member)| (device.to_string(), json!({"standing": member.standing, "since": member.since})))
            .collect();
        println!(
            "{}",
            json!({"rollout": rollout.id, "digest": rollout.digest, "state": rollout.state, "wave": rollout.wave + 1, "waves": rollout.waves, "rules": rollout.rules, "devices": devices})
        );
        return;
    }
    println!(
        "{}: {}, wave {} of {}",
        rollout.id,
        word(&rollout.state),
        (rollout.wave + 1).min(rollout.waves.len()),
        rollout.waves.len()
    );
    for (number, wave) in (1..).zip(&rollout.waves) {
        for device in wave {
            let standing = rollout.devices.get(device).and_then(|member| serde_json::to_value(&member.standing).ok());
            let field =
                |key: &str| standing.as_ref().and_then(|value| value[key].as_str()).unwrap_or_default().to_owned();
            println!("  {number:>3}  {device:<24} {} {}", field("standing"), field("reason"));
        }
    }
}

fn word(state: &State) -> String {
    match state {
        State::Running => "running".to_owned(),
        State::Paused { reason } => format!("paused, {reason}"),
        State::Stopped { reason } => format!("stopped, {reason}"),
        State::Finished => "finished".to_owned(),
    }
}

fn exit(rollout: &Rollout) -> Exit {
    match rollout.state {
        State::Finished => Exit::Ok,
        State::Stopped { .. } => Exit::Refused,
        State::Running | State::Paused { .. } => Exit::Resumable,
    }
}
