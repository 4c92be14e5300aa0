//! Recall and precision of each class: what moves F1, which is no mean of row losses and cannot be tested itself.
//!
//! A row moves two tests: recall of its true class (was it answered otherwise?) and precision of the class answered (was it none of it?).
//! So each runs at twice the run length, and all of them together keep the one they were given (see `segments`).
use serde::{Deserialize, Serialize};

use super::Watcher;
use super::finding::{Finding, Measure};
use super::loss_test::{Law, LossTest, TestState};
use super::segments::OTHER;

/// Tests that one row moves.
const TESTS_PER_ROW: f64 = 2.0;

/// A class as status shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassView {
    /// Its name; `other` for all classes past the limit together.
    pub name: String,
    /// The test of its recall.
    pub recall: TestState,
    /// The test of its precision.
    pub precision: TestState,
}

/// All classes of the serving model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Classes {
    /// Classes with tests of their own; those after them share the last pair.
    apart: usize,
    recall: Vec<LossTest>,
    precision: Vec<LossTest>,
}

impl Classes {
    pub(super) fn new(classes: usize, classes_max: usize, calibration_labels: u64, run_length_rows: f64) -> Self {
        let apart = classes.min(classes_max);
        let tests = apart + usize::from(classes > apart);
        let test = LossTest::learning(Law::ZeroOne, TESTS_PER_ROW * run_length_rows, calibration_labels);
        Self { apart, recall: vec![test.clone(); tests], precision: vec![test; tests] }
    }

    /// Takes a row of class `truth` that was answered as class `answer`, both below the number of `classes`.
    pub(super) fn take(
        &mut self,
        (truth, answer): (usize, usize),
        classes: &[String],
        ordinal: u64,
        quiet: u64,
        say: &mut Vec<Finding>,
    ) {
        let loss = f64::from(u8::from(truth != answer));
        let (missed, taken_for) = (truth.min(self.apart), answer.min(self.apart));
        if let Some(test) = self.recall.get_mut(missed)
            && let Some(heard) = test.take(loss, ordinal, quiet)
        {
            let measure = Measure::Recall(name(classes, missed, self.apart));
            say.push(test.finding(heard, Watcher::Classes, measure));
        }
        if let Some(test) = self.precision.get_mut(taken_for)
            && let Some(heard) = test.take(loss, ordinal, quiet)
        {
            let measure = Measure::Precision(name(classes, taken_for, self.apart));
            say.push(test.finding(heard, Watcher::Classes, measure));
        }
    }

    /// Every class as it stands.
    pub(super) fn view(&self, classes: &[String]) -> Vec<ClassView> {
        let both = self.recall.iter().zip(&self.precision).enumerate();
        both.map(|(place, (recall, precision))| ClassView {
            name: name(classes, place, self.apart),
            recall: recall.state(),
            precision: precision.state(),
        })
        .collect()
    }
}

fn name(classes: &[String], place: usize, apart: usize) -> String {
    classes.get(place).filter(|_| place < apart).map_or_else(|| OTHER.to_owned(), Clone::clone)
}
