//! What is retained at the broker: the agent's own answers as reports of the protocol. Pure.
use std::collections::BTreeMap;

use fleet_protocol::names::{Clock, DeviceId, Digest, Micros, Name};
use fleet_protocol::report::{
    Birth, DriftReport, DriftState, Limits, Measure, ModelRef, ModelReport, Origin, Phase, Presence, Reported, State,
    Trial,
};
use fleet_protocol::status::CommandStatus;
use fleet_protocol::topics::Topic;
use fleet_protocol::{API, Extra, PACKET_BYTES_MAX};
use serde::Serialize;
use serde_json::{Map, Value};
use ulid::Ulid;

use super::connection::{Content, Message};
use super::standing::Standing;

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
    let model = |digest: &Value| {
        let text = digest.as_str()?;
        Some(ModelRef { digest: text.parse().ok()?, origin: origin(text) })
    };
    let (champion, rollout) = (model(&status["champion"]), &status["rollout"]);
    let phase = if champion.is_none() {
        Phase::NoModel
    } else if status["work"]["task"].get("judge").is_some() {
        Phase::Gate
    } else if !status["waiting_budget"].is_null() {
        Phase::WaitingBudget
    } else if !status["work"].is_null() {
        Phase::Training
    } else {
        match (rollout["phase"].as_str(), rollout["stage"].as_str()) {
            (Some("awaiting_approval"), _) => Phase::AwaitingApproval,
            (Some("trial"), Some("shadow")) => Phase::Shadow,
            (Some("trial" | "promoting"), _) => Phase::Canary,
            (Some("returning"), _) => Phase::RolledBack,
            _ => Phase::Steady,
        }
    };
    let standing = &rollout["standing"];
    let trial = (rollout["phase"] == "trial").then(|| Trial {
        pairs: standing["pairs"].as_u64().unwrap_or(0),
        agreed: standing["agreed"].as_u64().unwrap_or(0),
        labelled: standing["labelled"].as_u64().unwrap_or(0),
        promote_e: standing["promote_e"].as_f64().unwrap_or(0.0),
        abort_e: standing["abort_e"].as_f64().unwrap_or(0.0),
        limit: standing["limit"].as_f64().unwrap_or(0.0),
        held: !rollout["held"].is_null(),
        extra: Extra::new(),
    });
    let percent = rollout["canary_percent"].as_u64().and_then(|percent| u8::try_from(percent).ok());
    ModelReport {
        champion,
        challenger: model(&rollout["challenger"]).or_else(|| model(&rollout["candidate"])),
        phase,
        canary_percent: percent.unwrap_or(0),
        served: standing["served"].as_u64().filter(|_| trial.is_some()).unwrap_or(0),
        since,
        tries_left: status["loading"]["tries_left"].as_u64().and_then(|tries| u32::try_from(tries).ok()),
        trial,
        frozen_until: status["frozen"]["until_us"].as_i64().map(Micros),
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

#[cfg(test)]
mod tests {
    use expect_test::expect_file;
    use serde_json::json;

    use super::*;
    use crate::decide::rollout::{Answer, Stage, View};
    use crate::decide::time::Timestamp;
    use crate::shell::mqtt::events::tests::standing;

    #[test]
    fn the_status_of_a_command_is_kept_for_a_week_and_states_until_they_change() {
        let (device, id) = ("press-07".parse().unwrap(), Ulid::from(1));
        let (cmd, ts) = ("agent.selftest".to_owned(), Micros(1));
        let stands = fleet_protocol::status::Status::Executing;
        let command =
            CommandStatus { id, cmd, status: stands, ts, clock: Clock::Rtc, deadline: None, extra: Extra::new() };
        let (status, online) = (status(&device, &command), presence(&device, Presence::Online, id, 1, ts));
        let retained = fleet_protocol::topics::Delivery::Retained;
        assert_eq!((status.delivery, status.expires_s), (retained, Some(7 * 24 * 3_600)));
        assert_eq!((online.delivery, online.expires_s), (retained, None));
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

    #[test]
    fn a_trial_is_told_with_its_progress_and_the_numbers_that_will_decide_it() {
        let [champion, challenger] =
            [Digest::of(b"champion"), Digest::of(b"challenger")].map(|digest| digest.to_string());
        let digest = |text: &str| text.parse::<trainer_core::digest::Digest>().unwrap();
        let evidence = standing();
        let on_trial = |stage, canary_percent, held| View::Trial {
            challenger: digest(&challenger),
            stage,
            canary_percent,
            held,
            decided: false,
            standing: evidence,
            left_s: 3_600,
        };
        let views = [
            View::Steady,
            View::AwaitingApproval {
                candidate: digest(&challenger),
                left_s: 60,
                silence: crate::decide::rollout::Silence::Reject,
            },
            on_trial(Stage::Shadow, 0, None),
            on_trial(Stage::Canary { share: 10 }, 10, None),
            on_trial(Stage::Ab { until: crate::decide::time::Uptime::default() }, 50, None),
            on_trial(Stage::Canary { share: 50 }, 50, Some(Answer::new("ada", Timestamp(1)))),
            View::Promoting { challenger: digest(&challenger) },
            View::Watching { former: digest(&champion), standing: evidence },
            View::Returning,
        ];
        let mut golden = String::new();
        for view in views {
            let status = json!({
                "champion": champion, "work": null, "rollout": view, "loading": {"tries_left": 2},
                "frozen": {"group": "all", "until": "…", "until_us": 9},
            });
            let models =
                json!({"models": [{"digest": challenger, "role": "device"}, {"digest": champion, "role": "vendor"}]});
            let report = model(&status, &models, Micros(1), Micros(2));
            golden += &(serde_json::to_string(&report).unwrap() + "\n");
        }
        expect_file!["golden/model.jsonl"].assert_eq(&golden);
    }
}
