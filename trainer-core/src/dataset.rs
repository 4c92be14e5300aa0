//! Rows as training needs them: encoded, at the cut, as targets, as sums; and the rows a bundle carries along.
use crate::chance::{Chance, Purpose};
use crate::model::{Model, Work};
use crate::network::{Network, Scratch};
use crate::normalize::Normalizer;
use crate::ridge::Gram;
use crate::schema::{Rows, Schema, Task};

/// Anchors kept per class, or per tenth of them for regression.
const ANCHORS_PER_CLASS: usize = 20;
/// Anchors kept for a regression.
const ANCHORS_OF_REGRESSION: usize = 200;
/// Training rows kept as the drift baseline.
pub(crate) const BASELINE_ROWS: usize = 512;
/// Golden rows.
pub(crate) const GOLDEN_ROWS: usize = 8;

/// The newest fifth, which early stopping held out.
pub(crate) fn newest(rows: &Rows) -> Rows {
    rows.slice(rows.len() - holdout(rows.len(), 0.2)..rows.len())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a count"
)]
pub(crate) fn holdout(rows: usize, share: f32) -> usize {
    ((rows as f32 * share) as usize).min(rows / 2)
}

pub(crate) fn encode(schema: &Schema, normalizer: &Normalizer, rows: &Rows) -> Vec<f32> {
    let width = schema.encoded();
    let mut all = vec![0.0; width * (rows.x.len() / rows.features.max(1))];
    for (row, into) in rows.x.chunks_exact(rows.features).zip(all.chunks_exact_mut(width)) {
        normalizer.encode(schema, row, into);
    }
    all
}

pub(crate) fn at_cut(network: &Network, encoded: &[f32]) -> Vec<f32> {
    let mut scratch = Scratch::default();
    let mut mid = Vec::with_capacity(encoded.len() / network.inputs * network.mid());
    for row in encoded.chunks_exact(network.inputs) {
        network.forward(row, &mut scratch);
        mid.extend_from_slice(&scratch.mid);
    }
    mid
}

pub(crate) fn targets_of(model: &Model, rows: &Rows) -> Vec<f32> {
    let (mut all, mut y) = (Vec::new(), Vec::new());
    for row in 0..rows.len() {
        model.target(rows.y(row), &mut y);
        all.extend_from_slice(&y);
    }
    all
}

#[expect(clippy::cast_possible_truncation, reason = "f64 sums kept as f32")]
pub(crate) fn target_scales(schema: &Schema, rows: &Rows) -> Vec<[f32; 2]> {
    let Task::Regression { targets } = &schema.task else {
        return Vec::new();
    };
    let n = rows.len() as f64;
    let column = |target: usize| (0..rows.len()).map(move |row| f64::from(rows.y(row)[target]));
    let scale = |target: usize| {
        let mean = column(target).sum::<f64>() / n;
        let deviation = (column(target).map(|y| (y - mean).powi(2)).sum::<f64>() / n).sqrt() as f32;
        [mean as f32, if deviation.is_normal() { deviation } else { 1.0 }]
    };
    (0..targets.len()).map(scale).collect()
}

pub(crate) fn gram(model: &Model, rows: &Rows) -> Gram {
    let mut gram = Gram::new(model.embedding.width(&model.network), model.network.outputs);
    let (mut work, mut y) = (Work::default(), Vec::new());
    for row in 0..rows.len() {
        model.embed(rows.x(row), &mut work);
        model.target(rows.y(row), &mut y);
        gram.push(&work.h, &y);
    }
    gram
}

/// At most `count` row indices, evenly spread.
pub(crate) fn stride(rows: &Rows, count: usize) -> impl Iterator<Item = usize> + '_ {
    let take = rows.len().min(count);
    (0..take).map(move |index| index * rows.len() / take)
}

/// A balanced, seeded choice of rows that every later training may lean on.
pub(crate) fn anchors(schema: &Schema, rows: &Rows, seed: u64) -> Rows {
    let order = Chance::new(seed, Purpose::Sample, 0).order(rows.len());
    let mut left = vec![ANCHORS_PER_CLASS; schema.outputs()];
    let mut chosen: Vec<usize> = match schema.task {
        Task::Classification { .. } => {
            order.into_iter().filter(|&row| take_one(&mut left[crate::evaluate::class_of(rows.y(row)[0])])).collect()
        }
        Task::Regression { .. } => order.into_iter().take(ANCHORS_OF_REGRESSION).collect(),
    };
    chosen.sort_unstable();
    let mut anchors = Rows::empty(rows.features, rows.truths);
    chosen.into_iter().for_each(|row| anchors.push(rows.x(row), rows.y(row)));
    anchors
}

fn take_one(left: &mut usize) -> bool {
    let any = *left > 0;
    *left = left.saturating_sub(1);
    any
}
