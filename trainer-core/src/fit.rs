//! Seeded gradient training: AdamW on batches, early stopping on the newest rows.
use serde::{Deserialize, Serialize};

use crate::autodiff::{Loss, Trainee};
use crate::chance::{Chance, Purpose};
use crate::network::{Network, Scratch};

/// How a network is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FitSettings {
    /// Most passes over the rows. Default 60.
    pub epochs: usize,
    /// Rows per step. Default 32.
    pub batch: usize,
    /// Step size of AdamW. Default 1e-3.
    pub learning_rate: f64,
    /// Decoupled weight decay. Default 1e-3: enough to keep idle weights from wandering.
    pub weight_decay: f32,
    /// Share of the newest rows held out for early stopping. Default 0.2; 0 trains all epochs on all rows.
    pub holdout: f32,
    /// Passes without a better hold-out loss before training stops. Default 10.
    pub patience: usize,
    /// Whether a second run trains on all rows for the number of passes that the hold-out found best. Default true:
    /// the newest rows are the most valuable ones in a drifting world.
    pub refit: bool,
}

impl Default for FitSettings {
    fn default() -> Self {
        Self { epochs: 60, batch: 32, learning_rate: 1e-3, weight_decay: 1e-3, holdout: 0.2, patience: 10, refit: true }
    }
}

/// Encoded rows in time order and what they should give.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Examples<'a> {
    /// `[rows, columns]`.
    pub(crate) x: &'a [f32],
    /// `[rows, outputs]`, one-hot or standardised.
    pub(crate) y: &'a [f32],
    pub(crate) columns: usize,
    pub(crate) outputs: usize,
}

impl Examples<'_> {
    pub(crate) fn len(&self) -> usize {
        self.y.len() / self.outputs
    }
}

/// What a fit did.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FitReport {
    /// Passes of the run that was kept.
    pub(crate) epochs: usize,
    /// Multiply-adds of all steps: forward, and twice that backward.
    pub(crate) work_mac: u64,
    /// The network as it was when the held-out rows were still unseen; none without held-out rows.
    pub(crate) judged: Option<Network>,
    /// Its loss there.
    pub(crate) held_loss: f64,
}

/// Trains layers `from..` of `network`, the newest `held` rows kept aside to stop early; the same examples, settings and
/// seed give the same bits.
pub(crate) fn fit(
    network: &mut Network,
    from: usize,
    examples: Examples<'_>,
    loss: Loss,
    settings: &FitSettings,
    held: usize,
    seed: u64,
) -> FitReport {
    let rows = examples.len();
    let first = network.clone();
    let mut report = FitReport::default();
    if held == 0 {
        report.epochs = settings.epochs;
        run(network, from, examples, loss, settings, seed, rows, settings.epochs, &mut report);
        return report;
    }
    report.epochs = run(network, from, examples, loss, settings, seed, rows - held, settings.epochs, &mut report);
    report.judged = Some(network.clone());
    if settings.refit && report.epochs > 0 {
        *network = first;
        run(network, from, examples, loss, settings, seed, rows, report.epochs, &mut report);
    }
    report
}

/// One run over the rows `0..train`; with rows left over, keeps the weights of the best pass and returns its number.
#[expect(clippy::too_many_arguments, reason = "one private loop, called twice")]
fn run(
    network: &mut Network,
    from: usize,
    examples: Examples<'_>,
    loss: Loss,
    settings: &FitSettings,
    seed: u64,
    train: usize,
    epochs: usize,
    report: &mut FitReport,
) -> usize {
    let (columns, outputs) = (examples.columns, examples.outputs);
    let judged = train < examples.len();
    let mut trainee = Trainee::new(network, from, settings.weight_decay, seed);
    let mut best =
        (if judged { mean_loss(network, from, examples, train, loss) } else { f64::INFINITY }, 0, network.clone());
    for epoch in 1..=epochs {
        let order = Chance::new(seed, Purpose::Order, epoch as u64).order(train);
        for batch in order.chunks(settings.batch.max(1)) {
            let (mut x, mut y) = (Vec::with_capacity(batch.len() * columns), Vec::with_capacity(batch.len() * outputs));
            for &row in batch {
                x.extend_from_slice(&examples.x[row * columns..(row + 1) * columns]);
                y.extend_from_slice(&examples.y[row * outputs..(row + 1) * outputs]);
            }
            trainee = trainee.step(network, x, y, loss, settings.learning_rate);
            report.work_mac += 3 * batch.len() as u64 * network.work_mac(from);
        }
        if judged {
            trainee.write_into(network);
            network.estimate_norms(from, &examples.x[..train * columns]);
            let now = mean_loss(network, from, examples, train, loss);
            if now < best.0 {
                best = (now, epoch, network.clone());
            } else if epoch >= best.1 + settings.patience.max(1) {
                break;
            }
        }
    }
    if judged {
        report.held_loss = best.0;
        *network = best.2;
        return best.1;
    }
    trainee.write_into(network);
    network.estimate_norms(from, &examples.x[..train * columns]);
    epochs
}

fn mean_loss(network: &Network, from: usize, examples: Examples<'_>, skip: usize, loss: Loss) -> f64 {
    let mut scratch = Scratch::default();
    let mut sum = 0.0;
    let rows = examples.x.chunks_exact(examples.columns).zip(examples.y.chunks_exact(examples.outputs));
    for (x, y) in rows.skip(skip) {
        if from == 0 {
            network.forward(x, &mut scratch)
        } else {
            network.forward_from_cut(x, &mut scratch)
        }
        sum += match loss {
            Loss::CrossEntropy => cross_entropy(&scratch.output, y),
            Loss::Square => scratch.output.iter().zip(y).map(|(o, y)| f64::from(o - y).powi(2)).sum(),
        };
    }
    #[expect(clippy::cast_precision_loss, reason = "a mean over rows")]
    let count = (examples.len() - skip) as f64;
    sum / count
}

fn cross_entropy(logits: &[f32], y: &[f32]) -> f64 {
    let highest = logits.iter().copied().fold(f32::MIN, f32::max);
    let total: f64 = logits.iter().map(|l| f64::from(l - highest).exp()).sum();
    let right: f64 = logits.iter().zip(y).map(|(l, y)| f64::from(l * y)).sum();
    total.ln() + f64::from(highest) - right
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Layer, Spec};

    /// Two classes split by the sign of x0·x1, which no linear map can do.
    fn quadrants(rows: usize) -> (Vec<f32>, Vec<f32>) {
        let mut chance = Chance::new(3, Purpose::Sample, 0);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for _ in 0..rows {
            let (a, b) = (chance.normal(), chance.normal());
            x.extend([a, b]);
            y.extend(if a * b > 0.0 { [1.0, 0.0] } else { [0.0, 1.0] });
        }
        (x, y)
    }

    fn trained(spec: &Spec, seed: u64) -> Network {
        let (x, y) = quadrants(600);
        let mut network = Network::new(spec, 2, 2, seed).unwrap();
        let examples = Examples { x: &x, y: &y, columns: 2, outputs: 2 };
        let settings = FitSettings { learning_rate: 1e-2, epochs: 30, ..FitSettings::default() };
        fit(&mut network, 0, examples, Loss::CrossEntropy, &settings, 120, seed);
        network
    }

    fn accuracy(network: &Network) -> f32 {
        let (x, y) = quadrants(2_000);
        let mut scratch = Scratch::default();
        let right = x.chunks_exact(2).zip(y.chunks_exact(2)).filter(|(x, y)| {
            network.forward(x, &mut scratch);
            (scratch.output[0] > scratch.output[1]) == (y[0] > 0.5)
        });
        right.count() as f32 / 2_000.0
    }

    #[test]
    fn training_learns_what_a_linear_map_cannot_with_every_kind_of_layer() {
        assert!(accuracy(&trained(&Spec::default(), 1)) > 0.95);
        let layers = vec![
            Layer::Linear { outputs: 32 },
            Layer::BatchNorm,
            Layer::Gelu,
            Layer::Dropout { rate: 0.1 },
            Layer::Linear { outputs: 16 },
            Layer::LayerNorm,
            Layer::Tanh,
        ];
        let found = accuracy(&trained(&Spec { cut: 3, layers }, 1));
        assert!(found > 0.93, "accuracy {found}");
    }

    #[test]
    fn same_rows_and_seed_give_the_same_bits_and_another_seed_does_not() {
        assert_eq!(trained(&Spec::default(), 5), trained(&Spec::default(), 5));
        assert_ne!(trained(&Spec::default(), 5), trained(&Spec::default(), 6));
    }
}
