//! A model as it is served: normaliser, network, features, head, and what it must carry to be judged and retrained.
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::embed::Embedding;
use crate::evaluate::Metrics;
use crate::horizons::Scoring;
use crate::network::{Network, Scratch, affine};
use crate::normalize::Normalizer;
use crate::ridge::Gram;
use crate::schema::{Rows, Schema, Task};
use crate::spec::Spec;

/// The bundle format this build writes and reads.
pub const FORMAT: u32 = 2;

/// What a bundle says about itself; JSON under the key `hone.manifest`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Bundle format; another one is refused.
    pub format: u32,
    /// Sha-256 over this manifest (with this field empty) and all tensor bytes.
    pub check: String,
    /// Features and task.
    pub schema: Schema,
    /// Hidden layers and cut.
    pub spec: Spec,
    /// Factor on the head's scores before the softmax; fitted on rows the head had not seen.
    pub temperature: f32,
    /// Reconstruction error from which a row counts as anomalous, where the network gives rows back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f32>,
    /// Digest of the bundle this one was trained from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    /// How it came to be.
    pub provenance: Provenance,
    /// Loss on rows it was not trained on; where drift detectors take their reference from.
    pub reference: Reference,
    /// Measures on those rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Metrics>,
}

/// How a bundle came to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Which part was trained.
    pub strategy: Strategy,
    /// Seed of every random choice.
    pub seed: u64,
    /// Rows trained on.
    pub rows: u64,
    /// Digest of the snapshot that training was a function of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Digest>,
    /// Version of this crate.
    pub version: String,
}

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Everything, from random weights.
    Base,
    /// A ridge head on frozen features.
    Head,
    /// The layers above the cut.
    Tail,
    /// All layers, from the parent's weights.
    Full,
    /// The statistics of the batch norms, or of the inputs where there are none; needs no labels.
    Norm,
}

/// Mean loss per row, in [0, 1], on rows the model was not trained on: 0/1 error, or `min(|error| / sd, 4) / 4`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Rows.
    pub rows: u64,
    /// Mean.
    pub mean: f64,
    /// Variance.
    pub variance: f64,
}

/// A model in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// What it says about itself.
    pub manifest: Manifest,
    /// Raw to encoded.
    pub normalizer: Normalizer,
    /// Layers.
    pub network: Network,
    /// Features of the heads.
    pub embedding: Embedding,
    /// Ridge head `[width, outputs]`; without it the network's own output layer answers.
    pub head: Option<Vec<f32>>,
    /// Mean and scale per regression target, `[targets, 2]`; empty for classification.
    pub targets: Vec<[f32; 2]>,
    /// Factory sums.
    pub factory: Gram,
    /// Rows of the factory that are always kept.
    pub anchors: Rows,
    /// Raw rows `[n, features]` of the training time that drift is measured against.
    pub baseline: Vec<f32>,
    /// Seconds since 1970 at which those rows were taken; empty if that is not known.
    pub baseline_at: Vec<i64>,
    /// Raw rows `[n, features]` and the answers they must give.
    pub golden: (Vec<f32>, Vec<f32>),
}

/// Memory of one answer, reused from row to row.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// `[outputs]`: probabilities, or targets in their own units.
    pub answer: Vec<f32>,
    /// `[outputs]`: probabilities, or standardised targets; what the heads learn in.
    pub standard: Vec<f32>,
    /// `[outputs]`: what the champion says as an expert among heads: the scores of its head as they are, since those of the others are
    /// no probabilities either and the louder voice would win; without a head what `standard` says.
    pub voice: Vec<f32>,
    /// `[width]`: features of the heads; filled by [`Model::embed`] and by [`Model::answer`] of a model with a head.
    pub h: Vec<f32>,
    encoded: Vec<f32>,
    scratch: Scratch,
    /// `[outputs]`: what a mixture of heads says.
    pub(crate) mixed: Vec<f32>,
}

impl Model {
    /// Features and task.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.manifest.schema
    }

    /// Whether it tells anomalies by what it cannot give back.
    #[must_use]
    pub fn detects(&self) -> bool {
        self.manifest.spec.reconstruct
    }

    /// Mean squared difference between the raw row `[features]`, encoded, and what the network gives back of it.
    pub fn reconstruction_error(&self, row: &[f32], work: &mut Work) -> f32 {
        self.forward(row, work);
        lost(work)
    }

    /// How heads score answers for this task.
    #[must_use]
    pub fn scoring(&self) -> Scoring {
        match self.schema().task {
            Task::Classification { .. } => Scoring::Classes,
            Task::Regression { .. } => Scoring::Targets,
        }
    }

    /// Answers the raw row `[features]` into `work.answer`. No allocation after the first call with the same `work`.
    pub fn answer(&self, row: &[f32], work: &mut Work) {
        self.forward(row, work);
        if self.head.is_some() {
            self.features(work);
        }
        self.finish(work);
    }

    /// Like [`Model::answer`], and always fills `work.h`.
    pub fn embed(&self, row: &[f32], work: &mut Work) {
        self.forward(row, work);
        self.features(work);
        self.finish(work);
    }

    /// Whether `other` makes the same head features of every row, so that one forward pass serves both.
    #[must_use]
    pub fn shares_features(&self, other: &Self) -> bool {
        let heads = self.head.is_some() && other.head.is_some();
        heads
            && self.schema() == other.schema()
            && self.normalizer == other.normalizer
            && self.embedding == other.embedding
            && self.network == other.network
    }

    /// Answers from the features `work.h` that a model which [`Model::shares_features`] has just made.
    pub fn answer_features(&self, work: &mut Work) {
        self.finish(work);
    }

    /// Multiply-adds of one [`Model::answer`], or of one [`Model::embed`].
    #[must_use]
    pub fn work_mac(&self, embedded: bool) -> u64 {
        let head = self.head.as_ref().map_or(0, Vec::len) as u64;
        let embed = if embedded || self.head.is_some() { self.embedding.work_mac() } else { 0 };
        self.network.work_mac(0) + embed + head
    }

    /// What the heads should give for a truth: one-hot, or standardised targets, `[outputs]`.
    pub fn target(&self, truth: &[f32], into: &mut Vec<f32>) {
        into.clear();
        self.append_target(truth, into);
    }

    /// [`Model::target`] behind what is there.
    pub(crate) fn append_target(&self, truth: &[f32], into: &mut Vec<f32>) {
        match &self.schema().task {
            Task::Classification { classes } => {
                let class = crate::evaluate::class_of(truth[0]);
                into.extend((0..classes.len()).map(|index| f32::from(u8::from(index == class))));
            }
            Task::Regression { .. } => {
                into.extend(truth.iter().zip(&self.targets).map(|(y, [mean, scale])| (y - mean) / scale));
            }
        }
    }

    /// Loss of an answer in [0, 1]: 0/1 error, or `min(|error| / sd, 4) / 4` averaged over targets.
    #[must_use]
    pub fn loss(&self, answer: &[f32], truth: &[f32]) -> f64 {
        match &self.schema().task {
            Task::Classification { .. } => {
                f64::from(u8::from(crate::horizons::argmax(answer) != crate::evaluate::class_of(truth[0])))
            }
            Task::Regression { .. } => {
                let each = answer.iter().zip(truth).zip(&self.targets);
                let sum: f64 = each.map(|((a, y), [_, scale])| (f64::from((a - y) / scale).abs()).min(4.0) / 4.0).sum();
                let loss = sum / self.targets.len() as f64;
                if loss.is_nan() { 1.0 } else { loss }
            }
        }
    }

    /// Turns standardised outputs (or probabilities) into an answer.
    pub fn answer_of(&self, standard: &[f32], into: &mut Vec<f32>) {
        into.clear();
        match &self.schema().task {
            Task::Classification { .. } => into.extend_from_slice(standard),
            Task::Regression { .. } => {
                into.extend(standard.iter().zip(&self.targets).map(|(z, [mean, scale])| z * scale + mean));
            }
        }
    }

    fn forward(&self, row: &[f32], work: &mut Work) {
        work.encoded.resize(self.network.inputs, 0.0);
        self.normalizer.encode(self.schema(), row, &mut work.encoded);
        self.network.forward(&work.encoded, &mut work.scratch);
    }

    fn features(&self, work: &mut Work) {
        self.embedding.write(&self.network, &work.encoded, &work.scratch, &mut work.h);
        if self.scoring() == Scoring::Classes {
            to_unit(&mut work.h);
        }
    }

    fn finish(&self, work: &mut Work) {
        work.standard.clear();
        if self.detects() {
            // At the threshold both classes are as likely; the order of rows is that of their errors.
            let error = lost(work);
            let anomalous = error / (error + self.manifest.threshold.unwrap_or(1.0));
            work.standard.extend([1.0 - anomalous, anomalous]);
            let (standard, answer) = (&work.standard, &mut work.answer);
            return self.answer_of(standard, answer);
        }
        let scale = if let Some(head) = &self.head {
            work.standard.resize(self.network.outputs, 0.0);
            affine(head, &work.h, &mut work.standard);
            self.manifest.temperature
        } else {
            work.standard.extend_from_slice(&work.scratch.output);
            1.0
        };
        let classes = matches!(self.schema().task, Task::Classification { .. });
        let loud = classes && self.head.is_none();
        if !loud {
            work.voice.clone_from(&work.standard);
        }
        if classes {
            softmax(&mut work.standard, scale);
        }
        if loud {
            work.voice.clone_from(&work.standard);
        }
        let (standard, answer) = (&work.standard, &mut work.answer);
        self.answer_of(standard, answer);
    }
}

/// Mean squared difference of the encoded row and the network's output.
fn lost(work: &Work) -> f32 {
    let each = work.encoded.iter().zip(&work.scratch.output);
    each.map(|(x, back)| (x - back).powi(2)).sum::<f32>() / work.encoded.len().max(1) as f32
}

/// Scales a row to a root mean square of 1: a class is told by the pattern of a row, not by its size, and in the sums no row of
/// extreme size outweighs the others by the square of it. A number to predict does depend on size, so regression keeps it.
fn to_unit(h: &mut [f32]) {
    let square = h.iter().map(|x| x * x).sum::<f32>() / h.len().max(1) as f32;
    if square > 0.0 && square.is_finite() {
        let factor = 1.0 / square.sqrt();
        h.iter_mut().for_each(|x| *x *= factor);
    }
}

/// Scores to probabilities: `softmax(factor · scores)`.
pub(crate) fn softmax(scores: &mut [f32], factor: f32) {
    let highest = scores.iter().copied().fold(f32::MIN, f32::max);
    scores.iter_mut().for_each(|score| *score = ((*score - highest) * factor).exp());
    let total: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= total);
}
