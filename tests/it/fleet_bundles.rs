//! Bundles and records over MQTT, and waves of devices: what is lost on the way is asked for again, what loses stops.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use fleet_protocol::CHUNK_BYTES_MAX;
use fleet_protocol::data::Batch;
use hone_tests::broker::{Broker, Peer};
use hone_tests::fleet::{Console, DEVICE, Site, ended, named, now, public, send, signed, up, vouched};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::{Value, json};

/// A bundle of several chunks: a model with a wide layer.
fn wide(folder: &Path) -> (Vec<u8>, String) {
    let path = world::train_with(folder, "wide", 2, false, &["--arch", &arch(folder)]);
    let bytes = fs::read(path).expect("a bundle");
    assert!(bytes.len() > 2 * CHUNK_BYTES_MAX, "{} bytes", bytes.len());
    let digest = fleet_protocol::names::Digest::of(&bytes).to_string();
    (bytes, digest)
}

fn arch(folder: &Path) -> String {
    let path = folder.join("arch.toml");
    let text = "cut = 2\n\n[[layers]]\ntype = \"linear\"\noutputs = 256\n\n[[layers]]\ntype = \"relu\"\n\n[[layers]]\ntype = \"linear\"\noutputs = 256\n\n\
                [[layers]]\ntype = \"relu\"\n";
    fs::write(&path, text).expect("a temporary folder");
    path.display().to_string()
}

fn install(digest: &str, bytes: usize) -> Value {
    let chunks = bytes.div_ceil(CHUNK_BYTES_MAX);
    json!({"cmd": "model.install", "args": {"slot": "main", "digest": digest, "size_bytes": bytes, "chunks": chunks}})
}

fn want(peer: &Peer, id: ulid::Ulid) -> Value {
    peer.last(&up(&format!("cmd/{id}"))).unwrap_or_default()["transfer"]["want"].clone()
}

#[test]
fn a_bundle_comes_in_pieces_over_losses_and_a_restart_and_only_if_it_is_what_was_signed() {
    let Some(mut site) = Site::start("") else { return };
    let Site { device, peer, .. } = &site;
    let (bytes, digest) = wide(device.path());
    let pieces: Vec<_> = bytes.chunks(CHUNK_BYTES_MAX).collect();
    let tell = |index: usize, piece: &[u8]| peer.tell(&format!("d/{DEVICE}/down/blob/{digest}/{index}"), piece);
    // Pieces nobody asked for are not stored.
    tell(0, pieces[0]);
    let id = send(peer, signed(1, DEVICE, 1, 600, &install(&digest, bytes.len())));
    let last = pieces.len() - 1;
    until("everything is wanted", || (want(peer, id) == json!([[0, last + 1]])).then_some(()));
    // One at a time: a second one does not take its place.
    let second = send(peer, signed(1, DEVICE, 2, 600, &install(&"cd".repeat(32), 5)));
    assert_eq!(ended(peer, second)["reason_code"], "busy");
    // One of the wrong length, one of another bundle, one that comes twice; then the agent dies.
    tell(1, &pieces[1][1..]);
    peer.tell(&format!("d/{DEVICE}/down/blob/{}/1", "0".repeat(64)), pieces[1]);
    tell(1, pieces[1]);
    tell(1, pieces[1]);
    until("the gap is told", || (want(peer, id)[0] == json!([0, 0])).then_some(()));
    site.kill();
    let Site { agent, peer, .. } = &site;
    let tell = |index: usize, piece: &[u8]| peer.tell(&format!("d/{DEVICE}/down/blob/{digest}/{index}"), piece);
    (0..=last).filter(|index| *index != 1).for_each(|index| tell(index, pieces[index]));
    until("its signature is wanted", || (want(peer, id) == json!([[last + 1, last + 1]])).then_some(()));
    tell(last + 1, &vouched(1, "operator", &digest, 1));
    let status = ended(peer, id);
    assert_eq!((&status["status"], &status["result"]["digest"]), (&json!("successful"), &json!(digest)), "{status}");
    // It serves nobody yet; the gate decides.
    assert_ne!(agent.champion(), digest);
    let state = agent.state_dir().to_owned();
    assert_eq!(fs::read_dir(state.join("fleet/incoming")).expect("a folder").count(), 0, "no piece is left");

    // Without its signature nothing of it is taken, whatever became of that.
    let envelope = state.join(format!("fleet/installed/{digest}.dsse"));
    fs::rename(&envelope, state.join("aside")).expect("it came with its signature");
    let promote = |digest: &str| json!({"cmd": "model.promote", "args": {"slot": "main", "digest": digest}});
    let status = ended(peer, send(peer, signed(1, DEVICE, 3, 600, &promote(&digest))));
    assert_eq!(status["reason_code"], "unsigned", "{status}");
    fs::rename(state.join("aside"), &envelope).expect("the same folder");

    // Other bytes under a signed name.
    let other = "ab".repeat(32);
    let id = send(peer, signed(1, DEVICE, 4, 600, &install(&other, 5)));
    until("it is wanted", || (want(peer, id) == json!([[0, 1]])).then_some(()));
    peer.tell(&format!("d/{DEVICE}/down/blob/{other}/1"), vouched(1, "operator", &other, 2));
    peer.tell(&format!("d/{DEVICE}/down/blob/{other}/0"), b"hello".to_vec());
    assert_eq!(ended(peer, id)["reason_code"], "digest");
    // More than the disk is for, and something that is no model.
    let huge = install(&other, 1 << 30);
    assert_eq!(ended(peer, send(peer, signed(1, DEVICE, 5, 600, &huge)))["reason_code"], "budget_storage");
    let text = fleet_protocol::names::Digest::of(b"hello").to_string();
    let id = send(peer, signed(1, DEVICE, 6, 600, &install(&text, 5)));
    until("it is wanted", || (want(peer, id) == json!([[0, 1]])).then_some(()));
    peer.tell(&format!("d/{DEVICE}/down/blob/{text}/1"), vouched(1, "operator", &text, 2));
    peer.tell(&format!("d/{DEVICE}/down/blob/{text}/0"), b"hello".to_vec());
    assert_eq!(ended(peer, id)["reason_code"], "bundle");
    let promote = json!({"cmd": "model.promote", "args": {"slot": "main", "digest": text}});
    assert_eq!(ended(peer, send(peer, signed(1, DEVICE, 7, 600, &promote)))["reason_code"], "unknown_model");
}

/// Orders a bundle, sends it with this signature, and returns how that ended.
fn bring(site: &Site, bytes: &[u8], signature: &[u8]) -> Value {
    let digest = fleet_protocol::names::Digest::of(bytes).to_string();
    let (peer, last) = (&site.peer, bytes.len().div_ceil(CHUNK_BYTES_MAX));
    let id = site.order(1, &install(&digest, bytes.len()));
    until("it is wanted", || (want(peer, id)[0][1] == json!(last)).then_some(()));
    for (index, piece) in bytes.chunks(CHUNK_BYTES_MAX).chain([signature]).enumerate() {
        peer.tell(&format!("d/{DEVICE}/down/blob/{digest}/{index}"), piece);
    }
    ended(peer, id)
}

#[test]
fn a_bundle_over_the_network_is_signed_by_somebody_who_may_and_keeps_to_what_the_vendor_allows() {
    // Key 6 is the vendor's.
    let vendor = format!("\n[models]\nvendor_keys = [\"{}\"]\n", public(6));
    let Some(mut site) = Site::start_with(&vendor, "[cycle]\npolicy = \"static\"\n", |device| {
        let base = world::train(device.path(), "base", 1, false);
        let digest = fleet_protocol::names::Digest::of(&fs::read(&base).expect("a bundle")).to_string();
        fs::write(base.with_extension("dsse"), vouched(6, "vendor", &digest, 1)).expect("a temporary folder");
    }) else {
        return;
    };
    site.agent.live(&mut World::new(7), Law::Old, 300);
    let trained =
        |seed| fs::read(world::train(site.device.path(), &format!("m{seed}"), seed, false)).expect("a bundle");
    let (first, second) = (trained(2), trained(3));
    let name = |bytes: &[u8]| fleet_protocol::names::Digest::of(bytes).to_string();
    let (digest, other) = (name(&first), name(&second));
    // The order is the operator's and good each time; the signature of the bundle is not.
    let code = |site: &Site, signature: Vec<u8>| bring(site, &first, &signature)["reason_code"].clone();
    assert_eq!(code(&site, b"none".to_vec()), "rejected_signature");
    assert_eq!(code(&site, vouched(3, "vendor", &digest, 2)), "rejected_signature", "a stranger");
    assert_eq!(code(&site, vouched(1, "vendor", &digest, 2)), "rejected_signature", "an operator is no vendor");
    assert_eq!(code(&site, vouched(6, "vendor", &other, 2)), "other_bundle");
    assert_eq!(code(&site, vouched(1, "operator", &digest, 2)), "no_ancestor", "not made from the vendor's");
    let promote = |digest: &str| json!({"cmd": "model.promote", "args": {"slot": "main", "digest": digest}});
    let status = ended(&site.peer, site.order(1, &promote(&digest)));
    assert_eq!(status["reason_code"], "unknown_model", "nothing of it was kept: {status}");
    // The vendor's is taken, judged, and its number is used up.
    assert_eq!(bring(&site, &first, &vouched(6, "vendor", &digest, 5))["status"], "successful");
    let judged = ended(&site.peer, site.order(1, &promote(&digest)));
    assert!(judged["status"] == "successful" || judged["reason_code"] == "gate_failed", "{judged}");
    assert_eq!(bring(&site, &second, &vouched(6, "vendor", &other, 4))["status"], "successful");
    let older = ended(&site.peer, site.order(1, &promote(&other)));
    assert_eq!(older["reason_code"], "older_sequence", "{older}");
    // A vendor's key that is revoked opens no door any more, and what serves goes on serving.
    let keyid = fleet_protocol::keys::KeyId::of(&hone_tests::fleet::key(6).verifying_key());
    site.notify(4, "all", 9, fleet_protocol::order::NoticeBody::RevokeKey { keyid });
    until("it is told as revoked", || site.agent.reports("key_revoked").pop());
    assert_eq!(bring(&site, &second, &vouched(6, "vendor", &other, 9))["reason_code"], "rejected_signature");
    let champion = site.agent.champion();
    site.kill();
    assert_eq!(site.agent.champion(), champion);
    assert_eq!(bring(&site, &second, &vouched(6, "vendor", &other, 9))["reason_code"], "rejected_signature");
}

#[test]
fn commands_whose_machine_is_not_there_say_so_and_records_leave_in_batches() {
    let Some(Site { agent, peer, .. }) = &Site::start("") else { return };
    let digest = agent.champion();
    let mut counter = 0;
    let mut code = |seed, command: Value| {
        counter += 1;
        ended(peer, send(peer, signed(seed, DEVICE, counter, 600, &command)))["reason_code"].clone()
    };
    for name in ["model.approve", "canary.hold", "canary.abort", "model.reject"] {
        let mut args = json!({"slot": "main"});
        if name.starts_with("model") {
            args["digest"] = json!(digest);
        }
        if ["model.reject", "canary.abort"].contains(&name) {
            args["reason"] = json!("a test");
        }
        let answer = code(1, json!({"cmd": name, "args": args}));
        assert!(answer.as_str().is_some_and(|code| !code.is_empty()), "{name}: {answer}");
    }
    assert_eq!(code(1, json!({"cmd": "retrain.cancel", "args": {"slot": "main"}})), "refused");
    assert_eq!(code(4, json!({"cmd": "log.level", "args": {"level": "debug", "for_s": 9}})), "unsupported");

    // 450 rows, of which the command wants the newest 300.
    let begun = now();
    agent.live(&mut World::new(7), Law::Old, 450);
    let export = json!({"cmd": "data.export", "args": {"stream": "audit", "since": begun, "until": now() + 1_000_000, "rows_max": 300}});
    let status = ended(peer, send(peer, signed(4, DEVICE, 100, 600, &export)));
    assert_eq!((&status["status"], &status["result"]["rows"]), (&json!("successful"), &json!(300)), "{status}");
    let batches = || -> Vec<Batch> {
        let came = peer.came().into_iter().filter(|came| came.topic.ends_with("up/data/audit"));
        came.map(|came| Batch::from_cbor(&came.bytes).expect("a batch")).collect()
    };
    let batches = until("all batches", || {
        Some(batches()).filter(|batches| batches.iter().map(|batch| batch.rows.len()).sum::<usize>() == 300)
    });
    let ids: BTreeSet<_> = batches.iter().flat_map(|batch| batch.rows.iter().map(|row| row.id)).collect();
    assert!(
        ids.len() == 300 && batches.iter().all(|batch| batch.from <= batch.to && batch.rows[0].features.len() == 3)
    );
    assert_eq!(ended(peer, send(peer, signed(1, DEVICE, 99, 600, &export)))["reason_code"], "not_authorized");
}

#[test]
fn a_wave_begins_with_the_canary_device_and_a_model_that_loses_there_goes_no_further() {
    let Some(broker) = Broker::start("") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    let _ = hone_tests::hone();
    let console = Console::new(folder.path(), &["--broker", &url]);
    let trust = format!("[mqtt]\ntrust = [{{ public = \"{}\", roles = [\"operator\"] }}]\n", console.keygen("ada.key"));
    let machines: Vec<_> = ["press-1", "press-2", "press-3"].map(|name| named(name, broker.port, "")).into();
    // A base that has learned the opposite, so that the right model wins at the gate of each device.
    let base = world::train(folder.path(), "flipped", 1, true);
    let mut agents = Vec::new();
    for machine in &machines {
        fs::write(machine.path().join("conf.d/zz.toml"), format!("{trust}\n[cycle]\npolicy = \"static\"\n"))
            .expect("a temporary folder");
        let agent = machine.start(Some(&base));
        agent.live(&mut World::new(7), Law::Old, 300);
        agents.push(agent);
    }
    until("all are online", || {
        let devices = console.json(&["devices"]);
        let list = devices["devices"].as_array()?;
        (list.len() == 3 && list.iter().all(|device| device["phase"] == "steady" && device["presence"] == "online"))
            .then_some(())
    });
    let right = world::train(folder.path(), "right", 3, false).display().to_string();
    let wrong = world::train(folder.path(), "wrong", 4, true).display().to_string();
    let start = |id, bundle| {
        [
            "rollout",
            "start",
            id,
            bundle,
            "--key",
            "ada.key",
            "--canary",
            "press-2",
            "--group",
            "hall-3",
            "--prove",
            "2s",
            "--deadline",
            "2m",
            "--win",
            "1",
        ]
    };
    // The preview sends nothing.
    let preview = console.json(&[&start("first", &right)[..], &["--preview"]].concat());
    assert_eq!(preview["waves"], json!([["press-2"], ["press-1", "press-3"]]));
    assert_eq!(console.ask(&["rollout", "show", "first"]).0, Some(4));
    // It is killed in the middle and goes on from what the broker retains.
    let mut runner = console
        .process(&start("first", &right))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    until("the canary device has it", || {
        let (_, out, _) = console.ask(&["rollout", "show", "first", "--json"]);
        let shown: Value = serde_json::from_str(&out).ok()?;
        (shown["devices"]["press-2"]["standing"]["standing"] != "waiting").then_some(())
    });
    runner.kill().expect("a child of ours");
    let _ = runner.wait();
    let (code, out, err) = console.ask(&["rollout", "run", "first", &right, "--json"]);
    let shown: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    assert_eq!((code, &shown["state"]["state"]), (Some(0), &json!("finished")), "{out}{err}");
    let digest = fleet_protocol::names::Digest::of(&fs::read(&right).expect("a bundle")).to_string();
    assert!(agents.iter().all(|agent| agent.champion() == digest));
    // The wrong one loses at the gate of the canary device, once that has seen enough to judge: the others never hear of it.
    agents[1].live(&mut World::new(8), Law::Old, 300);
    let (code, out, _) = console.ask(&[&start("second", &wrong)[..], &["--json"]].concat());
    let shown: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &shown["state"]["state"]), (Some(9), &json!("stopped")), "{out}");
    let standing = |device: &str| shown["devices"][device]["standing"]["standing"].clone();
    assert_eq!((standing("press-2"), standing("press-1")), (json!("failed"), json!("waiting")));
    let reason = shown["devices"]["press-2"]["standing"]["reason"].as_str().expect("a reason");
    assert!(reason.contains("gate_failed"), "{reason}");
    assert!(agents.iter().all(|agent| agent.champion() == digest));
    let commands = console.json(&["show", "press-1"])["view"]["commands"].as_object().expect("commands").len();
    assert_eq!(commands, 2, "install and promote of the first one, nothing of the second");
}
