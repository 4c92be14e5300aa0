//! Samples and labels from a broker on this machine or this site: subscribe, map, answer, acknowledge.
//!
//! ```text
//! Away ─ wait, connect ─► Connected ─ granted ─► Subscribed ─► message ─► bounded queue ─► map ─► join ─► answer ─► ack
//!   ▲                                                          QoS 1: the broker holds what does not fit
//!   └──────────────── any error ────────────────────────       QoS 0: dropped and counted
//! ```
//!
//! Messages are acknowledged once they are answered, and no more than fit the queue may wait for that: the broker keeps the
//! rest, also while the agent is away. The link to the fleet is another client and shares nothing with this one.
mod handler;
mod map;
mod probe;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fleet_protocol::broker::Broker;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Publish, SubscribeReasonCode};
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming, MqttOptions};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::settings::InputMqttSettings;
use crate::shell::daemon::Shared;
use crate::shell::parting::{HangUps, hangs_up, is_about_rival, is_taken_over, taken_over};
use handler::Handler;
pub use map::{filter_problem, template_problem};
pub use probe::probe;

/// Largest message: 128 features with long names need some 8 KB.
const MESSAGE_BYTES_MAX: u32 = 256 * 1024;
/// Messages of QoS 0 that may wait beside those that the broker holds back by itself.
const EXTRA: usize = 64;
/// First wait after a lost connection.
const RETRY: Duration = Duration::from_secs(1);
/// Where our name comes from.
const SETTING: &str = "`input.mqtt.client_id`";

/// What came in from the broker, counted since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages.
    messages: AtomicU64,
    /// Rows that were answered.
    answered: AtomicU64,
    /// Labels, whatever became of them.
    labels: AtomicU64,
    /// Labels the disk did not take.
    not_stored: AtomicU64,
    /// Messages that fit no topic entry, or hold no feature of the model.
    unmatched: AtomicU64,
    /// Messages that were refused.
    refused: AtomicU64,
    /// Messages that found the queue full.
    dropped: AtomicU64,
    /// Answers that could not be published.
    unanswered: AtomicU64,
}

impl Counts {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn view(&self, state: &str, reason: Option<&str>) -> Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "state": state,
            "reason": reason,
            "messages": read(&self.messages),
            "answered": read(&self.answered),
            "labels": read(&self.labels),
            "labels_not_stored": read(&self.not_stored),
            "unmatched": read(&self.unmatched),
            "refused": read(&self.refused),
            "dropped": read(&self.dropped),
            "unanswered": read(&self.unanswered),
        })
    }
}

/// How one connection ended.
enum End {
    Stopped,
    Lost(String),
}

/// What one connection leaves to the next.
struct Attempts {
    /// Before the next one.
    wait: Duration,
    /// Since when the broker lets us read.
    subscribed_at: Option<Instant>,
    hang_ups: HangUps,
}

/// Reads until `stopped`; `None` if no broker is named.
#[must_use]
pub fn start(
    settings: &InputMqttSettings,
    shared: Arc<Shared>,
    stopped: watch::Receiver<bool>,
) -> Option<JoinHandle<()>> {
    let broker = settings.address()?;
    Some(tokio::spawn(live(settings.clone(), broker, shared, stopped)))
}

async fn live(settings: InputMqttSettings, broker: Broker, shared: Arc<Shared>, mut stopped: watch::Receiver<bool>) {
    let counts = Arc::new(Counts::default());
    let mut handler = Handler::new(&settings, Arc::clone(&shared), Arc::clone(&counts));
    let mut attempts = Attempts { wait: RETRY, subscribed_at: None, hang_ups: HangUps::default() };
    let longest = Duration::from_secs(settings.retry_max_s);
    loop {
        let mut reason = match connected(&settings, &broker, &mut handler, &mut stopped, &mut attempts).await {
            End::Stopped => return,
            End::Lost(reason) => reason,
        };
        let stood = attempts.subscribed_at.take().map(|at| at.elapsed());
        if attempts.hang_ups.ended(stood) && !is_about_rival(&reason) {
            reason = hangs_up(&settings.client_id, SETTING, &reason);
        }
        if is_about_rival(&reason) {
            // Whoever has our name wants it back as well: the slower both are, the more comes in.
            attempts.wait = longest;
        }
        tracing::warn!(%broker, reason, "no samples come in over MQTT");
        shared.input.send_replace(counts.view("away", Some(&reason)));
        tokio::select! {
            () = tokio::time::sleep(attempts.wait) => {}
            () = ended(&mut stopped) => return,
        }
        attempts.wait = (attempts.wait * 2).min(longest);
    }
}

/// Ends when the agent does; a sender that is gone means the same.
async fn ended(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// One connection, to its end.
async fn connected(
    settings: &InputMqttSettings,
    broker: &Broker,
    handler: &mut Handler,
    stopped: &mut watch::Receiver<bool>,
    attempts: &mut Attempts,
) -> End {
    let options = match options(settings, broker) {
        Ok(options) => options,
        Err(reason) => return End::Lost(reason),
    };
    // Acknowledgements, answers and the subscription must always fit: the task that polls may not wait for itself.
    let (client, eventloop) = AsyncClient::new(options, 4 * usize::from(settings.queue_messages) + EXTRA);
    let (told, mut heard) = mpsc::channel(usize::from(settings.queue_messages) + EXTRA);
    let filters: Vec<_> =
        settings.topics.iter().map(|topic| Filter::new(topic.topic.clone(), QoS::AtLeastOnce)).collect();
    let polling = Polling(tokio::spawn(poll(
        eventloop,
        client.clone(),
        filters,
        told,
        usize::from(settings.queue_messages),
        handler.counts(),
    )));
    let end = loop {
        tokio::select! {
            told = heard.recv() => match told {
                Some(Told::Subscribed) => {
                    (attempts.wait, attempts.subscribed_at) = (RETRY, Some(Instant::now()));
                    tracing::info!(%broker, "samples come in over MQTT");
                    handler.show("subscribed");
                }
                Some(Told::Message(message)) => {
                    handler.message(&message, &client).await;
                    // Acknowledged late, so that what was not answered when we are killed comes again.
                    let _ = client.try_ack(&message);
                    handler.show("subscribed");
                }
                Some(Told::TakenOver) => break End::Lost(taken_over(&settings.client_id, SETTING)),
                Some(Told::Lost(reason)) => break End::Lost(reason),
                None => break End::Lost("the connection has ended".to_owned()),
            },
            () = handler.due() => handler.expire(&client),
            () = ended(stopped) => {
                let _ = client.try_disconnect();
                break End::Stopped;
            }
        }
    };
    drop(polling);
    end
}

fn options(settings: &InputMqttSettings, broker: &Broker) -> Result<MqttOptions, String> {
    let mut options = MqttOptions::new(&settings.client_id, &broker.host, broker.port);
    options
        .set_keep_alive(Duration::from_secs(settings.keep_alive_s))
        .set_clean_start(false)
        .set_session_expiry_interval(Some(settings.session_s))
        .set_connection_timeout(10)
        .set_receive_maximum(Some(settings.queue_messages))
        .set_max_packet_size(Some(MESSAGE_BYTES_MAX))
        .set_topic_alias_max(Some(0))
        .set_outgoing_inflight_upper_limit(settings.queue_messages.max(16))
        .set_manual_acks(true);
    if let Some(user) = &settings.user {
        let password = match &settings.password_file {
            None => String::new(),
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
                text?.lines().next().unwrap_or_default().to_owned()
            }
        };
        options.set_credentials(user, password);
    }
    Ok(options)
}

/// Which topic the broker does not let us read, if there is one.
fn refused_topic(codes: &[SubscribeReasonCode], filters: &[Filter]) -> Option<String> {
    let index = codes.iter().position(|code| !matches!(code, SubscribeReasonCode::Success(_)))?;
    let topic = filters.get(index).map_or("a topic", |filter| filter.path.as_str());
    Some(format!("the broker does not let us read `{topic}`: look at its access list"))
}

/// What the polling task tells.
enum Told {
    Subscribed,
    Message(Publish),
    TakenOver,
    Lost(String),
}

/// The task that polls; it ends with this.
struct Polling(JoinHandle<()>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Does nothing but poll: a client that waits for itself would stand still.
async fn poll(
    mut eventloop: EventLoop,
    client: AsyncClient,
    filters: Vec<Filter>,
    told: mpsc::Sender<Told>,
    reserved: usize,
    counts: Arc<Counts>,
) {
    loop {
        let event = match eventloop.poll().await {
            Ok(event) => event,
            Err(error) => {
                let lost = if is_taken_over(&error) { Told::TakenOver } else { Told::Lost(error.to_string()) };
                let _ = told.send(lost).await;
                return;
            }
        };
        let tell = match event {
            Event::Incoming(Incoming::ConnAck(_)) => {
                // Also for a session that lives on: the topics may have changed.
                if client.try_subscribe_many(filters.clone()).is_err() {
                    Told::Lost("the client takes no subscription".to_owned())
                } else {
                    continue;
                }
            }
            Event::Incoming(Incoming::SubAck(answer)) => {
                refused_topic(&answer.return_codes, &filters).map_or(Told::Subscribed, Told::Lost)
            }
            Event::Incoming(Incoming::Publish(message)) => {
                Counts::add(&counts.messages);
                // What the broker holds back until it is acknowledged always fits: no more of it comes than there is room.
                if message.qos == QoS::AtMostOnce && told.capacity() <= reserved {
                    Counts::add(&counts.dropped);
                    continue;
                }
                // Not reading on is what holds a broker back that sends more than it was told to.
                if told.send(Told::Message(message)).await.is_err() {
                    return;
                }
                continue;
            }
            Event::Incoming(Incoming::Disconnect(_)) => Told::Lost("the broker has ended the connection".to_owned()),
            Event::Incoming(_) | Event::Outgoing(_) => continue,
        };
        let last = matches!(tell, Told::Lost(_));
        if told.send(tell).await.is_err() || last {
            return;
        }
    }
}
