//! The link to the fleet against a real mosquitto: faults, presence, and commands that are refused or carried out.
use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use fleet_protocol::command::Command;
use fleet_protocol::envelope::{Envelope, Kind, Payload as _};
use fleet_protocol::names::{DeviceId, Micros};
use fleet_protocol::order::Order;
use hone_tests::agent::{Agent, Device};
use hone_tests::broker::{Broker, Peer, Wire};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::{Value, json};
use ulid::Ulid;

const DEVICE: &str = "press-07";

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// Operator is key 1, observer key 2; key 3 is nobody.
fn joined(port: u16, more: &str) -> Device {
    let device = Device::new();
    let public = |seed| STANDARD.encode(key(seed).verifying_key().as_bytes());
    let text = format!(
        "[mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\ndevice = \"{DEVICE}\"\nwill_delay_s = 0\nretry_max_s = 2\nreport_s = 1\n\
         trust = [{{ public = \"{}\", roles = [\"operator\"] }}, {{ public = \"{}\", roles = [\"observer\"] }}]\n{more}",
        public(1),
        public(2)
    );
    fs::create_dir(device.path().join("conf.d")).expect("a temporary folder can be written");
    fs::write(device.path().join("conf.d/fleet.toml"), text).expect("a temporary folder can be written");
    device
}

fn up(topic: &str) -> String {
    format!("d/{DEVICE}/up/{topic}")
}

fn online(peer: &Peer) -> Option<Value> {
    peer.last(&up("state")).filter(|state| state["state"] == "online")
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("not yet")
}

/// Ids of all stored reports, in the order of their commits.
fn stored(agent: &Agent) -> Vec<String> {
    let reports = agent.socket("GET", "/v1/reports?limit=1000", "").json();
    let mut ids: Vec<_> = reports["reports"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|report| report["id"].as_str().expect("an id").to_owned())
        .collect();
    ids.reverse();
    ids
}

/// Ids of all events that came, each where it came first.
fn recorded(peer: &Peer) -> Vec<String> {
    let mut known = BTreeSet::new();
    let events = peer.came().into_iter().filter(|came| came.topic.contains("/up/evt/"));
    let ids = events.map(|came| came.payload["id"].as_str().expect("an id").to_owned());
    ids.filter(|id| known.insert(id.clone())).collect()
}

/// Commits one report.
fn report(agent: &Agent) {
    let answer = agent.socket("POST", "/v1/rebaseline", "{}");
    assert_eq!(answer.status, 200, "{}", answer.text);
}

fn faults(count: u32, seed: u64) {
    let Some(mut broker) = Broker::start("") else { return };
    let wire = Wire::to(broker.port);
    let peer = Peer::new(broker.port);
    let device = joined(wire.port, "");
    let mut agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let mut world = World::new(7);
    agent.live(&mut world, Law::Old, 500);
    let mut chance = seed;
    for fault in 0..count {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Now and then before the last fault is healed.
        if chance >> 62 != 0 {
            until("the link is up", || (agent.status()["link"]["state"] == "online").then_some(()));
        }
        for _ in 0..(chance >> 40) % 12 {
            report(&agent);
        }
        match (chance >> 33) % 3 {
            0 => {
                let subscriptions = peer.subscriptions();
                broker.kill();
                report(&agent);
                // The recorder is there first: a broker without memory keeps nothing for a late reader.
                wire.cut();
                broker.restart();
                peer.subscribed(subscriptions + 1);
                wire.mend();
            }
            1 => {
                wire.cut();
                report(&agent);
                wire.mend();
            }
            _ => {
                agent.kill();
                agent = device.start(None);
            }
        }
        eprintln!(
            "fault {fault}: {}",
            ["broker", "wire", "agent"][usize::try_from((chance >> 33) % 3).expect("0 to 2")]
        );
    }
    report(&agent);
    let all = stored(&agent);
    until("every event has come", || (recorded(&peer).len() >= all.len()).then_some(()));
    assert_eq!(recorded(&peer), all, "each once in effect, and in order");
    let waiting = until("the outbox is empty", || {
        let link = agent.status()["link"].clone();
        (link["waiting_reports"] == 0).then_some(link)
    });
    assert_eq!((&waiting["parked_reports"], waiting.get("alarm")), (&json!(0), None));
}

#[test]
fn whatever_dies_every_event_arrives_once_in_effect_and_in_order() {
    faults(10, 1);
}

#[test]
#[ignore = "long: 50 faults of the broker, five minutes; run by .ci/nightly"]
fn fifty_faults_lose_nothing() {
    faults(50, 2);
}

#[test]
fn a_broker_that_loses_everything_while_frozen_gets_it_all_again() {
    let Some(mut broker) = Broker::start("") else { return };
    let wire = Wire::to(broker.port);
    let peer = Peer::new(broker.port);
    let device = joined(wire.port, "keep_alive_s = 5\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    agent.live(&mut World::new(7), Law::Old, 500);
    until("the link is up", || online(&peer));
    broker.signal("STOP");
    (0..100).for_each(|_| report(&agent));
    let subscriptions = peer.subscriptions();
    wire.cut();
    broker.kill();
    broker.restart();
    peer.subscribed(subscriptions + 1);
    wire.mend();
    let all = stored(&agent);
    assert!(all.len() > 100);
    until("every event has come", || (recorded(&peer).len() >= all.len()).then_some(()));
    assert_eq!(recorded(&peer), all);
    until("the outbox is empty", || (agent.status()["link"]["waiting_reports"] == 0).then_some(()));
}

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

/// An order for `device`, signed by the key of `seed`.
fn signed(seed: u8, device: &str, counter: u64, expires_s: i64, command: &Value) -> (Ulid, Vec<u8>) {
    let id = Ulid::generate();
    let device: DeviceId = device.parse().expect("a device id");
    let command: Command = serde_json::from_value(command.clone()).expect("a command");
    let order = Order::new(id, device, Micros(now()), Micros(now() + expires_s * 1_000_000), counter, &command);
    (id, order.sign(&[&key(seed)]).to_json())
}

fn send(peer: &Peer, (id, payload): (Ulid, Vec<u8>)) -> Ulid {
    peer.publish(&format!("d/{DEVICE}/down/cmd/{id}"), payload);
    id
}

fn ended(peer: &Peer, id: Ulid) -> Value {
    let done = |status: &Value| status["status"] == "successful" || status["status"] == "failed";
    until("the command has ended", || peer.last(&up(&format!("cmd/{id}"))).filter(done))
}

#[test]
fn every_bad_command_is_refused_with_its_reason_and_has_no_effect() {
    let Some(broker) = Broker::start("") else { return };
    let peer = Peer::new(broker.port);
    let device = joined(broker.port, "");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    agent.live(&mut World::new(7), Law::Old, 500);
    until("the link is up", || online(&peer));
    let wish = json!({"cmd": "drift.rebaseline", "args": {"slot": "main"}});
    let reports = || agent.reports("rebaseline").len();

    let good = signed(1, DEVICE, 10, 600, &wish);
    let id = send(&peer, good.clone());
    assert_eq!(ended(&peer, id)["status"], "successful");
    assert_eq!(reports(), 1);
    // The same again is answered, not repeated.
    let heard = || peer.came().iter().filter(|came| came.topic.ends_with(&format!("up/cmd/{id}"))).count();
    let before = heard();
    send(&peer, good.clone());
    until("a redelivery is answered", || (heard() > before).then_some(()));
    assert_eq!((ended(&peer, id)["status"].clone(), reports()), (json!("successful"), 1));

    let refused = |message: (Ulid, Vec<u8>), code: &str| {
        let id = send(&peer, message);
        let status = ended(&peer, id);
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
    refused(signed(1, DEVICE, 11, 600, &json!({"cmd": "canary.hold", "args": {"slot": "main"}})), "unsupported");
    let purge = json!({"cmd": "data.purge", "args": {"since": 1, "until": 2}});
    refused(signed(1, DEVICE, 12, 600, &purge), "not_authorized");
    assert_eq!(reports(), 1, "no effect");
    let turned_away = until("a refused signature is told", || agent.reports("sig_rejected").pop());
    assert!(turned_away["topic"].as_str().is_some_and(|topic| topic.contains("/down/cmd/")));
    // And the link is none the worse for it.
    let id = send(&peer, signed(1, DEVICE, 20, 600, &wish));
    assert_eq!((ended(&peer, id)["status"].clone(), reports()), (json!("successful"), 2));
}

#[test]
fn commands_are_carried_out_once_with_their_result_also_over_a_restart() {
    let Some(broker) = Broker::start("") else { return };
    let peer = Peer::new(broker.port);
    let device = joined(broker.port, "[cycle]\npolicy = \"static\"\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    until("the link is up", || online(&peer));
    let birth = until("birth", || peer.last(&up("birth")));
    let able: Vec<String> = serde_json::from_value(birth["commands"].clone()).expect("names");
    assert!(able.contains(&"labels.push".to_owned()) && !able.contains(&"data.purge".to_owned()), "{able:?}");

    let selftest = send(&peer, signed(1, DEVICE, 1, 600, &json!({"cmd": "agent.selftest", "args": {}})));
    let status = ended(&peer, selftest);
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
    let status = ended(&peer, send(&peer, signed(1, DEVICE, 2, 600, &push)));
    assert_eq!(status["result"], json!({"accepted": 40, "repeated": 0, "unknown": 1}), "{status}");
    let status = ended(&peer, send(&peer, signed(1, DEVICE, 3, 600, &push)));
    assert_eq!(status["result"], json!({"accepted": 0, "repeated": 40, "unknown": 1}), "{status}");

    let back = json!({"cmd": "model.rollback", "args": {"slot": "main", "reason": "a test"}});
    let status = ended(&peer, send(&peer, signed(1, DEVICE, 4, 600, &back)));
    assert_eq!((&status["status"], &status["reason_code"]), (&json!("failed"), &json!("refused")), "{status}");

    // A retrain goes on over a kill, and ends as one run.
    agent.live(&mut World::new(7), Law::New, 400);
    until("the loop is idle", || agent.status()["work"].is_null().then_some(()));
    let start = json!({"cmd": "retrain.start", "args": {"slot": "main", "reason": "a test"}});
    let id = send(&peer, signed(1, DEVICE, 5, 600, &start));
    until("it executes", || peer.last(&up(&format!("cmd/{id}"))));
    agent.kill();
    let agent = device.start(None);
    let status = ended(&peer, id);
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
    let fleet = |arguments: &[&str]| {
        let mut command = std::process::Command::new(hone_tests::hone_fleet());
        let output = command.current_dir(folder.path()).args(["--broker", &url]).args(arguments).output();
        let output = output.expect("hone-fleet can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let json = |(code, out, err): (Option<i32>, String, String)| {
        assert_eq!(code, Some(0), "{err}");
        serde_json::from_str::<Value>(&out).unwrap_or_else(|error| panic!("{error} in {out}"))
    };
    // Builds the binaries.
    let device = joined(broker.port, "");
    let model = world::train(device.path(), "base", 1, false);
    assert_eq!(json(fleet(&["devices", "--json"]))["devices"], json!([]));
    let key = json(fleet(&["keygen", "ada.key", "--json"]));
    assert_eq!(fleet(&["keygen", "ada.key"]).0, Some(7), "a key is never overwritten");
    let trust = format!("[mqtt]\ntrust = [{{ public = {}, roles = [\"operator\"] }}]\n", key["public"]);
    fs::write(device.path().join("conf.d/zz.toml"), trust).expect("a temporary folder can be written");
    let agent = device.start(Some(&model));
    let champion = agent.champion();
    let listed = until("the device is listed", || {
        let devices = json(fleet(&["devices", "--json"]))["devices"].clone();
        (devices[0]["phase"] == "steady").then(|| devices[0].clone())
    });
    assert_eq!((&listed["device"], &listed["presence"]), (&json!(DEVICE), &json!("online")));
    assert_eq!(listed["champion"]["digest"], champion);
    let (code, out, _) = fleet(&["show", DEVICE]);
    assert!(code == Some(0) && out.contains("online") && out.contains(&champion[..8]), "{out}");
    assert_eq!(fleet(&["show", "press-99"]).0, Some(8));

    let sign = ["sign", "--key", "ada.key", "--device", DEVICE, "-o", "test.dsse", "agent.selftest"];
    assert_eq!(fleet(&sign).0, Some(0));
    let status = json(fleet(&["send", "--envelope", "test.dsse", "--json"]));
    assert_eq!((&status["cmd"], &status["status"]), (&json!("agent.selftest"), &json!("successful")));
    let send = ["send", "--key", "ada.key", "--device", DEVICE, "model.rollback", "reason=a test"];
    let (code, out, _) = fleet(&send);
    assert!(code == Some(9) && out.contains("failed refused"), "{out}");
    assert_eq!(fleet(&["sign", "--key", "ada.key", "--device", DEVICE, "dance"]).0, Some(4));
    let (_, out, _) = device.ask(&["status"]);
    assert!(out.contains("online as press-07"), "{out}");
}

/// Runs openssl; none, with a word about it, where it is not installed.
fn openssl(folder: &std::path::Path, arguments: &str) -> Option<()> {
    let mut command = std::process::Command::new("openssl");
    let Ok(output) = command.current_dir(folder).args(arguments.split(' ')).output() else {
        eprintln!("SKIPPED: openssl is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(())
}

/// A certificate for `name`, signed by the authority in `folder`.
fn certify(folder: &std::path::Path, name: &str) -> Option<()> {
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req {new} -subj /CN={name} -keyout {name}.key -out {name}.csr"))?;
    fs::write(folder.join("extensions"), format!("subjectAltName=DNS:{name}\n")).expect("a temporary folder");
    openssl(
        folder,
        &format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {name}.pem"
        ),
    )
}

#[test]
fn an_encrypted_link_needs_the_certificate_of_the_device_and_keeps_it_to_its_own_topics() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path();
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    if openssl(path, &format!("req -x509 {new} -subj /CN=authority -days 2 -keyout ca.key -out ca.pem")).is_none() {
        return;
    }
    for name in ["localhost", DEVICE, "stranger"] {
        certify(path, name).expect("openssl was there a moment ago");
    }
    fs::write(
        path.join("acl"),
        "pattern write hone/v1/d/%u/up/#\npattern read hone/v1/d/%u/down/#\nuser ctl\ntopic readwrite #\n",
    )
    .expect("a temporary folder");
    let files = path.display();
    let tls = format!(
        "per_listener_settings false\nlistener PORT 127.0.0.1\ncafile {files}/ca.pem\ncertfile {files}/localhost.pem\n\
         keyfile {files}/localhost.key\ntls_version tlsv1.3\nrequire_certificate true\nuse_identity_as_username true\n\
         acl_file {files}/acl"
    );
    let Some(broker) = Broker::start(&tls) else { return };
    let link = |name: &str| {
        let device = joined(broker.port, "");
        let text = format!(
            "[mqtt]\nbroker = \"mqtts://localhost:{}\"\nca_file = \"{files}/ca.pem\"\n\
             certificate_file = \"{files}/{name}.pem\"\nkey_file = \"{files}/{name}.key\"\n",
            broker.port
        );
        fs::write(device.path().join("conf.d/tls.toml"), text).expect("a temporary folder can be written");
        device
    };
    let device = link(DEVICE);
    let model = world::train(device.path(), "base", 1, false);
    let agent = device.start(Some(&model));
    until("the encrypted link is up and the outbox empty", || {
        let link = agent.status()["link"].clone();
        (link["state"] == "online" && link["delivered"].as_u64() > Some(0)).then_some(())
    });
    // A device with another's name in its settings: the broker knows it by its certificate and takes nothing.
    let other = link("stranger");
    let agent = other.start(Some(&model));
    let alarm = until("the refusal is told", || agent.status()["link"]["alarm"].as_str().map(str::to_owned));
    assert!(alarm.contains("0x87"), "{alarm}");
    let link = agent.status()["link"].clone();
    assert_eq!((&link["delivered"], &link["parked_reports"]), (&json!(0), &json!(0)), "nothing is given up");
}
