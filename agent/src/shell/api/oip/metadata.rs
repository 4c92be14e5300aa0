//! What the metadata and health calls of the Open Inference Protocol answer.
#![expect(clippy::cast_possible_wrap, reason = "classes are far below 2^63")]

use serde::Serialize;
use trainer_core::schema::{Feature, FeatureKind, Schema, Task};

/// Answer of `GET /v2`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerMetadata {
    /// `hone`.
    pub name: String,
    /// Version of the agent.
    pub version: String,
    /// Extensions of the protocol; none.
    pub extensions: Vec<String>,
}

/// Answer of `GET /v2/health/live` and `GET /v2/health/ready`; the specification uses the name `live` for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether it is.
    pub live: bool,
}

/// Answer of `GET /v2/models/{m}/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelReady {
    /// Model name.
    pub name: String,
    /// Whether it answers.
    pub ready: bool,
}

/// Answer of `GET /v2/models/{m}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelMetadata {
    /// Model name.
    pub name: String,
    /// Digests that can be asked for.
    pub versions: Vec<String>,
    /// `hone`.
    pub platform: String,
    /// One tensor per feature.
    pub inputs: Vec<TensorMetadata>,
    /// What an answer holds.
    pub outputs: Vec<TensorMetadata>,
}

/// One tensor of [`ModelMetadata`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TensorMetadata {
    /// Feature or output.
    pub name: String,
    /// `FP32` or `BYTES`.
    pub datatype: &'static str,
    /// −1 = any number of rows.
    pub shape: Vec<i64>,
}

/// Answers `GET /v2`.
#[must_use]
pub fn server_metadata(version: &str) -> ServerMetadata {
    ServerMetadata { name: "hone".to_owned(), version: version.to_owned(), extensions: Vec::new() }
}

/// Answers `GET /v2/models/{m}`.
#[must_use]
pub fn model_metadata(name: &str, versions: Vec<String>, schema: &Schema) -> ModelMetadata {
    let input = |feature: &Feature| TensorMetadata {
        name: feature.name.clone(),
        datatype: match feature.kind {
            FeatureKind::Number => "FP32",
            FeatureKind::Category { .. } => "BYTES",
        },
        shape: vec![-1],
    };
    let outputs = output_names(schema).into_iter().map(|name| {
        let (datatype, shape) = match (&schema.task, name.as_str()) {
            (_, "record_id") | (Task::Classification { .. }, "label") => ("BYTES", vec![-1]),
            (Task::Classification { classes }, _) => ("FP32", vec![-1, classes.len() as i64]),
            (Task::Regression { .. }, _) => ("FP32", vec![-1]),
        };
        TensorMetadata { name, datatype, shape }
    });
    ModelMetadata {
        name: name.to_owned(),
        versions,
        platform: "hone".to_owned(),
        inputs: schema.features.iter().map(input).collect(),
        outputs: outputs.collect(),
    }
}

/// Names of the outputs in the order of an answer.
pub(super) fn output_names(schema: &Schema) -> Vec<String> {
    let mut names = match &schema.task {
        Task::Classification { .. } => vec!["probabilities".to_owned(), "label".to_owned()],
        Task::Regression { targets } => targets.clone(),
    };
    names.push("record_id".to_owned());
    names
}
