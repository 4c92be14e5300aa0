//! Keys a device trusts, and what each may sign.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use ed25519_dalek::SigningKey;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};

use crate::names::Digest;

/// What the holder of a key may do. Roles do not include one another: a key lists all it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May sign nothing; listed so that its name is known.
    Observer,
    /// Models, retraining, canary, labels.
    Operator,
    /// Keys, settings, purge, export, restart.
    Admin,
    /// Bundles made at the factory.
    Vendor,
    /// Bundles trained on this device; only such that the vendor's ancestor allows.
    Device,
}

/// The first 16 hex digits of the sha-256 of a public key: short enough to read aloud.
///
/// It only selects the key; the signature is what proves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl KeyId {
    /// The id of `key`.
    #[must_use]
    pub fn of(key: &VerifyingKey) -> Self {
        Self(Digest::of(key.as_bytes()).to_string()[..16].to_owned())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A public key that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The 32 bytes are no point of the curve.
    #[error("these 32 bytes are not an ed25519 public key: make one with `hone-fleet keygen`")]
    NotAKey,
    /// Of small order: anybody's signature would fit.
    #[error("key {0} is weak and verifies anything: make a new one with `hone-fleet keygen`")]
    Weak(KeyId),
}

/// The keys a device trusts, by id.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: BTreeMap<KeyId, (VerifyingKey, BTreeSet<Role>)>,
}

impl KeySet {
    /// Trusts `public` with `roles`; a second call for the same key replaces its roles.
    ///
    /// # Errors
    /// [`KeyError`] if the bytes are no key, or a weak one.
    pub fn trust(&mut self, public: &[u8; 32], roles: &[Role]) -> Result<KeyId, KeyError> {
        let key = VerifyingKey::from_bytes(public).map_err(|_| KeyError::NotAKey)?;
        let id = KeyId::of(&key);
        if key.is_weak() {
            return Err(KeyError::Weak(id));
        }
        self.keys.insert(id.clone(), (key, roles.iter().copied().collect()));
        Ok(id)
    }

    /// Trusts what `other` trusts too, each key with its roles in both.
    pub fn extend(&mut self, other: &Self) {
        for (id, (key, roles)) in &other.keys {
            self.keys.entry(id.clone()).or_insert_with(|| (*key, BTreeSet::new())).1.extend(roles);
        }
    }

    /// Stops trusting a key; returns whether it was known.
    pub fn revoke(&mut self, id: &KeyId) -> bool {
        self.keys.remove(id).is_some()
    }

    /// Ids and roles, for `birth` and for people.
    pub fn iter(&self) -> impl Iterator<Item = (&KeyId, &BTreeSet<Role>)> {
        self.keys.iter().map(|(id, (_, roles))| (id, roles))
    }

    /// Whether nothing is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn get(&self, id: &KeyId) -> Option<&(VerifyingKey, BTreeSet<Role>)> {
        self.keys.get(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_verifies_anything_is_refused() {
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(matches!(KeySet::default().trust(&neutral, &[Role::Admin]), Err(KeyError::Weak(_))));
        let mut no_point = [0; 32];
        no_point[0] = 2;
        assert_eq!(KeySet::default().trust(&no_point, &[]), Err(KeyError::NotAKey));
    }
}
