//! False alarms of the whole default watch, and how soon it speaks, by simulation.
//!
//! `cargo test --workspace --lib -- --ignored --nocapture watch_study` prints the table; the promise is one alarm per run length.
use std::collections::BTreeMap;

use trainer_core::schema::{Feature, FeatureKind, Rows};
use trainer_core::spec::Spec;
use trainer_core::train::{TrainSettings, base};

use super::finding::Grade;
use super::*;
use crate::decide::drift::seeded::Draws;

const FEATURES: usize = 8;
const ROWS: u64 = 10_000;
const BASELINE: usize = 512;
/// Five minutes: 288 rows a day.
const STEP_US: i64 = 300_000_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Law {
    Independent,
    /// Each row follows the one before with this correlation.
    Following(f64),
    /// A daily sine of amplitude 1 and noise of 0.3.
    Daily,
}

/// A plant that never changes: rows in time, with errors at an even rate.
struct Plant {
    law: Law,
    chance: Draws,
    last: [f64; FEATURES],
    row: i64,
}

impl Plant {
    fn new(law: Law, seed: u64) -> Self {
        let mut plant = Self { law, chance: Draws::new(seed), last: [0.0; FEATURES], row: 0 };
        for _ in 0..100 {
            plant.step();
        }
        plant
    }

    fn step(&mut self) -> ([f32; FEATURES], Timestamp) {
        self.row += 1;
        let mut row = [0.0; FEATURES];
        for (index, (x, last)) in row.iter_mut().zip(&mut self.last).enumerate() {
            let noise = self.chance.normal();
            *last = match self.law {
                Law::Independent => noise,
                Law::Following(rho) => rho * *last + (1.0 - rho * rho).sqrt() * noise,
                Law::Daily => {
                    let phase = self.row as f64 / 288.0 + index as f64 / FEATURES as f64;
                    (std::f64::consts::TAU * phase).sin() + 0.3 * noise
                }
            };
            #[expect(clippy::cast_possible_truncation, reason = "a feature")]
            let value = *last as f32;
            *x = value;
        }
        (row, Timestamp(self.row * STEP_US))
    }

    /// Rows of the past, spread over twenty days.
    fn past(&mut self) -> (Vec<f32>, Vec<i64>) {
        let (mut rows, mut at) = (Vec::new(), Vec::new());
        for _ in 0..BASELINE {
            for _ in 0..10 {
                self.step();
            }
            let (row, time) = self.step();
            rows.extend(row);
            at.push(time.0 / 1_000_000);
        }
        (rows, at)
    }
}

fn model() -> Model {
    let feature = |index: usize| {
        let name = format!("f{index}");
        Feature { name, unit: None, kind: FeatureKind::Number, range: None }
    };
    let task = Task::Classification { classes: vec!["a".into(), "b".into()] };
    let schema = Schema { features: (0..FEATURES).map(feature).collect(), task };
    let (mut rows, mut plant) = (Rows::empty(FEATURES, 1), Plant::new(Law::Independent, 99));
    for _ in 0..600 {
        let (row, _) = plant.step();
        rows.push(&row, &[f32::from(u8::from(row[0] > row[1]))]);
    }
    base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 0).unwrap().model
}

struct Run {
    model: Model,
    plant: Plant,
    watch: Watch,
    work: Work,
    rows: u64,
    timed: bool,
}

impl Run {
    fn new(model: &Model, law: Law, timed: bool, seed: u64) -> Self {
        let (mut model, mut plant) = (model.clone(), Plant::new(law, seed));
        (model.baseline, model.baseline_at) = plant.past();
        if !timed {
            model.baseline_at.clear();
        }
        model.manifest.reference = Reference { rows: 1_000, mean: 0.2, variance: 0.16 };
        let watch = Watch::new(&model, &WatchSettings::default());
        Self { model, plant, watch, work: Work::default(), rows: 0, timed }
    }

    /// One row with `shift` on the first feature, answered wrongly at rate `wrong`.
    fn step(&mut self, shift: f32, wrong: f64) -> Vec<Finding> {
        let (mut row, at) = self.plant.step();
        row[0] += shift;
        self.model.answer(&row, &mut self.work);
        let answer = self.work.answer.clone();
        let sample = Sample { row: &row, answer: &answer, embedding: &[], at: self.timed.then_some(at) };
        let mut said = self.watch.sample(&sample);
        let is_wrong = self.plant.chance.uniform() < wrong;
        let class = argmax(&answer);
        let truth = [f32::from(u8::from((class == 1) != is_wrong))];
        let label = Label {
            sample: self.rows,
            loss: f64::from(u8::from(is_wrong)),
            answer: &answer,
            truth: &truth,
            segment: Some(if self.rows.is_multiple_of(3) { "north" } else { "south" }),
            answered_by: trainer_core::digest::Digest::of(b"it"),
        };
        said.extend(self.watch.label(&label, self.rows));
        self.rows += 1;
        said.retain(|finding| finding.grade == Grade::Alarm);
        said
    }
}

/// Alarms per run of 10,000 rows, by test; an alarm of all features together repeats those of single ones and is left out.
fn false_alarms(model: &Model, law: Law, timed: bool, runs: u64) -> BTreeMap<&'static str, f64> {
    let mut counts = BTreeMap::new();
    for seed in 0..runs {
        let mut run = Run::new(model, law, timed, seed);
        for _ in 0..ROWS {
            for finding in run.step(0.0, 0.2) {
                if (finding.watcher, &finding.measure) != (Watcher::Psi, &Measure::Features) {
                    *counts.entry(finding.watcher.name()).or_insert(0.0) += 1.0 / runs as f64;
                }
            }
        }
    }
    counts
}

/// Median rows from a change to the first alarm, and the share of runs that found it within 3,000.
fn delay(model: &Model, shift: f32, wrong: f64, runs: u64) -> (u64, f64) {
    let mut delays = Vec::new();
    for seed in 0..runs {
        let mut run = Run::new(model, Law::Independent, true, seed);
        (0..1_000).for_each(|_| drop(run.step(0.0, 0.2)));
        delays.extend((0..3_000).find(|_| !run.step(shift, wrong).is_empty()));
    }
    delays.sort_unstable();
    (delays.get(delays.len() / 2).copied().unwrap_or(u64::MAX), delays.len() as f64 / runs as f64)
}

#[test]
#[ignore = "long: 200 runs of 10,000 rows for each law, ten minutes; run by .ci/nightly"]
fn watch_study() {
    let model = model();
    for (law, timed, most) in [
        (Law::Independent, true, 1.0),
        (Law::Following(0.7), true, 3.0),
        (Law::Following(0.7), false, 3.0),
        (Law::Daily, true, 3.0),
        (Law::Daily, false, 3.0),
    ] {
        let counts = false_alarms(&model, law, timed, 200);
        let total: f64 = counts.values().sum();
        println!("{law:?}, times {timed}: {total:.3} alarms per 10,000 rows {counts:.3?}");
        assert!(total <= most, "{law:?}: {total}");
    }
    for (shift, wrong) in [(0.5, 0.2), (1.0, 0.2), (2.0, 0.2), (0.0, 0.3), (0.0, 0.4), (0.0, 0.8)] {
        let (median, share) = delay(&model, shift, wrong, 60);
        println!(
            "one feature by {shift} sd, errors .2 to {wrong}: first alarm after {median} rows (found in {share:.2})"
        );
    }
}
