//! `hone-fleet configure` and `revoke`: signed settings for one device, and keys that count no more.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use ed25519_dalek::SigningKey;
use fleet_protocol::envelope::Payload as _;
use fleet_protocol::keys::KeyId;
use fleet_protocol::names::{DeviceId, Name};
use fleet_protocol::order::{Desired, Notice, NoticeBody};
use fleet_protocol::report::Reported;
use fleet_protocol::topics::Topic;
use fleet_protocol::{API, Extra};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use ulid::Ulid;

use crate::Global;
use crate::exit::{Exit, Fail};
use crate::keys;
use crate::orders::now;
use crate::session::{Session, talk};

/// What is retained comes within this.
const RETAINED: Duration = Duration::from_secs(2);

/// Arguments of `hone-fleet configure`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet configure press-07 --key admin.key changes.toml\n\n\
    The file is shaped like hone.toml and holds everything that shall differ from the device's own file: it replaces what was \
    set before. The device takes all of it or nothing, and says why. Keys are rotated by [mqtt] trust.")]
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

/// Arguments of `hone-fleet revoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet revoke 3f9a01c2d4e5f607 --group hall-3 --key admin.key\n\n\
    The notice stays at the broker: a device that comes back hears it. A group retains one notice: also take the key out of \
    [mqtt] trust with `hone-fleet configure`.")]
pub(crate) struct Revoke {
    /// Id of the key, as `keygen` and `show` print it
    key_id: String,
    /// The group whose devices shall not obey it any more
    #[arg(long, value_name = "NAME")]
    group: Name,
    /// Secret key of an admin
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
}

fn signers(paths: &[PathBuf]) -> Result<Vec<SigningKey>> {
    paths.iter().map(|path| keys::read(path)).collect()
}

/// Signs and hands over settings, and waits for what the device makes of them.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    let input = |reason: String| Fail::new(Exit::Input, format!("{}: {reason}", args.settings.display()));
    let text = std::fs::read_to_string(&args.settings).map_err(|error| input(error.to_string()))?;
    let config: Map<String, Value> = toml::from_str(&text).map_err(|error| input(error.message().to_owned()))?;
    let signers = signers(&args.key)?;
    let reported = talk(async {
        let told = Topic::Reported { device: args.device.clone() }.to_string();
        let mut session = Session::open(global, vec![told]).await?;
        let before = reported(&mut session, Instant::now() + RETAINED, |_| true).await?;
        let rev = args.revision.unwrap_or_else(|| before.map_or(0, |reported| reported.desired_rev) + 1);
        let desired = Desired { v: API, dev: args.device.clone(), rev, iat: now(), config, extra: Extra::new() };
        let envelope = desired.sign(&signers.iter().collect::<Vec<_>>()).to_json();
        let topic = Topic::Desired { device: args.device.clone() }.to_string();
        session.publish(&topic, envelope, None).await?;
        let end = Instant::now() + Duration::from_secs(args.wait);
        reported_at(&mut session, end, rev).await
    })?;
    let Some(reported) = reported else {
        eprintln!("{} has not answered yet: the settings wait for it at the broker", args.device);
        return Ok(if args.wait == 0 { Exit::Ok } else { Exit::Resumable });
    };
    let applied = reported.applied_rev == reported.desired_rev;
    if global.json {
        let Reported { desired_rev, applied_rev, errors, restart, .. } = &reported;
        println!(
            "{}",
            json!({"device": args.device, "desired_rev": desired_rev, "applied_rev": applied_rev, "errors": errors, "restart": restart})
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

async fn reported_at(session: &mut Session, end: Instant, rev: u64) -> Result<Option<Reported>> {
    reported(session, end, |reported| reported.desired_rev >= rev).await
}

async fn reported(session: &mut Session, end: Instant, wanted: impl Fn(&Reported) -> bool) -> Result<Option<Reported>> {
    while let Some(came) = session.next(end).await? {
        if let Ok(reported) = serde_json::from_slice::<Reported>(&came.payload)
            && wanted(&reported)
        {
            return Ok(Some(reported));
        }
    }
    Ok(None)
}

/// Signs and hands over a notice.
pub(crate) fn revoke(args: &Revoke, global: &Global) -> Result<Exit> {
    let digits = args.key_id.len() == 16 && args.key_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let keyid: KeyId = serde_json::from_value(Value::from(args.key_id.clone()))?;
    if !digits {
        return Err(
            Fail::new(Exit::Input, format!("`{keyid}` is no key id: 16 hex digits, as `keygen` prints them")).into()
        );
    }
    let signers = signers(&args.key)?;
    let (id, iat) = (Ulid::generate(), now());
    let notice = NoticeBody::RevokeKey { keyid: keyid.clone() };
    let (group, ctr) = (args.group.clone(), iat.0.unsigned_abs());
    let notice = Notice { v: API, id, group, iat, ctr, notice, extra: Extra::new() };
    let envelope = notice.sign(&signers.iter().collect::<Vec<_>>()).to_json();
    let topic = Topic::Notice { group: args.group.clone() }.to_string();
    talk(async { Session::open(global, vec![topic.clone()]).await?.publish(&topic, envelope, None).await })?;
    if global.json {
        println!("{}", json!({"group": args.group, "revoked": keyid}));
    } else {
        println!("devices of {} obey key {keyid} no more; `hone-fleet show` tells whom they trust", args.group);
    }
    Ok(Exit::Ok)
}
