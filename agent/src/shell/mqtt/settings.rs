//! Settings of the link: where the broker is, who we are to it, whose signature counts.
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet_protocol::broker::Broker;
use fleet_protocol::keys::{KeySet, Role};
use fleet_protocol::names::{DeviceId, Name};
use serde::{Deserialize, Serialize};

/// What a broker adds to 1.5 keep-alives: mosquitto counts whole seconds (1), looks at its clients each 6 s and at wills each
/// second (1), and a console reads for a second.
const BROKER_LOOKS_S: u64 = 9;
/// The client takes no less.
const SIGN_OF_LIFE_S_MIN: u64 = 5;
/// Most groups of one device: each is a subscription.
const GROUPS_MAX: usize = 16;

/// The link to the fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttSettings {
    /// `mqtts://HOST:PORT`, `mqtt://HOST:PORT` without encryption, or `off`. Default `off`.
    pub broker: String,
    /// Name of this device: the CN of its certificate, 1 to 64 of a-z, 0-9 and `-`. Needed with a broker.
    pub device: String,
    /// Certificate authority of the broker, PEM. Needed with `mqtts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// This device's certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM. A relative path of any of the three is looked for in `$CREDENTIALS_DIRECTORY` first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Whose commands are carried out; default nobody's.
    pub trust: Vec<TrustSettings>,
    /// Groups this device belongs to: whose notices it takes, and with whose waves it goes. At most 16, each 1 to 64 of a-z,
    /// 0-9, `_` and `-`. Default none.
    pub groups: Vec<String>,
    /// The fleet knows within 1.5 times so many seconds that this device is cut off, the broker's own delays included; signs of
    /// life are as frequent as that takes. Range 15 to 3,600, default 30.
    pub keep_alive_s: u64,
    /// Seconds the broker waits before it tells that we are gone. Range 0 to 3,600, default 2.
    pub will_delay_s: u32,
    /// Longest wait between two attempts, seconds. Range 1 to 3,600, default 120.
    pub retry_max_s: u64,
    /// Bytes of reports that may wait for the broker; beyond, signals go before course, and course before decisions. Range
    /// 64 KiB to 1 GiB, default 8 MiB.
    pub outbox_bytes_max: u64,
    /// Seconds between two looks at model and drift, told if they changed. Range 1 to 3,600, default 30.
    pub report_s: u64,
    /// Seconds between two metrics messages. Range 0 (none) to 86,400, default 60.
    pub metrics_s: u64,
    /// Whether Home Assistant shall find this device (`homeassistant/device/<device>/config`). Default no.
    pub home_assistant: bool,
    /// Whether the health of this agent is told to thin-edge.io (`te/device/main/service/hone/status/health`). Default no.
    pub thin_edge: bool,
    /// Birth and data for Sparkplug B hosts.
    pub sparkplug: SparkplugSettings,
}

/// Output for Sparkplug B hosts, on a connection of its own: its last will has to be the node's death.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SparkplugSettings {
    /// `mqtts://HOST:PORT`, `mqtt://HOST:PORT` without encryption, or `off`. Default `off`.
    pub broker: String,
    /// The group of this edge node; the node is `mqtt.device`. Needed with a broker: 1 to 64 of a-z, 0-9, `_` and `-`.
    pub group: String,
    /// Certificate authority of that broker, PEM; that of `[mqtt]` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// A certificate for this connection, PEM: not that of `[mqtt]`, for most brokers let one name in once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl Default for SparkplugSettings {
    fn default() -> Self {
        let (ca_file, certificate_file, key_file) = (None, None, None);
        Self { broker: "off".to_owned(), group: String::new(), ca_file, certificate_file, key_file }
    }
}

impl SparkplugSettings {
    /// The first setting that cannot be used beside these of the link: key, value, range.
    fn problem(&self, link: &MqttSettings) -> Option<(&'static str, String, String)> {
        if self.broker == "off" {
            return None;
        }
        if !link.is_on() {
            return Some(("sparkplug.broker", self.broker.clone(), "\"off\" where `mqtt.broker` is off".to_owned()));
        }
        let url = "mqtts://HOST:PORT, mqtt://HOST:PORT or \"off\"".to_owned();
        let Ok(broker) = self.broker.parse::<Broker>() else {
            return Some(("sparkplug.broker", self.broker.clone(), url));
        };
        if self.group.parse::<Name>().is_err() {
            let range = "1 to 64 of a-z, 0-9, `_` and `-` where a broker is named".to_owned();
            return Some(("sparkplug.group", self.group.clone(), range));
        }
        if broker.tls && self.ca_file.is_none() && link.ca_file.is_none() {
            let range = "a PEM file, because the broker is `mqtts`".to_owned();
            return Some(("sparkplug.ca_file", "not set".to_owned(), range));
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            let range = "set together with `certificate_file`".to_owned();
            return Some(("sparkplug.key_file", "one of both".to_owned(), range));
        }
        (self.certificate_file.is_some() && self.certificate_file == link.certificate_file).then(|| {
            let range = "a certificate of its own: one name in two connections is thrown out in turn".to_owned();
            ("sparkplug.certificate_file", "that of [mqtt]".to_owned(), range)
        })
    }
}

/// One key whose signature counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustSettings {
    /// ed25519 public key, standard base64 of 32 bytes, as `hone-fleet keygen` prints it.
    pub public: String,
    /// What its holder may sign.
    pub roles: Vec<Role>,
}

impl Default for MqttSettings {
    fn default() -> Self {
        Self {
            broker: "off".to_owned(),
            device: String::new(),
            ca_file: None,
            certificate_file: None,
            key_file: None,
            trust: Vec::new(),
            groups: Vec::new(),
            keep_alive_s: 30,
            will_delay_s: 2,
            retry_max_s: 120,
            outbox_bytes_max: 8 << 20,
            report_s: 30,
            metrics_s: 60,
            home_assistant: false,
            thin_edge: false,
            sparkplug: SparkplugSettings::default(),
        }
    }
}

impl MqttSettings {
    /// Whether a link is wanted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.broker != "off"
    }

    /// Time between two signs of life, as CONNECT tells the broker.
    ///
    /// A broker gives a client up after 1.5 of these, looks only now and then, and waits with the will: all of that has to fit into
    /// 1.5 times what was set.
    #[must_use]
    pub fn sign_of_life(&self) -> Duration {
        let known_within_s = self.keep_alive_s * 3 / 2;
        let left_s = known_within_s.saturating_sub(u64::from(self.will_delay_s) + BROKER_LOOKS_S);
        Duration::from_secs((left_s * 2 / 3).clamp(SIGN_OF_LIFE_S_MIN, self.keep_alive_s.max(SIGN_OF_LIFE_S_MIN)))
    }

    /// The keys that are trusted.
    ///
    /// # Errors
    /// The entry that is no key, in words.
    pub fn keys(&self) -> Result<KeySet, String> {
        let mut keys = KeySet::default();
        for entry in &self.trust {
            let bytes = STANDARD.decode(&entry.public).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let bytes = bytes.ok_or_else(|| format!("`{}` is not 32 bytes in base64", entry.public))?;
            keys.trust(&bytes, &entry.roles).map_err(|error| error.to_string())?;
        }
        Ok(keys)
    }

    /// The first setting that cannot be used: key, value, range.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String, String)> {
        let within = |key, value: u64, least: u64, most: u64| {
            (!(least..=most).contains(&value)).then(|| (key, value.to_string(), format!("{least} to {most}")))
        };
        let on = self.is_on();
        let broker = self.broker.parse::<Broker>().ok();
        let url = "mqtts://HOST:PORT, mqtt://HOST:PORT or \"off\"".to_owned();
        let id = "1 to 64 of a-z, 0-9 and `-` where a broker is named".to_owned();
        let shown =
            |path: &Option<PathBuf>| path.as_ref().map_or("not set".to_owned(), |path| path.display().to_string());
        let pair = self.certificate_file.is_some() == self.key_file.is_some();
        (on && broker.is_none())
            .then(|| ("broker", self.broker.clone(), url))
            .or_else(|| (on && self.device.parse::<DeviceId>().is_err()).then(|| ("device", self.device.clone(), id)))
            .or_else(|| {
                let missing = broker.is_some_and(|broker| broker.tls) && self.ca_file.is_none();
                missing
                    .then(|| ("ca_file", shown(&self.ca_file), "a PEM file, because the broker is `mqtts`".to_owned()))
            })
            .or_else(|| {
                (!pair).then(|| ("key_file", shown(&self.key_file), "set together with `certificate_file`".to_owned()))
            })
            .or_else(|| {
                self.keys()
                    .err()
                    .map(|reason| ("trust", reason, "public keys as `hone-fleet keygen` prints them".to_owned()))
            })
            .or_else(|| {
                let wrong = self.groups.iter().find(|group| group.parse::<Name>().is_err()).cloned();
                let wrong = wrong.or_else(|| (self.groups.len() > GROUPS_MAX).then(|| self.groups.len().to_string()));
                wrong.map(|wrong| ("groups", wrong, "at most 16 names of a-z, 0-9, `_` and `-`".to_owned()))
            })
            .or_else(|| within("keep_alive_s", self.keep_alive_s, 15, 3_600))
            .or_else(|| within("will_delay_s", self.will_delay_s.into(), 0, 3_600))
            .or_else(|| within("retry_max_s", self.retry_max_s, 1, 3_600))
            .or_else(|| within("outbox_bytes_max", self.outbox_bytes_max, 1 << 16, 1 << 30))
            .or_else(|| within("report_s", self.report_s, 1, 3_600))
            .or_else(|| within("metrics_s", self.metrics_s, 0, 86_400))
            .or_else(|| self.sparkplug.problem(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_leave_the_broker_time_to_tell_within_one_and_a_half_keep_alives() {
        let sign = |keep_alive_s, will_delay_s| {
            MqttSettings { keep_alive_s, will_delay_s, ..MqttSettings::default() }.sign_of_life().as_secs()
        };
        assert_eq!([sign(15, 2), sign(30, 2), sign(60, 2), sign(3_600, 2)], [7, 22, 52, 3_592]);
        for keep_alive_s in 15..3_600 {
            let told_after_s = sign(keep_alive_s, 2) * 3 / 2 + 2 + BROKER_LOOKS_S;
            assert!(told_after_s * 2 <= keep_alive_s * 3, "{keep_alive_s}");
        }
        assert_eq!(sign(15, 3_600), 5, "whoever delays the will for so long is told so late");
    }

    #[test]
    fn a_link_that_cannot_work_is_refused_by_its_setting_before_it_is_tried() {
        let on =
            MqttSettings { broker: "mqtts://b".to_owned(), device: "press-07".to_owned(), ..MqttSettings::default() };
        let problem = |settings: &MqttSettings| settings.problem().map(|(key, ..)| key);
        assert_eq!(problem(&MqttSettings::default()), None);
        assert_eq!(problem(&on), Some("ca_file"));
        assert_eq!(problem(&MqttSettings { device: "Press 7".to_owned(), ..on.clone() }), Some("device"));
        assert_eq!(problem(&MqttSettings { ca_file: Some("ca.pem".into()), ..on.clone() }), None);
        assert_eq!(
            problem(&MqttSettings { key_file: Some("k".into()), ca_file: Some("c".into()), ..on }),
            Some("key_file")
        );
        let plain =
            MqttSettings { broker: "mqtt://b".to_owned(), device: "press-07".to_owned(), ..MqttSettings::default() };
        let spark = |broker: &str, group: &str| {
            let sparkplug = SparkplugSettings {
                broker: broker.to_owned(),
                group: group.to_owned(),
                ..SparkplugSettings::default()
            };
            problem(&MqttSettings { sparkplug, ..plain.clone() })
        };
        assert_eq!((spark("mqtt://h", "plant"), spark("mqtt://h", "Plant 1")), (None, Some("sparkplug.group")));
        assert_eq!(
            (spark("h", "plant"), spark("mqtts://h", "plant")),
            (Some("sparkplug.broker"), Some("sparkplug.ca_file"))
        );
        let weak = TrustSettings { public: STANDARD.encode([0; 32]), roles: vec![Role::Operator] };
        assert_eq!(problem(&MqttSettings { trust: vec![weak], ..MqttSettings::default() }), Some("trust"));
        assert_eq!(problem(&MqttSettings { keep_alive_s: 14, ..MqttSettings::default() }), Some("keep_alive_s"));
    }
}
