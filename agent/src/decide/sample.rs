//! What the loop is told of each answer: the sample when it is answered, the label when it comes.
use trainer_core::digest::Digest;

use super::time::Timestamp;

/// A sample the champion has answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Raw features, `[features]`.
    pub row: &'a [f32],
    /// What was answered, `[outputs]`.
    pub answer: &'a [f32],
    /// Features of the heads, `[width]`; empty unless [`super::watch::Watch::wants_embedding`].
    pub embedding: &'a [f32],
    /// When it was taken, if that is known.
    pub at: Option<Timestamp>,
}

/// What was true of an answered sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label<'a> {
    /// Number of the sample, from 0.
    pub sample: u64,
    /// Loss of the answer, in [0, 1].
    pub loss: f64,
    /// What was answered, `[outputs]`.
    pub answer: &'a [f32],
    /// What was true, `[truths]`.
    pub truth: &'a [f32],
    /// Segment of the sample.
    pub segment: Option<&'a str>,
    /// The model that answered.
    pub answered_by: Digest,
}

/// Raw rows a baseline rests on, oldest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BaselineRows {
    /// `[n, features]`.
    pub rows: Vec<f32>,
    /// When each was taken; empty if that is not known.
    pub at: Vec<Timestamp>,
}

impl BaselineRows {
    /// The rows that a bundle carries.
    #[must_use]
    pub fn of(model: &trainer_core::model::Model) -> Self {
        let at = model.baseline_at.iter().map(|second| Timestamp(second.saturating_mul(1_000_000))).collect();
        Self { rows: model.baseline.clone(), at }
    }
}
