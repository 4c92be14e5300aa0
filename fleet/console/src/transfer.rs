//! Sending a bundle: the device asks for pieces in the status of its command, and gets them.
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use fleet_protocol::envelope::{Envelope, Payload as _};
use fleet_protocol::keys::Role;
use fleet_protocol::names::{DeviceId, Digest};
use fleet_protocol::order::BundleStatement;
use fleet_protocol::status::{CommandStatus, Status};
use fleet_protocol::topics::Topic;
use fleet_protocol::transfer::{BUNDLE_BYTES_MAX, Progress, chunks};
use fleet_protocol::{API, CHUNK_BYTES_MAX, Extra};
use serde_json::Value;
use tokio::time::Instant;

use crate::exit::{Exit, Fail};
use crate::orders::now;
use crate::session::Session;

/// A piece that was sent is not sent again for so long: it may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(4);

/// A bundle in memory, with its name and its signature.
pub(crate) struct Bundle {
    bytes: Vec<u8>,
    pub(crate) digest: Digest,
    /// What `FILE.dsse` beside it holds, else what was signed for this transfer.
    signature: Option<Envelope>,
}

/// Sends the pieces of one bundle to those who ask.
pub(crate) struct Sender {
    bundle: Bundle,
    sent: BTreeMap<(DeviceId, u32), Instant>,
    /// Pieces sent so far.
    pub(crate) pieces: u64,
}

impl Bundle {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let hint = "name a bundle, as `hone train -o FILE` writes it";
        let bytes = std::fs::read(path)
            .map_err(|error| Fail::new(Exit::Input, format!("{}: {error}", path.display())).hint(hint))?;
        if bytes.is_empty() || bytes.len() as u64 > BUNDLE_BYTES_MAX {
            let text = format!("{}: {} bytes, 1 to {BUNDLE_BYTES_MAX} can be sent", path.display(), bytes.len());
            return Err(Fail::new(Exit::Input, text).hint(hint).into());
        }
        if manifest(&bytes).is_none() {
            return Err(Fail::new(Exit::Input, format!("{}: no bundle", path.display())).hint(hint).into());
        }
        let digest = Digest::of(&bytes);
        let signature = beside(path, digest)?;
        Ok(Self { bytes, digest, signature })
    }

    /// Signs it as an operator, unless somebody has signed it already.
    pub(crate) fn sign(&mut self, keys: &[SigningKey]) {
        if self.signature.is_some() {
            return;
        }
        let statement = BundleStatement {
            v: API,
            digest: self.digest,
            sequence: now().0.unsigned_abs(),
            parent: parent(&self.bytes),
            epoch: 0,
            role: Role::Operator,
            device: None,
            trainable: None,
            extra: Extra::new(),
        };
        self.signature = Some(statement.sign(&keys.iter().collect::<Vec<_>>()));
    }

    /// Its signature, for whoever goes on without a key.
    pub(crate) fn signature(&self) -> Option<Envelope> {
        self.signature.clone()
    }

    /// Takes the signature that was made at the start.
    pub(crate) fn signed(mut self, signature: Option<Envelope>) -> Self {
        self.signature = signature.or(self.signature);
        self
    }

    fn piece(&self, index: u32) -> Option<Vec<u8>> {
        if index == self.chunks() {
            return self.signature.as_ref().map(Envelope::to_json);
        }
        let piece = self.bytes.chunks(CHUNK_BYTES_MAX).nth(usize::try_from(index).ok()?);
        piece.map(<[u8]>::to_vec)
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn chunks(&self) -> u32 {
        u32::try_from(chunks(self.size_bytes())).unwrap_or(u32::MAX)
    }
}

/// The signature in `FILE.dsse` beside a bundle, as `hone model sign` writes it; that of another bundle is a mistake.
fn beside(path: &Path, digest: Digest) -> Result<Option<Envelope>> {
    let path = path.with_extension("dsse");
    let wrong = |reason: String| {
        Fail::new(Exit::Input, format!("{}: {reason}", path.display()))
            .hint("sign the bundle anew with `hone model sign`, or take the file away to sign as an operator")
    };
    let bytes = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| wrong(error.to_string()))?,
    };
    let envelope = Envelope::from_json(&bytes).map_err(|error| wrong(error.to_string()))?;
    let whole: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let payload = whole["payload"].as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    let statement: Option<BundleStatement> = serde_json::from_slice(&payload).ok();
    let signed = statement.ok_or_else(|| wrong("no signature of a bundle".to_owned()))?.digest;
    if signed != digest {
        return Err(wrong(format!("it signs bundle {signed}, this one is {digest}")).into());
    }
    Ok(Some(envelope))
}

/// What it says of itself: safetensors begin with the length of a JSON header.
fn manifest(bytes: &[u8]) -> Option<Value> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let header: Value = serde_json::from_slice(header).ok()?;
    serde_json::from_str(header["__metadata__"]["hone.manifest"].as_str()?).ok()
}

/// The bundle it came from.
fn parent(bytes: &[u8]) -> Option<Digest> {
    manifest(bytes)?["parent"].as_str()?.parse().ok()
}

impl Sender {
    pub(crate) fn new(bundle: Bundle) -> Self {
        Self { bundle, sent: BTreeMap::new(), pieces: 0 }
    }

    /// Sends what `device` asks for in the status of its command.
    pub(crate) async fn answer(
        &mut self,
        session: &mut Session,
        device: &DeviceId,
        status: &CommandStatus,
    ) -> Result<()> {
        if !matches!(status.status, Status::Executing) {
            return Ok(());
        }
        let progress =
            status.extra.get("transfer").cloned().and_then(|value| serde_json::from_value::<Progress>(value).ok());
        let Some(progress) = progress else { return Ok(()) };
        for index in progress.wanted(self.bundle.chunks()) {
            let now = Instant::now();
            let key = (device.clone(), index);
            if self.sent.get(&key).is_some_and(|sent| now < *sent + ON_ITS_WAY) {
                continue;
            }
            let Some(piece) = self.bundle.piece(index) else { continue };
            let topic = Topic::Chunk { device: device.clone(), digest: self.bundle.digest, index }.to_string();
            // One at a time: the broker's queue for a slow device stays short.
            session.tell(&topic, piece).await?;
            self.sent.insert(key, now);
            self.pieces += 1;
        }
        Ok(())
    }
}
