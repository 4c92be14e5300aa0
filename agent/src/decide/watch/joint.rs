//! The joint law of all inputs, or of the embedding, against a frozen baseline, with a promised run length.
//!
//! ```text
//! row ─► principal components ─► every b-th row ─► QT-EWMA ─► above: said once, held until it is calm, then anew
//!             (frozen)            (thinning)          (and NEWMA, a notice only)
//! ```
//!
//! After an alarm the test is held: it says nothing until its statistic falls below `release` of the threshold. Then it measures
//! anew how rows follow each other, for 256 rows, and begins from the baseline.
//!
//! The promise holds for the first alarm after a baseline in rows, not fed rows: every b-th row is fed and the test promises
//! run length / b. It needs fed rows to obey the law of the reference rows. So the components come from a quarter of the baseline
//! that the tree never sees (in its own rows a direction has more variance than in new ones), and rows are thinned, not averaged.
mod reference;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::finding::{Finding, Grade, Measure, Picture};
use super::{Since, Watcher};
use crate::decide::drift::principal::COMPONENTS_MAX;
use crate::decide::drift::qt_thresholds::{RUN_LENGTH_MAX, RUN_LENGTH_MIN, Thresholds};
use crate::decide::drift::thinning::{Pace, Thinning};
use crate::decide::drift::{Alarm, Direction};

pub use reference::Silent;
use reference::{Reference, untie, whole};

/// Fewest baseline rows a verdict rests on: three quarters of them grow the tree, which needs 128.
pub const BASELINE_ROWS_MIN: usize = 192;
/// Baseline rows that are used; of more, the newest ones.
pub const BASELINE_ROWS_MAX: usize = 2048;
/// Longest run length that may be promised: thirty years of a row a second.
const RUN_LENGTH_ROWS_MAX: f64 = 1e9;
/// Points of a finding's picture.
const TRACE_POINTS: usize = 64;
/// Fed rows without another notice before NEWMA may speak again.
const NOTICE_CALM_ROWS: u64 = 100;

/// How the joint law is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JointSettings {
    /// What is watched: the model's inputs, or the embedding of its backbone. Default features.
    pub space: Space,
    /// Principal components the rows are reduced to, 1 to 16 (and at most the columns). Few miss a change of wide rows that happens
    /// to lie across them: 128 independent columns that all move by half a deviation are found after 61 rows with 16, and with 8
    /// after 418 on average, in one of 60 cases not at all. Default 16.
    pub components: u32,
    /// Share of the threshold the statistic must fall below before another alarm may be said, 0.1 to 1. Default 0.8.
    pub release: f64,
    /// Whether NEWMA looks on as well: it needs no baseline, promises no run length and only ever gives a notice. Default false.
    pub newma: bool,
}

impl Default for JointSettings {
    fn default() -> Self {
        Self { space: Space::Features, components: 16, release: 0.8, newma: false }
    }
}

/// Which vectors are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Space {
    /// All inputs together.
    #[default]
    Features,
    /// The embedding of the backbone.
    Embedding,
}

/// The joint watch as status shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JointView {
    /// What is watched.
    pub space: Space,
    /// Rows handed in since the baseline.
    pub rows: u64,
    /// Rows with more than half of their values missing, which were left out.
    pub incomplete_rows: u64,
    /// Principal components; 0 without a verdict.
    pub components: u64,
    /// Baseline rows in the tree.
    pub reference_rows: u64,
    /// Independent rows they are worth.
    pub independent_rows: u64,
    /// Every so many rows one is tested; none without a verdict.
    pub block_rows: Option<u32>,
    /// The statistic at the last tested row.
    pub statistic: Option<f64>,
    /// What it is compared with; none over the first tested rows.
    pub threshold: Option<f64>,
    /// Whether an alarm was said and the statistic is not calm since.
    pub held: bool,
    /// Why there is no verdict, if there is none.
    pub silent: Option<Silent>,
}

/// The running watch: bounded, plain data; restoring it changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joint {
    settings: JointSettings,
    run_length_rows: f64,
    reference: Result<Box<Reference>, Silent>,
    thinning: Thinning,
    /// Rows handed in since the baseline.
    rows: u64,
    incomplete_rows: u64,
    /// Rows until the next one is fed.
    wait_rows: u32,
    /// The first row and the first fed row since the test began anew.
    began: Option<(u64, u64)>,
    fed: u64,
    /// An alarm was said, and the statistic has not been calm since.
    held: bool,
    noticed: Option<u64>,
    last: Option<(f64, f64)>,
    trace: VecDeque<f32>,
}

impl Joint {
    /// A watch of rows of `width` values against the baseline `rows` `[n, width]`, which promises `run_length_rows` rows to a first
    /// false alarm, on average (100 to 10⁹; others are held to that).
    ///
    /// Never fails: without enough baseline it stays silent and [`Self::view`] says why. Rows may be raw, or already rid of their
    /// season and standardised, as long as the baseline's rows and new ones are treated alike; their order is that of time, if they
    /// have one. Of more than [`BASELINE_ROWS_MAX`] rows the newest are used.
    #[must_use]
    pub fn new(settings: &JointSettings, run_length_rows: f64, rows: &[f32], width: usize) -> Self {
        let run_length_rows = if run_length_rows.is_nan() {
            RUN_LENGTH_MIN
        } else {
            run_length_rows.clamp(RUN_LENGTH_MIN, RUN_LENGTH_ROWS_MAX)
        };
        let reference = Reference::new(settings, rows, width).map(Box::new);
        let dimension = reference.as_ref().map_or(0, |reference| reference.principal.components());
        let (every_min, every_max) = paces(run_length_rows);
        Self {
            settings: settings.clone(),
            run_length_rows,
            reference,
            thinning: Thinning::new(dimension, every_min, every_max),
            rows: 0,
            incomplete_rows: 0,
            wait_rows: 0,
            began: None,
            fed: 0,
            held: false,
            noticed: None,
            last: None,
            trace: VecDeque::new(),
        }
    }

    /// Begins anew against another baseline, as [`Self::new`] does; rows count from 0 again.
    pub fn rebaseline(&mut self, rows: &[f32], width: usize) {
        *self = Self::new(&self.settings, self.run_length_rows, rows, width);
    }

    /// Takes the next row and returns what is to be said about it.
    ///
    /// A value that is missing or not finite counts as its column's mean; a row of another width, or with more than half of its values
    /// missing, only counts as incomplete. [`Since::Sample`] counts rows handed in since the baseline, from 0.
    pub fn sample(&mut self, row: &[f32]) -> Option<Finding> {
        let index = self.rows;
        self.rows += 1;
        let reference = self.reference.as_mut().ok()?;
        if row.len() != reference.principal.width() {
            self.incomplete_rows += 1;
            return None;
        }
        let (point, missing) = reference.principal.project(row);
        if 2 * missing > row.len() {
            self.incomplete_rows += 1;
            return None;
        }
        let point = &point[..reference.principal.components()];
        if let Some(pace) = self.thinning.record(point, self.held) {
            self.begin(pace, index);
        }
        let Pace::Every(every_rows) = self.thinning.pace() else {
            return None;
        };
        if self.wait_rows > 0 {
            self.wait_rows -= 1;
            return None;
        }
        self.wait_rows = every_rows - 1;
        self.test(point_of(point), point.len(), index, every_rows)
    }

    /// The watch as it stands.
    #[must_use]
    pub fn view(&self) -> JointView {
        let reference = self.reference.as_ref().ok();
        let silent = match (&self.reference, self.thinning.pace()) {
            (Err(silent), _) => Some(silent.clone()),
            (Ok(_), Pace::Unknown) => Some(Silent::WarmUp),
            (Ok(_), Pace::Never) => Some(Silent::Correlated),
            (Ok(_), Pace::Every(_)) => None,
        };
        let block_rows = match self.thinning.pace() {
            Pace::Every(rows) if silent.is_none() => Some(rows),
            _ => None,
        };
        JointView {
            space: self.settings.space,
            rows: self.rows,
            incomplete_rows: self.incomplete_rows,
            components: reference.map_or(0, |reference| reference.principal.components() as u64),
            reference_rows: reference.map_or(0, |reference| reference.rows),
            independent_rows: reference.map_or(0, |reference| whole(reference.independent_rows)),
            block_rows,
            statistic: self.last.map(|(statistic, _)| statistic),
            threshold: self.last.map(|(_, threshold)| threshold),
            held: self.held,
            silent,
        }
    }

    /// Forgets how rows followed each other while the law was another, and waits until it is known again.
    fn pause(&mut self, components: usize) {
        let (every_min, every_max) = paces(self.run_length_rows);
        self.thinning = Thinning::new(components, every_min, every_max);
        self.trace.clear();
        self.last = None;
        self.held = false;
    }

    /// Begins the test anew at this row and pace.
    fn begin(&mut self, pace: Pace, row: u64) {
        self.trace.clear();
        self.last = None;
        self.wait_rows = 0;
        let (Pace::Every(every_rows), Ok(reference)) = (pace, &mut self.reference) else {
            return;
        };
        let run_length = self.run_length_rows / f64::from(every_rows);
        reference.test.restart_with(Thresholds::promised(reference.independent_rows, run_length));
        self.began = Some((row, self.fed));
    }

    /// Feeds one row to the tests.
    fn test(
        &mut self,
        mut point: [f32; COMPONENTS_MAX],
        components: usize,
        row: u64,
        every_rows: u32,
    ) -> Option<Finding> {
        let reference = self.reference.as_mut().ok()?;
        let notice = reference.newma.as_mut().and_then(|newma| newma.update(&point[..components]));
        untie(&mut point[..components], reference.principal.variances(), row);
        let reading = reference.test.measure(&point[..components])?;
        self.fed += 1;
        let threshold = reading.threshold;
        self.last = threshold.is_finite().then_some((reading.statistic, threshold));
        if self.trace.len() == TRACE_POINTS {
            self.trace.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "only drawn")]
        self.trace.push_back(reading.statistic as f32);
        if self.held {
            if reading.statistic <= self.settings.release.clamp(0.1, 1.0) * threshold {
                self.pause(components);
            }
        } else if reading.statistic > threshold {
            self.held = true;
            return Some(self.finding(Watcher::QtEwma, Grade::Alarm, reading, every_rows));
        }
        let notice = notice?;
        let spoke = self.noticed.replace(notice.index);
        let calm = spoke.is_none_or(|spoke| notice.index - spoke > NOTICE_CALM_ROWS);
        // The fed rows of NEWMA are never begun anew, but those of QT-EWMA count alike.
        calm.then(|| self.finding(Watcher::Newma, Grade::Notice, notice, every_rows))
    }

    fn finding(&self, watcher: Watcher, grade: Grade, alarm: Alarm, every_rows: u32) -> Finding {
        let (first_row, first_fed) = self.began.unwrap_or_default();
        let since = first_row + alarm.change_point.saturating_sub(first_fed) * u64::from(every_rows);
        let values = match watcher {
            Watcher::QtEwma => self.trace.iter().copied().collect(),
            _ => Vec::new(),
        };
        let picture = if values.is_empty() {
            Picture::None
        } else {
            Picture::Trace { every_rows: u64::from(every_rows), values }
        };
        Finding {
            watcher,
            measure: match self.settings.space {
                Space::Features => Measure::Features,
                Space::Embedding => Measure::Embedding,
            },
            grade,
            statistic: alarm.statistic,
            threshold: alarm.threshold,
            p: None,
            direction: Direction::Both,
            since: Since::Sample(since.min(self.rows.saturating_sub(1))),
            since_at: None,
            picture,
        }
    }
}

/// The shortest and the longest distance of fed rows at which the tables hold a threshold.
fn paces(run_length_rows: f64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 10⁷")]
    let (least, most) = ((run_length_rows / RUN_LENGTH_MAX).ceil() as u32, (run_length_rows / RUN_LENGTH_MIN) as u32);
    // Without a common divisor with hours and days, so that every time of the day is fed.
    let least =
        (least.max(1)..least + 30).find(|rows| *rows == 1 || (rows % 2) * (rows % 3) * (rows % 5) > 0).unwrap_or(least);
    (least, most)
}

fn point_of(point: &[f32]) -> [f32; COMPONENTS_MAX] {
    let mut whole = [0.0; COMPONENTS_MAX];
    whole[..point.len()].copy_from_slice(point);
    whole
}

#[cfg(test)]
mod promises;
#[cfg(test)]
mod tests;
