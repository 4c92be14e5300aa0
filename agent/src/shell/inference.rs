//! Answers from the model that serves now: one atomic pointer, no lock, no allocation but the answer.
mod adapted;

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use trainer_core::digest::Digest;
use trainer_core::model::{Model, Work};

pub use adapted::Adapted;

/// A model that can answer.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Its weights.
    pub model: Arc<Model>,
    /// Its name.
    pub digest: Digest,
}

/// Who answers; replaced as a whole, never changed.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Answers every request that names no version.
    pub champion: Loaded,
    /// Answers requests that name its digest, and is ready to fall back to.
    pub previous: Option<Loaded>,
}

/// The slot that holds who answers. Requests in flight finish on the model they began with.
#[derive(Debug, Default)]
pub struct Slot {
    serving: ArcSwapOption<Serving>,
    /// The champion's adaptive form.
    adapted: ArcSwapOption<Adapted>,
}

impl Slot {
    /// Who answers now; none before the first model.
    #[must_use]
    pub fn serving(&self) -> Option<Arc<Serving>> {
        self.serving.load_full()
    }

    /// Lets `serving` answer from the next request on.
    pub fn swap(&self, serving: Option<Serving>) {
        self.serving.store(serving.map(Arc::new));
    }
}

impl Serving {
    /// The model of that name, if it is loaded.
    #[must_use]
    pub fn version(&self, digest: &Digest) -> Option<&Loaded> {
        let previous = self.previous.as_ref();
        [Some(&self.champion), previous].into_iter().flatten().find(|loaded| loaded.digest == *digest)
    }

    /// The digests that can be asked for, the champion's first.
    #[must_use]
    pub fn versions(&self) -> Vec<String> {
        let previous = self.previous.as_ref().map(|loaded| loaded.digest.to_string());
        std::iter::once(self.champion.digest.to_string()).chain(previous).collect()
    }
}

impl Loaded {
    /// Answers `rows`, `[n, features]`, raw units; returns `[n, outputs]`.
    #[must_use]
    pub fn answer(&self, rows: &[f32]) -> Vec<f32> {
        thread_local! {
            static WORK: RefCell<Work> = RefCell::default();
        }
        let schema = self.model.schema();
        let width = schema.features.len().max(1);
        let mut answers = Vec::with_capacity(rows.len() / width * schema.outputs());
        WORK.with_borrow_mut(|work| {
            for row in rows.chunks_exact(width) {
                self.model.answer(row, work);
                answers.extend_from_slice(&work.answer);
            }
        });
        answers
    }
}

#[cfg(test)]
mod tests {
    use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
    use trainer_core::spec::Spec;
    use trainer_core::train::{self, TrainSettings};

    use super::*;

    /// A model that learned `y = x · factor`.
    pub(super) fn loaded(factor: f32) -> Loaded {
        let feature = Feature { name: "x".to_owned(), unit: None, kind: FeatureKind::Number, range: None };
        let schema = Schema { features: vec![feature], task: Task::Regression { targets: vec!["y".to_owned()] } };
        let mut rows = Rows::empty(1, 1);
        for row in 0..60_u8 {
            let x = f32::from(row % 10);
            rows.push(&[x], &[x * factor]);
        }
        let trained = train::base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 1).unwrap();
        let mut model = trained.model;
        let (_, digest) = trainer_core::bundle::write(&mut model);
        Loaded { model: Arc::new(model), digest }
    }

    #[test]
    fn a_request_in_flight_keeps_its_model_across_a_swap_and_both_versions_can_be_asked_for() {
        let (old, new) = (loaded(1.0), loaded(-1.0));
        let slot = Slot::default();
        assert!(slot.serving().is_none());
        slot.swap(Some(Serving { champion: old.clone(), previous: None }));
        let in_flight = slot.serving().unwrap();
        let before = in_flight.champion.answer(&[3.0, 5.0]);
        slot.swap(Some(Serving { champion: new.clone(), previous: Some(old.clone()) }));
        assert_eq!(in_flight.champion.answer(&[3.0, 5.0]), before);
        let serving = slot.serving().unwrap();
        assert!(serving.champion.answer(&[5.0])[0] < 0.0 && before[1] > 0.0);
        assert_eq!(serving.version(&old.digest).unwrap().answer(&[3.0, 5.0]), before);
        assert_eq!(serving.versions(), [new.digest.to_string(), old.digest.to_string()]);
        assert!(serving.version(&Digest::of(b"another")).is_none());
    }
}
