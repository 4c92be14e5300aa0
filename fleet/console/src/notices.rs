//! `hone-fleet revoke`, `freeze` and `thaw`: signed notices to a group, retained for whoever comes back.
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::envelope::Payload as _;
use fleet_protocol::keys::KeyId;
use fleet_protocol::names::{Micros, Name};
use fleet_protocol::order::{Notice, NoticeBody};
use fleet_protocol::topics::{Topic, everybody};
use fleet_protocol::{API, Extra};
use serde_json::{Value, json};
use ulid::Ulid;

use crate::Global;
use crate::exit::{Exit, Fail};
use crate::keys;
use crate::orders::{lasting, now};
use crate::session::{Session, talk};

/// Whom a notice is for, and who says so.
#[derive(Debug, clap::Args)]
struct Signed {
    /// The group [default: `all`, to which every device belongs]
    #[arg(long, value_name = "NAME")]
    group: Option<Name>,
    /// Secret key of an admin
    #[arg(long, value_name = "FILE", required = true)]
    key: Vec<PathBuf>,
}

/// Arguments of `hone-fleet revoke`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet revoke 3f9a01c2d4e5f607 --group hall-3 --key admin.key\n\n\
    The notice stays at the broker beside all others: a device that comes back hears it. For good also take the key out of [mqtt] trust \
    with `hone-fleet configure`.\n\n\
    JSON keys: group, revoked.")]
pub(crate) struct Revoke {
    /// Id of the key, as `keygen` and `show` print it
    key_id: String,
    #[command(flatten)]
    signed: Signed,
}

/// Arguments of `hone-fleet freeze`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet freeze --group hall-3 --for 7d --key admin.key\n\n\
    Nothing new is trained, tried or promoted there until then or until `hone-fleet thaw`; trials stay at their share, work under way \
    leaves a checkpoint. What answers goes on as it is, without learning, and may be rolled back. A device without a right clock stays \
    frozen until thawed.\n\n\
    JSON keys: group, frozen_until (microseconds since 1970).")]
pub(crate) struct Freeze {
    /// How long: 90s, 30m, 24h, 7d
    #[arg(long = "for", value_name = "TIME", value_parser = lasting)]
    span: Duration,
    #[command(flatten)]
    signed: Signed,
}

/// Arguments of `hone-fleet thaw`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: hone-fleet thaw --group hall-3 --key admin.key\n\n\
    JSON keys: group, thawed.")]
pub(crate) struct Thaw {
    #[command(flatten)]
    signed: Signed,
}

/// Takes away the trust in a key.
pub(crate) fn revoke(args: &Revoke, global: &Global) -> Result<Exit> {
    let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if args.key_id.len() != 16 || !args.key_id.bytes().all(lower) {
        return Err(Fail::new(Exit::Input, format!("`{}` is no key id", args.key_id))
            .hint("write its 16 hex digits in lower case, as `hone-fleet keygen` and `show` print them")
            .into());
    }
    let keyid: KeyId = serde_json::from_value(Value::from(args.key_id.clone()))?;
    let group = announce(&args.signed, NoticeBody::RevokeKey { keyid: keyid.clone() }, global)?;
    if global.json {
        println!("{}", json!({"group": group, "revoked": keyid}));
    } else {
        println!("told to {group}: key {keyid} is trusted no more; `hone-fleet show` tells whom a device trusts");
    }
    Ok(Exit::Ok)
}

/// Forbids what is new for a while.
pub(crate) fn freeze(args: &Freeze, global: &Global) -> Result<Exit> {
    let micros = i64::try_from(args.span.as_micros()).unwrap_or(i64::MAX);
    let until = Micros(now().0.saturating_add(micros));
    let group = announce(&args.signed, NoticeBody::Freeze { until }, global)?;
    if global.json {
        println!("{}", json!({"group": group, "frozen_until": until}));
    } else {
        println!(
            "told to {group}: frozen for {} s; `hone-fleet devices` shows who is, `hone-fleet thaw --group {group}` ends it",
            args.span.as_secs()
        );
    }
    Ok(Exit::Ok)
}

/// Ends a freeze.
pub(crate) fn thaw(args: &Thaw, global: &Global) -> Result<Exit> {
    let group = announce(&args.signed, NoticeBody::Thaw {}, global)?;
    if global.json {
        println!("{}", json!({"group": group, "thawed": true}));
    } else {
        println!("told to {group}: thawed; a device of another group that is frozen stays so (`hone-fleet devices`)");
    }
    Ok(Exit::Ok)
}

fn announce(signed: &Signed, notice: NoticeBody, global: &Global) -> Result<Name> {
    let signers = keys::read_all(&signed.key)?;
    let (id, iat, name) = (Ulid::generate(), now(), notice.name());
    let group = signed.group.clone().unwrap_or_else(everybody);
    let notice =
        Notice { v: API, id, group: group.clone(), iat, ctr: iat.0.unsigned_abs(), notice, extra: Extra::new() };
    let envelope = notice.sign(&signers.iter().collect::<Vec<_>>()).to_json();
    let topic = Topic::Notice { group: group.clone(), name }.to_string();
    talk(async { Session::open(global, vec![topic.clone()]).await?.publish(&topic, envelope, None).await })?;
    Ok(group)
}
