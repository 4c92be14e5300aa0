//! What drift tests said lately: gathered into few reports, and kept for whoever asks.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{FINDINGS_MAX, Report};
use crate::decide::watch::finding::Finding;

/// Findings that are remembered for status.
const REMEMBERED: usize = 32;

/// Findings not reported yet, and the last ones that were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Drifts {
    unsaid: Vec<Finding>,
    more: u64,
    lately: VecDeque<Finding>,
}

impl Drifts {
    /// Takes a finding for the next report.
    pub(super) fn say(&mut self, finding: Finding) {
        if self.lately.len() == REMEMBERED {
            self.lately.pop_front();
        }
        self.lately.push_back(finding.clone());
        if self.unsaid.len() == FINDINGS_MAX {
            // The last one may be what opens an episode: it is never the one left out.
            self.unsaid.remove(0);
            self.more += 1;
        }
        self.unsaid.push(finding);
    }

    /// The report of everything not reported yet.
    pub(super) fn flush(&mut self, opened: bool) -> Option<Report> {
        if self.unsaid.is_empty() {
            return None;
        }
        let findings = std::mem::take(&mut self.unsaid);
        Some(Report::Drift { findings, more: std::mem::take(&mut self.more), opened })
    }

    /// The last findings, oldest first.
    pub(super) fn lately(&self) -> impl DoubleEndedIterator<Item = &Finding> {
        self.lately.iter()
    }
}
