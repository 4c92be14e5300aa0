//! `hone-fleet configure`: signed settings for one device.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::envelope::Payload as _;
use fleet_protocol::names::DeviceId;
use fleet_protocol::order::Desired;
use fleet_protocol::report::Reported;
use fleet_protocol::topics::Topic;
use fleet_protocol::{API, Extra};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::Global;
use crate::devices;
use crate::exit::{Exit, Fail};
use crate::keys;
use crate::orders::now;
use crate::session::{Session, talk};

/// What is retained comes within this.
const RETAINED: Duration = Duration::from_secs(2);

/// A device's clock may be so far behind ours.
const CLOCKS_DIFFER_US: i64 = 60_000_000;

/// Arguments of `hone-fleet configure`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet configure press-07 --key admin.key changes.toml\n\n\
    The file is shaped like hone.toml and holds everything that shall differ from the device's own file: it replaces what was \
    set before. The device takes all of it or nothing, and says why. Keys are rotated by [mqtt] trust.\n\n\
    JSON keys: device, answered; once it has answered also desired_rev, applied_rev, errors (key, reason), restart.")]
pub(crate) struct Args {
    /// The device
    device: DeviceId,
    /// Settings, as TOML
    settings: PathBuf,
    /// Secret key of an admin
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
    /// Revision [default: one above what the device reports]
    #[arg(long, value_name = "NUMBER")]
    revision: Option<u64>,
    /// Seconds to wait for the device's answer; 0 only hands the settings over
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

/// Signs and hands over settings, and waits for what the device makes of them.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    let input = |reason: String| {
        let fail = Fail::new(Exit::Input, format!("{}: {reason}", args.settings.display()));
        fail.hint("name a file shaped like hone.toml, with what shall differ from the device's own")
    };
    let text = std::fs::read_to_string(&args.settings).map_err(|error| input(error.to_string()))?;
    let config: Map<String, Value> = toml::from_str(&text).map_err(|error| input(error.message().to_owned()))?;
    let signers = keys::read_all(&args.key)?;
    let topic = Topic::Desired { device: args.device.clone() }.to_string();
    let answer = talk(async {
        let told = Topic::Reported { device: args.device.clone() }.to_string();
        let refused = Topic::Event { device: args.device.clone(), kind: "turned_away".parse()? }.to_string();
        let mut session = Session::open(global, vec![told, refused]).await?;
        let seen = before(&mut session, Instant::now() + RETAINED).await?;
        let rev = args.revision.unwrap_or(seen + 1);
        if rev <= seen {
            let fail = Fail::new(
                Exit::Refused,
                format!("{} has seen revision {seen} already, {rev} is not above it", args.device),
            );
            return Err(fail.hint("leave --revision out, or name a higher one").into());
        }
        let desired = Desired { v: API, dev: args.device.clone(), rev, iat: now(), config, extra: Extra::new() };
        let envelope = desired.sign(&signers.iter().collect::<Vec<_>>()).to_json();
        session.publish(&topic, envelope, None).await?;
        let end = Instant::now() + Duration::from_secs(args.wait);
        answer(&mut session, end, &desired, &topic).await
    })?;
    let reported = match answer {
        Some(Answer::Reported(reported)) => Some(*reported),
        Some(Answer::TurnedAway(reason)) => {
            if global.json {
                let errors = json!([{"key": "", "reason": reason}]);
                println!("{}", json!({"device": args.device, "answered": true, "errors": errors}));
            }
            let fail = Fail::new(Exit::Refused, format!("{} does not take these settings: {reason}", args.device));
            return Err(fail
                .hint("sign with the key of an admin that this device trusts, `hone-fleet show` lists them")
                .into());
        }
        None => None,
    };
    let Some(reported) = reported else {
        if global.json {
            println!("{}", json!({"device": args.device, "answered": false}));
        }
        let waits = "the settings wait for it at the broker";
        let why = if args.wait == 0 { waits.to_owned() } else { devices::silence(global, &args.device, waits) };
        eprintln!("{} has not answered yet: {why}", args.device);
        return Ok(if args.wait == 0 { Exit::Ok } else { Exit::Resumable });
    };
    let applied = reported.applied_rev == reported.desired_rev;
    if global.json {
        let Reported { desired_rev, applied_rev, errors, restart, .. } = &reported;
        println!(
            "{}",
            json!({"device": args.device, "answered": true, "desired_rev": desired_rev, "applied_rev": applied_rev, "errors": errors, "restart": restart})
        );
    } else if applied {
        println!("{} runs with revision {}", args.device, reported.applied_rev);
        for key in &reported.restart {
            println!("  after its next start: {key} (hone-fleet send … agent.restart)");
        }
    } else {
        println!("{} refuses revision {} and keeps {}", args.device, reported.desired_rev, reported.applied_rev);
        for error in &reported.errors {
            println!("  {}: {}", error.key, error.reason);
        }
    }
    Ok(if applied { Exit::Ok } else { Exit::Refused })
}

/// What a device makes of settings.
enum Answer {
    /// It has judged them.
    Reported(Box<Reported>),
    /// It has not even looked at what they say.
    TurnedAway(String),
}

/// The revision that the device has seen, as the broker retains it; 0 if it retains none.
async fn before(session: &mut Session, end: Instant) -> Result<u64> {
    while let Some(came) = session.next(end).await? {
        if let Ok(reported) = serde_json::from_slice::<Reported>(&came.payload) {
            return Ok(reported.desired_rev);
        }
    }
    Ok(0)
}

async fn answer(session: &mut Session, end: Instant, desired: &Desired, topic: &str) -> Result<Option<Answer>> {
    while let Some(came) = session.next(end).await? {
        if let Ok(reported) = serde_json::from_slice::<Reported>(&came.payload)
            && reported.desired_rev >= desired.rev
        {
            return Ok(Some(Answer::Reported(Box::new(reported))));
        }
        // A device that comes back tells first what it had turned away before.
        if let Ok(event) = serde_json::from_slice::<Value>(&came.payload)
            && event["topic"] == topic
            && event["ts"].as_i64() >= Some(desired.iat.0 - CLOCKS_DIFFER_US)
            && let Some(reason) = event["reason"].as_str()
        {
            return Ok(Some(Answer::TurnedAway(reason.to_owned())));
        }
    }
    Ok(None)
}
