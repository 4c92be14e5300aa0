//! What is watched while a model serves: its inputs, its answers, their joint law, and its losses as labels come.
//!
//! ```text
//!  row ─────► features ─ each: bins, mean, rates ─┐
//!      └────► joint ──── all together ────────────┤
//!  answer ──► answers ── score, class ────────────┼─► findings: notice or alarm
//!      └────► performance ─ estimate, no labels ──┤
//!  label ───► performance ─ loss, classes, segments
//! ```
//!
//! All tests that promise a run length share one: losses take half of its false alarms, the other families that run share the rest.
pub mod calibrate;
pub mod classes;
pub mod columns;
mod episode;
pub mod finding;
pub mod joint;
pub mod loss_test;
pub mod performance;
mod river_tests;
pub mod segments;
mod settings;
#[cfg(test)]
mod study;
#[cfg(test)]
mod tests;
mod trace;
mod windows;

use serde::{Deserialize, Serialize};
use trainer_core::horizons::argmax;
use trainer_core::model::{Model, Reference, Work};
use trainer_core::schema::{Schema, Task};

use super::sample::{BaselineRows, Label, Sample};
use super::time::Timestamp;
use columns::{ColumnKind, ColumnSpec, ColumnView, Columns};
pub use finding::Since;
use finding::{Finding, Measure};
use joint::{Joint, JointView, Space};
use performance::{Outcome, Performance, PerformanceView};
pub use settings::{WatchSettings, Watcher};

/// Rows of production that a new baseline rests on, at most.
pub const BASELINE_ROWS_MAX: usize = 512;
/// Fewest rows that a person may choose as the baseline.
pub const BASELINE_ROWS_MIN: usize = 200;

/// All drift state of the serving model: bounded, plain data; restoring it anywhere changes nothing that follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    settings: WatchSettings,
    schema: Schema,
    features: Columns,
    answers: Columns,
    joint: Option<Joint>,
    performance: Performance,
    /// What the tests on answers are measured against is the first answers of each model.
    gathered: Option<Gathered>,
    /// Samples taken, and how many when the joint test began.
    samples: u64,
    joint_from: u64,
}

/// The first answers of a model, until they are enough for a baseline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Gathered {
    /// `[n, columns of the answers]`.
    answers: Vec<f32>,
    /// `[n, width]`; empty unless the embedding is watched.
    embedding: Vec<f32>,
    at: Vec<Timestamp>,
}

/// Everything as it stands, for people.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchView {
    /// Every feature, in the order of the schema.
    pub features: Vec<ColumnView>,
    /// The score and, for classification, the answered class.
    pub answers: Vec<ColumnView>,
    /// All features together, or the embedding.
    pub joint: Option<JointView>,
    /// Losses, classes, segments, estimate.
    pub performance: PerformanceView,
    /// Answers that are still gathered for the baseline of the answers, of [`BASELINE_ROWS_MAX`]; none once it is frozen.
    pub gathering: Option<usize>,
}

impl Watch {
    /// A watch for `model` from its own baseline and reference, before its first sample.
    #[must_use]
    pub fn new(model: &Model, settings: &WatchSettings) -> Self {
        let mut watch = Self::start(model.schema(), settings, 0);
        watch.rebaseline(&BaselineRows::of(model));
        watch.baseline_answers(model);
        watch.expect(Some(model.manifest.reference));
        watch
    }

    /// Nothing measured yet, from sample number `samples` on.
    fn start(schema: &Schema, settings: &WatchSettings, samples: u64) -> Self {
        let features = schema.features.iter().map(ColumnSpec::of_feature).collect();
        let score = ColumnSpec { measure: Measure::Score, kind: ColumnKind::Number, range: None };
        let class = match &schema.task {
            Task::Classification { classes } => {
                let count = u32::try_from(classes.len()).unwrap_or(u32::MAX);
                let kind = ColumnKind::Category { count };
                Some(ColumnSpec { measure: Measure::PredictedClass, kind, range: None })
            }
            Task::Regression { .. } => None,
        };
        let answers = std::iter::once(score).chain(class).collect();
        let lengths = settings.run_lengths();
        Self {
            features: Columns::new(features, &settings.feature_plan(lengths.features)).counted_from(samples),
            answers: Columns::new(answers, &settings.answer_plan(lengths.answers)).counted_from(samples),
            joint: None,
            performance: Performance::new(&settings.performance, &schema.task, lengths.performance, &settings.watchers),
            gathered: Some(Gathered::default()),
            settings: settings.clone(),
            schema: schema.clone(),
            samples,
            joint_from: samples,
        }
    }

    /// Freezes a new baseline of the inputs; the answers gather theirs anew. Without rows nothing changes.
    pub fn rebaseline(&mut self, baseline: &BaselineRows) {
        let width = self.schema.features.len();
        if baseline.rows.len() < width {
            return;
        }
        self.features.rebaseline(&baseline.rows, Some(&baseline.at));
        if self.settings.joint.space == Space::Features {
            self.begin_joint(&baseline.rows, width);
        }
        self.gathered = Some(Gathered::default());
    }

    /// Rows of a baseline for this schema.
    #[must_use]
    pub fn rows_of(&self, baseline: &BaselineRows) -> usize {
        baseline.rows.len() / self.schema.features.len().max(1)
    }

    /// The model's own answers to its own baseline, so that a first model needs to gather none.
    fn baseline_answers(&mut self, model: &Model) {
        let mut work = Work::default();
        let mut gathered = Gathered::default();
        for row in model.baseline.chunks_exact(self.schema.features.len().max(1)) {
            model.embed(row, &mut work);
            gathered.answers.extend_from_slice(&self.read_answer(&work.answer)[..self.answers.width()]);
            if self.wants_embedding() {
                gathered.embedding.extend_from_slice(&work.h);
            }
        }
        gathered.at = BaselineRows::of(model).at;
        if gathered.answers.is_empty() {
            return;
        }
        self.freeze(&gathered);
    }

    fn freeze(&mut self, gathered: &Gathered) {
        self.answers.rebaseline(&gathered.answers, Some(&gathered.at));
        if self.wants_embedding() {
            let rows = gathered.answers.len() / self.answers.width().max(1);
            self.begin_joint(&gathered.embedding, gathered.embedding.len() / rows.max(1));
        }
        self.gathered = None;
    }

    fn begin_joint(&mut self, rows: &[f32], width: usize) {
        let runs = self.settings.watchers.iter().any(|watcher| matches!(watcher, Watcher::QtEwma | Watcher::Newma));
        let run_length_rows = self.settings.run_lengths().joint;
        self.joint = runs.then(|| Joint::new(&self.settings.joint_settings(), run_length_rows, rows, width));
        self.joint_from = self.samples;
    }

    /// Whether samples should come with their embedding.
    #[must_use]
    pub fn wants_embedding(&self) -> bool {
        let runs = self.settings.watchers.iter().any(|watcher| matches!(watcher, Watcher::QtEwma | Watcher::Newma));
        runs && self.settings.joint.space == Space::Embedding
    }

    /// Starts the tests on losses anew. Without a reference they calibrate themselves first.
    pub fn expect(&mut self, reference: Option<Reference>) {
        self.performance.expect(reference);
    }

    /// Another model answers from now on: its answers gather a baseline of their own.
    pub fn replaced(&mut self) {
        self.gathered = Some(Gathered::default());
    }

    /// Takes other settings; if they differ, every test starts anew, against the baseline of the serving `model`.
    pub fn adopt(&mut self, settings: &WatchSettings, model: &Model) {
        if self.settings != *settings {
            *self = Self::start(model.schema(), settings, self.samples);
            self.rebaseline(&BaselineRows::of(model));
            self.baseline_answers(model);
        }
    }

    /// Takes one answered sample and returns what there is to say.
    pub fn sample(&mut self, sample: &Sample<'_>) -> Vec<Finding> {
        let number = self.samples;
        self.samples += 1;
        let mut findings = self.features.sample(sample.row, sample.at);
        self.answered(sample, &mut findings);
        let joint_row = if self.wants_embedding() { sample.embedding } else { sample.row };
        if let Some(joint) = &mut self.joint
            && let Some(finding) = joint.sample(joint_row)
        {
            findings.push(Finding { since: shifted(finding.since, self.joint_from), ..finding });
        }
        findings.extend(self.performance.sample(sample.answer, number));
        // A family runs as a whole; what was not asked for is not said.
        findings.retain(|finding| self.settings.watchers.contains(&finding.watcher));
        findings
    }

    /// The answer against the first answers of this model, which are gathered until there are enough.
    fn answered(&mut self, sample: &Sample<'_>, findings: &mut Vec<Finding>) {
        let row = self.read_answer(sample.answer);
        let row = &row[..self.answers.width()];
        let Some(gathered) = &mut self.gathered else {
            let said = self.answers.sample(row, sample.at);
            findings.extend(said.into_iter().map(|finding| Finding { watcher: Watcher::Prediction, ..finding }));
            return;
        };
        gathered.answers.extend_from_slice(row);
        gathered.at.extend(sample.at);
        if self.settings.joint.space == Space::Embedding {
            gathered.embedding.extend_from_slice(sample.embedding);
        }
        if gathered.answers.len() >= BASELINE_ROWS_MAX * row.len() {
            let gathered = std::mem::take(gathered);
            self.freeze(&gathered);
        }
        self.answers.skip();
    }

    /// Score and class of an answer; for regression the first target. What is no answer is missing.
    fn read_answer(&self, answer: &[f32]) -> [f32; 2] {
        match &self.schema.task {
            Task::Classification { .. } if answer.iter().all(|p| p.is_finite()) && !answer.is_empty() => {
                let class = argmax(answer);
                #[expect(clippy::cast_precision_loss, reason = "a model has fewer than 2^24 classes")]
                let class_number = class as f32;
                [answer[class], class_number]
            }
            Task::Classification { .. } => [f32::NAN; 2],
            Task::Regression { .. } => [answer.first().copied().unwrap_or(f32::NAN), f32::NAN],
        }
    }

    /// Takes the label of one answer of the serving model as number `ordinal`; returns what there is to say.
    pub fn label(&mut self, label: &Label<'_>, ordinal: u64) -> Vec<Finding> {
        let Label { loss, answer, truth, segment, .. } = *label;
        self.performance.label(&Outcome { loss, answer, truth, segment, ordinal })
    }

    /// Event time of sample number `sample`, as far back as it is remembered.
    #[must_use]
    pub fn dated(&self, sample: u64) -> Option<Timestamp> {
        self.features.dated(sample)
    }

    /// Mean loss over the last labels and how many they are.
    #[must_use]
    pub fn recent_loss(&self) -> Option<(f64, usize)> {
        self.performance.recent_loss()
    }

    /// Everything as it stands.
    #[must_use]
    pub fn view(&self) -> WatchView {
        let gathered = |gathered: &Gathered| gathered.answers.len() / self.answers.width().max(1);
        WatchView {
            features: self.features.views(),
            gathering: self.gathered.as_ref().map(gathered),
            answers: self.answers.views(),
            joint: self.joint.as_ref().map(Joint::view),
            performance: self.performance.view(),
        }
    }
}

/// A row counted from the joint test's own beginning, counted from the first sample.
fn shifted(since: Since, from: u64) -> Since {
    match since {
        Since::Sample(sample) => Since::Sample(sample + from),
        Since::Label(label) => Since::Label(label),
    }
}
