//! Raw rows to network inputs: standardised numbers, one-hot categories, imputed gaps.
use serde::{Deserialize, Serialize};

use crate::schema::{FeatureKind, Rows, Schema};

/// Standardised values are clipped here, so that one broken sensor cannot saturate the network.
pub const CLIP: f32 = 10.0;
/// A column that varies less than this (relative to its mean) counts as constant and is only centred.
const CONSTANT: f64 = 1e-9;

/// Mean and scale of each encoded column, frozen at training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalizer {
    /// `[encoded]`, raw units.
    pub mean: Vec<f32>,
    /// `[encoded]`, raw units, positive.
    pub scale: Vec<f32>,
}

impl Normalizer {
    /// Fits mean and standard deviation of each encoded column on the values that are present.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "statistics are computed in f64 and kept in f32 on purpose")]
    pub fn fit(schema: &Schema, rows: &Rows) -> Self {
        let width = schema.encoded();
        let (mut count, mut mean, mut square) = (vec![0.0_f64; width], vec![0.0_f64; width], vec![0.0_f64; width]);
        let mut raw = vec![0.0; width];
        for row in 0..rows.len() {
            expand(schema, rows.x(row), &mut raw);
            for column in 0..width {
                let value = f64::from(raw[column]);
                if value.is_finite() {
                    count[column] += 1.0;
                    let distance = value - mean[column];
                    mean[column] += distance / count[column];
                    square[column] += distance * (value - mean[column]);
                }
            }
        }
        let scale = (0..width).map(|column| {
            let deviation = (square[column] / count[column].max(1.0)).sqrt();
            if deviation > CONSTANT * mean[column].abs().max(1e-30) { deviation as f32 } else { 1.0 }
        });
        let scale = scale.map(|scale| if scale.is_normal() { scale } else { 1.0 }).collect();
        Self { mean: mean.iter().map(|&mean| mean as f32).collect(), scale }
    }

    /// Writes the `[encoded]` network input of one raw row; missing values become 0, which is the training mean.
    pub fn encode(&self, schema: &Schema, row: &[f32], into: &mut [f32]) {
        expand(schema, row, into);
        for ((value, mean), scale) in into.iter_mut().zip(&self.mean).zip(&self.scale) {
            let standard = (*value - mean) / scale;
            *value = if standard.is_finite() { standard.clamp(-CLIP, CLIP) } else { 0.0 };
        }
    }
}

/// Numbers as they are, categories as 0/1 columns; missing stays `NaN` in each of its columns.
fn expand(schema: &Schema, row: &[f32], into: &mut [f32]) {
    let mut column = 0;
    for (feature, &value) in schema.features.iter().zip(row) {
        match &feature.kind {
            FeatureKind::Number => {
                into[column] = value;
                column += 1;
            }
            FeatureKind::Category { values } => {
                for index in 0..values.len() {
                    #[expect(clippy::cast_precision_loss, reason = "category indices are small")]
                    let here = (value - index as f32).abs() < 0.5;
                    into[column] = if value.is_nan() { f32::NAN } else { f32::from(u8::from(here)) };
                    column += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Feature, Task};

    fn feature(name: &str, kind: FeatureKind) -> Feature {
        Feature { name: name.into(), unit: None, kind, range: None }
    }

    fn schema() -> Schema {
        Schema {
            features: vec![
                feature("temperature", FeatureKind::Number),
                feature("mode", FeatureKind::Category { values: vec!["a".into(), "b".into()] }),
                feature("constant", FeatureKind::Number),
            ],
            task: Task::Regression { targets: vec!["y".into()] },
        }
    }

    #[test]
    fn missing_values_become_the_training_mean_and_outliers_are_clipped() {
        let mut rows = Rows::empty(3, 1);
        for (value, mode) in [(1.0, 0.0), (3.0, 1.0), (f32::NAN, 1.0), (2.0, 0.0)] {
            rows.push(&[value, mode, 7.0], &[0.0]);
        }
        let normalizer = Normalizer::fit(&schema(), &rows);
        assert!((normalizer.mean[0] - 2.0).abs() < 1e-6, "the missing value must not count");
        let encode = |row: &[f32]| {
            let mut out = vec![0.0; 4];
            normalizer.encode(&schema(), row, &mut out);
            out
        };
        assert_eq!(encode(&[f32::NAN, f32::NAN, 7.0]), vec![0.0; 4]);
        assert_eq!(encode(&[1e9, 0.0, 7.0])[..3], [CLIP, 1.0, -1.0]);
        assert_eq!(encode(&[2.0, 2.0, 8.0]), vec![0.0, -1.0, -1.0, 1.0], "an unseen category is none of the known");
    }

    #[test]
    fn a_column_without_any_value_is_harmless() {
        let mut rows = Rows::empty(3, 1);
        rows.push(&[f32::NAN, f32::NAN, f32::NAN], &[0.0]);
        let normalizer = Normalizer::fit(&schema(), &rows);
        let mut out = vec![9.0; 4];
        normalizer.encode(&schema(), &[f32::NAN, 0.0, f32::INFINITY], &mut out);
        assert!(out.iter().all(|value| value.is_finite()));
    }
}
