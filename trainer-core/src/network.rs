//! The network's weights as plain numbers, and the fused forward pass that serves them without allocation.
use serde::{Deserialize, Serialize};

use crate::chance::{Chance, Purpose};
use crate::spec::{Layer, Spec, SpecError};

/// Keeps the square root of a variance away from zero; `PyTorch`'s default.
pub(crate) const EPSILON: f32 = 1e-5;

/// One layer with its weights. Matrices are `[inputs, outputs]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// Affine map.
    Linear {
        /// `[inputs, outputs]`.
        weight: Vec<f32>,
        /// `[outputs]`.
        bias: Vec<f32>,
    },
    /// Batch or layer normalisation; `mean` and `variance` are empty for layer normalisation.
    Norm {
        /// `[columns]`, multiplies.
        gamma: Vec<f32>,
        /// `[columns]`, adds.
        beta: Vec<f32>,
        /// `[columns]`, population mean of the training rows.
        mean: Vec<f32>,
        /// `[columns]`, population variance.
        variance: Vec<f32>,
    },
    /// A function of each number, or nothing.
    Plain(Function),
}

/// Element-wise functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Function {
    /// `max(x, 0)`.
    Relu,
    /// `x · Φ(x)`.
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
    /// Logistic function.
    Sigmoid,
    /// Nothing: dropout when serving.
    Identity,
}

/// Hidden layers and output layer of one model, ready to serve.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// What the layers were built from.
    pub spec: Spec,
    /// Columns of an encoded row.
    pub inputs: usize,
    /// Logits, or standardised targets.
    pub outputs: usize,
    /// Hidden layers, then the linear output layer.
    pub layers: Vec<Weights>,
    widths: Vec<usize>,
}

/// Memory of one forward pass, reused from row to row.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    /// Features at the cut, `[mid]`.
    pub mid: Vec<f32>,
    /// Features before the output layer, `[penultimate]`.
    pub penultimate: Vec<f32>,
    /// Output layer, `[outputs]`.
    pub output: Vec<f32>,
    current: Vec<f32>,
    next: Vec<f32>,
}

impl Network {
    /// A network of `spec` with weights drawn from `seed`: Glorot-uniform matrices, zero biases, unit norms.
    ///
    /// Fails with the [`SpecError`] of the first layer that cannot be built.
    pub fn new(spec: &Spec, inputs: usize, outputs: usize, seed: u64) -> Result<Self, SpecError> {
        let widths = spec.widths(inputs)?;
        let mut layers = Vec::with_capacity(spec.layers.len() + 1);
        let mut width = inputs;
        for (index, (layer, &after)) in spec.layers.iter().zip(&widths).enumerate() {
            layers.push(match layer {
                Layer::Linear { .. } => draw(width, after, seed, index),
                Layer::BatchNorm => Weights::Norm {
                    gamma: vec![1.0; after],
                    beta: vec![0.0; after],
                    mean: vec![0.0; after],
                    variance: vec![1.0; after],
                },
                Layer::LayerNorm => {
                    Weights::Norm { gamma: vec![1.0; after], beta: vec![0.0; after], mean: vec![], variance: vec![] }
                }
                Layer::Relu => Weights::Plain(Function::Relu),
                Layer::Gelu => Weights::Plain(Function::Gelu),
                Layer::Tanh => Weights::Plain(Function::Tanh),
                Layer::Sigmoid => Weights::Plain(Function::Sigmoid),
                Layer::Dropout { .. } => Weights::Plain(Function::Identity),
            });
            width = after;
        }
        layers.push(draw(width, outputs, seed, spec.layers.len()));
        Ok(Self { spec: spec.clone(), inputs, outputs, layers, widths })
    }

    /// Columns of the features at the cut.
    #[must_use]
    pub fn mid(&self) -> usize {
        self.widths[self.spec.cut - 1]
    }

    /// Columns of the features before the output layer.
    #[must_use]
    pub fn penultimate(&self) -> usize {
        self.widths.last().copied().unwrap_or(self.inputs)
    }

    /// Columns before layer `index`; the output layer is `spec.layers.len()`.
    #[must_use]
    pub fn before(&self, index: usize) -> usize {
        if index == 0 { self.inputs } else { self.widths[index - 1] }
    }

    /// Columns after layer `index`.
    #[must_use]
    pub fn after(&self, index: usize) -> usize {
        self.widths.get(index).copied().unwrap_or(self.outputs)
    }

    /// Multiply-adds of one forward pass through layers `from..`.
    #[must_use]
    pub fn work_mac(&self, from: usize) -> u64 {
        (from..self.layers.len()).map(|index| self.layer_work_mac(index)).sum()
    }

    fn layer_work_mac(&self, index: usize) -> u64 {
        match &self.layers[index] {
            Weights::Linear { weight, .. } => weight.len() as u64,
            Weights::Norm { gamma, .. } => 2 * gamma.len() as u64,
            Weights::Plain(_) => self.after(index) as u64,
        }
    }

    /// Forward pass of one encoded row `[inputs]`; the results stay in `scratch`. No allocation after the first call.
    pub fn forward(&self, input: &[f32], scratch: &mut Scratch) {
        scratch.current.clear();
        scratch.current.extend_from_slice(input);
        self.run(0, scratch);
    }

    /// The rest of a forward pass from the features at the cut, `[mid]`.
    pub fn forward_from_cut(&self, mid: &[f32], scratch: &mut Scratch) {
        scratch.current.clear();
        scratch.current.extend_from_slice(mid);
        scratch.mid.clear();
        scratch.mid.extend_from_slice(mid);
        self.run(self.spec.cut, scratch);
    }

    fn run(&self, from: usize, scratch: &mut Scratch) {
        let hidden = self.layers.len() - 1;
        for (index, layer) in self.layers.iter().enumerate().skip(from) {
            if index == hidden {
                scratch.penultimate.clone_from(&scratch.current);
            }
            apply(layer, &mut scratch.current, &mut scratch.next);
            if index + 1 == self.spec.cut {
                scratch.mid.clone_from(&scratch.current);
            }
        }
        std::mem::swap(&mut scratch.output, &mut scratch.current);
    }

    /// Sets the population statistics of the batch norms in layers `from..`; `fill` appends row `index`, `[before(from)]`.
    ///
    /// Exact statistics of the final weights instead of a running average: same rows, same numbers. Rows are streamed once
    /// per norm, so that memory does not grow with them.
    pub fn estimate_norms(&mut self, from: usize, rows: usize, fill: &mut dyn FnMut(usize, &mut Vec<f32>)) {
        self.blend_norms(from, rows, 1.0, fill);
    }

    /// [`Network::estimate_norms`], of which a `share` in [0, 1] is taken and the rest is left as it was, layer by layer.
    pub(crate) fn blend_norms(
        &mut self,
        from: usize,
        rows: usize,
        share: f64,
        fill: &mut dyn FnMut(usize, &mut Vec<f32>),
    ) {
        let (mut current, mut next) = (Vec::new(), Vec::new());
        for index in from..self.layers.len() {
            let is_batch_norm = self.spec.layers.get(index) == Some(&Layer::BatchNorm);
            if !is_batch_norm || rows == 0 {
                continue;
            }
            let mut sums = vec![(0.0_f64, 0.0_f64); self.after(index)];
            for row in 0..rows {
                current.clear();
                fill(row, &mut current);
                self.layers[from..index].iter().for_each(|layer| apply(layer, &mut current, &mut next));
                // Welford's update: one pass, and no difference of large sums.
                for ((mean, square), &x) in sums.iter_mut().zip(&current) {
                    let distance = f64::from(x) - *mean;
                    *mean += distance / (row + 1) as f64;
                    *square += distance * (f64::from(x) - *mean);
                }
            }
            if let Weights::Norm { mean, variance, .. } = &mut self.layers[index] {
                #[expect(clippy::cast_possible_truncation, reason = "f64 sums kept as f32")]
                for ((mean, variance), (new, square)) in mean.iter_mut().zip(variance).zip(&sums) {
                    let blend = |old: f32, new: f64| ((1.0 - share) * f64::from(old) + share * new) as f32;
                    (*mean, *variance) = (blend(*mean, *new), blend(*variance, square / rows as f64));
                }
            }
        }
    }

    /// All numbers of layers `from..`, statistics of norms among them, in layer order.
    pub(crate) fn numbers(&self, from: usize) -> Vec<f32> {
        let mut numbers = Vec::new();
        for layer in &self.layers[from..] {
            match layer {
                Weights::Linear { weight, bias } => [weight, bias].iter().for_each(|part| numbers.extend(*part)),
                Weights::Norm { gamma, beta, mean, variance } => {
                    [gamma, beta, mean, variance].iter().for_each(|part| numbers.extend(*part));
                }
                Weights::Plain(_) => {}
            }
        }
        numbers
    }

    /// Puts back what [`Network::numbers`] of a network of this shape gave; whether there were as many as it takes.
    pub(crate) fn set_numbers(&mut self, from: usize, numbers: &[f32]) -> bool {
        let mut rest = numbers;
        let mut fill = |part: &mut Vec<f32>| {
            let (own, next) = rest.split_at(part.len().min(rest.len()));
            part.clear();
            part.extend_from_slice(own);
            rest = next;
        };
        for layer in &mut self.layers[from..] {
            match layer {
                Weights::Linear { weight, bias } => [weight, bias].into_iter().for_each(&mut fill),
                Weights::Norm { gamma, beta, mean, variance } => {
                    [gamma, beta, mean, variance].into_iter().for_each(&mut fill);
                }
                Weights::Plain(_) => {}
            }
        }
        rest.is_empty()
    }
}

fn draw(inputs: usize, outputs: usize, seed: u64, index: usize) -> Weights {
    let mut chance = Chance::new(seed, Purpose::Weights, index as u64);
    #[expect(clippy::cast_precision_loss, reason = "widths are below WIDTH_MAX")]
    let limit = (6.0 / (inputs + outputs) as f32).sqrt();
    Weights::Linear {
        weight: (0..inputs * outputs).map(|_| (2.0 * chance.unit() - 1.0) * limit).collect(),
        bias: vec![0.0; outputs],
    }
}

/// Replaces `current` by the layer's output; `next` is scratch.
fn apply(layer: &Weights, current: &mut Vec<f32>, next: &mut Vec<f32>) {
    match layer {
        Weights::Linear { weight, bias } => {
            next.clear();
            next.extend_from_slice(bias);
            affine(weight, current, next);
            std::mem::swap(current, next);
        }
        Weights::Norm { gamma, beta, mean, variance: _ } if mean.is_empty() => {
            #[expect(clippy::cast_precision_loss, reason = "widths are below WIDTH_MAX")]
            let n = current.len() as f32;
            let centre = current.iter().sum::<f32>() / n;
            let spread = current.iter().map(|x| (x - centre).powi(2)).sum::<f32>() / n;
            let factor = 1.0 / (spread + EPSILON).sqrt();
            current.iter_mut().zip(gamma).zip(beta).for_each(|((x, g), b)| *x = (*x - centre) * factor * g + b);
        }
        Weights::Norm { gamma, beta, mean, variance } => {
            for (index, x) in current.iter_mut().enumerate() {
                *x = (*x - mean[index]) / (variance[index] + EPSILON).sqrt() * gamma[index] + beta[index];
            }
        }
        Weights::Plain(function) => function.apply(current),
    }
}

/// Inputs that are added at once: sums then go through memory once for four products.
const TOGETHER: usize = 4;

/// Adds `inputᵀ · weight` to `output`; inputs that are zero (half of them after a relu) are skipped.
///
/// The order of the additions to each output is that of the inputs, so that grouping them changes no bit.
pub(crate) fn affine(weight: &[f32], input: &[f32], output: &mut [f32]) {
    let width = output.len();
    let mut rows = weight.chunks_exact(width).zip(input).filter(|(_, x)| **x != 0.0);
    loop {
        let group: [_; TOGETHER] = std::array::from_fn(|_| rows.next());
        let [Some(first), Some(second), Some(third), Some(fourth)] = group else {
            for (row, x) in group.into_iter().flatten() {
                output.iter_mut().zip(row).for_each(|(sum, w)| *sum += x * w);
            }
            return;
        };
        let others = third.0.iter().zip(fourth.0);
        let weights = first.0.iter().zip(second.0).zip(others);
        for (sum, ((a, b), (c, d))) in output.iter_mut().zip(weights) {
            *sum = *sum + first.1 * a + second.1 * b + third.1 * c + fourth.1 * d;
        }
    }
}

impl Function {
    fn apply(self, values: &mut [f32]) {
        match self {
            Self::Relu => values.iter_mut().for_each(|x| *x = x.max(0.0)),
            Self::Gelu => values.iter_mut().for_each(|x| *x = gelu(*x)),
            Self::Tanh => values.iter_mut().for_each(|x| *x = x.tanh()),
            Self::Sigmoid => values.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp())),
            Self::Identity => {}
        }
    }
}

/// `x · Φ(x)`; the error function by Abramowitz & Stegun 7.1.26 in f64, 1.5e-7 off at most.
#[expect(clippy::cast_possible_truncation, reason = "computed in f64, kept in f32")]
fn gelu(x: f32) -> f32 {
    let z = f64::from(x) / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z.abs());
    let series =
        ((((1.061_405_429 * t - 1.453_152_027) * t + 1.421_413_741) * t - 0.284_496_736) * t + 0.254_829_592) * t;
    let erf = (1.0 - series * (-z * z).exp()).copysign(z);
    (f64::from(x) * 0.5 * (1.0 + erf)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_computed_network_gives_the_hand_computed_answer() {
        let spec = Spec {
            cut: 2,
            layers: vec![Layer::Linear { outputs: 2 }, Layer::Relu, Layer::LayerNorm],
            reconstruct: false,
        };
        let mut network = Network::new(&spec, 2, 1, 0).unwrap();
        network.layers[0] = Weights::Linear { weight: vec![1.0, -1.0, 2.0, 0.5], bias: vec![0.5, 0.0] };
        network.layers[3] = Weights::Linear { weight: vec![1.0, 3.0], bias: vec![0.25] };
        let mut scratch = Scratch::default();
        network.forward(&[1.0, 1.0], &mut scratch);
        // linear: [1+2+.5, -1+.5] = [3.5, -.5]; relu: [3.5, 0]; norm: [1, -1] up to epsilon; output 1 - 3 + .25.
        assert_eq!(scratch.mid, [3.5, 0.0]);
        assert!((scratch.output[0] + 1.75).abs() < 1e-4, "{:?}", scratch.output);
        let whole = scratch.output.clone();
        network.forward_from_cut(&[3.5, 0.0], &mut scratch);
        assert_eq!(whole, scratch.output);
    }

    #[test]
    fn batch_norm_statistics_are_those_of_the_rows() {
        let spec = Spec { cut: 1, layers: vec![Layer::BatchNorm], reconstruct: false };
        let mut network = Network::new(&spec, 1, 1, 0).unwrap();
        network.estimate_norms(0, 2, &mut |row, into| into.push([1.0, 3.0][row]));
        let Weights::Norm { mean, variance, .. } = &network.layers[0] else { panic!("a norm") };
        assert_eq!((mean[0], variance[0]), (2.0, 1.0));
    }

    #[test]
    fn gelu_agrees_with_known_values() {
        for (x, y) in [(0.0, 0.0), (1.0, 0.841_345), (-1.0, -0.158_655), (3.0, 2.995_95)] {
            assert!((gelu(x) - y).abs() < 1e-5, "gelu({x}) = {}", gelu(x));
        }
    }
}
