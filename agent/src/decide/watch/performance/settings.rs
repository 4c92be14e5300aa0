//! How labelled answers are watched, and how the tests share one run length.
use serde::{Deserialize, Serialize};
use trainer_core::schema::Task;

use super::super::Watcher;
use super::super::river_tests::needs_errors;
use crate::decide::drift::cbpe::CbpeSettings;

/// How the answers of a model are watched once labels come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PerformanceSettings {
    /// What the tests on losses look at. Default standard.
    pub loss: Loss,
    /// Labels that a freshly promoted model without a reference is calibrated on, silent meanwhile; a reference of less than half
    /// as many rows counts as none. Labels, 50 to 10,000. Default 100: fewer leave the bound so far above the mean that small
    /// changes pass, more keep a bad promotion unseen for longer.
    pub calibration_labels: u32,
    /// Own labels that each segment, and each class on each side, is calibrated on. Labels, 50 to 10,000. Default 100.
    pub group_calibration_labels: u32,
    /// Labels of a measure within which a repeated alarm about it is the same one: it is said when it begins, then at most once in so
    /// many labels while it lasts. Labels, 1 to 1,000,000. Default 500, about when a retrain that did not help is worth another try.
    pub quiet_labels: u32,
    /// Labelled rows that accuracy, F1, log loss, RMSE and MAE are computed over. Rows, 50 to 10,000. Default 500: an accuracy is then
    /// known to about two points.
    pub window_rows: u32,
    /// Segments told apart; further ones are counted together as `other`. 0 to 1,024. Default 64, about 100 KB of state.
    pub segments_max: u32,
    /// Classes told apart by the recall and precision tests; those after them in the model's list are counted together as `other`.
    /// 1 to 1,024. Default 64, about 200 KB of state.
    pub classes_max: u32,
    /// The estimate of accuracy without labels.
    pub estimate: CbpeSettings,
}

impl Default for PerformanceSettings {
    fn default() -> Self {
        Self {
            loss: Loss::Standard,
            calibration_labels: 100,
            group_calibration_labels: 100,
            quiet_labels: 500,
            window_rows: 500,
            segments_max: 64,
            classes_max: 64,
            estimate: CbpeSettings::default(),
        }
    }
}

/// A loss of one answer, scaled to [0, 1].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// The 0/1 error, whose mean is 1 − accuracy; for regression `min(|error| / sd, 4) / 4`, which moves with the MAE.
    #[default]
    Standard,
    /// Half the squared distance of the probabilities to the truth (Brier); for regression the square of the above, which moves with
    /// the RMSE: few large errors count more than many small ones.
    Squared,
    /// `min(−ln p, ln 1000) / ln 1000` of the true class: also sees answers that stay right and lose their confidence. For regression
    /// as `standard`.
    LogLoss,
}

impl Loss {
    /// The loss of an answer `[outputs]` whose standard loss is `standard`; `class` is the true class, for classification.
    pub(super) fn of(self, standard: f64, answer: &[f32], class: Option<usize>) -> f64 {
        let probability = |index: usize| f64::from(answer[index]).clamp(0.0, 1.0);
        match (self, class.filter(|class| *class < answer.len())) {
            (Self::Standard, _) | (Self::LogLoss, None) => standard,
            (Self::Squared, None) => standard * standard,
            (Self::Squared, Some(class)) => {
                let each =
                    (0..answer.len()).map(|index| (probability(index) - f64::from(u8::from(index == class))).powi(2));
                (each.sum::<f64>() / 2.0).min(1.0)
            }
            (Self::LogLoss, Some(class)) => {
                let most = 1000_f64.ln();
                -probability(class).max(1e-3).ln() / most
            }
        }
    }
}

/// Settings that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PerformanceError {
    /// A number out of its range.
    #[error("`{field}` is {value}; it must be from {least} to {most}")]
    Range {
        /// The setting.
        field: &'static str,
        /// What was given.
        value: u32,
        /// Lowest accepted.
        least: u32,
        /// Highest accepted.
        most: u32,
    },
    /// A test of 0/1 errors for a model that answers numbers.
    #[error("`{}` counts errors, but the loss that is watched is a number; use `e_sr`, `adwin` or `hddm_a`", watcher.name())]
    NeedsErrors {
        /// The test.
        watcher: Watcher,
    },
}

impl PerformanceSettings {
    /// Every number with its range.
    fn ranges(&mut self) -> [(&'static str, &mut u32, u32, u32); 8] {
        [
            ("calibration_labels", &mut self.calibration_labels, 50, 10_000),
            ("group_calibration_labels", &mut self.group_calibration_labels, 50, 10_000),
            ("quiet_labels", &mut self.quiet_labels, 1, 1_000_000),
            ("window_rows", &mut self.window_rows, 50, 10_000),
            ("segments_max", &mut self.segments_max, 0, 1_024),
            ("classes_max", &mut self.classes_max, 1, 1_024),
            ("estimate.chunk_rows", &mut self.estimate.chunk_rows, 50, 100_000),
            ("estimate.reference_chunks", &mut self.estimate.reference_chunks, 2, 64),
        ]
    }

    /// Checks the numbers, and that each of the loss tests can watch a model of this task.
    ///
    /// # Errors
    ///
    /// Names the first setting out of range, or the first test that needs 0/1 errors where the model answers numbers.
    pub fn validate(&self, tests: &[Watcher], task: &Task) -> Result<(), PerformanceError> {
        for (field, value, least, most) in self.clone().ranges() {
            if !(least..=most).contains(value) {
                return Err(PerformanceError::Range { field, value: *value, least, most });
            }
        }
        let regression = matches!(task, Task::Regression { .. }) || self.loss != Loss::Standard;
        match tests.iter().find(|watcher| regression && needs_errors(**watcher)) {
            Some(watcher) => Err(PerformanceError::NeedsErrors { watcher: *watcher }),
            None => Ok(()),
        }
    }

    /// The same with every number brought into its range, so that memory stays bounded whatever was given.
    pub(super) fn within_ranges(&self) -> Self {
        let mut settings = self.clone();
        for (_, value, least, most) in settings.ranges() {
            *value = (*value).clamp(least, most);
        }
        settings
    }
}

/// The run length each of the e-SR families is given, so that together they keep the one of the whole.
///
/// A test at run length `A/w` contributes a share `w` of the false alarms, and the shares of those that run sum to 1: the overall loss
/// takes half, segments and classes halve the rest (or take it alone); what runs alone takes everything. Measured with all three over
/// 200 quiet runs of one run length: 57 findings with 1,000 reference rows, 86 with 200, where 200 are allowed. The proof is that of one
/// e-SR: the weighted sum of all statistics minus the rows is a supermartingale, and an alarm of any means that the sum is at least `A`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RunLengths {
    /// Of the overall loss.
    pub(super) overall: f64,
    /// Of all segments together.
    pub(super) segments: f64,
    /// Of all classes together.
    pub(super) classes: f64,
}

impl RunLengths {
    pub(super) fn of(run_length_rows: f64, tests: &[Watcher], task: &Task) -> Self {
        let runs = |watcher| tests.contains(&watcher);
        let classes = runs(Watcher::Classes) && matches!(task, Task::Classification { .. });
        let groups = f64::from(u8::from(classes) + u8::from(runs(Watcher::Segments))).max(1.0);
        let alone = !classes && !runs(Watcher::Segments);
        let overall = if alone { 1.0 } else { 2.0 };
        let of_groups = if runs(Watcher::ESr) { 2.0 } else { 1.0 };
        Self {
            overall: run_length_rows * overall,
            segments: run_length_rows * of_groups * groups,
            classes: run_length_rows * of_groups * groups,
        }
    }
}

/// Labels to a false alarm of the overall loss of a regression or of errors, where `tests` share `run_length_rows`; classes ask for none.
pub(in crate::decide::watch) fn overall_run_length(run_length_rows: f64, tests: &[Watcher]) -> f64 {
    RunLengths::of(run_length_rows, tests, &Task::Regression { targets: Vec::new() }).overall
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classification() -> Task {
        Task::Classification { classes: vec!["a".into(), "b".into()] }
    }

    fn regression() -> Task {
        Task::Regression { targets: vec!["y".into()] }
    }

    #[test]
    fn the_shares_of_the_tests_that_run_sum_to_one() {
        use Watcher::{Classes, ESr, Segments};
        let all: [&[Watcher]; 7] = [
            &[ESr],
            &[Segments],
            &[Classes],
            &[ESr, Segments],
            &[ESr, Classes],
            &[Segments, Classes],
            &[ESr, Segments, Classes],
        ];
        for tests in all {
            for task in [classification(), regression()] {
                let lengths = RunLengths::of(1000.0, tests, &task);
                let classes = tests.contains(&Classes) && task == classification();
                let mut share = 0.0;
                share += if tests.contains(&ESr) { 1000.0 / lengths.overall } else { 0.0 };
                share += if tests.contains(&Segments) { 1000.0 / lengths.segments } else { 0.0 };
                share += if classes { 1000.0 / lengths.classes } else { 0.0 };
                let any = tests != [Classes] || classes;
                assert!(!any || (share - 1.0_f64).abs() < 1e-12, "{tests:?}: {share}");
            }
        }
    }

    #[test]
    fn each_loss_lies_between_0_and_1_and_falls_with_the_probability_of_the_truth() {
        for loss in [Loss::Squared, Loss::LogLoss] {
            let of = |p: f32| loss.of(0.0, &[p, 1.0 - p], Some(0));
            let all = [0.0, 0.01, 0.3, 0.5, 0.9, 1.0].map(of);
            assert!(all.iter().all(|x| (0.0..=1.0).contains(x)) && all.is_sorted_by(|a, b| a > b), "{loss:?}: {all:?}");
        }
        assert!(Loss::Standard.of(1.0, &[0.9, 0.1], Some(0)) >= 1.0);
        assert_eq!((Loss::Squared.of(0.5, &[3.0], None), Loss::LogLoss.of(0.5, &[3.0], None)), (0.25, 0.5));
        assert!(Loss::LogLoss.of(1.0, &[0.5, 0.5], Some(7)) >= 1.0, "a truth of no class keeps the standard loss");
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_name() {
        let settings = PerformanceSettings::default();
        assert_eq!(settings.validate(&[Watcher::Ddm, Watcher::Classes, Watcher::Cbpe], &classification()), Ok(()));
        assert_eq!(settings.validate(&[Watcher::ESr, Watcher::Fhddm, Watcher::Classes], &regression()), Ok(()));
        let refused = settings.validate(&[Watcher::ESr, Watcher::Eddm], &regression()).unwrap_err().to_string();
        assert_eq!(
            refused,
            "`eddm` counts errors, but the loss that is watched is a number; use `e_sr`, `adwin` or `hddm_a`"
        );
        let narrow = PerformanceSettings { window_rows: 3, ..settings };
        let refused = narrow.validate(&[], &regression()).unwrap_err().to_string();
        assert_eq!(refused, "`window_rows` is 3; it must be from 50 to 10000");
        assert_eq!(narrow.within_ranges().window_rows, 50);
    }
}
