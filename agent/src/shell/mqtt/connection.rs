//! One connection to the broker: the only file that knows the MQTT client. Built for one connection and thrown away with it.
//!
//! What the client is known for, and the answer here (numbers of its issues in reference order):
//! a lost session drops what it holds, a collision is never cleared, packet ids run past a lowered limit, aliases outlive a
//! connection: each connection has a new client, and the outbox sends again. It deadlocks when the polling task publishes:
//! that task does nothing but poll. It takes 10 KiB at most, unannounced: the limit is set and announced. It preallocates
//! 14 MB: 64 packet ids. It spins on errors: the task ends at the first one. It logs refusals: their code is read here.
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fleet_protocol::PACKET_BYTES_MAX;
use fleet_protocol::broker::Broker;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, LastWill, LastWillProperties, PubAckReason, PublishProperties, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming, MqttOptions};
use rumqttc::{Outgoing, TlsConfiguration, Transport};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::settings::MqttSettings;
use crate::shell::parting::is_taken_over;
use crate::shell::systemd::credential;

/// Messages in flight; below the 20 that mosquitto grants.
pub(super) const WINDOW: usize = 16;
/// Packet ids of the client: a broker may acknowledge this far out of order before two meet.
const PACKET_IDS: u16 = 64;
/// Requests that may wait for the polling task: a window, the subscription, and what needs no acknowledgement.
const REQUESTS: usize = 4 * WINDOW;
/// Events that may wait for the link: chunks of a bundle are 128 KiB each.
const HEARD: usize = 32;
/// The client's own limit for reaching the broker, with name resolution and TLS.
const CONNECT_S: u64 = 10;
/// A session outlives its connection by this, beyond the will's delay: a will is sent at the latest when its session ends.
const SESSION_S: u32 = 30;

/// One message to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) delivery: fleet_protocol::topics::Delivery,
    pub(super) schema: &'static str,
    pub(super) expires_s: Option<u32>,
    pub(super) content: Content,
}

/// How a payload is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Json,
    Cbor,
}

/// Names a message until it is acknowledged; the caller's own.
pub(super) type Token = u64;

/// What came from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The connection stands.
    Accepted { packet_bytes_max: usize },
    /// The subscription was answered.
    Subscribed { granted: bool },
    /// A message is the broker's now.
    Taken(Token),
    /// The broker will not have it.
    Refused(Token, Refused),
    /// A message.
    Message { topic: String, payload: Vec<u8> },
    /// It lives.
    Alive,
    /// The end: the broker has given our name to another client.
    TakenOver,
    /// The end.
    Lost(String),
}

/// Why a broker refuses a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// MQTT 5 reason code.
    pub(super) code: u8,
    /// Whether no broker will ever take it: its topic or its payload is wrong. All else may be granted later.
    pub(super) for_good: bool,
}

/// Why the files of an encrypted link cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} is not {what} in PEM: {source}")]
    Pem {
        /// Which.
        path: String,
        /// What it should be.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// They do not fit together.
    #[error("certificate and key are refused: {0}")]
    Refused(#[from] rustls::Error),
}

/// Everything a connection needs but its session.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) broker: Broker,
    pub(super) client_id: String,
    pub(super) keep_alive: Duration,
    pub(super) will_delay_s: u32,
    tls: Option<Arc<ClientConfig>>,
}

impl Dial {
    /// Reads the files once, so that a wrong one is told at the start.
    pub(super) fn new(broker: Broker, settings: &MqttSettings) -> Result<Self, TlsError> {
        let tls = if broker.tls { Some(Arc::new(client_config(settings)?)) } else { None };
        Ok(Self {
            broker,
            client_id: settings.device.clone(),
            keep_alive: settings.sign_of_life(),
            will_delay_s: settings.will_delay_s,
            tls,
        })
    }

    /// What every connection to this broker needs, without a will or a session.
    pub(super) fn plain(&self) -> MqttOptions {
        let mut options = MqttOptions::new(&self.client_id, &self.broker.host, self.broker.port);
        if let Some(config) = &self.tls {
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::clone(config))));
        }
        options
            .set_keep_alive(self.keep_alive)
            .set_connection_timeout(CONNECT_S)
            .set_outgoing_inflight_upper_limit(PACKET_IDS)
            .set_max_packet_size(Some(u32::try_from(PACKET_BYTES_MAX).unwrap_or(u32::MAX)))
            .set_topic_alias_max(Some(0));
        options
    }

    fn options(&self, will: &Message) -> MqttOptions {
        let mut options = self.plain();
        let properties = LastWillProperties {
            delay_interval: Some(self.will_delay_s),
            payload_format_indicator: Some(1),
            message_expiry_interval: None,
            content_type: Some("application/json".to_owned()),
            response_topic: None,
            correlation_data: None,
            user_properties: vec![("schema".to_owned(), will.schema.to_owned())],
        };
        options
            // A resumed session would bring back what an older client had asked for, under packet ids this one does not know.
            .set_clean_start(true)
            .set_session_expiry_interval(Some(self.will_delay_s.saturating_add(SESSION_S)))
            .set_last_will(LastWill::new(
                will.topic.clone(),
                will.payload.clone(),
                QoS::AtLeastOnce,
                true,
                Some(properties),
            ));
        options
    }
}

fn client_config(settings: &MqttSettings) -> Result<ClientConfig, TlsError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &settings.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate)?;
        }
    }
    // By name: another dependency with another provider must not change the choice, or make it fail.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match (&settings.certificate_file, &settings.key_file) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let (path, bytes) = (key.display().to_string(), read(key)?);
            let key = PrivateKeyDer::from_pem_slice(&bytes);
            let key = key.map_err(|source| TlsError::Pem { path, what: "a private key", source })?;
            builder.with_client_auth_cert(chain, key)?
        }
        _ => builder.with_no_client_auth(),
    })
}

/// A relative path is looked for among the credentials of the service first (`LoadCredential=` of its unit).
fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(credential(path)).map_err(|source| TlsError::Read { path: path.display().to_string(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let wrong = |source| TlsError::Pem { path: path.display().to_string(), what: "a certificate", source };
    let found = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    if found.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(found) }
}

/// One connection.
pub(super) struct Connection {
    client: AsyncClient,
    heard: mpsc::Receiver<Heard1>,
    polling: JoinHandle<()>,
    /// Handed to the client, packet id not known yet; in the order they were handed over.
    sent: VecDeque<Token>,
    in_flight: BTreeMap<u16, Token>,
}

/// An event of the client, as far as it matters.
enum Heard1 {
    Told(Heard),
    Numbered(u16),
    Acknowledged(u16, PubAckReason),
}

impl Connection {
    /// Begins to connect.
    pub(super) fn open(dial: &Dial, will: &Message) -> Self {
        let (client, eventloop) = AsyncClient::new(dial.options(will), REQUESTS);
        let (told, heard) = mpsc::channel(HEARD);
        let polling = tokio::spawn(poll(eventloop, told));
        Self { client, heard, polling, sent: VecDeque::new(), in_flight: BTreeMap::new() }
    }

    /// Whether one more acknowledged message may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.sent.len() + self.in_flight.len() < WINDOW
    }

    /// Asks for the messages of `filter`; false if the client takes nothing any more.
    pub(super) fn subscribe(&self, filter: String) -> bool {
        self.client.try_subscribe(filter, QoS::AtLeastOnce).is_ok()
    }

    /// Hands a message over without waiting; false if the client takes nothing any more. The token comes back with the
    /// acknowledgement, unless none is asked for.
    pub(super) fn publish(&mut self, token: Token, message: &Message) -> bool {
        use fleet_protocol::topics::Delivery;
        let (qos, retain) = match message.delivery {
            Delivery::AtMostOnce => (QoS::AtMostOnce, false),
            Delivery::AtLeastOnce => (QoS::AtLeastOnce, false),
            Delivery::Retained => (QoS::AtLeastOnce, true),
        };
        let properties = PublishProperties {
            payload_format_indicator: Some(u8::from(message.content == Content::Json)),
            message_expiry_interval: message.expires_s,
            user_properties: vec![("schema".to_owned(), message.schema.to_owned())],
            content_type: Some(match message.content {
                Content::Json => "application/json".to_owned(),
                Content::Cbor => "application/cbor".to_owned(),
            }),
            ..PublishProperties::default()
        };
        let payload = message.payload.clone();
        let taken = self.client.try_publish_with_properties(&message.topic, qos, retain, payload, properties).is_ok();
        if taken && qos == QoS::AtLeastOnce {
            self.sent.push_back(token);
        }
        taken
    }

    /// Says goodbye: the broker forgets the will.
    pub(super) fn goodbye(&self) {
        // A connection that takes nothing any more ends by itself.
        let _ = self.client.try_disconnect();
    }

    /// What comes next; after [`Heard::Lost`] or [`Heard::TakenOver`] nothing does. May be cancelled.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            match self.heard.recv().await {
                None => return Heard::Lost("the connection has ended".to_owned()),
                Some(Heard1::Told(heard)) => return heard,
                Some(Heard1::Numbered(packet)) => {
                    // The client numbers requests in the order they were handed over, and nobody else hands any over.
                    if let Some(token) = self.sent.pop_front() {
                        self.in_flight.insert(packet, token);
                    }
                }
                Some(Heard1::Acknowledged(packet, reason)) => {
                    if let Some(token) = self.in_flight.remove(&packet) {
                        return refused(reason).map_or(Heard::Taken(token), |refused| Heard::Refused(token, refused));
                    }
                }
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

/// What comes next on the connection; nothing ever while there is none.
pub(super) async fn next(connection: &mut Option<Connection>) -> Heard {
    match connection {
        Some(connection) => connection.next().await,
        None => std::future::pending().await,
    }
}

/// Reasons other than "taken": nobody subscribed is as good as taken.
fn refused(reason: PubAckReason) -> Option<Refused> {
    let (code, for_good) = match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => return None,
        PubAckReason::UnspecifiedError => (0x80, false),
        PubAckReason::ImplementationSpecificError => (0x83, false),
        PubAckReason::NotAuthorized => (0x87, false),
        PubAckReason::TopicNameInvalid => (0x90, true),
        PubAckReason::PacketIdentifierInUse => (0x91, false),
        PubAckReason::QuotaExceeded => (0x97, false),
        PubAckReason::PayloadFormatInvalid => (0x99, true),
    };
    Some(Refused { code, for_good })
}

async fn poll(mut eventloop: EventLoop, told: mpsc::Sender<Heard1>) {
    loop {
        let heard = match eventloop.poll().await {
            Ok(event) => understood(event),
            Err(error) if is_taken_over(&error) => Some(Heard1::Told(Heard::TakenOver)),
            Err(error) => Some(Heard1::Told(Heard::Lost(error.to_string()))),
        };
        let Some(heard) = heard else { continue };
        let last = matches!(heard, Heard1::Told(Heard::Lost(_) | Heard::TakenOver));
        if told.send(heard).await.is_err() || last {
            return;
        }
    }
}

fn understood(event: Event) -> Option<Heard1> {
    Some(match event {
        Event::Outgoing(Outgoing::Publish(0)) => return None,
        Event::Outgoing(Outgoing::Publish(packet)) => Heard1::Numbered(packet),
        // Two messages under one packet id: the client would never send again.
        Event::Outgoing(Outgoing::AwaitAck(packet)) => {
            Heard1::Told(Heard::Lost(format!("packet id {packet} is used twice: the broker acknowledges out of order")))
        }
        Event::Outgoing(_) => return None,
        Event::Incoming(Incoming::ConnAck(ConnAck { properties, .. })) => {
            let announced = properties.and_then(|properties| properties.max_packet_size);
            let theirs = announced.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(PACKET_BYTES_MAX);
            Heard1::Told(Heard::Accepted { packet_bytes_max: theirs.min(PACKET_BYTES_MAX) })
        }
        Event::Incoming(Incoming::SubAck(answer)) => {
            let granted = answer.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_)));
            Heard1::Told(Heard::Subscribed { granted })
        }
        Event::Incoming(Incoming::PubAck(answer)) => Heard1::Acknowledged(answer.pkid, answer.reason),
        Event::Incoming(Incoming::Publish(message)) => {
            let topic = String::from_utf8_lossy(&message.topic).into_owned();
            Heard1::Told(Heard::Message { topic, payload: message.payload.to_vec() })
        }
        Event::Incoming(_) => Heard1::Told(Heard::Alive),
    })
}

#[cfg(test)]
mod tests;
