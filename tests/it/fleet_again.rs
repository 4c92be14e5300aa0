//! What must come again, and what must not: after a broker that forgets, a database that is lost, an outbox that was too small.
use std::fs;
use std::path::Path;

use hone_agent::decide::time::Timestamp;
use hone_agent::shell::store::{CycleRow, ReportRow, StateDir};
use hone_tests::broker::{Broker, Peer, Wire};
use hone_tests::fleet::{DEVICE, Site, ended, joined, now, online, report, send, signed, up};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::{Value, json};
use ulid::Ulid;

fn selftest() -> Value {
    json!({"cmd": "agent.selftest", "args": {}})
}

#[test]
fn what_a_broker_forgets_is_told_again_and_commands_are_heard_on_the_next_connection_too() {
    let Some(mut site) = Site::start("home_assistant = true\nthin_edge = true\n") else { return };
    let before = online(&site.peer).expect("it is online");
    let done = site.order(1, &selftest());
    site.stands(done, "successful");
    let (seen, subscriptions) = (site.peer.came().len(), site.peer.subscriptions());
    site.broker.kill();
    site.broker.restart();
    site.peer.subscribed(subscriptions + 1);
    let since = |topic: &str| {
        let topic = format!("hone/v1/{}", up(topic));
        until(&topic, || site.peer.came()[seen..].iter().rev().find(|came| came.topic == topic).cloned()).payload
    };
    let state = until("it is online again", || {
        let state = online(&site.peer).filter(|state| state["session"] != before["session"]);
        state.filter(|_| site.peer.came().len() > seen)
    });
    assert_eq!(state["boot"], before["boot"], "the same start of the agent, another connection");
    for topic in ["birth", "reported", "model/main", "drift/main"] {
        assert!(since(topic).is_object(), "{topic}");
    }
    assert_eq!(since(&format!("cmd/{done}"))["status"], "successful");
    // All of it is kept for whoever comes late, and so is what other systems read.
    let late = Peer::of(site.broker.port, "#");
    for topic in
        ["hone/v1/d/press-07/up/state", "hone/v1/d/press-07/up/model/main", "te/device/main/service/hone/status/health"]
            .into_iter()
            .chain(["homeassistant/device/hone-press-07/config"])
    {
        until(topic, || late.came().into_iter().find(|came| came.topic == topic && came.retained));
    }
    assert_eq!(ended(&site.peer, site.order(1, &selftest()))["status"], "successful");
}

#[test]
fn events_are_not_kept_by_the_broker_and_states_are() {
    let Some(site) = Site::start("") else { return };
    let Site { agent, peer, broker, .. } = &site;
    agent.live(&mut World::new(7), Law::Old, 300);
    report(agent);
    until("an event has come", || peer.came().into_iter().find(|came| came.topic.contains("/up/evt/")));
    let late = Peer::new(broker.port);
    until("the state is kept", || late.last(&up("state")));
    until("the model is kept", || late.last(&up("model/main")));
    // What the broker keeps comes in one go, before anything that is said now.
    peer.tell("ctl/ctl1/state", b"{}".to_vec());
    until("what is said now", || late.last("ctl/ctl1/state"));
    let kept: Vec<_> = late.came().into_iter().filter(|came| came.retained).map(|came| came.topic).collect();
    assert!(kept.iter().all(|topic| !topic.contains("/evt/") && !topic.ends_with("/metrics")), "{kept:?}");
}

#[test]
fn an_order_is_not_carried_out_again_by_a_device_that_has_lost_its_database() {
    let Some(mut site) = Site::start("[cycle]\npolicy = \"static\"\n") else { return };
    site.agent.live(&mut World::new(7), Law::Old, 300);
    let wish = json!({"cmd": "drift.rebaseline", "args": {"slot": "main"}});
    let order = signed(1, DEVICE, 10, 600, &wish);
    let id = send(&site.peer, order.clone());
    assert_eq!(ended(&site.peer, id)["status"], "successful");
    let agent = site.device.start_over(&mut site.agent, |state_dir| {
        for file in ["control.db", "control.db-wal", "control.db-shm"] {
            let _ = fs::remove_file(state_dir.join(file));
        }
    });
    site.agent = agent;
    // The broker still retains the order, and brings it again.
    let status = until("it is refused", || {
        site.peer.last(&up(&format!("cmd/{id}"))).filter(|status| status["status"] == "failed")
    });
    assert_eq!(status["reason_code"], "replayed", "{status}");
    assert!(site.agent.reports("rebaseline").is_empty(), "and has no effect");
    // Nor is an older one that the broker held back, while a new one is.
    let refused = |counter| ended(&site.peer, send(&site.peer, signed(1, DEVICE, counter, 600, &selftest())));
    assert_eq!(refused(9)["reason_code"], "replayed");
    assert_ne!(refused(11)["reason_code"], "replayed");
}

/// Puts reports into the outbox of an agent that does not run: one decision among thirty that wait.
fn fill(state_dir: &Path, count: u64) {
    let mut state = StateDir::open(state_dir).expect("a state");
    let cycle = state.control.cycle().expect("a state").expect("a cycle");
    let row = |number: u64| {
        let kind = if number.is_multiple_of(30) { "verdict_of_a_test" } else { "waiting" };
        ReportRow {
            id: Ulid::from(u128::from(number) + (1 << 64)),
            kind: kind.to_owned(),
            json: json!({"kind": kind, "number": number}).to_string(),
            at: Timestamp(i64::try_from(number).expect("small")),
        }
    };
    let rows: Vec<_> = (0..count).map(row).collect();
    let cycle = CycleRow { generation: cycle.generation + 1, state: cycle.state };
    state.control.commit(&cycle, &rows, &[], &[]).expect("room");
}

#[test]
fn an_outbox_beyond_its_cap_gives_up_the_oldest_of_the_least_and_no_decision() {
    let Some(broker) = Broker::start("") else { return };
    let (wire, peer) = (Wire::to(broker.port), Peer::new(broker.port));
    let device = joined(wire.port, "outbox_bytes_max = 65_536\nmetrics_s = 0\n");
    let model = world::train(device.path(), "base", 1, false);
    wire.cut();
    assert!(device.start(Some(&model)).terminate().success());
    fill(&device.state_dir(), 3_000);
    let agent = device.start(None);
    let waiting = until("the cap is held", || {
        let link = agent.status()["link"].clone();
        (link["waiting_reports"].as_u64() > Some(0)).then_some(link)
    });
    assert!(waiting["waiting_bytes"].as_u64() <= Some(65_536), "{waiting}");
    wire.mend();
    until("the outbox is empty", || (agent.status()["link"]["waiting_reports"] == 0).then_some(()));
    let numbers = |kind: &str| -> Vec<u64> {
        let came = peer.came().into_iter().filter(|came| came.topic.ends_with(&format!("/evt/{kind}")));
        came.filter_map(|came| came.payload["number"].as_u64()).collect()
    };
    assert_eq!(numbers("verdict_of_a_test"), (0..3_000).step_by(30).collect::<Vec<_>>(), "every decision, in order");
    let course = numbers("waiting");
    assert!((500..2_000).contains(&course.len()), "{} of the rest", course.len());
    let newest: Vec<_> = (0..3_000).filter(|number| number % 30 != 0).collect();
    assert_eq!(course, newest[newest.len() - course.len()..], "the newest of it, in order");
}

#[test]
fn an_export_that_the_broker_can_never_take_ends_with_the_reason() {
    let Some(broker) = Broker::start("max_packet_size 20000") else { return };
    let peer = Peer::new(broker.port);
    let device = joined(broker.port, "");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    until("the link is up", || online(&peer));
    let begun = now();
    agent.live(&mut World::new(7), Law::Old, 300);
    let until_us = now() + 1_000_000;
    let export =
        json!({"cmd": "data.export", "args": {"stream": "audit", "since": begun, "until": until_us, "rows_max": 300}});
    let status = ended(&peer, send(&peer, signed(4, DEVICE, 1, 600, &export)));
    assert_eq!(status["reason_code"], "refused", "{status}");
    assert!(status["reason"].as_str().is_some_and(|reason| reason.contains("max_packet_size")), "{status}");
    // A small one is taken, over the same connection.
    let export =
        json!({"cmd": "data.export", "args": {"stream": "audit", "since": begun, "until": until_us, "rows_max": 50}});
    let status = ended(&peer, send(&peer, signed(4, DEVICE, 2, 600, &export)));
    assert_eq!((&status["status"], &status["result"]["rows"]), (&json!("successful"), &json!(50)), "{status}");
}

#[test]
fn two_agents_of_one_name_are_told_to_be_two_and_which_setting_names_them() {
    let Some(site) = Site::start("") else { return };
    let twin = joined(site.broker.port, "");
    let other = twin.start(Some(&world::train(twin.path(), "base", 1, false)));
    let told = |agent: &hone_tests::agent::Agent| {
        let alarm = agent.status()["link"]["alarm"].as_str().map(str::to_owned);
        alarm.filter(|alarm| alarm.contains("`mqtt.device`") && alarm.contains("`press-07`"))
    };
    until("one of them knows", || told(&site.agent).or_else(|| told(&other)));
    until("both know", || told(&site.agent).and(told(&other)));
    // It stays while one of them is up for a moment, and the doctor does not become a third of that name.
    let (_, out, _) = site.device.ask(&["doctor"]);
    assert!(out.contains("two of one name throw each other out"), "{out}");
    assert!(site.device.log().contains("`mqtt.device`"));
}

/// Puts one report of so many bytes into the outbox of an agent that does not run, and a small one behind it.
fn put_large(state_dir: &Path, bytes: usize) {
    let mut state = StateDir::open(state_dir).expect("a state");
    let cycle = state.control.cycle().expect("a state").expect("a cycle");
    let row = |number: u128, text: String| ReportRow {
        id: Ulid::from(number + (1 << 64)),
        kind: "verdict_of_a_test".to_owned(),
        json: json!({"kind": "verdict_of_a_test", "text": text}).to_string(),
        at: Timestamp(1),
    };
    let cycle = CycleRow { generation: cycle.generation + 1, state: cycle.state };
    let rows = [row(1, "x".repeat(bytes)), row(2, "small".to_owned())];
    state.control.commit(&cycle, &rows, &[], &[]).expect("room");
}

#[test]
fn a_report_that_is_larger_than_the_broker_takes_is_given_up_by_name_and_holds_nothing_up() {
    let Some(broker) = Broker::start("max_packet_size 30000") else { return };
    let peer = Peer::new(broker.port);
    let device = joined(broker.port, "");
    assert!(device.start(Some(&world::train(device.path(), "base", 1, false))).terminate().success());
    put_large(&device.state_dir(), 40_000);
    let agent = device.start(None);
    until("the one behind it has come", || {
        peer.came().into_iter().find(|came| came.payload["text"] == "small").map(drop)
    });
    let link =
        until("it is counted", || Some(agent.status()["link"].clone()).filter(|link| link["parked_reports"] == 1));
    assert!(link["alarm"].as_str().is_some_and(|alarm| alarm.contains("given up with code 0x95")), "{link}");
    until("nothing waits", || (agent.status()["link"]["waiting_reports"] == 0).then_some(()));
    assert_eq!(agent.status()["link"]["connections"], 1, "over one connection");
}

#[test]
fn a_broker_that_takes_next_to_nothing_is_not_worked_with_and_told_which_setting_to_raise() {
    let Some(broker) = Broker::start("max_packet_size 10000") else { return };
    let device = joined(broker.port, "");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let alarm = until("it is told", || agent.status()["link"]["alarm"].as_str().map(str::to_owned));
    assert!(alarm.contains("10000 bytes") && alarm.contains("max_packet_size"), "{alarm}");
    assert_eq!(agent.status()["link"]["parked_reports"], 0, "another broker may take them");
}

#[test]
fn an_export_goes_on_over_a_connection_that_is_lost_in_the_middle() {
    let Some(broker) = Broker::start("") else { return };
    let (wire, peer) = (Wire::to(broker.port), Peer::new(broker.port));
    let device = joined(wire.port, "");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    until("the link is up", || online(&peer));
    let begun = now();
    agent.live(&mut World::new(7), Law::Old, 2_000);
    let export = json!({"cmd": "data.export", "args": {"stream": "audit", "since": begun, "until": now() + 1_000_000, "rows_max": 2_000}});
    let batches = || peer.came().into_iter().filter(|came| came.topic.ends_with("up/data/audit")).collect::<Vec<_>>();
    let id = send(&peer, signed(4, DEVICE, 1, 600, &export));
    // Neither batches nor their acknowledgements get through from now on.
    until("the first batch has come", || (!batches().is_empty()).then_some(()));
    wire.swallow();
    wire.mend();
    let status = ended(&peer, id);
    assert_eq!((&status["status"], &status["result"]["rows"]), (&json!("successful"), &json!(2_000)), "{status}");
    let rows: std::collections::BTreeSet<_> = batches()
        .iter()
        .flat_map(|came| fleet_protocol::data::Batch::from_cbor(&came.bytes).expect("a batch").rows)
        .map(|row| row.id)
        .collect();
    assert_eq!(rows.len(), 2_000);
}

#[test]
fn an_export_under_way_is_alone_and_keeps_the_records_that_it_reads() {
    let Some(site) = Site::start("[cycle]\npolicy = \"static\"\n") else { return };
    let begun = now();
    site.agent.live(&mut World::new(7), Law::Old, 450);
    let span = |from: i64, to: i64| json!({"since": from, "until": to});
    let mut export = span(begun, now() + 1_000_000);
    (export["stream"], export["rows_max"]) = (json!("audit"), json!(450));
    let order = |counter: u64, command: &str, args: &Value| {
        send(&site.peer, signed(4, DEVICE, counter, 600, &json!({"cmd": command, "args": args})))
    };
    // Commands that come within a moment are taken in one go, before the first batch leaves.
    let first = order(1, "data.export", &export);
    let second = order(2, "data.export", &export);
    let within = order(3, "data.purge", &span(begun, now()));
    let beside = order(4, "data.purge", &span(1, 2));
    assert_eq!(ended(&site.peer, second)["reason_code"], "busy");
    let refused = ended(&site.peer, within);
    assert_eq!(refused["reason_code"], "needed", "{refused}");
    assert!(refused["reason"].as_str().is_some_and(|reason| reason.contains("export")), "{refused}");
    let done = ended(&site.peer, beside);
    assert_eq!(done["status"], "successful", "it reads nothing of that span: {done}");
    assert_eq!(ended(&site.peer, first)["result"]["rows"], 450);
}
