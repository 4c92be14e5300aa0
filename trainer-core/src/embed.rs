//! The feature vector every ridge head reads: `h = [inputs ‖ mid ‖ penultimate ‖ random ‖ 1]`, each part at unit scale.
//! For classification the model then scales each row to a root mean square of 1.
use crate::chance::{Chance, Purpose};
use crate::network::{Network, Scratch, affine};

/// Widest `h`: a packed Gram of 256 columns is 131 kB, and a Cholesky of it takes about a millisecond on a gateway.
pub const WIDTH_MAX: usize = 256;
/// `h` is filled with random features up to here where the inputs are few.
pub const FILL: usize = 160;

/// How `h` is put together; frozen with the backbone.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// One divisor per part: inputs, mid, penultimate, random.
    pub scale: [f32; 4],
    /// `[encoded, random]`: random features `max(x · weight + bias, 0)` of the encoded inputs; empty if there are none.
    pub weight: Vec<f32>,
    /// `[random]`.
    pub bias: Vec<f32>,
    /// `[parts, WIDTH_MAX − 1]`: a fixed random map for parts that are wider than `h` may be; empty otherwise.
    pub squeeze: Vec<f32>,
}

impl Embedding {
    /// An embedding for `network`: scales from the encoded rows `[n, inputs]`, random parts from `seed`.
    ///
    /// Source: random ReLU features as in `RanPAC` (`McDonnell` et al., `NeurIPS` 2023), filled up to [`FILL`] columns; where the
    /// parts exceed [`WIDTH_MAX`], a Gaussian random projection (Johnson and Lindenstrauss).
    #[must_use]
    pub fn new(network: &Network, rows: &[f32], seed: u64) -> Self {
        let parts = parts(network);
        let random = FILL.saturating_sub(parts + 1);
        let mut chance = Chance::new(seed, Purpose::Projection, 0);
        #[expect(clippy::cast_precision_loss, reason = "widths are small")]
        let spread = |count: usize| 1.0 / (count as f32).sqrt();
        let mut embedding = Self {
            scale: [1.0; 4],
            weight: (0..network.inputs * random).map(|_| chance.normal() * spread(network.inputs)).collect(),
            bias: (0..random).map(|_| chance.normal()).collect(),
            squeeze: Vec::new(),
        };
        if parts + 1 > WIDTH_MAX {
            let spread = spread(parts);
            embedding.squeeze = (0..parts * (WIDTH_MAX - 1)).map(|_| chance.normal() * spread).collect();
        }
        embedding.scale = embedding.measure(network, rows);
        embedding
    }

    /// Columns of `h`.
    #[must_use]
    pub fn width(&self, network: &Network) -> usize {
        if self.squeeze.is_empty() { parts(network) + self.bias.len() + 1 } else { WIDTH_MAX }
    }

    /// Multiply-adds of one embedding beside the network's forward pass.
    #[must_use]
    pub fn work_mac(&self) -> u64 {
        (self.weight.len() + self.squeeze.len()) as u64
    }

    /// Writes `h` of the encoded row `input` after `network.forward(input, scratch)`.
    pub fn write(&self, network: &Network, input: &[f32], scratch: &Scratch, h: &mut Vec<f32>) {
        h.clear();
        let [inputs, mid, penultimate, random] = self.scale.map(|scale| 1.0 / scale);
        h.extend(input.iter().map(|x| x * inputs));
        h.extend(scratch.mid.iter().map(|x| x * mid));
        if network.spec.cut < network.spec.layers.len() {
            h.extend(scratch.penultimate.iter().map(|x| x * penultimate));
        }
        if !self.squeeze.is_empty() {
            let wide = h.len();
            h.resize(wide + WIDTH_MAX - 1, 0.0);
            let (parts, squeezed) = h.split_at_mut(wide);
            affine(&self.squeeze, parts, squeezed);
            h.drain(..wide);
        }
        if !self.bias.is_empty() {
            let from = h.len();
            h.extend_from_slice(&self.bias);
            affine(&self.weight, input, &mut h[from..]);
            h[from..].iter_mut().for_each(|x| *x = x.max(0.0) * random);
        }
        h.push(1.0);
    }

    /// Standard deviation of each part over all its numbers; 1 for a part that never varies.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "f64 sums kept as f32")]
    pub(crate) fn measure(&self, network: &Network, rows: &[f32]) -> [f32; 4] {
        let mut sums = [(0.0_f64, 0.0_f64, 0_usize); 4];
        let mut scratch = Scratch::default();
        let mut random = Vec::new();
        for row in rows.chunks_exact(network.inputs) {
            network.forward(row, &mut scratch);
            random.clone_from(&self.bias);
            if !random.is_empty() {
                affine(&self.weight, row, &mut random);
                random.iter_mut().for_each(|x| *x = x.max(0.0));
            }
            for (sum, part) in sums.iter_mut().zip([row, &scratch.mid, &scratch.penultimate, &random]) {
                for &value in part {
                    sum.0 += f64::from(value);
                    sum.1 += f64::from(value).powi(2);
                }
                sum.2 += part.len();
            }
        }
        sums.map(|(sum, square, count)| {
            let count = count.max(1) as f64;
            let deviation = (square / count - (sum / count).powi(2)).max(0.0).sqrt() as f32;
            if deviation > 1e-6 { deviation } else { 1.0 }
        })
    }
}

/// Columns of inputs, mid and penultimate together; with the cut at the end mid and penultimate are one.
pub(crate) fn parts(network: &Network) -> usize {
    let penultimate = if network.spec.cut < network.spec.layers.len() { network.penultimate() } else { 0 };
    network.inputs + network.mid() + penultimate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Layer, Spec};

    fn h(inputs: usize, spec: &Spec) -> (Vec<f32>, usize) {
        let network = Network::new(spec, inputs, 2, 1).unwrap();
        let mut chance = Chance::new(2, Purpose::Sample, 0);
        let rows: Vec<f32> = (0..inputs * 50).map(|_| chance.normal()).collect();
        let embedding = Embedding::new(&network, &rows, 3);
        let (mut scratch, mut h) = (Scratch::default(), Vec::new());
        network.forward(&rows[..inputs], &mut scratch);
        embedding.write(&network, &rows[..inputs], &scratch, &mut h);
        (h, embedding.width(&network))
    }

    #[test]
    fn few_inputs_are_filled_up_and_many_are_squeezed() {
        assert_eq!(h(2, &Spec::default()).1, FILL);
        assert_eq!(h(128, &Spec::default()).1, 225);
        assert_eq!(h(400, &Spec::default()).1, WIDTH_MAX);
        let one = Spec { cut: 1, layers: vec![Layer::Linear { outputs: 200 }], reconstruct: false };
        assert_eq!(h(5, &one).1, 206, "mid and penultimate are the same numbers here");
        for inputs in [2, 128, 400] {
            let (h, width) = h(inputs, &Spec::default());
            assert_eq!(h.len(), width);
            assert!((h[width - 1] - 1.0).abs() < f32::EPSILON && h.iter().all(|x| x.is_finite()));
        }
    }
}
