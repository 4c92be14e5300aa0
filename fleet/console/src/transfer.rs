//! Sending a bundle: the device asks for pieces in the status of its command, and gets them.
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::CHUNK_BYTES_MAX;
use fleet_protocol::names::{DeviceId, Digest};
use fleet_protocol::status::{CommandStatus, Status};
use fleet_protocol::topics::Topic;
use fleet_protocol::transfer::{BUNDLE_BYTES_MAX, Progress, chunks};
use tokio::time::Instant;

use crate::exit::{Exit, Fail};
use crate::session::Session;

/// A piece that was sent is not sent again for so long: it may be on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(4);

/// A bundle in memory, with its name.
pub(crate) struct Bundle {
    bytes: Vec<u8>,
    pub(crate) digest: Digest,
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
        Ok(Self { digest: Digest::of(&bytes), bytes })
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn chunks(&self) -> u32 {
        u32::try_from(chunks(self.size_bytes())).unwrap_or(u32::MAX)
    }
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
            let Some(piece) =
                usize::try_from(index).ok().and_then(|index| self.bundle.bytes.chunks(CHUNK_BYTES_MAX).nth(index))
            else {
                continue;
            };
            let topic = Topic::Chunk { device: device.clone(), digest: self.bundle.digest, index }.to_string();
            // One at a time: the broker's queue for a slow device stays short.
            session.tell(&topic, piece.to_vec()).await?;
            self.sent.insert(key, now);
            self.pieces += 1;
        }
        Ok(())
    }
}
