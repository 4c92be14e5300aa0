//! What is published: stored reports as events, and the agent's own answers as retained reports. Pure.
//!
//! Each stored report is one event; its position is the event's `seq`. Reports with a kind of the protocol take its shape,
//! any other goes out under its own kind, as it was stored.
use std::collections::BTreeMap;

use fleet_protocol::event::Event;
use fleet_protocol::names::{Clock, DeviceId, Digest, Micros, Name};
use fleet_protocol::report::{
    Birth, DriftReport, DriftState, Limits, Measure, ModelRef, ModelReport, Origin, Phase, Presence, Reported, State,
};
use fleet_protocol::status::CommandStatus;
use fleet_protocol::topics::Topic;
use fleet_protocol::{API, Extra, PACKET_BYTES_MAX};
use serde::Serialize;
use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::connection::{Content, Message};
use super::standing::Standing;
use crate::shell::store::StoredReport;

/// Seconds a broker keeps the status of a command: a week.
const STATUS_EXPIRES_S: u32 = 7 * 86_400;

/// A message with the delivery and the schema of its topic.
pub(super) fn message(topic: &Topic, payload: &impl Serialize) -> Message {
    Message {
        topic: topic.to_string(),
        payload: serde_json::to_vec(payload).unwrap_or_default(),
        delivery: topic.delivery(),
        schema: topic.schema(),
        expires_s: matches!(topic, Topic::CommandStatus { .. }).then_some(STATUS_EXPIRES_S),
        content: Content::Json,
    }
}

/// Presence, also as last will.
pub(super) fn presence(device: &DeviceId, state: Presence, session: Ulid, boot: u64, ts: Micros) -> Message {
    let topic = Topic::State { device: device.clone() };
    message(&topic, &State { state, session, boot, ts, extra: Extra::new() })
}

/// What this agent is and can do. `features` is the digest of the champion's feature schema.
pub(super) fn birth(device: &DeviceId, facts: BirthFacts, ts: Micros) -> Message {
    let topic = Topic::Birth { device: device.clone() };
    let birth = Birth {
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        api: vec![API],
        arch: std::env::consts::ARCH.to_owned(),
        slots: vec![Name::main_slot()],
        features: facts.features,
        commands: facts.commands,
        limits: Limits {
            packet_bytes_max: PACKET_BYTES_MAX as u64,
            storage_bytes_max: facts.storage_bytes_max,
            extra: Extra::new(),
        },
        key_ids: facts.key_ids,
        groups: facts.groups,
        device_key: None,
        ts,
        extra: Extra::new(),
    };
    message(&topic, &birth)
}

/// What [`birth`] tells beside what is known at compile time.
pub(super) struct BirthFacts {
    pub(super) features: Option<Digest>,
    pub(super) commands: Vec<String>,
    pub(super) storage_bytes_max: u64,
    pub(super) key_ids: Vec<fleet_protocol::keys::KeyId>,
    pub(super) groups: Vec<Name>,
}

/// The settings in force, and what has become of those the fleet wants.
pub(super) fn reported(device: &DeviceId, standing: &Standing, ts: Micros) -> Message {
    let topic = Topic::Reported { device: device.clone() };
    let (desired_rev, applied_rev, errors, restart) = standing.told();
    let config = match serde_json::to_value(standing.config()) {
        Ok(Value::Object(config)) => config,
        _ => Map::new(),
    };
    message(&topic, &Reported { desired_rev, applied_rev, errors, restart, config, ts, extra: Extra::new() })
}

/// How a command stands.
pub(super) fn status(device: &DeviceId, status: &CommandStatus) -> Message {
    message(&Topic::CommandStatus { device: device.clone(), id: status.id }, status)
}

/// Who serves and what is under way, from the answers to [`Question::Status`](crate::shell::daemon::Question) and `Models`.
pub(super) fn model(status: &Value, models: &Value, since: Micros, ts: Micros) -> ModelReport {
    let origin = |digest: &str| {
        let rows = models["models"].as_array().into_iter().flatten();
        let row = rows.into_iter().find(|row| row["digest"] == digest);
        match row.and_then(|row| row["role"].as_str()) {
            Some("vendor") => Origin::Factory,
            Some("fleet") => Origin::Fleet,
            Some("device") => Origin::Device,
            _ => Origin::Unsigned,
        }
    };
    let champion = status["champion"].as_str().and_then(|text| Some((text.parse().ok()?, origin(text))));
    let phase = if champion.is_none() {
        Phase::NoModel
    } else if status["work"].is_null() {
        Phase::Steady
    } else if status["work"]["task"].get("judge").is_some() {
        Phase::Gate
    } else {
        Phase::Training
    };
    ModelReport {
        champion: champion.map(|(digest, origin)| ModelRef { digest, origin }),
        challenger: None,
        phase,
        canary_percent: 0,
        served: 0,
        since,
        tries_left: None,
        ts,
        extra: Extra::new(),
    }
}

/// Every feature and answer against its baseline, from the answer to [`Question::Drift`](crate::shell::daemon::Question).
pub(super) fn drift(drift: &Value, ts: Micros, clock: Clock) -> DriftReport {
    let columns = ["features", "answers"].into_iter().filter_map(|key| drift[key].as_array()).flatten();
    let measure = |column: &Value| {
        let state = match column["standing"].as_str() {
            Some("alarmed") => DriftState::Drift,
            Some("noticed") => DriftState::Warn,
            _ => DriftState::Ok,
        };
        let measure = Measure {
            stat: "psi".to_owned(),
            value: column["psi"]["value"].as_f64()?,
            threshold: drift["psi_threshold"].as_f64()?,
            p: column["psi"]["p"].as_f64(),
            window: column["rows"].as_u64()?,
            state,
            extra: Extra::new(),
        };
        Some((column["name"].as_str()?.to_owned(), measure))
    };
    DriftReport { measures: columns.filter_map(measure).collect::<BTreeMap<_, _>>(), ts, clock, extra: Extra::new() }
}

/// A stored report as an event; `champion` is the model a verdict compared with, as the ledger knows it.
pub(super) fn event(
    device: &DeviceId,
    stored: &StoredReport,
    champion: Option<Digest>,
    clock: Clock,
) -> Option<Message> {
    let report = &stored.report;
    let Ok(Value::Object(fields)) = serde_json::from_str(&report.json) else { return None };
    let whole = |kind: &str, fields: &Map<String, Value>| {
        let mut event = Map::new();
        event.insert("id".to_owned(), json!(report.id));
        event.insert("seq".to_owned(), json!(stored.position));
        event.insert("ts".to_owned(), json!(report.at.0));
        event.insert("clock".to_owned(), json!(clock));
        event.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
        event.insert("kind".to_owned(), json!(kind));
        serde_json::from_value::<Event>(Value::Object(event)).ok()
    };
    let shaped = shape(&report.kind, &fields, champion, report.at.0);
    let event = shaped.and_then(|(kind, fields)| whole(kind, &fields)).or_else(|| whole(&report.kind, &fields))?;
    Some(message(&event.topic(device.clone()).ok()?, &event))
}

/// The fields of the protocol beside those that were stored; none for a kind the protocol does not have.
fn shape(
    kind: &str,
    stored: &Map<String, Value>,
    champion: Option<Digest>,
    at: i64,
) -> Option<(&'static str, Map<String, Value>)> {
    let get = |key: &str| stored.get(key).cloned().unwrap_or_default();
    let (kind, new) = match kind {
        "promote" => {
            ("promoted", json!({"digest": get("to"), "previous": get("from"), "by": "gate", "run": get("run")}))
        }
        "rollback" => (
            "rolled_back",
            json!({"from": get("from"), "to": get("to"), "reason": "the previous model was brought back"}),
        ),
        "gate" => {
            let verdict = get("verdict");
            let passed = verdict["passed"].as_bool()?;
            let new = json!({
                "candidate": get("candidate"), "champion": champion?, "check": verdict["decided_by"],
                "value": verdict["value"], "limit": verdict["limit"], "rows": verdict["evidence"]["rows"],
                "weak": verdict["weak"], "run": get("run"), "sentence": get("sentence"),
            });
            (if passed { "gate_passed" } else { "gate_failed" }, new)
        }
        "drift" => {
            let findings = get("findings");
            let finding = findings.as_array()?.iter().rev().find(|finding| finding["grade"] == "alarm")?;
            let named = &finding["measure"];
            let measure = named["name"].as_str().or_else(|| named["of"].as_str())?;
            let mut new = json!({
                "stat": finding["watcher"], "measure": measure, "of": named["of"], "value": finding["statistic"],
                "threshold": finding["threshold"], "since": finding["since_at"].as_i64().unwrap_or(at),
                "opened": get("opened"), "findings": findings, "more": get("more"),
            });
            if named["of"] == "segment" {
                new["segment"] = json!(measure);
            }
            if let Some(p) = finding["p"].as_f64() {
                new["p"] = json!(p);
            }
            ("drift_raised", new)
        }
        _ => return None,
    };
    let Value::Object(mut new) = new else { return None };
    new.insert("slot".to_owned(), json!(Name::main_slot()));
    Some((kind, new))
}

#[cfg(test)]
mod tests {
    use fleet_protocol::event::Fact;

    use super::*;
    use crate::decide::time::Timestamp;
    use crate::shell::store::ReportRow;

    fn published(kind: &str, json: &Value) -> (String, Event) {
        let report = ReportRow { id: Ulid::from(7), kind: kind.to_owned(), json: json.to_string(), at: Timestamp(50) };
        let device = "press-07".parse().unwrap();
        let stored = StoredReport { position: 3, report };
        let message = event(&device, &stored, Some(Digest::of(b"champion")), Clock::Ntp).unwrap();
        (message.topic, serde_json::from_slice(&message.payload).unwrap())
    }

    #[test]
    fn a_promotion_a_rollback_and_a_verdict_take_the_shape_of_the_protocol() {
        let (from, to) = (Digest::of(b"old"), Digest::of(b"new"));
        let (topic, event) = published("promote", &json!({"kind": "promote", "run": 1, "from": from, "to": to}));
        assert_eq!((topic.as_str(), event.seq), ("hone/v1/d/press-07/up/evt/promoted", 3));
        assert!(
            matches!(event.fact, Fact::Promoted(promoted) if promoted.digest == to && promoted.previous == Some(from))
        );
        let (_, event) = published("rollback", &json!({"kind": "rollback", "from": from, "to": to}));
        assert!(matches!(event.fact, Fact::RolledBack(back) if back.to == to));
        let verdict = json!({"passed": false, "weak": true, "decided_by": "gain", "value": -0.1, "limit": 0.0, "evidence": {"rows": 40}});
        let gate = json!({"kind": "gate", "run": 2, "candidate": to, "verdict": verdict, "sentence": "no gain"});
        let (topic, event) = published("gate", &gate);
        assert_eq!(topic, "hone/v1/d/press-07/up/evt/gate_failed");
        assert!(
            matches!(event.fact, Fact::GateFailed(verdict) if verdict.champion == Digest::of(b"champion") && verdict.rows == 40)
        );
    }

    #[test]
    fn an_alarm_is_told_with_its_numbers_and_a_notice_as_it_was_stored() {
        let finding = |grade: &str| {
            json!({"watcher": "psi", "measure": {"of": "feature", "name": "vibration"}, "grade": grade, "statistic": 0.4,
                   "threshold": 0.25, "p": 0.001, "direction": "up", "since": {"sample": 9}, "since_at": 40})
        };
        let report =
            |grade| json!({"kind": "drift", "findings": [finding(grade)], "more": 0, "opened": grade == "alarm"});
        let (topic, event) = published("drift", &report("alarm"));
        assert_eq!(topic, "hone/v1/d/press-07/up/evt/drift_raised");
        let Fact::DriftRaised(raised) = event.fact else { panic!("{event:?}") };
        assert_eq!((raised.measure.as_str(), raised.value, raised.since), ("vibration", 0.4, Micros(40)));
        assert_eq!(raised.extra["opened"], json!(true));
        let (topic, event) = published("drift", &report("notice"));
        assert_eq!(topic, "hone/v1/d/press-07/up/evt/drift");
        assert!(matches!(event.fact, Fact::Other(fields) if fields["findings"][0]["grade"] == "notice"));
    }

    #[test]
    fn a_report_that_does_not_fit_its_shape_goes_out_as_it_was_stored() {
        let (topic, event) = published("promote", &json!({"kind": "promote", "to": "no digest"}));
        assert_eq!(topic, "hone/v1/d/press-07/up/evt/promote");
        assert!(matches!(event.fact, Fact::Other(fields) if fields["to"] == "no digest"));
    }

    #[test]
    fn the_agents_own_answers_become_retained_reports() {
        let digest = Digest::of(b"a").to_string();
        let status = json!({"champion": digest, "work": {"run": 1, "task": {"judge": {"candidate": digest}}}});
        let report = model(&status, &json!({"models": [{"digest": digest, "role": "device"}]}), Micros(1), Micros(2));
        assert_eq!((report.phase, report.champion.unwrap().origin), (Phase::Gate, Origin::Device));
        assert_eq!(model(&json!({"state": "no_model"}), &json!({}), Micros(1), Micros(2)).phase, Phase::NoModel);
        let column = json!({"name": "x", "psi": {"value": 0.3, "p": 0.01}, "standing": "alarmed", "rows": 200});
        let report = drift(&json!({"psi_threshold": 0.25, "features": [column]}), Micros(2), Clock::Rtc);
        assert_eq!((report.measures["x"].state, report.measures["x"].window), (DriftState::Drift, 200));
    }
}
