//! Whose answer leaves: never one that is no number.
//!
//! ```text
//! named version ──── no number ─► refused: whoever names a model gets that one
//! challenger ─────── no number ─► champion ─ no number ─► spare (last good, previous, factory) ─ no number ─► refused
//! ```
use trainer_core::digest::Digest;

use super::shared::Origin;
use crate::shell::inference::{Adapted, Loaded, Role, Serving};

/// The answer to a request, and who gave it.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    pub(super) loaded: &'a Loaded,
    pub(super) role: Role,
    /// `[rows, outputs]`, finite.
    pub(super) answers: Vec<f32>,
    /// `[rows]`: the adaptation of the champion that answered; 0 is a bare bundle.
    pub(super) adaptations: Vec<i64>,
    /// The champion, where its own answer was no number and an older model had one: it serves no more.
    pub(super) unsound: Option<Digest>,
}

/// No model at hand answers these rows with numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "model {} answers this with something that is no number, and no older model does better: nothing is answered; \
     check the values that were sent, or `hone rollback`", .0.short()
)]
pub struct NoNumber(pub Digest);

impl NoNumber {
    /// The word for machines.
    pub const CODE: &'static str = "no_number";
}

/// Reasons for refusing a request beside those of a single sample; each has a counter.
pub(super) const MORE_CODES: [&str; 7] = [
    "no_model",
    "unknown_model",
    "unknown_version",
    "body_too_large",
    "binary_tensors",
    "content_encoding",
    NoNumber::CODE,
];

/// Answers `rows`, `[n, features]`, with the named version as its bundle says, or with whoever is dealt the request: the champion
/// by its mixture, if it has one.
///
/// # Errors
/// [`NoNumber`].
pub(super) fn choose<'a>(
    serving: &'a Serving,
    pinned: Option<&'a Loaded>,
    adapted: Option<&Adapted>,
    rows: &[f32],
    origin: &Origin<'_>,
) -> Result<Chosen<'a>, NoNumber> {
    let champion = &serving.champion;
    let sound = |loaded: &'a Loaded, role, adapted| {
        let (answers, adaptations) = loaded.answer_adapted(adapted, rows);
        let finite = answers.iter().all(|one| one.is_finite());
        finite.then_some(Chosen { loaded, role, answers, adaptations, unsound: None })
    };
    let (loaded, role) = match pinned {
        Some(pinned) if pinned.digest != champion.digest => (pinned, Role::Pinned),
        Some(_) => (champion, Role::Champion),
        None => serving.route(origin.source, origin.arrived_at),
    };
    let adapted = adapted.filter(|_| pinned.is_none());
    if let Some(chosen) = sound(loaded, role, adapted.filter(|_| role == Role::Champion)) {
        return Ok(chosen);
    }
    // A challenger's trial is ended by the loop, which computes its answer again.
    if role == Role::Challenger
        && let Some(chosen) = sound(champion, Role::Champion, adapted)
    {
        return Ok(chosen);
    }
    let spare = serving.spare.as_ref().filter(|_| pinned.is_none());
    // Where the older model knows no better, the rows may be to blame.
    let chosen = spare.and_then(|spare| sound(spare, Role::Fallback, None)).ok_or(NoNumber(loaded.digest))?;
    Ok(Chosen { unsound: Some(champion.digest), ..chosen })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
    use trainer_core::spec::Spec;
    use trainer_core::train::{self, TrainSettings};

    use super::*;
    use crate::decide::rollout::Route;
    use crate::decide::time::Timestamp;

    const ORIGIN: Origin<'static> = Origin { source: "press", segment: None, event_at: None, arrived_at: Timestamp(0) };

    /// A model of `y = x`, named so; a sick one answers no number.
    fn loaded(name: &str, sick: bool) -> Loaded {
        let feature = Feature { name: "x".to_owned(), unit: None, kind: FeatureKind::Number, range: None };
        let schema = Schema { features: vec![feature], task: Task::Regression { targets: vec!["y".to_owned()] } };
        let mut rows = Rows::empty(1, 1);
        (0..40_u8).for_each(|row| rows.push(&[f32::from(row)], &[f32::from(row)]));
        let mut model = train::base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 1).unwrap().model;
        if sick {
            model.targets[0][0] = f32::NAN;
        }
        Loaded { model: Arc::new(model), digest: Digest::of(name.as_bytes()) }
    }

    fn who(serving: &Serving, pinned: Option<&Loaded>) -> Result<(Digest, Role, Option<Digest>), NoNumber> {
        let chosen = choose(serving, pinned, None, &[3.0, 5.0], &ORIGIN)?;
        assert!(chosen.answers.len() == 2 && chosen.answers.iter().all(|value| value.is_finite()));
        Ok((chosen.loaded.digest, chosen.role, chosen.unsound))
    }

    #[test]
    fn what_is_no_number_leaves_nobody_the_spare_answers_and_where_it_cannot_the_request_is_refused() {
        let (sound, sick, spare) = (loaded("sound", false), loaded("sick", true), loaded("spare", false));
        let serving = Serving::of(sick.clone());
        assert_eq!(who(&serving, None), Err(NoNumber(sick.digest)));
        let serving = Serving { spare: Some(spare.clone()), ..serving };
        assert_eq!(who(&serving, None), Ok((spare.digest, Role::Fallback, Some(sick.digest))));
        assert_eq!(who(&serving, Some(&sick)), Err(NoNumber(sick.digest)), "whoever names a model gets no other");
        let serving = Serving { spare: Some(loaded("sick too", true)), ..serving };
        assert_eq!(who(&serving, None), Err(NoNumber(sick.digest)), "then the rows may be to blame: nobody is denied");

        let route = Route { challenger: sick.digest, share: 100, by_source: true, salt: 0, at_least: 0 };
        let canary =
            Serving { rival: Some(sick.clone()), route: Some(route), spare: Some(spare), ..Serving::of(sound.clone()) };
        assert_eq!(who(&canary, None), Ok((sound.digest, Role::Champion, None)), "a sick challenger is not heard");
    }
}
