//! The trainer: rows, settings and a seed in, a model out; a function of these alone.
mod head;

use serde::{Deserialize, Serialize};

use crate::autodiff::Loss;
use crate::bundle;
use crate::dataset::{
    AtCut, BASELINE_ROWS, Encoded, GOLDEN_ROWS, Keeping, anchors, encoded_sample, gram, holdout, newest, stride,
    target_scales,
};
use crate::detect;
use crate::embed::Embedding;
use crate::fit::{Examples, Fit, FitSettings};
use crate::horizons::{HorizonSettings, Scoring};
use crate::judge::{judge, mean_loss};
use crate::model::{FORMAT, Manifest, Model, Provenance, Reference, Strategy};
use crate::network::{Network, Scratch};
use crate::normalize::Normalizer;
use crate::norms;
use crate::ridge::{Gram, SolveError};
use crate::schema::{Rows, Schema};
use crate::session::{RunChoices, Session, Stopped, Undisturbed};
use crate::spec::{Spec, SpecError};

/// Fewest rows a model can be trained on at all.
pub const ROWS_MIN: usize = 20;

/// Everything about a training but its rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// Gradient training of the base model; what `tail` and `full` do not set themselves.
    pub fit: FitSettings,
    /// Gradient training of `tail`.
    pub tail: TailSettings,
    /// Gradient training of `full`.
    pub full: FullSettings,
    /// Ridge heads.
    pub heads: HorizonSettings,
}

/// How the layers above the cut are retrained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TailSettings {
    /// Most passes over the rows. Default 40.
    pub epochs: usize,
    /// Step size of AdamW. Default 3e-3.
    pub learning_rate: f64,
    /// Whether the features at the cut are kept as bytes, in a quarter of the memory. Default false: it costs some accuracy.
    pub quantised: bool,
}

impl Default for TailSettings {
    fn default() -> Self {
        Self { epochs: 40, learning_rate: 3e-3, quantised: false }
    }
}

/// How all layers are retrained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FullSettings {
    /// Most passes over the rows. Default 30.
    pub epochs: usize,
    /// Step size of AdamW. Default 1e-3, a third of the tail's: the backbone shall move little.
    pub learning_rate: f64,
    /// Strength of the pull of all weights towards the parent's (L2-SP; Li et al., ICML 2018). Default 0: replay holds the
    /// old world better.
    pub pull: f32,
}

impl Default for FullSettings {
    fn default() -> Self {
        Self { epochs: 30, learning_rate: 1e-3, pull: 0.0 }
    }
}

/// A trained model and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The candidate.
    pub model: Model,
    /// Multiply-adds of the whole training.
    pub work_mac: u64,
    /// Passes of gradient training; 0 for `head`.
    pub epochs: usize,
}

/// A training that cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// Too few rows.
    #[error("{found} rows are too few to train on: {missing} more labelled rows are needed", missing = needed - found)]
    TooFewRows {
        /// Rows given.
        found: usize,
        /// Rows needed.
        needed: usize,
    },
    /// The network cannot be built.
    #[error("the network cannot be built")]
    Spec(#[from] SpecError),
    /// The heads cannot be solved.
    #[error("the head cannot be solved")]
    Solve(#[from] SolveError),
    /// A detector was to get a head, or other statistics under the same threshold.
    #[error(
        "a model that tells anomalies by what it cannot give back has no head, and its threshold belongs to its layers: retrain its tail, or all of it"
    )]
    NoHead,
    /// Training ran away.
    #[error("training gave weights that are not finite: lower the learning rate or look for broken values in the rows")]
    NotFinite,
    /// It was told to stop.
    #[error("training was told to stop; it can be resumed from its checkpoint")]
    Stopped(#[from] Stopped),
}

/// Trains a base model from nothing: network, embedding, factory sums, anchors, baseline, golden rows.
///
/// `rows` are in time order. Fails with [`TrainError`] for fewer than [`ROWS_MIN`] rows, an impossible spec, or weights
/// that ran away. Same rows, settings and seed: same bundle bytes on the same build and architecture.
pub fn base(
    schema: &Schema,
    spec: &Spec,
    rows: &Rows,
    settings: &TrainSettings,
    seed: u64,
) -> Result<Trained, TrainError> {
    alone(|session| base_in(session, schema, spec, rows, settings, seed))
}

/// [`base`] in its surroundings; fails with [`TrainError::Stopped`] where they want it to stop.
pub(crate) fn base_in(
    session: &mut Session<'_>,
    schema: &Schema,
    spec: &Spec,
    rows: &Rows,
    settings: &TrainSettings,
    seed: u64,
) -> Result<Trained, TrainError> {
    let detects = spec.reconstruct;
    let normal = detects.then(|| detect::normal(rows));
    let fitted = normal.as_ref().unwrap_or(rows);
    if fitted.len() < ROWS_MIN {
        return Err(TrainError::TooFewRows { found: fitted.len(), needed: ROWS_MIN });
    }
    let normalizer = Normalizer::fit(schema, fitted);
    let network = Network::new(spec, schema.encoded(), spec.outputs(schema.encoded(), schema.outputs()), seed)?;
    let targets = target_scales(schema, rows);
    let mut model = Model {
        manifest: Manifest {
            format: FORMAT,
            check: String::new(),
            schema: schema.clone(),
            spec: spec.clone(),
            temperature: 1.0,
            threshold: None,
            parent: None,
            provenance: provenance(Strategy::Base, seed, rows),
            reference: Reference::default(),
            metrics: None,
        },
        embedding: Embedding { scale: [1.0; 4], weight: Vec::new(), bias: Vec::new(), squeeze: Vec::new() },
        factory: Gram::new(0, schema.outputs()),
        anchors: anchors(schema, spec, rows, seed),
        baseline: stride(rows, BASELINE_ROWS).flat_map(|row| rows.x(row).to_vec()).collect(),
        baseline_at: Vec::new(),
        golden: (stride(rows, GOLDEN_ROWS).flat_map(|row| rows.x(row).to_vec()).collect(), Vec::new()),
        head: None,
        normalizer,
        network,
        targets,
    };
    let newest = holdout(rows.len(), settings.fit.holdout);
    let held = if detects { detect::held_of(rows, newest) } else { newest };
    let none = Rows::empty(rows.features, rows.truths);
    let examples = Encoded { model: &model, parts: [&none, fitted] };
    // The threshold is set on rows that the very network has not seen.
    let fitting = FitSettings { refit: settings.fit.refit && !detects, ..settings.fit.clone() };
    let fit = Fit { from: 0, examples: &examples, loss: loss_of(&model), settings: &fitting, held, pull: 0.0, seed };
    session.steps_max = fit.steps_max();
    let mut network = model.network.clone();
    let report = fit.train(&mut network, session)?;
    session.save(None);
    finite(&network)?;
    if detects {
        model.network = network.clone();
        let held = if held == 0 { fitted.len() } else { held };
        detect::calibrate(&mut model, fitted, fitted.len() - held..fitted.len(), session)?;
    }
    if let Some(judged) = report.judged {
        model.network = judged;
        judge(&mut model, rows, rows.len() - newest..rows.len(), session)?;
    }
    model.network = network;
    let sample = encoded_sample(&model, [&none, fitted]);
    model.embedding = Embedding::new(&model.network, &sample, seed);
    drop(sample);
    model.factory = gram(&model, rows, session)?;
    model.golden.1 = bundle::golden_answers(&model);
    let work = rows.len() as u64 * (model.work_mac(true) + model.factory.push_work_mac());
    Ok(Trained { model, work_mac: report.work_mac + work, epochs: report.epochs })
}

/// Trains a candidate from `parent` on `rows` (time order): a ridge head, the tail, all layers, or, without any label, the
/// statistics of its norms alone.
///
/// `head` lets the multi-horizon heads run through the rows and freezes their mixture. `tail` and `full` retrain layers with
/// the anchors mixed in or left out, whichever does better on the newest fifth, then fit a head on the new features and
/// keep it if it does better there. Fails with [`TrainError`] as [`base`] does.
pub fn adapt(
    parent: &Model,
    strategy: Strategy,
    rows: &Rows,
    settings: &TrainSettings,
    seed: u64,
) -> Result<Trained, TrainError> {
    alone(|session| adapt_in(session, parent, strategy, rows, settings, seed))
}

/// [`adapt`] in its surroundings; fails with [`TrainError::Stopped`] where they want it to stop.
pub(crate) fn adapt_in(
    session: &mut Session<'_>,
    parent: &Model,
    strategy: Strategy,
    rows: &Rows,
    settings: &TrainSettings,
    seed: u64,
) -> Result<Trained, TrainError> {
    if rows.len() < ROWS_MIN {
        return Err(TrainError::TooFewRows { found: rows.len(), needed: ROWS_MIN });
    }
    if parent.detects() {
        return detect::adapt(session, parent, strategy, rows, settings, seed);
    }
    if strategy == Strategy::Norm {
        return Ok(norms::adapt(session, parent, rows, seed)?);
    }
    let mut model = parent.clone();
    let (mut work_mac, mut epochs) = (0, 0);
    if let Strategy::Tail | Strategy::Full | Strategy::Base = strategy {
        let from = if strategy == Strategy::Tail { model.network.spec.cut } else { 0 };
        (work_mac, epochs) = retrain(session, &mut model, from, rows, settings, seed)?;
    }
    let own = match strategy {
        Strategy::Head => None,
        _ => Some(mean_loss(&model, rows, newest(rows), session)?),
    };
    work_mac += head::fit_head(session, &mut model, parent, rows, settings, strategy)?;
    if own.is_some_and(|own| own <= model.manifest.reference.mean) {
        model.head = None;
        model.manifest.temperature = 1.0;
        judge(&mut model, rows, newest(rows), session)?;
    }
    model.manifest.provenance = provenance(strategy, seed, rows);
    model.golden.1 = bundle::golden_answers(&model);
    Ok(Trained { model, work_mac, epochs })
}

/// Gradient training of layers `from..`; returns multiply-adds and passes.
pub(crate) fn retrain(
    session: &mut Session<'_>,
    model: &mut Model,
    from: usize,
    rows: &Rows,
    settings: &TrainSettings,
    seed: u64,
) -> Result<(u64, usize), TrainError> {
    let held = holdout(rows.len(), 0.2);
    let tail = FitSettings {
        epochs: settings.tail.epochs,
        learning_rate: settings.tail.learning_rate,
        refit: false,
        ..settings.fit.clone()
    };
    let full = FitSettings {
        epochs: settings.full.epochs,
        learning_rate: settings.full.learning_rate,
        refit: false,
        ..settings.fit.clone()
    };
    let (fitting, pull) = if from == 0 { (full, settings.full.pull) } else { (tail, 0.0) };
    let (mut best, mut work_mac) = (None, 0);
    let none = Rows::empty(rows.features, rows.truths);
    for anchors in [&model.anchors, &none] {
        let encoded = Encoded { model, parts: [anchors, rows] };
        let all = encoded.len() as u64;
        let examples: Box<dyn Examples> = if from == 0 {
            Box::new(encoded)
        } else {
            let keeping = match (settings.tail.quantised, session.choices().recompute) {
                (true, _) => Keeping::Bytes,
                (false, true) => Keeping::Nothing,
                (false, false) => Keeping::Numbers,
            };
            Box::new(AtCut::new(encoded, keeping, session)?)
        };
        let loss = loss_of(model);
        let fit = Fit { from, examples: &*examples, loss, settings: &fitting, held, pull, seed };
        session.steps_max = session.steps_max.max(2 * fit.steps_max());
        let mut network = model.network.clone();
        let report = fit.train(&mut network, session)?;
        session.save(None);
        work_mac += report.work_mac + all * network.work_mac(0);
        if best.as_ref().is_none_or(|(loss, _, _)| report.held_loss < *loss) {
            best = Some((report.held_loss, network, report.epochs));
        }
    }
    let (_, network, epochs) = best.expect("two runs were made");
    finite(&network)?;
    model.network = network;
    model.head = None;
    model.manifest.temperature = 1.0;
    // New features: scales from the rows at hand, factory sums from what the factory left, its anchors.
    let scale = model.embedding.measure(&model.network, &encoded_sample(model, [&model.anchors, rows]));
    model.embedding.scale = scale;
    model.factory = gram(model, &model.anchors, session)?;
    Ok((work_mac, epochs))
}

/// A training that nobody disturbs.
fn alone(train: impl FnOnce(&mut Session<'_>) -> Result<Trained, TrainError>) -> Result<Trained, TrainError> {
    let mut undisturbed = Undisturbed;
    let session = Session::new(&mut undisturbed, [0; 32], RunChoices::default(), None);
    train(&mut session.expect("without a checkpoint there is nothing to refuse"))
}

pub(crate) fn provenance(strategy: Strategy, seed: u64, rows: &Rows) -> Provenance {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Provenance { strategy, seed, rows: rows.len() as u64, snapshot: None, version }
}

fn loss_of(model: &Model) -> Loss {
    if model.scoring() == Scoring::Classes && !model.detects() { Loss::CrossEntropy } else { Loss::Square }
}

fn finite(network: &Network) -> Result<(), TrainError> {
    let mut scratch = Scratch::default();
    network.forward(&vec![0.5; network.inputs], &mut scratch);
    if scratch.output.iter().all(|value| value.is_finite()) { Ok(()) } else { Err(TrainError::NotFinite) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};
    use crate::model::Work;
    use crate::schema::{Feature, FeatureKind, Task};

    /// Three classes around centres that `turn` rotates; the first feature is sometimes missing.
    fn rows(count: usize, turn: f32, seed: u64) -> Rows {
        let mut chance = Chance::new(seed, Purpose::Sample, 9);
        let mut rows = Rows::empty(3, 1);
        for _ in 0..count {
            let class = chance.below(3);
            let angle = class as f32 * 2.1 + turn;
            let mut noise = || chance.normal() * 0.35;
            let x = [angle.cos() * 2.0 + noise(), angle.sin() * 2.0 + noise(), noise()];
            let gap = chance.unit() < 0.05;
            rows.push(&[if gap { f32::NAN } else { x[0] }, x[1], x[2]], &[class as f32]);
        }
        rows
    }

    fn schema(task: Task) -> Schema {
        let feature = |name: &str| Feature { name: name.into(), unit: None, kind: FeatureKind::Number, range: None };
        Schema { features: ["a", "b", "c"].map(feature).to_vec(), task }
    }

    fn factory() -> Model {
        let task = Task::Classification { classes: ["p", "q", "r"].map(String::from).to_vec() };
        base(&schema(task), &Spec::default(), &rows(600, 0.0, 1), &TrainSettings::default(), 0).unwrap().model
    }

    fn accuracy(model: &Model, rows: &Rows) -> f64 {
        let mut undisturbed = Undisturbed;
        let mut session = Session::new(&mut undisturbed, [0; 32], RunChoices::default(), None).unwrap();
        1.0 - mean_loss(model, rows, 0..rows.len(), &mut session).unwrap()
    }

    #[test]
    fn every_strategy_brings_a_turned_world_back() {
        let model = factory();
        assert!(accuracy(&model, &rows(500, 0.0, 2)) > 0.95);
        let turned = rows(400, 1.0, 3);
        let stale = accuracy(&model, &rows(500, 1.0, 4));
        assert!(stale < 0.7, "the turn must hurt: {stale}");
        for strategy in [Strategy::Head, Strategy::Tail, Strategy::Full] {
            let trained = adapt(&model, strategy, &turned, &TrainSettings::default(), 5).unwrap();
            let found = accuracy(&trained.model, &rows(500, 1.0, 4));
            assert!(found > 0.93, "{strategy:?}: {found}");
            assert!(trained.work_mac > 0 && trained.model.manifest.provenance.strategy == strategy);
            let frozen = strategy != Strategy::Full;
            assert_eq!(trained.model.network.layers[0] == model.network.layers[0], frozen, "{strategy:?}");
            let metrics = trained.model.manifest.metrics.clone().expect("judged on rows it had not seen");
            assert!(matches!(metrics, crate::evaluate::Metrics::Classification { accuracy, .. } if accuracy > 0.8));
        }
    }

    #[test]
    fn a_few_rows_of_the_old_world_change_nothing_much() {
        let model = factory();
        let trained = adapt(&model, Strategy::Head, &rows(40, 0.0, 6), &TrainSettings::default(), 5).unwrap();
        assert!(accuracy(&trained.model, &rows(500, 0.0, 2)) > 0.95, "the factory sums hold the head");
    }

    #[test]
    fn regression_learns_in_the_units_of_the_target() {
        let mut rows = Rows::empty(3, 1);
        let mut chance = Chance::new(1, Purpose::Sample, 0);
        for _ in 0..500 {
            let x = [chance.normal(), chance.normal(), chance.normal()];
            rows.push(&x, &[1_000.0 + 50.0 * x[0] - 20.0 * x[1] * x[2]]);
        }
        let schema = schema(Task::Regression { targets: vec!["y".into()] });
        let trained = base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 0).unwrap().model;
        let Some(crate::evaluate::Metrics::Regression { rmse, r2, .. }) = trained.manifest.metrics else { panic!() };
        assert!(rmse < 20.0 && r2 > 0.85, "rmse {rmse}, r2 {r2}");
        let adapted = adapt(&trained, Strategy::Head, &rows, &TrainSettings::default(), 0).unwrap().model;
        let mut work = Work::default();
        adapted.answer(&[0.0, 0.0, 0.0], &mut work);
        assert!((work.answer[0] - 1_000.0).abs() < 20.0, "{:?}", work.answer);
    }

    /// Stops at the pause with this number and keeps the checkpoint.
    struct Stopping(usize, Vec<u8>);

    impl crate::session::Surroundings for Stopping {
        fn pause(&mut self, _: crate::session::Progress) -> crate::session::Wish {
            self.0 = self.0.saturating_sub(1);
            if self.0 == 0 { crate::session::Wish::Stop } else { crate::session::Wish::Continue }
        }

        fn keep(&mut self, checkpoint: &[u8]) {
            self.1 = checkpoint.to_vec();
        }
    }

    #[test]
    fn a_training_stopped_at_any_pause_of_any_phase_goes_on_from_there_to_the_same_bits() {
        let model = factory();
        let turned = rows(700, 1.0, 3);
        let mut settings = TrainSettings::default();
        (settings.tail.epochs, settings.fit.batch) = (2, 64);
        for strategy in [Strategy::Head, Strategy::Tail] {
            let mut whole = adapt(&model, strategy, &turned, &settings, 5).unwrap().model;
            let (mut checkpoint, mut stops, mut with_head) = (None::<Vec<u8>>, 0, 0);
            let mut resumed = loop {
                let mut surroundings = Stopping(7, Vec::new());
                let session = Session::new(&mut surroundings, [3; 32], RunChoices::default(), checkpoint.as_deref());
                let mut session = session.unwrap();
                with_head += usize::from(session.journal.head.is_some());
                let result = adapt_in(&mut session, &model, strategy, &turned, &settings, 5);
                drop(session);
                match result {
                    Ok(trained) => break trained.model,
                    Err(TrainError::Stopped(_)) => checkpoint = Some(surroundings.1),
                    Err(error) => panic!("{error}"),
                }
                stops += 1;
                // A phase that begins anew at each resume gets a longer run, or it would never end.
                if stops > 60 {
                    let mut undisturbed = Undisturbed;
                    let session = Session::new(&mut undisturbed, [3; 32], RunChoices::default(), checkpoint.as_deref());
                    break adapt_in(&mut session.unwrap(), &model, strategy, &turned, &settings, 5).unwrap().model;
                }
            };
            assert!(stops > 2 && (with_head > 2) == (strategy == Strategy::Head), "{strategy:?}: {stops}, {with_head}");
            // Compared as bundles: models hold gaps, which equal nothing.
            let same = bundle::write(&mut resumed).0 == bundle::write(&mut whole).0;
            assert!(same, "{strategy:?} after {stops} stops is another candidate");
        }
    }

    #[test]
    fn anchors_take_part_in_a_retrain_and_its_sums_are_those_of_the_factory() {
        let model = factory();
        let bare = Model { anchors: Rows::empty(3, 1), ..model.clone() };
        let tail =
            |model: &Model, few: &Rows| adapt(model, Strategy::Tail, few, &TrainSettings::default(), 5).unwrap().model;
        let mut undisturbed = Undisturbed;
        let mut session = Session::new(&mut undisturbed, [0; 32], RunChoices::default(), None).unwrap();
        let helped = (0..8).any(|seed| {
            let few = rows(60, 0.0, seed);
            let with = tail(&model, &few);
            assert_eq!(with.factory, gram(&with, &model.anchors, &mut session).unwrap());
            with.network != tail(&bare, &few).network
        });
        assert!(helped, "few rows of the old world learn from its anchors where that is better");
    }

    #[test]
    fn too_few_rows_are_counted() {
        let error = adapt(&factory(), Strategy::Head, &rows(12, 0.0, 1), &TrainSettings::default(), 0).unwrap_err();
        assert_eq!(error.to_string(), "12 rows are too few to train on: 8 more labelled rows are needed");
    }
    #[test]
    fn features_at_the_cut_may_be_kept_computed_anew_or_rounded_to_bytes() {
        let model = factory();
        let turned = rows(400, 1.0, 3);
        let tail = |recompute: bool, quantised: bool| {
            let mut undisturbed = Undisturbed;
            let choices = RunChoices { recompute, ..RunChoices::default() };
            let mut session = Session::new(&mut undisturbed, [0; 32], choices, None).unwrap();
            let mut settings = TrainSettings::default();
            settings.tail.quantised = quantised;
            adapt_in(&mut session, &model, Strategy::Tail, &turned, &settings, 5).unwrap().model
        };
        let kept = tail(false, false);
        assert_eq!(tail(true, false).network, kept.network, "computing anew changes no bit");
        let bytes = tail(false, true);
        assert_ne!(bytes.network, kept.network);
        assert!(accuracy(&bytes, &rows(500, 1.0, 4)) > 0.93, "bytes must do");
    }
}
