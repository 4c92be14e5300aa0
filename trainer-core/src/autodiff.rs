//! The network on burn, for training only; serving and evaluation use `network`, which a test holds equal to this.
//!
//! burn's generator is one per process, so it is never used: weights, order and masks come from `chance`.
use burn::module::{Module, Param};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData, activation};

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

/// Parameters of layers `from..`, in layer order: a matrix and a vector per linear layer, two vectors per norm.
#[derive(Module, Debug)]
struct Parameters {
    matrices: Vec<Param<Tensor<2>>>,
    vectors: Vec<Param<Tensor<1>>>,
}

/// A network whose layers `from..` are being trained.
pub(crate) struct Trainee {
    parameters: Parameters,
    optimizer: ModuleOptimizer,
    from: usize,
    seed: u64,
    steps: u64,
}

impl Trainee {
    /// Takes the weights of layers `from..` into an optimizer.
    pub(crate) fn new(network: &Network, from: usize, weight_decay: f32, seed: u64) -> Self {
        let (mut matrices, mut vectors) = (Vec::new(), Vec::new());
        for (index, layer) in network.layers.iter().enumerate().skip(from) {
            match layer {
                Weights::Linear { weight, bias } => {
                    matrices.push(matrix(weight, network.before(index), network.after(index)));
                    vectors.push(vector(bias));
                }
                Weights::Norm { gamma, beta, .. } => vectors.extend([vector(gamma), vector(beta)]),
                Weights::Plain(_) => {}
            }
        }
        let optimizer = AdamWConfig::new().with_weight_decay(weight_decay).init();
        Self { parameters: Parameters { matrices, vectors }, optimizer, from, seed, steps: 0 }
    }

    /// One step on a batch: `x` is `[rows, before(from)]`, `y` is `[rows, outputs]`, one-hot or standardised targets.
    pub(crate) fn step(mut self, network: &Network, x: Vec<f32>, y: Vec<f32>, loss: Loss, rate: f64) -> Self {
        let device = device().autodiff();
        let rows = y.len() / network.outputs;
        let columns = x.len() / rows;
        let x = Tensor::<2>::from_data(TensorData::new(x, [rows, columns]), &device);
        let y = Tensor::<2>::from_data(TensorData::new(y, [rows, network.outputs]), &device);
        let output = self.forward(network, x);
        #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
        let loss = match loss {
            Loss::CrossEntropy => (activation::log_softmax(output, 1) * y).sum() / -(rows as f32),
            Loss::Square => (output - y).powi_scalar(2).mean(),
        };
        let gradients = GradientsParams::from_grads(loss.backward(), &self.parameters);
        self.parameters = self.optimizer.step(rate, self.parameters, gradients);
        self.steps += 1;
        self
    }

    fn forward(&self, network: &Network, mut x: Tensor<2>) -> Tensor<2> {
        let (mut matrices, mut vectors) = (self.parameters.matrices.iter(), self.parameters.vectors.iter());
        let mut next_vector = || vectors.next().expect("the layer list has not changed").val();
        for (index, layer) in network.layers.iter().enumerate().skip(self.from) {
            x = match layer {
                Weights::Linear { .. } => {
                    let weight = matrices.next().expect("the layer list has not changed").val();
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
                Weights::Plain(Function::Identity) => self.drop(network, index, x),
            };
        }
        x
    }

    fn drop(&self, network: &Network, index: usize, x: Tensor<2>) -> Tensor<2> {
        let Some(&Layer::Dropout { rate }) = network.spec.layers.get(index) else {
            return x;
        };
        let mut chance = Chance::new(self.seed, Purpose::Mask, self.steps * 64 + index as u64);
        let [rows, columns] = x.dims();
        let keep = 1.0 / (1.0 - rate);
        let mask: Vec<f32> = (0..rows * columns).map(|_| if chance.unit() < rate { 0.0 } else { keep }).collect();
        let mask = Tensor::<2>::from_data(TensorData::new(mask, [rows, columns]), &x.device());
        x * mask
    }

    /// Writes the trained weights back into `network`.
    pub(crate) fn write_into(&self, network: &mut Network) {
        let (mut matrices, mut vectors) = (self.parameters.matrices.iter(), self.parameters.vectors.iter());
        let mut next_vector = || read(vectors.next().expect("the layer list has not changed").val().inner());
        for layer in network.layers.iter_mut().skip(self.from) {
            match layer {
                Weights::Linear { weight, bias } => {
                    *weight = read(matrices.next().expect("the layer list has not changed").val().inner());
                    *bias = next_vector();
                }
                Weights::Norm { gamma, beta, .. } => {
                    *gamma = next_vector();
                    *beta = next_vector();
                }
                Weights::Plain(_) => {}
            }
        }
    }
}

fn matrix(values: &[f32], rows: usize, columns: usize) -> Param<Tensor<2>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values.to_vec(), [rows, columns]), &device().autodiff()))
}

fn vector(values: &[f32]) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &device().autodiff()))
}

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
        let spec = Spec { cut: 3, layers };
        let mut network = Network::new(&spec, 5, 3, 11).unwrap();
        let mut chance = Chance::new(1, Purpose::Sample, 0);
        let rows: Vec<f32> = (0..5 * 40).map(|_| chance.normal()).collect();
        // Batch statistics of these very rows, so that training and serving mean the same.
        network.estimate_norms(0, &rows);
        let trainee = Trainee::new(&network, 0, 0.0, 0);
        let x = Tensor::<2>::from_data(TensorData::new(rows.clone(), [40, 5]), &device().autodiff());
        let expected = read(trainee.forward(&network, x).inner());
        let mut scratch = Scratch::default();
        for (row, expected) in rows.chunks_exact(5).zip(expected.chunks_exact(3)) {
            network.forward(row, &mut scratch);
            for (served, trained) in scratch.output.iter().zip(expected) {
                assert!((served - trained).abs() < 2e-5, "{served} for {trained}");
            }
        }
    }
}
