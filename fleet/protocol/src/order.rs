//! What is signed: orders, settings, notices and statements about bundles, and when an order is refused.
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ulid::Ulid;

use crate::Extra;
use crate::command::{Command, CommandError};
use crate::envelope::{Kind, Payload, Verified};
use crate::keys::{KeyId, Role};
use crate::names::{Clock, DeviceId, Digest, Micros, Name};
use crate::status::ReasonCode;

/// A command addressed to one device, dated and counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// Version of this payload: [`API`](crate::API).
    pub v: u32,
    /// Names the command; carrying it out twice is prevented by this.
    pub id: Ulid,
    /// The one device that may carry it out.
    pub dev: DeviceId,
    /// Name of the command. Read with its arguments by [`Order::command`], so that an order of a newer version can still
    /// be answered with `unsupported`.
    pub cmd: String,
    /// Signed at.
    pub iat: Micros,
    /// Void from then on.
    pub exp: Micros,
    /// Larger than that of every earlier order of the same signer.
    pub ctr: u64,
    /// Arguments of the command.
    #[serde(default)]
    pub args: Map<String, Value>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub extra: Extra,
}

/// Settings for one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Version of this payload.
    pub v: u32,
    /// The one device they are for.
    pub dev: DeviceId,
    /// Revision; only a larger one replaces what is there.
    pub rev: u64,
    /// Signed at.
    pub iat: Micros,
    /// The settings, shaped like the settings file.
    pub config: Map<String, Value>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A notice to a group; there are no commands to groups, a wave is one order for each device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Version of this payload.
    pub v: u32,
    /// Names the notice.
    pub id: Ulid,
    /// The group it is for.
    pub group: Name,
    /// Signed at.
    pub iat: Micros,
    /// Larger than that of every earlier notice of the same signer.
    pub ctr: u64,
    /// What is announced.
    pub notice: NoticeBody,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What a notice announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NoticeBody {
    /// This key is trusted no more.
    RevokeKey { keyid: KeyId },
    /// Nothing new is trained, tried or promoted until then; going back stays allowed.
    Freeze { until: Micros },
    /// The freeze of this group is over.
    Thaw {},
}

impl NoticeBody {
    /// The last level of its topic: a revocation stands beside every other, a freeze and its end replace each other.
    ///
    /// # Panics
    /// Never: a key id is made of what a name is made of, or is cut to it.
    #[must_use]
    pub fn name(&self) -> Name {
        let fits = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let text = match self {
            Self::RevokeKey { keyid } => {
                let id = keyid.as_str().bytes().filter(fits).take(32).map(char::from).collect::<String>();
                format!("revoke-{id}")
            }
            Self::Freeze { .. } | Self::Thaw {} => "freeze".to_owned(),
        };
        text.parse().expect("letters and digits behind a word")
    }
}

/// What a bundle's detached signature says, in `<sha256>.dsse` beside it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleStatement {
    /// Version of this payload.
    pub v: u32,
    /// The sha-256 of the bundle file.
    pub digest: Digest,
    /// Larger than that of every earlier bundle of the same signer; an older bundle cannot be replayed.
    pub sequence: u64,
    /// The bundle it came from; none for a factory model.
    pub parent: Option<Digest>,
    /// Raised by the vendor to void every bundle of an earlier epoch.
    pub epoch: u32,
    /// As what it is signed: by the vendor, an operator, or the device itself.
    pub role: Role,
    /// The one device it may serve on; none for all.
    pub device: Option<DeviceId>,
    /// Tensors a device may change, by name; none for the default: all above the cut, batch-norm statistics, calibration,
    /// baseline and golden outputs. Only the vendor's word counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trainable: Option<Vec<String>>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Payload for Order {
    const KIND: Kind = Kind::Command;
}

impl Payload for Desired {
    const KIND: Kind = Kind::Desired;
}

impl Payload for Notice {
    const KIND: Kind = Kind::Notice;
}

impl Payload for BundleStatement {
    const KIND: Kind = Kind::Bundle;
}

/// What a device knows when an order arrives.
#[derive(Clone, Debug)]
pub struct Admission<'a> {
    /// Who it is.
    pub device: &'a DeviceId,
    /// Its wall time.
    pub now: Micros,
    /// How far that can be trusted; unsynced, the expiry is not judged, the counter is.
    pub clock: Clock,
    /// The largest counter taken from each key.
    pub high_water: &'a BTreeMap<KeyId, u64>,
}

/// Why an order is not carried out. Look its id up first: a redelivered order is answered with its stored status instead.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// For another device.
    #[error("addressed to `{dev}`, not to this device")]
    WrongDevice { dev: DeviceId },
    /// A payload of another version.
    #[error("version {v} of the order, {} is understood; sign it with a fitting `hone-fleet`", crate::API)]
    Version { v: u32 },
    /// A counter that was already used, or passed.
    #[error("counter {ctr} of key {key_id} is not above {high_water}: sign a new order")]
    Replayed { key_id: KeyId, ctr: u64, high_water: u64 },
    /// Too late.
    #[error("void since {} s: sign a new order", late_s)]
    Expired { late_s: i64 },
    /// Signed by nobody who may ask this.
    #[error("`{cmd}` needs a key with role {role:?}")]
    Role { cmd: &'static str, role: Role },
    /// Not understood.
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Refusal {
    /// The code for the status report.
    #[must_use]
    pub fn code(&self) -> ReasonCode {
        match self {
            Self::WrongDevice { .. } | Self::Role { .. } => ReasonCode::NotAuthorized,
            Self::Version { .. } | Self::Command(_) => ReasonCode::Unsupported,
            Self::Replayed { .. } => ReasonCode::Replayed,
            Self::Expired { .. } => ReasonCode::Expired,
        }
    }
}

impl Order {
    /// An order ready to be signed.
    ///
    /// # Panics
    /// Never: a command always is an object with `cmd` and `args`.
    #[must_use]
    pub fn new(id: Ulid, dev: DeviceId, iat: Micros, exp: Micros, ctr: u64, command: &Command) -> Self {
        let Value::Object(mut whole) = serde_json::to_value(command).expect("a command is JSON") else {
            unreachable!("a command is an object");
        };
        let args = match whole.remove("args") {
            Some(Value::Object(args)) => args,
            _ => Map::new(),
        };
        let cmd = command.name().to_owned();
        Self { v: crate::API, id, dev, cmd, iat, exp, ctr, args, extra: Extra::new() }
    }

    /// The command it carries.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn command(&self) -> Result<Command, CommandError> {
        Command::new(&self.cmd, self.args.clone())
    }

    /// Decides whether the order may be carried out and returns its command. `signed` is the envelope it was parsed from.
    ///
    /// # Errors
    /// [`Refusal`], the first reason in this order: version, device, counter, expiry, command, role.
    pub fn admit(&self, signed: &Verified, facts: &Admission<'_>) -> Result<Command, Refusal> {
        if self.v != crate::API {
            return Err(Refusal::Version { v: self.v });
        }
        if self.dev != *facts.device {
            return Err(Refusal::WrongDevice { dev: self.dev.clone() });
        }
        for key_id in signed.signers().keys() {
            if let Some(&high_water) = facts.high_water.get(key_id).filter(|&&high_water| self.ctr <= high_water) {
                return Err(Refusal::Replayed { key_id: key_id.clone(), ctr: self.ctr, high_water });
            }
        }
        if facts.clock != Clock::Unsynced && facts.now >= self.exp {
            return Err(Refusal::Expired { late_s: facts.now.0.saturating_sub(self.exp.0) / 1_000_000 });
        }
        let command = self.command()?;
        if !may(signed.signers(), command.role()) {
            return Err(Refusal::Role { cmd: command.name(), role: command.role() });
        }
        Ok(command)
    }
}

fn may(signers: &BTreeMap<KeyId, BTreeSet<Role>>, role: Role) -> bool {
    signers.values().any(|roles| roles.contains(&role))
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use expect_test::expect_file;

    use super::*;
    use crate::envelope::{Envelope, EnvelopeError};
    use crate::keys::KeySet;

    fn device() -> DeviceId {
        "press-07".parse().unwrap()
    }

    fn operator() -> (SigningKey, KeySet, KeyId) {
        let key = SigningKey::from_bytes(&[1; 32]);
        let mut keys = KeySet::default();
        let id = keys.trust(key.verifying_key().as_bytes(), &[Role::Operator]).unwrap();
        (key, keys, id)
    }

    fn order(command: &Command) -> Order {
        let id = Ulid::from_parts(1_763_683_200_000, 7);
        Order::new(id, device(), Micros(1_000_000), Micros(61_000_000), 5, command)
    }

    fn cancel() -> Command {
        Command::RetrainCancel { slot: Name::main_slot() }
    }

    /// The code an order ends with at second `now_s`, when counters up to `high_water` were seen.
    fn verdict(order: &Order, now_s: i64, clock: Clock, high_water: u64) -> Result<Command, ReasonCode> {
        let (key, keys, id) = operator();
        let verified = order.sign(&[&key]).verify(Kind::Command, &keys).unwrap();
        let parsed: Order = verified.parse().unwrap();
        assert_eq!(&parsed, order);
        let (device, high_water) = (device(), BTreeMap::from([(id, high_water)]));
        let facts = Admission { device: &device, now: Micros(now_s * 1_000_000), clock, high_water: &high_water };
        parsed.admit(&verified, &facts).map_err(|refusal| refusal.code())
    }

    #[test]
    fn an_order_in_time_by_the_right_key_is_admitted() {
        assert_eq!(verdict(&order(&cancel()), 2, Clock::Ntp, 4), Ok(cancel()));
    }

    #[test]
    fn an_order_seen_before_or_overtaken_is_replayed() {
        assert_eq!(verdict(&order(&cancel()), 2, Clock::Ntp, 5), Err(ReasonCode::Replayed));
        assert_eq!(verdict(&order(&cancel()), 2, Clock::Unsynced, 6), Err(ReasonCode::Replayed));
    }

    #[test]
    fn an_order_of_two_people_is_replayed_as_soon_as_one_of_them_has_signed_a_later_one() {
        let (one, mut keys, first) = operator();
        let two = SigningKey::from_bytes(&[2; 32]);
        let second = keys.trust(two.verifying_key().as_bytes(), &[Role::Operator]).unwrap();
        let (device, order) = (device(), order(&cancel()));
        let verified = order.sign(&[&one, &two]).verify(Kind::Command, &keys).unwrap();
        for (later, expected) in [(vec![], Ok(cancel())), (vec![first], Err(())), (vec![second], Err(()))] {
            let high_water = later.into_iter().map(|id| (id, 5)).collect();
            let facts = Admission { device: &device, now: Micros(2), clock: Clock::Ntp, high_water: &high_water };
            let verdict = order.admit(&verified, &facts);
            assert_eq!(verdict.map_err(|refusal| assert_eq!(refusal.code(), ReasonCode::Replayed)), expected);
        }
    }

    #[test]
    fn an_expired_order_is_refused_unless_the_clock_is_a_guess() {
        assert_eq!(verdict(&order(&cancel()), 61, Clock::Rtc, 0), Err(ReasonCode::Expired));
        assert_eq!(verdict(&order(&cancel()), 61, Clock::Unsynced, 0), Ok(cancel()));
    }

    #[test]
    fn an_order_for_another_device_or_beyond_the_role_is_not_authorized() {
        let mut foreign = order(&cancel());
        foreign.dev = "press-08".parse().unwrap();
        assert_eq!(verdict(&foreign, 2, Clock::Ntp, 0), Err(ReasonCode::NotAuthorized));
        let purge = Command::DataPurge { since: Micros(0), until: Micros(1) };
        assert_eq!(verdict(&order(&purge), 2, Clock::Ntp, 0), Err(ReasonCode::NotAuthorized));
    }

    #[test]
    fn an_order_of_a_newer_version_is_unsupported_and_keeps_its_fields() {
        let mut newer = order(&cancel());
        newer.cmd = "agent.dance".to_owned();
        newer.extra.insert("priority".to_owned(), Value::from(3));
        assert_eq!(verdict(&newer, 2, Clock::Ntp, 0), Err(ReasonCode::Unsupported));
        newer.v = 2;
        assert_eq!(verdict(&newer, 2, Clock::Ntp, 0), Err(ReasonCode::Unsupported));
    }

    #[test]
    fn a_signed_text_that_is_no_order_is_told_from_a_bad_signature() {
        let (key, keys, _) = operator();
        let verified = Envelope::sign(Kind::Command, b"{}", &[&key]).verify(Kind::Command, &keys).unwrap();
        assert!(matches!(verified.parse::<Order>(), Err(EnvelopeError::PayloadInvalid(_))));
        assert!(matches!(verified.parse::<Desired>(), Err(EnvelopeError::WrongKind { .. })));
    }

    #[test]
    fn the_signed_payloads_are_the_golden_ones() {
        let (key, _, id) = operator();
        let digest = Digest::of(b"bundle");
        let extra = Extra::new();
        let ulid = Ulid::from_parts(1_763_683_200_000, 7);
        let config = Map::from_iter([("retrain".to_owned(), serde_json::json!({ "mode": "value" }))]);
        let desired =
            Desired { v: 1, dev: device(), rev: 3, iat: Micros(1), config: config.clone(), extra: extra.clone() };
        let group: Name = "hall-3".parse().unwrap();
        let revoke = NoticeBody::RevokeKey { keyid: id };
        let notice = Notice { v: 1, id: ulid, group, iat: Micros(1), ctr: 2, notice: revoke, extra: extra.clone() };
        let statement = BundleStatement {
            v: 1,
            digest,
            sequence: 12,
            parent: Some(Digest::of(b"parent")),
            epoch: 1,
            role: Role::Device,
            device: Some(device()),
            trainable: None,
            extra,
        };
        let golden = [
            serde_json::to_string(&order(&cancel())).unwrap(),
            serde_json::to_string(&desired).unwrap(),
            serde_json::to_string(&notice).unwrap(),
            serde_json::to_string(&statement).unwrap(),
            String::from_utf8(order(&cancel()).sign(&[&key]).to_json()).unwrap(),
        ];
        expect_file!["../golden/signed.jsonl"].assert_eq(&(golden.join("\n") + "\n"));
        assert_eq!(serde_json::from_str::<Desired>(&golden[1]).unwrap(), desired);
        assert_eq!(serde_json::from_str::<Notice>(&golden[2]).unwrap(), notice);
        assert_eq!(serde_json::from_str::<BundleStatement>(&golden[3]).unwrap(), statement);
    }
}
