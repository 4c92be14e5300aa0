//! Rows as training needs them: encoded, at the cut, as targets, as sums; and the rows a bundle carries along.
use crate::chance::{Chance, Purpose};
use crate::fit::Examples;
use crate::model::{Model, Work};
use crate::network::Scratch;
use crate::ridge::Gram;
use crate::schema::{Rows, Schema, Task};
use crate::session::{Session, Stopped};
use crate::spec::Spec;

/// Anchors kept per class, or per tenth of them for regression.
const ANCHORS_PER_CLASS: usize = 20;
/// Anchors kept for a regression.
const ANCHORS_OF_REGRESSION: usize = 200;
/// Training rows kept as the drift baseline.
pub(crate) const BASELINE_ROWS: usize = 512;
/// Most rows that the scales of features are measured on: a standard deviation is known to two per cent by then.
pub(crate) const SCALE_ROWS: usize = 2_048;
/// Golden rows.
pub(crate) const GOLDEN_ROWS: usize = 8;

/// The newest fifth, which early stopping held out.
pub(crate) fn newest(rows: &Rows) -> std::ops::Range<usize> {
    rows.len() - holdout(rows.len(), 0.2)..rows.len()
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

/// Encoded rows `[n, inputs]` that the scales of features are measured on: all of them, or [`SCALE_ROWS`] evenly spread ones.
pub(crate) fn encoded_sample(model: &Model, parts: [&Rows; 2]) -> Vec<f32> {
    let encoded = Encoded { model, parts };
    let (count, mut sample) = (encoded.len(), Vec::new());
    let take = count.min(SCALE_ROWS);
    sample.reserve_exact(take * model.network.inputs);
    (0..take).for_each(|index| encoded.input(index * count / take, &mut sample));
    sample
}

/// Two sets of raw rows, one after the other, encoded when they are asked for: no second copy of the rows is ever made.
pub(crate) struct Encoded<'a> {
    pub(crate) model: &'a Model,
    pub(crate) parts: [&'a Rows; 2],
}

impl Encoded<'_> {
    fn find(&self, row: usize) -> (&Rows, usize) {
        let first = self.parts[0].len();
        if row < first { (self.parts[0], row) } else { (self.parts[1], row - first) }
    }
}

impl Examples for Encoded<'_> {
    fn len(&self) -> usize {
        self.parts[0].len() + self.parts[1].len()
    }

    fn input(&self, row: usize, into: &mut Vec<f32>) {
        let (rows, row) = self.find(row);
        let from = into.len();
        into.resize(from + self.model.network.inputs, 0.0);
        self.model.normalizer.encode(self.model.schema(), rows.x(row), &mut into[from..]);
    }

    fn target(&self, row: usize, into: &mut Vec<f32>) {
        if self.model.detects() {
            return self.input(row, into);
        }
        let (rows, row) = self.find(row);
        self.model.append_target(rows.y(row), into);
    }
}

/// Features at the cut, computed once and kept: the backbone is frozen, so they never change.
pub(crate) struct AtCut<'a> {
    encoded: Encoded<'a>,
    columns: usize,
    cache: Cache,
}

/// How features at the cut are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// As they are.
    Numbers,
    /// Rounded to bytes, in a quarter of the memory.
    Bytes,
    /// Not at all: computed anew each time, at the cost of a forward pass of the frozen layers.
    Nothing,
}

enum Cache {
    /// Nothing is kept.
    None,
    /// `[rows, columns]`.
    Full(Vec<f32>),
    /// `[rows, columns]` codes of the values `low + code · step`.
    Byte { codes: Vec<u8>, low: f32, step: f32 },
}

impl<'a> AtCut<'a> {
    /// Runs the rows through the frozen layers and keeps what they give.
    pub(crate) fn new(encoded: Encoded<'a>, keeping: Keeping, session: &mut Session<'_>) -> Result<Self, Stopped> {
        let network = &encoded.model.network;
        let (columns, rows) = (network.mid(), encoded.len());
        let (mut scratch, mut input) = (Scratch::default(), Vec::new());
        let mut run = |row: usize, scratch: &mut Scratch| {
            input.clear();
            encoded.input(row, &mut input);
            network.forward(&input, scratch);
        };
        if keeping == Keeping::Nothing {
            return Ok(Self { encoded, columns, cache: Cache::None });
        }
        let mut cache = Cache::Full(Vec::new());
        if keeping == Keeping::Bytes {
            let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
            let take = rows.min(SCALE_ROWS);
            for index in 0..take {
                run(index * rows / take, &mut scratch);
                (low, high) = scratch.mid.iter().fold((low, high), |(low, high), x| (low.min(*x), high.max(*x)));
                session.row_done()?;
            }
            let step = (high - low) / 255.0;
            let step = if step.is_normal() { step } else { 1.0 };
            cache = Cache::Byte { codes: Vec::with_capacity(rows * columns), low, step };
        } else if let Cache::Full(values) = &mut cache {
            values.reserve_exact(rows * columns);
        }
        for row in 0..rows {
            run(row, &mut scratch);
            match &mut cache {
                Cache::None => unreachable!("returned above"),
                Cache::Full(values) => values.extend_from_slice(&scratch.mid),
                Cache::Byte { codes, low, step } => {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
                    codes.extend(scratch.mid.iter().map(|x| ((x - *low) / *step).round().clamp(0.0, 255.0) as u8));
                }
            }
            session.row_done()?;
        }
        Ok(Self { encoded, columns, cache })
    }
}

impl Examples for AtCut<'_> {
    fn len(&self) -> usize {
        self.encoded.len()
    }

    fn input(&self, row: usize, into: &mut Vec<f32>) {
        let range = row * self.columns..(row + 1) * self.columns;
        match &self.cache {
            Cache::None => {
                let (mut encoded, mut scratch) = (Vec::new(), Scratch::default());
                self.encoded.input(row, &mut encoded);
                self.encoded.model.network.forward(&encoded, &mut scratch);
                into.extend_from_slice(&scratch.mid);
            }
            Cache::Full(values) => into.extend_from_slice(&values[range]),
            Cache::Byte { codes, low, step } => {
                into.extend(codes[range].iter().map(|code| low + f32::from(*code) * step));
            }
        }
    }

    fn target(&self, row: usize, into: &mut Vec<f32>) {
        self.encoded.target(row, into);
    }
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

pub(crate) fn gram(model: &Model, rows: &Rows, session: &mut Session<'_>) -> Result<Gram, Stopped> {
    let mut gram = Gram::new(model.embedding.width(&model.network), model.schema().outputs());
    let (mut work, mut y) = (Work::default(), Vec::new());
    for row in 0..rows.len() {
        model.embed(rows.x(row), &mut work);
        model.target(rows.y(row), &mut y);
        gram.push(&work.h, &y);
        session.row_done()?;
    }
    Ok(gram)
}

/// At most `count` row indices, evenly spread.
pub(crate) fn stride(rows: &Rows, count: usize) -> impl Iterator<Item = usize> + '_ {
    let take = rows.len().min(count);
    (0..take).map(move |index| index * rows.len() / take)
}

/// A balanced, seeded choice of rows that every later training may lean on.
pub(crate) fn anchors(schema: &Schema, spec: &Spec, rows: &Rows, seed: u64) -> Rows {
    let order = Chance::new(seed, Purpose::Sample, 0).order(rows.len());
    let mut left = vec![ANCHORS_PER_CLASS; schema.outputs()];
    if let Some(normal) = left.first_mut().filter(|_| spec.reconstruct) {
        // Only these are given back, in all their variety.
        *normal = ANCHORS_OF_REGRESSION;
    }
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
