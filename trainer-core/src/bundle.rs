//! One-file bundles: a safetensors file any tool opens, with a manifest, refused by name when anything is off.
use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::embed::{self, Embedding};
use crate::model::{FORMAT, Manifest, Model, Work};
use crate::network::{Network, Weights};
use crate::normalize::Normalizer;
use crate::ridge::Gram;
use crate::schema::{FeatureKind, Rows, Schema, Task};

/// Largest bundle that is read; a gateway model is a hundredth of it.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest safetensors header that is read.
const HEADER_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Golden answers may differ by this much, in units of their size: other processors round differently.
const GOLDEN_TOLERANCE: f32 = 1e-3;
const KEY: &str = "hone.manifest";

/// A bundle that is refused; each variant says what is wrong and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// More than [`BYTES_MAX`] bytes, or a header that claims too much.
    #[error("the file has {bytes} bytes, a bundle has at most {limit}: this is not a hone bundle")]
    TooLarge {
        /// Bytes found or claimed.
        bytes: u64,
        /// Most bytes allowed.
        limit: u64,
    },
    /// Not a safetensors file, or a damaged one.
    #[error("not a whole safetensors file ({0}): copy the bundle again from its source")]
    Container(String),
    /// No manifest, so it was not made by hone.
    #[error("no `{KEY}` in the file's metadata: make a bundle with `hone train`")]
    NoManifest,
    /// A manifest that cannot be read.
    #[error("the manifest cannot be read ({0}): the bundle is damaged or from a newer hone")]
    Manifest(String),
    /// A format this build does not know.
    #[error("bundle format {found} is not known, this hone reads format {FORMAT}: update hone")]
    Format {
        /// Format of the file.
        found: u32,
    },
    /// The checksum does not match: a byte was changed.
    #[error("checksum mismatch: the bundle was changed or damaged after it was written; copy it again from its source")]
    Checksum,
    /// A schema no model can have.
    #[error("the manifest's schema is impossible: {0}")]
    Schema(String),
    /// A tensor is missing.
    #[error("tensor `{0}` is missing")]
    Missing(String),
    /// A tensor nobody asked for.
    #[error("tensor `{0}` does not belong in a bundle")]
    Unexpected(String),
    /// A tensor of another shape or type.
    #[error("tensor `{name}` is {found}, expected {expected}")]
    Shape {
        /// Tensor.
        name: String,
        /// Type and shape found.
        found: String,
        /// Type and shape that manifest and spec imply.
        expected: String,
    },
    /// A number that is NaN or infinite.
    #[error("tensor `{name}` holds a number that is not finite at {index}")]
    NotFinite {
        /// Tensor.
        name: String,
        /// Index in the flat tensor.
        index: usize,
    },
    /// The model does not answer its golden inputs as it did when it was made.
    #[error("golden row {row}: output {output} is {found}, the bundle promises {expected}")]
    Golden {
        /// Golden row.
        row: usize,
        /// Output column.
        output: usize,
        /// What this build computes.
        found: f32,
        /// What the bundle promises.
        expected: f32,
    },
}

/// The bytes of `model` and their digest; equal models give equal bytes. Seals the manifest's `check`.
///
/// # Panics
/// Only if a model was put together with inconsistent widths, which [`read`] and the trainer never do.
#[must_use]
pub fn write(model: &mut Model) -> (Vec<u8>, Digest) {
    let mut tensors = tensors(model);
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    model.manifest.check = String::new();
    model.manifest.check = check(
        &manifest_text(&model.manifest),
        tensors.iter().map(|(n, s, d)| (n.as_str(), s.as_slice(), d.as_slice())),
    );
    let metadata = HashMap::from([(KEY.to_owned(), manifest_text(&model.manifest))]);
    let views = tensors.iter().map(|(name, shape, data)| {
        (
            name.as_str(),
            TensorView::new(Dtype::F32, shape.clone(), data).expect("shapes and data were built together"),
        )
    });
    let bytes = serialize(views, Some(metadata)).expect("f32 tensors of known shape serialise");
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

/// Reads a bundle; nothing is allocated that the file's own length does not justify.
///
/// Fails with the [`BundleError`] that names what is wrong. A bundle that is returned has known shapes, finite weights, an
/// intact checksum, and gives its golden answers.
pub fn read(bytes: &[u8]) -> Result<Model, BundleError> {
    if bytes.len() > BYTES_MAX {
        return Err(BundleError::TooLarge {
            bytes: bytes.len() as u64,
            limit: BYTES_MAX as u64,
        });
    }
    if let Some(header) = bytes.first_chunk::<8>() {
        let claimed = u64::from_le_bytes(*header);
        if claimed > HEADER_BYTES_MAX {
            return Err(BundleError::TooLarge {
                bytes: claimed,
                limit: HEADER_BYTES_MAX,
            });
        }
    }
    let container = |error: safetensors::SafeTensorError| BundleError::Container(error.to_string());
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(container)?;
    let file = SafeTensors::deserialize(bytes).map_err(container)?;
    let text = metadata
        .metadata()
        .as_ref()
        .and_then(|map| map.get(KEY))
        .ok_or(BundleError::NoManifest)?;
    let head: serde_json::Value =
        serde_json::from_str(text).map_err(|error| BundleError::Manifest(error.to_string()))?;
    let format = head.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if format != u64::from(FORMAT) {
        return Err(BundleError::Format {
            found: u32::try_from(format).unwrap_or(u32::MAX),
        });
    }
    let manifest: Manifest = serde_json::from_str(text).map_err(|error| BundleError::Manifest(error.to_string()))?;
    let bare = text.replacen(&format!("\"check\":\"{}\"", manifest.check), "\"check\":\"\"", 1);
    let mut all: Vec<_> = file.tensors();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    if check(
        &bare,
        all.iter()
            .map(|(name, view)| (name.as_str(), view.shape(), view.data())),
    ) != manifest.check
    {
        return Err(BundleError::Checksum);
    }
    plausible(&manifest.schema)?;
    let mut loader = Loader {
        tensors: all.into_iter().collect(),
    };
    let model = loader.model(manifest)?;
    if let Some(name) = loader.tensors.into_keys().next() {
        return Err(BundleError::Unexpected(name));
    }
    golden(&model)?;
    Ok(model)
}

/// Answers of `model` for its golden rows, `[rows, outputs]`.
#[must_use]
pub fn golden_answers(model: &Model) -> Vec<f32> {
    let mut work = Work::default();
    let mut answers = Vec::new();
    for row in model.golden.0.chunks_exact(model.schema().features.len()) {
        model.answer(row, &mut work);
        answers.extend_from_slice(&work.answer);
    }
    answers
}

fn golden(model: &Model) -> Result<(), BundleError> {
    let outputs = model.schema().outputs();
    for (index, (&found, &expected)) in golden_answers(model).iter().zip(&model.golden.1).enumerate() {
        let near = (found - expected).abs() <= GOLDEN_TOLERANCE * expected.abs().max(1.0);
        if !near {
            return Err(BundleError::Golden {
                row: index / outputs,
                output: index % outputs,
                found,
                expected,
            });
        }
    }
    Ok(())
}

fn manifest_text(manifest: &Manifest) -> String {
    serde_json::to_string(manifest).expect("a manifest is plain data")
}

/// Sha-256 over the manifest text and every tensor's name, shape and bytes, in order of names.
fn check<'a>(text: &str, tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    hash.update(text.len().to_le_bytes());
    hash.update(text);
    for (name, shape, data) in tensors {
        hash.update(format!("{name} {shape:?} {}\n", data.len()));
        hash.update(data);
    }
    let bytes: [u8; 32] = hash.finalize().into();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses schemas that would make no sense or ask for absurd widths.
fn plausible(schema: &Schema) -> Result<(), BundleError> {
    let refuse = |text: String| Err(BundleError::Schema(text));
    let (features, outputs) = (schema.features.len(), schema.outputs());
    if features == 0 || schema.encoded() == 0 || schema.encoded() > 4_096 {
        return refuse(format!(
            "{features} features, {} columns after encoding",
            schema.encoded()
        ));
    }
    let least = if matches!(schema.task, Task::Classification { .. }) {
        2
    } else {
        1
    };
    if outputs < least || outputs > 1_024 {
        return refuse(format!("{outputs} classes or targets"));
    }
    for (index, feature) in schema.features.iter().enumerate() {
        if feature.name.is_empty() || schema.features[..index].iter().any(|other| other.name == feature.name) {
            return refuse(format!(
                "feature {index} is named `{}` twice or not at all",
                feature.name
            ));
        }
        if matches!(&feature.kind, FeatureKind::Category { values } if values.is_empty()) {
            return refuse(format!("category `{}` has no values", feature.name));
        }
    }
    Ok(())
}

type Tensor = (String, Vec<usize>, Vec<u8>);

fn tensors(model: &Model) -> Vec<Tensor> {
    let mut list: Vec<Tensor> = Vec::new();
    let mut add = |name: &str, shape: &[usize], data: &[f32]| {
        let bytes = data.iter().flat_map(|value| value.to_le_bytes()).collect();
        list.push((name.to_owned(), shape.to_vec(), bytes));
    };
    let (network, embedding, width) = (&model.network, &model.embedding, model.factory.width);
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
            Weights::Norm {
                gamma,
                beta,
                mean,
                variance,
            } => {
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
    add(
        "embedding.weight",
        &[network.inputs, embedding.bias.len()],
        &embedding.weight,
    );
    add("embedding.bias", &[embedding.bias.len()], &embedding.bias);
    if !embedding.squeeze.is_empty() {
        let columns = embed::WIDTH_MAX - 1;
        add(
            "embedding.squeeze",
            &[embedding.squeeze.len() / columns, columns],
            &embedding.squeeze,
        );
    }
    if let Some(head) = &model.head {
        add("head.weight", &[width, network.outputs], head);
    }
    if !model.targets.is_empty() {
        add("targets.scale", &[model.targets.len(), 2], model.targets.as_flattened());
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "factory rows stay below 2^24, which f32 counts exactly"
    )]
    add("factory.rows", &[1], &[model.factory.rows as f32]);
    add("factory.gram", &[model.factory.a.len()], &model.factory.a);
    add("factory.targets", &[width, network.outputs], &model.factory.r);
    let features = model.schema().features.len();
    add("anchors.inputs", &[model.anchors.len(), features], &model.anchors.x);
    add(
        "anchors.truths",
        &[model.anchors.len(), model.schema().truths()],
        &model.anchors.y,
    );
    add(
        "baseline.inputs",
        &[model.baseline.len() / features, features],
        &model.baseline,
    );
    add(
        "golden.inputs",
        &[model.golden.0.len() / features, features],
        &model.golden.0,
    );
    add(
        "golden.outputs",
        &[model.golden.1.len() / network.outputs, network.outputs],
        &model.golden.1,
    );
    list
}

/// `[rows, columns]` to `[columns, rows]`: `PyTorch` keeps a linear layer as `[outputs, inputs]`.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect()
}

struct Loader<'a> {
    tensors: BTreeMap<String, TensorView<'a>>,
}

impl Loader<'_> {
    /// Takes a tensor of exactly `shape`; `None` in the shape is any length.
    fn take(&mut self, name: &str, shape: &[Option<usize>], gaps: Gaps) -> Result<Vec<f32>, BundleError> {
        let view = self
            .tensors
            .remove(name)
            .ok_or_else(|| BundleError::Missing(name.to_owned()))?;
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
                expected: text(
                    shape
                        .iter()
                        .map(|side| side.map_or("any".into(), |side| side.to_string()))
                        .collect(),
                ),
            });
        }
        let values: Vec<f32> = view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let bad = |value: &f32| !(value.is_finite() || gaps == Gaps::Allowed && value.is_nan());
        match values.iter().position(bad) {
            Some(index) => Err(BundleError::NotFinite {
                name: name.to_owned(),
                index,
            }),
            None => Ok(values),
        }
    }

    fn exact(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, BundleError> {
        let shape: Vec<_> = shape.iter().copied().map(Some).collect();
        self.take(name, &shape, Gaps::Refused)
    }

    fn model(&mut self, manifest: Manifest) -> Result<Model, BundleError> {
        let schema = &manifest.schema;
        let (inputs, outputs, features) = (schema.encoded(), schema.outputs(), schema.features.len());
        // Weights first: the spec's widths are only believed once tensors of that size are seen to be there.
        let widths = manifest
            .spec
            .widths(inputs)
            .map_err(|error| BundleError::Manifest(error.to_string()))?;
        for (index, (layer, after)) in manifest.spec.layers.iter().zip(&widths).enumerate() {
            if let crate::spec::Layer::Linear { .. } = layer {
                let before = if index == 0 { inputs } else { widths[index - 1] };
                self.expect_shape(&format!("layers.{index}.weight"), &[*after, before])?;
            }
        }
        let mut network = Network::new(&manifest.spec, inputs, outputs, 0)
            .map_err(|error| BundleError::Manifest(error.to_string()))?;
        for index in 0..network.layers.len() {
            let (before, after) = (network.before(index), network.after(index));
            let name = |part: &str| format!("layers.{index}.{part}");
            match &mut network.layers[index] {
                Weights::Linear { weight, bias } => {
                    *weight = transposed(&self.exact(&name("weight"), &[after, before])?, after, before);
                    *bias = self.exact(&name("bias"), &[after])?;
                }
                Weights::Norm {
                    gamma,
                    beta,
                    mean,
                    variance,
                } => {
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
        let golden = (
            self.take("golden.inputs", &[None, Some(features)], Gaps::Allowed)?,
            self.take("golden.outputs", &[None, Some(outputs)], Gaps::Refused)?,
        );
        if anchors.x.len() / features != anchors.len() || golden.0.len() / features != golden.1.len() / outputs {
            return Err(BundleError::Manifest(
                "anchors or golden rows have no partner".to_owned(),
            ));
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
        Ok(Embedding {
            scale: [scale[0], scale[1], scale[2], scale[3]],
            weight,
            bias,
            squeeze,
        })
    }

    fn expect_shape(&self, name: &str, expected: &[usize]) -> Result<(), BundleError> {
        let view = self
            .tensors
            .get(name)
            .ok_or_else(|| BundleError::Missing(name.to_owned()))?;
        if view.shape() == expected {
            return Ok(());
        }
        let (found, expected) = (format!("{:?}", view.shape()), format!("{expected:?}"));
        Err(BundleError::Shape {
            name: name.to_owned(),
            found,
            expected,
        })
    }
}

/// Whether a missing value (`NaN`) may stand in a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gaps {
    Allowed,
    Refused,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};
    use crate::model::Strategy;
    use crate::schema::Feature;
    use crate::spec::{Layer, Spec};
    use crate::train::{TrainSettings, adapt, base};

    fn model() -> Model {
        let mut chance = Chance::new(1, Purpose::Sample, 0);
        let mut rows = Rows::empty(2, 1);
        for _ in 0..120 {
            let (x, mode) = (chance.normal(), chance.below(2));
            rows.push(&[x, mode as f32], &[f32::from(u8::from((x > 0.0) == (mode == 0)))]);
        }
        let number = Feature {
            name: "x".into(),
            unit: Some("mm".into()),
            kind: FeatureKind::Number,
            range: Some([-9.0, 9.0]),
        };
        let kind = FeatureKind::Category {
            values: vec!["a".into(), "b".into()],
        };
        let mode = Feature {
            name: "mode".into(),
            unit: None,
            kind,
            range: None,
        };
        let task = Task::Classification {
            classes: vec!["no".into(), "yes".into()],
        };
        let schema = Schema {
            features: vec![number, mode],
            task,
        };
        let layers = vec![
            Layer::Linear { outputs: 8 },
            Layer::BatchNorm,
            Layer::Relu,
            Layer::LayerNorm,
            Layer::Dropout { rate: 0.1 },
        ];
        let spec = Spec { cut: 3, layers };
        let settings = TrainSettings::default();
        let first = base(&schema, &spec, &rows, &settings, 3).unwrap().model;
        adapt(&first, Strategy::Head, &rows, &settings, 4).unwrap().model
    }

    #[test]
    fn a_bundle_comes_back_equal_and_its_bytes_are_reproducible() {
        let mut first = model();
        let (bytes, digest) = write(&mut first);
        assert_eq!(digest, Digest::of(&bytes));
        assert_eq!(read(&bytes).unwrap(), first);
        assert_eq!(write(&mut model()).0, bytes, "same rows, same seed, same bytes");
        assert_eq!(write(&mut read(&bytes).unwrap()).0, bytes);
    }

    #[test]
    fn any_flipped_byte_is_refused() {
        let (bytes, _) = write(&mut model());
        // Every byte of the header and a spread of the tensors.
        let header = u64::from_le_bytes(*bytes.first_chunk::<8>().unwrap()) as usize + 8;
        for at in (0..header).chain((header..bytes.len()).step_by(97)) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(
                read(&damaged).is_err(),
                "a flip at byte {at} of {} went unseen",
                bytes.len()
            );
        }
    }

    #[test]
    fn truncated_foreign_and_greedy_files_are_refused_by_name() {
        let (bytes, _) = write(&mut model());
        for length in [0, 7, 8, 100, bytes.len() - 1] {
            assert!(
                matches!(read(&bytes[..length]), Err(BundleError::Container(_))),
                "{length} bytes"
            );
        }
        let mut greedy = bytes.clone();
        greedy[..8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(matches!(read(&greedy), Err(BundleError::TooLarge { .. })));
        let foreign = serialize::<String, TensorView<'_>, _>(Vec::new(), None).unwrap();
        assert!(matches!(read(&foreign), Err(BundleError::NoManifest)));
    }

    /// Reseals a changed model, so that only the check after the checksum can refuse it.
    fn refusal(change: impl FnOnce(&mut Model)) -> BundleError {
        let mut model = model();
        change(&mut model);
        read(&write(&mut model).0).unwrap_err()
    }

    #[test]
    fn resealed_nonsense_is_refused_by_name() {
        let nan = refusal(|model| model.head.as_mut().unwrap()[3] = f32::NAN);
        assert!(
            matches!(nan, BundleError::NotFinite { ref name, index: 3 } if name == "head.weight"),
            "{nan}"
        );
        let golden = refusal(|model| model.head.as_mut().unwrap()[0] += 5.0);
        assert!(matches!(golden, BundleError::Golden { row: 0, .. }), "{golden}");
        let format = refusal(|model| model.manifest.format = 2);
        assert!(matches!(format, BundleError::Format { found: 2 }), "{format}");
        let shape = refusal(|model| model.manifest.spec.layers[0] = Layer::Linear { outputs: 8_000 });
        assert!(matches!(shape, BundleError::Shape { .. }), "{shape}");
        let schema = refusal(|model| model.manifest.schema.features[0].name = "mode".into());
        assert!(matches!(schema, BundleError::Schema(_)), "{schema}");
    }
}
