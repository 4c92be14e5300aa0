//! What may not come back: the lowest epoch that is still accepted, and the highest numbers taken from each key.
use std::collections::BTreeMap;

use fleet_protocol::keys::KeyId;
use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;

/// Keys whose numbers are remembered; a device trusts a handful.
pub const KEYS_MAX: usize = 256;

/// Floors; each only ever rises. Kept with the state and, because a lost state must not open the door to old models, in a file
/// of its own too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Floors {
    /// Bundles of an earlier epoch are refused. Raised when a model has proven itself.
    pub epoch: u32,
    /// New bundles of an earlier epoch than this are refused already: the vendor said so. What is stored serves on until a model
    /// of this epoch has proven itself, for a device without a model helps nobody.
    #[serde(skip_serializing_if = "is_none")]
    pub forced: u32,
    /// The newest bundle taken from each key.
    pub bundles: BTreeMap<KeyId, Newest>,
    /// The largest counter of a command taken from each key.
    pub commands: BTreeMap<KeyId, u64>,
}

/// The newest bundle of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// Its number.
    pub sequence: u64,
    /// The bundle: the same one may be installed again.
    pub digest: Digest,
}

/// Left out, so that the sealed file of an earlier version stays whole.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_none(forced: &u32) -> bool {
    *forced == 0
}

impl Floors {
    /// The number that a bundle of `key` must be above; none if it is, or if it is the newest one again.
    #[must_use]
    pub fn refuses(&self, key: &KeyId, sequence: u64, digest: Digest) -> Option<u64> {
        let newest = self.bundles.get(key)?;
        let known = newest.sequence == sequence && newest.digest == digest;
        (sequence <= newest.sequence && !known).then_some(newest.sequence)
    }

    /// Remembers a bundle that was taken.
    pub fn take(&mut self, key: &KeyId, sequence: u64, digest: Digest) {
        let known = self.bundles.get(key).is_some_and(|newest| newest.sequence >= sequence);
        if !known && (self.bundles.len() < KEYS_MAX || self.bundles.contains_key(key)) {
            self.bundles.insert(key.clone(), Newest { sequence, digest });
        }
    }

    /// The number that follows the newest bundle of `key`.
    #[must_use]
    pub fn next(&self, key: &KeyId) -> u64 {
        self.bundles.get(key).map_or(1, |newest| newest.sequence + 1)
    }

    /// The higher of both in everything.
    pub fn raise(&mut self, other: &Self) {
        self.epoch = self.epoch.max(other.epoch);
        self.forced = self.forced.max(other.forced);
        for (key, newest) in &other.bundles {
            self.take(key, newest.sequence, newest.digest);
        }
        for (key, counter) in &other.commands {
            self.count(key, *counter);
        }
    }

    /// Remembers the counter of a command that was taken.
    pub fn count(&mut self, key: &KeyId, counter: u64) {
        if self.commands.len() < KEYS_MAX || self.commands.contains_key(key) {
            let known = self.commands.entry(key.clone()).or_default();
            *known = (*known).max(counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use fleet_protocol::keys::SigningKey;

    use super::*;

    fn key(seed: u8) -> KeyId {
        KeyId::of(&SigningKey::from_bytes(&[seed; 32]).verifying_key())
    }

    #[test]
    fn an_older_number_is_refused_the_newest_bundle_itself_is_not() {
        let mut floors = Floors::default();
        let (vendor, old, new) = (key(1), Digest::of(b"old"), Digest::of(b"new"));
        assert_eq!((floors.refuses(&vendor, 1, old), floors.next(&vendor)), (None, 1));
        floors.take(&vendor, 4, new);
        assert_eq!(floors.refuses(&vendor, 3, old), Some(4));
        assert_eq!(floors.refuses(&vendor, 4, old), Some(4), "one number, one bundle");
        assert_eq!(floors.refuses(&vendor, 4, new), None, "installing it again repairs");
        assert_eq!(floors.refuses(&vendor, 5, old), None);
        assert_eq!(floors.refuses(&key(2), 1, old), None, "each key counts for itself");
        floors.take(&vendor, 2, old);
        assert_eq!(floors.next(&vendor), 5, "floors never sink");
    }

    #[test]
    fn of_two_floors_the_higher_counts_in_everything() {
        let mut one = Floors { epoch: 2, ..Floors::default() };
        let mut other = Floors { epoch: 1, forced: 5, ..Floors::default() };
        one.take(&key(1), 3, Digest::of(b"a"));
        other.take(&key(1), 7, Digest::of(b"b"));
        other.count(&key(2), 9);
        one.count(&key(2), 4);
        one.raise(&other);
        assert_eq!(one.forced, 5);
        assert_eq!((one.epoch, one.next(&key(1)), one.commands[&key(2)]), (2, 8, 9));
    }
}
