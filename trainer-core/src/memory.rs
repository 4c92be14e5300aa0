//! The peak of a training's heap, predicted from shapes alone, so that a budget can say no before anything is allocated.
use crate::dataset::SCALE_ROWS;
use crate::model::{Model, Strategy};
use crate::network::{Network, Weights};
use crate::schema::Schema;
use crate::train::TrainSettings;

/// Bytes of a number.
const F32: u64 = 4;
/// Copies of the trained weights: weights, two moments, gradient, burn's leaves and gradients, the best network so far, and
/// what a checkpoint holds of them while it is written.
const TRAINED_COPIES: u64 = 14;
/// Copies of the whole network beside the two in the models: the one being trained, the one being judged, the best fit.
const NETWORK_COPIES: u64 = 3;
/// Tensors of a layer's size that forward and backward keep at the same time.
const ACTIVATION_COPIES: u64 = 4;
/// The parent as bytes and as a model, and the candidate, in tenths: names, manifest and views take the rest.
const MODEL_TENTHS: u64 = 33;
/// What a process holds before it trains anything, small vectors and reserve.
const FIXED_BYTES: u64 = 256 * 1024;
/// What burn and its matrix products hold once any layer is trained.
const GRADIENT_BYTES: u64 = 150_000;
/// The buffer of the size of the second-level cache that the matrix product takes once, for good, on its first product whose right
/// matrix it can read in place.
const SLAB_BYTES: u64 = 2_100_000;
/// It reads a right matrix in place if its columns fill whole vectors of the processor.
const LANES: u64 = if cfg!(target_arch = "aarch64") { 4 } else { 8 };

/// The numbers that a training's memory depends on.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each says by its name what a training does or keeps")]
pub struct Shape {
    /// What is trained.
    pub strategy: Strategy,
    /// Rows of the snapshot.
    pub rows: u64,
    /// Raw features of a row.
    pub features: u64,
    /// Numbers in a truth.
    pub truths: u64,
    /// Encoded inputs of the network.
    pub inputs: u64,
    /// Outputs of the network.
    pub outputs: u64,
    /// Weights of the whole network.
    pub weights: u64,
    /// Weights of the layers that are trained.
    pub trained: u64,
    /// Columns after each trained layer together.
    pub activations: u64,
    /// Columns at the cut.
    pub mid: u64,
    /// Columns of the head's features.
    pub embedding: u64,
    /// Numbers of the parent beside its network: sums, anchors, baseline, random features.
    pub luggage: u64,
    /// Rows per step.
    pub batch: u64,
    /// Rows per forward and backward pass; 0 takes a batch whole.
    pub micro_batch: u64,
    /// Whether features at the cut are kept as bytes.
    pub quantised: bool,
    /// Whether features at the cut are computed anew each time instead of being kept.
    pub recompute: bool,
    /// Heads of all horizons and ridges.
    pub heads: u64,
    /// Whether checkpoints are made, which hold a head under way once more, as bytes.
    pub checkpoint: bool,
    /// Whether a layer that is trained has columns that fill whole vectors.
    pub in_place: bool,
}

impl Shape {
    /// The shape of a retraining of `parent` on `rows` rows.
    #[must_use]
    pub fn adapt(parent: &Model, strategy: Strategy, rows: usize, settings: &TrainSettings, micro_batch: u64) -> Self {
        let network = &parent.network;
        let from = if strategy == Strategy::Tail { network.spec.cut } else { 0 };
        let anchors = parent.anchors.x.len() + parent.anchors.y.len();
        let random = parent.embedding.weight.len() + parent.embedding.squeeze.len();
        let sums = parent.factory.a.len() + parent.factory.r.len();
        let luggage = anchors + random + sums + parent.baseline.len() + parent.golden.0.len();
        Self {
            strategy,
            rows: rows as u64,
            luggage: luggage as u64,
            embedding: parent.embedding.width(network) as u64,
            micro_batch,
            ..Self::of(network, parent.schema(), from, settings)
        }
    }

    /// The shape of a base training on `rows` rows of `schema`.
    #[must_use]
    pub fn base(network: &Network, schema: &Schema, rows: usize, settings: &TrainSettings, micro_batch: u64) -> Self {
        let embedding = crate::embed::WIDTH_MAX.min(crate::embed::parts(network) + 1).max(crate::embed::FILL) as u64;
        let shape = Self::of(network, schema, 0, settings);
        let kept = crate::dataset::BASELINE_ROWS as u64 * shape.features + 200 * (shape.features + shape.truths);
        let luggage = kept + embedding * (embedding + 1) / 2 + embedding * (shape.outputs + shape.inputs);
        Self { rows: rows as u64, luggage, embedding, micro_batch, ..shape }
    }

    fn of(network: &Network, schema: &Schema, from: usize, settings: &TrainSettings) -> Self {
        let heads = 2 * settings.heads.horizons.max(1) * settings.heads.ridges.len().max(1);
        Self {
            strategy: Strategy::Base,
            rows: 0,
            features: schema.features.len() as u64,
            truths: schema.truths() as u64,
            inputs: network.inputs as u64,
            outputs: network.outputs as u64,
            weights: weights(network, 0),
            trained: weights(network, from),
            activations: (from..network.layers.len()).map(|index| network.after(index) as u64).sum::<u64>()
                + network.before(from) as u64,
            mid: network.mid() as u64,
            embedding: 0,
            luggage: 0,
            batch: settings.fit.batch.max(1) as u64,
            micro_batch: 0,
            quantised: settings.tail.quantised,
            recompute: false,
            heads: heads as u64,
            checkpoint: false,
            in_place: (from..network.layers.len()).any(|index| {
                matches!(network.layers[index], Weights::Linear { .. })
                    && (network.after(index) as u64).is_multiple_of(LANES)
            }),
        }
    }

    /// Highest number of bytes the training holds on the heap at any time.
    ///
    /// Source: counted copies of each array; constants checked against a counting allocator (`docs`, budgets).
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        let rows = F32 * self.rows * (self.features + self.truths);
        let model = F32 * (self.weights + self.luggage);
        let models = if self.strategy == Strategy::Base { model } else { model * MODEL_TENTHS / 10 };
        let phases = [self.fit_bytes(), self.head_bytes(), 2 * model];
        rows + models + phases.into_iter().max().unwrap_or(0) + FIXED_BYTES
    }

    fn fit_bytes(&self) -> u64 {
        if let Strategy::Head | Strategy::Norm = self.strategy {
            return 0;
        }
        let part = if self.micro_batch == 0 { self.batch } else { self.micro_batch.min(self.batch) };
        let weights = self.trained * TRAINED_COPIES + self.weights * NETWORK_COPIES;
        let step = ACTIVATION_COPIES * part * self.activations + self.batch * (self.inputs + self.outputs);
        let cache = match (self.strategy, self.quantised) {
            _ if self.recompute => 0,
            (Strategy::Tail, true) => self.rows * self.mid,
            (Strategy::Tail, false) => F32 * self.rows * self.mid,
            _ => 0,
        };
        let order = 8 * self.rows;
        let slab = if self.in_place { SLAB_BYTES } else { 0 };
        F32 * (weights + step) + cache + order + GRADIENT_BYTES + slab
    }

    fn head_bytes(&self) -> u64 {
        if self.strategy == Strategy::Norm {
            return 16 * self.inputs.max(self.activations);
        }
        let (d, outputs) = (self.embedding, self.outputs);
        let sums = d * (d + 1) / 2 + d * outputs;
        let sample = self.rows.min(SCALE_ROWS as u64) * self.inputs;
        // The sums are products of the rows with themselves, whose panels fill whole vectors.
        let held = GRADIENT_BYTES + SLAB_BYTES;
        if self.strategy == Strategy::Base {
            return F32 * (sums + sample + self.weights) + held;
        }
        // Two sums per level of a full histogram, and the factory's, the open one and one in the making.
        let levels = 2 * u64::from((self.rows / 64 + 1).next_power_of_two().ilog2()) + 3;
        let solving = 2 * d * d + 2 * d * outputs;
        let said = 2 * self.rows.div_ceil(2) * outputs;
        // A checkpoint holds the sums, the factory's too, the heads and what they said once more, as bytes.
        let kept = if self.checkpoint { sums * (levels - 1) + d * outputs * self.heads + said } else { 0 };
        F32 * (sums * levels + d * outputs * self.heads + solving + said + kept).max(sample) + held
    }
}

fn weights(network: &Network, from: usize) -> u64 {
    let count = |layer: &Weights| match layer {
        Weights::Linear { weight, bias } => weight.len() + bias.len(),
        Weights::Norm { gamma, beta, mean, variance } => gamma.len() + beta.len() + mean.len() + variance.len(),
        Weights::Plain(_) => 0,
    };
    network.layers[from..].iter().map(|layer| count(layer) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(strategy: Strategy) -> Shape {
        Shape {
            strategy,
            rows: 1_000,
            features: 10,
            truths: 1,
            inputs: 10,
            outputs: 2,
            weights: 5_000,
            trained: 4_000,
            activations: 100,
            mid: 64,
            embedding: 16,
            luggage: 20_000,
            batch: 32,
            micro_batch: 0,
            quantised: false,
            recompute: false,
            heads: 16,
            checkpoint: false,
            in_place: true,
        }
    }

    #[test]
    fn what_takes_less_memory_is_predicted_to() {
        let tail = shape(Strategy::Tail);
        let byte = Shape { quantised: true, ..tail.clone() };
        let anew = Shape { recompute: true, ..tail.clone() };
        let parts = Shape { micro_batch: 4, ..anew.clone() };
        let peaks = [&tail, &byte, &anew, &parts, &shape(Strategy::Head)].map(Shape::peak_bytes);
        assert!(peaks.is_sorted_by(|more, less| more > less), "{peaks:?}");
        assert_eq!(tail.peak_bytes() - byte.peak_bytes(), 3 * 1_000 * 64);
    }
}
