//! e-SR on one loss, against a bound it is given or learns: the test behind the overall loss, each segment and each class.
//!
//! What is promised: as long as the mean loss of a row *given all rows before* stays at or below the bound, the expected number of
//! rows to a false alarm is at least the run length. The bound is an upper 95 % confidence bound (Clopper and Pearson for 0/1
//! losses) of the mean over the reference rows, so in up to 5 % of cases it lies below the true mean and alarms come sooner.
//! Without a reference the first losses are the reference, and the test is silent meanwhile.
//!
//! The bound sharpens: when 2, 4, 8, … times as many rows as the reference have been seen without an alarm, the bound over all of them
//! replaces it where lower, at levels .0125, .00625, … (together 2.5 %), but never below the mean of the reference: a
//! quiet night must not make the day an alarm. This is what finds small changes after a short calibration.
//!
//! Measured at run length 10,000, error .2 (`performance::tests::long`): median rows to find .25 / .3 / .4 / .8 are 478 / 166 / 57 / 11
//! with the mean known, 812 / 242 / 77 / 13 from 1,000 reference rows and 969 / 367 / 89 / 13 from 200, with .54, .18 and .14
//! false alarms per 10,000 rows. Without sharpening: 322 and 549 rows for .3, .26 and .27 false alarms.
//!
//! Autocorrelated errors break the condition: after an error the next is likelier than the mean, and the mean given the past exceeds
//! the bound whenever errors cluster, though the long-run mean does not. Alarms per 10,000 rows of a two-state chain of mean .2 and
//! lag-1 correlation ρ, with the mean known | from 200 rows: ρ = .1: 1.5 | .45; .2: 3.5 | 1.4; .3: 7.4 | 3.6; .5: 24 | 15; .7: 61 | 44.
//! (An episode is said once per `quiet_labels`, which bounds what is heard of it.) So a short streak of errors is reported as
//! what it is; read the trace before trusting the run length on a sensor that lingers.
use serde::{Deserialize, Serialize};
use trainer_core::model::Reference;

use super::Watcher;
use super::episode::Episode;
use super::finding::{Finding, Grade, Measure, Since};
use super::trace::Trace;
use crate::decide::drift::Direction;
use crate::decide::drift::e_detector::{EDetector, EDetectorSettings};
use crate::decide::drift::special::beta_quantile;

/// Level of the first bound, then of each sharper one, with the normal quantile that leaves so much above it.
const LEVELS: [(f64, f64); 9] = [
    (0.05, 1.6449),
    (0.0125, 2.2414),
    (0.006_25, 2.4977),
    (0.003_125, 2.7344),
    (0.001_562_5, 2.9552),
    (0.000_781_25, 3.1628),
    (0.000_390_625, 3.3594),
    (0.000_195_312_5, 3.5463),
    (0.000_097_656_25, 3.7250),
];
/// Least variance of a loss that is not 0/1, that of a 2 % error rate: a short run of tiny losses proves little.
const VARIANCE_MIN: f64 = 0.02;

/// What values a loss takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Law {
    /// 0 or 1.
    ZeroOne,
    /// Anything from 0 to 1.
    Bounded,
}

/// How a test stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TestState {
    /// Silent: it learns what loss is normal.
    Learning {
        /// Rows seen.
        rows: u64,
        /// Rows it waits for.
        rows_wanted: u64,
    },
    /// It watches.
    Watching {
        /// Mean loss it takes for normal, at most.
        bound: f64,
        /// Its statistic.
        statistic: f64,
        /// The statistic at which it alarms.
        threshold: f64,
    },
}

/// The test of one loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LossTest {
    law: Law,
    run_length_rows: f64,
    /// Rows, sum and sum of squares of all losses the bound may rest on.
    rows: u64,
    sum: f64,
    square: f64,
    /// Rows at which the bound is computed next; none once an alarm came, for then the rows no longer show what is normal.
    rows_wanted: Option<u64>,
    level: usize,
    floor: f64,
    detector: Option<EDetector>,
    taken: u64,
    trace: Trace,
    episode: Episode,
}

impl LossTest {
    /// A test that learns its bound from its first `rows_wanted` losses.
    pub(super) fn learning(law: Law, run_length_rows: f64, rows_wanted: u64) -> Self {
        Self {
            law,
            run_length_rows: if run_length_rows.is_finite() { run_length_rows.clamp(2.0, 1e15) } else { 10_000.0 },
            rows: 0,
            sum: 0.0,
            square: 0.0,
            rows_wanted: Some(rows_wanted.max(1)),
            level: 0,
            floor: 0.0,
            detector: None,
            taken: 0,
            trace: Trace::default(),
            episode: Episode::default(),
        }
    }

    /// The same test, fresh, against the loss on rows the model was not trained on.
    pub(super) fn against(&self, reference: Reference) -> Self {
        let mut test = Self::learning(self.law, self.run_length_rows, reference.rows);
        let mean = reference.mean.clamp(0.0, 1.0);
        test.rows = reference.rows;
        test.sum = mean * reference.rows as f64;
        test.square = (reference.variance.max(0.0) + mean * mean) * reference.rows as f64;
        test.bound_anew();
        test
    }

    /// Takes a loss in [0, 1] of label `ordinal`; returns what there is to say.
    pub(super) fn take(&mut self, loss: f64, ordinal: u64, quiet: u64) -> Option<Heard> {
        self.taken += 1;
        self.trace.push(loss);
        let alarm = self.detector.as_mut().and_then(|detector| detector.update_at(loss, ordinal));
        if self.rows_wanted.is_some() {
            self.rows = self.rows.saturating_add(1);
            self.sum += loss;
            self.square += loss * loss;
            if alarm.is_some() {
                self.rows_wanted = None;
            }
            self.bound_anew();
        }
        let alarm = alarm?;
        let since = self.episode.admit(self.taken, alarm.change_point, quiet)?;
        Some(Heard { statistic: alarm.statistic, threshold: alarm.threshold, since })
    }

    /// Computes the bound when its rows are there.
    fn bound_anew(&mut self) {
        let (Some(wanted), Some(&(level, quantile))) = (self.rows_wanted, LEVELS.get(self.level)) else {
            return;
        };
        if self.rows < wanted {
            return;
        }
        let n = self.rows as f64;
        let mean = self.sum / n;
        let bound = match self.law {
            Law::ZeroOne if self.sum.round() >= n => 1.0,
            Law::ZeroOne => beta_quantile(1.0 - level, self.sum.round() + 1.0, n - self.sum.round()),
            Law::Bounded => {
                let variance = (self.square / n - mean * mean).max(VARIANCE_MIN);
                (mean + quantile * (variance / n).sqrt()).min(1.0)
            }
        };
        match &mut self.detector {
            None => {
                self.floor = mean;
                let settings =
                    EDetectorSettings { p0: bound, arl: self.run_length_rows, ..EDetectorSettings::default() };
                // The bound lies in [0, 1] and the run length above 1.
                self.detector = EDetector::new(settings).ok();
            }
            Some(detector) => detector.tighten(bound.max(self.floor)),
        }
        self.level += 1;
        self.rows_wanted = Some(wanted.saturating_mul(2));
    }

    pub(super) fn state(&self) -> TestState {
        match &self.detector {
            None => TestState::Learning { rows: self.rows, rows_wanted: self.rows_wanted.unwrap_or(0) },
            Some(detector) => TestState::Watching {
                bound: detector.bound(),
                statistic: detector.statistic(),
                threshold: detector.threshold(),
            },
        }
    }

    /// The finding for something heard.
    pub(super) fn finding(&self, heard: Heard, watcher: Watcher, measure: Measure) -> Finding {
        Finding {
            watcher,
            measure,
            grade: Grade::Alarm,
            statistic: heard.statistic,
            threshold: heard.threshold,
            p: None,
            direction: Direction::Up,
            since: Since::Label(heard.since),
            since_at: None,
            picture: self.trace.picture(),
        }
    }
}

/// An alarm worth saying.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Heard {
    statistic: f64,
    threshold: f64,
    since: u64,
}
