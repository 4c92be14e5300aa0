//! One connection to the broker: subscribe, read, publish, end. Built for one command.
use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::PACKET_BYTES_MAX;
use fleet_protocol::broker::Broker;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, PubAckReason, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, Incoming, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};
use ulid::Ulid;

use crate::Global;
use crate::exit::{Exit, Fail};

/// The broker must answer within this.
const CONNECT: Duration = Duration::from_secs(10);
/// Packet ids; the client's default takes 14 MB.
const PACKET_IDS: u16 = 16;

/// A message that came.
#[derive(Clone, Debug)]
pub(crate) struct Came {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// Whether the broker had kept it.
    pub(crate) retained: bool,
}

/// A connection.
pub(crate) struct Session {
    client: AsyncClient,
    eventloop: EventLoop,
    waiting: VecDeque<Came>,
    broker: String,
}

/// A way to a broker.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) broker: Broker,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) client_id: String,
}

impl Door {
    /// The way that the arguments name.
    pub(crate) fn of(global: &Global) -> Result<Self> {
        let client_id = format!("hone-fleet-{}", Ulid::generate().to_string().to_lowercase());
        let tls = if global.broker.tls { Some(Arc::new(client_config(global)?)) } else { None };
        Ok(Self { broker: global.broker.clone(), tls, client_id })
    }
}

/// Runs one command's conversation with the broker.
pub(crate) fn talk<T>(conversation: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(conversation)
}

impl Session {
    /// Connects and subscribes to `filters`.
    pub(crate) async fn open(global: &Global, filters: Vec<String>) -> Result<Self> {
        Self::enter(&Door::of(global)?, filters).await
    }

    /// The same through a door of one's own.
    pub(crate) async fn enter(door: &Door, filters: Vec<String>) -> Result<Self> {
        let mut options = MqttOptions::new(door.client_id.clone(), &door.broker.host, door.broker.port);
        options
            .set_keep_alive(Duration::from_secs(30))
            .set_outgoing_inflight_upper_limit(PACKET_IDS)
            .set_max_packet_size(Some(u32::try_from(PACKET_BYTES_MAX)?));
        if let Some(tls) = &door.tls {
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::clone(tls))));
        }
        let (client, eventloop) = AsyncClient::new(options, 16);
        let broker = door.broker.to_string();
        let mut session = Self { client, eventloop, waiting: VecDeque::new(), broker };
        let filters = filters.into_iter().map(|filter| Filter::new(filter, QoS::AtLeastOnce));
        session.client.try_subscribe_many(filters)?;
        session.wait(CONNECT, |event| matches!(event, Incoming::SubAck(_)).then_some(())).await?;
        Ok(session)
    }

    /// The next message; none if `until` passes before one comes.
    pub(crate) async fn next(&mut self, until: Instant) -> Result<Option<Came>> {
        loop {
            if let Some(came) = self.waiting.pop_front() {
                return Ok(Some(came));
            }
            match timeout_at(until, self.eventloop.poll()).await {
                Err(_) => return Ok(None),
                Ok(Ok(event)) => self.keep(&event),
                Ok(Err(error)) => return Err(self.unreachable(&error.to_string()).into()),
            }
        }
    }

    /// Everything that comes until nothing retained has come for `quiet`, at most for `longest`.
    pub(crate) async fn all(&mut self, quiet: Duration, longest: Duration) -> Result<Vec<Came>> {
        let end = Instant::now() + longest;
        let (mut all, mut silent_at) = (Vec::new(), Instant::now() + quiet);
        while let Some(came) = self.next(end.min(silent_at)).await? {
            // A busy fleet is never silent; what it says now is taken along.
            if came.retained {
                silent_at = Instant::now() + quiet;
            }
            all.push(came);
        }
        Ok(all)
    }

    /// Publishes a retained message and waits until the broker has it.
    pub(crate) async fn publish(&mut self, topic: &str, payload: Vec<u8>, expires_s: Option<u32>) -> Result<()> {
        let properties = PublishProperties { message_expiry_interval: expires_s, ..PublishProperties::default() };
        self.client.try_publish_with_properties(topic, QoS::AtLeastOnce, true, payload, properties)?;
        match self.acknowledged().await? {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
            reason => Err(Fail::new(Exit::Refused, format!("the broker refuses the message: {reason:?}"))
                .hint("check the access rules of this certificate")
                .into()),
        }
    }

    /// Publishes a message that is not retained; returns what the broker says of it.
    pub(crate) async fn tell(&mut self, topic: &str, payload: Vec<u8>) -> Result<PubAckReason> {
        self.client.try_publish(topic, QoS::AtLeastOnce, false, payload)?;
        self.acknowledged().await
    }

    async fn acknowledged(&mut self) -> Result<PubAckReason> {
        self.wait(CONNECT, |event| match event {
            Incoming::PubAck(answer) => Some(answer.reason),
            _ => None,
        })
        .await
    }

    async fn wait<T>(&mut self, longest: Duration, wanted: impl Fn(&Incoming) -> Option<T>) -> Result<T> {
        let end = Instant::now() + longest;
        loop {
            match timeout_at(end, self.eventloop.poll()).await {
                Err(_) => return Err(self.unreachable("no answer in time").into()),
                Ok(Err(error)) => return Err(self.unreachable(&error.to_string()).into()),
                Ok(Ok(event)) => {
                    self.keep(&event);
                    if let Event::Incoming(incoming) = &event
                        && let Some(found) = wanted(incoming)
                    {
                        return Ok(found);
                    }
                }
            }
        }
    }

    fn keep(&mut self, event: &Event) {
        if let Event::Incoming(Incoming::Publish(message)) = event {
            let topic = String::from_utf8_lossy(&message.topic).into_owned();
            self.waiting.push_back(Came { topic, payload: message.payload.to_vec(), retained: message.retain });
        }
    }

    fn unreachable(&self, reason: &str) -> Fail {
        let hint = next_step(reason);
        Fail::new(Exit::Unreachable, format!("the broker {} does not answer: {reason}", self.broker)).hint(hint)
    }
}

/// What to do about the words of TLS and the client, which name no option of ours.
fn next_step(reason: &str) -> &'static str {
    let steps = [
        ("CertificateRequired", "it asks who we are: name --certificate and --certificate-key"),
        ("received fatal alert", "it does not take our certificate: name one of its own authority with --certificate"),
        ("not valid for name", "name the broker as its certificate does, the --host of `hone-fleet broker write`"),
        (
            "invalid peer certificate",
            "it is of another authority: name its own with --ca, or it is not the broker you mean",
        ),
        ("refused", "nobody listens there: start the broker, or name its host and port with --broker"),
        ("lookup", "name a host that is there with --broker"),
        ("reset by peer", "it may want encryption: name it with --broker mqtts://HOST:PORT and --ca"),
    ];
    let known = steps.iter().find(|(word, _)| reason.contains(word));
    known.map_or("name it with --broker, and its certificate authority with --ca", |(_, step)| *step)
}

fn client_config(global: &Global) -> Result<ClientConfig> {
    let Some(ca) = &global.ca else {
        return Err(Fail::new(Exit::Usage, "an encrypted broker needs --ca FILE")
            .hint("that is `ca.pem` in the folder of `hone-fleet broker write`")
            .into());
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    Ok(match (&global.certificate, &global.certificate_key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| unusable(key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                Fail::new(Exit::Input, format!("certificate and key do not fit together: {error}"))
                    .hint("name the two that `hone-fleet broker write` has made together")
            })?
        }
        _ => builder.with_no_client_auth(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    Ok(fs::read(path).map_err(|error| unusable(path, &error))?)
}

fn unusable(path: &Path, error: &impl std::fmt::Display) -> Fail {
    Fail::new(Exit::Input, format!("{}: {error}", path.display()))
        .hint("name a PEM file with --ca, --certificate and --certificate-key, as `hone-fleet broker write` makes them")
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| unusable(path, &error))?;
    if found.is_empty() {
        return Err(unusable(path, &"no certificate").into());
    }
    Ok(found)
}
