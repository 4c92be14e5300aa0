//! A bundle on its way in: pieces as files until the whole fits its digest, then one file that `model.promote` finds.
//!
//! ```text
//! fleet/incoming/<sha256>/<n> … ─► all there, digest fits, it is a model, ─► fleet/installed/<sha256>.safetensors and .dsse
//!                                  and somebody this device believes signed it
//! ```
//! One bundle at a time, and at most [`INSTALLED_MAX`] that wait for their promotion: the disk stays bounded.
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use fleet_protocol::status::ReasonCode;
use fleet_protocol::transfer::{Pieces, Progress, chunk_bytes};
use trainer_core::bundle;
use trainer_core::digest::Digest;
use ulid::Ulid;

use crate::shell::files::{create_private_folder, remove_durable, write_durable};
use crate::shell::models::{ModelStore, Vault, envelope_path};
use crate::shell::store::StoreError;

/// Bundles that wait for their promotion; the oldest beyond go.
const INSTALLED_MAX: usize = 2;
/// What must stay free on the disk beside twice the bundle.
const SPARE_BYTES: u64 = 16 << 20;

/// Why a bundle is not taken.
pub(super) type Refused = (ReasonCode, String);

/// The signature that came with a bundle of [`installed`].
pub(crate) fn signature(installed: &ModelStore, digest: &Digest) -> Option<Vec<u8>> {
    fs::read(envelope_path(&installed.path(digest))).ok()
}

/// A word of the model store in the words of the fleet.
pub(crate) fn reason_code(word: &str) -> ReasonCode {
    serde_json::from_value(word.into()).unwrap_or_else(|_| ReasonCode::Other(word.to_owned()))
}

/// A bundle on its way in.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The command that announced it.
    pub(super) id: Ulid,
    pub(super) digest: Digest,
    pieces: Pieces,
    size_bytes: u64,
    folder: PathBuf,
}

/// Bundles that are whole and wait for their promotion.
///
/// # Errors
/// The folder cannot be made.
pub(crate) fn installed(state_dir: &Path) -> Result<ModelStore, StoreError> {
    ModelStore::open(&state_dir.join("fleet/installed"), "safetensors")
}

impl Incoming {
    /// Begins, or goes on with what is there; pieces of other bundles go.
    pub(super) fn begin(state_dir: &Path, id: Ulid, digest: Digest, size_bytes: u64) -> Result<Self, Refused> {
        let largest = fleet_protocol::transfer::BUNDLE_BYTES_MAX;
        let too_large = || (ReasonCode::BudgetStorage, format!("a bundle of {size_bytes} bytes, {largest} are taken"));
        let mut pieces = Pieces::new(size_bytes).ok_or_else(too_large)?;
        let root = state_dir.join("fleet/incoming");
        let folder = root.join(digest.to_string());
        create_private_folder(&root).map_err(disk)?;
        for entry in fs::read_dir(&root).map_err(disk)? {
            let other = entry.map_err(disk)?.path();
            if other != folder {
                fs::remove_dir_all(&other).map_err(disk)?;
            }
        }
        create_private_folder(&folder).map_err(disk)?;
        for index in 0..=pieces.signature() {
            let there = fs::metadata(folder.join(index.to_string())).ok().map(|found| found.len());
            let there = there.and_then(|bytes| usize::try_from(bytes).ok());
            if there.is_some_and(|bytes| pieces.wants(index, bytes)) {
                pieces.store(index);
            }
        }
        let room = rustix::fs::statvfs(&folder).map_err(|error| disk(error.into()))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let needed = 2 * size_bytes + SPARE_BYTES;
        if free < needed {
            let _ = fs::remove_dir_all(&folder);
            return Err((ReasonCode::BudgetStorage, format!("{needed} bytes are needed on the disk, {free} are free")));
        }
        Ok(Self { id, digest, pieces, size_bytes, folder })
    }

    /// Stores a piece, if it is one that is missing; returns whether it was.
    pub(super) fn piece(&mut self, index: u32, bytes: &[u8]) -> Result<bool, Refused> {
        if !self.pieces.wants(index, bytes.len()) {
            return Ok(false);
        }
        write_durable(&self.folder.join(index.to_string()), bytes).map_err(disk)?;
        self.pieces.store(index);
        Ok(true)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.pieces.is_whole()
    }

    pub(super) fn progress(&self) -> Progress {
        self.pieces.progress()
    }

    /// Puts the pieces together. Whatever comes of it, the pieces go.
    pub(super) fn finish(self, state_dir: &Path, vault: &Vault) -> Result<Digest, Refused> {
        let whole = self.assemble(state_dir, vault);
        let _ = fs::remove_dir_all(&self.folder);
        whole
    }

    fn assemble(&self, state_dir: &Path, vault: &Vault) -> Result<Digest, Refused> {
        let mut bytes = Vec::with_capacity(usize::try_from(self.size_bytes).unwrap_or(0));
        for index in (0..).take_while(|index| chunk_bytes(self.size_bytes, *index).is_some()) {
            bytes.extend(fs::read(self.folder.join(index.to_string())).map_err(disk)?);
        }
        let found = Digest::of(&bytes);
        if found != self.digest {
            let reason = format!("what came has digest {found}: send it again, from the signed bundle");
            return Err((ReasonCode::Other("digest".to_owned()), reason));
        }
        let refused = |error: bundle::BundleError| (ReasonCode::Other("bundle".to_owned()), error.to_string());
        bundle::read(&bytes).map_err(refused)?;
        let envelope = fs::read(self.folder.join(self.pieces.signature().to_string())).map_err(disk)?;
        vault.vouched(&bytes, &envelope).map_err(|refused| (reason_code(refused.code()), refused.to_string()))?;
        let store = |error: StoreError| (ReasonCode::Internal, error.chain());
        let installed = installed(state_dir).map_err(store)?;
        // The signature first: a bundle without one is never taken.
        write_durable(&envelope_path(&installed.path(&found)), &envelope).map_err(disk)?;
        let digest = installed.put(&bytes).map_err(store)?;
        let mut others: Vec<_> =
            installed.list().map_err(store)?.into_iter().filter(|other| *other != digest).collect();
        others.sort_by_key(|other| fs::metadata(installed.path(other)).and_then(|found| found.modified()).ok());
        while others.len() >= INSTALLED_MAX {
            let oldest = others.remove(0);
            installed.remove(&oldest).map_err(store)?;
            remove_durable(&envelope_path(&installed.path(&oldest))).map_err(disk)?;
        }
        Ok(digest)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
fn disk(error: io::Error) -> Refused {
    (ReasonCode::Internal, format!("the disk refuses: {error}"))
}

#[cfg(test)]
mod tests {
    use fleet_protocol::CHUNK_BYTES_MAX;
    use fleet_protocol::keys::KeySet;

    use super::*;
    use crate::shell::disk::RealDisk;
    use crate::shell::models::DeviceKey;

    fn bytes() -> Vec<u8> {
        (0..CHUNK_BYTES_MAX * 2 + 5).map(|at| u8::try_from(at % 251).unwrap()).collect()
    }

    fn vault(folder: &Path) -> Vault {
        let files = ModelStore::open(&folder.join("models"), "safetensors").unwrap();
        let own = DeviceKey::open(&RealDisk, folder).unwrap();
        Vault::new(files, own, KeySet::default(), None, false).unwrap()
    }

    fn begin(folder: &Path, bytes: &[u8]) -> Incoming {
        Incoming::begin(folder, Ulid::from(1), Digest::of(bytes), bytes.len() as u64).unwrap()
    }

    #[test]
    fn a_transfer_goes_on_where_it_was_and_leaves_no_piece_behind() {
        let (folder, bytes) = (tempfile::tempdir().unwrap(), bytes());
        let pieces: Vec<_> = bytes.chunks(CHUNK_BYTES_MAX).collect();
        let mut incoming = begin(folder.path(), &bytes);
        assert_eq!(incoming.piece(1, pieces[1]), Ok(true));
        assert_eq!(incoming.piece(1, pieces[1]), Ok(false), "twice is once");
        assert_eq!(incoming.piece(2, pieces[1]), Ok(false), "of the wrong length");
        let mut incoming = begin(folder.path(), &bytes);
        assert_eq!(incoming.progress().want, [[0, 0], [2, 3]]);
        incoming.piece(0, pieces[0]).unwrap();
        incoming.piece(2, pieces[2]).unwrap();
        assert!(!incoming.is_whole(), "the signature is missing");
        assert_eq!(incoming.piece(3, b"signed"), Ok(true));
        let incoming = begin(folder.path(), &bytes);
        assert!(incoming.is_whole(), "it is kept like a piece");
        // These bytes are no model.
        let refused = incoming.finish(folder.path(), &vault(folder.path()));
        assert_eq!(refused.unwrap_err().0, ReasonCode::Other("bundle".to_owned()));
        assert_eq!(fs::read_dir(folder.path().join("fleet/incoming")).unwrap().count(), 0);
    }

    #[test]
    fn a_changed_piece_is_found_by_the_digest_and_another_bundle_takes_the_place_of_the_first() {
        let (folder, bytes) = (tempfile::tempdir().unwrap(), bytes());
        let mut incoming = begin(folder.path(), &bytes);
        for (index, piece) in (0..).zip(bytes.chunks(CHUNK_BYTES_MAX)) {
            let mut piece = piece.to_vec();
            piece[0] ^= u8::from(index == 1);
            incoming.piece(index, &piece).unwrap();
        }
        let refused = incoming.finish(folder.path(), &vault(folder.path()));
        assert_eq!(refused.unwrap_err().0, ReasonCode::Other("digest".to_owned()));
        begin(folder.path(), &bytes).piece(0, &bytes[..CHUNK_BYTES_MAX]).unwrap();
        let other = begin(folder.path(), b"other");
        assert_eq!(other.progress().have, 0);
        assert_eq!(fs::read_dir(folder.path().join("fleet/incoming")).unwrap().count(), 1);
        let huge = Incoming::begin(folder.path(), Ulid::from(1), Digest::of(b""), 1 << 40);
        assert_eq!(huge.unwrap_err().0, ReasonCode::BudgetStorage);
    }
}
