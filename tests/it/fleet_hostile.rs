//! Nobody on the network can be trusted: garbage that is retained everywhere, a broker that lies, and people who mistype.
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use fleet_protocol::topics::Topic;
use hone_tests::broker::{Broker, Peer};
use hone_tests::fleet::{Console, DEVICE, ended, joined, online, recorded, report, send, signed, stored, up};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::json;
use ulid::Ulid;

/// Every topic that a device reads or that the console reads of it.
fn everywhere() -> Vec<String> {
    let (device, slot) =
        (DEVICE.parse().expect("a device"), "main".parse::<fleet_protocol::names::Name>().expect("a name"));
    let device = || -> fleet_protocol::names::DeviceId { Clone::clone(&device) };
    let name = |text: &str| text.parse().expect("a name");
    let topics = [
        Topic::State { device: device() },
        Topic::Birth { device: device() },
        Topic::Reported { device: device() },
        Topic::Model { device: device(), slot: slot.clone() },
        Topic::Drift { device: device(), slot },
        Topic::Metrics { device: device() },
        Topic::Event { device: device(), kind: name("promoted") },
        Topic::Data { device: device(), stream: name("records") },
        Topic::CommandStatus { device: device(), id: Ulid::from(1) },
        Topic::Command { device: device(), id: Ulid::from(1) },
        Topic::Desired { device: device() },
        Topic::Chunk { device: device(), digest: fleet_protocol::names::Digest::of(b"x"), index: 0 },
        Topic::Notice { group: name("all"), name: name("freeze") },
        Topic::Notice { group: name("hall-3"), name: name("revoke-0000000000000000") },
        Topic::ControllerState { controller: name("ctl1") },
        Topic::Wave { controller: name("ctl1"), id: name("autumn") },
        Topic::WaveWish { controller: name("ctl1"), id: name("autumn") },
    ];
    topics.iter().map(|topic| topic.to_string().trim_start_matches("hone/v1/").to_owned()).collect()
}

#[test]
fn garbage_that_is_retained_on_every_topic_harms_neither_device_nor_console() {
    let Some(broker) = Broker::start("") else { return };
    let peer = Peer::new(broker.port);
    let garbage: [&[u8]; 6] = [
        b"\x00\xff\xfe",
        b"{}",
        b"[[[[[[[[",
        b"{\"payloadType\":\"x\",\"payload\":\"\",\"signatures\":[]}",
        b"null",
        b"1e999",
    ];
    let mut deep = vec![b'['; 60_000];
    deep.extend(vec![b']'; 60_000]);
    for (number, topic) in everywhere().iter().enumerate() {
        peer.publish(topic, garbage[number % garbage.len()].to_vec());
    }
    for topic in [
        "down/desired",
        "down/cmd/not-an-id",
        "down/cmd/01JD4V3Q8N7Y5ZK2M6T9W0XABC",
        "down/nothing/of/ours",
        "up/model/main",
    ] {
        peer.publish(&format!("d/{DEVICE}/{topic}"), deep.clone());
    }
    let device = joined(broker.port, "");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    until("the link is up", || online(&peer));
    let status = ended(&peer, send(&peer, signed(1, DEVICE, 1, 600, &json!({"cmd": "agent.selftest", "args": {}}))));
    assert_eq!(status["status"], "successful", "{status}");
    // What was its own topic is true again.
    until("its model is told over the garbage", || {
        peer.last(&up("model/main")).filter(|model| model["champion"]["digest"] == agent.champion())
    });
    assert!(!device.log().contains("panicked"), "{}", device.log());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let console = Console::new(folder.path(), &["--broker", &format!("mqtt://127.0.0.1:{}", broker.port)]);
    let list = console.json(&["devices"]);
    assert_eq!((&list["devices"][0]["device"], &list["devices"][0]["presence"]), (&json!(DEVICE), &json!("online")));
    assert!(list["strange_messages"].as_u64() > Some(0), "{list}");
    assert_eq!(console.ask(&["show", DEVICE]).0, Some(0));
    let (code, _, error) = console.ask(&["rollout", "show", "autumn"]);
    assert!(code == Some(4) && error.contains("hint:"), "{error}");
}

/// Answers of a broker that lies, each to one connection.
fn lies() -> Vec<Vec<u8>> {
    let fine: &[u8] = &[0x20, 0x03, 0x00, 0x00, 0x00];
    let after = |lie: &[u8]| [fine, lie].concat();
    let publish = |topic: &str, payload: &[u8]| {
        let body =
            [&[0, u8::try_from(topic.len()).expect("short")][..], topic.as_bytes(), &[0, 7, 0], payload].concat();
        [&[0x32, u8::try_from(body.len()).expect("short")][..], &body].concat()
    };
    vec![
        vec![],
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        vec![0x20, 0x03, 0x00, 0x87, 0x00],
        // Acknowledged, what was never sent: an id beyond all, zero, and one after the other.
        after(&[0x40, 0x02, 0x03, 0xe7]),
        after(&[0x40, 0x02, 0xff, 0xff]),
        after(&[0x40, 0x02, 0x00, 0x00]),
        after(&(1..60).flat_map(|id| [0x40, 0x02, 0x00, id]).collect::<Vec<u8>>()),
        // Quality 2, which was never used.
        after(&[0x50, 0x02, 0x00, 0x01]),
        after(&[0x70, 0x02, 0x00, 0x01]),
        after(&[0x62, 0x02, 0xff, 0xff]),
        // A topic by an alias that was never given, an empty one, one of another device, one that is no text.
        after(&[0x30, 0x06, 0x00, 0x00, 0x03, 0x23, 0x00, 0x09]),
        after(&publish("", b"x")),
        after(&publish("hone/v1/d/press-08/down/desired", b"{}")),
        after(&[0x30, 0x05, 0x00, 0x02, 0xff, 0xfe, 0x00]),
        // Lengths that are not there, or too large.
        after(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x7f]),
        after(&[0x30, 0xff, 0xff, 0xff, 0x7f]),
        after(&[0x90, 0x02, 0x00]),
        // A window of nothing, no signs of life wanted, a tiny packet, twice accepted, and thrown out.
        vec![0x20, 0x06, 0x00, 0x00, 0x03, 0x21, 0x00, 0x00],
        vec![0x20, 0x06, 0x00, 0x00, 0x03, 0x13, 0x00, 0x00],
        vec![0x20, 0x08, 0x00, 0x00, 0x05, 0x27, 0x00, 0x00, 0x00, 0x01],
        [fine, fine].concat(),
        after(&[0xe0, 0x01, 0x8e]),
    ]
}

/// A port where each of `lies` is told to one connection; afterwards it leads to `port`.
fn liar(lies: Vec<Vec<u8>>, port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let near = listener.local_addr().expect("a bound port").port();
    thread::spawn(move || {
        let mut lies = lies.into_iter();
        for mut stream in listener.incoming().flatten() {
            let Some(lie) = lies.next() else {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for (mut from, mut to) in
                    [(stream.try_clone().expect("a stream"), far.try_clone().expect("a stream")), (far, stream)]
                {
                    thread::spawn(move || std::io::copy(&mut from, &mut to));
                }
                continue;
            };
            // What the device asks is read first, so that it hears the lie.
            let _ = stream.read(&mut [0; 4_096]);
            let _ = stream.write_all(&lie);
            let _ = stream.set_read_timeout(Some(std::time::Duration::from_millis(300)));
            while matches!(stream.read(&mut [0; 4_096]), Ok(1..)) {}
        }
    });
    near
}

#[test]
fn a_broker_that_lies_stops_nobody_and_costs_nothing_that_it_did_not_acknowledge() {
    let Some(broker) = Broker::start("") else { return };
    let (peer, lies) = (Peer::new(broker.port), lies());
    let count = lies.len() as u64;
    let device = joined(liar(lies, broker.port), "");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    agent.live(&mut World::new(7), Law::Old, 500);
    (0..3).for_each(|_| report(&agent));
    until("it has come through all the lies", || online(&peer));
    let link = agent.status()["link"].clone();
    assert!(link["connections"].as_u64() < Some(count + 2), "{link}");
    assert!(!device.log().contains("panicked"), "{}", device.log());
    report(&agent);
    // The newest is behind everything that the liar did not take with an acknowledgement of its own.
    let last = stored(&agent).pop().expect("reports");
    until("what came last has come", || recorded(&peer).contains(&last).then_some(()));
    let status = ended(&peer, send(&peer, signed(1, DEVICE, 1, 600, &json!({"cmd": "agent.selftest", "args": {}}))));
    assert_eq!(status["status"], "successful", "{status}");
}

#[test]
fn whoever_mistypes_is_told_the_place_and_what_to_do_next() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let alone = Console::new(folder.path(), &["--broker", "mqtt://127.0.0.1:1"]);
    let bare = Console::new(folder.path(), &[]);
    let _ = alone.keygen("ada.key");
    std::fs::write(folder.path().join("bad.key"), "not base64").expect("a temporary folder");
    std::fs::write(folder.path().join("bad.toml"), "[mqtt\nx").expect("a temporary folder");
    std::fs::write(folder.path().join("empty.safetensors"), "").expect("a temporary folder");
    let sign = |more: &[&str]| alone.ask(&[&["sign", "--key", "ada.key", "--device", DEVICE][..], more].concat());
    let place = |(code, out, error): (Option<i32>, String, String), expected: i32, words: &[&str]| {
        assert_eq!(code, Some(expected), "{out}{error}");
        for word in words {
            assert!(error.contains(word), "`{word}` in: {error}");
        }
        assert!(!error.contains("panicked") && !error.is_empty());
    };
    place(alone.ask(&["devices"]), 8, &["127.0.0.1:1", "--broker"]);
    place(alone.ask(&["device"]), 2, &["devices"]);
    place(alone.ask(&["show", "Press 7"]), 2, &["Press 7", "a-z"]);
    place(sign(&["retrain.strat", "reason=x"]), 4, &["retrain.strat", "retrain.start"]);
    place(sign(&["retrain.start"]), 4, &["reason"]);
    place(sign(&["retrain.start", "reason"]), 2, &["`reason`", "NAME=VALUE"]);
    place(sign(&["retrain.start", "reason=x", "at=+soon"]), 2, &["`at`", "30m"]);
    place(sign(&["data.purge", "since=now", "until=-1h"]), 4, &["until", "since"]);
    place(sign(&["agent.selftest", "gently=1"]), 4, &["gently"]);
    place(alone.ask(&["sign", "--key", "bad.key", "--device", DEVICE, "agent.selftest"]), 4, &["bad.key", "keygen"]);
    place(alone.ask(&["sign", "--key", "none.key", "--device", DEVICE, "agent.selftest"]), 4, &["none.key", "keygen"]);
    place(alone.ask(&["send", "--envelope", "bad.toml"]), 4, &["bad.toml", "hone-fleet sign"]);
    place(alone.ask(&["configure", DEVICE, "bad.toml", "--key", "ada.key"]), 4, &["bad.toml", "hint:"]);
    place(alone.ask(&["install", DEVICE, "empty.safetensors", "--key", "ada.key"]), 4, &["empty.safetensors", "hint:"]);
    place(alone.ask(&["install", DEVICE, "none.safetensors", "--key", "ada.key"]), 4, &["none.safetensors", "hint:"]);
    place(alone.ask(&["revoke", "3F9A", "--key", "ada.key"]), 4, &["3F9A", "16 hex digits"]);
    place(alone.ask(&["freeze", "--for", "7", "--key", "ada.key"]), 2, &["`7`", "7d"]);
    place(alone.ask(&["freeze", "--key", "ada.key"]), 2, &["--for"]);
    place(bare.ask(&["enroll", "p", "--authority", "none", "--broker", "mqtts://h"]), 4, &["none", "hint:"]);
    place(bare.ask(&["devices", "--broker", "http://h"]), 2, &["http://h", "mqtts://"]);
    place(bare.ask(&["devices", "--broker", "mqtts://h"]), 2, &["--ca"]);
    place(alone.ask(&["rollout", "start", "a", "empty.safetensors", "--key", "ada.key"]), 4, &["empty.safetensors"]);
    place(alone.ask(&["sim", "0"]), 2, &["1..=1000"]);
    place(alone.ask(&["sim", "1", "--hone", "none"]), 4, &["none", "--hone"]);
    place(alone.ask(&["install", DEVICE, "ada.key", "--key", "ada.key"]), 4, &["ada.key", "no bundle"]);
    place(alone.ask(&["freeze", "--for", "0s", "--key", "ada.key"]), 2, &["`0s`", "at once"]);
    place(alone.ask(&["freeze", "--for", "7d", "--group", "Hall 3", "--key", "ada.key"]), 2, &["Hall 3", "a-z"]);
    place(sign(&["agent.selftest", "--expires", "0s"]), 2, &["`0s`"]);
    place(sign(&["agent.selftest", "-o", "none/x.dsse"]), 7, &["none/x.dsse", "hint:"]);
    place(sign(&["agent.selftest", "--key", "none"]), 4, &["none", "keygen"]);
    place(bare.ask(&["broker", "write", "ada.key/x", "--host", "h"]), 7, &["ada.key/x", "hint:"]);
    place(bare.ask(&["broker", "check", "site"]), 2, &["mqtts://"]);
    place(bare.ask(&["enroll", "p", "--authority", ".", "--broker", "mqtt://h"]), 2, &["mqtts://"]);
    let word = ["enroll", "p", "--authority", ".", "--broker", "mqtts://h", "--trust", "x=operator"];
    place(bare.ask(&word), 2, &["`x`", "base64"]);
    // A signature that belongs to another file is not sent.
    let bundle = world::train(folder.path(), "base", 1, false);
    std::fs::write(bundle.with_extension("dsse"), "{}").expect("a temporary folder");
    let bundle = bundle.display().to_string();
    place(alone.ask(&["install", DEVICE, &bundle, "--key", "ada.key"]), 4, &["base.dsse", "hone model sign"]);
    let other = hone_tests::fleet::vouched(6, "vendor", &"ab".repeat(32), 1);
    std::fs::write(folder.path().join("base.dsse"), other).expect("a temporary folder");
    place(alone.ask(&["install", DEVICE, &bundle, "--key", "ada.key"]), 4, &["base.dsse", "abababab"]);
}

#[test]
fn a_device_that_the_broker_has_never_heard_of_is_called_so() {
    let Some(broker) = Broker::start("") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let console = Console::new(folder.path(), &["--broker", &format!("mqtt://127.0.0.1:{}", broker.port)]);
    let _ = hone_tests::hone();
    let _ = console.keygen("ada.key");
    let bundle = world::train(folder.path(), "base", 1, false).display().to_string();
    std::fs::write(folder.path().join("s.toml"), "").expect("a temporary folder");
    let key = ["--key", "ada.key"];
    for (words, expected) in [
        (vec!["show", "press-99"], 4),
        (vec!["approve", "press-99", key[0], key[1]], 4),
        (vec!["rollout", "start", "a", &bundle, key[0], key[1], "--device", "press-99"], 4),
        (vec!["send", key[0], key[1], "--device", "press-99", "agent.selftest", "--wait", "1"], 75),
        (vec!["install", "press-99", &bundle, key[0], key[1], "--wait", "1"], 75),
        (vec!["configure", "press-99", "s.toml", key[0], key[1], "--wait", "1"], 75),
    ] {
        let (code, out, error) = console.ask(&words);
        assert_eq!(code, Some(expected), "{words:?}: {out}{error}");
        assert!(error.contains("`press-99`") && error.contains("hone-fleet devices"), "{words:?}: {error}");
    }
}
