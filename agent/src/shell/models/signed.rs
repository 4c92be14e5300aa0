//! What a bundle's signature says, and whose word it is.
use fleet_protocol::Extra;
use fleet_protocol::envelope::{Envelope, Kind, Payload as _};
use fleet_protocol::keys::{KeyId, KeySet, Role, SigningKey};
use fleet_protocol::names::{self, DeviceId};
use fleet_protocol::order::BundleStatement;
use serde_json::Value;
use trainer_core::digest::Digest;

use super::Refused;

/// In a device's statement: the digest of the vendor's model it descends from.
const ANCESTOR: &str = "ancestor";
/// In a vendor's statement: earlier epochs are void from the moment it is taken.
pub const FLOOR: &str = "epoch_floor";
/// In a device's statement: the owner put this unsigned model here.
const OWNER: &str = "owner";

/// Who answers for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The vendor has signed it.
    Vendor,
    /// An operator has signed it, within what the vendor allows.
    Operator,
    /// This device has trained and signed it.
    Device,
    /// Nobody has signed it; the owner of this device put it here.
    Owner,
}

impl Standing {
    /// The word in tables and answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vendor => "vendor",
            Self::Operator => "operator",
            Self::Device => "device",
            Self::Owner => "unsigned",
        }
    }

    /// For a person.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Vendor => "signed by the vendor",
            Self::Operator => "signed by an operator",
            Self::Device => "trained and signed by this device",
            Self::Owner => "unsigned, trusted because the owner of this device put it here",
        }
    }
}

/// A statement whose signature was checked.
#[derive(Clone, Debug)]
pub(super) struct Signed {
    pub(super) statement: BundleStatement,
    pub(super) standing: Standing,
    /// The key that stands for the role.
    pub(super) key: KeyId,
    /// The vendor's model a device's descends from; itself where nobody else answers for it.
    pub(super) ancestor: Option<Digest>,
    /// The epoch below which the vendor voids new bundles at once.
    pub(super) floor: u32,
}

/// Checks an envelope: kind, signature, schema of the payload, version, role against the key, digest, device.
pub(super) fn check(
    envelope: &[u8],
    digest: Digest,
    keys: &KeySet,
    device: Option<&DeviceId>,
) -> Result<Signed, Refused> {
    let verified = Envelope::from_json(envelope)?.verify(Kind::Bundle, keys)?;
    let statement: BundleStatement = verified.parse()?;
    if statement.v != fleet_protocol::API {
        return Err(Refused::Version(statement.v));
    }
    let claimed = statement.role;
    let key = verified.signers().iter().find(|(_, roles)| roles.contains(&claimed)).map(|(key, _)| key.clone());
    let key = key.ok_or(Refused::Role { claimed })?;
    let owner = statement.extra.get(OWNER) == Some(&Value::Bool(true));
    let standing = match claimed {
        Role::Vendor => Standing::Vendor,
        Role::Operator => Standing::Operator,
        Role::Device if owner => Standing::Owner,
        Role::Device => Standing::Device,
        Role::Admin | Role::Observer => return Err(Refused::NoSigner(claimed)),
    };
    let signed = from_wire(&statement.digest);
    if signed != digest {
        return Err(Refused::OtherBundle { signed, found: digest });
    }
    if let Some(meant) = statement.device.as_ref().filter(|meant| Some(*meant) != device) {
        return Err(Refused::OtherDevice { device: meant.clone() });
    }
    let ancestor = statement.extra.get(ANCESTOR).and_then(Value::as_str).and_then(|text| text.parse().ok());
    // Nobody but the vendor voids anything, and nothing beyond the epoch it has reached itself.
    let floor = statement.extra.get(FLOOR).and_then(Value::as_u64).and_then(|floor| u32::try_from(floor).ok());
    let floor = floor.filter(|_| standing == Standing::Vendor).map_or(0, |floor| floor.min(statement.epoch));
    Ok(Signed { statement, standing, key, ancestor, floor })
}

/// What an envelope says about the bundle of that digest, and who says it.
///
/// # Errors
/// [`Refused`] names what is wrong with the signature.
pub fn read_signature(
    envelope: &[u8],
    digest: Digest,
    keys: &KeySet,
    device: Option<&DeviceId>,
) -> Result<(BundleStatement, Standing), Refused> {
    check(envelope, digest, keys, device).map(|signed| (signed.statement, signed.standing))
}

/// What the device says about a model it trained from `ancestor`, or that its owner put there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) digest: Digest,
    pub(super) sequence: u64,
    pub(super) epoch: u32,
    pub(super) parent: Option<Digest>,
    /// None: the owner's word alone.
    pub(super) ancestor: Option<Digest>,
}

/// Signs with the device's key.
pub(super) fn sign(own: &Own, device: Option<&DeviceId>, key: &SigningKey) -> Vec<u8> {
    let mut extra = Extra::new();
    match own.ancestor {
        Some(ancestor) => extra.insert(ANCESTOR.to_owned(), Value::String(ancestor.to_string())),
        None => extra.insert(OWNER.to_owned(), Value::Bool(true)),
    };
    let statement = BundleStatement {
        v: fleet_protocol::API,
        digest: to_wire(&own.digest),
        sequence: own.sequence,
        parent: own.parent.as_ref().map(to_wire),
        epoch: own.epoch,
        role: Role::Device,
        device: device.cloned(),
        trainable: None,
        extra,
    };
    statement.sign(&[key]).to_json()
}

/// The digest as the fleet's crate has it.
#[must_use]
pub fn to_wire(digest: &Digest) -> names::Digest {
    names::Digest::from(*digest.as_bytes())
}

pub(super) fn from_wire(digest: &names::Digest) -> Digest {
    digest.to_string().parse().expect("both crates write 64 lower-case hex digits")
}
