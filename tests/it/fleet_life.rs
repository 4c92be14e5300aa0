//! The life of a command: it waits for its time, a budget and a person, dies by its deadline, and survives a kill in every state.
use std::time::Duration;

use fleet_protocol::Extra;
use fleet_protocol::envelope::Payload as _;
use fleet_protocol::names::Micros;
use fleet_protocol::order::{Notice, NoticeBody};
use hone_agent::decide::time::Uptime;
use hone_agent::shell::store::{CommandRow, StateDir};
use hone_tests::agent::Device;
use hone_tests::fleet::{DEVICE, Site, ended, key, now, send, signed, up};
use hone_tests::until;
use hone_tests::world::{Law, World};
use serde_json::{Value, json};
use ulid::Ulid;

/// A person is asked, and nothing is tried: what was approved serves.
const ASKS: &str = "[cycle]\npolicy = \"static\"\n\n[rollout]\nmode = \"gate\"\napproval = \"ask\"\n";

/// A gateway on its battery, which lets no training begin, or one that is being charged.
fn battery(device: &Device, empty: bool) {
    let (status, capacity) = if empty { ("Discharging", 20) } else { ("Charging", 90) };
    for (file, text) in [("type", "Battery"), ("capacity", &capacity.to_string()), ("status", status)] {
        device.sense(&format!("sys/class/power_supply/BAT0/{file}"), &format!("{text}\n"));
    }
}

/// A device that asks before it tries, on an empty battery.
fn drained() -> Option<Site> {
    Site::start_with("", ASKS, |device| battery(device, true))
}

fn start(at: Option<i64>) -> Value {
    let mut args = json!({"slot": "main", "reason": "a test", "strategy": "head"});
    if let Some(at) = at {
        args["at"] = json!(at);
    }
    json!({"cmd": "retrain.start", "args": args})
}

fn runs(site: &Site) -> usize {
    site.agent.reports("retrain").len()
}

#[test]
fn a_retrain_waits_for_its_time_a_budget_and_a_person_and_is_killed_in_each_of_these() {
    let Some(mut site) = drained() else { return };
    site.agent.live(&mut World::new(7), Law::New, 400);
    let at = now() + 15_000_000;
    let id = site.order(1, &start(Some(at)));
    let status = site.stands(id, "scheduled");
    assert_eq!(status["at"], at);
    assert!(
        status["deadline"].as_i64() > Some(at) && status["by"].as_str().is_some_and(|by| by.len() == 16),
        "{status}"
    );
    site.kill();
    assert_eq!((site.stands(id, "scheduled")["at"].clone(), runs(&site)), (json!(at), 0));
    // Its time comes, and the battery is empty.
    let status = site.stands(id, "waiting_budget");
    assert!(now() >= at, "not before its time");
    assert_eq!(status["reason_code"], "budget_power", "{status}");
    assert!(status["deadline"].as_i64() > Some(now()), "{status}");
    site.kill();
    until("it waits in the new start too", || (!site.agent.status()["waiting_budget"].is_null()).then_some(()));
    assert_eq!((site.stands(id, "waiting_budget")["reason_code"].clone(), runs(&site)), (json!("budget_power"), 1));
    // It is charged; the candidate passes, and a person is asked.
    battery(&site.device, false);
    site.stands(id, "waiting_approval");
    site.kill();
    let status = site.stands(id, "waiting_approval");
    assert!(status["deadline"].as_i64() > Some(now()), "{status}");
    let model = until("the candidate is told", || {
        site.peer.last(&up("model/main")).filter(|model| model["phase"] == "awaiting_approval")
    });
    let digest = model["challenger"]["digest"].clone();
    let asked = site.peer.came().into_iter().find(|came| came.topic.ends_with("evt/approval_required"));
    assert_eq!(asked.expect("the question is told").payload["candidate"], digest);
    // An answer about another model was given too late, or to another question.
    let another = json!({"cmd": "model.approve", "args": {"slot": "main", "digest": "ab".repeat(32)}});
    assert_eq!(ended(&site.peer, site.order(1, &another))["reason_code"], "not_tried");
    site.stands(id, "waiting_approval");
    let approve = site.order(1, &json!({"cmd": "model.approve", "args": {"slot": "main", "digest": digest}}));
    assert_eq!(ended(&site.peer, approve)["status"], "successful");
    let status = ended(&site.peer, id);
    assert_eq!((&status["status"], &status["result"]["digest"]), (&json!("successful"), &digest), "{status}");
    assert_eq!(
        (site.agent.champion(), runs(&site)),
        (digest.as_str().expect("a digest").to_owned(), 1),
        "one run in all"
    );
    // The ledger's line.
    let line = until("the ledger is told", || {
        site.peer.came().into_iter().find(|came| came.topic.ends_with("evt/retrain_finished"))
    });
    let line = line.payload;
    assert_eq!(
        (&line["outcome"], &line["candidate"], &line["trigger"]),
        (&json!("promoted"), &digest, &json!("command"))
    );
    assert!(
        line["cpu_s"].as_f64() > Some(0.0) && line["rows"].as_u64() > Some(100) && line["energy_j"].is_number(),
        "{line}"
    );
    // It was seen at work before the question.
    let told = site.told(id);
    let first = |word: &str| told.iter().position(|told| told == word);
    assert!(first("executing").is_some() && first("executing") < first("waiting_approval"), "{told:?}");
    // An end is an end: the same order again says so.
    assert_eq!(site.told(id).last().map(String::as_str), Some("successful"));
}

/// Rewrites the row of a command while no agent runs.
fn age(site: &mut Site, id: Ulid) {
    let agent = site.device.start_over(&mut site.agent, |state_dir| {
        let mut state = StateDir::open(state_dir).expect("a state");
        let row = state.control.command(id).expect("readable").expect("known");
        state.control.put_commands(&[CommandRow { deadline: Uptime(Duration::from_micros(1)), ..row }]).expect("room");
    });
    site.agent = agent;
}

#[test]
fn a_command_that_stands_for_too_long_fails_and_what_it_asked_for_does_not_happen() {
    let Some(mut site) = drained() else { return };
    site.agent.live(&mut World::new(7), Law::New, 400);
    let (waits, later) = (site.order(1, &start(None)), now() + 3_600_000_000);
    site.stands(waits, "waiting_budget");
    age(&mut site, waits);
    let status = ended(&site.peer, waits);
    assert_eq!((&status["reason_code"], status.get("deadline")), (&json!("timeout"), None), "{status}");
    until("the run is given up with it", || site.agent.status()["work"].is_null().then_some(()));
    // Scheduled.
    let far = signed(1, DEVICE, now().unsigned_abs(), 86_400, &start(Some(later)));
    let far = send(&site.peer, far);
    site.stands(far, "scheduled");
    age(&mut site, far);
    assert_eq!(ended(&site.peer, far)["reason_code"], "timeout");
    // Asked, and nobody answers.
    battery(&site.device, false);
    let asked = site.order(1, &start(None));
    site.stands(asked, "waiting_approval");
    age(&mut site, asked);
    assert_eq!(ended(&site.peer, asked)["reason_code"], "timeout");
}

#[test]
fn a_retrain_that_waits_is_cancelled_and_one_that_would_begin_too_late_is_refused() {
    let Some(site) = drained() else { return };
    site.agent.live(&mut World::new(7), Law::New, 400);
    let cancel = json!({"cmd": "retrain.cancel", "args": {"slot": "main"}});
    let scheduled = site.order(1, &start(Some(now() + 300_000_000)));
    site.stands(scheduled, "scheduled");
    let status = ended(&site.peer, site.order(1, &cancel));
    assert_eq!((&status["status"], &status["result"]["scheduled"]), (&json!("successful"), &json!(1)), "{status}");
    assert_eq!(ended(&site.peer, scheduled)["reason_code"], "canceled");
    let waits = site.order(1, &start(None));
    site.stands(waits, "waiting_budget");
    assert_eq!(ended(&site.peer, site.order(1, &cancel))["status"], "successful");
    assert_eq!(ended(&site.peer, waits)["status"], "failed");
    // Signed for ten minutes, wanted in an hour.
    let late = site.order(1, &start(Some(now() + 3_600_000_000)));
    assert_eq!(ended(&site.peer, late)["reason_code"], "expired");
    assert_eq!(ended(&site.peer, site.order(1, &cancel))["reason_code"], "refused", "nothing is left");
}

#[test]
fn a_purge_deletes_its_span_and_nothing_else_unless_something_still_needs_it() {
    let Some(mut site) = drained() else { return };
    let begun = now();
    site.agent.live(&mut World::new(7), Law::New, 400);
    std::thread::sleep(Duration::from_millis(1_100));
    let middle = now();
    site.agent.live(&mut World::new(8), Law::New, 50);
    let purge = |since: i64, until: i64| json!({"cmd": "data.purge", "args": {"since": since, "until": until}});
    let counts = |site: &Site| site.agent.status()["records"].clone();
    assert_eq!(ended(&site.peer, site.order(1, &purge(begun, middle)))["reason_code"], "not_authorized");
    // A training that waits reads these rows.
    let waits = site.order(1, &start(None));
    site.stands(waits, "waiting_budget");
    let status = ended(&site.peer, site.order(4, &purge(begun, middle)));
    assert_eq!(status["reason_code"], "needed", "{status}");
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains("retrain.cancel")), "{status}");
    assert_eq!(counts(&site)["records"], 450);
    let cancel = json!({"cmd": "retrain.cancel", "args": {"slot": "main"}});
    assert_eq!(ended(&site.peer, site.order(1, &cancel))["status"], "successful");
    let status = ended(&site.peer, site.order(4, &purge(begun, middle)));
    let result = &status["result"];
    assert_eq!((&result["records"], &result["labels"]), (&json!(400), &json!(400)), "{status}");
    let told = until("it is reported", || site.agent.reports("purged").pop());
    assert_eq!((&told["records"], &told["complete"]), (&json!(400), &json!(true)));
    site.kill();
    assert_eq!((counts(&site)["records"].clone(), counts(&site)["labels"].clone()), (json!(50), json!(50)));
    // Once more there is nothing, and recording goes on.
    assert_eq!(ended(&site.peer, site.order(4, &purge(begun, middle)))["result"]["records"], 0);
    site.agent.live(&mut World::new(9), Law::New, 20);
    assert_eq!(counts(&site)["records"], 70);
    // The owner of the device may do the same.
    let (code, out, err) =
        site.device.ask(&["purge", "--since", "2020-01-01T00:00:00Z", "--until", "2100-01-01T00:00:00Z"]);
    assert!(code == Some(2) && err.contains("--yes"), "{out}{err}");
    let (code, out, err) =
        site.device.ask(&["purge", "--since", "2020-01-01T00:00:00Z", "--until", "2100-01-01T00:00:00Z", "--yes"]);
    assert!(code == Some(0) && out.contains("70 records"), "{out}{err}");
    assert_eq!(counts(&site)["records"], 0);
}

#[test]
fn a_frozen_group_begins_nothing_new_over_a_restart_until_it_is_thawed_and_may_always_go_back() {
    let Some(mut site) = drained() else { return };
    site.agent.live(&mut World::new(7), Law::New, 400);
    let champion = site.agent.champion();
    let waits = site.order(1, &start(None));
    site.stands(waits, "waiting_budget");
    let notice = |site: &Site, seed: u8, group: &str, ctr: u64, notice: NoticeBody| {
        let topic = format!("g/{group}/down/notice/{}", notice.name());
        let group = group.parse().expect("a name");
        let notice = Notice { v: 1, id: Ulid::generate(), group, iat: Micros(1), ctr, notice, extra: Extra::new() };
        site.peer.publish(&topic, notice.sign(&[&key(seed)]).to_json());
    };
    let until_day = Micros(now() + 86_400_000_000);
    // Not by an operator, a stranger, or for another group.
    for (seed, group) in [(1, "all"), (3, "all"), (4, "hall-9")] {
        notice(&site, seed, group, 50, NoticeBody::Freeze { until: until_day });
    }
    notice(&site, 4, "all", 60, NoticeBody::Freeze { until: until_day });
    until("it is told as frozen", || {
        site.peer.last(&up("model/main")).filter(|model| model["frozen_until"] == json!(until_day))
    });
    battery(&site.device, false);
    site.kill();
    let refused = |site: &Site, command: Value| ended(&site.peer, site.order(1, &command))["reason_code"].clone();
    assert_eq!(refused(&site, start(None)), "frozen");
    let digest = "ab".repeat(32);
    let install =
        json!({"cmd": "model.install", "args": {"slot": "main", "digest": digest, "size_bytes": 5, "chunks": 1}});
    assert_eq!(refused(&site, install), "frozen");
    let (code, _, err) = site.device.ask(&["retrain"]);
    assert!(code == Some(9) && err.contains("frozen") && err.contains("thaw"), "{err}");
    // Charged now, and still nothing begins.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!((site.agent.champion(), site.told(waits).contains(&"executing".to_owned())), (champion.clone(), false));
    // Going back is never forbidden: there is only nothing to go back to.
    let back = json!({"cmd": "model.rollback", "args": {"slot": "main", "reason": "a test"}});
    assert_eq!(refused(&site, back), "refused");
    // An older word does not thaw, nor does garbage.
    notice(&site, 4, "all", 59, NoticeBody::Thaw {});
    site.peer.publish("g/all/down/notice/freeze", b"\xff{}".to_vec());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(refused(&site, start(None)), "frozen");
    notice(&site, 4, "all", 61, NoticeBody::Thaw {});
    site.stands(waits, "waiting_approval");
    assert_eq!(site.peer.last(&up("model/main")).expect("told")["champion"]["digest"], champion);
}
