//! The whole loop under clocks that travel: the same rows give the same decisions, whatever the wall clock does meanwhile.
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Model;
use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
use trainer_core::spec::Spec;
use trainer_core::train::{TrainSettings, base};

use crate::decide::cycle::{Cycle, CycleSettings, Report};
use crate::decide::sample::{Label, Sample};
use crate::decide::time::Timestamp;

/// Seconds since 1970 at each row.
type Clock = fn(i64) -> i64;

const SECOND: i64 = 1_000_000;
const PRESENT: i64 = 1_795_000_000;
const ROWS: u64 = 3_000;
/// From this row on the answers are wrong more often.
const CHANGE: u64 = 1_500;

fn value(number: u64) -> f32 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    #[expect(clippy::cast_precision_loss, reason = "20 bits")]
    let even = ((mixed >> 40) & 0xF_FFFF) as f32 / 1_048_576.0;
    even * 2.0 - 1.0
}

fn model() -> (Model, Digest) {
    let feature = Feature { name: "x".into(), unit: None, kind: FeatureKind::Number, range: None };
    let task = Task::Classification { classes: vec!["a".into(), "b".into()] };
    let mut rows = Rows::empty(1, 1);
    for row in 0..400 {
        rows.push(&[value(row)], &[f32::from(u8::from(value(row) > 0.0))]);
    }
    let schema = Schema { features: vec![feature], task };
    let mut model = base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 0).unwrap().model;
    let (_, digest) = bundle::write(&mut model);
    (model, digest)
}

/// What was reported at which row, without times; and the loop at the end.
fn run(clock: impl Fn(u64) -> i64) -> (Vec<String>, Cycle) {
    let settings = CycleSettings { policy: "trigger:any".parse().unwrap(), ..CycleSettings::default() };
    let (model, factory) = model();
    let mut cycle = Cycle::new(&model, factory, &settings);
    let mut said = Vec::new();
    for number in 0..ROWS {
        let at = Timestamp(clock(number).saturating_mul(SECOND));
        let row = [value(number)];
        let mut reports =
            cycle.sample(&Sample { row: &row, answer: &[0.9, 0.1], embedding: &[], at: Some(at) }, &settings);
        reports.extend(cycle.tick(at, &settings));
        let wrong = number * 7 % 10 < if number < CHANGE { 1 } else { 5 };
        let truth: &[f32] = if wrong { &[1.0] } else { &[0.0] };
        let loss = f64::from(u8::from(wrong));
        let (answer, answered_by) = (&[0.9, 0.1], cycle.orders().serve);
        let label = Label { sample: number, loss, answer, truth, segment: None, answered_by };
        reports.extend(cycle.label(&label, &settings));
        for report in &reports {
            said.push(match report {
                Report::Retrain { order } => format!("{number} retrain {} on {:?}", order.run, order.rows),
                Report::Drift { opened, .. } => format!("{number} drift since {opened}"),
                other => format!("{number} {}", serde_json::to_value(other).unwrap()["kind"]),
            });
        }
    }
    (said, cycle)
}

#[test]
fn whatever_the_clock_does_the_same_rows_give_the_same_decisions_and_no_promotion() {
    let row = |number: u64| i64::try_from(number).unwrap();
    let (steady, cycle) = run(|number| PRESENT + row(number));
    assert!(steady.iter().any(|said| said.contains("retrain")), "the change is found: {steady:?}");
    let served = cycle.orders().serve;
    let clocks: [(&str, Clock); 5] = [
        ("wakes in 1970 and is set later", |row| if row < 900 { row } else { PRESENT + row }),
        ("jumps ahead by ten years and back", |row| {
            PRESENT + row + if (600..1_700).contains(&row) { 315_000_000 } else { 0 }
        }),
        ("is set back again and again", |row| PRESENT - row / 100 * 3_600 + row),
        ("stands still", |_| PRESENT),
        ("goes to both ends of time", |row| {
            [i64::MIN / SECOND, i64::MAX / SECOND, 0, PRESENT][usize::try_from(row % 4).unwrap()]
        }),
    ];
    for (name, clock) in clocks {
        let (said, cycle) = run(|number| clock(row(number)));
        assert_eq!(said, steady, "a clock that {name}");
        assert_eq!((cycle.orders().serve, cycle.counts()), (served, (ROWS, ROWS)), "a clock that {name}");
    }
}
