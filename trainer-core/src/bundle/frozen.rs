//! What a device may change: two bundles compared tensor by tensor, byte for byte.
use safetensors::SafeTensors;

use super::{BundleError, outline};

/// Whether a device may change `tensor` of a network cut after `cut` layers, where the vendor names none: everything above
/// the cut, batch-norm statistics, calibration, baseline and golden outputs.
#[must_use]
pub fn is_trainable(tensor: &str, cut: usize) -> bool {
    const ABOVE: [&str; 9] = [
        "head.weight",
        // Scale and sums of the features of the heads, which come from above the cut too.
        "embedding.scale",
        "factory.rows",
        "factory.gram",
        "factory.targets",
        "targets.scale",
        "baseline.inputs",
        "baseline.at",
        "golden.outputs",
    ];
    let mut parts = tensor.split('.');
    let layer = match (parts.next(), parts.next().and_then(|number| number.parse::<usize>().ok()), parts.next()) {
        (Some("layers"), Some(layer), Some(part)) => Some((layer, part)),
        _ => None,
    };
    layer.map_or_else(
        || ABOVE.contains(&tensor),
        |(layer, part)| layer >= cut || matches!(part, "running_mean" | "running_var"),
    )
}

/// The names of a bundle's tensors, sorted.
///
/// # Errors
/// [`BundleError`] if it is none.
pub fn tensor_names(bytes: &[u8]) -> Result<Vec<String>, BundleError> {
    super::check_lengths(bytes, bytes.len() as u64)?;
    let file = SafeTensors::deserialize(bytes).map_err(|error| BundleError::Container(error.to_string()))?;
    let mut names: Vec<_> = file.names().into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// The first tensor, by name, in which `bundle` differs from `ancestor` although it may not; none if a device may have made it.
///
/// `trainable` are the names the vendor lists; none for [`is_trainable`]. Schema and layers have to be equal; they are named
/// `manifest.schema` and `manifest.spec`. Both are files of bytes that [`read`](super::read) accepts.
///
/// # Errors
/// [`BundleError`] if one of the two is no bundle.
pub fn frozen_difference(
    ancestor: &[u8],
    bundle: &[u8],
    trainable: Option<&[String]>,
) -> Result<Option<String>, BundleError> {
    let container = |error: safetensors::SafeTensorError| BundleError::Container(error.to_string());
    let (theirs, ours) = (outline(ancestor)?, outline(bundle)?);
    if theirs.schema != ours.schema {
        return Ok(Some("manifest.schema".to_owned()));
    }
    if theirs.spec != ours.spec {
        return Ok(Some("manifest.spec".to_owned()));
    }
    let may_change = |name: &str| match trainable {
        Some(names) => names.iter().any(|listed| listed == name),
        None => is_trainable(name, theirs.spec.cut),
    };
    let before = SafeTensors::deserialize(ancestor).map_err(container)?;
    let after = SafeTensors::deserialize(bundle).map_err(container)?;
    let mut names: Vec<_> = before.names().into_iter().chain(after.names()).collect();
    names.sort_unstable();
    names.dedup();
    let differs = |name: &&str| match (before.tensor(name), after.tensor(name)) {
        (Ok(before), Ok(after)) => {
            before.dtype() != after.dtype() || before.shape() != after.shape() || before.data() != after.data()
        }
        _ => true,
    };
    Ok(names.into_iter().filter(|name| !may_change(name)).find(differs).map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use crate::bundle::write;
    use crate::chance::{Chance, Purpose};
    use crate::model::{Model, Strategy};
    use crate::schema::{Feature, FeatureKind, Rows, Schema, Task};
    use crate::spec::Spec;
    use crate::train::{TrainSettings, adapt, base};

    use super::*;

    fn rows(flip: bool) -> Rows {
        let mut chance = Chance::new(7, Purpose::Sample, 0);
        let mut rows = Rows::empty(2, 1);
        for _ in 0..160 {
            let (x, y) = (chance.normal(), chance.normal());
            rows.push(&[x, y], &[f32::from(u8::from((x * y > 0.0) != flip))]);
        }
        rows
    }

    fn factory() -> Model {
        let feature = |name: &str| Feature { name: name.into(), unit: None, kind: FeatureKind::Number, range: None };
        let task = Task::Classification { classes: vec!["no".into(), "yes".into()] };
        let schema = Schema { features: vec![feature("x"), feature("y")], task };
        base(&schema, &Spec::default(), &rows(false), &TrainSettings::default(), 3).unwrap().model
    }

    fn difference(strategy: Strategy, trainable: Option<&[String]>) -> Option<String> {
        let mut factory = factory();
        let mut candidate = adapt(&factory, strategy, &rows(true), &TrainSettings::default(), 4).unwrap().model;
        frozen_difference(&write(&mut factory).0, &write(&mut candidate).0, trainable).unwrap()
    }

    #[test]
    fn a_device_may_train_head_and_tail_and_never_the_backbone() {
        assert_eq!(difference(Strategy::Head, None), None);
        assert_eq!(difference(Strategy::Tail, None), None);
        assert_eq!(difference(Strategy::Full, None).as_deref(), Some("layers.0.bias"));
    }

    #[test]
    fn the_vendors_list_replaces_the_default() {
        let head = ["head.weight".to_owned()];
        assert_eq!(difference(Strategy::Head, Some(&head)).as_deref(), Some("golden.outputs"));
        let both = ["head.weight".to_owned(), "golden.outputs".to_owned()];
        assert_eq!(difference(Strategy::Head, Some(&both)), None);
    }

    #[test]
    fn another_schema_or_network_is_never_the_devices_work() {
        let mut changed = factory();
        changed.manifest.schema.features[0].name = "z".into();
        let different =
            |changed: &mut Model| frozen_difference(&write(&mut factory()).0, &write(changed).0, None).unwrap();
        assert_eq!(different(&mut changed).as_deref(), Some("manifest.schema"));
        let mut changed = factory();
        changed.manifest.spec.cut = 1;
        assert_eq!(different(&mut changed).as_deref(), Some("manifest.spec"));
    }
}
