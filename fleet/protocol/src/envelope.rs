//! Signed messages: DSSE envelopes with ed25519, for commands, settings, notices and bundles alike.
//!
//! The order is the defence: the kind is compared first, then the signature, and only verified bytes are ever parsed.
//! So a signed setting cannot be taken for a command, and a parser never meets a stranger's bytes.
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::PACKET_BYTES_MAX;
use crate::keys::{KeyId, KeySet, Role};

/// Most signatures one envelope may carry: two persons, a change of keys, and room; each costs a verification.
pub const SIGNATURES_MAX: usize = 8;

/// What an envelope carries; each kind has a payload type of its own, so that none can be taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An [`Order`](crate::order::Order).
    Command,
    /// A [`Desired`](crate::order::Desired).
    Desired,
    /// A [`Notice`](crate::order::Notice).
    Notice,
    /// A [`BundleStatement`](crate::order::BundleStatement).
    Bundle,
}

impl Kind {
    /// The DSSE payload type.
    #[must_use]
    pub fn payload_type(self) -> &'static str {
        match self {
            Self::Command => "application/vnd.hone.command.v1+json",
            Self::Desired => "application/vnd.hone.desired.v1+json",
            Self::Notice => "application/vnd.hone.notice.v1+json",
            Self::Bundle => "application/vnd.hone.bundle.v1+json",
        }
    }
}

/// A DSSE envelope as it travels. Nothing in it is believed before [`Envelope::verify`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EnvelopeSignature {
    keyid: KeyId,
    sig: String,
}

/// Why an envelope was refused. All but [`PayloadInvalid`](Self::PayloadInvalid) are `rejected_signature`.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Larger than any message may be.
    #[error("an envelope of {bytes} bytes is refused, {PACKET_BYTES_MAX} are allowed")]
    TooLarge { bytes: usize },
    /// Not a DSSE envelope.
    #[error("not a DSSE envelope; sign the payload with `hone-fleet sign`")]
    NotAnEnvelope(#[source] serde_json::Error),
    /// Signed as something else.
    #[error("signed as `{found}`, but `{expected}` is expected here")]
    WrongKind { expected: &'static str, found: String },
    /// A part is not base64.
    #[error("the {part} is not base64")]
    NotBase64 { part: &'static str, source: base64::DecodeError },
    /// None, or too many to verify.
    #[error("{found} signatures, 1 to {SIGNATURES_MAX} are expected")]
    SignatureCount { found: usize },
    /// No signature is by a key this device trusts.
    #[error("no signature of a trusted key (signed by {}); add the key with an admin's command, or sign with another", .key_ids.join(", "))]
    NotTrusted { key_ids: Vec<String> },
    /// A trusted key's id stands over a signature that does not fit: the message was changed on its way.
    #[error("the signature of key {key_id} does not fit the payload")]
    SignatureInvalid { key_id: KeyId },
    /// Rightly signed, yet not what its kind promises.
    #[error("the signed payload does not fit its schema; the signer may be newer than this device")]
    PayloadInvalid(#[source] serde_json::Error),
}

/// A payload whose signatures were checked, with the trusted keys that signed it. Only [`Envelope::verify`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    kind: Kind,
    payload: Vec<u8>,
    signers: BTreeMap<KeyId, BTreeSet<Role>>,
}

impl Envelope {
    /// Signs `payload` with every key of `keys`; two keys are a two-person approval.
    #[must_use]
    pub fn sign(kind: Kind, payload: &[u8], keys: &[&SigningKey]) -> Self {
        let message = pre_authentication_encoding(kind.payload_type(), payload);
        let signatures = keys.iter().map(|key| EnvelopeSignature {
            keyid: KeyId::of(&key.verifying_key()),
            sig: STANDARD.encode(key.sign(&message).to_bytes()),
        });
        let signatures = signatures.collect();
        Self { payload_type: kind.payload_type().to_owned(), payload: STANDARD.encode(payload), signatures }
    }

    /// Reads an envelope without believing it.
    ///
    /// # Errors
    /// [`EnvelopeError::TooLarge`], [`EnvelopeError::NotAnEnvelope`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > PACKET_BYTES_MAX {
            return Err(EnvelopeError::TooLarge { bytes: bytes.len() });
        }
        serde_json::from_slice(bytes).map_err(EnvelopeError::NotAnEnvelope)
    }

    /// The envelope as one line of JSON.
    ///
    /// # Panics
    /// Never: three texts and a list of texts always are JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts are JSON")
    }

    /// Checks kind and signatures, in this order. Signatures of keys that are not trusted are passed over; one trusted
    /// key with a signature that does not fit refuses the whole.
    ///
    /// # Errors
    /// [`EnvelopeError`], naming the first thing that is wrong.
    pub fn verify(&self, kind: Kind, keys: &KeySet) -> Result<Verified, EnvelopeError> {
        let expected = kind.payload_type();
        if self.payload_type != expected {
            let found = self.payload_type.chars().take(80).collect();
            return Err(EnvelopeError::WrongKind { expected, found });
        }
        if !(1..=SIGNATURES_MAX).contains(&self.signatures.len()) {
            return Err(EnvelopeError::SignatureCount { found: self.signatures.len() });
        }
        let payload = decode("payload", &self.payload)?;
        let message = pre_authentication_encoding(expected, &payload);
        let mut signers = BTreeMap::new();
        for EnvelopeSignature { keyid, sig } in &self.signatures {
            let Some((key, roles)) = keys.get(keyid) else { continue };
            let invalid = || EnvelopeError::SignatureInvalid { key_id: keyid.clone() };
            let signature = Signature::from_slice(&decode("signature", sig)?).map_err(|_| invalid())?;
            key.verify_strict(&message, &signature).map_err(|_| invalid())?;
            signers.insert(keyid.clone(), roles.clone());
        }
        if signers.is_empty() {
            let shown = |signature: &EnvelopeSignature| signature.keyid.as_str().chars().take(16).collect();
            return Err(EnvelopeError::NotTrusted { key_ids: self.signatures.iter().map(shown).collect() });
        }
        Ok(Verified { kind, payload, signers })
    }
}

impl Verified {
    /// Parses the verified bytes.
    ///
    /// # Errors
    /// [`EnvelopeError::PayloadInvalid`].
    pub fn parse<T: Payload>(&self) -> Result<T, EnvelopeError> {
        if self.kind != T::KIND {
            let (expected, found) = (T::KIND.payload_type(), self.kind.payload_type().to_owned());
            return Err(EnvelopeError::WrongKind { expected, found });
        }
        serde_json::from_slice(&self.payload).map_err(EnvelopeError::PayloadInvalid)
    }

    /// The bytes that were signed, for the record.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The trusted keys that signed, each once, with their roles.
    #[must_use]
    pub fn signers(&self) -> &BTreeMap<KeyId, BTreeSet<Role>> {
        &self.signers
    }

    /// How many different keys with `role` signed.
    #[must_use]
    pub fn signed_by(&self, role: Role) -> usize {
        self.signers.values().filter(|roles| roles.contains(&role)).count()
    }
}

/// What may stand in an envelope of its kind.
pub trait Payload: DeserializeOwned + Serialize {
    /// The kind it is signed as.
    const KIND: Kind;

    /// Signs this payload.
    ///
    /// # Panics
    /// Never for the payloads of this crate: their maps have text keys, so they always are JSON.
    #[must_use]
    fn sign(&self, keys: &[&SigningKey]) -> Envelope {
        Envelope::sign(Self::KIND, &serde_json::to_vec(self).expect("payloads are JSON"), keys)
    }
}

fn decode(part: &'static str, text: &str) -> Result<Vec<u8>, EnvelopeError> {
    STANDARD.decode(text).map_err(|source| EnvelopeError::NotBase64 { part, source })
}

/// `"DSSEv1" SP len(type) SP type SP len(payload) SP payload`: lengths first, so that no two pairs give the same bytes.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn trusting(keys: &[(&SigningKey, Role)]) -> KeySet {
        let mut set = KeySet::default();
        for (key, role) in keys {
            set.trust(key.verifying_key().as_bytes(), &[*role]).unwrap();
        }
        set
    }

    #[test]
    fn the_encoding_is_the_one_of_the_standard() {
        // The example of the DSSE v1 specification.
        let message = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(message, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn a_signed_message_survives_the_wire_and_names_its_signer() {
        let (alice, bob) = (key(1), key(2));
        let keys = trusting(&[(&alice, Role::Operator), (&bob, Role::Operator)]);
        let wire = Envelope::sign(Kind::Command, b"payload", &[&alice, &bob, &alice]).to_json();
        let verified = Envelope::from_json(&wire).unwrap().verify(Kind::Command, &keys).unwrap();
        assert_eq!(verified.payload(), b"payload");
        assert_eq!(verified.signed_by(Role::Operator), 2, "a key that signs twice is one person");
        assert_eq!(verified.signed_by(Role::Admin), 0);
    }

    #[test]
    fn a_signed_setting_is_never_taken_for_a_command() {
        let alice = key(1);
        let keys = trusting(&[(&alice, Role::Admin)]);
        let mut envelope = Envelope::sign(Kind::Desired, b"{}", &[&alice]);
        assert!(matches!(envelope.verify(Kind::Command, &keys), Err(EnvelopeError::WrongKind { .. })));
        // Renaming it on the way breaks the signature, for the name is signed too.
        Kind::Command.payload_type().clone_into(&mut envelope.payload_type);
        assert!(matches!(envelope.verify(Kind::Command, &keys), Err(EnvelopeError::SignatureInvalid { .. })));
    }

    #[test]
    fn a_changed_payload_is_refused_before_it_is_parsed() {
        let alice = key(1);
        let keys = trusting(&[(&alice, Role::Operator)]);
        let mut envelope = Envelope::sign(Kind::Command, b"payload", &[&alice]);
        envelope.payload = STANDARD.encode(b"Payload");
        assert!(matches!(envelope.verify(Kind::Command, &keys), Err(EnvelopeError::SignatureInvalid { .. })));
    }

    #[test]
    fn strangers_are_passed_over_and_alone_are_not_enough() {
        let (alice, mallory) = (key(1), key(9));
        let keys = trusting(&[(&alice, Role::Operator)]);
        let both = Envelope::sign(Kind::Command, b"x", &[&mallory, &alice]).verify(Kind::Command, &keys).unwrap();
        assert_eq!(both.signers().len(), 1);
        let alone = Envelope::sign(Kind::Command, b"x", &[&mallory]).verify(Kind::Command, &keys);
        assert!(matches!(alone, Err(EnvelopeError::NotTrusted { key_ids }) if key_ids.len() == 1));
        let mut forged = Envelope::sign(Kind::Command, b"x", &[&mallory]);
        forged.signatures[0].keyid = KeyId::of(&alice.verifying_key());
        assert!(matches!(forged.verify(Kind::Command, &keys), Err(EnvelopeError::SignatureInvalid { .. })));
    }

    #[test]
    fn a_revoked_key_signs_nothing_more() {
        let alice = key(1);
        let mut keys = trusting(&[(&alice, Role::Operator)]);
        assert!(keys.revoke(&KeyId::of(&alice.verifying_key())));
        let refused = Envelope::sign(Kind::Command, b"x", &[&alice]).verify(Kind::Command, &keys);
        assert!(matches!(refused, Err(EnvelopeError::NotTrusted { .. })));
    }

    #[test]
    fn bad_input_is_refused_by_name() {
        let alice = key(1);
        let keys = trusting(&[(&alice, Role::Operator)]);
        let huge = vec![b' '; PACKET_BYTES_MAX + 1];
        assert!(matches!(Envelope::from_json(&huge), Err(EnvelopeError::TooLarge { .. })));
        for bad in [&b""[..], b"null", b"[]", b"{\"payload\":1}", b"\xff\xfe"] {
            assert!(matches!(Envelope::from_json(bad), Err(EnvelopeError::NotAnEnvelope(_))));
        }
        let whole = Envelope::sign(Kind::Command, b"x", &[&alice]);
        let none = Envelope { signatures: vec![], ..whole.clone() };
        assert!(matches!(none.verify(Kind::Command, &keys), Err(EnvelopeError::SignatureCount { found: 0 })));
        let many = Envelope { signatures: vec![whole.signatures[0].clone(); 9], ..whole.clone() };
        assert!(matches!(many.verify(Kind::Command, &keys), Err(EnvelopeError::SignatureCount { found: 9 })));
        let garbled = Envelope { payload: "%%%".to_owned(), ..whole.clone() };
        assert!(matches!(garbled.verify(Kind::Command, &keys), Err(EnvelopeError::NotBase64 { part: "payload", .. })));
        let mut short = whole;
        short.signatures[0].sig = STANDARD.encode([0; 63]);
        assert!(matches!(short.verify(Kind::Command, &keys), Err(EnvelopeError::SignatureInvalid { .. })));
    }
}
