//! `hone-fleet approve` and `reject`: a person's answer to a candidate that waits, signed and sent.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::command::Command;
use fleet_protocol::names::{DeviceId, Digest, Name};
use fleet_protocol::topics::ROOT;

use crate::Global;
use crate::devices::{picture, unknown};
use crate::exit::{Exit, Fail};
use crate::keys;
use crate::orders::sign_command;
use crate::send::{Sent, show};

/// Arguments of `hone-fleet approve` and `reject`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet approve press-07 --key ada.key --key bob.key\n\n\
    JSON keys: id, device, ended; once it has ended also cmd, status, reason_code, reason, result, ts, clock, by.")]
pub(crate) struct Args {
    /// The device
    device: DeviceId,
    /// The candidate [default: the one that the device says it is trying]
    digest: Option<Digest>,
    /// Secret key of a signer; two of them are a two-person approval
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// Why
    #[arg(long, default_value = "by a person")]
    reason: String,
    /// Seconds to wait for the end
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

/// Answers with yes, or no.
pub(crate) fn run(args: &Args, yes: bool, global: &Global) -> Result<Exit> {
    let digest = match args.digest {
        Some(digest) => digest,
        None => {
            let filters = ["state", "model/+"].map(|rest| format!("{ROOT}/d/{}/up/{rest}", args.device));
            let picture = picture(global, filters.to_vec())?;
            let view = picture.devices.get(&args.device).ok_or_else(|| unknown(&args.device))?;
            let model = view.model.clone();
            let waiting = model.and_then(|model| model.challenger).map(|model| model.digest);
            waiting.ok_or_else(|| {
                Fail::new(Exit::Input, format!("{} tries no candidate", args.device))
                    .hint("name its digest, or look with `hone-fleet show`")
            })?
        }
    };
    let (slot, reason) = (Name::main_slot(), args.reason.clone());
    let command =
        if yes { Command::ModelApprove { slot, digest } } else { Command::ModelReject { slot, digest, reason } };
    let signers = keys::read_all(&args.key)?;
    let signed = sign_command(&args.device, &command, &signers, Duration::from_hours(24), 0);
    show(global, &Sent { signed, wait_s: args.wait })
}
