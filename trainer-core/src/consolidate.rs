//! Freezes the mixture of the heads into one model, to go through the gate like any other candidate.
use crate::bundle;
use crate::horizons::{Horizons, Scoring};
use crate::judge::{Losses, temperature};
use crate::model::{Model, Provenance, Strategy, softmax};

/// Fewest labelled answers that a temperature and a reference loss are taken from.
pub const SEEN_MIN: usize = 20;
/// A mixture in which the champion speaks louder than this is the champion, more or less: there is nothing to freeze.
const CHAMPION_MAX: f32 = 0.5;

/// What the mixture said before it knew the truth.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// `[outputs]`, as [`Horizons::answer`] wrote them: scores, or standardised targets.
    pub scores: Vec<f32>,
    /// `[truths]`, as the label gave it: class number, or targets in their own units.
    pub truth: Vec<f32>,
}

/// A mixture that cannot become a candidate.
#[derive(Debug, thiserror::Error)]
pub enum ConsolidateError {
    /// The heads belong to another backbone.
    #[error("the heads read {heads} features, the model gives {model}: rebuild the heads for this backbone first")]
    Width {
        /// Features the heads read.
        heads: usize,
        /// Features the model gives.
        model: usize,
    },
    /// The champion answers best already.
    #[error("the champion holds {:.0} % of the weight: there is nothing better to freeze yet", share * 100.0)]
    ChampionLeads {
        /// Weight of the champion, 0 to 1.
        share: f32,
    },
    /// Too few labelled answers.
    #[error("{found} labelled answers are too few to judge a frozen head: {missing} more are needed", missing = SEEN_MIN - found)]
    TooFew {
        /// Answers given.
        found: usize,
    },
    /// The head is not finite.
    #[error("the heads hold numbers that are not finite: start them anew from the factory head and the newest records")]
    NotFinite,
}

/// Freezes the heads' weighted sum into a model that differs from `parent` in its head, temperature, reference and provenance.
///
/// `seen` are the newest labelled answers of the mixture in time order, each given before its label was known: the older
/// four fifths give the temperature, the newest fifth the reference loss and metrics. The snapshot of a consolidation is the sums
/// and weights themselves ([`Horizons::save`]). Fails with [`ConsolidateError`] if there is nothing to freeze.
pub fn consolidate(parent: &Model, horizons: &Horizons, seen: &[Seen], seed: u64) -> Result<Model, ConsolidateError> {
    may_freeze(parent, horizons, seen.len())?;
    let outputs = parent.schema().outputs();
    let whole = |seen: &&Seen| seen.scores.len() == outputs && seen.scores.iter().all(|x| x.is_finite());
    let seen: Vec<&Seen> = seen.iter().filter(whole).collect();
    may_freeze(parent, horizons, seen.len())?;
    let head = horizons.collapse();
    if !head.iter().all(|x| x.is_finite()) {
        return Err(ConsolidateError::NotFinite);
    }
    let mut model = parent.clone();
    model.head = Some(head);
    let (older, newest) = seen.split_at(seen.len() - seen.len() / 5);
    if model.scoring() == Scoring::Classes {
        let (mut scores, mut truths, mut y) = (Vec::new(), Vec::new(), Vec::new());
        for seen in older {
            model.target(&seen.truth, &mut y);
            scores.extend_from_slice(&seen.scores);
            truths.extend_from_slice(&y);
        }
        model.manifest.temperature = temperature(&scores, &truths, outputs);
    }
    let mut losses = Losses::new(&model);
    for seen in newest {
        let mut standard = seen.scores.clone();
        if model.scoring() == Scoring::Classes {
            softmax(&mut standard, model.manifest.temperature);
        }
        losses.push(&model, &standard, &seen.truth);
    }
    losses.write_into(&mut model);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    model.manifest.provenance =
        Provenance { strategy: Strategy::Head, seed, rows: horizons.rows(), snapshot: None, version };
    model.golden.1 = bundle::golden_answers(&model);
    Ok(model)
}

/// Whether there is something to freeze, with so many labelled answers. Fails with [`ConsolidateError`] as [`consolidate`] does.
pub(crate) fn may_freeze(parent: &Model, horizons: &Horizons, seen: usize) -> Result<(), ConsolidateError> {
    let (heads, width) = (horizons.width(), parent.factory.width);
    if heads != width {
        return Err(ConsolidateError::Width { heads, model: width });
    }
    let share = horizons.weights().next().unwrap_or(1.0);
    if share > CHAMPION_MAX {
        return Err(ConsolidateError::ChampionLeads { share });
    }
    if seen < SEEN_MIN {
        return Err(ConsolidateError::TooFew { found: seen });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};
    use crate::model::Work;
    use crate::ridge::SolveMemory;
    use crate::schema::{Feature, FeatureKind, Rows, Schema, Task};
    use crate::spec::Spec;
    use crate::train::{TrainSettings, base};

    /// `on` where the first feature is positive; with `turned`, where it is negative.
    fn rows(count: usize, turned: bool, seed: u64) -> Rows {
        let mut chance = Chance::new(seed, Purpose::Sample, 1);
        let mut rows = Rows::empty(3, 1);
        for _ in 0..count {
            let x = [chance.normal(), chance.normal(), chance.normal()];
            rows.push(&x, &[f32::from(u8::from((x[0] > 0.0) != turned))]);
        }
        rows
    }

    fn factory() -> Model {
        let feature = |name: &str| Feature { name: name.into(), unit: None, kind: FeatureKind::Number, range: None };
        let task = Task::Classification { classes: ["off", "on"].map(String::from).to_vec() };
        let schema = Schema { features: ["a", "b", "c"].map(feature).to_vec(), task };
        base(&schema, &Spec::default(), &rows(300, false, 1), &TrainSettings::default(), 0).unwrap().model
    }

    #[test]
    fn what_the_mixture_learnt_is_frozen_into_a_bundle_that_reads_back() {
        let model = factory();
        let mut memory = SolveMemory::default();
        let settings = TrainSettings::default().heads;
        let mut horizons = Horizons::new(model.factory.clone(), model.scoring(), settings, &mut memory).unwrap();
        let stream = rows(600, true, 2);
        let (mut work, mut mixture, mut y, mut seen) = (Work::default(), Vec::new(), Vec::new(), Vec::new());
        for row in 0..stream.len() {
            model.embed(stream.x(row), &mut work);
            let said = horizons.answer(&work.h, &work.standard, &mut mixture);
            seen.push(Seen { scores: mixture.clone(), truth: stream.y(row).to_vec() });
            model.target(stream.y(row), &mut y);
            horizons.learn(&work.h, &y, Some(&said), &mut memory).unwrap();
        }
        let mut frozen = consolidate(&model, &horizons, &seen[200..], 3).unwrap();
        let test = rows(300, true, 4);
        let right = |model: &Model| {
            let mut work = Work::default();
            let right = (0..test.len()).filter(|row| {
                model.answer(test.x(*row), &mut work);
                model.loss(&work.answer, test.y(*row)) < 0.5
            });
            right.count()
        };
        assert!(right(&model) < 60 && right(&frozen) > 270, "{} then {}", right(&model), right(&frozen));
        assert!(frozen.manifest.reference.mean < 0.1 && frozen.manifest.reference.rows == 80);
        let (bytes, _) = bundle::write(&mut frozen);
        assert_eq!(bundle::read(&bytes).unwrap(), frozen);
    }

    #[test]
    fn a_mixture_that_follows_its_champion_and_too_few_answers_are_refused() {
        let model = factory();
        let mut memory = SolveMemory::default();
        let settings = TrainSettings::default().heads;
        let horizons = Horizons::new(model.factory.clone(), model.scoring(), settings.clone(), &mut memory).unwrap();
        let error = consolidate(&model, &horizons, &[], 0).unwrap_err();
        assert!(error.to_string().contains("20 more are needed"), "{error}");
        let mut led = horizons.clone();
        let (mut work, mut y, mut mixture) = (Work::default(), Vec::new(), Vec::new());
        let law = rows(2, false, 5);
        model.embed(law.x(0), &mut work);
        model.target(law.y(0), &mut y);
        // Heads that are always wrong beside a champion that is always right.
        led.answer(&work.h, &y, &mut mixture);
        let wrong: Vec<f32> = y.iter().map(|y| 1.0 - y).collect();
        for _ in 0..60 {
            let said = horizons.answer(&work.h, &wrong, &mut mixture);
            led.learn(&work.h, &wrong, Some(&said), &mut memory).unwrap();
        }
        assert!(matches!(consolidate(&model, &led, &[], 0), Err(ConsolidateError::ChampionLeads { .. })));
        let other = Horizons::new(crate::ridge::Gram::new(7, 2), Scoring::Classes, settings, &mut memory).unwrap();
        assert!(matches!(consolidate(&model, &other, &[], 0), Err(ConsolidateError::Width { heads: 7, .. })));
    }
}
