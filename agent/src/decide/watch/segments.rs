//! Each segment against its own past: the loss where a machine, a site or a recipe goes wrong while the others hide it.
//!
//! Every row moves the test of one segment, so all of them together keep the one run length each of them is given (the sum of their
//! statistics minus the rows is a supermartingale; reference: drift, section 5).
use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::Watcher;
use super::finding::{Finding, Measure};
use super::loss_test::{Law, LossTest, TestState};

/// What further segments are counted as, and what a segment of this name shares.
pub const OTHER: &str = "other";
/// Bytes of a segment's name; longer ones are counted as [`OTHER`].
pub const NAME_BYTES_MAX: usize = 128;
/// Losses in a segment's window.
const RECENT: usize = 100;

/// A segment as status shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentView {
    /// Its name.
    pub name: String,
    /// Labels since the model was promoted.
    pub labels: u64,
    /// Mean loss over its last labels (at most 100).
    pub loss: f64,
    /// Labels in that window.
    pub window_labels: usize,
    /// Share of right answers in that window; for classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accuracy: Option<f64>,
    /// Its test, if segments are watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<TestState>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Segment {
    labels: u64,
    recent: VecDeque<f32>,
    test: Option<LossTest>,
}

/// All segments of the serving model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Segments {
    law: Law,
    /// Names kept apart; [`OTHER`] comes on top.
    names_max: usize,
    /// Own rows that a segment learns its bound from.
    calibration_labels: u64,
    /// Promised rows to a false alarm of all of them together; none if they are only shown.
    run_length_rows: Option<f64>,
    by_name: BTreeMap<String, Segment>,
}

impl Segments {
    pub(super) fn new(law: Law, names_max: usize, calibration_labels: u64, run_length_rows: Option<f64>) -> Self {
        Self { law, names_max, calibration_labels, run_length_rows, by_name: BTreeMap::new() }
    }

    /// Takes the loss of a row of segment `name`; allocates for a name seen the first time, and when there is something to say.
    pub(super) fn take(&mut self, name: &str, loss: f64, ordinal: u64, quiet: u64, say: &mut Vec<Finding>) {
        let name = self.kept_name(name);
        let Some(segment) = self.by_name.get_mut(name) else {
            return;
        };
        segment.labels += 1;
        if segment.recent.len() == RECENT {
            segment.recent.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "losses lie in [0, 1] and are only shown")]
        segment.recent.push_back(loss as f32);
        if let Some(test) = &mut segment.test
            && let Some(heard) = test.take(loss, ordinal, quiet)
        {
            say.push(test.finding(heard, Watcher::Segments, Measure::Segment(name.to_owned())));
        }
    }

    /// The name this row is counted under; the segment of that name exists afterwards.
    fn kept_name<'name>(&mut self, name: &'name str) -> &'name str {
        if self.by_name.contains_key(name) {
            return name;
        }
        let kept_apart = self.by_name.len() - usize::from(self.by_name.contains_key(OTHER));
        let name = if kept_apart < self.names_max && name.len() <= NAME_BYTES_MAX { name } else { OTHER };
        if !self.by_name.contains_key(name) {
            let test = self.run_length_rows.map(|rows| LossTest::learning(self.law, rows, self.calibration_labels));
            let fresh = Segment { labels: 0, recent: VecDeque::new(), test };
            self.by_name.insert(name.to_owned(), fresh);
        }
        name
    }

    /// Every segment as it stands, by name.
    pub(super) fn view(&self) -> Vec<SegmentView> {
        let one = |(name, segment): (&String, &Segment)| {
            let window_labels = segment.recent.len();
            let sum: f64 = segment.recent.iter().map(|loss| f64::from(*loss)).sum();
            let loss = sum / window_labels.max(1) as f64;
            SegmentView {
                name: name.clone(),
                labels: segment.labels,
                loss,
                window_labels,
                accuracy: (self.law == Law::ZeroOne).then_some(1.0 - loss),
                test: segment.test.as_ref().map(LossTest::state),
            }
        };
        self.by_name.iter().map(one).collect()
    }
}
