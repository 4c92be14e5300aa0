//! Token bucket: what was not spent is saved up, to a limit, and what was overspent is paid back first.
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A stock of joules or bytes. In any span of time no more is given out than the capacity plus what the span refills.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    /// What may be spent now; below zero after a run took more than was expected of it.
    level: f64,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn full(capacity: f64) -> Self {
        Self { level: capacity }
    }

    /// What may be spent now.
    #[must_use]
    pub fn level(self) -> f64 {
        self.level
    }

    /// After `elapsed` at `per_second`. A smaller capacity than before (other settings) counts at once.
    #[must_use]
    pub fn refilled(self, elapsed: Duration, per_second: f64, capacity: f64) -> Self {
        Self { level: (self.level + elapsed.as_secs_f64() * per_second.max(0.0)).min(capacity) }
    }

    /// After `amount` was spent; what is no finite number or negative costs nothing.
    #[must_use]
    pub fn spent(self, amount: f64) -> Self {
        Self { level: self.level - sound(amount) }
    }

    /// After `amount` that had been spent was not needed.
    #[must_use]
    pub fn returned(self, amount: f64, capacity: f64) -> Self {
        Self { level: (self.level + sound(amount)).min(capacity) }
    }

    /// How long until `amount` can be spent: zero if it can be now, none if it never can.
    #[must_use]
    pub fn wait(self, amount: f64, per_second: f64, capacity: f64) -> Option<Duration> {
        if amount > capacity {
            return None;
        }
        if amount <= self.level {
            return Some(Duration::ZERO);
        }
        Duration::try_from_secs_f64((amount - self.level) / per_second).ok()
    }
}

fn sound(amount: f64) -> f64 {
    if amount.is_finite() { amount.max(0.0) } else { 0.0 }
}
