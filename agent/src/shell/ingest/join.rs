//! Joins readings of one source that come in several messages into rows; plain data, time is handed in.
//!
//! ```text
//! first new reading ─► open ─► all features new, or `join` over ─► row; what is not new is held for `hold`, then missing
//! ```
use std::collections::HashMap;
use std::time::Duration;

use super::samples::{Counts, Sample};
use crate::decide::time::{Timestamp, Uptime};

/// Sources that are joined at once; the one silent for longest is forgotten for a new one.
const SOURCES_MAX: usize = 1_024;

/// Some features of one source, as one message brought them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    pub(super) source: String,
    pub(super) segment: Option<String>,
    pub(super) time: Option<Timestamp>,
    /// Column and value.
    pub(super) values: Vec<(usize, f32)>,
    pub(super) counts: Counts,
}

/// The rows that are not complete.
#[derive(Debug)]
pub(super) struct Joins {
    join: Duration,
    hold: Duration,
    width: usize,
    sources: HashMap<String, Open>,
}

#[derive(Debug)]
struct Open {
    /// Newest value of each column with its running time, and whether it came since the last row.
    columns: Vec<Option<(f32, Uptime, bool)>>,
    /// When the row must be made, if a new reading waits.
    due: Option<Uptime>,
    heard: Uptime,
    time: Option<Timestamp>,
    segment: Option<String>,
    counts: Counts,
}

impl Joins {
    /// `join` of zero makes each message a row.
    pub(super) fn new(join: Duration, hold: Duration) -> Self {
        Self { join, hold, width: 0, sources: HashMap::new() }
    }

    /// Takes a reading of a model with `width` features; returns the row it completes.
    pub(super) fn add(&mut self, reading: Reading, width: usize, now: Uptime) -> Option<Sample> {
        if self.width != width {
            self.sources.clear();
            self.width = width;
        }
        if self.sources.len() >= SOURCES_MAX
            && !self.sources.contains_key(&reading.source)
            && let Some(silent) = self.sources.iter().min_by_key(|(_, open)| open.heard).map(|(name, _)| name.clone())
        {
            self.sources.remove(&silent);
        }
        let Reading { source, segment, time, values, counts } = reading;
        let open = self.sources.entry(source.clone()).or_insert_with(|| Open {
            columns: vec![None; width],
            due: None,
            heard: now,
            time: None,
            segment: None,
            counts: Counts::default(),
        });
        for (column, value) in values {
            open.columns[column] = Some((value, now, true));
        }
        open.heard = now;
        open.time = open.time.max(time);
        open.segment = segment.or(open.segment.take());
        open.counts.missing += counts.missing;
        open.counts.out_of_range += counts.out_of_range;
        open.counts.unseen_category += counts.unseen_category;
        open.due = open.due.or(Some(now.plus(self.join)));
        let complete = open.columns.iter().all(|value| value.is_some_and(|(.., fresh)| fresh));
        (complete || self.join.is_zero()).then(|| open.row(&source, self.hold, now))
    }

    /// When the next row must be made without another reading.
    pub(super) fn due(&self) -> Option<Uptime> {
        self.sources.values().filter_map(|open| open.due).min()
    }

    /// Rows that must be made now.
    pub(super) fn expired(&mut self, now: Uptime) -> Vec<Sample> {
        let hold = self.hold;
        let due = self.sources.iter_mut().filter(|(_, open)| open.due.is_some_and(|due| due <= now));
        let mut rows: Vec<_> = due.map(|(source, open)| open.row(source, hold, now)).collect();
        rows.sort_by(|one, other| one.source.cmp(&other.source));
        rows
    }
}

impl Open {
    fn row(&mut self, source: &str, hold: Duration, now: Uptime) -> Sample {
        self.due = None;
        let mut counts = std::mem::take(&mut self.counts);
        let mut features = Vec::with_capacity(self.columns.len());
        for column in &mut self.columns {
            let value = column.filter(|(_, at, fresh)| *fresh || at.plus(hold) >= now).map(|(value, ..)| value);
            counts.missing += u64::from(value.is_none());
            features.push(value.unwrap_or(f32::NAN));
            if let Some((.., fresh)) = column {
                *fresh = false;
            }
        }
        let (time, segment) = (self.time.take(), self.segment.clone());
        Sample { source: source.to_owned(), time, segment, features, counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(source: &str, values: &[(usize, f32)]) -> Reading {
        Reading { source: source.to_owned(), values: values.to_vec(), ..Reading::default() }
    }

    fn at(milliseconds: u64) -> Uptime {
        Uptime(Duration::from_millis(milliseconds))
    }

    fn joins() -> Joins {
        Joins::new(Duration::from_millis(200), Duration::from_mins(1))
    }

    #[test]
    fn readings_of_several_messages_make_one_row_as_soon_as_it_is_complete() {
        let mut joins = joins();
        assert_eq!(joins.add(reading("a", &[(0, 1.0)]), 2, at(0)), None);
        assert_eq!(joins.add(reading("b", &[(1, 9.0)]), 2, at(50)), None, "another source");
        let row = joins.add(reading("a", &[(1, 2.0)]), 2, at(100)).expect("complete");
        assert_eq!((row.features, row.counts.missing), (vec![1.0, 2.0], 0));
        assert_eq!(joins.due(), Some(at(250)), "b waits");
    }

    #[test]
    fn a_slow_reading_is_held_for_the_rows_that_follow_until_it_is_too_old() {
        let mut joins = joins();
        assert!(joins.add(reading("a", &[(0, 1.0), (1, 5.0)]), 2, at(0)).is_some());
        assert_eq!(joins.add(reading("a", &[(0, 2.0)]), 2, at(1_000)), None);
        assert_eq!(joins.expired(at(1_199)), []);
        assert_eq!(joins.expired(at(1_200))[0].features, [2.0, 5.0]);
        assert_eq!((joins.due(), joins.expired(at(9_000))), (None, vec![]), "a row is made once");
        assert_eq!(joins.add(reading("a", &[(0, 3.0)]), 2, at(61_000)), None);
        let late = joins.expired(at(61_200)).remove(0);
        assert!(late.features[1].is_nan() && late.counts.missing == 1, "{late:?}");
    }

    #[test]
    fn without_joining_each_message_is_a_row_and_sources_are_bounded() {
        let mut joins = Joins::new(Duration::ZERO, Duration::ZERO);
        for number in 0..2 * SOURCES_MAX {
            let now = at(u64::try_from(number).unwrap());
            let row = joins.add(reading(&number.to_string(), &[(0, 1.0)]), 2, now).expect("a row");
            assert!(row.features[1].is_nan());
        }
        assert_eq!(joins.sources.len(), SOURCES_MAX);
    }
}
