//! Settings of the heads.
use serde::{Deserialize, Serialize};

/// How the heads learn. The defaults are one setting for all data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HorizonSettings {
    /// Number of horizons, each twice as long as the one before; the last one reaches back to the first label. Default 10.
    pub horizons: usize,
    /// Ridge strengths μ, one set of heads each. Default 10 and 100.
    pub ridges: Vec<f32>,
    /// How much a label of the field counts against a factory row. Default 4.
    pub weight: f32,
    /// Step η of the expert weights; steps of a quarter and of four times as much are tried beside it. Default 0.2.
    pub rate: f64,
    /// Share α of the weight that is spread over all experts after each label, so that none is ever lost; a tenth and ten times
    /// as much are tried beside it. Default 0.001.
    pub share: f64,
    /// Labels per block: 0 means 32 for classification and 1 for regression. Default 0.
    pub block: usize,
}

impl Default for HorizonSettings {
    fn default() -> Self {
        Self { horizons: 10, ridges: vec![10.0, 100.0], weight: 4.0, rate: 0.2, share: 1e-3, block: 0 }
    }
}

impl HorizonSettings {
    /// Heads per ridge strength: one for each horizon, and with the factory's sums one for the shortest and one for the longest.
    pub(super) fn each(&self) -> usize {
        self.horizons.max(1) + 2
    }

    pub(super) fn heads(&self) -> usize {
        self.each() * self.ridges.len()
    }

    /// Highest level of the histogram.
    pub(super) fn top(&self) -> usize {
        super::STRIDE * (self.horizons.max(1) - 1)
    }
}
