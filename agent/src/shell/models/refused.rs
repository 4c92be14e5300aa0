//! Why a bundle is not taken, or a stored one not loaded: each by name, with what to do.
use fleet_protocol::envelope::EnvelopeError;
use fleet_protocol::keys::Role;
use fleet_protocol::names::DeviceId;
use trainer_core::bundle::BundleError;
use trainer_core::digest::Digest;

use crate::shell::store::StoreError;

/// A bundle that is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// No signature where one is needed.
    #[error("unsigned: this device takes only models its vendor has signed; sign it with `hone model sign`")]
    Unsigned,
    /// The signature is no good.
    #[error("wrongly signed: {0}")]
    Signature(#[from] EnvelopeError),
    /// The signer's key has not the role it claims.
    #[error("wrongly signed: the statement says role {claimed:?}, the key that signed it does not have it")]
    Role {
        /// What the statement says.
        claimed: Role,
    },
    /// A role that signs no bundles.
    #[error("wrongly signed: role {0:?} signs no models")]
    NoSigner(Role),
    /// A statement of a later version.
    #[error("version {0} of the statement is not known: update hone")]
    Version(u32),
    /// The signature belongs to another file.
    #[error("the signature is that of {}, this file is {}; take the .dsse file that belongs to it", .signed.short(), .found.short())]
    OtherBundle {
        /// What was signed.
        signed: Digest,
        /// The file's digest.
        found: Digest,
    },
    /// For another device.
    #[error("signed for device `{device}`, not for this one")]
    OtherDevice {
        /// The device it is for.
        device: DeviceId,
    },
    /// A later one was taken already.
    #[error(
        "older sequence: {sequence} is not above {floor}, which was taken from the same key before; sign it with a higher one"
    )]
    OlderSequence {
        /// Its number.
        sequence: u64,
        /// The highest taken.
        floor: u64,
    },
    /// Its epoch is over.
    #[error("older epoch: {epoch} is below {floor}; the vendor has voided what came before")]
    OlderEpoch {
        /// Its epoch.
        epoch: u32,
        /// The lowest accepted.
        floor: u32,
    },
    /// Whether it is sound could not be told, for a reason that may lie outside of it.
    #[error("it could not be vetted: {0}")]
    Unvetted(String),
    /// The file itself.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// For other samples.
    #[error(
        "other schema: its features or its task differ from the champion's; it would not understand this device's samples"
    )]
    OtherSchema,
    /// A device's bundle that comes from nowhere.
    #[error("no ancestor of {} on this device is signed by the vendor, so the device cannot answer for it", .0.short())]
    NoAncestor(Digest),
    /// A device's bundle that goes too far.
    #[error("tensor `{tensor}` differs from that of {}, which the vendor does not let a device change", .ancestor.short())]
    Frozen {
        /// First tensor that differs.
        tensor: String,
        /// The vendor's model.
        ancestor: Digest,
    },
    /// It ran out of tries, or answered no number, here.
    #[error("model {} was denied on this device: it took the agent down or answered no number; train another one", .0.short())]
    Denied(Digest),
    /// In a process of its own it came to no good end.
    #[error("vetting: {0}")]
    Vetting(String),
    /// The disk, or the file is not there.
    #[error("{}", .0.chain())]
    Store(#[from] StoreError),
}

impl Refused {
    /// The word for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::Signature(_) | Self::Role { .. } | Self::NoSigner(_) | Self::Version(_) => "rejected_signature",
            Self::OtherBundle { .. } => "other_bundle",
            Self::OtherDevice { .. } => "other_device",
            Self::OlderSequence { .. } => "older_sequence",
            Self::OlderEpoch { .. } => "older_epoch",
            Self::Bundle(_) => "bundle",
            Self::OtherSchema => "schema",
            Self::NoAncestor(_) => "no_ancestor",
            Self::Frozen { .. } => "frozen_tensor",
            Self::Denied(_) => "denied",
            Self::Vetting(_) | Self::Unvetted(_) => "vetting",
            Self::Store(_) => "disk",
        }
    }
}
