//! What the fleet has told this device for good: desired settings, revoked keys; in one file that survives a power cut.
//!
//! ```text
//! down/desired ─► signed by an admin, newer ─► laid over the files' settings, judged whole ─► stored ─► in force ─► reported
//!                      └ no: told as an event        └ refused: revision and reasons stored, nothing changes
//! ```
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use fleet_protocol::envelope::{Envelope, EnvelopeError, Kind, Payload, Verified};
use fleet_protocol::keys::{KeyId, KeySet};
use fleet_protocol::names::{DeviceId, Digest, Micros, Name};
use fleet_protocol::order::{Desired, Notice, NoticeBody};
use fleet_protocol::report::SettingError;
use fleet_protocol::status::ReasonCode;
use fleet_protocol::topics::everybody;
use fleet_protocol::wish::WishRefusal;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::decide::command::Freeze;
use crate::decide::time::Timestamp;
use crate::shell::files::{create_private_folder, set_aside, write_durable};

/// Keys that may be revoked; an admin who revokes more has lost control long ago.
const REVOKED_MAX: usize = 256;

/// Messages that are remembered as taken: one of settings, one of each notice of each group.
const LAST_MAX: usize = 64;

/// What is stored.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Held {
    desired_rev: u64,
    applied_rev: u64,
    errors: Vec<SettingError>,
    config: Map<String, Value>,
    revoked: BTreeSet<KeyId>,
    /// The newest freeze or thaw of each group.
    #[serde(default)]
    freezes: BTreeMap<Name, Frozen>,
    /// Digest of the message that was taken last, by where it came from: brokers repeat what they retain.
    #[serde(default)]
    last: BTreeMap<String, Digest>,
}

/// The newest word about a group's freeze.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Frozen {
    /// Its counter.
    ctr: u64,
    /// None after a thaw.
    until: Option<Micros>,
}

/// What the fleet has told, and what follows from it.
#[derive(Debug)]
pub struct Standing {
    path: PathBuf,
    held: Held,
    /// The settings of the files.
    files: Config,
    /// With what the fleet wants over them.
    config: Config,
    /// What the process began with.
    begun: Config,
}

/// Why a message of the fleet changes nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Untaken {
    #[error("{0}")]
    Envelope(#[from] EnvelopeError),
    #[error("{0}")]
    Wish(#[from] WishRefusal),
    #[error("{0} keys are revoked already")]
    TooMany(usize),
    #[error("it has come before")]
    Repeated,
    #[error("the disk does not take it: {0}")]
    Disk(#[from] io::Error),
}

impl Untaken {
    pub(super) fn code(&self) -> ReasonCode {
        match self {
            Self::Envelope(EnvelopeError::PayloadInvalid(_)) => ReasonCode::Unsupported,
            Self::Envelope(_) => ReasonCode::RejectedSignature,
            Self::Wish(refusal) => refusal.code(),
            Self::Repeated => ReasonCode::Replayed,
            Self::TooMany(_) => ReasonCode::BudgetStorage,
            Self::Disk(_) => ReasonCode::Internal,
        }
    }

    /// The very message that was taken last has come again, as it does with every connection. Another one under the same
    /// number is none: whoever signed it must learn that it does not count.
    pub(super) fn is_repetition(&self) -> bool {
        matches!(self, Self::Repeated)
    }
}

impl Standing {
    /// Reads what was told before and lays it over `files`. What cannot be read is set aside, what does not fit any more is
    /// not in force: the files alone are then, and the reasons are reported.
    #[must_use]
    pub fn open(state_dir: &Path, files: Config) -> Self {
        let path = state_dir.join("fleet.json");
        let held = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!(%error, "what the fleet had told cannot be read: the settings of the files are in force");
                let _ = set_aside(&path);
                Held::default()
            }),
            Err(_) => Held::default(),
        };
        let mut standing = Self { path, held, config: files.clone(), begun: files.clone(), files };
        match standing.files.with(&standing.held.config) {
            // A device that has left the fleet goes by its own files.
            Ok(_) if !standing.files.mqtt.is_on() => {}
            Ok(config) => standing.config = config,
            Err(errors) => {
                tracing::error!(?errors, "what the fleet wanted is not in force any more");
                (standing.held.applied_rev, standing.held.errors) = (0, errors);
            }
        }
        standing.begun = standing.config.clone();
        standing
    }

    /// The settings in force, some of them only after the next start.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The keys that count: trusted by the settings, and not revoked.
    ///
    /// # Errors
    /// The entry that is no key, in words.
    pub fn keys(&self) -> Result<KeySet, String> {
        let mut keys = self.config.mqtt.keys()?;
        for key_id in &self.held.revoked {
            keys.revoke(key_id);
        }
        Ok(keys)
    }

    /// Whom this device believes about bundles that come in: the vendor's keys too, less those that are revoked.
    ///
    /// # Errors
    /// The entry that is no key.
    pub fn bundle_keys(&self) -> Result<KeySet, String> {
        let mut keys = self.config.mqtt.keys()?;
        self.config.models.trust(&mut keys)?;
        for key_id in &self.held.revoked {
            keys.revoke(key_id);
        }
        Ok(keys)
    }

    /// Wanted, in force, reasons, and what waits for a start.
    pub(super) fn told(&self) -> (u64, u64, Vec<SettingError>, Vec<String>) {
        let Held { desired_rev, applied_rev, errors, .. } = &self.held;
        (*desired_rev, *applied_rev, errors.clone(), self.begun.needs_restart(&self.config))
    }

    /// Takes signed settings; afterwards [`Standing::config`] is what they make of the files', or unchanged with reasons.
    pub(super) fn desire(&mut self, payload: &[u8], device: &DeviceId, keys: &KeySet) -> Result<(), Untaken> {
        let last = self.fresh("desired", payload)?;
        let (signed, desired): (_, Desired) = verified(payload, Kind::Desired, keys)?;
        desired.admit(&signed, device, self.held.desired_rev)?;
        let mut held = Held { desired_rev: desired.rev, last, ..self.held.clone() };
        let config = match self.files.with(&desired.config) {
            Ok(config) => {
                (held.applied_rev, held.errors, held.config) = (desired.rev, Vec::new(), desired.config);
                config
            }
            Err(errors) => {
                held.errors = errors;
                self.config.clone()
            }
        };
        self.store(held)?;
        self.config = config;
        Ok(())
    }

    /// Takes a signed notice to `group`, one of ours, that came under `name`; returns what it announces.
    pub(super) fn notice(
        &mut self,
        payload: &[u8],
        group: &Name,
        name: &Name,
        keys: &KeySet,
    ) -> Result<NoticeBody, Untaken> {
        // Its signer may be the very key that it revoked.
        let last = self.fresh(&format!("{group}/{name}"), payload)?;
        let (signed, notice): (_, Notice) = verified(payload, Kind::Notice, keys)?;
        let seen = self.held.freezes.get(group).map_or(0, |frozen| frozen.ctr);
        notice.admit(&signed, std::slice::from_ref(group), seen)?;
        let mut held = Held { last, ..self.held.clone() };
        match &notice.notice {
            NoticeBody::RevokeKey { keyid } => {
                if held.revoked.len() >= REVOKED_MAX {
                    return Err(Untaken::TooMany(held.revoked.len()));
                }
                held.revoked.insert(keyid.clone());
            }
            NoticeBody::Freeze { until } => {
                held.freezes.insert(group.clone(), Frozen { ctr: notice.ctr, until: Some(*until) });
            }
            NoticeBody::Thaw {} => {
                held.freezes.insert(group.clone(), Frozen { ctr: notice.ctr, until: None });
            }
        }
        self.store(held)?;
        Ok(notice.notice)
    }

    /// What is frozen, whatever the time. A device that has left a group, or the fleet, does not go by its word any more.
    pub(super) fn freezes(&self) -> Vec<Freeze> {
        let groups = self.groups();
        let ours = self.held.freezes.iter().filter(|(group, _)| groups.contains(group));
        let lasting = ours
            .filter_map(|(group, frozen)| Some(Freeze { group: group.to_string(), until: Timestamp(frozen.until?.0) }));
        lasting.collect()
    }

    /// Notices of these are taken.
    pub(super) fn groups(&self) -> Vec<Name> {
        let own = self.config.mqtt.groups.iter().filter_map(|group| group.parse().ok());
        own.chain([everybody()]).collect()
    }

    /// The messages taken last with this one, unless it is among them.
    fn fresh(&self, from: &str, payload: &[u8]) -> Result<BTreeMap<String, Digest>, Untaken> {
        let (mut last, digest) = (self.held.last.clone(), Digest::of(payload));
        if last.insert(from.to_owned(), digest) == Some(digest) {
            return Err(Untaken::Repeated);
        }
        // Groups come and go with the settings.
        while last.len() > LAST_MAX {
            last.pop_first();
        }
        Ok(last)
    }

    /// Stored first, in force second.
    fn store(&mut self, held: Held) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            create_private_folder(folder)?;
        }
        write_durable(&self.path, &serde_json::to_vec(&held)?)?;
        self.held = held;
        Ok(())
    }
}

fn verified<T: Payload>(payload: &[u8], kind: Kind, keys: &KeySet) -> Result<(Verified, T), EnvelopeError> {
    let signed = Envelope::from_json(payload)?.verify(kind, keys)?;
    let parsed = signed.parse()?;
    Ok((signed, parsed))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use ed25519_dalek::SigningKey;
    use fleet_protocol::Extra;
    use fleet_protocol::keys::Role;
    use serde_json::json;
    use ulid::Ulid;

    use super::*;
    use crate::shell::mqtt::TrustSettings;

    fn admin() -> SigningKey {
        SigningKey::from_bytes(&[1; 32])
    }

    fn files() -> Config {
        let mut config = Config::default();
        let public = STANDARD.encode(admin().verifying_key().as_bytes());
        (config.mqtt.broker, config.mqtt.device) = ("mqtt://b".to_owned(), "press-07".to_owned());
        config.mqtt.trust = vec![TrustSettings { public, roles: vec![Role::Admin] }];
        config
    }

    fn desired(rev: u64, config: &Value) -> Vec<u8> {
        let (dev, config) = ("press-07".parse().unwrap(), config.as_object().cloned().unwrap());
        let desired = Desired { v: 1, dev, rev, iat: Micros(1), config, extra: Extra::new() };
        desired.sign(&[&admin()]).to_json()
    }

    fn desire(standing: &mut Standing, rev: u64, config: &Value) -> Result<(), Untaken> {
        let keys = standing.keys().unwrap();
        standing.desire(&desired(rev, config), &"press-07".parse().unwrap(), &keys)
    }

    #[test]
    fn what_was_applied_is_in_force_after_a_restart_and_what_was_refused_is_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut standing = Standing::open(folder.path(), files());
        desire(&mut standing, 3, &json!({"cycle": {"watch": {"columns": {"psi": 0.4}}}})).unwrap();
        assert_eq!(standing.told(), (3, 3, vec![], vec!["cycle.watch.columns.psi".to_owned()]));
        desire(&mut standing, 4, &json!({"cycle": {"watch": {"columns": {"psi": -1.0}}}})).unwrap();
        let (wanted, applied, errors, _) = standing.told();
        assert_eq!((wanted, applied, errors[0].key.as_str()), (4, 3, "cycle.watch.columns.psi"));
        let again = Standing::open(folder.path(), files());
        assert_eq!((again.config().cycle.watch.columns.psi, again.told().0), (0.4, 4));
        assert!(again.told().3.is_empty(), "a start has made it so");
        let mut left = files();
        "off".clone_into(&mut left.mqtt.broker);
        assert_eq!(Standing::open(folder.path(), left.clone()).config(), &left, "it has left the fleet");
    }

    #[test]
    fn an_older_revision_and_another_of_the_same_number_are_refused_and_the_same_one_is_a_repetition() {
        let folder = tempfile::tempdir().unwrap();
        let mut standing = Standing::open(folder.path(), files());
        desire(&mut standing, 3, &json!({})).unwrap();
        let same = desire(&mut standing, 3, &json!({"mqtt": {"report_s": 9}})).unwrap_err();
        assert!(!same.is_repetition() && same.code() == ReasonCode::Replayed, "two people have signed revision 3");
        assert!(desire(&mut standing, 3, &json!({})).unwrap_err().is_repetition(), "what is in force has come again");
        let older = desire(&mut standing, 2, &json!({"mqtt": {"report_s": 9}})).unwrap_err();
        assert!(!older.is_repetition() && older.code() == ReasonCode::Replayed);
        assert_eq!(standing.config().mqtt.report_s, 30);
    }

    #[test]
    fn keys_rotate_by_settings_and_a_revoked_one_never_counts_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut standing = Standing::open(folder.path(), files());
        let new = SigningKey::from_bytes(&[2; 32]);
        let entry =
            |key: &SigningKey| json!({"public": STANDARD.encode(key.verifying_key().as_bytes()), "roles": ["admin"]});
        desire(&mut standing, 1, &json!({"mqtt": {"trust": [entry(&admin()), entry(&new)]}})).unwrap();
        let keyid = KeyId::of(&admin().verifying_key());
        let group: Name = "hall-3".parse().unwrap();
        let (id, notice) = (Ulid::from(1), NoticeBody::RevokeKey { keyid: keyid.clone() });
        let notice = Notice { v: 1, id, group: group.clone(), iat: Micros(1), ctr: 5, notice, extra: Extra::new() };
        let keys = standing.keys().unwrap();
        let signed = notice.sign(&[&new]).to_json();
        let name = notice.notice.name();
        assert_eq!(standing.notice(&signed, &group, &name, &keys).unwrap(), notice.notice);
        assert!(standing.notice(&signed, &group, &name, &keys).unwrap_err().is_repetition());
        let mut again = Standing::open(folder.path(), files());
        assert!(again.keys().unwrap().iter().all(|(known, _)| *known != keyid));
        assert!(desire(&mut again, 2, &json!({})).is_err(), "not by the revoked key");
    }

    #[test]
    fn a_vendors_key_that_is_revoked_signs_no_bundle_that_comes_in() {
        let folder = tempfile::tempdir().unwrap();
        let vendor = SigningKey::from_bytes(&[6; 32]);
        let mut config = files();
        config.models.vendor_keys = vec![STANDARD.encode(vendor.verifying_key().as_bytes())];
        let mut standing = Standing::open(folder.path(), config);
        let keyid = KeyId::of(&vendor.verifying_key());
        let knows = |standing: &Standing| standing.bundle_keys().unwrap().iter().any(|(known, _)| *known == keyid);
        assert!(knows(&standing));
        let (id, group, notice) = (Ulid::from(1), everybody(), NoticeBody::RevokeKey { keyid: keyid.clone() });
        let notice = Notice { v: 1, id, group: group.clone(), iat: Micros(1), ctr: 1, notice, extra: Extra::new() };
        let (keys, name) = (standing.keys().unwrap(), notice.notice.name());
        standing.notice(&notice.sign(&[&admin()]).to_json(), &group, &name, &keys).unwrap();
        assert!(!knows(&standing));
    }

    #[test]
    fn the_newest_word_about_a_freeze_counts_and_outlives_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let mut standing = Standing::open(folder.path(), files());
        let (keys, group) = (standing.keys().unwrap(), everybody());
        let tell = |standing: &mut Standing, ctr, notice: NoticeBody| {
            let (id, name) = (Ulid::from(1), notice.name());
            let notice = Notice { v: 1, id, group: group.clone(), iat: Micros(1), ctr, notice, extra: Extra::new() };
            standing.notice(&notice.sign(&[&admin()]).to_json(), &group, &name, &keys)
        };
        let frozen = |until| vec![Freeze { group: "all".to_owned(), until: Timestamp(until) }];
        tell(&mut standing, 5, NoticeBody::Freeze { until: Micros(99) }).unwrap();
        assert_eq!((standing.freezes(), Standing::open(folder.path(), files()).freezes()), (frozen(99), frozen(99)));
        tell(&mut standing, 6, NoticeBody::Thaw {}).unwrap();
        let replayed = tell(&mut standing, 5, NoticeBody::Freeze { until: Micros(99) }).unwrap_err();
        assert!(replayed.code() == ReasonCode::Replayed && !replayed.is_repetition());
        assert_eq!(standing.freezes(), vec![]);
        let foreign = Standing { held: standing.held.clone(), ..Standing::open(folder.path(), files()) };
        assert_eq!(foreign.freezes(), vec![]);
    }

    #[test]
    fn what_the_disk_does_not_take_is_not_in_force_and_may_come_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut standing = Standing::open(&folder.path().join("state"), files());
        // A file where its folder should be.
        std::fs::write(folder.path().join("state"), "").unwrap();
        let wanted = json!({"cycle": {"watch": {"columns": {"psi": 0.4}}}});
        let refused = desire(&mut standing, 3, &wanted).unwrap_err();
        assert!(matches!(refused, Untaken::Disk(_)) && !refused.is_repetition(), "{refused}");
        assert_eq!((standing.config(), standing.told().0), (&files(), 0));
        std::fs::remove_file(folder.path().join("state")).unwrap();
        desire(&mut standing, 3, &wanted).unwrap();
        assert_eq!((standing.config().cycle.watch.columns.psi, standing.told().0), (0.4, 3));
    }

    #[test]
    fn what_does_not_fit_the_files_any_more_is_told_as_not_applied_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut standing = Standing::open(folder.path(), files());
        desire(&mut standing, 3, &json!({"mqtt": {"report_s": 9}, "cycle": {"watch": {"columns": {"psi": 0.4}}}}))
            .unwrap();
        // As an earlier hone may have left it: with a key that this one does not know.
        let path = folder.path().join("fleet.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("report_s", "report_ms");
        std::fs::write(&path, text).unwrap();
        let standing = Standing::open(folder.path(), files());
        let (wanted, applied, errors, _) = standing.told();
        assert_eq!((wanted, applied, errors.len()), (3, 0, 1), "{errors:?}");
        assert_eq!((errors[0].key.as_str(), standing.config()), ("mqtt.report_ms", &files()), "all or none");
    }

    #[test]
    fn a_damaged_file_leaves_the_settings_of_the_files_in_force() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("fleet.json"), "{").unwrap();
        let standing = Standing::open(folder.path(), files());
        assert_eq!((standing.config(), standing.told().0), (&files(), 0));
        assert!(folder.path().join("fleet.json.damaged-1").exists());
    }
}
