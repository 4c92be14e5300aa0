//! Windows: turns the readings of one source into rows of a model that looks at several readings at once.
//!
//! A feature says by its name what it is of the newest `length` readings, if that is above 1:
//!
//! ```text
//! temp        the newest          temp[0]     the oldest, temp[length - 1] the newest
//! temp.mean   temp.min   temp.max   temp.std  over those that are not missing
//! ```
use std::collections::{HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use trainer_core::schema::{Feature, FeatureKind, Schema};

use crate::decide::time::Timestamp;

/// How many readings of a source make a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WindowSettings {
    /// Readings in a window; 1 means that each reading is a row. Range 1 to 4,096, default 1.
    pub length: usize,
    /// Readings from one row to the next. Range 1 to 4,096, default 1.
    pub stride: usize,
    /// A source that was silent for longer begins a new window, seconds. Range 1 to 604,800, default 60.
    pub gap_s: u32,
    /// Sources with a window; the one silent for longest is forgotten for a new one. Range 1 to 4,096, default 256.
    pub sources_max: usize,
}

impl Default for WindowSettings {
    fn default() -> Self {
        Self { length: 1, stride: 1, gap_s: 60, sources_max: 256 }
    }
}

/// What became of a reading.
#[derive(Clone, Debug, PartialEq)]
pub enum Pushed {
    /// It completes a row, in the order of the model's features.
    Row(Vec<f32>),
    /// It is kept for a row that is not complete, with so many others.
    Kept(usize),
    /// It is older than the newest one of its source, and left out.
    Late,
}

/// How the rows of a model are made of readings.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// What one reading holds.
    pub readings: Schema,
    /// For each feature of the model: column of the reading, and what of the window.
    picks: Vec<(usize, Pick)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pick {
    At(usize),
    Mean,
    Min,
    Max,
    Std,
}

/// The windows of all sources.
#[derive(Debug, Default)]
pub struct Windows {
    settings: WindowSettings,
    /// Names of the readings' columns; another model with others begins anew.
    columns: Vec<String>,
    sources: HashMap<String, Kept>,
    /// Counts readings, to know which source was silent for longest.
    turn: u64,
}

#[derive(Debug)]
struct Kept {
    /// Oldest first, at most `length` of them.
    readings: VecDeque<Vec<f32>>,
    newest: Timestamp,
    /// Readings since the last row.
    fresh: usize,
    /// Whether there was a row.
    begun: bool,
    turn: u64,
}

impl Layout {
    /// How a model of `schema` is fed with windows of `length` readings.
    #[must_use]
    pub fn of(schema: &Schema, length: usize) -> Self {
        let mut features: Vec<Feature> = Vec::new();
        let picks = schema.features.iter().map(|feature| {
            let (name, pick) = read_name(&feature.name, length);
            let whole = matches!(pick, Pick::At(_));
            let known = features.iter().position(|known| known.name == name);
            let column = known.unwrap_or_else(|| {
                let kind = if whole { feature.kind.clone() } else { FeatureKind::Number };
                features.push(Feature { name: name.to_owned(), unit: feature.unit.clone(), kind, range: None });
                features.len() - 1
            });
            // A range of a spread, say, is none of the reading.
            if whole {
                features[column].range = feature.range;
                features[column].kind = feature.kind.clone();
            }
            (column, pick)
        });
        let picks = picks.collect();
        Self { readings: Schema { features, task: schema.task.clone() }, picks }
    }
}

/// The reading behind a feature's name, and what of its window.
fn read_name(name: &str, length: usize) -> (&str, Pick) {
    let newest = Pick::At(length - 1);
    if length == 1 {
        return (name, newest);
    }
    if let Some((base, index)) = name.strip_suffix(']').and_then(|name| name.rsplit_once('['))
        && let Some(index) = index.parse().ok().filter(|index| *index < length)
        && !base.is_empty()
    {
        return (base, Pick::At(index));
    }
    for (suffix, pick) in [(".mean", Pick::Mean), (".min", Pick::Min), (".max", Pick::Max), (".std", Pick::Std)] {
        if let Some(base) = name.strip_suffix(suffix).filter(|base| !base.is_empty()) {
            return (base, pick);
        }
    }
    (name, newest)
}

impl Windows {
    /// No source yet.
    #[must_use]
    pub fn new(settings: WindowSettings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// Readings of a window.
    #[must_use]
    pub fn length(&self) -> usize {
        self.settings.length
    }

    /// Takes one reading of `source`, in the order of `layout.readings`, taken at `at`.
    pub fn push(&mut self, layout: &Layout, source: &str, at: Timestamp, reading: Vec<f32>) -> Pushed {
        let WindowSettings { length, stride, gap_s, sources_max } = self.settings;
        let names = layout.readings.features.iter().map(|feature| &feature.name);
        if !names.clone().eq(&self.columns) {
            self.columns = names.cloned().collect();
            self.sources.clear();
        }
        self.turn += 1;
        if self.sources.len() >= sources_max
            && !self.sources.contains_key(source)
            && let Some(silent) = self.sources.iter().min_by_key(|(_, kept)| kept.turn).map(|(name, _)| name.clone())
        {
            self.sources.remove(&silent);
        }
        let new = || Kept { readings: VecDeque::with_capacity(length), newest: at, fresh: 0, begun: false, turn: 0 };
        let kept = self.sources.entry(source.to_owned()).or_insert_with(new);
        kept.turn = self.turn;
        let apart_us = at.0.saturating_sub(kept.newest.0);
        // Also backwards: a clock that was set back by more is no reading that came late.
        if apart_us.unsigned_abs() > u64::from(gap_s) * 1_000_000 {
            kept.readings.clear();
            (kept.fresh, kept.begun) = (0, false);
        } else if apart_us < 0 {
            return Pushed::Late;
        }
        kept.newest = at;
        if kept.readings.len() == length {
            kept.readings.pop_front();
        }
        kept.readings.push_back(reading);
        kept.fresh += 1;
        // The first row of a window needs `length` readings, each one after it `stride` more.
        if kept.fresh < if kept.begun { stride } else { length } {
            return Pushed::Kept(kept.readings.len());
        }
        kept.begun = true;
        kept.fresh = 0;
        let row =
            layout.picks.iter().map(|(column, pick)| pick.of(kept.readings.iter().map(|reading| reading[*column])));
        Pushed::Row(row.collect())
    }
}

impl Pick {
    fn of(self, mut values: impl Iterator<Item = f32>) -> f32 {
        if let Self::At(index) = self {
            return values.nth(index).unwrap_or(f32::NAN);
        }
        let (mut n, mut mean, mut squares) = (0.0_f64, 0.0_f64, 0.0_f64);
        let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
        for value in values.filter(|value| !value.is_nan()) {
            // Welford's recurrence: no cancellation at large means.
            n += 1.0;
            let apart = f64::from(value) - mean;
            mean += apart / n;
            squares += apart * (f64::from(value) - mean);
            low = low.min(value);
            high = high.max(value);
        }
        if n == 0.0 {
            return f32::NAN;
        }
        #[expect(clippy::cast_possible_truncation, reason = "models read single precision")]
        match self {
            Self::Mean => mean as f32,
            Self::Min => low,
            Self::Max => high,
            Self::Std => (squares / n).sqrt() as f32,
            Self::At(_) => unreachable!("answered above"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(names: &[&str]) -> Schema {
        let feature = |name: &&str| Feature {
            name: (*name).to_owned(),
            unit: None,
            kind: FeatureKind::Number,
            range: Some([0.0, 9.0]),
        };
        let task = trainer_core::schema::Task::Regression { targets: vec!["y".to_owned()] };
        Schema { features: names.iter().map(feature).collect(), task }
    }

    fn windows(length: usize, stride: usize) -> Windows {
        Windows::new(WindowSettings { length, stride, gap_s: 10, sources_max: 2 })
    }

    fn at(second: i64) -> Timestamp {
        Timestamp(second * 1_000_000)
    }

    #[test]
    fn a_feature_says_by_its_name_what_it_is_of_the_window() {
        let schema = schema(&["t[0]", "t", "t.mean", "t.min", "t.max", "t.std", "t[9]", "mode"]);
        let layout = Layout::of(&schema, 4);
        let names: Vec<_> = layout.readings.features.iter().map(|feature| feature.name.as_str()).collect();
        assert_eq!(names, ["t", "t[9]", "mode"], "an index past the window is a plain name");
        assert_eq!(layout.readings.features[0].range, Some([0.0, 9.0]));
        let mut windows = windows(4, 1);
        for (second, value) in [(0, 1.0), (1, f32::NAN), (2, 4.0)] {
            let pushed = windows.push(&layout, "a", at(second), vec![value, 7.0, 8.0]);
            assert!(matches!(pushed, Pushed::Kept(_)), "{pushed:?}");
        }
        let row = windows.push(&layout, "a", at(3), vec![7.0, 7.0, 8.0]);
        assert_eq!(row, Pushed::Row(vec![1.0, 7.0, 4.0, 1.0, 7.0, 6.0_f32.sqrt(), 7.0, 8.0]));
        let plain = Layout::of(&schema, 1);
        assert_eq!(plain.readings, schema, "without windows a name is a name");
    }

    #[test]
    fn rows_follow_each_other_by_the_stride_and_sources_do_not_mix() {
        let layout = Layout::of(&schema(&["t[0]", "t[1]"]), 2);
        for (stride, expected) in [(1, vec![1, 2, 3, 4, 5, 6]), (2, vec![1, 3, 5]), (3, vec![1, 4])] {
            let mut windows = windows(2, stride);
            let mut rows = Vec::new();
            for second in 0..7 {
                // The other source interleaves; its values must not be seen.
                let _ = windows.push(&layout, "b", at(second), vec![-1.0]);
                if let Pushed::Row(row) = windows.push(&layout, "a", at(second), vec![second as f32]) {
                    assert_eq!(row, [second as f32 - 1.0, second as f32]);
                    rows.push(second);
                }
            }
            assert_eq!(rows, expected, "stride {stride}");
        }
    }

    #[test]
    fn a_gap_and_a_clock_set_back_begin_anew_while_a_late_reading_is_left_out() {
        let layout = Layout::of(&schema(&["t[0]", "t[1]"]), 2);
        let mut windows = windows(2, 1);
        let mut push = |second, value| windows.push(&layout, "a", at(second), vec![value]);
        assert_eq!(push(100, 1.0), Pushed::Kept(1));
        assert_eq!(push(99, 9.0), Pushed::Late);
        assert_eq!(push(110, 2.0), Pushed::Row(vec![1.0, 2.0]));
        assert_eq!(push(121, 3.0), Pushed::Kept(1), "a gap");
        assert_eq!(push(121, 4.0), Pushed::Row(vec![3.0, 4.0]));
        assert_eq!(push(-5_000_000, 5.0), Pushed::Kept(1), "1970");
        assert_eq!(push(-4_999_999, 6.0), Pushed::Row(vec![5.0, 6.0]));
    }

    #[test]
    fn memory_is_bounded_by_forgetting_the_source_that_was_silent_for_longest() {
        let layout = Layout::of(&schema(&["t[0]", "t[1]"]), 2);
        let mut windows = windows(2, 1);
        for source in ["a", "b", "a", "c"] {
            let _ = windows.push(&layout, source, at(0), vec![1.0]);
        }
        assert_eq!(windows.sources.len(), 2);
        assert!(matches!(windows.push(&layout, "a", at(1), vec![1.0]), Pushed::Row(_)));
        assert_eq!(windows.push(&layout, "b", at(1), vec![1.0]), Pushed::Kept(1));
        let other = Layout::of(&schema(&["u[0]", "u[1]"]), 2);
        assert_eq!(windows.push(&other, "a", at(2), vec![1.0]), Pushed::Kept(1), "another model reads something else");
    }
}
