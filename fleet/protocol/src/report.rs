//! Retained reports: presence, birth, settings, the model of a slot and its drift.
//!
//! A number that does not exist (no p-value, an infinite ratio) is left out: JSON has neither NaN nor infinity.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use ulid::Ulid;

use crate::Extra;
use crate::keys::KeyId;
use crate::names::{Clock, Digest, Micros, Name};

/// Whether a device or a controller is there; also the last will, with `offline`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub state: Presence,
    /// One for each connection. An `offline` of another session than the last `online` is a late will: ignore it.
    pub session: Ulid,
    /// Starts of the agent so far.
    pub boot: u64,
    pub ts: Micros,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Presence of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    Online,
    /// Gone, in order or not.
    Offline,
    /// Gone on purpose, to return.
    Sleep,
}

impl State {
    /// What stands after `next` arrived: a late will of an earlier connection changes nothing.
    #[must_use]
    pub fn followed_by(self, next: Self) -> Self {
        let late_will =
            next.state == Presence::Offline && self.state == Presence::Online && next.session != self.session;
        if late_will { self } else { next }
    }
}

/// What a device is and can do, published on every connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Birth {
    /// Version of the agent.
    pub agent: String,
    /// Versions of this protocol it speaks.
    pub api: Vec<u32>,
    /// Processor architecture, as Rust names it.
    pub arch: String,
    pub slots: Vec<Name>,
    /// Digest of the feature schema that the champion reads; none without a model.
    pub features: Option<Digest>,
    /// Names of the commands it carries out.
    pub commands: Vec<String>,
    pub limits: Limits,
    /// Keys it trusts.
    pub key_ids: Vec<KeyId>,
    /// Groups it belongs to, whose notices it takes and whose waves it goes with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Name>,
    /// Its own public key, standard base64, with which it signs what it trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_key: Option<String>,
    pub ts: Micros,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Hard limits of a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest MQTT packet it takes.
    pub packet_bytes_max: u64,
    /// Disk it may fill.
    pub storage_bytes_max: u64,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Which settings a device runs with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// Newest revision received, valid or not.
    pub desired_rev: u64,
    /// Revision in force.
    pub applied_rev: u64,
    /// Why the two differ: key and reason.
    pub errors: Vec<SettingError>,
    /// Dotted keys of the applied revision that are in force only after the next start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<String>,
    /// The settings in force, secrets left out.
    pub config: Map<String, Value>,
    pub ts: Micros,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A setting that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingError {
    /// Dotted key, such as `retrain.mode`.
    pub key: String,
    pub reason: String,
}

/// Which model serves a slot, and how a trial goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Who answers; none before the first model.
    pub champion: Option<ModelRef>,
    /// Who is being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenger: Option<ModelRef>,
    pub phase: Phase,
    /// Share of samples the challenger answers, 0 to 100.
    pub canary_percent: u8,
    /// Samples answered by the challenger in this trial, or shadowed.
    pub served: u64,
    /// In this phase since.
    pub since: Micros,
    /// Starts the champion may still spoil before the last good model serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tries_left: Option<u32>,
    /// How the trial under way stands: the numbers that will decide it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// Nothing new is trained, tried or promoted until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen_until: Option<Micros>,
    pub ts: Micros,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Evidence of a trial so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Samples that both answered.
    pub pairs: u64,
    /// Those on which they agreed.
    pub agreed: u64,
    /// Labels among them.
    pub labelled: u64,
    /// Evidence that the challenger is not worse.
    pub promote_e: f64,
    /// Evidence that it is worse.
    pub abort_e: f64,
    /// At this either decides.
    pub limit: f64,
    /// It stays at its share until told.
    pub held: bool,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A model and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRef {
    pub digest: Digest,
    pub origin: Origin,
}

/// Who made a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Signed by the vendor.
    Factory,
    /// Pushed and signed by the fleet.
    Fleet,
    /// Trained here, signed by the device.
    Device,
    /// Imported locally without a signature.
    Unsigned,
}

/// Where a slot is in its cycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// No model yet: records, answers nothing.
    NoModel,
    Steady,
    Training,
    /// A training is ordered and a budget says no for now.
    WaitingBudget,
    Gate,
    AwaitingApproval,
    Shadow,
    Canary,
    RolledBack,
    /// A phase of a newer version, kept as it came.
    #[serde(untagged)]
    Other(String),
}

/// Drift of a slot, feature by feature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftReport {
    /// By feature, or by measure such as `error` and `embedding`.
    pub measures: BTreeMap<String, Measure>,
    pub ts: Micros,
    pub clock: Clock,
    #[serde(flatten)]
    pub extra: Extra,
}

/// One measured quantity against its threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Which statistic: `psi`, `ks`, `adwin` ….
    pub stat: String,
    pub value: f64,
    /// The value from which on it is an alarm.
    pub threshold: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// Rows it was measured on.
    pub window: u64,
    pub state: DriftState,
    #[serde(flatten)]
    pub extra: Extra,
}

/// How far a measure has drifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftState {
    Ok,
    Warn,
    Drift,
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;
    use serde::de::DeserializeOwned;

    use super::*;
    use crate::command::Command;

    const TS: Micros = Micros(1_763_683_200_000_000);

    fn session(random: u128) -> Ulid {
        Ulid::from_parts(1_763_683_200_000, random)
    }

    fn state(state: Presence, random: u128) -> State {
        State { state, session: session(random), boot: 12, ts: TS, extra: Extra::new() }
    }

    fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> String {
        let line = serde_json::to_string(value).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&line).unwrap(), value);
        line + "\n"
    }

    #[test]
    fn every_report_survives_the_wire_and_is_the_golden_one() {
        let slot = Name::main_slot();
        let limits = Limits { packet_bytes_max: 262_144, storage_bytes_max: 2_000_000_000, extra: Extra::new() };
        let birth = Birth {
            agent: "0.1.0".to_owned(),
            api: vec![crate::API],
            arch: "aarch64".to_owned(),
            slots: vec![slot],
            features: Some(Digest::of(b"schema")),
            commands: Command::NAMES.map(str::to_owned).to_vec(),
            limits,
            key_ids: vec![],
            groups: vec!["hall-3".parse().unwrap()],
            device_key: None,
            ts: TS,
            extra: Extra::new(),
        };
        let refused = SettingError { key: "retrain.mode".to_owned(), reason: "`always` is not a mode".to_owned() };
        let config = Map::from_iter([("retrain".to_owned(), serde_json::json!({ "mode": "value" }))]);
        let reported = Reported {
            desired_rev: 4,
            applied_rev: 3,
            errors: vec![refused],
            restart: vec!["records.groups.group_ms".to_owned()],
            config,
            ts: TS,
            extra: Extra::new(),
        };
        let model = ModelReport {
            champion: Some(ModelRef { digest: Digest::of(b"champion"), origin: Origin::Factory }),
            challenger: Some(ModelRef { digest: Digest::of(b"challenger"), origin: Origin::Device }),
            phase: Phase::Canary,
            canary_percent: 10,
            served: 4_321,
            since: TS,
            tries_left: Some(3),
            trial: Some(Trial {
                pairs: 900,
                agreed: 850,
                labelled: 600,
                promote_e: 6.4269,
                abort_e: 0.5,
                limit: 20.0,
                held: false,
                extra: Extra::new(),
            }),
            frozen_until: Some(TS),
            ts: TS,
            extra: Extra::new(),
        };
        let psi = Measure {
            stat: "psi".to_owned(),
            value: 0.31,
            threshold: 0.25,
            p: Some(0.0004),
            window: 500,
            state: DriftState::Drift,
            extra: Extra::new(),
        };
        let measures = BTreeMap::from([("vibration_rms".to_owned(), psi)]);
        let drift = DriftReport { measures, ts: TS, clock: Clock::Ntp, extra: Extra::new() };
        let golden = [
            round_trip(&state(Presence::Online, 7)),
            round_trip(&birth),
            round_trip(&reported),
            round_trip(&model),
            round_trip(&drift),
        ];
        expect_file!["../golden/reports.jsonl"].assert_eq(&golden.concat());
    }

    #[test]
    fn what_a_newer_version_adds_is_kept() {
        let text = r#"{"measures":{"x":{"stat":"psi","value":0.1,"threshold":0.25,"window":500,"state":"ok","trend":"up"}},"ts":1,"clock":"ntp","season":"winter"}"#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<DriftReport>(text).unwrap()).unwrap(), text);
        assert_eq!(serde_json::from_str::<Phase>(r#""hibernating""#).unwrap(), Phase::Other("hibernating".to_owned()));
    }

    #[test]
    fn a_late_will_does_not_hide_a_device_that_is_back() {
        let online = state(Presence::Online, 2);
        assert_eq!(online.clone().followed_by(state(Presence::Offline, 1)), online);
        let gone = state(Presence::Offline, 2);
        assert_eq!(online.followed_by(gone.clone()), gone);
        let back = state(Presence::Online, 3);
        assert_eq!(gone.followed_by(back.clone()), back);
    }

    #[test]
    fn bad_input_is_refused() {
        for bad in ["{}", r#"{"state":"asleep","session":"01JD4V3Q8N7Y5ZK2M6T9W0XABC","boot":1,"ts":1}"#] {
            assert!(serde_json::from_str::<State>(bad).is_err(), "{bad}");
        }
        let negative = r#"{"state":"online","session":"01JD4V3Q8N7Y5ZK2M6T9W0XABC","boot":-1,"ts":1}"#;
        assert!(serde_json::from_str::<State>(negative).is_err());
    }
}
