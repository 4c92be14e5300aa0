//! What others may know of the cycle.
use trainer_core::digest::Digest;

use super::{Cycle, Orders};
use crate::decide::rollout::Rollout;
use crate::decide::time::Uptime;
use crate::decide::trigger::Trigger;
use crate::decide::watch::Watch;
use crate::decide::watch::finding::Finding;

impl Cycle {
    /// The model that serves, the one before it, and the one the device came with.
    #[must_use]
    pub fn models(&self) -> (Digest, Option<Digest>, Digest) {
        (self.champion, self.previous, self.factory)
    }

    /// What the world must look like now.
    #[must_use]
    pub fn orders(&self) -> Orders {
        Orders { serve: self.champion, keep: self.previous, work: self.work.clone(), trial: self.rollout.orders() }
    }

    /// What becomes of candidates that passed the gate.
    #[must_use]
    pub fn rollout(&self) -> &Rollout {
        &self.rollout
    }

    /// Running time as last told.
    #[must_use]
    pub fn uptime(&self) -> Uptime {
        self.uptime
    }

    /// Whether it was rejected, and is not to serve again.
    #[must_use]
    pub fn is_rejected(&self, model: Digest) -> bool {
        self.rejected.contains(&model)
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
    #[must_use]
    pub fn findings(&self) -> impl DoubleEndedIterator<Item = &Finding> {
        self.drifts.lately()
    }

    /// Trigger state, for status.
    #[must_use]
    pub fn trigger(&self) -> &Trigger {
        &self.trigger
    }
}
