//! Answers from the model that serves now: one atomic pointer, no lock, no allocation but the answer.
mod adapted;

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use trainer_core::digest::Digest;
use trainer_core::model::{Model, Work};

pub use adapted::Adapted;

use crate::decide::rollout::Route;
use crate::decide::time::Timestamp;

/// Versions beside the serving ones that stay in memory once they were asked for.
const PINNED_MAX: usize = 2;

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
    /// Answers what the champion has no number for: the last good model, else the previous, else the factory's.
    pub spare: Option<Loaded>,
    /// Computed beside the champion on every sample.
    pub rival: Option<Loaded>,
    /// Whether both make the same features of a sample: then the rival costs a head only.
    pub shares_features: bool,
    /// Which samples the rival answers.
    pub route: Option<Route>,
    /// All models that are kept: each answers requests that name its digest.
    pub kept: Vec<Digest>,
}

/// Who answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The champion.
    Champion,
    /// The challenger of a canary.
    Challenger,
    /// A version that the request names.
    Pinned,
    /// An older model, because the champion had no number for it.
    Fallback,
}

impl Role {
    /// As answers name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Champion => "champion",
            Self::Challenger => "challenger",
            Self::Pinned => "pinned",
            Self::Fallback => "fallback",
        }
    }
}

/// The slot that holds who answers. Requests in flight finish on the model they began with.
#[derive(Debug, Default)]
pub struct Slot {
    serving: ArcSwapOption<Serving>,
    /// The champion's adaptive form.
    adapted: ArcSwapOption<Adapted>,
    /// Kept versions that were asked for by name.
    pinned: ArcSwap<Vec<Loaded>>,
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

    /// A kept version that was asked for before.
    #[must_use]
    pub fn pinned(&self, digest: &Digest) -> Option<Loaded> {
        self.pinned.load().iter().find(|loaded| loaded.digest == *digest).cloned()
    }

    /// Keeps a version in memory; the one that was put there first gives way.
    pub fn pin(&self, loaded: &Loaded) {
        self.pinned.rcu(|known| {
            let others = known.iter().filter(|known| known.digest != loaded.digest).take(PINNED_MAX - 1).cloned();
            std::iter::once(loaded.clone()).chain(others).collect::<Vec<_>>()
        });
    }
}

impl Serving {
    /// Only a champion.
    #[must_use]
    pub fn of(champion: Loaded) -> Self {
        let kept = vec![champion.digest];
        Self { kept, champion, previous: None, spare: None, rival: None, shares_features: false, route: None }
    }

    /// The model of that name, if it is loaded.
    #[must_use]
    pub fn version(&self, digest: &Digest) -> Option<&Loaded> {
        let others = [self.previous.as_ref(), self.spare.as_ref(), self.rival.as_ref()];
        std::iter::once(&self.champion).chain(others.into_iter().flatten()).find(|loaded| loaded.digest == *digest)
    }

    /// The digests that can be asked for, the champion's first.
    #[must_use]
    pub fn versions(&self) -> Vec<String> {
        self.kept.iter().map(ToString::to_string).collect()
    }

    /// Who answers a sample of `source` that came at `at` and names no version.
    #[must_use]
    pub fn route(&self, source: &str, at: Timestamp) -> (&Loaded, Role) {
        match (&self.rival, &self.route) {
            (Some(rival), Some(route)) if rival.digest == route.challenger && route.takes(source, at) => {
                (rival, Role::Challenger)
            }
            _ => (&self.champion, Role::Champion),
        }
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
        slot.swap(Some(Serving::of(old.clone())));
        let in_flight = slot.serving().unwrap();
        let before = in_flight.champion.answer(&[3.0, 5.0]);
        let kept = vec![new.digest, old.digest];
        let next = Serving { previous: Some(old.clone()), kept, ..Serving::of(new.clone()) };
        slot.swap(Some(next));
        assert_eq!(in_flight.champion.answer(&[3.0, 5.0]), before);
        let serving = slot.serving().unwrap();
        assert!(serving.champion.answer(&[5.0])[0] < 0.0 && before[1] > 0.0);
        assert_eq!(serving.version(&old.digest).unwrap().answer(&[3.0, 5.0]), before);
        assert_eq!(serving.versions(), [new.digest.to_string(), old.digest.to_string()]);
        assert!(serving.version(&Digest::of(b"another")).is_none());
    }

    #[test]
    fn a_canary_answers_its_share_and_without_a_rival_the_champion_answers_everything() {
        let (champion, rival) = (loaded(1.0), loaded(-1.0));
        let route = Route { challenger: rival.digest, share: 100, by_source: true, salt: 0, at_least: 0 };
        let mut serving = Serving { route: Some(route), ..Serving::of(champion.clone()) };
        assert_eq!(serving.route("pump", Timestamp(0)).1, Role::Champion);
        serving.rival = Some(rival);
        assert_eq!(serving.route("pump", Timestamp(0)).1, Role::Challenger);
        serving.rival = Some(champion);
        assert_eq!(serving.route("pump", Timestamp(0)).1, Role::Champion, "the route is another model's");
    }

    #[test]
    fn pinned_versions_are_bounded() {
        let slot = Slot::default();
        let all: Vec<_> = [1.0, 2.0, 3.0].map(loaded).to_vec();
        all.iter().for_each(|loaded| slot.pin(loaded));
        let known: Vec<_> = all.iter().map(|loaded| slot.pinned(&loaded.digest).is_some()).collect();
        assert_eq!(known, [false, true, true]);
    }
}
