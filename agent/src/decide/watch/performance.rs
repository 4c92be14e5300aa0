//! How good the answers are, once labels come and before: tests on losses, classes and segments, measures, and an estimate.
//!
//! One value watches one model from its promotion to the next; `expect` starts it anew. It must only be told of answers which that
//! model gave: late labels of an older model would be its last errors.
mod settings;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use trainer_core::evaluate::Metrics;
use trainer_core::horizons::argmax;
use trainer_core::model::Reference;
use trainer_core::schema::Task;

use super::Watcher;
use super::classes::{ClassView, Classes};
use super::finding::{Finding, Grade, Measure, Picture, Since};
use super::loss_test::{Law, LossTest, TestState};
use super::river_tests::{RiverTests, needs_errors};
use super::segments::{SegmentView, Segments};
use super::windows::Window;
use crate::decide::drift::Direction;
use crate::decide::drift::cbpe::{Cbpe, CbpeView};
use settings::RunLengths;
pub(super) use settings::overall_run_length;
pub use settings::{Loss, PerformanceError, PerformanceSettings};

/// One labelled answer of the model that is watched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome<'row> {
    /// Its loss in [0, 1]: 0/1 error for classes. Clipped; one that is no number is counted and goes nowhere.
    pub loss: f64,
    /// `[outputs]`: what was answered, probabilities or targets.
    pub answer: &'row [f32],
    /// `[truths]`: class index, or targets.
    pub truth: &'row [f32],
    /// The segment of its row, if it has one.
    pub segment: Option<&'row str>,
    /// The number of the label; never falls.
    pub ordinal: u64,
}

/// A test that was asked for and cannot run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idle {
    /// The test.
    pub watcher: Watcher,
    /// Why not, for people.
    pub why: String,
}

/// The overall picture, for status and the device page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PerformanceView {
    /// Labels taken since the model was promoted.
    pub labels: u64,
    /// Labels whose answer or truth had another width or no numbers: their loss counts, measures and classes leave them out.
    pub malformed: u64,
    /// Labels whose loss was no number; counted nowhere else.
    pub unusable: u64,
    /// Mean loss over the last labels and how many they are.
    pub recent_loss: Option<(f64, usize)>,
    /// Accuracy, F1 and log loss, or RMSE and MAE, over the last labelled rows.
    pub metrics: Option<Metrics>,
    /// The e-SR test of the overall loss, if it runs.
    pub e_sr: Option<TestState>,
    /// The further tests of the overall loss that run.
    pub tests: Vec<Watcher>,
    /// Tests that were asked for and cannot run.
    pub idle: Vec<Idle>,
    /// Recall and precision tests; empty unless asked for.
    pub classes: Vec<ClassView>,
    /// Segments seen, by name.
    pub segments: Vec<SegmentView>,
    /// The estimate without labels, if asked for.
    pub estimate: Option<CbpeView>,
}

/// The watch on the answers of the serving model: bounded plain data; restoring it changes nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Performance {
    settings: PerformanceSettings,
    task: Task,
    run_length_rows: f64,
    watchers: Vec<Watcher>,
    labels: u64,
    malformed: u64,
    unusable: u64,
    overall: Option<LossTest>,
    river: RiverTests,
    classes: Option<Classes>,
    segments: Segments,
    window: Window,
    estimate: Option<Cbpe>,
}

impl Performance {
    /// A watch for a model of `task` with those of `tests` that look at answers, all e-SR tests together at one false alarm in
    /// `run_length_rows` labels. It begins without a reference, see [`Performance::expect`].
    ///
    /// Nothing is refused here, for a model of another task may come at any time: settings out of range are brought into it, tests that
    /// cannot watch this task are listed in the view. [`PerformanceSettings::validate`] says so beforehand.
    #[must_use]
    pub fn new(settings: &PerformanceSettings, task: &Task, run_length_rows: f64, tests: &[Watcher]) -> Self {
        let settings = settings.within_ranges();
        let errors = matches!(task, Task::Classification { .. }) && settings.loss == Loss::Standard;
        let law = if errors { Law::ZeroOne } else { Law::Bounded };
        let mut watchers: Vec<Watcher> = Watcher::ALL.into_iter().filter(|watcher| tests.contains(watcher)).collect();
        watchers.retain(|watcher| *watcher <= Watcher::Segments || *watcher == Watcher::Cbpe);
        let able = watchers.iter().copied().filter(|watcher| unable(*watcher, task, settings.loss).is_none());
        let able: Vec<Watcher> = able.collect();
        let runs = |watcher| able.contains(&watcher);
        let lengths = RunLengths::of(run_length_rows, &able, task);
        let group = u64::from(settings.group_calibration_labels);
        let count = classes_of(task).len();
        let overall = LossTest::learning(law, lengths.overall, settings.calibration_labels.into());
        let classes = Classes::new(count, settings.classes_max as usize, group, lengths.classes);
        let segments = runs(Watcher::Segments).then_some(lengths.segments);
        Self {
            labels: 0,
            malformed: 0,
            unusable: 0,
            overall: runs(Watcher::ESr).then_some(overall),
            river: RiverTests::new(&able),
            classes: runs(Watcher::Classes).then_some(classes),
            segments: Segments::new(law, settings.segments_max as usize, group, segments),
            window: Window::new(settings.window_rows as usize),
            estimate: runs(Watcher::Cbpe).then(|| Cbpe::new(settings.estimate, count)),
            task: task.clone(),
            run_length_rows,
            watchers,
            settings,
        }
    }

    /// Starts everything anew for the next model of the same task. Its reference is the loss on rows it was not trained on; without one
    /// (or with less than half of `calibration_labels` rows) the first labels calibrate the test, silent meanwhile. Segments and classes
    /// always learn from their own first labels.
    pub fn expect(&mut self, reference: Option<Reference>) {
        *self = Self::new(&self.settings, &self.task, self.run_length_rows, &self.watchers);
        let enough = u64::from(self.settings.calibration_labels / 2);
        let usable = reference.filter(|reference| {
            // A reference is of the standard loss.
            self.settings.loss == Loss::Standard
                && reference.rows >= enough
                && reference.mean.is_finite()
                && reference.variance.is_finite()
        });
        if let (Some(test), Some(reference)) = (&mut self.overall, usable) {
            *test = test.against(reference);
        }
    }

    /// Takes one labelled answer and says what there is to say. Allocates only then, and for a segment seen the first time.
    pub fn label(&mut self, outcome: &Outcome<'_>) -> Vec<Finding> {
        let mut say = Vec::new();
        if !outcome.loss.is_finite() {
            self.unusable += 1;
            return say;
        }
        let (loss, ordinal) = (outcome.loss.clamp(0.0, 1.0), outcome.ordinal);
        let quiet = u64::from(self.settings.quiet_labels);
        self.labels += 1;
        self.window.loss(loss);
        let class = match &self.task {
            Task::Classification { classes } => {
                outcome.truth.first().and_then(|truth| class_index(*truth, classes.len()))
            }
            Task::Regression { .. } => None,
        };
        let loss = self.settings.loss.of(loss, outcome.answer, class);
        if let Some(test) = &mut self.overall
            && let Some(heard) = test.take(loss, ordinal, quiet)
        {
            say.push(test.finding(heard, Watcher::ESr, Measure::Loss));
        }
        self.river.take(loss, ordinal, quiet, &mut say);
        self.measure(outcome, quiet, &mut say);
        if let Some(segment) = outcome.segment {
            self.segments.take(segment, loss, ordinal, quiet, &mut say);
        }
        say
    }

    /// What needs the answer and the truth themselves.
    fn measure(&mut self, outcome: &Outcome<'_>, quiet: u64, say: &mut Vec<Finding>) {
        let numbers = |values: &[f32]| values.iter().all(|value| value.is_finite());
        let widths = match &self.task {
            Task::Classification { classes } => (classes.len(), 1),
            Task::Regression { targets } => (targets.len(), targets.len()),
        };
        let (answer, truth) = (outcome.answer, outcome.truth);
        if (answer.len(), truth.len()) != widths || answer.is_empty() || !numbers(answer) || !numbers(truth) {
            self.malformed += 1;
            return;
        }
        let Task::Classification { classes } = &self.task else {
            self.window.regressed(answer, truth);
            return;
        };
        let Some(class) = class_index(truth[0], classes.len()) else {
            self.malformed += 1;
            return;
        };
        let answered = argmax(answer);
        self.window.classified(class, answered, answer[class]);
        if let Some(tests) = &mut self.classes {
            tests.take((class, answered), classes, outcome.ordinal, quiet, say);
        }
        if let Some(estimate) = &mut self.estimate {
            estimate.label(f64::from(answer[answered]), class == answered);
        }
    }

    /// Takes one answer, `[outputs]`, given to sample `ordinal`, and says when the confidence of a chunk of them has left what was
    /// normal for this model. Answers of another width or without numbers are left out; no allocation but at the end of a chunk.
    pub fn sample(&mut self, answer: &[f32], ordinal: u64) -> Option<Finding> {
        let estimate = self.estimate.as_mut()?;
        let classes = classes_of(&self.task).len();
        if answer.is_empty() || answer.len() != classes || answer.iter().any(|p| !p.is_finite()) {
            return None;
        }
        let answered = argmax(answer);
        let outside = estimate.answer(answered, f64::from(answer[answered]))?;
        let rows = u64::from(estimate.chunk_rows());
        let (threshold, direction) =
            if outside.accuracy < outside.low { (outside.low, Direction::Down) } else { (outside.high, Direction::Up) };
        Some(Finding {
            watcher: Watcher::Cbpe,
            measure: Measure::EstimatedAccuracy,
            grade: Grade::Notice,
            statistic: outside.accuracy,
            threshold,
            p: None,
            direction,
            since: Since::Sample((ordinal + 1).saturating_sub(rows)),
            since_at: None,
            picture: Picture::Trace { every_rows: rows, values: estimate.estimates() },
        })
    }

    /// Mean loss over the last labels (at most `window_rows`) and how many they are.
    #[must_use]
    pub fn recent_loss(&self) -> Option<(f64, usize)> {
        self.window.mean_loss()
    }

    /// Everything as it stands.
    #[must_use]
    pub fn view(&self) -> PerformanceView {
        let idle = |watcher: &Watcher| {
            Some(Idle { watcher: *watcher, why: unable(*watcher, &self.task, self.settings.loss)?.to_owned() })
        };
        PerformanceView {
            labels: self.labels,
            malformed: self.malformed,
            unusable: self.unusable,
            recent_loss: self.recent_loss(),
            metrics: self.window.metrics(&self.task),
            e_sr: self.overall.as_ref().map(LossTest::state),
            tests: self.river.watchers().collect(),
            idle: self.watchers.iter().filter_map(idle).collect(),
            classes: self.classes.as_ref().map_or_else(Vec::new, |tests| tests.view(classes_of(&self.task))),
            segments: self.segments.view(),
            estimate: self.estimate.as_ref().map(Cbpe::view),
        }
    }
}

/// Why a test cannot watch a model of this task, if it cannot.
fn unable(watcher: Watcher, task: &Task, loss: Loss) -> Option<&'static str> {
    let regression = matches!(task, Task::Regression { .. });
    match watcher {
        _ if needs_errors(watcher) && loss != Loss::Standard => Some("it counts errors, and another loss is watched"),
        _ if !regression => None,
        _ if needs_errors(watcher) => Some("it counts errors, and this model answers numbers"),
        Watcher::Classes => Some("recall and precision are of classes, and this model answers numbers"),
        Watcher::Cbpe => Some("an answer that is a number carries no confidence to estimate its error from"),
        _ => None,
    }
}

fn classes_of(task: &Task) -> &[String] {
    match task {
        Task::Classification { classes } => classes,
        Task::Regression { .. } => &[],
    }
}

/// The class a truth names, if it names one.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie within the classes")]
fn class_index(truth: f32, classes: usize) -> Option<usize> {
    let rounded = truth.round();
    (rounded >= 0.0 && rounded < classes as f32).then_some(rounded as usize)
}
