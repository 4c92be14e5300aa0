//! What others may know of the cycle.
use trainer_core::digest::Digest;

use super::Cycle;
use crate::decide::trigger::Trigger;
use crate::decide::watch::Watch;
use crate::decide::watch::finding::Finding;

impl Cycle {
    /// The model that serves, the one before it, and the one the device came with.
    #[must_use]
    pub fn models(&self) -> (Digest, Option<Digest>, Digest) {
        (self.champion, self.previous, self.factory)
    }

    /// Samples and labels taken so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.samples, self.labels)
    }

    /// Drift state, for status.
    #[must_use]
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// What drift tests said lately, oldest first.
    pub fn findings(&self) -> impl DoubleEndedIterator<Item = &Finding> {
        self.drifts.lately()
    }

    /// Trigger state, for status.
    #[must_use]
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }
}
