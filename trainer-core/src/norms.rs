//! Adaptation without labels: the statistics that inputs are standardised by move towards those of the newest rows.
//!
//! For covariate drift only: it takes a sensor's new gain or offset out, and cannot see that a law has changed.
use crate::bundle;
use crate::model::{Model, Provenance, Strategy};
use crate::normalize::Normalizer;
use crate::schema::{FeatureKind, Rows};
use crate::session::{Session, Stopped};
use crate::spec::Layer;
use crate::train::Trained;

/// Rows that the statistics of before are worth: `a = n / (n + 16)` of the new ones are taken.
const PRIOR_ROWS: f64 = 16.0;

/// The parent with statistics moved towards those of `rows`, whose labels are not looked at. Reference and metrics stay the parent's.
///
/// Batch norms are moved layer by layer; a network without any has its normaliser's numbers moved instead.
/// Source: Schneider et al., Improving robustness against common corruptions by covariate shift adaptation, `NeurIPS` 2020.
pub(crate) fn adapt(session: &mut Session<'_>, parent: &Model, rows: &Rows, seed: u64) -> Result<Trained, Stopped> {
    let mut model = parent.clone();
    let share = rows.len() as f64 / (rows.len() as f64 + PRIOR_ROWS);
    let norms = model.network.spec.layers.iter().filter(|layer| **layer == Layer::BatchNorm).count() as u64;
    if norms == 0 {
        blend(&mut model.normalizer, parent, rows, share);
    } else {
        let (mut row, mut stopped) = (vec![0.0; model.network.inputs], Ok(()));
        model.network.blend_norms(0, rows.len(), share, &mut |index, into| {
            parent.normalizer.encode(parent.schema(), rows.x(index), &mut row);
            into.extend_from_slice(&row);
            if stopped.is_ok() {
                stopped = session.row_done();
            }
        });
        stopped?;
    }
    let version = env!("CARGO_PKG_VERSION").to_owned();
    model.manifest.provenance =
        Provenance { strategy: Strategy::Norm, seed, rows: rows.len() as u64, snapshot: None, version };
    model.golden.1 = bundle::golden_answers(&model);
    let each = model.network.work_mac(0) * norms + model.network.inputs as u64;
    Ok(Trained { model, work_mac: rows.len() as u64 * each, epochs: 0 })
}

/// Moves mean and scale of the numbers; categories keep theirs, since how often a mode is on is not a sensor's gain.
fn blend(normalizer: &mut Normalizer, parent: &Model, rows: &Rows, share: f64) {
    let newest = Normalizer::fit(parent.schema(), rows);
    let mut column = 0;
    for feature in &parent.schema().features {
        let FeatureKind::Number = feature.kind else {
            column += feature.kind.encoded();
            continue;
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "statistics are computed in f64 and kept in f32 on purpose"
        )]
        let mix = |old: f32, new: f32, power: i32| {
            let (old, new) = (f64::from(old).powi(power), f64::from(new).powi(power));
            ((1.0 - share) * old + share * new).powf(1.0 / f64::from(power)) as f32
        };
        let (mean, scale) = (&mut normalizer.mean[column], &mut normalizer.scale[column]);
        let present = (0..rows.len()).any(|row| rows.x(row)[feature_index(parent, &feature.name)].is_finite());
        if present {
            *mean = mix(*mean, newest.mean[column], 1);
            // A column that did not vary says nothing of its scale.
            let varied = newest.scale[column].to_bits() != 1.0_f32.to_bits();
            *scale = if varied { mix(*scale, newest.scale[column], 2) } else { *scale };
        }
        column += 1;
    }
}

fn feature_index(model: &Model, name: &str) -> usize {
    model.schema().features.iter().position(|feature| feature.name == name).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};
    use crate::model::Work;
    use crate::schema::{Feature, Schema, Task};
    use crate::spec::Spec;
    use crate::train::{TrainSettings, adapt, base};

    /// Two classes; the sensors read `gain` times as much, and `offset` more. Unlabelled rows have no truth at all.
    fn rows(count: usize, gain: f32, offset: f32, labelled: bool, seed: u64) -> Rows {
        let mut chance = Chance::new(seed, Purpose::Sample, 1);
        let mut rows = Rows::empty(3, 1);
        for _ in 0..count {
            let class = chance.below(2) as f32;
            let x = [class * 2.0 - 1.0 + chance.normal() * 0.4, chance.normal(), class - 0.5 + chance.normal() * 0.4];
            rows.push(&x.map(|x| x * gain + offset), &[if labelled { class } else { f32::NAN }]);
        }
        rows
    }

    fn factory(norm: bool) -> Model {
        let feature = |name: &str| Feature { name: name.into(), unit: None, kind: FeatureKind::Number, range: None };
        let task = Task::Classification { classes: ["off", "on"].map(String::from).to_vec() };
        let schema = Schema { features: ["a", "b", "c"].map(feature).to_vec(), task };
        let mut layers = vec![Layer::Linear { outputs: 24 }, Layer::Relu, Layer::Linear { outputs: 16 }, Layer::Relu];
        if norm {
            layers.insert(1, Layer::BatchNorm);
        }
        let spec = Spec { cut: 2 + usize::from(norm), layers, reconstruct: false };
        base(&schema, &spec, &rows(500, 1.0, 0.0, true, 1), &TrainSettings::default(), 0).unwrap().model
    }

    fn accuracy(model: &Model, rows: &Rows) -> f64 {
        let mut work = Work::default();
        let right = (0..rows.len()).filter(|row| {
            model.answer(rows.x(*row), &mut work);
            model.loss(&work.answer, rows.y(*row)) < 0.5
        });
        right.count() as f64 / rows.len() as f64
    }

    #[test]
    fn a_sensor_that_changed_its_gain_and_offset_is_taken_up_without_a_single_label() {
        for norm in [true, false] {
            let model = factory(norm);
            let drifted = rows(400, 0.5, 3.0, true, 3);
            let before = accuracy(&model, &drifted);
            let unlabelled = rows(200, 0.5, 3.0, false, 2);
            let adapted = adapt(&model, Strategy::Norm, &unlabelled, &TrainSettings::default(), 5).unwrap();
            let after = accuracy(&adapted.model, &drifted);
            assert!(before < 0.75 && after > 0.9, "norm {norm}: {before} then {after}");
            assert_eq!(adapted.model.manifest.provenance.strategy, Strategy::Norm);
            assert_eq!(adapted.model.manifest.reference, model.manifest.reference, "nothing was measured");
            assert_eq!(norm, adapted.model.normalizer == model.normalizer, "the norms move, or the inputs' numbers");
            let same = adapted.model.network.layers.last() == model.network.layers.last();
            assert!(same && adapted.model.factory == model.factory, "nothing is trained");
            assert!(adapted.work_mac > 0);
        }
    }

    #[test]
    fn rows_of_the_world_it_knows_change_hardly_anything() {
        for norm in [true, false] {
            let model = factory(norm);
            let known = rows(300, 1.0, 0.0, true, 4);
            let adapted = adapt(&model, Strategy::Norm, &known, &TrainSettings::default(), 5).unwrap().model;
            let fresh = rows(500, 1.0, 0.0, true, 6);
            assert!(accuracy(&adapted, &fresh) > accuracy(&model, &fresh) - 0.02);
        }
    }
}
