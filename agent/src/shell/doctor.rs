//! Looks a gateway over: what is there, what is missing, and what the missing costs. Changes nothing.
mod certificates;
mod databases;
mod disk;
mod input;
mod machine;
mod models;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::config::Config;
use crate::decide::time::Timestamp;
use crate::shell::client::{Client, ClientError};
use crate::shell::mqtt::{self, Denied, MqttSettings, ProbeError};
use crate::shell::parting::is_about_rival;
use crate::shell::paths::Places;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Missing, and many gateways do without.
    Note,
    /// Something will be worse than it could be.
    Warning,
    /// Something does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub found: String,
    /// What that costs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub costs: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Good, found: found.into(), costs: None, next: None }
    }

    fn new(check: &'static str, level: Level, found: impl Into<String>, costs: &str) -> Self {
        Self { check, level, found: found.into(), costs: Some(costs.to_owned()), next: None }
    }

    fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

/// What is looked over.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Where `/sys`, `/proc`, `/etc` and the state directory are found: `/` but in tests.
    pub root: &'a Path,
    /// Settings.
    pub config: &'a Config,
    /// Where the agent lives.
    pub places: &'a Places,
    /// Wall time.
    pub now: Timestamp,
}

impl Subject<'_> {
    /// A path of the gateway below the root; one that is not absolute is meant from where we are.
    fn at(&self, path: &Path) -> PathBuf {
        // It fails for an empty path alone.
        let path = std::path::absolute(path).unwrap_or_default();
        self.root.join(path.strip_prefix("/").unwrap_or(&path))
    }
}

/// Looks at everything; asks the broker only if the running agent is not connected to it.
#[must_use]
pub fn examine(subject: &Subject<'_>) -> Vec<Finding> {
    let mut found = machine::findings(subject);
    found.extend(disk::findings(subject));
    found.extend(models::findings(subject));
    found.extend(databases::findings(subject));
    found.extend(certificates::findings(subject));
    let status = Client::new(&subject.at(&subject.places.socket)).get("/v1/status");
    found.extend(agent(&status));
    let status = status.ok();
    found.extend(input::finding(&subject.config.input.mqtt, status.as_ref()));
    found.push(broker(&subject.config.mqtt, status.as_ref()));
    found
}

fn agent(status: &Result<Value, ClientError>) -> Vec<Finding> {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let costs = "no answers, no records, no drift watch";
            return vec![
                Finding::new("agent", Level::Note, format!("not running, or not ours to ask ({error})"), costs).next(
                    "start it with `systemctl start hone` or `hone run`; ask as root or as a member of group hone",
                ),
            ];
        }
    };
    let mut found = vec![match status["champion"].as_str() {
        Some(champion) => {
            Finding::good("agent", format!("model {} serves", champion.chars().take(12).collect::<String>()))
        }
        None => Finding::new(
            "agent",
            Level::Warning,
            "it runs without a model",
            "samples are recorded, every inference is answered 503 no_model",
        )
        .next("`hone promote model.safetensors`"),
    }];
    for (place, costs) in [
        ("/recorder/state/reason", "records and labels are lost"),
        ("/control/reason", "nothing new is decided: no retrain, no promotion"),
    ] {
        if let Some(reason) = status.pointer(place).and_then(Value::as_str) {
            found.push(
                Finding::new("recorder", Level::Bad, format!("the disk refuses: {reason}"), costs)
                    .next("free space, or mend the disk"),
            );
        }
    }
    found
}

fn broker(settings: &MqttSettings, status: Option<&Value>) -> Finding {
    const CHECK: &str = "broker";
    if !settings.is_on() {
        return Finding::new(
            CHECK,
            Level::Note,
            "no fleet is configured",
            "the device works alone: nobody sees its drift and models from afar",
        )
        .next("set [mqtt], or run `hone init`");
    }
    let link = status.map_or(&Value::Null, |status| &status["link"]);
    if link["state"] == "online" && link["alarm"].is_null() {
        return Finding::good(CHECK, format!("the agent is connected to {}", settings.broker));
    }
    if let Some(rival) = link["alarm"].as_str().filter(|alarm| is_about_rival(alarm)) {
        // Another connection of ours would only be one more.
        return Finding::new(CHECK, Level::Bad, rival, "the link goes up and down, and the fleet sees two devices as one")
            .next("find the other one by its address in the broker's log; enroll it with `hone-fleet enroll` under its own name");
    }
    match mqtt::probe(settings) {
        Ok(denied) => rights(&settings.broker, &denied),
        Err(ProbeError::Unreachable(reason)) => Finding::new(
            CHECK,
            Level::Bad,
            format!("{} does not let us in: {reason}", settings.broker),
            "reports wait on the disk, the oldest signals are given up at `mqtt.outbox_bytes_max`; no commands arrive",
        )
        .next("check name, port, firewall, certificates and access rules; a broker that denies the last will hangs up"),
        Err(error) => Finding::new(CHECK, Level::Bad, error.to_string(), "the agent does not start")
            .next("mend the files that [mqtt] names"),
    }
}

fn rights(broker: &str, denied: &[Denied]) -> Finding {
    const CHECK: &str = "broker";
    let words: Vec<String> = denied
        .iter()
        .map(|denied| match denied {
            Denied::Subscribe => "hearing this device's commands".to_owned(),
            Denied::Publish(code) => format!("reporting (code {code:#04x})"),
        })
        .collect();
    if words.is_empty() {
        return Finding::good(CHECK, format!("{broker} answers and grants commands and reports"));
    }
    let costs = match (denied.contains(&Denied::Subscribe), denied.len()) {
        (true, 1) => "no command reaches this device",
        (false, _) => "nobody sees this device; its reports wait on the disk",
        (true, _) => "the fleet is cut off from this device",
    };
    Finding::new(CHECK, Level::Bad, format!("{broker} denies {}", words.join(" and ")), costs)
        .next("give the device its access rules: `hone-fleet broker` writes them for mosquitto")
}

#[cfg(test)]
mod answers {
    use serde_json::json;

    use super::*;
    use crate::shell::recorder::{RecorderState, RecorderStatus};

    #[test]
    fn rights_that_a_broker_denies_are_named_with_what_they_cost() {
        assert_eq!(rights("mqtt://b", &[]).level, Level::Good);
        let one = rights("mqtt://b", &[Denied::Subscribe]);
        assert_eq!((one.level, one.costs.as_deref()), (Level::Bad, Some("no command reaches this device")));
        let both = rights("mqtt://b", &[Denied::Subscribe, Denied::Publish(0x87)]);
        assert_eq!(both.found, "mqtt://b denies hearing this device's commands and reporting (code 0x87)");
    }

    #[test]
    fn an_agent_that_is_connected_spares_the_broker_a_second_connection() {
        // Nothing listens there: a probe would say so.
        let settings =
            MqttSettings { broker: "mqtt://127.0.0.1:1".into(), device: "press-1".into(), ..MqttSettings::default() };
        let online = json!({"link": {"state": "online"}});
        assert_eq!(broker(&settings, Some(&online)).level, Level::Good);
        assert_eq!(broker(&settings, None).level, Level::Bad);
        assert_eq!(broker(&MqttSettings::default(), None).level, Level::Note);
    }

    #[test]
    fn a_running_agent_without_a_model_or_a_disk_says_so() {
        let levels = |status: Value| agent(&Ok(status)).into_iter().map(|finding| finding.level).collect::<Vec<_>>();
        // As the agent itself tells it.
        let recorder = |state| RecorderStatus { state, ..RecorderStatus::default() };
        let fine =
            json!({"champion": "3f9a", "recorder": recorder(RecorderState::Recording), "control": {"state": "ok"}});
        assert_eq!(levels(fine), [Level::Good]);
        let full = RecorderState::Degraded { reason: "full".to_owned() };
        assert_eq!(levels(json!({"recorder": recorder(full)})), [Level::Warning, Level::Bad]);
        let unstored = json!({"champion": "3f9a", "control": {"state": "degraded", "reason": "read-only"}});
        assert_eq!(levels(unstored), [Level::Good, Level::Bad]);
    }
}
