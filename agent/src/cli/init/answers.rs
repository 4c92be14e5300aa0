//! What `hone init` asks for, and where each answer goes in the shipped file.
use std::io::{self, BufRead, Write};

use crate::config::Config;

/// The settings that most gateways change; everything else has a default worth keeping.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct Answers {
    /// Broker of the fleet, mqtts://HOST:PORT, or "off"
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// Name of this device, the CN of its certificate
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Certificate authority of the broker, PEM
    #[arg(long, value_name = "FILE")]
    ca_file: Option<String>,
    /// This device's certificate, PEM
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<String>,
    /// Its private key, PEM; below /etc/hone/credentials only root can read it, and the packaged unit hands it over
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// When to retrain: static, fixed:LABELS, trigger:any, value
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Hours in which training may run, such as 22:00-05:00
    #[arg(long, value_name = "HOURS")]
    hours: Option<String>,
    /// Megabytes of records to keep
    #[arg(long, value_name = "MB")]
    keep_mb: Option<u64>,
    /// Loopback address to serve on, or "off"
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where models and records are kept
    #[arg(long, value_name = "DIR")]
    keep_in: Option<String>,
}

impl Answers {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Section, key and value as TOML of each answer.
    fn settings(&self) -> Vec<(&'static str, &'static str, String)> {
        let text = |section, key, value: &Option<String>| {
            value.as_ref().map(|value| (section, key, toml::Value::from(value.as_str()).to_string()))
        };
        let bytes =
            self.keep_mb.map(|megabytes| ("records", "keep_bytes", megabytes.saturating_mul(1 << 20).to_string()));
        [
            text("agent", "state_dir", &self.keep_in),
            text("agent", "listen", &self.listen),
            bytes,
            text("cycle", "policy", &self.policy),
            text("budget", "hours", &self.hours),
            text("mqtt", "broker", &self.broker),
            text("mqtt", "device", &self.device),
            text("mqtt", "ca_file", &self.ca_file),
            text("mqtt", "certificate_file", &self.certificate_file),
            text("mqtt", "key_file", &self.key_file),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// `shipped` with the answers in the places of the defaults; comments stay.
pub(super) fn written(shipped: &str, answers: &Answers) -> String {
    let mut lines: Vec<String> = shipped.lines().map(str::to_owned).collect();
    for (section, key, value) in answers.settings() {
        let header = format!("[{section}]");
        let begin = lines.iter().position(|line| line.trim() == header).map_or(lines.len(), |at| at + 1);
        let sets = |line: &String| {
            line.trim_start_matches(['#', ' ']).strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        let length = lines[begin..].iter().position(|line| line.starts_with('[')).unwrap_or(lines.len() - begin);
        let place = lines[begin..begin + length].iter().position(sets);
        let line = format!("{key} = {value}");
        match place {
            Some(place) => lines[begin + place] = line,
            None => lines.insert(begin, line),
        }
    }
    lines.join("\n") + "\n"
}

/// Asks; an empty answer keeps the default. `host` is what this machine calls itself.
pub(super) fn interview(from: &mut impl BufRead, to: &mut impl Write, host: Option<&str>) -> io::Result<Answers> {
    let mut ask = |question: &str, default: &str| -> io::Result<Option<String>> {
        write!(to, "{question} [{default}]: ")?;
        to.flush()?;
        let mut line = String::new();
        if from.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = line.trim();
        Ok((!answer.is_empty()).then(|| answer.to_owned()))
    };
    let defaults = Config::default();
    let (policy, megabytes) = (defaults.cycle.policy.to_string(), (defaults.records.keep_bytes >> 20).to_string());
    let mut answers = Answers {
        hours: ask("Hours in which retraining may run, such as 22:00-05:00", "any hour")?,
        policy: ask("When to retrain: static, fixed:LABELS, trigger:any, value", &policy)?,
        ..Answers::default()
    };
    // A mistyped number would become the default in silence; it is asked for until it is one, or nothing.
    answers.keep_mb = loop {
        match ask("Megabytes of records to keep", &megabytes)?.map(|text| text.parse()) {
            None => break None,
            Some(Ok(megabytes)) => break Some(megabytes),
            Some(Err(_)) => {}
        }
    };
    answers.broker = ask("Broker of the fleet, mqtts://HOST:PORT", "off")?.filter(|broker| broker != "off");
    if let Some(broker) = &answers.broker {
        let tls = broker.starts_with("mqtts://");
        answers.device = ask("Name of this device", host.unwrap_or("none"))?.or_else(|| host.map(str::to_owned));
        if tls {
            let mut file = |what: &str, default: &str| {
                Ok::<_, io::Error>(ask(what, default)?.or_else(|| Some(default.to_owned())))
            };
            answers.ca_file = file("Certificate authority of the broker, PEM", "/etc/hone/ca.pem")?;
            answers.certificate_file = file("This device's certificate, PEM", "/etc/hone/device.pem")?;
            answers.key_file = file("Its private key, PEM", "/etc/hone/credentials/mqtt.key")?;
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SHIPPED;

    fn parsed(answers: &Answers) -> Config {
        let text = written(SHIPPED, answers);
        Config::parse([("answers", text.as_str())]).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    #[test]
    fn no_answer_leaves_the_shipped_file_and_each_answer_changes_its_setting_alone() {
        assert_eq!(written(SHIPPED, &Answers::default()), SHIPPED);
        let answers = Answers {
            broker: Some("mqtts://b:8883".into()),
            device: Some("press-7".into()),
            ca_file: Some("/c".into()),
            certificate_file: Some("/d".into()),
            key_file: Some("/k".into()),
            policy: Some("value".into()),
            hours: Some("22:00-05:00".into()),
            keep_mb: Some(64),
            listen: Some("off".into()),
            keep_in: Some("/data/ho\"ne".into()),
        };
        let config = parsed(&answers);
        let mut expected = Config::default();
        expected.mqtt.broker = "mqtts://b:8883".into();
        expected.mqtt.device = "press-7".into();
        expected.mqtt.ca_file = Some("/c".into());
        expected.mqtt.certificate_file = Some("/d".into());
        expected.mqtt.key_file = Some("/k".into());
        expected.cycle.policy = "value".parse().unwrap();
        expected.records.keep_bytes = 64 << 20;
        expected.agent.listen = "off".into();
        expected.agent.state_dir = Some("/data/ho\"ne".into());
        expected.budget.hours = config.budget.hours.clone();
        assert_eq!(config, expected);
        assert_ne!(config.budget.hours, Config::default().budget.hours);
    }

    #[test]
    fn empty_answers_keep_the_defaults_and_a_number_is_asked_for_until_it_is_one() {
        let ask = |said: &str| {
            let mut shown = Vec::new();
            let answers = interview(&mut said.as_bytes(), &mut shown, Some("press-7")).unwrap();
            (answers, String::from_utf8(shown).unwrap())
        };
        assert!(ask("\n\n\n\n").0.is_empty());
        let (answers, shown) = ask("22:00-05:00\n\nmuch\n64\nmqtts://b:8883\n\n\n\n\n");
        assert_eq!(shown.matches("Megabytes").count(), 2);
        let defaults = Config::default();
        let keep = format!("to keep [{}]: ", defaults.records.keep_bytes >> 20);
        let policy = format!("value [{}]: ", defaults.cycle.policy);
        assert!(shown.contains(&keep) && shown.contains(&policy), "what an empty answer keeps: {shown}");
        assert_eq!((answers.keep_mb, answers.device.as_deref()), (Some(64), Some("press-7")));
        assert_eq!(answers.key_file.as_deref(), Some("/etc/hone/credentials/mqtt.key"));
        parsed(&answers);
        assert!(interview(&mut &b"22:00-05:00\n"[..], &mut Vec::new(), None).is_err(), "half an interview is none");
    }
}
