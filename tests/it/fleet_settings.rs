//! Settings from the fleet: signed, forwards only, whole or not at all; and keys that come and go.
use fleet_protocol::Extra;
use fleet_protocol::envelope::{Envelope, Kind, Payload as _};
use fleet_protocol::keys::KeyId;
use fleet_protocol::names::Micros;
use fleet_protocol::order::{Desired, Notice, NoticeBody};
use hone_tests::broker::{Broker, Peer};
use hone_tests::fleet::{Console, DEVICE, Site, ended, joined, key, public, send, signed, up};
use hone_tests::until;
use hone_tests::world;
use serde_json::{Value, json};
use ulid::Ulid;

fn desired(seed: u8, device: &str, rev: u64, config: &Value) -> Vec<u8> {
    let (dev, config) = (device.parse().expect("a device"), config.as_object().cloned().expect("settings"));
    Desired { v: 1, dev, rev, iat: Micros(1), config, extra: Extra::new() }.sign(&[&key(seed)]).to_json()
}

fn set(peer: &Peer, envelope: Vec<u8>) {
    peer.publish(&format!("d/{DEVICE}/down/desired"), envelope);
}

fn reported(peer: &Peer, rev: u64) -> Value {
    until("the settings are answered", || peer.last(&up("reported")).filter(|reported| reported["desired_rev"] == rev))
}

#[test]
fn settings_are_applied_whole_or_refused_with_reasons_and_outlive_the_agent() {
    let Some(Site { agent, device, peer, broker }) = Site::start("") else { return };
    // Live, and after the next start.
    set(
        &peer,
        desired(
            4,
            DEVICE,
            7,
            &json!({"mqtt": {"metrics_s": 1}, "records": {"keep_bytes": 50_000_000}, "cycle": {"watch": {"columns": {"psi": 0.5}}}}),
        ),
    );
    let told = reported(&peer, 7);
    assert_eq!((&told["applied_rev"], &told["restart"]), (&json!(7), &json!(["cycle.watch.columns.psi"])), "{told}");
    until("metrics come each second now", || {
        (peer.came().iter().filter(|came| came.topic.ends_with("up/metrics")).count() > 2).then_some(())
    });
    until("the records keep to it at once", || (agent.status()["storage"]["keep_bytes"] == 50_000_000).then_some(()));
    // Whole or not at all.
    set(
        &peer,
        desired(4, DEVICE, 8, &json!({"mqtt": {"metrics_s": 9, "broker": "mqtt://elsewhere"}, "cycle": {"no": 1}})),
    );
    let told = reported(&peer, 8);
    let keys: Vec<_> = told["errors"].as_array().expect("reasons").iter().map(|error| error["key"].clone()).collect();
    assert_eq!((&told["applied_rev"], keys), (&json!(7), vec![json!("mqtt.broker"), json!("cycle.no")]));
    assert_eq!(told["config"]["mqtt"]["metrics_s"], 1);
    // Older, of an operator, of a stranger, for another, as something else, unsigned: told as what it is, and nothing changes.
    let turned = || agent.status()["link"]["turned_away"].as_u64().unwrap_or(0);
    let (quiet, wrong) = (turned(), json!({"mqtt": {"metrics_s": 60}}));
    let plain = wrong.to_string().into_bytes();
    let command = Envelope::sign(Kind::Command, b"{}", &[&key(4)]).to_json();
    let bad = [
        desired(4, DEVICE, 6, &wrong),
        desired(1, DEVICE, 9, &wrong),
        desired(3, DEVICE, 9, &wrong),
        desired(4, "press-08", 9, &wrong),
        command,
        plain,
        b"\xff\xfe".to_vec(),
        vec![b'x'; 200_000],
    ];
    for (count, envelope) in (1..).zip(bad) {
        set(&peer, envelope);
        until("it is turned away", || (turned() >= quiet + count).then_some(()));
    }
    let told = peer.last(&up("reported")).expect("reported");
    assert_eq!(
        (&told["desired_rev"], &told["applied_rev"], &told["config"]["mqtt"]["metrics_s"]),
        (&json!(8), &json!(7), &json!(1))
    );
    let event = until("it is told as an event", || agent.reports("turned_away").pop());
    assert_eq!(event["reason_code"], "replayed");
    agent.kill();
    // The next start has it, before it has heard a word.
    drop(peer);
    let agent = device.start(None);
    let peer = Peer::new(broker.port);
    // The broker still retains what the last start had said.
    let told = until("the new start has told its settings", || {
        peer.last(&up("reported")).filter(|told| told["desired_rev"] == 8 && told.get("restart").is_none())
    });
    assert_eq!(
        (&told["applied_rev"], told.get("restart"), &told["config"]["cycle"]["watch"]["columns"]["psi"]),
        (&json!(7), None, &json!(0.5))
    );
    drop(agent);
}

#[test]
fn a_key_is_rotated_and_revoked_and_its_holder_is_nobody_from_then_on() {
    let Some(mut site) = Site::start("") else { return };
    let peer = &site.peer;
    let test = json!({"cmd": "agent.selftest", "args": {}});
    let code = |id| ended(peer, id)["reason_code"].clone();
    assert_eq!(code(send(peer, signed(5, DEVICE, 1, 600, &test))), "rejected_signature");
    // Key 5 takes the place of key 1.
    let entry = |seed, role: &str| json!({"public": public(seed), "roles": [role]});
    set(peer, desired(4, DEVICE, 1, &json!({"mqtt": {"trust": [entry(4, "admin"), entry(5, "operator")]}})));
    reported(peer, 1);
    let id = send(peer, signed(5, DEVICE, 2, 600, &test));
    assert_eq!(ended(peer, id)["status"], "successful");
    assert_eq!(code(send(peer, signed(1, DEVICE, 1_000, 600, &test))), "rejected_signature");
    // And is revoked by a notice to its group.
    let keyid = KeyId::of(&key(5).verifying_key());
    let (group, notice) = ("hall-3".parse().expect("a group"), NoticeBody::RevokeKey { keyid });
    let topic = format!("g/hall-3/down/notice/{}", notice.name());
    let notice = Notice { v: 1, id: Ulid::generate(), group, iat: Micros(1), ctr: 1, notice, extra: Extra::new() };
    peer.publish(&topic, notice.sign(&[&key(4)]).to_json());
    until("the key is told as gone", || {
        let keys = peer.last(&up("birth"))?["key_ids"].as_array()?.len();
        (keys == 1).then_some(())
    });
    assert_eq!(code(send(peer, signed(5, DEVICE, 3, 600, &test))), "rejected_signature");
    site.kill();
    let peer = &site.peer;
    let code = |id| ended(peer, id)["reason_code"].clone();
    assert_eq!(code(send(peer, signed(5, DEVICE, 4, 600, &test))), "rejected_signature", "also after a restart");
}

#[test]
fn a_person_configures_a_device_and_reads_why_it_refuses() {
    let Some(broker) = Broker::start("") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let device = joined(broker.port, "");
    let _ = hone_tests::hone();
    let console = Console::new(folder.path(), &["--broker", &url]);
    let trust = format!("[mqtt]\ntrust = [{{ public = \"{}\", roles = [\"admin\"] }}]\n", console.keygen("admin.key"));
    std::fs::write(device.path().join("conf.d/zz.toml"), trust).expect("a temporary folder");
    let _agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    until("the device is listed", || (console.json(&["devices"])["devices"][0]["presence"] == "online").then_some(()));
    let write = |text: &str| std::fs::write(folder.path().join("s.toml"), text).expect("a temporary folder");
    write("[mqtt]\nreport_s = 2\n\n[agent]\ncommit_s = 3\n");
    let told = console.json(&["configure", DEVICE, "s.toml", "--key", "admin.key"]);
    assert_eq!((&told["applied_rev"], &told["restart"]), (&json!(1), &json!(["agent.commit_s"])));
    write("[mqtt]\nreport_s = 0\n");
    let (code, out, _) = console.ask(&["configure", DEVICE, "s.toml", "--key", "admin.key"]);
    assert!(code == Some(9) && out.contains("mqtt.report_s") && out.contains("1 to 3600"), "{out}");
    // Who may not, and what is overtaken, is not taken for what was applied before.
    let _ = console.keygen("nobody.key");
    let (code, out, err) = console.ask(&["configure", DEVICE, "s.toml", "--key", "nobody.key"]);
    assert!(code == Some(9) && err.contains("no signature of a trusted key"), "{code:?} {out}{err}");
    let (code, out, err) = console.ask(&["configure", DEVICE, "s.toml", "--key", "admin.key", "--revision", "2"]);
    assert!(code == Some(9) && err.contains("has seen revision 2 already"), "{code:?} {out}{err}");
    // The start that the settings wait for.
    let boot = |console: &Console| console.json(&["show", DEVICE])["view"]["state"]["boot"].clone();
    assert_eq!(boot(&console), 1);
    assert_eq!(
        console.ask(&["send", "--key", "admin.key", "--device", DEVICE, "agent.restart", "--wait", "1"]).0,
        Some(75)
    );
    until("the agent ends", || device.log().contains("as the fleet has ordered").then_some(()));
    until("it is gone", || (console.json(&["devices"])["devices"][0]["presence"] == "offline").then_some(()));
    let _agent = device.start(None);
    let shown = until("the command has ended", || {
        let shown = console.json(&["show", DEVICE]);
        let commands = shown["view"]["commands"].as_object()?.values().cloned().collect::<Vec<_>>();
        commands
            .iter()
            .any(|status| status["cmd"] == "agent.restart" && status["status"] == "successful")
            .then_some(shown)
    });
    assert_eq!(
        (&shown["view"]["state"]["boot"], &shown["view"]["reported"]["config"]["agent"]["commit_s"]),
        (&json!(2), &json!(3))
    );
}
