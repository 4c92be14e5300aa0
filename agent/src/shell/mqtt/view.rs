//! How the link stands, for status and metrics.
use serde::Serialize;

use crate::decide::link::Link;
use crate::shell::store::Backlog;

/// How the link stands.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LinkView {
    pub(super) state: &'static str,
    pub(super) broker: String,
    pub(super) device: String,
    /// Connections that stood, since the start.
    pub(super) connections: u64,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Why the last connection ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// What the broker will not have, and a person must look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) alarm: Option<String>,
    /// Reports and bytes that wait for the broker, and reports that were given up.
    pub(super) waiting_reports: i64,
    pub(super) waiting_bytes: i64,
    pub(super) parked_reports: i64,
    /// Acknowledged since the start.
    pub(super) delivered: u64,
    /// Commands that were turned away since the start.
    pub(super) turned_away: u64,
}

impl LinkView {
    pub(super) fn follow(&mut self, link: Link) {
        (self.state, self.failures) = match link {
            Link::Offline { failures, .. } => ("offline", failures),
            Link::Connecting { failures, .. } => ("connecting", failures),
            Link::Online { .. } => ("online", 0),
        };
    }

    pub(super) fn waits(&mut self, backlog: Backlog) {
        let Backlog { reports, bytes, parked } = backlog;
        (self.waiting_reports, self.waiting_bytes, self.parked_reports) = (reports, bytes, parked);
    }
}
