//! What refitting a head on 445 rows × 128 features costs: `cargo bench --workspace --bench refit`.
//!
//! With `rows FILE` as arguments it is one side of `tests/peers/refit.py`, which runs a peer on the same rows in turn. FILE holds the
//! class and the features of a row per line, without a header. The first 445 rows train the base model, as backbone and factory sums.
//! Each block number on standard input refits the head on that block of 445 rows and prints, as JSON, what that took and how many rows
//! of the next block the new head gets right.
#![expect(clippy::disallowed_methods, reason = "a program of its own: arguments, a file and a pipe come in here")]
use std::io::{BufRead, Write};

use divan::Bencher;
use hone_agent::shell::trainer::duty::{Clock, RealClock};
use trainer_core::chance::{Chance, Purpose};
use trainer_core::evaluate::class_of;
use trainer_core::horizons::{HorizonSettings, argmax};
use trainer_core::model::{Model, Strategy, Work};
use trainer_core::ridge::{Gram, SolveMemory, solve};
use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
use trainer_core::spec::Spec;
use trainer_core::train::{TrainSettings, adapt, base};

/// Rows of a block.
const BLOCK: usize = 445;
/// Columns of the rows that are drawn.
const FEATURES: usize = 128;
/// Classes of the rows that are drawn.
const CLASSES: usize = 6;
/// Rows summed at once.
const SUMMED: usize = 64;
/// Refits of a block, of which the median counts.
const REPEATS: usize = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "rows").and_then(|place| arguments.get(place + 1)) {
        Some(path) => serve(path),
        None => divan::main(),
    }
}

/// Feature forward, sums and solution: the refit that answers a change at once.
fn ridge(parent: &Model, rows: &Rows) -> Vec<f32> {
    let settings = HorizonSettings::default();
    let (mut work, mut y, mut memory) = (Work::default(), Vec::new(), SolveMemory::default());
    let mut sums = Gram::new(parent.factory.width, parent.factory.outputs);
    // As the heads themselves learn: a block of rows at a time, which is one matrix product.
    let (mut block_h, mut block_y) = (Vec::new(), Vec::new());
    for row in 0..rows.len() {
        parent.embed(rows.x(row), &mut work);
        parent.target(rows.y(row), &mut y);
        block_h.extend_from_slice(&work.h);
        block_y.extend_from_slice(&y);
        if (row + 1).is_multiple_of(SUMMED) || row + 1 == rows.len() {
            sums.push_rows(&block_h, &block_y);
            block_h.clear();
            block_y.clear();
        }
    }
    solve(&[(settings.weight, &sums), (1.0, &parent.factory)], settings.ridges[0], &mut memory).expect("finite rows")
}

/// The whole head retraining of the trainer: heads of all horizons, their mixture, temperature, judgement, golden answers.
fn whole(parent: &Model, rows: &Rows) -> Model {
    adapt(parent, Strategy::Head, rows, &TrainSettings::default(), 0).expect("enough finite rows").model
}

fn schema(features: usize, classes: usize) -> Schema {
    let feature = |index| Feature { name: format!("f{index}"), unit: None, kind: FeatureKind::Number, range: None };
    let task = Task::Classification { classes: (0..classes).map(|class| format!("class {class}")).collect() };
    Schema { features: (0..features).map(feature).collect(), task }
}

fn trained(rows: &Rows, classes: usize) -> Model {
    base(&schema(rows.features, classes), &Spec::default(), rows, &TrainSettings::default(), 0)
        .expect("enough finite rows")
        .model
}

/// Rows of classes that each have a centre of their own.
fn drawn(seed: u64) -> Rows {
    let mut centres = Chance::new(7, Purpose::Sample, 0);
    let centres: Vec<f32> = (0..CLASSES * FEATURES).map(|_| centres.normal() * 0.6).collect();
    let (mut chance, mut rows) = (Chance::new(seed, Purpose::Sample, 1), Rows::empty(FEATURES, 1));
    for _ in 0..BLOCK {
        let class = chance.below(CLASSES);
        let x: Vec<f32> = centres[class * FEATURES..][..FEATURES].iter().map(|c| c + chance.normal()).collect();
        #[expect(clippy::cast_precision_loss, reason = "six classes")]
        rows.push(&x, &[class as f32]);
    }
    rows
}

#[divan::bench]
fn ridge_head_of_445_rows_and_128_features(bencher: Bencher<'_, '_>) {
    let (parent, rows) = (trained(&drawn(1), CLASSES), drawn(2));
    bencher.bench_local(|| ridge(&parent, divan::black_box(&rows)));
}

#[divan::bench(sample_count = 20)]
fn whole_head_retraining_of_445_rows_and_128_features(bencher: Bencher<'_, '_>) {
    let (parent, rows) = (trained(&drawn(1), CLASSES), drawn(2));
    bencher.bench_local(|| whole(&parent, divan::black_box(&rows)));
}

/// Median CPU seconds of `work`, and what it gave.
fn measured<T>(work: impl Fn() -> T) -> (f64, T) {
    let clock = RealClock;
    let mut seconds = Vec::new();
    let mut last = None;
    for _ in 0..REPEATS {
        let before = clock.cpu_s();
        last = Some(divan::black_box(work()));
        seconds.push(clock.cpu_s() - before);
    }
    seconds.sort_by(f64::total_cmp);
    (seconds[REPEATS / 2], last.expect("it ran"))
}

fn right(model: &Model, rows: &Rows) -> usize {
    let mut work = Work::default();
    let is_right = |row: &usize| {
        model.answer(rows.x(*row), &mut work);
        argmax(&work.answer) == class_of(rows.y(*row)[0])
    };
    (0..rows.len()).filter(is_right).count()
}

/// Answers block numbers until there are no more.
fn serve(path: &str) {
    let text = std::fs::read_to_string(path).expect("the file of rows can be read");
    let numbers = |line: &str| line.split(',').map(|cell| cell.parse().expect("a number")).collect::<Vec<f32>>();
    let lines: Vec<Vec<f32>> = text.lines().map(numbers).collect();
    let classes = lines.iter().map(|line| class_of(line[0]) + 1).max().expect("rows");
    let block = |number: usize| {
        let mut rows = Rows::empty(lines[0].len() - 1, 1);
        lines.iter().skip(number * BLOCK).take(BLOCK).for_each(|line| rows.push(&line[1..], &line[..1]));
        rows
    };
    let parent = trained(&block(0), classes);
    let mut output = std::io::stdout();
    for line in std::io::stdin().lock().lines() {
        let number: usize = line.expect("lines").trim().parse().expect("a block number");
        let (rows, next) = (block(number), block(number + 1));
        let (ridge_s, head) = measured(|| ridge(&parent, &rows));
        let mut refitted = parent.clone();
        refitted.head = Some(head);
        let (whole_s, retrained) = measured(|| whole(&parent, &rows));
        let (ridge_right, whole_right) = (right(&refitted, &next), right(&retrained, &next));
        writeln!(
            output,
            r#"{{"ridge_cpu_s":{ridge_s},"ridge_right":{ridge_right},"whole_cpu_s":{whole_s},"whole_right":{whole_right},"rows":{}}}"#,
            next.len()
        )
        .and_then(|()| output.flush())
        .expect("someone listens");
    }
}
