//! The signed store: `<sha256>.safetensors` beside `<sha256>.dsse`. Nothing is taken or loaded that nobody answers for.
//!
//! ```text
//! lengths ─► signature ─► role of the key ─► digest ─► device ─► epoch ─► sequence ─► container, shapes, numbers ─► schema
//!                                                                        ─► ancestor's frozen tensors ─► stored
//! ```
mod door;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fleet_protocol::PACKET_BYTES_MAX;
use fleet_protocol::envelope::EnvelopeError;
use fleet_protocol::keys::{KeyError, KeyId, KeySet, Role};
use fleet_protocol::names::DeviceId;
use trainer_core::bundle::{self, BundleError};
use trainer_core::digest::Digest;
use trainer_core::model::Model;
use trainer_core::schema::Schema;

use super::signed::{self, Own, Signed};
use super::{DeviceKey, ModelStore, Refused, Standing};
use crate::decide::floors::Floors;
use crate::shell::disk::{self, Disk};
use crate::shell::store::StoreError;

/// Steps from a model to the vendor's it descends from; a device's own statement names it at once.
const ANCESTORS_MAX: u32 = 8;

/// Where a bundle comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The owner of this device: its command line or socket. Unsigned models are taken where the settings allow it.
    Local,
    /// The network: nothing unsigned, ever.
    Network,
}

/// Model files, their signatures, and whom this device believes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Vault {
    files: ModelStore,
    trust: Arc<Trust>,
}

#[derive(Debug)]
struct Trust {
    /// About what is stored.
    keys: KeySet,
    /// About what comes in.
    door: KeySet,
    own: DeviceKey,
    device: Option<DeviceId>,
    required: bool,
}

/// A bundle that was taken: its files are stored, its numbers are to be remembered by [`Installed::remember`].
#[derive(Clone, Debug)]
pub struct Installed {
    /// Its name.
    pub digest: Digest,
    /// It.
    pub model: Box<Model>,
    /// Who answers for it.
    pub standing: Standing,
    /// Epoch it was signed for; 0 unsigned.
    pub epoch: u32,
    number: Option<(KeyId, u64)>,
    floor: u32,
}

impl Installed {
    /// Raises the sequence floor, and what the vendor forces; to be committed together with what the bundle is installed for. The
    /// epoch floor of stored models is raised only when the model has proven itself.
    pub fn remember(&self, floors: &mut Floors) {
        floors.forced = floors.forced.max(self.floor);
        if let Some((key, sequence)) = &self.number {
            floors.take(key, *sequence, self.digest);
        }
    }
}

impl Vault {
    /// Puts files, keys and settings together.
    ///
    /// # Errors
    /// [`KeyError`] if the device's own key cannot be trusted, which a drawn one never is.
    pub fn new(
        files: ModelStore,
        own: DeviceKey,
        mut keys: KeySet,
        device: Option<DeviceId>,
        required: bool,
    ) -> Result<Self, KeyError> {
        keys.trust(&own.public(), &[Role::Device])?;
        Ok(Self { files, trust: Arc::new(Trust { door: keys.clone(), keys, own, device, required }) })
    }

    /// Whether every model needs the vendor's signature.
    #[must_use]
    pub fn requires_signature(&self) -> bool {
        self.trust.required
    }

    /// The id of the device's own key.
    #[must_use]
    pub fn device_key(&self) -> &KeyId {
        self.trust.own.id()
    }

    /// Checks a bundle and its envelope in the order drawn above, and stores both durably, the envelope first: a file without one
    /// is unsigned.
    ///
    /// `expected` is the schema of the champion, if there is one: then what is wrong with the numbers of the bundle alone is the
    /// gate's to say. Nothing is allocated for what the file only claims.
    ///
    /// # Errors
    /// [`Refused`] names the first thing that is wrong; nothing is stored then.
    pub fn install(
        &self,
        bytes: &[u8],
        envelope: Option<&[u8]>,
        door: Door,
        floors: &Floors,
        expected: Option<&Schema>,
    ) -> Result<Installed, Refused> {
        bundle::check_lengths(bytes, bytes.len() as u64)?;
        let digest = Digest::of(bytes);
        let signed = match envelope {
            Some(envelope) => Some(in_its_epoch(self.read_at_the_door(envelope, digest)?, floors)?),
            None if door == Door::Network || self.trust.required => return Err(Refused::Unsigned),
            None => None,
        };
        if let Some(signed) = signed.as_ref().filter(|signed| signed.standing != Standing::Owner)
            && signed.statement.epoch < floors.forced
        {
            return Err(Refused::OlderEpoch { epoch: signed.statement.epoch, floor: floors.forced });
        }
        if let Some(signed) = &signed
            && let Some(floor) = floors.refuses(&signed.key, signed.statement.sequence, digest)
        {
            return Err(Refused::OlderSequence { sequence: signed.statement.sequence, floor });
        }
        if let Some(expected) = expected
            && bundle::outline(bytes)?.schema != *expected
        {
            return Err(Refused::OtherSchema);
        }
        let (model, numbers) = bundle::read_to_judge(bytes)?;
        if let Some(refusal) = numbers.refusal.filter(|_| expected.is_none()) {
            return Err(refusal.into());
        }
        let model = Box::new(model);
        let (text, installed) = match (envelope, signed) {
            (Some(envelope), Some(signed)) => {
                self.keeps_to_the_vendor(bytes, &signed)?;
                let Signed { statement, standing, key, floor, .. } = signed;
                let (number, epoch) = (Some((key, statement.sequence)), statement.epoch);
                (envelope.to_vec(), Installed { digest, model, standing, epoch, number, floor })
            }
            _ => {
                let (text, number) = self.vouch(digest, floors);
                let (standing, epoch, number) = (Standing::Owner, floors.epoch, Some(number));
                (text, Installed { digest, model, standing, epoch, number, floor: 0 })
            }
        };
        self.put_envelope(&digest, &text)?;
        self.files.put(bytes)?;
        Ok(installed)
    }

    /// A stored model as if it had just come, for a state that forgot it.
    ///
    /// # Errors
    /// As [`Vault::bytes`].
    pub fn reinstall(&self, digest: &Digest, floors: &Floors) -> Result<Installed, Refused> {
        let (standing, epoch) = self.standing(digest, floors)?;
        let model = Box::new(bundle::read(&self.bytes(digest, floors)?)?);
        Ok(Installed { digest: *digest, model, standing, epoch, number: None, floor: 0 })
    }

    /// Signs a stored model that this device trained from `parent`: only what the vendor lets a device change may differ.
    ///
    /// # Errors
    /// [`Refused::Frozen`], [`Refused::NoAncestor`]; [`Refused::Store`] if the disk refuses.
    pub fn sign(&self, digest: Digest, parent: Digest, floors: &mut Floors) -> Result<(), Refused> {
        let bytes = self.files.get(&digest)?;
        let ancestor = self.stays_within(&bytes, parent, ANCESTORS_MAX)?;
        let (epoch, key) = (self.epoch_of(&ancestor).max(floors.epoch), self.trust.own.id());
        let own = Own { digest, sequence: floors.next(key), epoch, parent: Some(parent), ancestor: Some(ancestor) };
        let text = signed::sign(&own, self.trust.device.as_ref(), self.trust.own.secret());
        self.put_envelope(&digest, &text)?;
        floors.take(key, own.sequence, digest);
        Ok(())
    }

    /// The bytes of a stored model, once somebody answers for it: signature, length, sha-256 of the very bytes that are returned.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn bytes(&self, digest: &Digest, floors: &Floors) -> Result<Vec<u8>, Refused> {
        self.standing(digest, floors)?;
        let path = self.files.path(digest);
        match self.files.disk().length(&path) {
            Ok(length) => bundle::check_lengths(&[], length)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::io("read", &path, source).into()),
        }
        Ok(self.files.get(digest)?)
    }

    /// Who answers for a stored model, and its epoch.
    ///
    /// # Errors
    /// [`Refused`] if nobody does and somebody must, or if its signature is no good.
    pub fn standing(&self, digest: &Digest, floors: &Floors) -> Result<(Standing, u32), Refused> {
        self.standing_below(digest, floors, ANCESTORS_MAX)
    }

    fn standing_below(&self, digest: &Digest, floors: &Floors, more: u32) -> Result<(Standing, u32), Refused> {
        let Some(envelope) = self.envelope(digest)? else {
            return if self.trust.required { Err(Refused::Unsigned) } else { Ok((Standing::Owner, 0)) };
        };
        match self.check(&envelope, *digest, floors) {
            Ok(signed) if signed.standing == Standing::Device => match signed.ancestor {
                // The device compared the tensors when it signed; who answers for the ancestor may have changed since.
                Some(ancestor) if more > 0 => {
                    self.standing_below(&ancestor, floors, more - 1)?;
                    Ok((Standing::Device, signed.statement.epoch))
                }
                _ => Err(Refused::NoAncestor(*digest)),
            },
            Ok(Signed { standing: Standing::Owner, .. }) if self.trust.required => Err(Refused::Unsigned),
            Ok(signed) => Ok((signed.standing, signed.statement.epoch)),
            // A key that was lost with its file, or taken off the list: no better than unsigned, and no worse.
            Err(Refused::Signature(EnvelopeError::NotTrusted { .. })) if !self.trust.required => {
                Ok((Standing::Owner, 0))
            }
            Err(refused) => Err(refused),
        }
    }

    /// The models a stored one cannot do without: the vendor's model whose tensors it was compared with.
    #[must_use]
    pub fn ancestor(&self, digest: &Digest) -> Option<Digest> {
        let envelope = self.envelope(digest).ok()??;
        signed::check(&envelope, *digest, &self.trust.keys, self.trust.device.as_ref()).ok()?.ancestor
    }

    /// Removes a model and its signature; the signature last, for without it the model would be unsigned.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        self.files.remove(digest)?;
        let path = self.envelope_path(digest);
        disk::discard(&**self.files.disk(), &path).map_err(|source| StoreError::io("remove", &path, source))
    }

    /// Removes signatures whose model is not there: an install or a removal that was cut half-way.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn tidy(&self) -> Result<(), StoreError> {
        let folder = self.files.folder();
        let failed = |source| StoreError::io("list", folder, source);
        let stored = self.files.list()?;
        for name in self.files.disk().names(folder).map_err(failed)? {
            let digest = name.strip_suffix(".dsse").and_then(|stem| stem.parse::<Digest>().ok());
            if let Some(digest) = digest.filter(|digest| stored.binary_search(digest).is_err()) {
                let path = self.envelope_path(&digest);
                disk::discard(&**self.files.disk(), &path).map_err(|source| StoreError::io("remove", &path, source))?;
            }
        }
        Ok(())
    }

    /// Where the signature of `digest` is or would be.
    #[must_use]
    pub fn envelope_path(&self, digest: &Digest) -> PathBuf {
        envelope_path(&self.files.path(digest))
    }

    /// The envelope of a stored model; none if there is none.
    ///
    /// # Errors
    /// [`Refused::Signature`] if it is longer than any envelope; [`Refused::Store`] if the disk refuses.
    pub fn envelope(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Refused> {
        let (disk, path) = (self.files.disk(), self.envelope_path(digest));
        let unreadable = |source: io::Error| Refused::Store(StoreError::io("read", &path, source));
        match disk.length(&path) {
            Ok(length) if length > PACKET_BYTES_MAX as u64 => {
                Err(EnvelopeError::TooLarge { bytes: usize::try_from(length).unwrap_or(usize::MAX) }.into())
            }
            Ok(_) => disk.read(&path).map(Some).map_err(unreadable),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(error)),
        }
    }

    fn check(&self, envelope: &[u8], digest: Digest, floors: &Floors) -> Result<Signed, Refused> {
        in_its_epoch(signed::check(envelope, digest, &self.trust.keys, self.trust.device.as_ref())?, floors)
    }

    /// The vendor's model that `parent` is or descends from, if `bytes` differ from it only where a device may change it.
    fn stays_within(&self, bytes: &[u8], parent: Digest, more: u32) -> Result<Digest, Refused> {
        if more == 0 {
            return Err(Refused::NoAncestor(parent));
        }
        let (ancestor, trainable) = match self.envelope(&parent)? {
            None if self.trust.required => return Err(Refused::NoAncestor(parent)),
            // The owner's own model: whoever made it has listed nothing, and all of it is the owner's to change.
            None => return Ok(parent),
            Some(envelope) => {
                let signed = signed::check(&envelope, parent, &self.trust.keys, self.trust.device.as_ref());
                match signed {
                    Ok(Signed { standing: Standing::Vendor, statement, .. }) => (parent, statement.trainable),
                    Ok(Signed { standing: Standing::Owner, .. }) if !self.trust.required => return Ok(parent),
                    Ok(Signed { standing: Standing::Device, ancestor: Some(ancestor), .. }) => {
                        return self.stays_within(bytes, ancestor, more - 1);
                    }
                    Ok(Signed { standing: Standing::Operator, statement, .. }) => {
                        let above = statement.parent.as_ref().map(signed::from_wire);
                        return self.stays_within(bytes, above.ok_or(Refused::NoAncestor(parent))?, more - 1);
                    }
                    Err(Refused::Signature(EnvelopeError::NotTrusted { .. })) if !self.trust.required => {
                        return Ok(parent);
                    }
                    Ok(_) => return Err(Refused::NoAncestor(parent)),
                    Err(refused) => return Err(refused),
                }
            }
        };
        let theirs = self.files.get(&ancestor)?;
        match bundle::frozen_difference(&theirs, bytes, trainable.as_deref())? {
            Some(tensor) => Err(Refused::Frozen { tensor, ancestor }),
            None => Ok(ancestor),
        }
    }

    fn epoch_of(&self, digest: &Digest) -> u32 {
        let envelope = self.envelope(digest).ok().flatten();
        let signed = envelope.map(|text| signed::check(&text, *digest, &self.trust.keys, self.trust.device.as_ref()));
        signed.and_then(Result::ok).map_or(0, |signed| signed.statement.epoch)
    }

    /// The device's word that its owner put `digest` here.
    fn vouch(&self, digest: Digest, floors: &Floors) -> (Vec<u8>, (KeyId, u64)) {
        let key = self.trust.own.id();
        let sequence = floors.next(key);
        let own = Own { digest, sequence, epoch: floors.epoch, parent: None, ancestor: None };
        (signed::sign(&own, self.trust.device.as_ref(), self.trust.own.secret()), (key.clone(), sequence))
    }

    fn put_envelope(&self, digest: &Digest, text: &[u8]) -> Result<(), StoreError> {
        let path = self.envelope_path(digest);
        disk::put(&**self.files.disk(), &path, text).map_err(|source| StoreError::io("write", &path, source))
    }
}

fn in_its_epoch(signed: Signed, floors: &Floors) -> Result<Signed, Refused> {
    let epoch = signed.statement.epoch;
    if epoch < floors.epoch && signed.standing != Standing::Owner {
        return Err(Refused::OlderEpoch { epoch, floor: floors.epoch });
    }
    Ok(signed)
}

/// Where the signature of a bundle file is kept.
#[must_use]
pub fn envelope_path(bundle: &Path) -> PathBuf {
    bundle.with_extension("dsse")
}

/// The bytes of a bundle file, refused by its length before it is read.
///
/// # Errors
/// [`Refused`].
pub fn read_limited(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, Refused> {
    let unreadable = |source: io::Error| Refused::Store(StoreError::io("read", path, source));
    let length = disk.length(path).map_err(unreadable)?;
    if length > bundle::BYTES_MAX as u64 {
        return Err(BundleError::TooLarge { bytes: length, limit: bundle::BYTES_MAX as u64 }.into());
    }
    disk.read(path).map_err(unreadable)
}

#[cfg(test)]
mod tests;
