//! The link to the fleet against a real mosquitto: presence, and commands that are refused or carried out.
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use fleet_protocol::envelope::{Envelope, Kind};
use hone_tests::broker::{Broker, Peer};
use hone_tests::fleet::{Console, DEVICE, Site, ended, joined, key, now, online, send, signed, up};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::{Value, json};
use ulid::Ulid;

#[test]
fn presence_is_right_after_a_kill_a_return_and_an_orderly_end() {
    let Some(broker) = Broker::start("") else { return };
    let peer = Peer::new(broker.port);
    let device = joined(broker.port, "");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let first = until("online", || online(&peer));
    assert_eq!(first["boot"], 1);
    for topic in ["birth", "reported", "model/main", "drift/main"] {
        until(topic, || peer.last(&up(topic)));
    }
    assert_eq!(peer.last(&up("model/main")).expect("just seen")["champion"]["digest"], agent.champion());
    let killed = Instant::now();
    agent.kill();
    let offline = until("offline", || peer.last(&up("state")).filter(|state| state["state"] == "offline"));
    assert!(killed.elapsed() < Duration::from_secs(5) && offline["session"] == first["session"]);
    let agent = device.start(None);
    let second = until("online again", || online(&peer));
    assert!(second["boot"] == 2 && second["session"] != first["session"]);
    assert!(agent.terminate().success());
    let offline = until("offline", || peer.last(&up("state")).filter(|state| state["state"] == "offline"));
    assert_eq!(offline["session"], second["session"]);
    let late = Peer::new(broker.port);
    let state = until("the state is retained", || late.last(&up("state")));
    assert_eq!(state, offline);
}

#[test]
fn every_bad_command_is_refused_with_its_reason_and_has_no_effect() {
    let Some(Site { agent, peer, .. }) = &Site::start("") else { return };
    agent.live(&mut World::new(7), Law::Old, 500);
    let wish = json!({"cmd": "drift.rebaseline", "args": {"slot": "main"}});
    let reports = || agent.reports("rebaseline").len();

    let good = signed(1, DEVICE, 10, 600, &wish);
    let id = send(peer, good.clone());
    assert_eq!(ended(peer, id)["status"], "successful");
    assert_eq!(reports(), 1);
    // The same again is answered, not repeated.
    let heard = || peer.came().iter().filter(|came| came.topic.ends_with(&format!("up/cmd/{id}"))).count();
    let before = heard();
    send(peer, good.clone());
    until("a redelivery is answered", || (heard() > before).then_some(()));
    assert_eq!((ended(peer, id)["status"].clone(), reports()), (json!("successful"), 1));

    let refused = |message: (Ulid, Vec<u8>), code: &str| {
        let id = send(peer, message);
        let status = ended(peer, id);
        assert_eq!((&status["status"], &status["reason_code"]), (&json!("failed"), &json!(code)), "{status}");
        assert!(status["reason"].as_str().is_some_and(|reason| !reason.is_empty()));
    };
    refused(signed(1, DEVICE, 10, 600, &wish), "replayed");
    refused(signed(1, DEVICE, 9, 600, &wish), "replayed");
    refused(signed(1, DEVICE, 11, -1, &wish), "expired");
    refused(signed(1, "press-08", 11, 600, &wish), "not_authorized");
    refused(signed(2, DEVICE, 11, 600, &wish), "not_authorized");
    refused(signed(3, DEVICE, 11, 600, &wish), "rejected_signature");
    // Under another id.
    refused((Ulid::generate(), signed(1, DEVICE, 11, 600, &wish).1), "not_authorized");
    // Not signed at all, changed on its way, signed as something else, no envelope, too large.
    let order: Value = json!({"v": 1, "id": Ulid::generate(), "dev": DEVICE, "cmd": "drift.rebaseline"});
    refused((Ulid::generate(), order.to_string().into_bytes()), "rejected_signature");
    let (id, envelope) = signed(1, DEVICE, 11, 600, &wish);
    let mut changed: Value = serde_json::from_slice(&envelope).expect("an envelope");
    let other: Value = serde_json::from_slice(&signed(1, DEVICE, 12, 600, &wish).1).expect("an envelope");
    changed["payload"] = other["payload"].clone();
    refused((id, changed.to_string().into_bytes()), "rejected_signature");
    let desired = Envelope::sign(Kind::Desired, b"{}", &[&key(1)]).to_json();
    refused((Ulid::generate(), desired), "rejected_signature");
    refused((Ulid::generate(), Envelope::sign(Kind::Command, b"{}", &[&key(1)]).to_json()), "unsupported");
    refused((Ulid::generate(), b"\xff\x00 nothing".to_vec()), "rejected_signature");
    refused((Ulid::generate(), vec![b'x'; 250_000]), "rejected_signature");
    // Nothing is tried: there is nothing to hold.
    refused(signed(1, DEVICE, 11, 600, &json!({"cmd": "canary.hold", "args": {"slot": "main"}})), "refused");
    let purge = json!({"cmd": "data.purge", "args": {"since": 1, "until": 2}});
    refused(signed(1, DEVICE, 12, 600, &purge), "not_authorized");
    assert_eq!(reports(), 1, "no effect");
    let turned_away = until("a refused signature is told", || agent.reports("sig_rejected").pop());
    assert!(turned_away["topic"].as_str().is_some_and(|topic| topic.contains("/down/cmd/")));
    assert_eq!(agent.reports("sig_rejected").len(), 1, "a stranger does not fill the outbox");
    // A stranger's message under the name of a known command does not hide how that stands.
    let before = heard();
    send(peer, (good.0, signed(3, DEVICE, 99, 600, &wish).1));
    until("it is answered", || (heard() > before).then_some(()));
    assert_eq!(ended(peer, good.0)["status"], "successful");
    // And the link is none the worse for it.
    let id = send(peer, signed(1, DEVICE, 20, 600, &wish));
    assert_eq!((ended(peer, id)["status"].clone(), reports()), (json!("successful"), 2));
}

#[test]
fn commands_are_carried_out_once_with_their_result_also_over_a_restart() {
    let Some(mut site) = Site::start("[cycle]\npolicy = \"static\"\n") else { return };
    let Site { agent, peer, .. } = &site;
    let birth = until("birth", || peer.last(&up("birth")));
    let able: Vec<String> = serde_json::from_value(birth["commands"].clone()).expect("names");
    assert!(able.contains(&"labels.push".to_owned()) && !able.contains(&"log.level".to_owned()), "{able:?}");

    let selftest = send(peer, signed(1, DEVICE, 1, 600, &json!({"cmd": "agent.selftest", "args": {}})));
    let status = ended(peer, selftest);
    assert_eq!(
        (&status["status"], &status["result"]["control"]["state"]),
        (&json!("successful"), &json!("ok")),
        "{status}"
    );

    // Labels from elsewhere, one of them for a record that never was.
    let mut world = World::new(3);
    let rows: String = (0..40).map(|_| world::sample(world.row(Law::Old).0)).collect();
    let ids: Vec<_> =
        agent.socket("POST", "/v1/samples", &rows).lines().into_iter().map(|line| line["record_id"].clone()).collect();
    let label = |id: &Value| json!({"record_id": id, "label": "high", "source": "laboratory", "ts": now()});
    let mut labels: Vec<_> = ids.iter().map(label).collect();
    labels.push(label(&json!(Ulid::generate())));
    let push = json!({"cmd": "labels.push", "args": {"labels": labels}});
    let status = ended(peer, send(peer, signed(1, DEVICE, 2, 600, &push)));
    assert_eq!(status["result"], json!({"accepted": 40, "repeated": 0, "unknown": 1}), "{status}");
    let status = ended(peer, send(peer, signed(1, DEVICE, 3, 600, &push)));
    assert_eq!(status["result"], json!({"accepted": 0, "repeated": 40, "unknown": 1}), "{status}");

    let back = json!({"cmd": "model.rollback", "args": {"slot": "main", "reason": "a test"}});
    let status = ended(peer, send(peer, signed(1, DEVICE, 4, 600, &back)));
    assert_eq!((&status["status"], &status["reason_code"]), (&json!("failed"), &json!("refused")), "{status}");

    // A retrain goes on over a kill, and ends as one run.
    agent.live(&mut World::new(7), Law::New, 400);
    until("the loop is idle", || agent.status()["work"].is_null().then_some(()));
    let start = json!({"cmd": "retrain.start", "args": {"slot": "main", "reason": "a test"}});
    let id = send(peer, signed(1, DEVICE, 5, 600, &start));
    until("it executes", || peer.last(&up(&format!("cmd/{id}"))));
    site.kill();
    let Site { agent, peer, .. } = &site;
    let status = ended(peer, id);
    assert!(status["status"] == "successful" || status["reason_code"] == "gate_failed", "{status}");
    let ordered = agent.reports("retrain");
    let runs: BTreeSet<_> = ordered.iter().map(|report| report["order"]["run"].to_string()).collect();
    assert_eq!(runs.len(), 1, "{ordered:?}");
}

#[test]
fn a_person_lists_the_fleet_signs_offline_sends_and_reads_the_end() {
    let Some(broker) = Broker::start("") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let console = Console::new(folder.path(), &["--broker", &url]);
    let fleet = |arguments: &[&str]| console.ask(arguments);
    let json = |arguments: &[&str]| console.json(arguments);
    // Builds the binaries.
    let device = joined(broker.port, "");
    let model = world::train(device.path(), "base", 1, false);
    assert_eq!(json(&["devices"])["devices"], json!([]));
    let key = json(&["keygen", "ada.key"]);
    assert_eq!(fleet(&["keygen", "ada.key"]).0, Some(7), "a key is never overwritten");
    let trust = format!("[mqtt]\ntrust = [{{ public = {}, roles = [\"operator\"] }}]\n", key["public"]);
    fs::write(device.path().join("conf.d/zz.toml"), trust).expect("a temporary folder can be written");
    let agent = device.start(Some(&model));
    let champion = agent.champion();
    let listed = until("the device is listed", || {
        let devices = json(&["devices"])["devices"].clone();
        (devices[0]["phase"] == "steady").then(|| devices[0].clone())
    });
    assert_eq!((&listed["device"], &listed["presence"]), (&json!(DEVICE), &json!("online")));
    assert_eq!(listed["champion"]["digest"], champion);
    let (code, out, _) = fleet(&["show", DEVICE]);
    assert!(code == Some(0) && out.contains("online") && out.contains(&champion[..8]), "{out}");
    assert_eq!(fleet(&["show", "press-99"]).0, Some(4));

    let sign = ["sign", "--key", "ada.key", "--device", DEVICE, "-o", "test.dsse", "agent.selftest"];
    assert_eq!(fleet(&sign).0, Some(0));
    let status = json(&["send", "--envelope", "test.dsse"]);
    assert_eq!((&status["cmd"], &status["status"]), (&json!("agent.selftest"), &json!("successful")));
    let send = ["send", "--key", "ada.key", "--device", DEVICE, "model.rollback", "reason=a test"];
    let (code, out, _) = fleet(&send);
    assert!(code == Some(9) && out.contains("failed refused"), "{out}");
    assert_eq!(fleet(&["sign", "--key", "ada.key", "--device", DEVICE, "dance"]).0, Some(4));
    let (_, out, _) = device.ask(&["status"]);
    assert!(out.contains("online as press-07"), "{out}");
}
