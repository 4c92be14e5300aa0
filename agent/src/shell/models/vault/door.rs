//! Who is believed when a bundle comes in: the keys of now. What is stored is loaded by every key this start has believed, for
//! a key that is taken away must not leave a device without a model.
use fleet_protocol::keys::{KeyError, KeySet, Role};
use trainer_core::digest::Digest;

use super::{ANCESTORS_MAX, Standing, Trust, Vault};
use crate::shell::models::Refused;
use crate::shell::models::signed::{self, Signed};

impl Vault {
    /// Believes these keys about bundles that come in from now on, and no others; what is stored is loaded by them too.
    ///
    /// # Errors
    /// [`KeyError`] if the device's own key cannot be trusted, which a drawn one never is.
    pub fn believing(&self, mut keys: KeySet) -> Result<Self, KeyError> {
        let trust = &*self.trust;
        keys.trust(&trust.own.public(), &[Role::Device])?;
        let (mut stored, own, device) = (trust.keys.clone(), trust.own.clone(), trust.device.clone());
        stored.extend(&keys);
        let trust = Trust { keys: stored, door: keys, own, device, required: trust.required };
        Ok(Self { files: self.files.clone(), trust: trust.into() })
    }

    /// Who answers for a bundle that came over the network and is to be kept until it is judged. Its number and epoch are the
    /// judge's to look at, who knows the floors.
    ///
    /// # Errors
    /// [`Refused`]: the signature, whose it is, and what an operator may not change.
    pub fn vouched(&self, bytes: &[u8], envelope: &[u8]) -> Result<Standing, Refused> {
        let signed = self.read_at_the_door(envelope, Digest::of(bytes))?;
        self.keeps_to_the_vendor(bytes, &signed)?;
        Ok(signed.standing)
    }

    pub(super) fn read_at_the_door(&self, envelope: &[u8], digest: Digest) -> Result<Signed, Refused> {
        signed::check(envelope, digest, &self.trust.door, self.trust.device.as_ref())
    }

    /// Where a vendor answers for models, an operator's bundle may only change what the vendor lets a device change. Without
    /// a vendor the operator's word is the highest there is.
    pub(super) fn keeps_to_the_vendor(&self, bytes: &[u8], signed: &Signed) -> Result<(), Refused> {
        let knows_a_vendor = self.trust.keys.iter().any(|(_, roles)| roles.contains(&Role::Vendor));
        if signed.standing != Standing::Operator || !(knows_a_vendor || self.trust.required) {
            return Ok(());
        }
        let parent = signed.statement.parent.as_ref().map(signed::from_wire);
        let parent = parent.ok_or(Refused::NoAncestor(Digest::of(bytes)))?;
        self.stays_within(bytes, parent, ANCESTORS_MAX).map(drop)
    }
}
