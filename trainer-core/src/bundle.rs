//! One-file bundles: a safetensors file any tool opens, with a manifest, refused by name when anything is off.
mod frozen;
mod tensors;

use std::collections::HashMap;

use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::model::{FORMAT, Manifest, Model, Work};
use crate::schema::{FeatureKind, Schema, Task};
pub use frozen::{frozen_difference, is_trainable, tensor_names};
use tensors::{Loader, tensors};

/// Largest bundle that is read; a gateway model is a hundredth of it.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest safetensors header that is read.
const HEADER_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Golden answers may differ by this much, in units of their size: other processors round differently.
pub const GOLDEN_TOLERANCE: f32 = 1e-3;
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
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).expect("shapes and data were built together"))
    });
    let bytes = serialize(views, Some(metadata)).expect("f32 tensors of known shape serialise");
    let digest = Digest::of(&bytes);
    (bytes, digest)
}

/// What is wrong with the numbers of a bundle whose container, checksum and shapes are whole.
#[derive(Debug)]
pub struct Numbers {
    /// Numbers of its tensors that are NaN or infinite where none may be.
    pub not_finite: u64,
    /// How far its golden answers are off at most, in units of their size; `f32::MAX` where they are no numbers.
    pub golden_off: f64,
    /// What [`read`] refuses it for, if it does.
    pub refusal: Option<BundleError>,
}

/// Reads a bundle; nothing is allocated that the file's own length does not justify.
///
/// Fails with the [`BundleError`] that names what is wrong. A bundle that is returned has known shapes, finite weights, an
/// intact checksum, and gives its golden answers.
pub fn read(bytes: &[u8]) -> Result<Model, BundleError> {
    let (model, numbers) = read_to_judge(bytes)?;
    numbers.refusal.map_or(Ok(model), Err)
}

/// Like [`read`], but what is wrong with its numbers is measured instead of refused: for whoever judges it. Not to be served.
///
/// Fails with the [`BundleError`] of everything else.
pub fn read_to_judge(bytes: &[u8]) -> Result<(Model, Numbers), BundleError> {
    let container = |error: safetensors::SafeTensorError| BundleError::Container(error.to_string());
    let text = manifest_of(bytes)?;
    let manifest = parse_manifest(&text)?;
    let file = SafeTensors::deserialize(bytes).map_err(container)?;
    let bare = text.replacen(&format!("\"check\":\"{}\"", manifest.check), "\"check\":\"\"", 1);
    let mut all: Vec<_> = file.tensors();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    if check(&bare, all.iter().map(|(name, view)| (name.as_str(), view.shape(), view.data()))) != manifest.check {
        return Err(BundleError::Checksum);
    }
    plausible(&manifest.schema)?;
    thresholded(&manifest)?;
    let mut loader = Loader { tensors: all.into_iter().collect(), not_finite: 0, first: None };
    let model = loader.model(manifest)?;
    let Loader { tensors, not_finite, first } = loader;
    if let Some(name) = tensors.into_keys().next() {
        return Err(BundleError::Unexpected(name));
    }
    let (golden_off, golden) = golden(&model);
    Ok((model, Numbers { not_finite, golden_off, refusal: first.or(golden) }))
}

/// What a bundle says about itself, without its tensors: nothing of it is proven yet.
///
/// Fails with the [`BundleError`] of the container or the manifest.
pub fn outline(bytes: &[u8]) -> Result<Manifest, BundleError> {
    let manifest = parse_manifest(&manifest_of(bytes)?)?;
    plausible(&manifest.schema)?;
    Ok(manifest)
}

/// Refuses a file by its length and by the length its first eight bytes claim, before anything of that length is allocated.
///
/// `length` is that of the whole file, of which `head` are the first bytes.
pub fn check_lengths(head: &[u8], length: u64) -> Result<(), BundleError> {
    if length > BYTES_MAX as u64 {
        return Err(BundleError::TooLarge { bytes: length, limit: BYTES_MAX as u64 });
    }
    if let Some(header) = head.first_chunk::<8>() {
        let claimed = u64::from_le_bytes(*header);
        if claimed > length.saturating_sub(8) {
            return Err(BundleError::Container("its header would be longer than the file".to_owned()));
        }
        if claimed > HEADER_BYTES_MAX {
            return Err(BundleError::TooLarge { bytes: claimed, limit: HEADER_BYTES_MAX });
        }
    }
    Ok(())
}

fn manifest_of(bytes: &[u8]) -> Result<String, BundleError> {
    check_lengths(bytes, bytes.len() as u64)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| BundleError::Container(error.to_string()))?;
    let text = metadata.metadata().as_ref().and_then(|map| map.get(KEY)).ok_or(BundleError::NoManifest)?;
    Ok(text.clone())
}

fn parse_manifest(text: &str) -> Result<Manifest, BundleError> {
    /// The one field whose meaning never changes.
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(default)]
        format: serde_json::Value,
    }
    let unreadable = |error: serde_json::Error| BundleError::Manifest(error.to_string());
    let Head { format } = serde_json::from_str(text).map_err(unreadable)?;
    let format = format.as_u64().unwrap_or(0);
    if format != u64::from(FORMAT) {
        return Err(BundleError::Format { found: u32::try_from(format).unwrap_or(u32::MAX) });
    }
    serde_json::from_str(text).map_err(unreadable)
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

/// How far the golden answers are off at most, and the first that is too far.
fn golden(model: &Model) -> (f64, Option<BundleError>) {
    let outputs = model.schema().outputs();
    let (mut most, mut refusal) = (0.0_f64, None);
    for (index, (&found, &expected)) in golden_answers(model).iter().zip(&model.golden.1).enumerate() {
        let off = (found - expected).abs() / expected.abs().max(1.0);
        let off = if off.is_finite() { off } else { f32::MAX };
        most = most.max(off.into());
        if off > GOLDEN_TOLERANCE && refusal.is_none() {
            let (row, output) = (index / outputs, index % outputs);
            refusal = Some(BundleError::Golden { row, output, found, expected });
        }
    }
    (most, refusal)
}

fn manifest_text(manifest: &Manifest) -> String {
    serde_json::to_string(manifest).expect("a manifest is plain data")
}

/// Sha-256 over the manifest text and every tensor's name, shape and bytes, in order of names.
fn check<'a>(text: &str, tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> String {
    let mut hash = Sha256::new();
    // Eight bytes on every architecture.
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text);
    for (name, shape, data) in tensors {
        hash.update(format!("{name} {shape:?} {}\n", data.len()));
        hash.update(data);
    }
    let bytes: [u8; 32] = hash.finalize().into();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Refuses a detector that has no threshold, or tells more apart than normal and anomalous.
fn thresholded(manifest: &Manifest) -> Result<(), BundleError> {
    let set = manifest.threshold.is_some_and(|threshold| threshold.is_finite() && threshold > 0.0);
    let two = matches!(&manifest.schema.task, Task::Classification { classes } if classes.len() == 2);
    if manifest.spec.reconstruct && !(set && two) {
        return Err(BundleError::Schema(
            "a model that gives rows back has two classes and a threshold above 0".to_owned(),
        ));
    }
    Ok(())
}

/// Refuses schemas that would make no sense or ask for absurd widths.
fn plausible(schema: &Schema) -> Result<(), BundleError> {
    let refuse = |text: String| Err(BundleError::Schema(text));
    let (features, outputs) = (schema.features.len(), schema.outputs());
    if features == 0 || schema.encoded() == 0 || schema.encoded() > 4_096 {
        return refuse(format!("{features} features, {} columns after encoding", schema.encoded()));
    }
    let least = if matches!(schema.task, Task::Classification { .. }) { 2 } else { 1 };
    if outputs < least || outputs > 1_024 {
        return refuse(format!("{outputs} classes or targets"));
    }
    for (index, feature) in schema.features.iter().enumerate() {
        if feature.name.is_empty() || schema.features[..index].iter().any(|other| other.name == feature.name) {
            return refuse(format!("feature {index} is named `{}` twice or not at all", feature.name));
        }
        if matches!(&feature.kind, FeatureKind::Category { values } if values.is_empty()) {
            return refuse(format!("category `{}` has no values", feature.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};
    use crate::model::Strategy;
    use crate::schema::{Feature, Rows};
    use crate::spec::{Layer, Spec};
    use crate::train::{TrainSettings, adapt, base};

    fn model() -> Model {
        let mut chance = Chance::new(1, Purpose::Sample, 0);
        let mut rows = Rows::empty(2, 1);
        for _ in 0..120 {
            let (x, mode) = (chance.normal(), chance.below(2));
            rows.push(&[x, mode as f32], &[f32::from(u8::from((x > 0.0) == (mode == 0)))]);
        }
        let number =
            Feature { name: "x".into(), unit: Some("mm".into()), kind: FeatureKind::Number, range: Some([-9.0, 9.0]) };
        let kind = FeatureKind::Category { values: vec!["a".into(), "b".into()] };
        let mode = Feature { name: "mode".into(), unit: None, kind, range: None };
        let task = Task::Classification { classes: vec!["no".into(), "yes".into()] };
        let schema = Schema { features: vec![number, mode], task };
        let layers = vec![
            Layer::Linear { outputs: 8 },
            Layer::BatchNorm,
            Layer::Relu,
            Layer::LayerNorm,
            Layer::Dropout { rate: 0.1 },
        ];
        let spec = Spec { cut: 3, layers, reconstruct: false };
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
        let claimed = u64::from_le_bytes(*bytes.first_chunk::<8>().unwrap());
        let header = usize::try_from(claimed).unwrap() + 8;
        for at in (0..header).chain((header..bytes.len()).step_by(97)) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_err(), "a flip at byte {at} of {} went unseen", bytes.len());
        }
    }

    #[test]
    fn truncated_foreign_and_greedy_files_are_refused_by_name() {
        let (bytes, _) = write(&mut model());
        for length in [0, 7, 8, 100, bytes.len() - 1] {
            assert!(matches!(read(&bytes[..length]), Err(BundleError::Container(_))), "{length} bytes");
        }
        let mut greedy = bytes.clone();
        greedy[..8].copy_from_slice(&(1_u64 << 40).to_le_bytes());
        assert!(check_lengths(&greedy[..8], 1 << 41).is_err(), "the length of a file is enough to refuse it");
        assert!(matches!(read(&greedy), Err(BundleError::Container(_))));
        let mut long = vec![b' '; usize::try_from(HEADER_BYTES_MAX).unwrap() + 64];
        long[..8].copy_from_slice(&(HEADER_BYTES_MAX + 1).to_le_bytes());
        assert!(matches!(read(&long), Err(BundleError::TooLarge { .. })));
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
        assert!(matches!(nan, BundleError::NotFinite { ref name, index: 3 } if name == "head.weight"), "{nan}");
        let golden = refusal(|model| model.head.as_mut().unwrap()[0] += 5.0);
        assert!(matches!(golden, BundleError::Golden { row: 0, .. }), "{golden}");
        let format = refusal(|model| model.manifest.format = 3);
        assert!(matches!(format, BundleError::Format { found: 3 }), "{format}");
        let shape = refusal(|model| model.manifest.spec.layers[0] = Layer::Linear { outputs: 8_000 });
        assert!(matches!(shape, BundleError::Shape { .. }), "{shape}");
        // Output layers of 8,192 × 1,000 would be 33 MB: their tensors are looked for before any room is made.
        let classes = Task::Classification { classes: (0..1_000).map(|class| class.to_string()).collect() };
        let wide = refusal(|model| model.manifest.schema.task = classes);
        assert!(matches!(wide, BundleError::Shape { ref name, .. } if name == "layers.5.weight"), "{wide}");
        let schema = refusal(|model| model.manifest.schema.features[0].name = "mode".into());
        assert!(matches!(schema, BundleError::Schema(_)), "{schema}");
    }
}
