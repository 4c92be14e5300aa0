//! Stored reports as events. Pure.
//!
//! Each stored report is one event; its position is the event's `seq`. Reports with a kind of the protocol take its shape; any
//! other, and one that does not fit, goes out under its own kind, as it was stored: nothing that happened is kept back.
use fleet_protocol::event::{Event, KINDS};
use fleet_protocol::names::{Clock, DeviceId, Digest, Name};
use serde_json::{Map, Value, json};

use super::connection::Message;
use super::payload::message;
use crate::decide::budget::Code;
use crate::decide::command::reason_code;
use crate::shell::clock::moment;
use crate::shell::store::StoredReport;

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
    let event = shaped.and_then(|(kind, fields)| whole(kind, &fields)).or_else(|| {
        // A kind of the protocol promises its fields.
        let own = KINDS.contains(&report.kind.as_str()).then(|| format!("{}_stored", report.kind));
        whole(&report.kind, &fields).or_else(|| whole(&own?, &fields))
    })?;
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
        "drift" => drift(&get("findings"), stored, at)?,
        "retrain" => {
            let order = get("order");
            let strategy = order["task"]["train"]["strategy"].clone();
            if strategy.is_null() || strategy == "base" {
                return None;
            }
            let rows = order["rows"]["newest"].as_u64()? + order["rows"]["history"].as_u64().unwrap_or(0);
            let new = json!({
                "run": order["run"], "strategy": strategy, "trigger": order["reason"], "parent": order["parent"],
                "rows": rows, "refit_of": order["refit_of"],
            });
            ("retrain_started", new)
        }
        "consolidated" => {
            let order = get("order");
            let new = json!({
                "run": order["run"], "strategy": "continual", "trigger": order["reason"], "parent": order["parent"],
                "rows": order["rows"]["newest"],
            });
            ("retrain_started", new)
        }
        "retrain_finished" => ("retrain_finished", json!(stored)),
        "approval_required" => {
            let wait_us = get("wait_s").as_i64()?.saturating_mul(1_000_000);
            let new = json!({
                "candidate": get("candidate"), "run": get("run"), "until": at.saturating_add(wait_us),
                "unanswered": get("silence"), "sentence": get("sentence"), "verdict": get("verdict"),
            });
            ("approval_required", new)
        }
        "canary_step" => {
            let (stage, standing) = (get("stage"), get("standing"));
            let percent = match stage.as_str()? {
                "canary" => get("share"),
                "ab" => json!(50),
                _ => json!(0),
            };
            let phase = if stage == "shadow" { "shadow" } else { "canary" };
            let new = json!({
                "challenger": get("challenger"), "phase": phase, "percent": percent, "promote_e": standing["promote_e"],
                "abort_e": standing["abort_e"], "run": get("run"), "stage": stage, "held": get("held"), "standing": standing,
            });
            ("canary_step", new)
        }
        "trial_won" | "trial_ended" => {
            let (won, standing) = (kind == "trial_won", get("standing"));
            let word = if get("answer").is_null() { json!("evidence") } else { json!("person") };
            let new = json!({
                "run": get("run"), "challenger": get("challenger"), "won": won, "why": if won { word } else { get("why") },
                "promote_e": standing["promote_e"], "abort_e": standing["abort_e"], "limit": standing["limit"],
                "pairs": standing["pairs"], "labelled": standing["labelled"], "standing": standing,
                "sentence": get("sentence"), "answer": get("answer"), "guard": get("guard"), "arms": get("arms"),
            });
            ("trial_ended", new)
        }
        "waiting_budget" => {
            let code = serde_json::from_value::<Code>(get("code")).ok()?;
            let retry = get("try_again")["at"].as_str().and_then(moment).map(|at| at.0);
            let mut new = json!({
                "action": "retrain", "reason_code": reason_code(code), "reason": get("sentence"), "run": get("run"),
                "code": code, "also": get("also"),
            });
            if let Some(retry) = retry {
                new["retry_at"] = json!(retry);
            }
            ("budget_denied", new)
        }
        "clock_jump" => {
            let micros = |key: &str| get(key).as_str().and_then(moment).map(|at| at.0);
            ("clock_jump", json!({"before": micros("from")?, "after": micros("to")?, "by_s": get("by_s")}))
        }
        _ => return None,
    };
    let Value::Object(mut new) = new else { return None };
    // What a kind adds and this one does not have is left out, not told as nothing.
    new.retain(|_, value| !value.is_null());
    if kind != "budget_denied" && kind != "clock_jump" {
        new.insert("slot".to_owned(), json!(Name::main_slot()));
    }
    Some((kind, new))
}

fn drift(findings: &Value, stored: &Map<String, Value>, at: i64) -> Option<(&'static str, Value)> {
    let finding = findings.as_array()?.iter().rev().find(|finding| finding["grade"] == "alarm")?;
    let named = &finding["measure"];
    let measure = named["name"].as_str().or_else(|| named["of"].as_str())?;
    let mut new = json!({
        "stat": finding["watcher"], "measure": measure, "of": named["of"], "value": finding["statistic"],
        "threshold": finding["threshold"], "since": finding["since_at"].as_i64().unwrap_or(at),
        "opened": stored.get("opened"), "findings": findings, "more": stored.get("more"),
    });
    if named["of"] == "segment" {
        new["segment"] = json!(measure);
    }
    if let Some(p) = finding["p"].as_f64() {
        new["p"] = json!(p);
    }
    Some(("drift_raised", new))
}

#[cfg(test)]
pub(super) mod tests {
    use std::fmt::Write as _;

    use expect_test::expect_file;
    use fleet_protocol::event::Fact;
    use fleet_protocol::names::Micros;
    use trainer_core::model::Strategy;
    use ulid::Ulid;

    use super::*;
    use crate::decide::cycle::{self, Order, OrderTask, Reason};
    use crate::decide::gate::{self, Evidence, GateSettings};
    use crate::decide::plan::RowsWanted;
    use crate::decide::rollout::{Answer, Report, Silence, Stage, Standing, Why};
    use crate::decide::time::{Timestamp, Uptime};
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
    fn damaged_records_are_told_to_the_fleet_under_their_own_kind() {
        let aside =
            json!({"kind": "set_aside", "kept": "records/1.db.damaged-1", "reason": "malformed", "partitions": 1});
        let (topic, event) = published("set_aside", &aside);
        assert_eq!(topic, "hone/v1/d/press-07/up/evt/set_aside");
        assert!(matches!(event.fact, Fact::Other(fields) if fields["kept"] == "records/1.db.damaged-1"));
    }

    #[test]
    fn a_report_that_does_not_fit_its_shape_goes_out_as_it_was_stored() {
        let (topic, event) = published("promote", &json!({"kind": "promote", "to": "no digest"}));
        assert_eq!(topic, "hone/v1/d/press-07/up/evt/promote");
        assert!(matches!(event.fact, Fact::Other(fields) if fields["to"] == "no digest"));
    }

    /// The evidence of a trial.
    pub(crate) fn standing() -> Standing {
        Standing {
            trial: 1,
            pairs: 900,
            agreed: 850,
            labelled: 600,
            missed: 3,
            served: 91,
            abort_e: 0.5,
            promote_e: 21.5,
            limit: 20.0,
        }
    }

    /// What the loop itself says, in the words it stores.
    fn said() -> Vec<(String, Value)> {
        let [parent, challenger] = [b"parent", b"rivals"].map(|bytes| trainer_core::digest::Digest::of(bytes));
        let mut evidence = Evidence::default();
        (0..200).for_each(|row| evidence.push(f64::from(u8::from(row % 20 == 0)), 0.0));
        let verdict = gate::judge(&evidence, &GateSettings::default());
        let rows = RowsWanted { from_label: 0, newest: 300, holdout: 60, history: 145, gap: 0 };
        let task = OrderTask::Train { strategy: Strategy::Head, seed: 7 };
        let order = Order { run: 3, reason: Reason::Drift, task, parent, rows, refit_of: None };
        let step = |stage| Report::CanaryStep { run: 3, challenger, stage, held: false, standing: standing() };
        let ended = |why, answer| Report::TrialEnded { run: 3, challenger, why, answer, standing: standing() };
        let person = Answer::new("ada", Timestamp(40));
        let won = Report::TrialWon { run: 3, challenger, answer: None, standing: standing(), arms: None };
        let tried = [
            Report::ApprovalRequired {
                run: 3,
                candidate: challenger,
                verdict,
                silence: Silence::Reject,
                wait_s: 3_600,
            },
            Report::Approved { run: 3, candidate: challenger, answer: person.clone() },
            step(Stage::Shadow),
            step(Stage::Canary { share: 10 }),
            step(Stage::Ab { until: Uptime::default() }),
            ended(Why::Worse, None),
            ended(Why::Person { reason: "too slow".to_owned() }, Some(person)),
            won,
            Report::Regretted { champion: challenger, standing: standing() },
            Report::ClassShift { run: 3, challenger },
        ];
        let frozen =
            Order { reason: Reason::Continual, task: OrderTask::Judge { candidate: challenger }, ..order.clone() };
        let ordered = [cycle::Report::Retrain { order }, cycle::Report::Consolidated { order: frozen }];
        let cycle = ordered.into_iter().chain(tried.map(cycle::Report::Rollout));
        let stored = |report| {
            let value = serde_json::to_value::<cycle::Report>(report).unwrap();
            (value["kind"].as_str().unwrap().to_owned(), value)
        };
        let plain = [
            json!({"kind": "waiting_budget", "run": 3, "code": "heat", "sentence": "80 °C, 75 are allowed", "also": ["power"],
                   "try_again": {"in_s": 60, "at": "2026-11-21T00:40:00Z"}}),
            json!({"kind": "waiting_budget", "run": 3, "code": "memory", "sentence": "90 MB, 60 are allowed", "also": [],
                   "try_again": "when_changed"}),
            json!({"kind": "clock_jump", "from": "1970-01-01T00:00:01Z", "to": "2026-11-21T00:40:00Z", "by_s": 1_795_221_599}),
            json!({"kind": "storage_low", "reason": "No space left on device", "held": 12, "free_bytes": null, "order": []}),
            json!({"kind": "retrain_finished", "run": 3, "outcome": "promoted", "strategy": "head", "trigger": "drift", "rows": 445,
                   "cpu_s": 0.12, "energy_j": 0.4, "energy_source": "modelled", "peak_bytes": 9_000_000, "written_bytes": 400_000,
                   "candidate": challenger, "gain": {"rows": 60, "gain": 0.2, "low": 0.1, "high": 0.3}}),
        ];
        let plain = plain.into_iter().map(|value| (value["kind"].as_str().unwrap().to_owned(), value));
        cycle.map(stored).chain(plain).collect()
    }

    #[test]
    fn whatever_the_loop_says_of_retrains_trials_and_budgets_takes_the_golden_shape_of_the_protocol() {
        let mut golden = String::new();
        for (kind, json) in said() {
            let (topic, event) = published(&kind, &json);
            assert!(!topic.ends_with("_stored"), "{kind} does not fit the protocol's own shape");
            writeln!(golden, "{topic} {}", serde_json::to_string(&event).unwrap()).unwrap();
        }
        expect_file!["golden/events.txt"].assert_eq(&golden);
    }

    #[test]
    fn a_report_under_a_kind_of_the_protocol_that_does_not_fit_it_is_told_and_not_given_up() {
        let (topic, event) = published("canary_step", &json!({"kind": "canary_step", "run": 1}));
        assert_eq!(topic, "hone/v1/d/press-07/up/evt/canary_step_stored");
        assert!(matches!(event.fact, Fact::Other(fields) if fields["run"] == 1));
    }
}
