//! `hone-fleet sign`: a command for one device, signed without any network.
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use ed25519_dalek::SigningKey;
use fleet_protocol::command::{Command, CommandError};
use fleet_protocol::envelope::Payload as _;
use fleet_protocol::names::{DeviceId, Micros, Name};
use fleet_protocol::order::Order;
use serde_json::{Map, Value, json};
use ulid::Ulid;

use crate::exit::{Exit, Fail};
use crate::{Global, keys};

/// What to sign, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Wish {
    /// Secret key of a signer; two of them are a two-person approval
    #[arg(long, value_name = "FILE", required_unless_present = "envelope")]
    key: Vec<PathBuf>,
    /// The device that shall do it
    #[arg(long, value_name = "NAME", required_unless_present = "envelope")]
    device: Option<DeviceId>,
    /// Void after so long: 90s, 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = lasting)]
    expires: Duration,
    /// Counter, above that of every earlier command of these keys [default: microseconds since 1970]
    #[arg(long, value_name = "NUMBER")]
    counter: Option<u64>,
    /// Command, such as retrain.start
    #[arg(value_name = "COMMAND", required_unless_present = "envelope")]
    command: Option<String>,
    /// Its arguments as NAME=VALUE; a value that is JSON is taken as such, `at`, `since` and `until` also as +2h, -7d or now
    #[arg(value_name = "NAME=VALUE")]
    arguments: Vec<String>,
}

/// Arguments of `hone-fleet sign`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    hone-fleet sign --key ada.key --device press-07 retrain.start reason=\"new tool\" > retrain.dsse\n  \
    hone-fleet send --envelope retrain.dsse\n\n\
    Without --output the envelope itself is printed, JSON in any case: payloadType, payload, signatures.\n\
    JSON keys with --output: id, device, expires, file.")]
pub(crate) struct Args {
    #[command(flatten)]
    wish: Wish,
    /// File for the envelope [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only here so that the shared arguments know it
    #[arg(long, hide = true)]
    envelope: Option<PathBuf>,
}

/// A signed command, and what its sender needs to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    /// The envelope as it travels.
    pub(crate) envelope: Vec<u8>,
    /// The command.
    pub(crate) id: Ulid,
    /// Who shall do it.
    pub(crate) device: DeviceId,
    /// Void from then on.
    pub(crate) expires: Micros,
}

pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: write 90s, 30m, 24h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).filter(|seconds| *seconds <= 366 * 86_400).map(Duration::from_secs).ok_or_else(wrong)
}

/// A time that is not over at once.
pub(crate) fn lasting(text: &str) -> Result<Duration, String> {
    span(text)?.is_zero().then_some(()).map_or_else(|| span(text), |()| Err(format!("`{text}` is over at once")))
}

/// Wall time now.
pub(crate) fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Signs what was asked for.
pub(crate) fn sign(wish: &Wish) -> Result<Signed> {
    let (Some(device), Some(name)) = (wish.device.clone(), wish.command.clone()) else {
        return Err(Fail::new(Exit::Usage, "a device and a command are needed").into());
    };
    let command = command(&name, &wish.arguments)?;
    let signers = keys::read_all(&wish.key)?;
    Ok(match wish.counter {
        Some(counter) => order(&device, &command, &signers, wish.expires, counter),
        None => sign_command(&device, &command, &signers, wish.expires, 0),
    })
}

/// Signs `command` for `device`; `number` tells commands apart that are signed at once and shall be carried out in this order.
pub(crate) fn sign_command(
    device: &DeviceId,
    command: &Command,
    keys: &[SigningKey],
    expires: Duration,
    number: u64,
) -> Signed {
    order(device, command, keys, expires, now().0.unsigned_abs() + number)
}

fn order(device: &DeviceId, command: &Command, keys: &[SigningKey], expires: Duration, counter: u64) -> Signed {
    let (id, issued) = (Ulid::generate(), now());
    let expires = Micros(issued.0.saturating_add(i64::try_from(expires.as_micros()).unwrap_or(i64::MAX)));
    let order = Order::new(id, device.clone(), issued, expires, counter, command);
    let envelope = order.sign(&keys.iter().collect::<Vec<_>>()).to_json();
    Signed { envelope, id, device: device.clone(), expires }
}

/// A value: JSON where it can be, else text; a moment may be said from now on: `+2h`, `-7d`, `now`.
fn read(key: &str, value: &str) -> Result<Value> {
    if ["at", "since", "until"].contains(&key) {
        let sign = match value.chars().next() {
            _ if value == "now" => return Ok(json!(now())),
            Some('+') => 1,
            Some('-') => -1,
            _ => 0,
        };
        if sign != 0 && value[1..].parse::<u64>().is_err() {
            let span = span(&value[1..]).map_err(|wrong| Fail::new(Exit::Usage, format!("`{key}`: {wrong}")))?;
            let micros = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
            return Ok(json!(Micros(now().0.saturating_add(sign * micros))));
        }
    }
    Ok(serde_json::from_str(value).unwrap_or_else(|_| Value::from(value)))
}

fn command(name: &str, arguments: &[String]) -> Result<Command> {
    let mut given = Map::new();
    for argument in arguments {
        let (key, value) = argument
            .split_once('=')
            .ok_or_else(|| Fail::new(Exit::Usage, format!("`{argument}` is no argument: write NAME=VALUE")))?;
        given.insert(key.to_owned(), read(key, value)?);
    }
    // There is one slot; most commands name it.
    let mut slotted = given.clone();
    slotted.entry("slot").or_insert_with(|| json!(Name::main_slot()));
    let cause =
        |error: &CommandError| std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    let slotless = |first: CommandError| {
        // A command without a slot complains of it; any other complaint is about what was written.
        if cause(&first).contains("`slot`") { Command::new(name, given) } else { Err(first) }
    };
    Command::new(name, slotted).or_else(slotless).map_err(|error| {
        let cause = cause(&error);
        Fail::new(Exit::Input, format!("{error}{cause}"))
            .hint(format!("commands are {}", Command::NAMES.join(", ")))
            .into()
    })
}

/// Signs and writes the envelope.
pub(crate) fn run(args: &Args, global: &Global) -> Result<Exit> {
    let signed = sign(&args.wish)?;
    match &args.output {
        Some(path) => fs::write(path, &signed.envelope)
            .map_err(|error| Fail::new(Exit::Disk, format!("cannot write {}: {error}", path.display())))
            .map_err(|fail| fail.hint("name a file in a folder that is there and may be written"))?,
        None => std::io::stdout().write_all(&signed.envelope)?,
    }
    if global.json && args.output.is_some() {
        println!(
            "{}",
            json!({"id": signed.id, "device": signed.device, "expires": signed.expires, "file": args.output})
        );
        return Ok(Exit::Ok);
    }
    eprintln!("command {} for {}, signed by {}", signed.id, signed.device, plural(args.wish.key.len(), "key"));
    Ok(Exit::Ok)
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_json_where_they_can_be_and_the_one_slot_goes_without_saying() {
        let arguments = ["reason=new tool".to_owned(), "strategy=head".to_owned()];
        let Command::RetrainStart { slot, reason, .. } = command("retrain.start", &arguments).unwrap() else {
            panic!()
        };
        assert_eq!((slot, reason.as_str()), (Name::main_slot(), "new tool"));
        assert_eq!(command("agent.selftest", &[]).unwrap(), Command::AgentSelftest {});
        assert!(command("agent.selftest", &["now=1".to_owned()]).unwrap_err().to_string().contains("do not fit"));
        assert!(command("dance", &[]).unwrap_err().to_string().contains("`dance`"));
    }

    #[test]
    fn a_moment_may_be_said_from_now_on() {
        let near =
            |value: &Value, seconds: i64| (value.as_i64().unwrap() - now().0 - seconds * 1_000_000).abs() < 60_000_000;
        assert!(near(&read("at", "+2h").unwrap(), 7_200) && near(&read("until", "now").unwrap(), 0));
        assert!(near(&read("since", "-7d").unwrap(), -604_800));
        assert_eq!((read("since", "12").unwrap(), read("since", "-5").unwrap()), (json!(12), json!(-5)));
        assert_eq!(read("reason", "+2h").unwrap(), json!("+2h"));
        assert!(read("at", "+soon").is_err() && read("at", "+").is_err());
    }

    #[test]
    fn a_time_has_a_unit_and_an_end() {
        assert_eq!(span("30m"), Ok(Duration::from_mins(30)));
        for wrong in ["", "30", "m", "1w", "9999999d", "-1s", "1é"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
