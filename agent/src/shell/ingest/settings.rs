//! Settings of what comes in: windows of readings, and the topics of a local broker.
use std::collections::BTreeMap;
use std::path::PathBuf;

use fleet_protocol::broker::Broker;
use serde::{Deserialize, Serialize};

use super::mqtt::{filter_problem, template_problem};
use super::window::WindowSettings;

/// Topics that may be listed.
const TOPICS_MAX: usize = 64;

/// How samples come in, beside HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputSettings {
    /// How many readings of a source make a row.
    pub window: WindowSettings,
    /// A broker on this machine or this site that samples and labels are read from.
    pub mqtt: InputMqttSettings,
}

/// A local broker; the link to the fleet is another one, `[mqtt]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InputMqttSettings {
    /// `mqtt://HOST:PORT`, or `off`. Default `off`.
    pub broker: String,
    /// Who we are to it; two clients of one name throw each other out. Default `hone-input`.
    pub client_id: String,
    /// User, if the broker asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// File with the password, one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Messages that wait here; the broker keeps what is beyond (QoS 1), or it is dropped and counted (QoS 0). Range 1 to
    /// 10,000, default 256.
    pub queue_messages: u16,
    /// Milliseconds that a row waits for the readings of one source that come in several messages. 0: each message is a
    /// row. Range 0 to 600,000, default 200.
    pub join_ms: u32,
    /// Seconds that a reading stays valid for the rows that follow it; then it is missing. Range 0 to 86,400, default 60.
    pub hold_s: u32,
    /// Seconds the broker keeps messages for us while we are away. Range 0 to 604,800, default 3600.
    pub session_s: u32,
    /// Seconds between two signs of life. Range 5 to 3,600, default 30.
    pub keep_alive_s: u64,
    /// Longest wait between two attempts to connect, seconds. Range 1 to 3,600, default 30.
    pub retry_max_s: u64,
    /// What is read, and how; the first entry that fits a message counts.
    pub topics: Vec<TopicSettings>,
}

/// One topic filter and where its messages hold what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicSettings {
    /// Topic filter, with `+` and `#`.
    pub topic: String,
    /// Samples, or labels.
    pub kind: TopicKind,
    /// Who measured: a JSON pointer, or a text in which `{2}` is the second level of the topic. Default: all levels.
    pub source: String,
    /// JSON pointer to the time: RFC 3339 or seconds since 1970. Default `/time`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub time: String,
    /// Segment: a JSON pointer, or a text with topic levels. Default none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub segment: String,
    /// JSON pointer of each feature. What is not here is looked for under its own name, then with its dots as levels:
    /// `air.temp` at `/air.temp`, then at `/air/temp`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
    /// Where answers go, as a text with topic levels. Default nowhere.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub output: String,
    /// JSON pointer to the record id of a label. Default `/record_id`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub record_id: String,
    /// JSON pointer to the truth of a label. Default `/label`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
}

/// What a topic brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopicKind {
    /// Readings to be answered.
    #[default]
    Samples,
    /// Truths of earlier records.
    Labels,
}

impl Default for InputMqttSettings {
    fn default() -> Self {
        // Measurements of thin-edge.io: te/<device>/<name>/<service>/<name>/m/<type>.
        let samples = TopicSettings {
            topic: "te/+/+/+/+/m/+".to_owned(),
            source: "{2}/{3}/{4}/{5}".to_owned(),
            ..TopicSettings::default()
        };
        let labels = TopicSettings {
            topic: "hone/labels".to_owned(),
            kind: TopicKind::Labels,
            source: "/source".to_owned(),
            ..TopicSettings::default()
        };
        Self {
            broker: "off".to_owned(),
            client_id: "hone-input".to_owned(),
            user: None,
            password_file: None,
            queue_messages: 256,
            join_ms: 200,
            hold_s: 60,
            session_s: 3_600,
            keep_alive_s: 30,
            retry_max_s: 30,
            topics: vec![samples, labels],
        }
    }
}

impl InputMqttSettings {
    /// The broker, if one is wanted.
    #[must_use]
    pub fn address(&self) -> Option<Broker> {
        self.broker.parse().ok().filter(|broker: &Broker| !broker.tls)
    }
}

impl InputSettings {
    /// The first setting that cannot be used: key, value, range.
    #[must_use]
    pub fn problem(&self) -> Option<(String, String, String)> {
        let Self { window, mqtt } = self;
        let within = |key: &str, value: u64, least: u64, most: u64| {
            (!(least..=most).contains(&value))
                .then(|| (key.to_owned(), value.to_string(), format!("{least} to {most}")))
        };
        let broker = mqtt.broker == "off" || mqtt.address().is_some();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let client = (1..=64).contains(&mqtt.client_id.len()) && mqtt.client_id.chars().all(plain);
        within("window.length", window.length as u64, 1, 4_096)
            .or_else(|| within("window.stride", window.stride as u64, 1, 4_096))
            .or_else(|| within("window.gap_s", window.gap_s.into(), 1, 604_800))
            .or_else(|| within("window.sources_max", window.sources_max as u64, 1, 4_096))
            .or_else(|| {
                (!broker)
                    .then(|| ("mqtt.broker".to_owned(), mqtt.broker.clone(), "mqtt://HOST:PORT or \"off\"".to_owned()))
            })
            .or_else(|| {
                let range = "1 to 64 letters, digits, `-`, `_` or `.`".to_owned();
                (!client).then(|| ("mqtt.client_id".to_owned(), mqtt.client_id.clone(), range))
            })
            .or_else(|| within("mqtt.queue_messages", mqtt.queue_messages.into(), 1, 10_000))
            .or_else(|| within("mqtt.join_ms", mqtt.join_ms.into(), 0, 600_000))
            .or_else(|| within("mqtt.hold_s", mqtt.hold_s.into(), 0, 86_400))
            .or_else(|| within("mqtt.session_s", mqtt.session_s.into(), 0, 604_800))
            .or_else(|| within("mqtt.keep_alive_s", mqtt.keep_alive_s, 5, 3_600))
            .or_else(|| within("mqtt.retry_max_s", mqtt.retry_max_s, 1, 3_600))
            .or_else(|| within("mqtt.topics", mqtt.topics.len() as u64, 1, TOPICS_MAX as u64))
            .or_else(|| mqtt.topics.iter().find_map(topic_problem))
    }
}

fn topic_problem(topic: &TopicSettings) -> Option<(String, String, String)> {
    let problem =
        |key: &str, value: &str, range: &str| Some((format!("mqtt.topics.{key}"), value.to_owned(), range.to_owned()));
    if let Some(range) = filter_problem(&topic.topic) {
        return problem("topic", &topic.topic, range);
    }
    let pointer = "a JSON pointer, such as /environment/temperature";
    let wrong = |text: &str| !text.is_empty() && !text.starts_with('/');
    for (key, text) in [("time", &topic.time), ("record_id", &topic.record_id), ("label", &topic.label)] {
        if wrong(text) {
            return problem(key, text, pointer);
        }
    }
    if let Some(text) = topic.fields.values().find(|text| !text.starts_with('/')) {
        return problem("fields", text, pointer);
    }
    if topic.output.contains(['+', '#']) {
        return problem("output", &topic.output, "a topic without wildcards");
    }
    let templates: [(_, _, &[&str]); 3] =
        [("source", &topic.source, &[]), ("segment", &topic.segment, &[]), ("output", &topic.output, &["source"])];
    for (key, text, others) in templates {
        // A pointer looks into the message, where braces are names like any other.
        let is_pointer = key != "output" && text.starts_with('/');
        if let Some(range) = template_problem(text, &topic.topic, others).filter(|_| !is_pointer) {
            return problem(key, text, &range);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_that_cannot_work_is_refused_by_its_setting() {
        let problem = |change: fn(&mut InputSettings)| {
            let mut settings = InputSettings::default();
            change(&mut settings);
            settings.problem().map(|(key, ..)| key)
        };
        let is = |key: &str| Some(key.to_owned());
        assert_eq!(problem(|_| {}), None);
        assert_eq!(problem(|settings| settings.mqtt.broker = "mqtt://127.0.0.1:1883".to_owned()), None);
        assert_eq!(problem(|settings| settings.mqtt.broker = "mqtts://b".to_owned()), is("mqtt.broker"));
        assert_eq!(problem(|settings| settings.mqtt.client_id = "a b".to_owned()), is("mqtt.client_id"));
        assert_eq!(problem(|settings| settings.mqtt.topics.clear()), is("mqtt.topics"));
        assert_eq!(problem(|settings| settings.mqtt.topics[0].topic = "a/#/b".to_owned()), is("mqtt.topics.topic"));
        assert_eq!(problem(|settings| settings.mqtt.topics[0].time = "time".to_owned()), is("mqtt.topics.time"));
        assert_eq!(problem(|settings| settings.mqtt.topics[1].output = "a/+".to_owned()), is("mqtt.topics.output"));
        assert_eq!(problem(|settings| settings.mqtt.topics[0].source = "{9}".to_owned()), is("mqtt.topics.source"));
        assert_eq!(problem(|settings| settings.mqtt.topics[0].segment = "{8}".to_owned()), is("mqtt.topics.segment"));
        assert_eq!(problem(|settings| settings.mqtt.topics[0].output = "x/{8}".to_owned()), is("mqtt.topics.output"));
        assert_eq!(problem(|settings| settings.mqtt.topics[0].output = "x/{source}/{7}".to_owned()), None);
        assert_eq!(problem(|settings| settings.mqtt.topics[0].source = "/{9}".to_owned()), None);
        assert_eq!(problem(|settings| settings.window.length = 0), is("window.length"));
    }
}
