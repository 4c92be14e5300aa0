//! What watching a served model costs: `cargo bench --workspace --bench watch`.
//!
//! The promise, held here, is of a row through everything that watches by default: features, answers, their joint law, estimate, trigger
//! times. A quiet stream of independent rows a second apart: of each the joint test takes every one, the worst case.
#![expect(clippy::cast_precision_loss, reason = "draws of 24 bits are exact in f32")]
use divan::Bencher;
use divan::counter::ItemsCount;
use hone_agent::decide::sample::{Label, Sample};
use hone_agent::decide::time::Timestamp;
use hone_agent::decide::watch::{Watch, WatchSettings};
use trainer_core::digest::Digest;
use trainer_core::model::{Model, Work};
use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
use trainer_core::spec::Spec;
use trainer_core::train::{TrainSettings, base};

fn main() {
    divan::main();
}

/// Rows that are drawn once and fed in turn.
const ROWS: usize = 4096;

/// Draws of one multiplicative generator.
struct Draws(u64);

impl Draws {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }

    /// Nearly normal values: sums of four uniform draws.
    fn row(&mut self, width: usize) -> Vec<f32> {
        (0..width).map(|_| (0..4).map(|_| self.uniform()).sum::<f32>() - 2.0).collect()
    }
}

/// Whether the first two columns lie above 0 together, rightly in nine of ten rows.
fn class(row: &[f32], draws: &mut Draws) -> f32 {
    let right = row.iter().take(2).sum::<f32>() > 0.0;
    f32::from(u8::from(right != (draws.uniform() < 0.1)))
}

fn model(width: usize) -> Model {
    let feature = |index| Feature {
        name: format!("feature_{index}"),
        unit: None,
        kind: FeatureKind::Number,
        range: Some([-4.0, 4.0]),
    };
    let task = Task::Classification { classes: vec!["low".into(), "high".into()] };
    let schema = Schema { features: (0..width).map(feature).collect(), task };
    let (mut rows, mut draws) = (Rows::empty(width, 1), Draws(1));
    for _ in 0..1000 {
        let row = draws.row(width);
        let truth = class(&row, &mut draws);
        rows.push(&row, &[truth]);
    }
    let mut settings = TrainSettings::default();
    settings.fit.epochs = 5;
    base(&schema, &Spec::default(), &rows, &settings, 0).expect("a thousand rows are enough").model
}

/// An answered row, its time and its label.
struct Answered {
    row: Vec<f32>,
    answer: Vec<f32>,
    truth: f32,
    loss: f64,
    at: Timestamp,
}

/// A stream of the model's own law, and the watch of the model after all of it.
fn watched(width: usize) -> (Watch, Vec<Answered>) {
    let model = model(width);
    let (mut watch, mut draws, mut work) = (Watch::new(&model, &WatchSettings::default()), Draws(2), Work::default());
    let answered = |index: usize| {
        let row = draws.row(width);
        let truth = class(&row, &mut draws);
        model.embed(&row, &mut work);
        let loss = model.loss(&work.answer, &[truth]);
        let at = Timestamp(i64::try_from(index).unwrap_or(i64::MAX) * 1_000_000);
        Answered { row, answer: work.answer.clone(), truth, loss, at }
    };
    let stream: Vec<Answered> = (0..ROWS).map(answered).collect();
    for (index, one) in stream.iter().enumerate() {
        watch.sample(&sample(one));
        watch.label(&label(one, index as u64), index as u64);
    }
    assert_eq!(watch.view().gathering, None, "the answers have their baseline");
    (watch, stream)
}

fn sample(one: &Answered) -> Sample<'_> {
    Sample { row: &one.row, answer: &one.answer, embedding: &[], at: Some(one.at) }
}

fn label(one: &Answered, sample: u64) -> Label<'_> {
    let answered_by = Digest::of(b"the model");
    let (loss, answer, truth) = (one.loss, one.answer.as_slice(), std::slice::from_ref(&one.truth));
    Label { sample, loss, answer, truth, segment: Some("north"), answered_by }
}

/// One row of so many features through the whole watch with its default settings.
#[divan::bench(args = [1, 8, 128])]
fn row(bencher: Bencher<'_, '_>, width: usize) {
    let (mut watch, stream) = watched(width);
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        for one in &stream {
            divan::black_box(watch.sample(&sample(divan::black_box(one))));
        }
    });
}

/// The label of one answer, of one segment, with its default settings.
#[divan::bench]
fn label_of_a_row(bencher: Bencher<'_, '_>) {
    let (mut watch, stream) = watched(8);
    let mut ordinal = stream.len() as u64;
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        for one in &stream {
            divan::black_box(watch.label(&label(divan::black_box(one), ordinal), ordinal));
            ordinal += 1;
        }
    });
}
