//! The answer to an inference request: outputs as tensors, with who answered and the ids of the records.
#![expect(clippy::cast_possible_wrap, reason = "rows and classes are far below 2^63")]

use serde::Serialize;
use trainer_core::schema::{Schema, Task};

use super::InferRequest;

/// Who answered and whether it is on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Served {
    /// Id of the first row's record; all ids are in the output `record_id`. Empty if readings made no row.
    pub record_id: String,
    /// `champion` or `canary`.
    pub served_by: String,
    /// Digest of the bundle that answered.
    pub digest: String,
    /// Whether the records were accepted for storing.
    pub stored: bool,
    /// Refits of the champion's adaptive form, if that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptation: Option<u64>,
    /// Readings that are kept for a row of their source's window that is not complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<usize>,
    /// Readings that were older than the newest of their source, and left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late: Option<usize>,
}

/// Answer of `POST /v2/models/{m}/infer`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InferResponse {
    /// Model name.
    pub model_name: String,
    /// Digest that answered.
    pub model_version: String,
    /// As given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Who answered.
    pub parameters: Served,
    /// The answer.
    pub outputs: Vec<OutputTensor>,
}

/// One output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OutputTensor {
    /// `probabilities`, `label`, a target, or `record_id`.
    pub name: String,
    /// Rows, then classes for probabilities.
    pub shape: Vec<i64>,
    /// `FP32` or `BYTES`.
    pub datatype: &'static str,
    /// Row-major.
    pub data: OutputData,
}

/// Values of an output.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum OutputData {
    /// `FP32`.
    Numbers(Vec<f32>),
    /// `BYTES`.
    Texts(Vec<String>),
}

impl InferResponse {
    /// Builds the answer to `request` from `answers`, `[rows, outputs]`: probabilities or targets, finite.
    ///
    /// `record_ids` has one id per row; `served.record_id` is overwritten with the first.
    #[must_use]
    pub fn new(
        model: &str,
        schema: &Schema,
        request: &InferRequest,
        answers: &[f32],
        record_ids: Vec<String>,
        served: Served,
    ) -> Self {
        let rows = record_ids.len();
        debug_assert!(rows == request.count && answers.len() == rows * schema.outputs(), "answers of another shape");
        let parameters = Served { record_id: record_ids.first().cloned().unwrap_or_default(), ..served };
        let shape = vec![rows as i64];
        let width = schema.outputs().max(1);
        let mut outputs = Vec::new();
        match &schema.task {
            Task::Classification { classes } => {
                let label = |row: &[f32]| classes.get(largest(row)).cloned().unwrap_or_default();
                outputs.push(OutputTensor {
                    name: "probabilities".to_owned(),
                    shape: vec![rows as i64, classes.len() as i64],
                    datatype: "FP32",
                    data: OutputData::Numbers(answers.to_vec()),
                });
                outputs.push(OutputTensor {
                    name: "label".to_owned(),
                    shape: shape.clone(),
                    datatype: "BYTES",
                    data: OutputData::Texts(answers.chunks_exact(width).map(label).collect()),
                });
            }
            Task::Regression { targets } => {
                outputs.extend(targets.iter().enumerate().map(|(index, target)| OutputTensor {
                    name: target.clone(),
                    shape: shape.clone(),
                    datatype: "FP32",
                    data: OutputData::Numbers(answers.iter().skip(index).step_by(width).copied().collect()),
                }));
            }
        }
        outputs.push(OutputTensor {
            name: "record_id".to_owned(),
            shape,
            datatype: "BYTES",
            data: OutputData::Texts(record_ids),
        });
        if let Some(wanted) = &request.outputs {
            outputs.retain(|output| wanted.contains(&output.name));
        }
        Self {
            model_name: model.to_owned(),
            model_version: parameters.digest.clone(),
            id: request.id.clone(),
            parameters,
            outputs,
        }
    }
}

/// Index of the largest value, the first of equals.
fn largest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, index| if row[index] > row[best] { index } else { best })
}
