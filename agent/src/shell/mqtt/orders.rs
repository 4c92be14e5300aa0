//! Signed commands as they come in: checked one by one, then handed on in the order of their counters.
//!
//! Retained commands come in no promised order after a subscription. A burst is therefore collected until nothing came for
//! a moment: a lower counter that came later would be refused as replayed.
use std::time::Duration;

use fleet_protocol::Extra;
use fleet_protocol::envelope::{Envelope, EnvelopeError, Kind, Verified};
use fleet_protocol::keys::KeySet;
use fleet_protocol::names::DeviceId;
use fleet_protocol::order::Order;
use fleet_protocol::status::{CommandStatus, ReasonCode, Status};
use fleet_protocol::topics::Topic;
use tokio::time::Instant;
use ulid::Ulid;

use crate::shell::clock;

/// Largest envelope that is looked at: a packet, less topic and properties.
const ENVELOPE_BYTES_MAX: usize = fleet_protocol::PACKET_BYTES_MAX - 16 * 1024;
/// A burst has ended when nothing came for this long.
const QUIET: Duration = Duration::from_millis(150);
/// And at the latest after this.
const BURST_MAX: Duration = Duration::from_secs(2);
/// Most commands of one burst; what comes beyond comes again with the next connection.
const BURST_COMMANDS: usize = 256;

/// A command whose signature is good.
#[derive(Debug)]
pub struct Signed {
    /// What was signed, and by whom.
    pub verified: Verified,
    /// The same, read.
    pub order: Order,
}

/// A command that was turned away before anybody looked at what it asks.
#[derive(Debug)]
pub(super) struct TurnedAway {
    pub(super) status: CommandStatus,
    /// Whether the signature was the reason: that is told as an event too.
    pub(super) signature: bool,
    /// Who it claimed to be from.
    pub(super) key_ids: Vec<String>,
}

/// Checks what came in on `topic`; none if it is no command of ours, or an empty message that clears one.
pub(super) fn check(
    topic: &str,
    payload: &[u8],
    device: &DeviceId,
    keys: &KeySet,
) -> Option<Result<Signed, Box<TurnedAway>>> {
    let id = match topic.parse() {
        Ok(Topic::Command { device: addressed, id }) if addressed == *device => id,
        _ => return None,
    };
    if payload.is_empty() {
        return None;
    }
    Some(verify(payload, id, keys))
}

fn verify(payload: &[u8], id: Ulid, keys: &KeySet) -> Result<Signed, Box<TurnedAway>> {
    let turned = |code: ReasonCode, reason: String, signature, key_ids| {
        let status = refusal(id, String::new(), code, reason);
        Box::new(TurnedAway { status, signature, key_ids })
    };
    if payload.len() > ENVELOPE_BYTES_MAX {
        let reason = format!("{} bytes, {ENVELOPE_BYTES_MAX} are allowed", payload.len());
        return Err(turned(ReasonCode::RejectedSignature, reason, true, Vec::new()));
    }
    let refused = |error: &EnvelopeError| {
        let key_ids = match error {
            EnvelopeError::NotTrusted { key_ids } => key_ids.clone(),
            EnvelopeError::SignatureInvalid { key_id } => vec![key_id.to_string()],
            _ => Vec::new(),
        };
        turned(ReasonCode::RejectedSignature, error.to_string(), true, key_ids)
    };
    let envelope = Envelope::from_json(payload).map_err(|error| refused(&error))?;
    let verified = envelope.verify(Kind::Command, keys).map_err(|error| refused(&error))?;
    let order: Order =
        verified.parse().map_err(|error| turned(ReasonCode::Unsupported, error.to_string(), false, Vec::new()))?;
    if order.id != id {
        // A signed order under another name would be carried out once under each.
        let reason = format!("signed as {}, published as {id}", order.id);
        return Err(turned(ReasonCode::NotAuthorized, reason, false, Vec::new()));
    }
    Ok(Signed { verified, order })
}

/// A status that says no.
pub(super) fn refusal(id: Ulid, cmd: String, reason_code: ReasonCode, reason: String) -> CommandStatus {
    CommandStatus {
        id,
        cmd,
        status: Status::Failed { reason_code, reason },
        ts: fleet_protocol::names::Micros(clock::now().0),
        clock: clock::trust(),
        deadline: None,
        extra: Extra::new(),
    }
}

/// Commands that came in together.
#[derive(Debug, Default)]
pub(super) struct Burst {
    commands: Vec<Signed>,
    begun: Option<Instant>,
    ends: Option<Instant>,
}

impl Burst {
    /// Adds a command.
    pub(super) fn add(&mut self, command: Signed, now: Instant) {
        if self.commands.len() < BURST_COMMANDS {
            let begun = *self.begun.get_or_insert(now);
            self.ends = Some((now + QUIET).min(begun + BURST_MAX));
            self.commands.push(command);
        }
    }

    /// When it ends, if one has begun.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// The commands of a burst that has ended, by their counters.
    pub(super) fn take(&mut self) -> Vec<Signed> {
        (self.begun, self.ends) = (None, None);
        let mut commands = std::mem::take(&mut self.commands);
        commands.sort_by_key(|command| (command.order.ctr, command.order.id));
        commands
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use fleet_protocol::command::Command;
    use fleet_protocol::envelope::Payload as _;
    use fleet_protocol::keys::Role;
    use fleet_protocol::names::Micros;

    use super::*;

    fn signed(counter: u64) -> Signed {
        let (key, device): (_, DeviceId) = (SigningKey::from_bytes(&[1; 32]), "press-07".parse().unwrap());
        let mut keys = KeySet::default();
        keys.trust(key.verifying_key().as_bytes(), &[Role::Operator]).unwrap();
        let id = Ulid::from(u128::from(counter));
        let order = Order::new(id, device.clone(), Micros(1), Micros(9), counter, &Command::AgentSelftest {});
        let topic = format!("hone/v1/d/press-07/down/cmd/{id}");
        check(&topic, &order.sign(&[&key]).to_json(), &device, &keys).unwrap().unwrap()
    }

    #[test]
    fn commands_of_a_burst_are_handed_on_by_their_counters_whatever_order_they_came_in() {
        let (mut burst, now) = (Burst::default(), Instant::now());
        [3, 1, 2].into_iter().for_each(|counter| burst.add(signed(counter), now));
        assert_eq!(burst.ends(), Some(now + QUIET));
        burst.add(signed(4), now + BURST_MAX);
        assert_eq!(burst.ends(), Some(now + BURST_MAX), "a stream without a pause does not wait for ever");
        assert_eq!(burst.take().iter().map(|command| command.order.ctr).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!((burst.ends(), burst.take().len()), (None, 0));
    }

    #[test]
    fn an_order_under_the_name_of_another_is_refused() {
        let (key, device): (_, DeviceId) = (SigningKey::from_bytes(&[1; 32]), "press-07".parse().unwrap());
        let mut keys = KeySet::default();
        keys.trust(key.verifying_key().as_bytes(), &[Role::Operator]).unwrap();
        let order = Order::new(Ulid::from(1), device.clone(), Micros(1), Micros(9), 1, &Command::AgentSelftest {})
            .sign(&[&key]);
        let at = |id: u128| format!("hone/v1/d/press-07/down/cmd/{}", Ulid::from(id));
        assert!(check(&at(1), &order.to_json(), &device, &keys).unwrap().is_ok());
        let turned = check(&at(2), &order.to_json(), &device, &keys).unwrap().unwrap_err();
        let Status::Failed { reason_code, reason } = &turned.status.status else { panic!("it is refused") };
        assert_eq!((reason_code, turned.status.id), (&ReasonCode::NotAuthorized, Ulid::from(2)));
        assert!(reason.contains("published as"), "{reason}");
    }

    #[test]
    fn messages_for_others_and_cleared_commands_are_passed_over() {
        let (device, keys) = ("press-07".parse().unwrap(), KeySet::default());
        let id = Ulid::from(1);
        for topic in [format!("hone/v1/d/press-08/down/cmd/{id}"), "hone/v1/d/press-07/down/desired".to_owned()] {
            assert!(check(&topic, b"x", &device, &keys).is_none());
        }
        let own = format!("hone/v1/d/press-07/down/cmd/{id}");
        assert!(check(&own, b"", &device, &keys).is_none());
        assert!(check(&own, b"x", &device, &keys).unwrap().is_err());
    }
}
