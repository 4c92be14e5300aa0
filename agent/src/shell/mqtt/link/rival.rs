//! Another client of our name: both throw each other out, so each connection soon ends, and the word about it must outlive them.
use tokio::time::Instant;

use super::Running;
use crate::decide::link::Link;
use crate::shell::parting::{hangs_up, taken_over};

/// Where our name comes from; many brokers take it from the certificate.
const SETTING: &str = "`mqtt.device` and certificate";

impl Running {
    /// The broker has given our name to another client: a person must hear of it.
    pub(super) fn taken_over(&mut self) {
        let what = taken_over(self.fleet.device.as_str(), SETTING);
        self.rival(&what);
        self.lost(&what);
    }

    /// The other side has ended the connection, or the attempt.
    pub(super) fn hung_up(&mut self, reason: &str) {
        let stood = match self.link {
            Link::Online { since, .. } => Some(self.uptime().0.saturating_sub(since.0)),
            Link::Offline { .. } | Link::Connecting { .. } => None,
        };
        if self.hang_ups.ended(stood) {
            self.rival(&hangs_up(self.fleet.device.as_str(), SETTING, reason));
        }
        self.lost(reason);
    }

    fn rival(&mut self, what: &str) {
        self.rival_at = Some(Instant::now());
        self.alarm(what);
    }

    /// Whether nobody has taken our name for longer than a rival waits before it comes back.
    pub(super) fn has_no_rival(&self) -> bool {
        let rules = &self.fleet.rules;
        self.rival_at.is_none_or(|at| at.elapsed() >= rules.retry_max + rules.steady)
    }

    /// Takes the alarm about a rival back once it stays away.
    pub(super) fn forget_rival(&mut self) {
        if self.rival_at.is_some() && self.has_no_rival() && matches!(self.link, Link::Online { .. }) {
            (self.rival_at, self.view.alarm) = (None, None);
        }
    }
}
