//! What one answer of a 64-256-256-10 network costs, beside bare loops of the same products.
//!
//! `cargo bench --workspace --bench answer` measures both; with `-- ratio` they are measured in turn, the quotient of the medians is
//! printed, and above [`MOST`] it ends with code 1.
#![expect(clippy::disallowed_methods, reason = "a program of its own: its argument comes in here")]
use std::process::ExitCode;

use divan::{Bencher, black_box};
use hone_agent::shell::trainer::duty::{Clock, RealClock};
use trainer_core::chance::{Chance, Purpose};
use trainer_core::model::{Model, Work};
use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
use trainer_core::spec::{Layer, Spec};
use trainer_core::train::{TrainSettings, base};

/// Columns of a row, after each layer, and of the answer.
const WIDTHS: [usize; 4] = [64, 256, 256, 10];
/// An answer may take this many times what the bare loops take.
const MOST: f64 = 1.5;
/// Interleaved pairs, and answers of each.
const PAIRS: usize = 401;
const ANSWERS: usize = 50;

fn main() -> ExitCode {
    if !std::env::args().any(|argument| argument == "ratio") {
        divan::main();
        return ExitCode::SUCCESS;
    }
    let (model, rows, loops) = (model(), rows(), Loops::new());
    let (mut work, mut layers) = (Work::default(), [vec![], vec![], vec![]]);
    let (mut bare, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        bare.push(took(|row| loops.run(black_box(rows.x(row)), &mut layers)));
        answers.push(took(|row| model.answer(black_box(rows.x(row)), &mut work)));
    }
    let (bare, answer) = (median(bare), median(answers));
    println!("an answer {answer:.2} us, bare loops {bare:.2} us, ratio {:.2}, at most {MOST}", answer / bare);
    ExitCode::from(u8::from(answer > MOST * bare))
}

/// Microseconds of CPU of one of [`ANSWERS`] calls.
fn took(mut call: impl FnMut(usize)) -> f64 {
    let before = RealClock.cpu_s();
    (0..ANSWERS).for_each(&mut call);
    (RealClock.cpu_s() - before) * 1e6 / ANSWERS as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Matrices, biases and relus of the network, and nothing else.
struct Loops {
    weights: Vec<Vec<f32>>,
}

impl Loops {
    fn new() -> Self {
        let mut chance = Chance::new(3, Purpose::Sample, 0);
        let weights = WIDTHS.windows(2).map(|pair| (0..pair[0] * pair[1]).map(|_| chance.normal() * 0.1).collect());
        Self { weights: weights.collect() }
    }

    /// Column by column, which is the order vector units like.
    fn run(&self, row: &[f32], layers: &mut [Vec<f32>; 3]) {
        for (layer, weight) in self.weights.iter().enumerate() {
            let (done, left) = layers.split_at_mut(layer);
            let input = done.last().map_or(row, Vec::as_slice);
            let output = &mut left[0];
            output.clear();
            output.resize(WIDTHS[layer + 1], 0.01);
            for (x, weights) in input.iter().zip(weight.chunks_exact(WIDTHS[layer + 1])) {
                output.iter_mut().zip(weights).for_each(|(sum, w)| *sum += x * w);
            }
            if layer + 1 < self.weights.len() {
                output.iter_mut().for_each(|x| *x = x.max(0.0));
            }
        }
        black_box(layers);
    }
}

fn rows() -> Rows {
    let (mut chance, mut rows) = (Chance::new(5, Purpose::Sample, 0), Rows::empty(WIDTHS[0], 1));
    for row in 0..200 {
        let class = row % WIDTHS[3];
        let x: Vec<f32> =
            (0..WIDTHS[0]).map(|at| chance.normal() + f32::from(u8::from(at % WIDTHS[3] == class))).collect();
        #[expect(clippy::cast_precision_loss, reason = "ten classes")]
        rows.push(&x, &[class as f32]);
    }
    rows
}

fn model() -> Model {
    let feature = |index| Feature { name: format!("f{index}"), unit: None, kind: FeatureKind::Number, range: None };
    let classes = (0..WIDTHS[3]).map(|class| format!("class {class}")).collect();
    let schema = Schema { features: (0..WIDTHS[0]).map(feature).collect(), task: Task::Classification { classes } };
    let linear = |outputs| Layer::Linear { outputs };
    let layers = vec![linear(WIDTHS[1]), Layer::Relu, linear(WIDTHS[2]), Layer::Relu];
    let mut settings = TrainSettings::default();
    settings.fit.epochs = 2;
    let mut model = base(&schema, &Spec { cut: 2, layers, reconstruct: false }, &rows(), &settings, 0)
        .expect("enough finite rows")
        .model;
    // The network as it is: what a head of its own features costs is measured by `refit`.
    model.head = None;
    model
}

#[divan::bench]
fn an_answer(bencher: Bencher<'_, '_>) {
    let (model, rows, mut work) = (model(), rows(), Work::default());
    bencher.bench_local(|| model.answer(black_box(rows.x(7)), &mut work));
}

#[divan::bench]
fn bare_loops(bencher: Bencher<'_, '_>) {
    let (loops, rows, mut layers) = (Loops::new(), rows(), [vec![], vec![], vec![]]);
    bencher.bench_local(|| loops.run(black_box(rows.x(7)), &mut layers));
}
