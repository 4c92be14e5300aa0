//! When a row came: the event times of every so many rows, as far back as a window reaches.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::decide::time::Timestamp;
use crate::decide::watch::Since;

/// Marks that are kept; when they are full every other one is dropped and they are set half as often.
const MARKS_MAX: usize = 128;

/// Rows with their times, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Marks {
    every_rows: u64,
    marks: VecDeque<(u64, Timestamp)>,
}

impl Marks {
    pub(super) fn new() -> Self {
        Self { every_rows: 16, marks: VecDeque::new() }
    }

    /// Notes the time of row number `sample`.
    pub(super) fn note(&mut self, sample: u64, at: Timestamp) {
        if !sample.is_multiple_of(self.every_rows) {
            return;
        }
        if self.marks.len() == MARKS_MAX && self.every_rows < 4096 {
            self.every_rows *= 2;
            let every_rows = self.every_rows;
            self.marks.retain(|(sample, _)| sample.is_multiple_of(every_rows));
        }
        if self.marks.len() == MARKS_MAX {
            self.marks.pop_front();
        }
        if sample.is_multiple_of(self.every_rows) {
            self.marks.push_back((sample, at));
        }
    }

    /// The row `rows` before row number `sample`, and the time of the last mark up to it.
    pub(super) fn back(&self, sample: u64, rows: u64) -> (Since, Option<Timestamp>) {
        let since = sample.saturating_sub(rows);
        let mark = self.marks.iter().rev().find(|(marked, _)| *marked <= since);
        (Since::Sample(since), mark.map(|(_, at)| *at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_dated_to_the_mark_before_it_however_long_ago() {
        let mut marks = Marks::new();
        for sample in 1..=50_000_u64 {
            marks.note(sample, Timestamp(i64::try_from(sample).unwrap() * 10));
        }
        assert!(marks.marks.len() <= MARKS_MAX);
        let (since, at) = marks.back(50_000, 20_000);
        assert_eq!(since, Since::Sample(30_000));
        assert!((299_000 - 5_120..=300_000).contains(&at.unwrap().0), "{at:?}");
        assert_eq!(Marks::new().back(5, 10), (Since::Sample(0), None));
    }
}
