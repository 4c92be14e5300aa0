//! How a model does on rows it was not trained on, and the temperature that makes its probabilities honest.
use std::ops::Range;

use crate::evaluate::Tally;
use crate::model::{Model, Reference, Work, softmax};
use crate::schema::Rows;
use crate::session::{Session, Stopped};

/// The factor on the scores that makes their softmax most likely, by golden-section search on its logarithm.
/// `scores` and `y` are `[rows, outputs]`.
pub(crate) fn temperature(scores: &[f32], y: &[f32], outputs: usize) -> f32 {
    let mut p = Vec::with_capacity(outputs);
    let mut loss = |log: f32| -> f64 {
        let each = scores.chunks_exact(outputs).zip(y.chunks_exact(outputs)).map(|(scores, y)| {
            p.clear();
            p.extend_from_slice(scores);
            softmax(&mut p, log.exp());
            let right: f32 = p.iter().zip(y).map(|(p, y)| p * y).sum();
            -f64::from(right).max(1e-15).ln()
        });
        each.sum()
    };
    let golden = 0.618_034_f32;
    let (mut low, mut high) = (0.0_f32, 4.0_f32);
    for _ in 0..24 {
        let (left, right) = (high - golden * (high - low), low + golden * (high - low));
        if loss(left) < loss(right) { high = right } else { low = left }
    }
    f32::midpoint(low, high).exp()
}

/// Losses and measures of answers that a model gave to rows it had not been trained on.
pub(crate) struct Losses {
    tally: Tally,
    rows: u64,
    sum: f64,
    square: f64,
    answer: Vec<f32>,
}

impl Losses {
    pub(crate) fn new(model: &Model) -> Self {
        Self { tally: Tally::new(&model.schema().task), rows: 0, sum: 0.0, square: 0.0, answer: Vec::new() }
    }

    pub(crate) fn push(&mut self, model: &Model, standard: &[f32], truth: &[f32]) {
        model.answer_of(standard, &mut self.answer);
        self.tally.push(&self.answer, truth);
        let loss = model.loss(&self.answer, truth);
        self.rows += 1;
        self.sum += loss;
        self.square += loss * loss;
    }

    pub(crate) fn write_into(&self, model: &mut Model) {
        let n = self.rows.max(1) as f64;
        let mean = self.sum / n;
        model.manifest.metrics = self.tally.metrics();
        model.manifest.reference =
            Reference { rows: self.rows, mean, variance: (self.square / n - mean * mean).max(0.0) };
    }
}

/// Judges `model` on the rows `range` and keeps the measures in its manifest.
pub(crate) fn judge(
    model: &mut Model,
    rows: &Rows,
    range: Range<usize>,
    session: &mut Session<'_>,
) -> Result<(), Stopped> {
    let (mut losses, mut work) = (Losses::new(model), Work::default());
    for row in range {
        model.answer(rows.x(row), &mut work);
        losses.push(model, &work.standard, rows.y(row));
        session.row_done()?;
    }
    losses.write_into(model);
    Ok(())
}

pub(crate) fn mean_loss(
    model: &Model,
    rows: &Rows,
    range: Range<usize>,
    session: &mut Session<'_>,
) -> Result<f64, Stopped> {
    let (mut work, mut sum) = (Work::default(), 0.0);
    let count = range.len().max(1) as f64;
    for row in range {
        model.answer(rows.x(row), &mut work);
        sum += model.loss(&work.answer, rows.y(row));
        session.row_done()?;
    }
    Ok(sum / count)
}
