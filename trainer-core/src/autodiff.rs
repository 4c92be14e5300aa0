//! The network on burn, for training only; serving and evaluation use `network`, which a test holds equal to this.
//!
//! burn's generator is one per process, so it is never used: weights, order and masks come from `chance`.
use burn::tensor::{Device, Tensor, TensorData, activation};
use serde::{Deserialize, Serialize};

use crate::chance::{Chance, Purpose};
use crate::network::{EPSILON, Function, Network, Weights};
use crate::spec::Layer;

/// The one place that names a backend.
#[cfg(not(feature = "ndarray"))]
fn device() -> Device {
    Device::flex()
}

#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "offered until upstream removes it")]
fn device() -> Device {
    Device::ndarray()
}

/// What a batch is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Cross entropy of logits against one-hot rows.
    CrossEntropy,
    /// Mean squared error of standardised targets.
    Square,
}

/// First-moment and second-moment decay of Adam, and what keeps its divisor from zero; burn's defaults.
const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON_ADAM: f32 = 1e-5;

/// How one step moves the weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stride {
    /// Step size of AdamW.
    pub(crate) rate: f64,
    /// Decoupled weight decay.
    pub(crate) weight_decay: f32,
    /// Strength of the pull towards the weights that training began with (L2-SP); 0 for none.
    pub(crate) pull: f32,
    /// Rows per forward and backward pass; 0 takes a batch whole. Gradients of the parts are added up.
    pub(crate) micro_batch: usize,
}

/// The layers `from..` of a network while they are being trained: plain numbers, so that a checkpoint is this value.
///
/// Weights lie in layer order, a matrix and a vector per linear layer, two vectors per norm. AdamW is written out here: burn's
/// optimizer hangs its state on parameter ids that are drawn anew in each process, and copies every tensor it touches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trainee {
    from: usize,
    seed: u64,
    steps: u64,
    weights: Vec<f32>,
    moments: [Vec<f32>; 2],
    /// Weights that training began with; empty unless something pulls towards them.
    origin: Vec<f32>,
}

/// The weights as burn sees them during one step.
struct Leaves {
    matrices: Vec<Tensor<2>>,
    vectors: Vec<Tensor<1>>,
}

impl Trainee {
    /// Takes the weights of layers `from..`.
    pub(crate) fn new(network: &Network, from: usize, pull: f32, seed: u64) -> Self {
        let mut weights = Vec::new();
        for layer in &network.layers[from..] {
            let (one, other) = match layer {
                Weights::Linear { weight, bias } => (weight, bias),
                Weights::Norm { gamma, beta, .. } => (gamma, beta),
                Weights::Plain(_) => continue,
            };
            weights.extend_from_slice(one);
            weights.extend_from_slice(other);
        }
        let origin = if pull > 0.0 { weights.clone() } else { Vec::new() };
        let moments = [vec![0.0; weights.len()], vec![0.0; weights.len()]];
        Self { from, seed, steps: 0, weights, moments, origin }
    }

    /// One step on a batch: `x` is `[rows, before(from)]`, `y` is `[rows, outputs]`, one-hot or standardised targets.
    ///
    /// Parts of a batch give the gradient of the whole up to the order of sums; batch norm sees the statistics of the part.
    pub(crate) fn step(&mut self, network: &Network, x: &[f32], y: &[f32], loss: Loss, stride: Stride) {
        let rows = y.len() / network.outputs;
        let columns = x.len() / rows;
        let part = if stride.micro_batch == 0 { rows } else { stride.micro_batch.min(rows) };
        let leaves = self.leaves(network);
        let mut gradient = vec![0.0; self.weights.len()];
        for (index, (x, y)) in x.chunks(part * columns).zip(y.chunks(part * network.outputs)).enumerate() {
            self.add_gradient(network, &leaves, (x, y), (index * part, rows), loss, &mut gradient);
        }
        drop(leaves);
        self.update(&gradient, stride);
    }

    /// Adds the gradient of the rows `x`, `y`, which begin at row `at.0` of a batch of `at.1` rows.
    fn add_gradient(
        &self,
        network: &Network,
        leaves: &Leaves,
        (x, y): (&[f32], &[f32]),
        at: (usize, usize),
        loss: Loss,
        gradient: &mut [f32],
    ) {
        let device = device().autodiff();
        let rows = y.len() / network.outputs;
        let x = Tensor::<2>::from_data(TensorData::new(x.to_vec(), [rows, x.len() / rows]), &device);
        let y = Tensor::<2>::from_data(TensorData::new(y.to_vec(), [rows, network.outputs]), &device);
        let output = self.forward(network, leaves, x, at.0);
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        let batch = at.1 as f32;
        let loss = match loss {
            Loss::CrossEntropy => (activation::log_softmax(output, 1) * y).sum() / -batch,
            Loss::Square => (output - y).powi_scalar(2).sum() / (batch * network.outputs as f32),
        };
        let mut gradients = loss.backward();
        let mut rest = gradient;
        let mut add = |values: Option<TensorData>| {
            let values = values.expect("every weight takes part in the loss");
            let values = values.as_slice::<f32>().expect("networks compute in f32");
            let (own, next) = std::mem::take(&mut rest).split_at_mut(values.len());
            own.iter_mut().zip(values).for_each(|(sum, x)| *sum += x);
            rest = next;
        };
        let (mut matrices, mut vectors) = (leaves.matrices.iter(), leaves.vectors.iter());
        for layer in &network.layers[self.from..] {
            match layer {
                Weights::Linear { .. } => {
                    let matrix = matrices.next().expect("the layer list has not changed");
                    add(matrix.grad_remove(&mut gradients).map(Tensor::into_data));
                }
                Weights::Norm { .. } => {
                    let gamma = vectors.next().expect("the layer list has not changed");
                    add(gamma.grad_remove(&mut gradients).map(Tensor::into_data));
                }
                Weights::Plain(_) => continue,
            }
            let vector = vectors.next().expect("the layer list has not changed");
            add(vector.grad_remove(&mut gradients).map(Tensor::into_data));
        }
    }

    /// AdamW (Loshchilov and Hutter, 2019), in place.
    #[expect(clippy::cast_possible_truncation, reason = "settings in f64, weights in f32")]
    fn update(&mut self, gradient: &[f32], stride: Stride) {
        self.steps += 1;
        let rate = stride.rate as f32;
        let keep = 1.0 - rate * stride.weight_decay;
        let time = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (one, two) = (1.0 - BETA_1.powi(time), 1.0 - BETA_2.powi(time));
        let [first, second] = &mut self.moments;
        let moments = first.iter_mut().zip(second.iter_mut());
        for (index, (weight, (m, v))) in self.weights.iter_mut().zip(moments).enumerate() {
            let pull = self.origin.get(index).map_or(0.0, |origin| stride.pull * (*weight - origin));
            let g = gradient[index] + pull;
            *m = BETA_1 * *m + (1.0 - BETA_1) * g;
            *v = BETA_2 * *v + (1.0 - BETA_2) * g * g;
            *weight = *weight * keep - rate * (*m / one) / ((*v / two).sqrt() + EPSILON_ADAM);
        }
    }

    fn leaves(&self, network: &Network) -> Leaves {
        let mut leaves = Leaves { matrices: Vec::new(), vectors: Vec::new() };
        let mut rest = self.weights.as_slice();
        let mut take = |count: usize| {
            let (own, next) = rest.split_at(count);
            rest = next;
            own
        };
        for (index, layer) in network.layers.iter().enumerate().skip(self.from) {
            let columns = network.after(index);
            match layer {
                Weights::Linear { weight, .. } => {
                    leaves.matrices.push(matrix(take(weight.len()), network.before(index), columns));
                    leaves.vectors.push(vector(take(columns)));
                }
                Weights::Norm { .. } => leaves.vectors.extend([vector(take(columns)), vector(take(columns))]),
                Weights::Plain(_) => {}
            }
        }
        leaves
    }

    fn forward(&self, network: &Network, leaves: &Leaves, mut x: Tensor<2>, first_row: usize) -> Tensor<2> {
        let (mut matrices, mut vectors) = (leaves.matrices.iter(), leaves.vectors.iter());
        let mut next_vector = || vectors.next().expect("the layer list has not changed").clone();
        for (index, layer) in network.layers.iter().enumerate().skip(self.from) {
            x = match layer {
                Weights::Linear { .. } => {
                    let weight = matrices.next().expect("the layer list has not changed").clone();
                    x.matmul(weight) + next_vector().unsqueeze::<2>()
                }
                Weights::Norm { mean, .. } => {
                    // Batch norm reduces over rows, layer norm over columns.
                    let axis = usize::from(mean.is_empty());
                    let centred = x.clone() - x.mean_dim(axis);
                    let spread = centred.clone().powi_scalar(2).mean_dim(axis);
                    centred / (spread + EPSILON).sqrt() * next_vector().unsqueeze::<2>()
                        + next_vector().unsqueeze::<2>()
                }
                Weights::Plain(Function::Relu) => activation::relu(x),
                Weights::Plain(Function::Gelu) => activation::gelu(x),
                Weights::Plain(Function::Tanh) => x.tanh(),
                Weights::Plain(Function::Sigmoid) => activation::sigmoid(x),
                Weights::Plain(Function::Identity) => self.drop(network, index, x, first_row),
            };
        }
        x
    }

    fn drop(&self, network: &Network, index: usize, x: Tensor<2>, first_row: usize) -> Tensor<2> {
        let Some(&Layer::Dropout { rate }) = network.spec.layers.get(index) else {
            return x;
        };
        let mut chance = Chance::new(self.seed, Purpose::Mask, self.steps * 64 + index as u64);
        let [rows, columns] = x.dims();
        let keep = 1.0 / (1.0 - rate);
        // A part of a batch gets the part of the batch's mask that is its own.
        (0..first_row * columns).for_each(|_| _ = chance.unit());
        let mask: Vec<f32> = (0..rows * columns).map(|_| if chance.unit() < rate { 0.0 } else { keep }).collect();
        let mask = Tensor::<2>::from_data(TensorData::new(mask, [rows, columns]), &x.device());
        x * mask
    }

    /// Writes the trained weights back into `network`.
    pub(crate) fn write_into(&self, network: &mut Network) {
        let mut rest = self.weights.as_slice();
        let mut fill = |into: &mut Vec<f32>| {
            let (own, next) = rest.split_at(into.len());
            into.copy_from_slice(own);
            rest = next;
        };
        for layer in &mut network.layers[self.from..] {
            match layer {
                Weights::Linear { weight, bias } => [weight, bias].into_iter().for_each(&mut fill),
                Weights::Norm { gamma, beta, .. } => [gamma, beta].into_iter().for_each(&mut fill),
                Weights::Plain(_) => {}
            }
        }
    }
}

fn matrix(values: &[f32], rows: usize, columns: usize) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [rows, columns]), &device().autodiff()).require_grad()
}

fn vector(values: &[f32]) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &device().autodiff()).require_grad()
}

#[cfg(test)]
fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("networks compute in f32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Scratch;
    use crate::spec::Spec;

    #[test]
    fn burns_forward_pass_and_the_served_one_agree_for_every_layer() {
        let layers = vec![
            Layer::Linear { outputs: 24 },
            Layer::LayerNorm,
            Layer::Gelu,
            Layer::Linear { outputs: 17 },
            Layer::BatchNorm,
            Layer::Tanh,
            Layer::Dropout { rate: 0.0 },
            Layer::Linear { outputs: 9 },
            Layer::Sigmoid,
            Layer::Linear { outputs: 8 },
            Layer::Relu,
        ];
        let spec = Spec { cut: 3, layers, reconstruct: false };
        let mut network = Network::new(&spec, 5, 3, 11).unwrap();
        let mut chance = Chance::new(1, Purpose::Sample, 0);
        let rows: Vec<f32> = (0..5 * 40).map(|_| chance.normal()).collect();
        // Batch statistics of these very rows, so that training and serving mean the same.
        network.estimate_norms(0, 40, &mut |row, into| into.extend_from_slice(&rows[row * 5..row * 5 + 5]));
        let trainee = Trainee::new(&network, 0, 0.0, 0);
        let x = Tensor::<2>::from_data(TensorData::new(rows.clone(), [40, 5]), &device().autodiff());
        let expected = read(trainee.forward(&network, &trainee.leaves(&network), x, 0).inner());
        let mut scratch = Scratch::default();
        for (row, expected) in rows.chunks_exact(5).zip(expected.chunks_exact(3)) {
            network.forward(row, &mut scratch);
            for (served, trained) in scratch.output.iter().zip(expected) {
                assert!((served - trained).abs() < 2e-5, "{served} for {trained}");
            }
        }
    }
    /// A network with dropout after `steps` steps on one batch in parts of `micro_batch` rows.
    fn stepped(micro_batch: usize, pull: f32, steps: usize) -> Network {
        let layers = vec![Layer::Linear { outputs: 16 }, Layer::Relu, Layer::Dropout { rate: 0.3 }];
        let mut network = Network::new(&Spec { cut: 1, layers, reconstruct: false }, 4, 2, 3).unwrap();
        let mut chance = Chance::new(5, Purpose::Sample, 0);
        let x: Vec<f32> = (0..4 * 32).map(|_| chance.normal()).collect();
        let y: Vec<f32> = x.chunks_exact(4).flat_map(|x| if x[0] > 0.0 { [1.0, 0.0] } else { [0.0, 1.0] }).collect();
        let mut trainee = Trainee::new(&network, 0, pull, 9);
        for _ in 0..steps {
            let stride = Stride { rate: 1e-2, weight_decay: 0.0, pull, micro_batch };
            trainee.step(&network, &x, &y, Loss::CrossEntropy, stride);
        }
        trainee.write_into(&mut network);
        network
    }

    fn distance(a: &Network, b: &Network) -> f32 {
        let all = |network: &Network| Trainee::new(network, 0, 0.0, 0).weights;
        all(a).iter().zip(all(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_batch_in_parts_gives_the_step_of_the_whole_up_to_the_order_of_sums() {
        let whole = stepped(0, 0.0, 10);
        assert!(distance(&whole, &stepped(0, 0.0, 0)) > 0.05, "it must move at all");
        for micro_batch in [16, 5, 1] {
            let found = distance(&whole, &stepped(micro_batch, 0.0, 10));
            assert!(found < 1e-3, "parts of {micro_batch}: {found}");
        }
    }

    #[test]
    fn a_pull_keeps_the_weights_near_where_they_began() {
        let begin = stepped(0, 0.0, 0);
        assert!(distance(&begin, &stepped(0, 10.0, 60)) < 0.3 * distance(&begin, &stepped(0, 0.0, 60)));
    }
}
