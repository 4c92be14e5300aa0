//! What a training is expected to take, from shapes alone, so that a budget can say no before anything is begun.
use serde::{Deserialize, Serialize};
use trainer_core::memory::Shape;
use trainer_core::model::{Model, Strategy};
use trainer_core::ridge;
use trainer_core::train::TrainSettings;

use super::{Allowance, Job};
use crate::decide::value::CPU_S_PER_MAC;

/// CPU seconds of a trainer that trains nothing: its start, and reading its rows.
const START_CPU_S: f64 = 0.05;
/// CPU seconds between two checkpoints, as the trainer makes them.
const CHECKPOINT_CPU_S: f64 = 15.0;
/// Copies of the trained weights in a checkpoint: weights, two moments, the best so far.
const CHECKPOINT_COPIES: u64 = 4;
/// Labels per block of heads that are frozen afterwards, as the trainer takes them for `block = 0`.
const BLOCK: u64 = 32;
/// Horizons that are solved anew at a block, on average: the first three always, the next ones half as often each.
const SOLVED_PER_BLOCK: u64 = 4;
/// What stands in a snapshot before its rows.
const SNAPSHOT_HEAD_BYTES: u64 = 512;

/// What one training is expected to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// What the budgets are asked for.
    pub job: Job,
    /// Multiply-adds, at most: early stopping makes fewer.
    pub work_mac: u64,
}

/// What training `strategy` from `parent`, a bundle of `bundle_bytes`, on at most `rows` rows will take, by the model of work:
/// multiply-adds of all passes without early stopping, at [`CPU_S_PER_MAC`]; joules at `watts_per_core`.
#[must_use]
pub fn forecast(
    parent: &Model,
    bundle_bytes: u64,
    strategy: Strategy,
    rows: u64,
    training: &TrainSettings,
    watts_per_core: f64,
) -> Forecast {
    let shape = Shape::adapt(parent, strategy, usize::try_from(rows).unwrap_or(usize::MAX), training, 0);
    let shape = Shape { checkpoint: true, ..shape };
    // Where memory is short the trainer computes its features anew, which changes no bit of the candidate.
    let recompute = strategy == Strategy::Tail && !shape.quantised;
    let least = Shape { recompute, ..shape.clone() };
    let batch = shape.batch.max(1);
    let single = Shape { micro_batch: 1, ..least.clone() }.peak_bytes();
    let memory_bytes = least.peak_bytes();
    let heads = match strategy {
        // One pass for each norm.
        Strategy::Norm => {
            rows.saturating_mul(parent.network.work_mac(0).saturating_mul(parent.network.layers.len() as u64))
        }
        Strategy::Head | Strategy::Tail | Strategy::Full | Strategy::Base => head_mac(parent, rows, training),
    };
    let work_mac = fit_mac(parent, strategy, rows, training).saturating_add(heads);
    let cpu_s = START_CPU_S + work_mac as f64 * CPU_S_PER_MAC;
    let snapshot = SNAPSHOT_HEAD_BYTES + 4 * rows.saturating_mul(shape.features + shape.truths);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded down on purpose, never negative"
    )]
    let checkpoints = (cpu_s / CHECKPOINT_CPU_S) as u64;
    let checkpoint = match strategy {
        Strategy::Head => 4 * shape.heads * shape.embedding * (shape.outputs + shape.embedding / 4),
        Strategy::Norm => 0,
        Strategy::Tail | Strategy::Full | Strategy::Base => 4 * CHECKPOINT_COPIES * shape.trained,
    };
    let job = Job {
        memory_bytes,
        memory_bytes_per_row: memory_bytes.saturating_sub(single) / batch.saturating_sub(1).max(1),
        micro_batch_rows: u32::try_from(batch).unwrap_or(u32::MAX),
        cpu_s,
        joules: cpu_s * watts_per_core,
        write_bytes: snapshot.saturating_add(bundle_bytes).saturating_add(checkpoints.saturating_mul(checkpoint)),
    };
    Forecast { job, work_mac }
}

/// Gradient training: two fits, with the factory's anchors and without; forward and backward are three passes.
impl Allowance {
    /// Rows of the parts of a batch that a training of `job` begins with; 0 for whole batches, where they fit. After a hit the parts it
    /// began with are halved.
    #[must_use]
    pub fn parts(&self, job: &Job) -> u64 {
        if self.micro_batch_rows >= job.micro_batch_rows { 0 } else { self.micro_batch_rows.into() }
    }
}

fn fit_mac(parent: &Model, strategy: Strategy, rows: u64, training: &TrainSettings) -> u64 {
    let (epochs, from) = match strategy {
        Strategy::Head | Strategy::Norm => return 0,
        Strategy::Tail => (training.tail.epochs, parent.network.spec.cut),
        Strategy::Full | Strategy::Base => (training.full.epochs, 0),
    };
    let seen = rows.saturating_mul(2).saturating_add(parent.anchors.len() as u64);
    let each = (3 * epochs as u64).saturating_mul(parent.network.work_mac(from));
    seen.saturating_mul(each.saturating_add(parent.network.work_mac(0)))
}

/// The heads: features and sums of each row, what the heads say to it, and their solutions block by block.
fn head_mac(parent: &Model, rows: u64, training: &TrainSettings) -> u64 {
    let (width, outputs) = (parent.factory.width, parent.factory.outputs);
    let heads = 2 * training.heads.ridges.len().max(1) as u64;
    let said = heads * training.heads.horizons.max(1) as u64 * (width * outputs) as u64;
    let each = parent.work_mac(true) + parent.factory.push_work_mac() + said;
    let blocks = rows / if training.heads.block == 0 { BLOCK } else { training.heads.block as u64 } + 2;
    let solutions = blocks.saturating_mul(SOLVED_PER_BLOCK * heads);
    rows.saturating_mul(each).saturating_add(solutions.saturating_mul(ridge::solve_work_mac(width, outputs)))
}

#[cfg(test)]
mod tests {
    use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
    use trainer_core::spec::{Layer, Spec};
    use trainer_core::train;

    use super::*;

    fn rows(count: u16) -> Rows {
        let mut rows = Rows::empty(2, 1);
        for row in 0..count {
            let x = f32::from(row % 17) - 8.0;
            rows.push(&[x, f32::from(row % 5)], &[f32::from(u8::from(x > 0.0))]);
        }
        rows
    }

    fn parent() -> Model {
        parent_of(&Spec::default())
    }

    fn parent_of(spec: &Spec) -> Model {
        let feature = |name: &str| Feature { name: name.into(), unit: None, kind: FeatureKind::Number, range: None };
        let classes = vec!["low".into(), "high".into()];
        let schema = Schema { features: vec![feature("a"), feature("b")], task: Task::Classification { classes } };
        let mut settings = TrainSettings::default();
        (settings.fit.epochs, settings.fit.refit) = (1, false);
        train::base(&schema, spec, &rows(200), &settings, 0).unwrap().model
    }

    #[test]
    fn the_forecast_of_work_is_near_what_a_training_without_early_stopping_takes() {
        let (parent, mut settings) = (parent(), TrainSettings::default());
        (settings.fit.patience, settings.tail.epochs, settings.full.epochs) = (100, 5, 5);
        for strategy in [Strategy::Head, Strategy::Tail, Strategy::Full] {
            let took = train::adapt(&parent, strategy, &rows(600), &settings, 0).unwrap().work_mac;
            let expected = forecast(&parent, 0, strategy, 600, &settings, 2.0).work_mac;
            let ratio = expected as f64 / took as f64;
            assert!((0.9..2.0).contains(&ratio), "{strategy:?}: {expected} expected, {took} taken, {ratio}");
        }
    }

    #[test]
    fn more_rows_take_more_of_everything_and_a_head_the_least_time() {
        let (parent, settings) = (parent(), TrainSettings::default());
        let of = |strategy, rows| forecast(&parent, 1_000, strategy, rows, &settings, 2.0).job;
        let (few, many, full) = (of(Strategy::Head, 100), of(Strategy::Head, 1_000), of(Strategy::Full, 1_000));
        assert!(few.memory_bytes < many.memory_bytes && few.joules < many.joules && few.write_bytes < many.write_bytes);
        assert!(many.cpu_s < full.cpu_s && of(Strategy::Norm, 1_000).cpu_s < many.cpu_s);
        assert_eq!((many.memory_bytes_per_row, many.micro_batch_rows), (0, 32), "a head has no batches");
        assert!(full.micro_batch_rows > 0 && (full.joules - 2.0 * full.cpu_s).abs() < 1e-9);
    }

    #[test]
    fn a_wide_network_takes_less_memory_for_its_head_than_for_all_its_layers_and_each_row_of_a_batch_some() {
        let layers = vec![Layer::Linear { outputs: 512 }, Layer::Relu, Layer::Linear { outputs: 512 }, Layer::Relu];
        let parent = parent_of(&Spec { cut: 2, layers, reconstruct: false });
        let settings = TrainSettings::default();
        let of = |strategy| forecast(&parent, 1_000, strategy, 1_000, &settings, 2.0).job;
        let (head, tail, full) = (of(Strategy::Head), of(Strategy::Tail), of(Strategy::Full));
        assert!(head.memory_bytes < tail.memory_bytes && head.memory_bytes < full.memory_bytes, "{head:?} {full:?}");
        assert!(full.memory_bytes_per_row > 0 && tail.memory_bytes_per_row > 0 && head.memory_bytes_per_row == 0);
    }
}
