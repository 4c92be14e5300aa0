//! `hone-fleet devices`: one line per device, from what the broker retains.
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::names::DeviceId;
use fleet_protocol::topics::{Topic, controller_filters};
use serde_json::json;

use crate::Global;
use crate::exit::{Exit, Fail};
use crate::orders::now;
use crate::picture::Picture;
use crate::session::{Session, talk};

/// Retained messages have ended when nothing came for this long.
pub(crate) const QUIET: Duration = Duration::from_millis(400);
/// And at the latest after this.
pub(crate) const LONGEST: Duration = Duration::from_secs(10);

/// Arguments of `hone-fleet devices`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: hone-fleet devices --json | jq '.devices[] | select(.presence == \"offline\") | .device'\n\n\
    JSON keys: devices (a list: device, presence, since, agent, champion, phase, challenger, canary_percent, trial, frozen_until, drifted, \
    measures), strange_messages."
)]
pub(crate) struct Args {}

/// Reads what the broker retains, and draws it.
pub(crate) fn picture(global: &Global, filters: Vec<String>) -> Result<Picture> {
    let came = talk(async { Session::open(global, filters).await?.all(QUIET, LONGEST).await })?;
    let mut picture = Picture::default();
    came.iter().for_each(|came| picture.add(came));
    Ok(picture)
}

/// What to say of a device that has not answered in time: one that was never here may be a slip of the pen.
pub(crate) fn silence(global: &Global, device: &DeviceId, otherwise: &str) -> String {
    let told = picture(global, vec![Topic::State { device: device.clone() }.to_string()]);
    if told.is_ok_and(|picture| !picture.devices.contains_key(device)) {
        return format!("the broker has never heard of a device `{device}`: `hone-fleet devices` lists those it knows");
    }
    otherwise.to_owned()
}

/// The broker knows no such device.
pub(crate) fn unknown(device: &DeviceId) -> Fail {
    Fail::new(Exit::Input, format!("the broker knows no device `{device}`"))
        .hint("`hone-fleet devices` lists those it knows")
}

/// Lists the fleet.
pub(crate) fn run(_: &Args, global: &Global) -> Result<Exit> {
    let picture = picture(global, controller_filters().to_vec())?;
    if global.json {
        let devices = picture.devices.iter().map(|(device, view)| {
            json!({
                "device": device,
                "presence": view.presence(),
                "since": view.state.as_ref().map(|state| state.ts),
                "agent": view.birth.as_ref().map(|birth| &birth.agent),
                "champion": view.model.as_ref().and_then(|model| model.champion.as_ref()),
                "phase": view.model.as_ref().map_or_else(|| json!("unknown"), |model| json!(model.phase)),
                "challenger": view.model.as_ref().and_then(|model| model.challenger.as_ref()),
                "canary_percent": view.model.as_ref().map(|model| model.canary_percent),
                "trial": view.model.as_ref().and_then(|model| model.trial.as_ref()),
                "frozen_until": view.model.as_ref().and_then(|model| model.frozen_until),
                "drifted": view.drifted().map(|(drifted, _)| drifted),
                "measures": view.drifted().map(|(_, all)| all),
            })
        });
        println!("{}", json!({"devices": devices.collect::<Vec<_>>(), "strange_messages": picture.strange}));
        return Ok(Exit::Ok);
    }
    println!(
        "{:<24} {:<8} {:>8}  {:<10} {:<18} {:<8} agent",
        "device", "presence", "since", "champion", "phase", "drift"
    );
    for (device, view) in &picture.devices {
        let since = view.state.as_ref().map_or_else(String::new, |state| ago(now().0 - state.ts.0));
        let drift = view.drifted().map_or_else(|| "unknown".to_owned(), |(drifted, all)| format!("{drifted} of {all}"));
        let agent = view.birth.as_ref().map_or("unknown", |birth| &birth.agent);
        let (presence, champion, phase) = (view.presence(), view.champion(), view.phase());
        println!("{device:<24} {presence:<8} {since:>8}  {champion:<10} {phase:<18} {drift:<8} {agent}");
    }
    if picture.devices.is_empty() {
        println!("(the broker knows no device)");
    }
    Ok(Exit::Ok)
}

/// A span of microseconds for people.
pub(crate) fn ago(micros: i64) -> String {
    match micros / 1_000_000 {
        ..0 => "ahead".to_owned(),
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
