//! Anomaly detectors: a network that gives normal rows back, and the error from which a row counts as anomalous.
use std::ops::Range;

use crate::bundle;
use crate::dataset::newest;
use crate::evaluate::class_of;
use crate::judge::judge;
use crate::model::{Model, Strategy, Work};
use crate::schema::Rows;
use crate::session::{Session, Stopped};
use crate::train::{ROWS_MIN, TrainError, TrainSettings, Trained, provenance, retrain};

/// Share of normal rows, like those it was set on, that may be called anomalous.
const FALSE_ALARMS: f64 = 0.01;

/// The rows labelled normal, in their order: only these are given back.
pub(crate) fn normal(rows: &Rows) -> Rows {
    let mut normal = Rows::empty(rows.features, rows.truths);
    let indices = (0..rows.len()).filter(|row| class_of(rows.y(*row)[0]) == 0);
    indices.for_each(|row| normal.push(rows.x(row), rows.y(row)));
    normal
}

/// Normal rows among the newest `held` of `rows`; half of them all at most, so that some are left to learn from.
pub(crate) fn held_of(rows: &Rows, held: usize) -> usize {
    let newest = rows.len() - held;
    let is_normal = |row: &usize| class_of(rows.y(*row)[0]) == 0;
    let all = (0..rows.len()).filter(is_normal).count();
    (newest..rows.len()).filter(is_normal).count().min(all / 2)
}

/// Sets the threshold on the normal rows `range`, which the network was not fitted on: the quantile of their errors above which a row
/// like them lies with a chance of at most [`FALSE_ALARMS`] (split conformal; of fewer than 99 rows it is the largest error).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
pub(crate) fn calibrate(
    model: &mut Model,
    rows: &Rows,
    range: Range<usize>,
    session: &mut Session<'_>,
) -> Result<(), Stopped> {
    let (mut errors, mut work) = (Vec::with_capacity(range.len()), Work::default());
    for row in range {
        errors.push(model.reconstruction_error(rows.x(row), &mut work));
        session.row_done()?;
    }
    errors.sort_by(f32::total_cmp);
    let rank = ((errors.len() + 1) as f64 * (1.0 - FALSE_ALARMS)).ceil() as usize;
    let threshold = errors.get(rank.min(errors.len()).saturating_sub(1)).copied().unwrap_or(1.0);
    // Rows that are given back without any error leave room for rounding.
    model.manifest.threshold = Some(threshold.max(1e-9));
    Ok(())
}

/// Retrains layers of a detector on the rows labelled normal, and sets its threshold on the newest of them.
pub(crate) fn adapt(
    session: &mut Session<'_>,
    parent: &Model,
    strategy: Strategy,
    rows: &Rows,
    settings: &TrainSettings,
    seed: u64,
) -> Result<Trained, TrainError> {
    let fitted = normal(rows);
    if fitted.len() < ROWS_MIN {
        return Err(TrainError::TooFewRows { found: fitted.len(), needed: ROWS_MIN });
    }
    let mut model = parent.clone();
    let from = match strategy {
        Strategy::Head | Strategy::Norm => return Err(TrainError::NoHead),
        Strategy::Tail => model.network.spec.cut,
        Strategy::Full | Strategy::Base => 0,
    };
    // What counts as normal is given back, what the factory called anomalous is not.
    model.anchors = normal(&parent.anchors);
    let (work_mac, epochs) = retrain(session, &mut model, from, &fitted, settings, seed)?;
    model.anchors = parent.anchors.clone();
    calibrate(&mut model, &fitted, newest(&fitted), session)?;
    judge(&mut model, rows, newest(rows), session)?;
    model.manifest.provenance = provenance(strategy, seed, rows);
    model.golden.1 = bundle::golden_answers(&model);
    Ok(Trained { model, work_mac, epochs })
}

#[cfg(test)]
mod tests {
    use crate::bundle;
    use crate::chance::{Chance, Purpose};
    use crate::model::{Model, Strategy, Work};
    use crate::schema::{Feature, FeatureKind, Rows, Schema, Task};
    use crate::spec::Spec;
    use crate::train::{TrainError, TrainSettings, adapt, base};

    /// Six sensors of one hidden state, two of which read `shift` off; one of fifty rows is anomalous: two others have come loose.
    fn rows(count: usize, shift: f32, seed: u64) -> Rows {
        let mut chance = Chance::new(seed, Purpose::Sample, 3);
        let mut rows = Rows::empty(6, 1);
        for index in 0..count {
            let state = chance.normal();
            let mut row: Vec<f32> =
                (0..6).map(|sensor| (sensor as f32 - 2.5) * state + 0.1 * chance.normal()).collect();
            (row[1], row[3]) = (row[1] + shift, row[3] - shift);
            let anomalous = index % 50 == 49;
            if anomalous {
                (row[0], row[5]) = (3.0 * chance.normal(), 3.0 * chance.normal());
            }
            rows.push(&row, &[f32::from(u8::from(anomalous))]);
        }
        rows
    }

    fn detector() -> Model {
        let feature =
            |index: i32| Feature { name: format!("s{index}"), unit: None, kind: FeatureKind::Number, range: None };
        let task = Task::Classification { classes: vec!["ok".into(), "fault".into()] };
        let schema = Schema { features: (0..6).map(feature).collect(), task };
        base(&schema, &Spec::detector(6), &rows(800, 0.0, 1), &TrainSettings::default(), 2).unwrap().model
    }

    /// Share of normal rows called anomalous, and of anomalous ones found.
    fn rates(model: &Model, rows: &Rows) -> (f64, f64) {
        let (mut work, mut said) = (Work::default(), [[0_u32; 2]; 2]);
        for row in 0..rows.len() {
            model.answer(rows.x(row), &mut work);
            assert!((work.answer.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            said[usize::from(rows.y(row)[0] > 0.5)][usize::from(work.answer[1] > 0.5)] += 1;
        }
        let share = |[no, yes]: [u32; 2]| f64::from(yes) / f64::from(no + yes);
        (share(said[0]), share(said[1]))
    }

    #[test]
    fn what_cannot_be_given_back_is_an_anomaly_and_normal_rows_seldom_are() {
        let model = detector();
        let (alarms, found) = rates(&model, &rows(4_000, 0.0, 9));
        println!("false alarms {alarms:.4}, found {found:.4}");
        assert!(alarms < 0.03, "{alarms}");
        assert!(found > 0.85, "{found}");
        let mut model = model;
        let (bytes, _) = bundle::write(&mut model);
        assert_eq!(bundle::read(&bytes).unwrap(), model, "it reads back as it was written");
    }

    #[test]
    fn a_detector_whose_sensors_have_changed_is_brought_back_by_its_tail_and_has_no_head() {
        let model = detector();
        let stale = rates(&model, &rows(2_000, 1.0, 4));
        assert!(stale.0 > 0.1, "the change must hurt: {stale:?}");
        let settings = TrainSettings::default();
        for strategy in [Strategy::Tail, Strategy::Full] {
            let new = adapt(&model, strategy, &rows(600, 1.0, 3), &settings, 5).unwrap().model;
            let (alarms, found) = rates(&new, &rows(4_000, 1.0, 4));
            println!("{strategy:?}: false alarms {alarms:.4}, found {found:.4}, before {stale:?}");
            assert!(alarms < 0.04 && found > 0.7, "{strategy:?}: {alarms} {found}");
            assert!(new.head.is_none() && new.manifest.provenance.strategy == strategy);
        }
        let refused = adapt(&model, Strategy::Head, &rows(600, 1.0, 3), &settings, 5).unwrap_err();
        assert!(matches!(refused, TrainError::NoHead), "{refused}");
    }

    #[test]
    fn a_bundle_that_gives_rows_back_has_a_threshold() {
        for threshold in [None, Some(-1.0), Some(0.0)] {
            let mut model = detector();
            model.manifest.threshold = threshold;
            let refused = bundle::read(&bundle::write(&mut model).0).unwrap_err().to_string();
            assert!(refused.contains("threshold"), "{refused}");
        }
    }
}
