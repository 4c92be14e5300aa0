//! Sparkplug B for plant systems, an optional output on a connection of its own: its death must be that connection's last will.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fleet_protocol::names::{DeviceId, Micros};
use fleet_protocol::report::DriftState;
use fleet_protocol::sparkplug::{Kind, Node, Value, orders_rebirth};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::LastWill;
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming};
use serde_json::Value as Json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::connection::Dial;
use super::fleet::FleetError;
use super::payload;
use super::settings::MqttSettings;
use crate::decide::link::{LinkRules, wait};
use crate::shell::clock;
use crate::shell::daemon::{Question, Shared};
use crate::shell::parting::{is_taken_over, taken_over};

/// A host may order a birth as often as it likes; it gets one each so often.
const BIRTHS: Duration = Duration::from_secs(1);
/// What the end may take; the will says the same.
const GOODBYE: Duration = Duration::from_millis(200);

/// The output, ready to begin.
pub(super) struct Sparkplug {
    dial: Dial,
    node: Node,
    every: Duration,
    rules: LinkRules,
}

impl Sparkplug {
    /// Reads the certificates; none if it is not wanted.
    ///
    /// # Errors
    /// [`FleetError`].
    pub(super) fn new(
        settings: &MqttSettings,
        device: &DeviceId,
        rules: &LinkRules,
    ) -> Result<Option<Self>, FleetError> {
        let own = &settings.sparkplug;
        if own.broker == "off" {
            return Ok(None);
        }
        let broker = own.broker.parse().map_err(|_| FleetError::Setting("sparkplug.broker"))?;
        let group = own.group.parse().map_err(|_| FleetError::Setting("sparkplug.group"))?;
        let mut dialled = settings.clone();
        dialled.device = format!("{device}-sparkplug");
        dialled.ca_file = own.ca_file.clone().or(dialled.ca_file);
        (dialled.certificate_file, dialled.key_file) = (own.certificate_file.clone(), own.key_file.clone());
        let dial = Dial::new(broker, &dialled)?;
        // Two starts of the agent have different numbers, as far as one byte can tell.
        let start = u8::try_from(clock::now().0 / 1_000_000 % 256).unwrap_or(0);
        let node = Node::new(group, device.clone(), start);
        // Draws of its own: both connections are lost at once where one broker serves both.
        let rules = LinkRules { seed: !rules.seed, ..*rules };
        Ok(Some(Self { dial, node, every: Duration::from_secs(settings.report_s), rules }))
    }

    /// Connects, tells, and connects again until `stop` says so.
    pub(super) fn start(self, shared: Arc<Shared>, mut stop: watch::Receiver<bool>) -> JoinHandle<()> {
        tokio::spawn(async move {
            let Self { dial, mut node, every, rules } = self;
            let mut failures = 0;
            loop {
                let begun = Instant::now();
                let mut connection = Connection::open(&dial, node, every);
                let ended = tokio::select! {
                    reason = connection.live(&shared) => Some(reason),
                    _ = stop.changed() => None,
                };
                let Some(reason) = ended else {
                    let _ = timeout(GOODBYE, connection.goodbye()).await;
                    return;
                };
                tracing::warn!(reason, "the output for Sparkplug hosts is down");
                node = connection.node.disconnected();
                failures = if begun.elapsed() >= rules.steady { 0 } else { failures };
                tokio::select! {
                    () = sleep(wait(failures, &rules)) => {}
                    _ = stop.changed() => return,
                }
                failures = failures.saturating_add(1);
            }
        })
    }
}

struct Connection {
    client: AsyncClient,
    eventloop: EventLoop,
    /// Who we are to the broker.
    name: String,
    node: Node,
    every: Duration,
    births: Births,
}

/// When a birth was made last, and whether another is wanted.
#[derive(Debug)]
struct Births {
    last: Option<Instant>,
    wanted: bool,
}

impl Births {
    /// A host orders one; returns when it is made, however often it is ordered until then.
    fn ordered(&mut self, now: Instant) -> Instant {
        self.wanted = true;
        self.last.map_or(now, |last| now.max(last + BIRTHS))
    }

    fn made(&mut self, now: Instant) {
        *self = Self { last: Some(now), wanted: false };
    }
}

fn now_ms() -> u64 {
    u64::try_from(clock::now().0 / 1_000).unwrap_or(0)
}

impl Connection {
    fn open(dial: &Dial, node: Node, every: Duration) -> Self {
        let mut options = dial.plain();
        let will = LastWill::new(node.topic(Kind::Death), node.death(now_ms()), QoS::AtLeastOnce, false, None);
        // As the specification has it: nothing of an earlier session.
        options.set_clean_start(true).set_session_expiry_interval(Some(0)).set_last_will(will);
        let (client, eventloop) = AsyncClient::new(options, 16);
        Self {
            client,
            eventloop,
            name: dial.client_id.clone(),
            node,
            every,
            births: Births { last: None, wanted: true },
        }
    }

    /// Tells until the connection ends; returns why.
    async fn live(&mut self, shared: &Shared) -> String {
        let mut tell_at = None;
        loop {
            let next = tell_at;
            let tell = async move {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                polled = self.eventloop.poll() => match polled {
                    Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                        tracing::info!("the output for Sparkplug hosts is up");
                        if self.client.try_subscribe(self.node.topic(Kind::Command), QoS::AtLeastOnce).is_err() {
                            return "the client takes no subscription".to_owned();
                        }
                    }
                    // After the answer, so that no order for a birth is missed.
                    Ok(Event::Incoming(Incoming::SubAck(_))) => tell_at = Some(Instant::now()),
                    Ok(Event::Incoming(Incoming::Publish(message))) if orders_rebirth(&message.payload) => {
                        let due = self.births.ordered(Instant::now());
                        tell_at = Some(tell_at.map_or(due, |at| due.min(at)));
                    }
                    Ok(_) => {}
                    Err(error) if is_taken_over(&error) => {
                        return taken_over(&self.name, "`mqtt.device` and `mqtt.sparkplug.certificate_file`");
                    }
                    Err(error) => return error.to_string(),
                },
                () = tell => {
                    let facts = facts(shared).await;
                    let message = if self.births.wanted {
                        Some((Kind::Birth, self.node.birth(now_ms(), facts)))
                    } else {
                        self.node.tell(now_ms(), facts)
                    };
                    if let Some((kind, bytes)) = message {
                        if kind == Kind::Birth {
                            self.births.made(Instant::now());
                        }
                        if self.client.try_publish(self.node.topic(kind), QoS::AtMostOnce, false, bytes).is_err() {
                            return "the client takes no more messages".to_owned();
                        }
                    }
                    tell_at = Some(Instant::now() + self.every);
                }
            }
        }
    }

    /// Says that it dies, and ends the connection.
    async fn goodbye(&mut self) {
        let death = self.node.death(now_ms());
        if self.client.try_publish(self.node.topic(Kind::Death), QoS::AtLeastOnce, false, death).is_err() {
            return;
        }
        while let Ok(event) = self.eventloop.poll().await {
            if matches!(event, Event::Incoming(Incoming::PubAck(_))) {
                let _ = self.client.try_disconnect();
            }
        }
    }
}

/// What a plant system may want to draw or to alarm on.
async fn facts(shared: &Shared) -> BTreeMap<String, Value> {
    let ask = async |question| shared.ask(question).await.unwrap_or_default();
    let (status, models, drift) =
        (ask(Question::Status).await, ask(Question::Models).await, ask(Question::Drift).await);
    metrics(&status, &models, &drift)
}

fn metrics(status: &Json, models: &Json, drift: &Json) -> BTreeMap<String, Value> {
    let ts = Micros(0);
    let model = payload::model(status, models, ts, ts);
    let drift = payload::drift(drift, ts, clock::trust());
    let word = |value: serde_json::Result<Json>| {
        let value: Json = value.unwrap_or_default();
        Value::Text(value.as_str().unwrap_or_default().to_owned())
    };
    let champion = model.champion.map_or_else(String::new, |champion| champion.digest.to_string());
    let drifting = drift.measures.values().filter(|measure| measure.state == DriftState::Drift).count();
    let number = |key: &str| Value::Long(status[key].as_u64().unwrap_or(0));
    let mut metrics = BTreeMap::from([
        ("Agent/Version".to_owned(), Value::Text(env!("CARGO_PKG_VERSION").to_owned())),
        ("Model/Champion".to_owned(), Value::Text(champion)),
        ("Model/Phase".to_owned(), word(serde_json::to_value(&model.phase))),
        ("Model/Canary Percent".to_owned(), Value::Int(model.canary_percent.into())),
        ("Model/Frozen".to_owned(), Value::Boolean(model.frozen_until.is_some())),
        ("Samples".to_owned(), number("samples")),
        ("Labels".to_owned(), number("labels")),
        ("Drift/In Alarm".to_owned(), Value::Int(u32::try_from(drifting).unwrap_or(u32::MAX))),
    ]);
    if let Some(loss) = status["loss"]["mean"].as_f64() {
        metrics.insert("Model/Recent Loss".to_owned(), Value::Double(loss));
    }
    for (name, measure) in &drift.measures {
        metrics.insert(format!("Drift/Measures/{name}"), Value::Double(measure.value));
    }
    metrics
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_host_that_orders_births_without_end_gets_one_a_second() {
        let (begun, ms) = (Instant::now(), Duration::from_millis);
        let mut births = Births { last: None, wanted: true };
        assert_eq!(births.ordered(begun), begun);
        births.made(begun);
        for order in 1..20 {
            assert_eq!(births.ordered(begun + ms(10 * order)), begun + BIRTHS, "order {order}");
        }
        assert!(births.wanted);
        births.made(begun + BIRTHS);
        assert!(!births.wanted);
        assert_eq!(births.ordered(begun + ms(2_500)), begun + ms(2_500), "one that comes later is heard at once");
    }

    #[test]
    fn a_device_without_a_model_and_one_with_drift_are_told_in_plain_numbers() {
        let nothing = metrics(&json!({"state": "no_model"}), &json!({}), &json!({"state": "no_model"}));
        assert_eq!(nothing["Model/Phase"], Value::Text("no_model".to_owned()));
        let column = json!({"name": "x", "psi": {"value": 0.3, "p": 0.01}, "standing": "alarmed", "rows": 200});
        let drift = json!({"psi_threshold": 0.25, "features": [column]});
        let status =
            json!({"champion": "ab".repeat(32), "samples": 7, "labels": 3, "loss": {"mean": 0.5, "labels": 3}});
        let told = metrics(&status, &json!({}), &drift);
        assert_eq!((&told["Drift/In Alarm"], &told["Drift/Measures/x"]), (&Value::Int(1), &Value::Double(0.3)));
        assert_eq!((&told["Samples"], &told["Model/Recent Loss"]), (&Value::Long(7), &Value::Double(0.5)));
        assert_eq!((&told["Labels"], &told["Model/Champion"]), (&Value::Long(3), &Value::Text("ab".repeat(32))));
        assert_eq!((&told["Model/Frozen"], &told["Model/Canary Percent"]), (&Value::Boolean(false), &Value::Int(0)));
        assert_eq!(told["Agent/Version"], Value::Text(env!("CARGO_PKG_VERSION").to_owned()));
        let rollout = json!({"phase": "trial", "stage": "canary", "canary_percent": 25});
        let tried = json!({"champion": "ab".repeat(32), "rollout": rollout, "frozen": {"until_us": 9}});
        let told = metrics(&tried, &json!({}), &json!({}));
        assert_eq!((&told["Model/Frozen"], &told["Model/Canary Percent"]), (&Value::Boolean(true), &Value::Int(25)));
        assert_eq!(told["Model/Phase"], Value::Text("canary".to_owned()));
    }
}
