//! A client with a certificate of its own that tries things: what it is told, and what it hears.
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::broker::Broker;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::Instant;

use crate::authority::Issued;
use crate::exit::{Exit, Fail};
use crate::session::{Door, Session};

/// A message that is allowed comes within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connected client.
pub(super) struct Probe {
    pub(super) session: Session,
    /// Marks that have come: overlapping subscriptions bring each more than once.
    marks: BTreeSet<String>,
}

/// A way in for whoever holds `issued`, or nothing.
pub(super) fn door(broker: &Broker, authority: &str, issued: Option<&Issued>, client_id: &str) -> Result<Door> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match issued {
        Some(issued) => {
            let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?)?
        }
        None => builder.with_no_client_auth(),
    };
    let tls = broker.tls.then(|| Arc::new(config));
    Ok(Door { broker: broker.clone(), tls, client_id: client_id.to_owned() })
}

impl Probe {
    pub(super) async fn enter(door: &Door, filters: &[String]) -> Result<Self> {
        Ok(Self { session: Session::enter(door, filters.to_vec()).await?, marks: BTreeSet::new() })
    }

    /// Publishes and says nothing of the answer: what is delivered counts.
    pub(super) async fn say(&mut self, topic: &str, word: &str) -> Result<()> {
        self.session.tell(topic, word.as_bytes().to_vec()).await?;
        Ok(())
    }

    /// Reads until `marker` comes; returns every word that came before.
    pub(super) async fn hear(&mut self, marker: &str) -> Result<Vec<String>> {
        let mut heard = Vec::new();
        let end = Instant::now() + PATIENCE;
        while let Some(came) = self.session.next(end).await? {
            let word = String::from_utf8_lossy(&came.payload).into_owned();
            if word == marker {
                self.marks.insert(word);
                return Ok(heard);
            }
            if !self.marks.contains(&word) {
                heard.push(word);
            }
        }
        Err(Fail::new(Exit::Refused, format!("a message that must be delivered was not: {marker}"))
            .hint("the access rules forbid what a fleet needs, or another client uses these names")
            .into())
    }
}
