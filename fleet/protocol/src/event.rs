//! Facts that happened once, each told under its own id, so that telling one twice is harmless.
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use ulid::Ulid;

use crate::Extra;
use crate::command::Strategy;
use crate::keys::KeyId;
use crate::names::{Clock, DeviceId, Digest, Micros, Name, NameError};
use crate::report::Phase;
use crate::status::ReasonCode;
use crate::topics::Topic;

/// Kinds of this version; each is also the last level of its topic.
pub const KINDS: [&str; 16] = [
    "drift_raised",
    "drift_cleared",
    "retrain_started",
    "retrain_finished",
    "gate_passed",
    "gate_failed",
    "approval_required",
    "canary_step",
    "trial_ended",
    "promoted",
    "rolled_back",
    "budget_denied",
    "storage_low",
    "label_batch",
    "clock_jump",
    "sig_rejected",
];

/// A fact with its id, its place in the device's own order, and its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Receivers tell a repetition by it.
    pub id: Ulid,
    /// Counts the events of this device without a gap; a gap means that the outbox dropped some.
    pub seq: u64,
    pub ts: Micros,
    pub clock: Clock,
    /// What happened; `kind` on the wire.
    #[serde(flatten, deserialize_with = "known_or_other")]
    pub fact: Fact,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    DriftRaised(DriftRaised),
    DriftCleared(DriftCleared),
    RetrainStarted(RetrainStarted),
    RetrainFinished(RetrainFinished),
    GatePassed(GateVerdict),
    GateFailed(GateVerdict),
    ApprovalRequired(ApprovalRequired),
    CanaryStep(CanaryStep),
    TrialEnded(TrialEnded),
    Promoted(Promoted),
    RolledBack(RolledBack),
    BudgetDenied(BudgetDenied),
    StorageLow(StorageLow),
    LabelBatch(LabelBatch),
    ClockJump(ClockJump),
    SigRejected(SigRejected),
    /// A kind of a newer version, kept as it came, `kind` included.
    #[serde(untagged, skip_deserializing)]
    Other(Extra),
}

/// A measure passed its threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftRaised {
    pub slot: Name,
    /// Which statistic: `psi`, `adwin`, `e_cusum` ….
    pub stat: String,
    /// The feature or measure it watches.
    pub measure: String,
    /// Where, if not everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    pub value: f64,
    pub threshold: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// Estimated change point.
    pub since: Micros,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A measure came back under its threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftCleared {
    pub slot: Name,
    pub stat: String,
    pub measure: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// The event that had raised it.
    pub raised: Ulid,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A retrain was ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrainStarted {
    pub slot: Name,
    /// Counts the runs of this device.
    pub run: u64,
    pub strategy: Strategy,
    /// Why: `drift`, `staleness`, `labels`, `schedule` or `command`.
    pub trigger: String,
    pub parent: Digest,
    /// What it learns from, once that is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Digest>,
    /// Labelled rows it was ordered on.
    pub rows: u64,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A retrain ended; the ledger's line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetrainFinished {
    pub slot: Name,
    pub run: u64,
    pub outcome: RetrainOutcome,
    pub strategy: String,
    /// As in [`RetrainStarted`].
    pub trigger: String,
    pub rows: u64,
    /// What it made, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<Digest>,
    /// What it learned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Digest>,
    /// What it gained on held-out rows, with one-sided bounds of 95 %.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<Gain>,
    pub cpu_s: f64,
    pub energy_j: f64,
    pub energy_source: EnergySource,
    pub peak_bytes: u64,
    pub written_bytes: u64,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Mean loss of the champion less that of the candidate, on the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    pub rows: u64,
    pub gain: f64,
    pub low: f64,
    pub high: f64,
}

/// How a retrain ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetrainOutcome {
    /// Its candidate serves.
    Promoted,
    /// The gate refused its candidate.
    NoGain,
    /// Its candidate lost its trial, or a person did not want it.
    NotPromoted,
    Canceled,
    OverBudget,
    Failed,
    #[serde(untagged)]
    Other(String),
}

/// Whether a figure in joules was metered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnergySource {
    Measured,
    Modelled,
}

/// The offline gate decided, with the number that decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateVerdict {
    pub slot: Name,
    pub candidate: Digest,
    pub champion: Digest,
    /// The check that decided: `overall`, `anchors`, `segment:<name>`, `latency` ….
    pub check: String,
    pub value: f64,
    pub limit: f64,
    /// Held-out rows.
    pub rows: u64,
    /// Passed on few rows: the live tests may not be skipped.
    pub weak: bool,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A person must answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApprovalRequired {
    pub slot: Name,
    pub candidate: Digest,
    pub run: u64,
    pub until: Micros,
    /// What happens if nobody answers.
    pub unanswered: Unanswered,
    #[serde(flatten)]
    pub extra: Extra,
}

/// What silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unanswered {
    Approve,
    Reject,
}

/// A trial moved on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CanaryStep {
    pub slot: Name,
    pub challenger: Digest,
    pub phase: Phase,
    pub percent: u8,
    /// Evidence so far that the challenger is not worse; promoted at 20.
    pub promote_e: f64,
    /// Evidence so far that it is worse; aborted at 20.
    pub abort_e: f64,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A trial is decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialEnded {
    pub slot: Name,
    pub run: u64,
    pub challenger: Digest,
    /// Whether the challenger becomes champion.
    pub won: bool,
    /// What decided, in one word: `evidence`, `worse`, `guard`, `person`, `silence`, `undecided` ….
    pub why: String,
    pub promote_e: f64,
    pub abort_e: f64,
    /// Evidence at which either decides.
    pub limit: f64,
    /// Samples that both answered, and labels among them.
    pub pairs: u64,
    pub labelled: u64,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A model became the champion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Promoted {
    pub slot: Name,
    pub digest: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// `rollout`, `gate`, or the command's id.
    pub by: String,
    #[serde(flatten)]
    pub extra: Extra,
}

/// An earlier model serves again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolledBack {
    pub slot: Name,
    pub from: Digest,
    pub to: Digest,
    pub reason: String,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A budget said no.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetDenied {
    /// What was asked for, such as `retrain`.
    pub action: String,
    pub reason_code: ReasonCode,
    /// In words, with the numbers.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Micros>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// The disk, or our share of it, is nearly full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StorageLow {
    /// Why, in words.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// Records that wait in memory.
    pub held: u64,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Labels arrived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelBatch {
    pub source: Name,
    pub accepted: u64,
    pub repeated: u64,
    /// For records that never were, or are gone.
    pub unknown: u64,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Wall time jumped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClockJump {
    pub before: Micros,
    pub after: Micros,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A signed message was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SigRejected {
    /// Where it came in.
    pub topic: String,
    /// Who it claimed to be from.
    pub key_ids: Vec<KeyId>,
    pub reason: String,
    #[serde(flatten)]
    pub extra: Extra,
}

impl Fact {
    /// The kind, as topic and payload say it; empty only for a foreign fact without one.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::DriftRaised(_) => "drift_raised",
            Self::DriftCleared(_) => "drift_cleared",
            Self::RetrainStarted(_) => "retrain_started",
            Self::RetrainFinished(_) => "retrain_finished",
            Self::GatePassed(_) => "gate_passed",
            Self::GateFailed(_) => "gate_failed",
            Self::ApprovalRequired(_) => "approval_required",
            Self::CanaryStep(_) => "canary_step",
            Self::TrialEnded(_) => "trial_ended",
            Self::Promoted(_) => "promoted",
            Self::RolledBack(_) => "rolled_back",
            Self::BudgetDenied(_) => "budget_denied",
            Self::StorageLow(_) => "storage_low",
            Self::LabelBatch(_) => "label_batch",
            Self::ClockJump(_) => "clock_jump",
            Self::SigRejected(_) => "sig_rejected",
            Self::Other(fields) => fields.get("kind").and_then(Value::as_str).unwrap_or_default(),
        }
    }
}

impl Event {
    /// Where a device publishes it.
    ///
    /// # Errors
    /// [`NameError`] if a foreign fact's kind cannot stand in a topic.
    pub fn topic(&self, device: DeviceId) -> Result<Topic, NameError> {
        Ok(Topic::Event { device, kind: self.fact.kind().parse()? })
    }
}

/// A known kind must fit its struct; only an unknown one is kept as it is. (An untagged fallback alone would also
/// swallow a known kind with a wrong field.)
fn known_or_other<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Fact, D::Error> {
    use serde::de::Error as _;
    let fields = Map::deserialize(deserializer)?;
    match fields.get("kind").and_then(Value::as_str) {
        None => Err(D::Error::missing_field("kind")),
        Some(kind) if KINDS.contains(&kind) => Fact::deserialize(Value::Object(fields)).map_err(D::Error::custom),
        Some(_) => Ok(Fact::Other(fields)),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    const TS: Micros = Micros(1_763_683_200_000_000);

    fn id(random: u128) -> Ulid {
        Ulid::from_parts(1_763_683_200_000, random)
    }

    fn trial_facts() -> Vec<Fact> {
        let slot = Name::main_slot();
        let (candidate, champion, extra) = (Digest::of(b"candidate"), Digest::of(b"champion"), Extra::new());
        let verdict = |value: f64| GateVerdict {
            slot: slot.clone(),
            candidate,
            champion,
            check: "overall".to_owned(),
            value,
            limit: -0.02,
            rows: 200,
            weak: false,
            extra: Extra::new(),
        };
        vec![
            Fact::GatePassed(verdict(0.006_34)),
            Fact::GateFailed(verdict(-0.024_43)),
            Fact::ApprovalRequired(ApprovalRequired {
                slot: slot.clone(),
                candidate,
                run: 3,
                until: TS,
                unanswered: Unanswered::Reject,
                extra: extra.clone(),
            }),
            Fact::CanaryStep(CanaryStep {
                slot: slot.clone(),
                challenger: candidate,
                phase: Phase::Canary,
                percent: 10,
                promote_e: 6.4269,
                abort_e: 0.5,
                extra: extra.clone(),
            }),
            Fact::TrialEnded(TrialEnded {
                slot: slot.clone(),
                run: 3,
                challenger: candidate,
                won: true,
                why: "evidence".to_owned(),
                promote_e: 21.5,
                abort_e: 0.02,
                limit: 20.0,
                pairs: 900,
                labelled: 600,
                extra: extra.clone(),
            }),
            Fact::Promoted(Promoted {
                slot: slot.clone(),
                digest: candidate,
                previous: Some(champion),
                by: "rollout".to_owned(),
                extra: extra.clone(),
            }),
            Fact::RolledBack(RolledBack {
                slot,
                from: candidate,
                to: champion,
                reason: "evidence that it is worse".to_owned(),
                extra,
            }),
        ]
    }

    fn every_fact() -> Vec<Fact> {
        let slot = Name::main_slot();
        let (candidate, champion, extra) = (Digest::of(b"candidate"), Digest::of(b"champion"), Extra::new());
        let mut facts = vec![
            Fact::DriftRaised(DriftRaised {
                slot: slot.clone(),
                stat: "psi".to_owned(),
                measure: "vibration_rms".to_owned(),
                segment: Some("shift=2".to_owned()),
                value: 0.31,
                threshold: 0.25,
                p: Some(0.0004),
                since: TS,
                extra: extra.clone(),
            }),
            Fact::DriftCleared(DriftCleared {
                slot: slot.clone(),
                stat: "psi".to_owned(),
                measure: "vibration_rms".to_owned(),
                segment: None,
                raised: id(1),
                extra: extra.clone(),
            }),
            Fact::RetrainStarted(RetrainStarted {
                slot: slot.clone(),
                run: 3,
                strategy: Strategy::Tail,
                trigger: "drift".to_owned(),
                parent: champion,
                snapshot: None,
                rows: 445,
                extra: extra.clone(),
            }),
            Fact::RetrainFinished(RetrainFinished {
                slot,
                run: 3,
                outcome: RetrainOutcome::Promoted,
                strategy: "tail".to_owned(),
                trigger: "drift".to_owned(),
                rows: 445,
                candidate: Some(candidate),
                snapshot: Some(Digest::of(b"snapshot")),
                gain: Some(Gain { rows: 100, gain: 0.2, low: 0.15, high: 0.25 }),
                cpu_s: 0.12,
                energy_j: 0.4,
                energy_source: EnergySource::Modelled,
                peak_bytes: 9_000_000,
                written_bytes: 400_000,
                extra: extra.clone(),
            }),
        ];
        facts.extend(trial_facts());
        facts.extend([
            Fact::BudgetDenied(BudgetDenied {
                action: "retrain".to_owned(),
                reason_code: ReasonCode::BudgetThermal,
                reason: "80 °C, 75 are allowed".to_owned(),
                retry_at: Some(TS),
                extra: extra.clone(),
            }),
            Fact::StorageLow(StorageLow {
                reason: "No space left on device".to_owned(),
                free_bytes: Some(40_000),
                held: 12,
                extra: extra.clone(),
            }),
            Fact::LabelBatch(LabelBatch {
                source: "laboratory".parse().unwrap(),
                accepted: 96,
                repeated: 3,
                unknown: 1,
                extra: extra.clone(),
            }),
            Fact::ClockJump(ClockJump { before: Micros(1_000_000), after: TS, extra: extra.clone() }),
            Fact::SigRejected(SigRejected {
                topic: "hone/v1/d/press-07/down/desired".to_owned(),
                key_ids: vec![],
                reason: "no signature of a trusted key".to_owned(),
                extra,
            }),
        ]);
        facts
    }

    #[test]
    fn every_kind_is_listed_and_its_json_is_the_golden_one() {
        assert_eq!(every_fact().iter().map(|fact| fact.kind().to_owned()).collect::<Vec<_>>(), KINDS);
        let mut golden = String::new();
        for (seq, fact) in (0..).zip(every_fact()) {
            let event = Event { id: id(u128::from(seq)), seq, ts: TS, clock: Clock::Ntp, fact };
            let line = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
            assert!(line.contains(&format!(r#""kind":"{}""#, event.fact.kind())));
            golden.push_str(&line);
            golden.push('\n');
        }
        expect_file!["../golden/events.jsonl"].assert_eq(&golden);
    }

    #[test]
    fn what_a_newer_version_adds_is_kept() {
        let head = r#"{"id":"01JD4V3Q8N7Y5ZK2M6T9W0XABC","seq":1,"ts":1,"clock":"rtc""#;
        for tail in [
            r#","kind":"clock_jump","before":1,"after":2,"cause":"gps"}"#,
            r#","kind":"moon_landed","crater":"Tycho"}"#,
        ] {
            let text = format!("{head}{tail}");
            let event: Event = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
            assert!(event.topic("press-07".parse().unwrap()).is_ok());
        }
    }

    #[test]
    fn a_known_kind_with_a_wrong_field_is_refused_and_not_taken_for_a_newer_one() {
        let head = r#"{"id":"01JD4V3Q8N7Y5ZK2M6T9W0XABC","seq":1,"ts":1,"clock":"rtc""#;
        for tail in [r#","kind":"clock_jump","before":"noon","after":2}"#, "}", r#","kind":7}"#] {
            assert!(serde_json::from_str::<Event>(&format!("{head}{tail}")).is_err(), "{tail}");
        }
    }
}
