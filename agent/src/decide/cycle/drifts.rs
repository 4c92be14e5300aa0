//! What drift tests said lately: gathered into few reports, and kept for whoever asks.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::settings::{acts, openers, opens_on};
use super::{Cycle, CycleSettings, FINDINGS_MAX, Report};
use crate::decide::trigger::Heard;
use crate::decide::watch::Watcher;
use crate::decide::watch::finding::{Finding, Since};

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

impl Cycle {
    /// Dates what the tests say, lets alarms open an episode, and reports: an opened episode at once, the rest at the next look.
    pub(super) fn notice(&mut self, findings: Vec<Finding>, settings: &CycleSettings) -> Vec<Report> {
        let mut reports = Vec::new();
        for finding in findings {
            let (since, sample) = match finding.since {
                Since::Label(label) if self.counts_rows(settings) => {
                    let sample = self.sample_of(label);
                    (sample, Some(sample))
                }
                Since::Sample(sample) if self.counts_rows(settings) => (sample, Some(sample)),
                Since::Label(label) => (label, None),
                Since::Sample(sample) => (self.first_label_from(sample), Some(sample)),
            };
            let since_at =
                finding.since_at.or_else(|| self.watch.dated(sample.unwrap_or_else(|| self.sample_of(since))));
            let opened = opens_on(&finding, settings) && self.heard(finding.watcher, since, sample, settings);
            self.drifts.say(Finding { since_at, ..finding });
            if opened {
                reports.extend(self.drifts.flush(acts(settings)));
            }
        }
        reports
    }

    /// An alarm that may open an episode; whether it did.
    fn heard(&mut self, watcher: Watcher, since: u64, sample: Option<u64>, settings: &CycleSettings) -> bool {
        let heard = Heard { watcher, row: self.samples, since, sample };
        let opened = self.trigger.alarm(heard, openers(settings), self.known(settings), &settings.trigger);
        if opened && !acts(settings) {
            // A policy that does not act on alarms says so once per episode it would have opened.
            self.trigger.cool(self.known(settings) + settings.trigger.rows_max);
        }
        opened
    }

    /// The sample that label number `label` belongs to, as far back as it is remembered.
    fn sample_of(&self, label: u64) -> u64 {
        let oldest = self.labels - self.traced.len() as u64;
        let at = usize::try_from(label.saturating_sub(oldest)).unwrap_or(usize::MAX);
        self.traced.get(at).or(self.traced.back()).copied().unwrap_or(self.samples)
    }

    fn first_label_from(&self, sample: u64) -> u64 {
        // Labels may come in any order: new is what follows the last label of an older sample.
        let newer = self.traced.iter().rev().take_while(|known| **known >= sample).count();
        self.labels - newer as u64
    }
}
