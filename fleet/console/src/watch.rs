//! `hone-fleet watch`: what devices say, as they say it.
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::names::DeviceId;
use fleet_protocol::topics::{ROOT, Topic};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Global;
use crate::exit::Exit;
use crate::session::{Came, Session, talk};

/// Arguments of `hone-fleet watch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet watch --json | jq 'select(.topic | contains(\"/evt/\"))'\n\n\
    JSON keys, one object per line: topic, payload.")]
pub(crate) struct Args {
    /// Only this device
    device: Option<DeviceId>,
    /// End after so many messages
    #[arg(long, value_name = "NUMBER")]
    count: Option<u64>,
}

/// Follows until Ctrl-C, or until enough came.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    let device = args.device.as_ref().map_or("+", |device| device.as_str());
    let filter = format!("{ROOT}/d/{device}/up/#");
    talk(async {
        let mut session = Session::open(global, vec![filter]).await?;
        let mut left = args.count;
        while left != Some(0) {
            let Some(came) = session.next(Instant::now() + Duration::from_hours(1)).await? else { continue };
            if let Some(line) = line(&came, global.json) {
                println!("{line}");
                left = left.map(|left| left - 1);
            }
        }
        Ok(Exit::Ok)
    })
}

/// How a trial stands, if one is under way.
fn trial(model: &Value) -> String {
    let trial = &model["trial"];
    if trial.is_null() {
        return String::new();
    }
    let number = |key: &str| trial[key].as_f64().unwrap_or_default();
    format!(
        " {} % of {} samples, not worse {:.2}, worse {:.2} of {:.0}",
        model["canary_percent"],
        trial["pairs"],
        number("promote_e"),
        number("abort_e"),
        number("limit")
    )
}

/// A message in one line; none for one that says nothing.
fn line(came: &Came, json: bool) -> Option<String> {
    let payload: Value = serde_json::from_slice(&came.payload).ok()?;
    if json {
        return Some(json!({"topic": came.topic, "payload": payload}).to_string());
    }
    let word = |key: &str| payload[key].as_str().unwrap_or_default().to_owned();
    Some(match came.topic.parse().ok()? {
        Topic::State { device } => format!("{device}: {}", word("state")),
        Topic::Event { device, kind } => format!("{device}: {kind} {payload}"),
        Topic::CommandStatus { device, id } => {
            format!("{device}: command {id} {} {} {}", word("cmd"), word("status"), word("reason"))
        }
        Topic::Model { device, .. } => {
            let champion = payload["champion"]["digest"].as_str().unwrap_or("none");
            format!("{device}: model {champion} {}{}", word("phase"), trial(&payload))
        }
        Topic::Metrics { device } => format!("{device}: metrics {} samples", payload["samples"]),
        Topic::Birth { device } => format!("{device}: hone {}", word("agent")),
        // Long, or binary, and of no news to a person who looks on.
        _ => return None,
    })
}
