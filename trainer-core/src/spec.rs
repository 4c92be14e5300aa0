//! The network as data: a list of hidden layers and the cut between frozen backbone and trainable tail.
use serde::{Deserialize, Serialize};

/// Widest layer a spec may ask for; a gateway model is far smaller, and a typing error should not ask for gigabytes.
pub const WIDTH_MAX: usize = 8_192;
/// Most hidden layers a spec may list.
pub const LAYERS_MAX: usize = 64;

/// One hidden layer. The list stays open: a bundle that names a layer this build does not know is refused by name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Layer {
    /// Affine map to `outputs` columns.
    Linear {
        /// Columns after this layer.
        outputs: usize,
    },
    /// `max(x, 0)`.
    Relu,
    /// `x · Φ(x)`, the exact form with the error function.
    Gelu,
    /// Hyperbolic tangent.
    Tanh,
    /// Logistic function.
    Sigmoid,
    /// Batch normalisation: batch statistics while training, population statistics of the training rows when serving.
    BatchNorm,
    /// Layer normalisation over the columns of a row.
    LayerNorm,
    /// Zeroes a column with this probability while training and rescales the rest; does nothing when serving.
    Dropout {
        /// Probability in [0, 1).
        rate: f32,
    },
}

/// Hidden layers and cut. The output layer is added by itself: its width follows from classes or targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Layers `0..cut` are the backbone, frozen on the device; what they give is the mid-layer feature.
    pub cut: usize,
    /// Hidden layers in order.
    pub layers: Vec<Layer>,
    /// Whether the output layer gives the encoded row back: what it cannot give back is an anomaly. Then the two classes are normal
    /// and anomalous, in this order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reconstruct: bool,
}

/// A spec that cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// No layers, or more than [`LAYERS_MAX`].
    #[error("a network has 1 to {LAYERS_MAX} hidden layers, this spec lists {0}")]
    Count(usize),
    /// A width of zero or above [`WIDTH_MAX`].
    #[error("layer {layer}: a linear layer has 1 to {WIDTH_MAX} outputs, not {outputs}")]
    Width {
        /// Index in the list.
        layer: usize,
        /// What was asked for.
        outputs: usize,
    },
    /// A dropout rate outside [0, 1).
    #[error("layer {layer}: a dropout rate lies in [0, 1), not {rate}")]
    Rate {
        /// Index in the list.
        layer: usize,
        /// What was asked for.
        rate: f32,
    },
    /// A cut outside the list.
    #[error("cut = {cut} must lie between 1 and {layers}, the number of hidden layers")]
    Cut {
        /// What was asked for.
        cut: usize,
        /// Layers listed.
        layers: usize,
    },
}

impl Default for Spec {
    /// 64-relu-32-relu, cut after the first relu.
    fn default() -> Self {
        Self {
            cut: 2,
            layers: vec![Layer::Linear { outputs: 64 }, Layer::Relu, Layer::Linear { outputs: 32 }, Layer::Relu],
            reconstruct: false,
        }
    }
}

impl Spec {
    /// 32-relu-k-32-relu and back to the row, cut after the first relu: `k` is a third of its `inputs` columns, so that no row passes
    /// through untouched.
    #[must_use]
    pub fn detector(inputs: usize) -> Self {
        let wide = || Layer::Linear { outputs: 32 };
        let narrow = Layer::Linear { outputs: (inputs / 3).clamp(1, 16) };
        Self { cut: 2, layers: vec![wide(), Layer::Relu, narrow, wide(), Layer::Relu], reconstruct: true }
    }

    /// Columns of the output layer where rows have `inputs` encoded columns and answers `outputs` numbers.
    #[must_use]
    pub fn outputs(&self, inputs: usize, outputs: usize) -> usize {
        if self.reconstruct { inputs } else { outputs }
    }

    /// Width after each hidden layer for rows of `inputs` columns; `[layers]`.
    ///
    /// Fails with the [`SpecError`] that names the first layer which cannot be built.
    pub fn widths(&self, inputs: usize) -> Result<Vec<usize>, SpecError> {
        if self.layers.is_empty() || self.layers.len() > LAYERS_MAX {
            return Err(SpecError::Count(self.layers.len()));
        }
        if !(1..=self.layers.len()).contains(&self.cut) {
            return Err(SpecError::Cut { cut: self.cut, layers: self.layers.len() });
        }
        let mut width = inputs;
        let mut widths = Vec::with_capacity(self.layers.len());
        for (layer, kind) in self.layers.iter().enumerate() {
            match *kind {
                Layer::Linear { outputs } if outputs == 0 || outputs > WIDTH_MAX => {
                    return Err(SpecError::Width { layer, outputs });
                }
                Layer::Linear { outputs } => width = outputs,
                Layer::Dropout { rate } if !(0.0..1.0).contains(&rate) => return Err(SpecError::Rate { layer, rate }),
                Layer::Relu
                | Layer::Gelu
                | Layer::Tanh
                | Layer::Sigmoid
                | Layer::BatchNorm
                | Layer::LayerNorm
                | Layer::Dropout { .. } => {}
            }
            widths.push(width);
        }
        Ok(widths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_network_is_64_relu_32_relu_cut_after_the_first_relu() {
        assert_eq!(Spec::default().widths(7), Ok(vec![64, 64, 32, 32]));
        assert_eq!(Spec::default().cut, 2);
    }

    #[test]
    fn a_spec_that_cannot_be_built_names_the_layer() {
        let spec = |cut, layers: Vec<Layer>| Spec { cut, layers, reconstruct: false }.widths(3).unwrap_err();
        assert_eq!(spec(1, vec![]), SpecError::Count(0));
        assert_eq!(spec(3, vec![Layer::Relu]), SpecError::Cut { cut: 3, layers: 1 });
        assert_eq!(spec(1, vec![Layer::Relu, Layer::Linear { outputs: 0 }]), SpecError::Width { layer: 1, outputs: 0 });
        assert!(matches!(spec(1, vec![Layer::Dropout { rate: 1.0 }]), SpecError::Rate { layer: 0, .. }));
        assert!(matches!(spec(1, vec![Layer::Dropout { rate: f32::NAN }]), SpecError::Rate { layer: 0, .. }));
    }
}
