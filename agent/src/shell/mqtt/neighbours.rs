//! Messages for other systems on the same broker, each a plain setting: Home Assistant and thin-edge.io. Pure.
use fleet_protocol::names::{DeviceId, Micros};
use fleet_protocol::topics::{Delivery, ROOT};
use serde_json::{Value, json};

use super::connection::{Content, Message};

fn retained(topic: String, schema: &'static str, payload: &Value) -> Message {
    let payload = payload.to_string().into_bytes();
    Message { topic, payload, delivery: Delivery::Retained, schema, expires_s: None, content: Content::Json }
}

/// The device with its sensors as Home Assistant discovers them; they read this protocol's own topics.
pub(super) fn home_assistant(device: &DeviceId) -> Message {
    let sensor = |name: &str, topic: &str, template: &str| {
        json!({
            "platform": "sensor", "name": name, "unique_id": format!("hone-{device}-{}", name.replace(' ', "-").to_lowercase()),
            "state_topic": format!("{ROOT}/d/{device}/up/{topic}"), "value_template": template,
        })
    };
    let drifting = "{{ value_json.measures.values() | selectattr('state', 'eq', 'drift') | list | count }}";
    let config = json!({
        "device": {"identifiers": [format!("hone-{device}")], "name": device, "manufacturer": "hone", "sw_version": env!("CARGO_PKG_VERSION")},
        "origin": {"name": "hone", "sw_version": env!("CARGO_PKG_VERSION")},
        "availability": [{
            "topic": format!("{ROOT}/d/{device}/up/state"), "value_template": "{{ value_json.state }}",
            "payload_available": "online", "payload_not_available": "offline",
        }],
        "components": {
            "phase": sensor("Phase", "model/main", "{{ value_json.phase }}"),
            "champion": sensor("Champion", "model/main", "{{ (value_json.champion.digest | default('none'))[:8] }}"),
            "drifting": sensor("Drifting measures", "drift/main", drifting),
        },
        "qos": 1,
    });
    retained(format!("homeassistant/device/hone-{device}/config"), "homeassistant.device", &config)
}

/// The health of this agent as thin-edge.io reads it. A dead agent does not say `down`: its presence tells that.
pub(super) fn thin_edge(up: bool, process: u32, ts: Micros) -> Message {
    let word = if up { "up" } else { "down" };
    let health = json!({"status": word, "pid": process, "time": ts.0 / 1_000_000});
    retained("te/device/main/service/hone/status/health".to_owned(), "te.health", &health)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_assistant_reads_topics_that_this_device_retains() {
        let message = home_assistant(&"press-07".parse().unwrap());
        assert_eq!(message.topic, "homeassistant/device/hone-press-07/config");
        let config: Value = serde_json::from_slice(&message.payload).unwrap();
        let topics =
            config["components"].as_object().unwrap().values().map(|sensor| sensor["state_topic"].as_str().unwrap());
        for topic in topics.chain([config["availability"][0]["topic"].as_str().unwrap()]) {
            let parsed: fleet_protocol::topics::Topic = topic.parse().unwrap();
            assert_eq!(parsed.delivery(), Delivery::Retained);
        }
    }

    #[test]
    fn what_home_assistant_is_told_is_the_golden_one() {
        let message = home_assistant(&"press-07".parse().unwrap());
        let config: Value = serde_json::from_slice(&message.payload).unwrap();
        let text = serde_json::to_string_pretty(&config).unwrap().replace(env!("CARGO_PKG_VERSION"), "VERSION");
        expect_test::expect_file!["golden/home_assistant.json"].assert_eq(&(text + "\n"));
        assert_eq!((message.delivery, message.expires_s), (Delivery::Retained, None));
    }

    #[test]
    fn thin_edge_reads_health_in_its_own_words() {
        let message = thin_edge(true, 7, Micros(5_000_000));
        assert_eq!(message.topic, "te/device/main/service/hone/status/health");
        assert_eq!(message.payload, br#"{"status":"up","pid":7,"time":5}"#);
        assert_eq!((message.delivery, message.content), (Delivery::Retained, Content::Json));
        assert_eq!(thin_edge(false, 7, Micros(5_000_000)).payload, br#"{"status":"down","pid":7,"time":5}"#);
    }
}
