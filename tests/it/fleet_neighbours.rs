//! What other systems on the broker read: Sparkplug B, Home Assistant and thin-edge.io.
use std::collections::BTreeMap;

use fleet_protocol::sparkplug::{Metric, Payload, Value as Metered};
use hone_tests::broker::{Broker, Came, Peer, Wire};
use hone_tests::fleet::{DEVICE, joined, online};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use prost::Message as _;
use serde_json::{Value, json};

/// A message of the node: its kind, its sequence number, its metrics.
fn read(came: &Came) -> (String, Option<u64>, BTreeMap<String, Metered>) {
    let bytes = if came.bytes.is_empty() { came.payload.to_string().into_bytes() } else { came.bytes.clone() };
    let payload = Payload::decode(bytes.as_slice()).expect("a payload of Sparkplug B");
    let kind = came.topic.split('/').nth(2).expect("a kind").to_owned();
    let metrics =
        payload.metrics.into_iter().map(|metric| (metric.name.expect("a name"), metric.value.expect("a value")));
    (kind, payload.seq, metrics.collect())
}

fn bd_seq(metrics: &BTreeMap<String, Metered>) -> u64 {
    let Some(Metered::Long(number)) = metrics.get("bdSeq") else { panic!("{metrics:?}") };
    *number
}

#[test]
fn a_sparkplug_host_sees_birth_data_rebirth_and_the_death_of_the_same_birth() {
    let Some(broker) = Broker::start("") else { return };
    let (peer, host) = (Peer::new(broker.port), Peer::of(broker.port, "spBv1.0/#"));
    let own = format!("[mqtt.sparkplug]\nbroker = \"mqtt://127.0.0.1:{}\"\ngroup = \"plant\"\n", broker.port);
    let device = joined(broker.port, &own);
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    until("the link is up beside it", || online(&peer));
    let all =
        |host: &Peer| host.came().iter().filter(|came| !came.topic.contains("NCMD")).map(read).collect::<Vec<_>>();
    let (kind, seq, born) = until("a birth", || all(&host).into_iter().next());
    assert_eq!((kind.as_str(), seq), ("NBIRTH", Some(0)));
    assert_eq!(born["Node Control/Rebirth"], Metered::Boolean(false));
    assert_eq!(born["Model/Champion"], Metered::Text(agent.champion()));
    // What the birth has not named needs another birth; in the end there is data.
    let mut world = World::new(7);
    until("data", || {
        agent.live(&mut world, Law::Old, 20);
        all(&host).into_iter().find(|(kind, _, told)| kind == "NDATA" && told.contains_key("Samples"))
    });
    // A host that came late orders a birth.
    let order = Metric {
        name: Some("Node Control/Rebirth".to_owned()),
        value: Some(Metered::Boolean(true)),
        ..Metric::default()
    };
    let order = Payload { metrics: vec![order], ..Payload::default() }.encode_to_vec();
    let births = |host: &Peer| all(host).iter().filter(|(kind, ..)| kind == "NBIRTH").count();
    let before = births(&host);
    // What is no such order does nothing.
    for garbage in [&b""[..], b"\xff\xff", b"{}", &[0x12; 200]] {
        host.raw(&format!("spBv1.0/plant/NCMD/{DEVICE}"), garbage);
    }
    host.raw(&format!("spBv1.0/plant/NCMD/{DEVICE}"), order);
    until("another birth", || (births(&host) > before).then_some(()));
    agent.kill();
    let (_, seq, death) = until("its death", || all(&host).into_iter().find(|(kind, ..)| kind == "NDEATH"));
    assert_eq!((seq, bd_seq(&death)), (None, bd_seq(&born)));
    // Between a birth and the next, numbers follow one another.
    let mut expected = 0;
    for (kind, seq, told) in all(&host) {
        match kind.as_str() {
            "NBIRTH" => {
                assert_eq!((seq, bd_seq(&told)), (Some(0), bd_seq(&born)));
                expected = 1;
            }
            "NDATA" => {
                assert_eq!(seq, Some(expected), "{told:?}");
                expected += 1;
            }
            _ => {}
        }
    }
    // The next start is another birth, and an orderly end says so itself.
    std::thread::sleep(std::time::Duration::from_millis(1_100));
    let seen = host.came().len();
    let agent = device.start(None);
    let next = until("it is born again", || host.came()[seen..].iter().map(read).find(|(kind, ..)| kind == "NBIRTH"));
    assert_ne!(bd_seq(&next.2), bd_seq(&born));
    assert!(agent.terminate().success());
    let death = until("it says goodbye", || host.came()[seen..].iter().map(read).find(|(kind, ..)| kind == "NDEATH"));
    assert_eq!(bd_seq(&death.2), bd_seq(&next.2));
    // Nothing of it is kept: a host that comes late must not take an old death for a new one.
    let late = Peer::of(broker.port, "spBv1.0/#");
    host.raw("spBv1.0/plant/NCMD/nobody", b"".to_vec());
    until("the late host hears", || (!late.came().is_empty()).then_some(()));
    assert!(late.came().iter().all(|came| !came.retained), "{:?}", late.came());
}

#[test]
fn a_sparkplug_node_whose_wire_was_cut_dies_once_and_is_born_under_the_next_number() {
    let Some(broker) = Broker::start("") else { return };
    let (wire, host) = (Wire::to(broker.port), Peer::of(broker.port, "spBv1.0/#"));
    let own = format!("[mqtt.sparkplug]\nbroker = \"mqtt://127.0.0.1:{}\"\ngroup = \"plant\"\n", wire.port);
    let device = joined(broker.port, &own);
    let _agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let of = |wanted: &'static str| {
        move |host: &Peer| {
            host.came()
                .iter()
                .map(read)
                .filter(|(kind, ..)| kind == wanted)
                .map(|(_, _, told)| bd_seq(&told))
                .collect::<Vec<_>>()
        }
    };
    let (births, deaths) = (of("NBIRTH"), of("NDEATH"));
    let first = until("a birth", || births(&host).into_iter().next());
    wire.cut();
    until("its death", || deaths(&host).contains(&first).then_some(()));
    wire.mend();
    let next = (first + 1) % 256;
    until("the next birth", || births(&host).contains(&next).then_some(()));
    assert_eq!(deaths(&host), [first], "and it lives");
}

#[test]
fn home_assistant_finds_the_device_and_thin_edge_its_health_on_a_real_broker() {
    let Some(broker) = Broker::start("") else { return };
    let (peer, home, edge) =
        (Peer::new(broker.port), Peer::of(broker.port, "homeassistant/#"), Peer::of(broker.port, "te/#"));
    let device = joined(broker.port, "home_assistant = true\nthin_edge = true\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    until("the link is up", || online(&peer));
    let found = until("it is discovered", || home.came().pop());
    assert_eq!(found.topic, format!("homeassistant/device/hone-{DEVICE}/config"));
    // Every topic that it is sent to is there, with the fields that its templates read.
    for (component, field) in [("phase", "phase"), ("champion", "champion"), ("drifting", "measures")] {
        let topic = found.payload["components"][component]["state_topic"].as_str().expect("a topic").to_owned();
        let path = topic.strip_prefix("hone/v1/").expect("ours").to_owned();
        let state = until("its state", || peer.last(&path));
        assert!(state.get(field).is_some(), "{component}: {state}");
    }
    let availability = &found.payload["availability"][0];
    let path = availability["topic"].as_str().and_then(|topic| topic.strip_prefix("hone/v1/")).expect("ours");
    let state = |peer: &Peer| peer.last(path).unwrap_or_default()["state"].clone();
    assert_eq!((&state(&peer), &availability["payload_available"]), (&json!("online"), &json!("online")));
    let health = |edge: &Peer| -> Value {
        let came = edge.came().pop().expect("told");
        assert_eq!(came.topic, "te/device/main/service/hone/status/health");
        came.payload
    };
    until("its health", || (!edge.came().is_empty()).then_some(()));
    assert_eq!((&health(&edge)["status"], &health(&edge)["pid"]), (&json!("up"), &json!(agent.pid())));
    assert!(agent.terminate().success());
    until("it is down", || (health(&edge)["status"] == "down").then_some(()));
    until("and gone", || (state(&peer) == "offline").then_some(()));
    // Both are retained: whoever starts later knows.
    let late = Peer::of(broker.port, "te/#");
    until("a late reader knows", || late.came().iter().any(|came| came.retained).then_some(()));
}
