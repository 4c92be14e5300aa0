//! A model as named tensors and back, every shape checked against what the manifest implies.
use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView};

use super::BundleError;
use crate::embed::{self, Embedding};
use crate::model::{Manifest, Model};
use crate::network::{Network, Weights};
use crate::normalize::Normalizer;
use crate::ridge::Gram;
use crate::schema::{Rows, Task};

const DAY_S: i64 = 86_400;

pub(super) type Tensor = (String, Vec<usize>, Vec<u8>);

pub(super) fn tensors(model: &Model) -> Vec<Tensor> {
    let mut list: Vec<Tensor> = Vec::new();
    let mut add = |name: &str, shape: &[usize], data: &[f32]| {
        let bytes = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        list.push((name.to_owned(), shape.to_vec(), bytes));
    };
    let (network, embedding, width) = (&model.network, &model.embedding, model.factory.width);
    let outputs = if model.detects() { model.schema().outputs() } else { network.outputs };
    add("normalizer.mean", &[network.inputs], &model.normalizer.mean);
    add("normalizer.scale", &[network.inputs], &model.normalizer.scale);
    for (index, layer) in network.layers.iter().enumerate() {
        let (before, after) = (network.before(index), network.after(index));
        let name = |part: &str| format!("layers.{index}.{part}");
        match layer {
            Weights::Linear { weight, bias } => {
                add(&name("weight"), &[after, before], &transposed(weight, before, after));
                add(&name("bias"), &[after], bias);
            }
            Weights::Norm { gamma, beta, mean, variance } => {
                add(&name("weight"), &[after], gamma);
                add(&name("bias"), &[after], beta);
                if !mean.is_empty() {
                    add(&name("running_mean"), &[after], mean);
                    add(&name("running_var"), &[after], variance);
                }
            }
            Weights::Plain(_) => {}
        }
    }
    add("embedding.scale", &[4], &embedding.scale);
    add("embedding.weight", &[network.inputs, embedding.bias.len()], &embedding.weight);
    add("embedding.bias", &[embedding.bias.len()], &embedding.bias);
    if !embedding.squeeze.is_empty() {
        let columns = embed::WIDTH_MAX - 1;
        add("embedding.squeeze", &[embedding.squeeze.len() / columns, columns], &embedding.squeeze);
    }
    if let Some(head) = &model.head {
        add("head.weight", &[width, outputs], head);
    }
    if !model.targets.is_empty() {
        add("targets.scale", &[model.targets.len(), 2], model.targets.as_flattened());
    }
    #[expect(clippy::cast_precision_loss, reason = "factory rows stay below 2^24, which f32 counts exactly")]
    add("factory.rows", &[1], &[model.factory.rows as f32]);
    add("factory.gram", &[model.factory.a.len()], &model.factory.a);
    add("factory.targets", &[width, outputs], &model.factory.r);
    let features = model.schema().features.len();
    add("anchors.inputs", &[model.anchors.len(), features], &model.anchors.x);
    add("anchors.truths", &[model.anchors.len(), model.schema().truths()], &model.anchors.y);
    add("baseline.inputs", &[model.baseline.len() / features, features], &model.baseline);
    let at = clock_parts(&model.baseline_at);
    if !at.is_empty() {
        add("baseline.at", &[at.len(), 2], at.as_flattened());
    }
    add("golden.inputs", &[model.golden.0.len() / features, features], &model.golden.0);
    add("golden.outputs", &[model.golden.1.len() / outputs, outputs], &model.golden.1);
    list
}

/// Seconds since 1970 as day and second of the day, which f32 both count exactly.
#[expect(clippy::cast_precision_loss, reason = "days and seconds of a day stay below 2^24")]
fn clock_parts(at: &[i64]) -> Vec<[f32; 2]> {
    at.iter().map(|at| [at.div_euclid(DAY_S) as f32, at.rem_euclid(DAY_S) as f32]).collect()
}

/// `[rows, columns]` to `[columns, rows]`: `PyTorch` keeps a linear layer as `[outputs, inputs]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}

pub(super) struct Loader<'a> {
    pub(super) tensors: BTreeMap<String, TensorView<'a>>,
    /// Numbers so far that are not finite where they must be.
    pub(super) not_finite: u64,
    /// The first of them.
    pub(super) first: Option<BundleError>,
}

impl Loader<'_> {
    /// Takes a tensor of exactly `shape`; `None` in the shape is any length.
    fn take(&mut self, name: &str, shape: &[Option<usize>], gaps: Gaps) -> Result<Vec<f32>, BundleError> {
        let view = self.tensors.remove(name).ok_or_else(|| BundleError::Missing(name.to_owned()))?;
        let fits = view.dtype() == Dtype::F32
            && view.shape().len() == shape.len()
            && view
                .shape()
                .iter()
                .zip(shape)
                .all(|(found, expected)| expected.is_none_or(|expected| expected == *found));
        if !fits {
            let text = |list: Vec<String>| format!("F32[{}]", list.join(", "));
            return Err(BundleError::Shape {
                name: name.to_owned(),
                found: format!("{:?}{:?}", view.dtype(), view.shape()),
                expected: text(shape.iter().map(|side| side.map_or("any".into(), |side| side.to_string())).collect()),
            });
        }
        let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let bad = |value: &f32| !(value.is_finite() || gaps == Gaps::Allowed && value.is_nan());
        if let Some(index) = values.iter().position(bad) {
            self.not_finite += values.iter().filter(|value| bad(value)).count() as u64;
            self.first.get_or_insert_with(|| BundleError::NotFinite { name: name.to_owned(), index });
        }
        Ok(values)
    }

    fn exact(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, BundleError> {
        let shape: Vec<_> = shape.iter().copied().map(Some).collect();
        self.take(name, &shape, Gaps::Refused)
    }

    pub(super) fn model(&mut self, manifest: Manifest) -> Result<Model, BundleError> {
        let schema = &manifest.schema;
        let (inputs, outputs, features) = (schema.encoded(), schema.outputs(), schema.features.len());
        // Weights first: the spec's widths are only believed once tensors of that size are seen to be there.
        let widths = manifest.spec.widths(inputs).map_err(|error| BundleError::Manifest(error.to_string()))?;
        for (index, (layer, after)) in manifest.spec.layers.iter().zip(&widths).enumerate() {
            if let crate::spec::Layer::Linear { .. } = layer {
                let before = if index == 0 { inputs } else { widths[index - 1] };
                self.expect_shape(&format!("layers.{index}.weight"), &[*after, before])?;
            }
        }
        let last = widths.last().copied().unwrap_or(inputs);
        let columns = manifest.spec.outputs(inputs, outputs);
        self.expect_shape(&format!("layers.{}.weight", widths.len()), &[columns, last])?;
        let mut network = Network::new(&manifest.spec, inputs, columns, 0)
            .map_err(|error| BundleError::Manifest(error.to_string()))?;
        for index in 0..network.layers.len() {
            let (before, after) = (network.before(index), network.after(index));
            let name = |part: &str| format!("layers.{index}.{part}");
            match &mut network.layers[index] {
                Weights::Linear { weight, bias } => {
                    *weight = transposed(&self.exact(&name("weight"), &[after, before])?, after, before);
                    *bias = self.exact(&name("bias"), &[after])?;
                }
                Weights::Norm { gamma, beta, mean, variance } => {
                    *gamma = self.exact(&name("weight"), &[after])?;
                    *beta = self.exact(&name("bias"), &[after])?;
                    if !mean.is_empty() {
                        *mean = self.exact(&name("running_mean"), &[after])?;
                        *variance = self.exact(&name("running_var"), &[after])?;
                    }
                }
                Weights::Plain(_) => {}
            }
        }
        let normalizer = Normalizer {
            mean: self.exact("normalizer.mean", &[inputs])?,
            scale: self.exact("normalizer.scale", &[inputs])?,
        };
        let embedding = self.embedding(&network)?;
        let width = embedding.width(&network);
        let head = if self.tensors.contains_key("head.weight") {
            Some(self.exact("head.weight", &[width, outputs])?)
        } else {
            None
        };
        let targets = match schema.task {
            Task::Classification { .. } => Vec::new(),
            Task::Regression { .. } => self.exact("targets.scale", &[outputs, 2])?.as_chunks::<2>().0.to_vec(),
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count that was written from a u64"
        )]
        let factory_rows = self.exact("factory.rows", &[1])?[0].max(0.0) as u64;
        let factory = Gram {
            width,
            outputs,
            rows: factory_rows,
            a: self.exact("factory.gram", &[width * (width + 1) / 2])?,
            r: self.exact("factory.targets", &[width, outputs])?,
        };
        let anchors = Rows {
            features,
            truths: schema.truths(),
            x: self.take("anchors.inputs", &[None, Some(features)], Gaps::Allowed)?,
            y: self.take("anchors.truths", &[None, Some(schema.truths())], Gaps::Refused)?,
        };
        let baseline = self.take("baseline.inputs", &[None, Some(features)], Gaps::Allowed)?;
        let baseline_at = if self.tensors.contains_key("baseline.at") {
            let at = self.take("baseline.at", &[Some(baseline.len() / features), Some(2)], Gaps::Refused)?;
            #[expect(clippy::cast_possible_truncation, reason = "whole numbers that were written from an i64")]
            let seconds = |[day, second]: &[f32; 2]| (*day as i64).saturating_mul(DAY_S).saturating_add(*second as i64);
            at.as_chunks::<2>().0.iter().map(seconds).collect()
        } else {
            Vec::new()
        };
        let golden = (
            self.take("golden.inputs", &[None, Some(features)], Gaps::Allowed)?,
            self.take("golden.outputs", &[None, Some(outputs)], Gaps::Refused)?,
        );
        if anchors.x.len() / features != anchors.len() || golden.0.len() / features != golden.1.len() / outputs {
            return Err(BundleError::Manifest("anchors or golden rows have no partner".to_owned()));
        }
        Ok(Model {
            manifest,
            normalizer,
            network,
            embedding,
            head,
            targets,
            factory,
            anchors,
            baseline,
            baseline_at,
            golden,
        })
    }

    fn embedding(&mut self, network: &Network) -> Result<Embedding, BundleError> {
        let bias = self.take("embedding.bias", &[None], Gaps::Refused)?;
        let scale = self.exact("embedding.scale", &[4])?;
        let weight = self.exact("embedding.weight", &[network.inputs, bias.len()])?;
        let squeeze = if self.tensors.contains_key("embedding.squeeze") {
            self.take("embedding.squeeze", &[None, Some(embed::WIDTH_MAX - 1)], Gaps::Refused)?
        } else {
            Vec::new()
        };
        let embedding = Embedding { scale: [scale[0], scale[1], scale[2], scale[3]], weight, bias, squeeze };
        // A width nobody would write would cost the trainer its memory.
        let parts = embed::parts(network);
        let squeezed = embedding.squeeze.is_empty()
            || embedding.bias.is_empty() && embedding.squeeze.len() == parts * (embed::WIDTH_MAX - 1);
        if !squeezed || embedding.width(network) > embed::WIDTH_MAX.max(embed::FILL) {
            return Err(BundleError::Manifest(format!(
                "an embedding of {} columns from {parts}",
                embedding.width(network)
            )));
        }
        Ok(embedding)
    }

    fn expect_shape(&self, name: &str, expected: &[usize]) -> Result<(), BundleError> {
        let view = self.tensors.get(name).ok_or_else(|| BundleError::Missing(name.to_owned()))?;
        if view.shape() == expected {
            return Ok(());
        }
        let (found, expected) = (format!("{:?}", view.shape()), format!("{expected:?}"));
        Err(BundleError::Shape { name: name.to_owned(), found, expected })
    }
}

/// Whether a missing value (`NaN`) may stand in a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gaps {
    Allowed,
    Refused,
}
