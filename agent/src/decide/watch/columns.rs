//! Every column against its baseline: its shares per bin, its mean, and how often it is missing or impossible.
//!
//! A column is a feature, the score of the answers, or the class they name. All tests on all columns together raise at most one false
//! alarm per run length: the run length is shared by the tests, and within a test by the columns (Holm for the bins, ADWIN's level
//! divided for the means, a longer run length each for the rates).
//!
//! Defined for bad input: NaN is missing; an infinity, a value outside of the valid range or a category unseen in training is out of
//! range; both are counted and their rates tested, and neither becomes a bin of a number (an unseen category is the bin `other`). A
//! column without a usable row in the baseline is shown and never judged; one with fewer than 50 has no verdict on its bins; few rows
//! get few bins (five rows each, at least two). A constant has two bins, itself and everything else, and no mean test.
pub mod settings;

mod column;
mod law;
mod look;
mod marks;
mod mean;
mod quality;
mod view;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod study;

use serde::{Deserialize, Serialize};
use trainer_core::schema::{Feature, FeatureKind};

use super::Watcher;
use super::finding::{Finding, Grade, Measure, Picture};
use crate::decide::drift::Direction;
use crate::decide::drift::season::Phase;
use crate::decide::time::Timestamp;
use column::{Column, Share};
use marks::Marks;
use mean::Shift;
use quality::{BLOCK_ROWS, Rise};

pub use column::Standing;
pub use look::Reading;
pub use settings::{ColumnPlan, ColumnSettings, ColumnTest};
pub use view::{ColumnView, Distances, Held};

/// How the values of a column are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// A real number.
    Number,
    /// An index into a list of `count` categories (1 to 254); anything else is unseen.
    Category {
        /// Categories known in training.
        count: u32,
    },
}

/// One column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnSpec {
    /// What is watched, as findings name it.
    pub measure: Measure,
    /// Number or category.
    pub kind: ColumnKind,
    /// Valid range of a number; a range that is empty or not finite is none.
    pub range: Option<[f32; 2]>,
}

impl ColumnSpec {
    /// The column of a feature.
    #[must_use]
    pub fn of_feature(feature: &Feature) -> Self {
        let kind = match &feature.kind {
            FeatureKind::Number => ColumnKind::Number,
            FeatureKind::Category { values } => {
                ColumnKind::Category { count: u32::try_from(values.len()).unwrap_or(u32::MAX) }
            }
        };
        Self { measure: Measure::Feature(feature.name.clone()), kind, range: feature.range }
    }

    /// Name of a feature; what it is for the others.
    fn name(&self) -> &str {
        match &self.measure {
            Measure::Feature(name) => name,
            Measure::PredictedClass => "predicted_class",
            _ => "score",
        }
    }
}

/// All columns with their tests: bounded, plain data; restoring it anywhere changes nothing that follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Columns {
    plan: ColumnPlan,
    list: Vec<Column>,
    /// Rows taken since creation.
    samples: u64,
    /// Rows since the last look, and since the last block of the rates.
    look_rows: u32,
    block_rows: u32,
    marks: Marks,
    share_held: bool,
}

impl Columns {
    /// Columns without a baseline: nothing is judged before [`Columns::rebaseline`].
    ///
    /// A plan outside of its ranges works as the nearest allowed one; [`ColumnSettings::check`] names what is.
    #[must_use]
    pub fn new(columns: Vec<ColumnSpec>, plan: &ColumnPlan) -> Self {
        Self {
            plan: plan.within_range(),
            list: columns.into_iter().map(Column::new).collect(),
            samples: 0,
            look_rows: 0,
            block_rows: 0,
            marks: Marks::new(),
            share_held: false,
        }
    }

    /// Counts its rows from `samples` on, so that findings carry the numbers of the stream they are part of.
    #[must_use]
    pub fn counted_from(mut self, samples: u64) -> Self {
        self.samples = samples;
        self
    }

    /// A row that is counted and not looked at.
    pub fn skip(&mut self) {
        self.samples += 1;
    }

    /// Columns of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.list.len()
    }

    /// Event time of sample number `sample`, as far back as it is remembered.
    #[must_use]
    pub fn dated(&self, sample: u64) -> Option<Timestamp> {
        self.marks.back(sample, 0).1
    }

    /// Freezes a new baseline from raw rows `[n, columns]` (NaN is missing; an unfinished last row is ignored) and starts every test anew.
    ///
    /// `times` are the event times of the rows, in any order, used only if there is one for each. Rows over at least 47 hours give each
    /// column a daily profile, if the hour of the day explains enough of it; rows over less keep the profile of the last baseline; rows
    /// without times give none. Rows in time order also tell how far they follow their own past, and count for less accordingly.
    /// Without a row nothing changes.
    pub fn rebaseline(&mut self, rows: &[f32], times: Option<&[Timestamp]>) {
        let width = self.list.len().max(1);
        let count = rows.len() / width;
        if count == 0 {
            return;
        }
        let times = times.filter(|times| times.len() == count);
        let share = self.share();
        let mut raw = Vec::with_capacity(count);
        for (index, column) in self.list.iter_mut().enumerate() {
            raw.clear();
            raw.extend(rows.chunks_exact(width).map(|row| row[index]));
            column.rebaseline(&raw, times, &self.plan, share);
        }
        self.start_over();
    }

    /// Takes another plan. If it differs every test starts anew against the same baseline.
    pub fn adopt(&mut self, plan: &ColumnPlan) {
        let plan = plan.within_range();
        if self.plan == plan {
            return;
        }
        self.plan = plan;
        let share = self.share();
        for column in &mut self.list {
            column.restart(&self.plan, share);
        }
        self.start_over();
    }

    fn start_over(&mut self) {
        self.look_rows = 0;
        self.block_rows = 0;
        self.share_held = false;
    }

    fn share(&self) -> Share {
        Share { mean_delta: self.plan.mean_delta(self.list.len()), rate_tests: self.rate_tests() }
    }

    /// Two for every feature; answers are never missing.
    fn rate_tests(&self) -> usize {
        let is_feature = |column: &&Column| matches!(column.spec.measure, Measure::Feature(_));
        2 * self.list.iter().filter(is_feature).count()
    }

    /// Takes one raw row (a value for each column; those that a short row lacks are missing) and returns what became noteworthy.
    ///
    /// Mean shifts and rates are reported at once, bins at a look, every `every_rows` rows. Allocates nothing while there is nothing
    /// to say, but for a look and the logarithmic growth of ADWIN's windows.
    pub fn sample(&mut self, row: &[f32], at: Option<Timestamp>) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.samples += 1;
        if let Some(at) = at {
            self.marks.note(self.samples, at);
        }
        let (phase, release) = (at.map(Phase::of), self.plan.how.release);
        let width = row.len().min(self.list.len());
        let (given, lacking) = self.list.split_at_mut(width);
        for (column, x) in given.iter_mut().zip(row) {
            if let Some(shift) = column.take(*x, phase, release) {
                findings.push(shifted(column, shift, self.samples, &self.marks, &self.plan));
            }
        }
        for column in lacking {
            column.take(f32::NAN, phase, release);
        }
        self.block_rows += 1;
        if self.block_rows == BLOCK_ROWS {
            self.block_rows = 0;
            self.end_block(&mut findings);
        }
        self.look_rows += 1;
        if self.look_rows >= self.plan.how.every_rows {
            self.look_rows = 0;
            for column in &mut self.list {
                column.look(release);
            }
            if self.plan.has(ColumnTest::Bins) {
                findings.extend(self.look_at_bins());
            }
        }
        findings
    }

    /// Hands the fractions of a block to the rate tests.
    fn end_block(&mut self, findings: &mut Vec<Finding>) {
        let tests = self.rate_tests();
        #[expect(clippy::cast_precision_loss, reason = "nobody watches 2^53 columns")]
        let run_length_rows = self.plan.test_run_length_rows() * tests.max(1) as f64;
        let tested = self.plan.has(ColumnTest::Quality);
        for column in &mut self.list {
            let (missing, outside) =
                (column.missing.end_block(run_length_rows), column.outside.end_block(run_length_rows));
            let Measure::Feature(name) = &column.spec.measure else {
                continue;
            };
            if !tested {
                continue;
            }
            let (samples, marks) = (self.samples, &self.marks);
            findings.extend(missing.map(|rise| risen(Measure::Missing(name.clone()), rise, samples, marks)));
            findings.extend(outside.map(|rise| risen(Measure::OutOfRange(name.clone()), rise, samples, marks)));
        }
    }

    /// Every column as it stands, in the order given at creation.
    #[must_use]
    pub fn views(&self) -> Vec<ColumnView> {
        self.list.iter().map(Column::view).collect()
    }

    /// Rows taken since creation; findings count in these.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// The plan in use, within its ranges.
    #[must_use]
    pub fn plan(&self) -> &ColumnPlan {
        &self.plan
    }
}

fn shifted(column: &Column, shift: Shift, samples: u64, marks: &Marks, plan: &ColumnPlan) -> Finding {
    let (since, since_at) = marks.back(samples, shift.age_rows);
    Finding {
        watcher: Watcher::Mean,
        measure: column.spec.measure.clone(),
        grade: Grade::Alarm,
        statistic: shift.statistic,
        threshold: shift.threshold,
        p: None,
        direction: shift.direction,
        since,
        since_at,
        picture: Picture::Trace { every_rows: plan.how.every_rows.into(), values: column.trace() },
    }
}

fn risen(measure: Measure, rise: Rise, samples: u64, marks: &Marks) -> Finding {
    let (since, since_at) = marks.back(samples, rise.age_rows);
    Finding {
        watcher: Watcher::Quality,
        measure,
        grade: Grade::Alarm,
        statistic: rise.statistic,
        threshold: rise.threshold,
        p: None,
        direction: Direction::Up,
        since,
        since_at,
        picture: Picture::Histogram {
            edges: Vec::new(),
            reference: vec![1.0 - rise.baseline, rise.baseline],
            current: vec![1.0 - rise.rate, rise.rate],
        },
    }
}
