//! The start of a rollout: who goes when, and every command signed at once, so that no key is needed afterwards.
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::command::Command;
use fleet_protocol::envelope::Envelope;
use fleet_protocol::names::{DeviceId, Name};
use fleet_protocol::rollout::{Member, Rollout, Rules, Standing, State};
use fleet_protocol::topics::controller_filters;
use fleet_protocol::{API, Extra, PACKET_BYTES_MAX};

use super::{run, show};
use crate::Global;
use crate::devices::{picture, unknown};
use crate::exit::{Exit, Fail};
use crate::keys;
use crate::orders::{lasting, now, sign_command, span};
use crate::picture::Picture;
use crate::transfer::Bundle;

/// Room for topic and properties of the retained state.
const ENVELOPE_BYTES: usize = 4_096;

#[derive(Debug, clap::Args)]
#[command(after_help = format!("Example: hone-fleet rollout start autumn new.safetensors --key ada.key --group hall-3 --preview\n\n{}", super::SHOWN))]
pub(super) struct Args {
    /// Name of the rollout
    id: Name,
    /// The bundle
    bundle: PathBuf,
    /// Secret key of a signer; two of them are a two-person approval
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// The device that goes first and alone [default: the first of all]
    #[arg(long, value_name = "DEVICE")]
    canary: Option<DeviceId>,
    /// A group, each a wave, in this order
    #[arg(long, value_name = "NAME")]
    group: Vec<Name>,
    /// Devices of a last wave beside the groups
    #[arg(long, value_name = "DEVICE")]
    device: Vec<DeviceId>,
    /// Share of a wave on which the model must win before the next one begins
    #[arg(long, value_name = "SHARE", default_value_t = 0.9, value_parser = share)]
    win: f64,
    /// Share of a wave on which it may fail; beyond, everything stops
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    fail: f64,
    /// Share of a wave on which it may be rolled back after it was promoted; beyond, everything stops
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    rollbacks: f64,
    /// Time a promoted model must hold: 90s, 30m, 24h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = span)]
    prove: Duration,
    /// Nothing may drift on a device at the end of that time
    #[arg(long)]
    drift_cleared: bool,
    /// Time a device may take for its part before it counts as absent
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lasting)]
    deadline: Duration,
    /// Commands are void after so long
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = lasting)]
    expires: Duration,
    /// Show who would go when, and sign nothing
    #[arg(long)]
    preview: bool,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| format!("`{text}` is no share: 0 to 1"))
}

pub(super) fn start(args: &Args, controller: &Name, global: &Global) -> Result<Exit> {
    let mut bundle = Bundle::read(&args.bundle)?;
    let known = picture(global, controller_filters().to_vec())?;
    let waves = waves(args, &known)?;
    let signers = keys::read_all(&args.key)?;
    bundle.sign(&signers);
    let slot = Name::main_slot();
    let install = Command::ModelInstall {
        slot: slot.clone(),
        digest: bundle.digest,
        size_bytes: bundle.size_bytes(),
        chunks: bundle.chunks(),
    };
    let promote = Command::ModelPromote { slot, digest: bundle.digest };
    let member = |device: &DeviceId| -> Result<(DeviceId, Member)> {
        let install = sign_command(device, &install, &signers, args.expires, 0);
        let promote = sign_command(device, &promote, &signers, args.expires, 1);
        let signed = [&install.envelope, &promote.envelope].into_iter().map(|bytes| Ok(Envelope::from_json(bytes)?));
        let signed = signed.collect::<Result<_>>()?;
        Ok((
            device.clone(),
            Member { install: install.id, promote: promote.id, signed, standing: Standing::Waiting, since: now() },
        ))
    };
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let rules = Rules {
        win_share: args.win,
        fail_share: args.fail,
        rollback_share: args.rollbacks,
        prove_s: seconds(args.prove),
        drift_cleared: args.drift_cleared,
        deadline_s: seconds(args.deadline),
    };
    let rollout = Rollout {
        v: API,
        id: args.id.clone(),
        digest: bundle.digest,
        size_bytes: bundle.size_bytes(),
        signature: bundle.signature(),
        rules,
        devices: waves.iter().flatten().map(member).collect::<Result<_>>()?,
        waves,
        wave: 0,
        state: State::Running,
        since: now(),
        extra: Extra::new(),
    };
    let bytes = serde_json::to_vec(&rollout)?.len();
    if bytes + ENVELOPE_BYTES > PACKET_BYTES_MAX {
        let text = format!(
            "{} devices are too many for one rollout: its state would take {bytes} bytes",
            rollout.devices.len()
        );
        return Err(Fail::new(Exit::Input, text).hint("make several, of fewer groups each").into());
    }
    let frozen = |device: &&DeviceId| {
        let model = known.devices.get(*device).and_then(|view| view.model.as_ref());
        model.and_then(|model| model.frozen_until).is_some_and(|until| until > now())
    };
    let frozen: Vec<_> = rollout.devices.keys().filter(frozen).map(ToString::to_string).collect();
    if !frozen.is_empty() && !args.preview {
        return Err(Fail::new(Exit::Refused, format!("frozen: {}", frozen.join(", ")))
            .hint("end that with `hone-fleet thaw`, or leave these out")
            .into());
    }
    if args.preview {
        show(&rollout, global);
        return Ok(Exit::Ok);
    }
    run::run(global, controller, &args.id, bundle, Some(rollout))
}

/// The canary device, then each group, then the devices named one by one; each device once.
fn waves(args: &Args, known: &Picture) -> Result<Vec<Vec<DeviceId>>> {
    let mut rest: Vec<Vec<DeviceId>> = args
        .group
        .iter()
        .map(|group| {
            let belongs = |view: &crate::picture::DeviceView| {
                view.birth.as_ref().is_some_and(|birth| birth.groups.contains(group))
            };
            known.devices.iter().filter(|(_, view)| belongs(view)).map(|(device, _)| device.clone()).collect()
        })
        .collect();
    if let Some(index) = rest.iter().position(Vec::is_empty) {
        let text = format!("no device belongs to group `{}`", args.group[index]);
        return Err(Fail::new(Exit::Input, text).hint("set `mqtt.groups` on its devices").into());
    }
    rest.push(args.device.clone());
    let first = args.canary.clone().or_else(|| rest.iter().flatten().next().cloned());
    let Some(first) = first else {
        return Err(Fail::new(Exit::Usage, "nobody to bring it to: name --group, --device or --canary").into());
    };
    let mut seen = BTreeSet::from([first.clone()]);
    let mut waves = vec![vec![first]];
    for wave in rest {
        let wave: Vec<_> = wave.into_iter().filter(|device| seen.insert(device.clone())).collect();
        if !wave.is_empty() {
            waves.push(wave);
        }
    }
    if let Some(stranger) = seen.iter().find(|device| !known.devices.contains_key(device)) {
        return Err(unknown(stranger).into());
    }
    Ok(waves)
}
