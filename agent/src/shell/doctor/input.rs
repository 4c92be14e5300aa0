//! The local broker that samples come from: whether it lets us in and read.
use serde_json::Value;

use super::{Finding, Level};
use crate::shell::ingest::mqtt;
use crate::shell::ingest::settings::InputMqttSettings;

const CHECK: &str = "input";

/// Asks the running agent if there is one, else the broker; nothing where no broker is named.
pub(super) fn finding(settings: &InputMqttSettings, status: Option<&Value>) -> Option<Finding> {
    let running = status.and_then(|status| status.pointer("/input/mqtt"));
    let answer = match running.map(|input| (input["state"].as_str(), input["reason"].as_str())) {
        Some((Some("subscribed"), _)) => Some(Ok(())),
        Some((Some("away"), reason)) => Some(Err(reason.unwrap_or("it is away").to_owned())),
        // The agent has not tried yet, or does not run.
        _ => mqtt::probe(settings),
    };
    Some(said(settings, answer?))
}

fn said(settings: &InputMqttSettings, answer: Result<(), String>) -> Finding {
    let broker = &settings.broker;
    match answer {
        Ok(()) => Finding::good(CHECK, format!("{broker} lets us read {} topics", settings.topics.len())),
        Err(reason) => Finding::new(
            CHECK,
            Level::Bad,
            format!("{broker}: {reason}"),
            "no sample and no label comes in from there; what is sent to the agent itself is answered",
        )
        .next("start it, or look at `input.mqtt.user`, the password file, and the broker's access list"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(port: u16) -> InputMqttSettings {
        InputMqttSettings { broker: format!("mqtt://127.0.0.1:{port}"), ..InputMqttSettings::default() }
    }

    #[test]
    fn what_the_running_agent_says_of_its_broker_counts_and_without_it_the_broker_is_asked() {
        let level = |status: Value| finding(&settings(1), Some(&status)).unwrap().level;
        assert_eq!(level(json!({"input": {"mqtt": {"state": "subscribed"}}})), Level::Good);
        assert_eq!(level(json!({"input": {"mqtt": {"state": "away", "reason": "NotAuthorized"}}})), Level::Bad);
        // A port that was just given back: nobody listens there.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let found = finding(&settings(free), None).unwrap();
        assert_eq!(found.level, Level::Bad);
        assert!(found.found.contains("refused"), "{}", found.found);
        assert_eq!(finding(&InputMqttSettings::default(), None), None, "no broker is named");
    }

    #[test]
    fn a_password_file_that_cannot_be_read_is_named() {
        let own = InputMqttSettings {
            user: Some("gate".to_owned()),
            password_file: Some("/no/such/password".into()),
            ..settings(1)
        };
        let found = finding(&own, None).unwrap();
        assert!(found.found.contains("/no/such/password"), "{}", found.found);
    }
}
