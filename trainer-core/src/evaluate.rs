//! How good answers were: the field's usual measures, computed from answers and truths.
use serde::{Deserialize, Serialize};

use crate::horizons::argmax;
use crate::schema::Task;

/// Measures of one model on one set of rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metrics {
    /// Classification.
    Classification {
        /// Rows judged.
        rows: u64,
        /// Share of rows whose largest probability names the true class.
        accuracy: f64,
        /// Mean over classes (that occur in truths or answers) of `2 tp / (2 tp + fp + fn)`.
        f1_macro: f64,
        /// Mean of `−ln p(true class)`, `p` floored at 1e-15.
        log_loss: f64,
    },
    /// Regression; means over targets, in the targets' units.
    Regression {
        /// Rows judged.
        rows: u64,
        /// Root of the mean squared error.
        rmse: f64,
        /// Mean absolute error.
        mae: f64,
        /// `1 − Σ(y − ŷ)² / Σ(y − ȳ)²`; 0 where the truth never varies.
        r2: f64,
    },
}

/// Collects answers one by one; constant memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Tally {
    /// Confusion counts `[truth, answer]` and the summed log loss.
    Classes {
        /// `[classes, classes]`.
        confusion: Vec<u64>,
        /// Number of classes.
        classes: usize,
        /// Sum of `−ln p`.
        log_loss: f64,
    },
    /// Sums per target.
    Targets {
        /// Rows so far.
        rows: u64,
        /// Per target: Σ|e|, Σe², mean of y, Σ(y − ȳ)².
        sums: Vec<[f64; 4]>,
    },
}

impl Tally {
    /// An empty tally for `task`.
    #[must_use]
    pub fn new(task: &Task) -> Self {
        match task {
            Task::Classification { classes } => {
                Self::Classes { confusion: vec![0; classes.len().pow(2)], classes: classes.len(), log_loss: 0.0 }
            }
            Task::Regression { targets } => Self::Targets { rows: 0, sums: vec![[0.0; 4]; targets.len()] },
        }
    }

    /// Adds one answer (`[outputs]`) and its truth (`[truths]`).
    pub fn push(&mut self, answer: &[f32], truth: &[f32]) {
        match self {
            Self::Classes { confusion, classes, log_loss } => {
                let class = class_of(truth[0]).min(*classes - 1);
                debug_assert!(class_of(truth[0]) < *classes, "truths are checked when they are read");
                confusion[class * *classes + argmax(answer)] += 1;
                *log_loss -= f64::from(answer[class]).max(1e-15).ln();
            }
            Self::Targets { rows, sums } => {
                *rows += 1;
                for (sum, (answer, truth)) in sums.iter_mut().zip(answer.iter().zip(truth)) {
                    let (error, y) = (f64::from(answer - truth), f64::from(*truth));
                    let distance = y - sum[2];
                    sum[0] += error.abs();
                    sum[1] += error * error;
                    sum[2] += distance / *rows as f64;
                    sum[3] += distance * (y - sum[2]);
                }
            }
        }
    }

    /// The measures so far; `None` before the first row.
    #[must_use]
    pub fn metrics(&self) -> Option<Metrics> {
        match self {
            Self::Classes { confusion, classes, log_loss } => {
                let rows: u64 = confusion.iter().sum();
                let n = rows as f64;
                let right: u64 = (0..*classes).map(|class| confusion[class * classes + class]).sum();
                let f1 = (0..*classes).filter_map(|class| {
                    let truths: u64 = confusion[class * classes..(class + 1) * classes].iter().sum();
                    let answers: u64 = confusion.iter().skip(class).step_by(*classes).sum();
                    let hits = confusion[class * classes + class] as f64;
                    (truths + answers > 0).then(|| 2.0 * hits / (truths + answers) as f64)
                });
                let (sum, count) = f1.fold((0.0, 0.0), |(sum, count), f1| (sum + f1, count + 1.0));
                (rows > 0).then(|| Metrics::Classification {
                    rows,
                    accuracy: right as f64 / n,
                    f1_macro: sum / f64::max(count, 1.0),
                    log_loss: log_loss / n,
                })
            }
            Self::Targets { rows, sums } => {
                let (n, targets) = (*rows as f64, sums.len() as f64);
                let mean = |value: &dyn Fn(&[f64; 4]) -> f64| sums.iter().map(value).sum::<f64>() / targets;
                (*rows > 0).then(|| Metrics::Regression {
                    rows: *rows,
                    rmse: mean(&|sum| (sum[1] / n).sqrt()),
                    mae: mean(&|sum| sum[0] / n),
                    r2: mean(&|sum| if sum[3] > 0.0 { 1.0 - sum[1] / sum[3] } else { 0.0 }),
                })
            }
        }
    }
}

/// The class index that a truth carries.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truths are class indices, checked when read"
)]
pub fn class_of(truth: f32) -> usize {
    truth.round().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classification_measures_equal_hand_computed_ones() {
        let task = Task::Classification { classes: ["a", "b", "c"].map(String::from).to_vec() };
        let mut tally = Tally::new(&task);
        assert_eq!(tally.metrics(), None);
        for (answer, truth) in
            [([0.8, 0.2, 0.0], 0.0), ([0.4, 0.6, 0.0], 0.0), ([0.1, 0.9, 0.0], 1.0), ([0.3, 0.7, 0.0], 1.0)]
        {
            tally.push(&answer, &[truth]);
        }
        let Some(Metrics::Classification { rows, accuracy, f1_macro, log_loss }) = tally.metrics() else { panic!() };
        assert_eq!((rows, accuracy), (4, 0.75));
        // a: 2·1/(2·1+0+1) = 2/3; b: 2·2/(2·2+1+0) = 4/5; c never occurs.
        assert!((f1_macro - f64::midpoint(2.0 / 3.0, 0.8)).abs() < 1e-12);
        let expected = -(0.8_f64.ln() + 0.4_f64.ln() + 0.9_f64.ln() + 0.7_f64.ln()) / 4.0;
        assert!((log_loss - expected).abs() < 1e-6);
    }

    #[test]
    fn regression_measures_equal_hand_computed_ones() {
        let mut tally = Tally::new(&Task::Regression { targets: vec!["y".into()] });
        for (answer, truth) in [(1.0, 2.0), (4.0, 4.0), (7.0, 6.0)] {
            tally.push(&[answer], &[truth]);
        }
        let Some(Metrics::Regression { rmse, mae, r2, .. }) = tally.metrics() else { panic!() };
        assert!((rmse - (2.0_f64 / 3.0).sqrt()).abs() < 1e-9 && (mae - 2.0 / 3.0).abs() < 1e-9);
        assert!((r2 - 0.75).abs() < 1e-9, "8 is the truth's own spread, 2 the error: {r2}");
    }
}
