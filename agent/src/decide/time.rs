//! Two times, two types: wall time for people and records, running time for deadlines.
//!
//! A gateway without a clock battery wakes in 1970 and jumps later; nothing that must happen depends on wall time.
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Wall time in microseconds since 1970-01-01T00:00:00Z, as good as the gateway's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

/// Time since the agent's first start that only moves forward while it runs; deadlines count this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Uptime(pub Duration);

impl Uptime {
    /// This moment plus `span`.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}
