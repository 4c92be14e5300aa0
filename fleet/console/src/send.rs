//! `hone-fleet send`: brings a signed command to its device and waits for its end.
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet_protocol::order::Order;
use fleet_protocol::status::{CommandStatus, Status};
use fleet_protocol::topics::Topic;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Global;
use crate::devices;
use crate::exit::{Exit, Fail};
use crate::orders::{self, Signed, Wish, now};
use crate::session::{Session, talk};

/// Arguments of `hone-fleet send`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    hone-fleet send --envelope retrain.dsse\n  \
    hone-fleet send --key ada.key --device press-07 model.rollback reason=\"shift 2 complains\"\n\n\
    A command waits at the broker until the device comes back or the command expires.\n\n\
    JSON keys: id, device, ended; once it has ended also cmd, status, reason_code, reason, result, transfer, ts, clock, by.")]
pub(crate) struct Args {
    #[command(flatten)]
    wish: Wish,
    /// A command that `hone-fleet sign` has signed, instead of signing one now
    #[arg(long, value_name = "FILE", conflicts_with_all = ["key", "device", "command", "counter"])]
    envelope: Option<PathBuf>,
    /// Seconds to wait for the end; 0 only hands the command over
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
}

/// Sends and waits.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    let signed = match &args.envelope {
        Some(path) => read(path)?,
        None => orders::sign(&args.wish)?,
    };
    show(global, &Sent { signed, wait_s: args.wait })
}

/// A command to bring to its device.
pub(crate) struct Sent {
    pub(crate) signed: Signed,
    /// Seconds to wait for its end; 0 only hands it over.
    pub(crate) wait_s: u64,
}

/// Delivers, waits, and shows the end.
pub(crate) fn show(global: &Global, Sent { signed, wait_s }: &Sent) -> Result<Exit> {
    let left_s = (signed.expires.0 - now().0) / 1_000_000;
    let Some(left_s) = u32::try_from(left_s).ok().filter(|left| *left > 0) else {
        return Err(Fail::new(Exit::Input, "the command has expired").hint("sign it again").into());
    };
    let status = talk(deliver(global, signed, left_s, Duration::from_secs(*wait_s)))?;
    let Some(status) = status else {
        if global.json {
            println!("{}", json!({"id": signed.id, "device": signed.device, "ended": false}));
        }
        if *wait_s == 0 {
            eprintln!("command {} waits for {} at the broker", signed.id, signed.device);
            return Ok(Exit::Ok);
        }
        let later = format!("`hone-fleet show {}` tells when it has", signed.device);
        let why = devices::silence(global, &signed.device, &later);
        eprintln!("command {} has not ended yet: {why}", signed.id);
        return Ok(Exit::Resumable);
    };
    let mut whole = serde_json::to_value(&status).unwrap_or_default();
    whole["device"] = json!(signed.device);
    whole["ended"] = json!(true);
    if global.json {
        println!("{whole}");
    } else {
        let word = |key: &str| whole[key].as_str().unwrap_or_default().to_owned();
        println!("command {} {} {} {}", status.id, word("status"), word("reason_code"), word("reason"));
        if let Some(result) = whole.get("result") {
            println!("{result}");
        }
    }
    Ok(if matches!(status.status, Status::Successful) { Exit::Ok } else { Exit::Refused })
}

async fn deliver(global: &Global, signed: &Signed, left_s: u32, wait: Duration) -> Result<Option<CommandStatus>> {
    let mut delivery = Delivery::begin(global, signed, left_s).await?;
    let end = Instant::now() + wait;
    while let Some(status) = delivery.next(end).await? {
        if status.status.is_final() {
            return Ok(Some(status));
        }
    }
    Ok(None)
}

/// A command on its way.
pub(crate) struct Delivery {
    pub(crate) session: Session,
    order: String,
}

impl Delivery {
    /// Publishes the command; the broker keeps it for its device.
    pub(crate) async fn begin(global: &Global, signed: &Signed, left_s: u32) -> Result<Self> {
        let Signed { envelope, id, device, .. } = signed;
        let told = Topic::CommandStatus { device: device.clone(), id: *id }.to_string();
        let order = Topic::Command { device: device.clone(), id: *id }.to_string();
        let mut session = Session::open(global, vec![told]).await?;
        session.publish(&order, envelope.clone(), Some(left_s)).await?;
        Ok(Self { session, order })
    }

    /// How it stands next, none if nothing is heard until `end`; the command is cleared once it has ended.
    pub(crate) async fn next(&mut self, end: Instant) -> Result<Option<CommandStatus>> {
        while let Some(came) = self.session.next(end).await? {
            let Ok(status) = serde_json::from_slice::<CommandStatus>(&came.payload) else { continue };
            if status.status.is_final() {
                self.session.publish(&self.order, Vec::new(), None).await?;
            }
            return Ok(Some(status));
        }
        Ok(None)
    }
}

/// Reads a signed command. Its signature is the device's to check; only the address is needed here.
fn read(path: &PathBuf) -> Result<Signed> {
    let input = |reason: &str| {
        Fail::new(Exit::Input, format!("{}: {reason}", path.display())).hint("make one with `hone-fleet sign`")
    };
    let envelope = fs::read(path).map_err(|error| input(&error.to_string()))?;
    let whole: Value = serde_json::from_slice(&envelope).map_err(|_| input("no signed command"))?;
    let payload = whole["payload"].as_str().and_then(|text| STANDARD.decode(text).ok());
    let order: Option<Order> = payload.and_then(|payload| serde_json::from_slice(&payload).ok());
    let order = order.ok_or_else(|| input("no signed command"))?;
    Ok(Signed { envelope, id: order.id, device: order.dev, expires: order.exp })
}
