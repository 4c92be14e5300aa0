//! When signed settings and notices are taken, and why not: they have revisions and counters where commands have ids.
use crate::API;
use crate::envelope::Verified;
use crate::keys::Role;
use crate::names::{DeviceId, Name};
use crate::order::{Desired, Notice, NoticeBody};
use crate::status::ReasonCode;

/// Why settings or a notice are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WishRefusal {
    /// A payload of another version.
    #[error("version {v}, {API} is understood; sign it with a fitting `hone-fleet`")]
    Version {
        /// Found.
        v: u32,
    },
    /// For somebody else.
    #[error("addressed to `{addressed}`, which this device is not or does not belong to")]
    Address {
        /// Device or group.
        addressed: String,
    },
    /// An older revision than one that was seen.
    #[error("revision {rev} is not above {seen}: sign a newer one")]
    Revision {
        /// Found.
        rev: u64,
        /// Newest so far.
        seen: u64,
    },
    /// A counter that was used before.
    #[error("counter {ctr} is not above {seen}, that of the newest freeze or thaw of this group: sign a new one")]
    Replayed {
        /// Found.
        ctr: u64,
        /// Newest so far.
        seen: u64,
    },
    /// Signed by nobody who may ask this.
    #[error("needs a key with role admin")]
    Role,
}

impl WishRefusal {
    /// The code for machines.
    #[must_use]
    pub fn code(&self) -> ReasonCode {
        match self {
            Self::Version { .. } => ReasonCode::Unsupported,
            Self::Address { .. } | Self::Role => ReasonCode::NotAuthorized,
            Self::Revision { .. } | Self::Replayed { .. } => ReasonCode::Replayed,
        }
    }
}

impl Desired {
    /// Decides whether these settings are taken by `device`, which has seen revision `seen`. `signed` is the envelope they
    /// were parsed from.
    ///
    /// # Errors
    /// [`WishRefusal`], the first reason in this order: version, device, role, revision.
    pub fn admit(&self, signed: &Verified, device: &DeviceId, seen: u64) -> Result<(), WishRefusal> {
        if self.v != API {
            return Err(WishRefusal::Version { v: self.v });
        }
        if self.dev != *device {
            return Err(WishRefusal::Address { addressed: self.dev.to_string() });
        }
        if signed.signed_by(Role::Admin) == 0 {
            return Err(WishRefusal::Role);
        }
        if self.rev <= seen {
            return Err(WishRefusal::Revision { rev: self.rev, seen });
        }
        Ok(())
    }
}

impl Notice {
    /// Decides whether this notice is taken by a device of `groups`; `seen` is the counter of the newest freeze or thaw of its
    /// group. Who else signed that does not matter: the newest word of any admin counts. A revocation has no counter to pass: it
    /// only ever takes trust away, so repeating it changes nothing.
    ///
    /// # Errors
    /// [`WishRefusal`], the first reason in this order: version, group, role, counter.
    pub fn admit(&self, signed: &Verified, groups: &[Name], seen: u64) -> Result<(), WishRefusal> {
        if self.v != API {
            return Err(WishRefusal::Version { v: self.v });
        }
        if !groups.contains(&self.group) {
            return Err(WishRefusal::Address { addressed: self.group.to_string() });
        }
        if signed.signed_by(Role::Admin) == 0 {
            return Err(WishRefusal::Role);
        }
        match self.notice {
            NoticeBody::Freeze { .. } | NoticeBody::Thaw {} if self.ctr <= seen => {
                Err(WishRefusal::Replayed { ctr: self.ctr, seen })
            }
            NoticeBody::Freeze { .. } | NoticeBody::Thaw {} | NoticeBody::RevokeKey { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use serde_json::Map;

    use super::*;
    use crate::Extra;
    use crate::envelope::{Kind, Payload as _};
    use crate::keys::{KeyId, KeySet};
    use crate::names::Micros;

    fn keys() -> (KeySet, SigningKey, SigningKey) {
        let (admin, operator) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let mut keys = KeySet::default();
        keys.trust(admin.verifying_key().as_bytes(), &[Role::Admin]).unwrap();
        keys.trust(operator.verifying_key().as_bytes(), &[Role::Operator]).unwrap();
        (keys, admin, operator)
    }

    #[test]
    fn settings_are_taken_from_an_admin_for_this_device_and_only_forwards() {
        let (keys, admin, operator) = keys();
        let device: DeviceId = "press-07".parse().unwrap();
        let desired = |dev: &str, rev| Desired {
            v: 1,
            dev: dev.parse().unwrap(),
            rev,
            iat: Micros(1),
            config: Map::new(),
            extra: Extra::new(),
        };
        let judge = |desired: &Desired, key: &SigningKey| {
            let signed = desired.sign(&[key]).verify(Kind::Desired, &keys).unwrap();
            desired.admit(&signed, &device, 4)
        };
        assert_eq!(judge(&desired("press-07", 5), &admin), Ok(()));
        assert_eq!(judge(&desired("press-07", 4), &admin), Err(WishRefusal::Revision { rev: 4, seen: 4 }));
        assert_eq!(judge(&desired("press-07", 5), &operator), Err(WishRefusal::Role));
        assert_eq!(judge(&desired("press-08", 5), &admin).unwrap_err().code(), ReasonCode::NotAuthorized);
        assert_eq!(judge(&Desired { v: 2, ..desired("press-07", 5) }, &admin), Err(WishRefusal::Version { v: 2 }));
    }

    #[test]
    fn a_freeze_is_taken_once_and_by_its_group_alone_and_a_revocation_whenever_it_comes() {
        let (keys, admin, operator) = keys();
        let notice = |notice| Notice {
            v: 1,
            id: ulid::Ulid::from(1),
            group: "hall-3".parse().unwrap(),
            iat: Micros(1),
            ctr: 7,
            notice,
            extra: Extra::new(),
        };
        let freeze = notice(NoticeBody::Freeze { until: Micros(9) });
        let signed = |notice: &Notice, key| notice.sign(&[key]).verify(Kind::Notice, &keys).unwrap();
        let (own, other) = (["hall-3".parse().unwrap()], ["hall-4".parse().unwrap()]);
        let by_admin = signed(&freeze, &admin);
        assert_eq!(freeze.admit(&by_admin, &own, 6), Ok(()));
        assert_eq!(freeze.admit(&by_admin, &own, 7), Err(WishRefusal::Replayed { ctr: 7, seen: 7 }));
        assert!(matches!(freeze.admit(&by_admin, &other, 0), Err(WishRefusal::Address { .. })));
        assert_eq!(freeze.admit(&signed(&freeze, &operator), &own, 0), Err(WishRefusal::Role));
        let revoked = notice(NoticeBody::RevokeKey { keyid: KeyId::of(&admin.verifying_key()) });
        assert_eq!(revoked.admit(&signed(&revoked, &admin), &own, 9), Ok(()));
        assert_eq!(notice(NoticeBody::Thaw {}).admit(&signed(&notice(NoticeBody::Thaw {}), &admin), &own, 6), Ok(()));
        assert_ne!(freeze.notice.name(), revoked.notice.name(), "they are retained beside each other");
    }
}
