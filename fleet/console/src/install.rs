//! `hone-fleet install`: brings a bundle to one device, and has it judged there if wanted.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::command::Command;
use fleet_protocol::names::{DeviceId, Name};
use fleet_protocol::status::{CommandStatus, Status};
use serde_json::json;
use tokio::time::Instant;

use crate::Global;
use crate::devices;
use crate::exit::Exit;
use crate::keys;
use crate::orders::{Signed, sign_command};
use crate::send::Delivery;
use crate::session::talk;
use crate::transfer::{Bundle, Sender};

/// Arguments of `hone-fleet install`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet install press-07 new.safetensors --key ada.key --promote\n\n\
    The device asks for the pieces it lacks; a transfer that was cut goes on when the same command is sent again. The signature in \
    BUNDLE's .dsse file goes with it; without one the bundle is signed by these keys, as an operator's.\n\n\
    JSON keys: device, digest, pieces_sent, ended, commands (a list of what `hone-fleet send` prints).")]
pub(crate) struct Args {
    /// The device
    device: DeviceId,
    /// The bundle
    bundle: PathBuf,
    /// Secret key of a signer; two of them are a two-person approval
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// Have the device judge it, and serve it if it passes
    #[arg(long)]
    promote: bool,
    /// Seconds for each of the two
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait: u64,
}

/// Installs and promotes.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    let mut bundle = Bundle::read(&args.bundle)?;
    let signers = keys::read_all(&args.key)?;
    bundle.sign(&signers);
    let (digest, slot) = (bundle.digest, Name::main_slot());
    let install =
        Command::ModelInstall { slot: slot.clone(), digest, size_bytes: bundle.size_bytes(), chunks: bundle.chunks() };
    let lifetime = Duration::from_secs(args.wait);
    let mut commands = vec![sign_command(&args.device, &install, &signers, lifetime, 0)];
    if args.promote {
        let promote = Command::ModelPromote { slot, digest };
        commands.push(sign_command(&args.device, &promote, &signers, 2 * lifetime, 1));
    }
    let mut sender = Sender::new(bundle);
    let ends = talk(async {
        let mut ends = Vec::new();
        for command in &commands {
            let end = follow(global, command, &mut sender, lifetime).await?;
            let went_well = matches!(&end, Some(status) if status.status == Status::Successful);
            ends.push(end);
            if !went_well {
                break;
            }
        }
        Ok(ends)
    })?;
    let statuses: Vec<_> = ends.iter().flatten().map(|status| json!(status)).collect();
    let ended = ends.last().is_some_and(Option::is_some);
    if global.json {
        let (device, pieces) = (&args.device, sender.pieces);
        println!(
            "{}",
            json!({"device": device, "digest": digest, "pieces_sent": pieces, "ended": ended, "commands": statuses})
        );
    } else {
        for status in &statuses {
            let word = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
            println!("{} {} {} {}", word("cmd"), word("status"), word("reason_code"), word("reason"));
        }
    }
    match ends.last() {
        Some(Some(status)) if status.status == Status::Successful => Ok(Exit::Ok),
        Some(Some(_)) => Ok(Exit::Refused),
        _ => {
            let again = "send the same again, pieces that have arrived are kept";
            eprintln!("{} has not ended yet: {}", args.device, devices::silence(global, &args.device, again));
            Ok(Exit::Resumable)
        }
    }
}

async fn follow(
    global: &Global,
    signed: &Signed,
    sender: &mut Sender,
    wait: Duration,
) -> Result<Option<CommandStatus>> {
    let left_s = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX);
    let mut delivery = Delivery::begin(global, signed, left_s).await?;
    let end = Instant::now() + wait;
    while let Some(status) = delivery.next(end).await? {
        if status.status.is_final() {
            return Ok(Some(status));
        }
        sender.answer(&mut delivery.session, &signed.device, &status).await?;
    }
    Ok(None)
}
