//! The champion's adaptive form: its multi-horizon heads, what they said to samples that wait for labels, and the one head
//! that is served of them.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::consolidate::{ConsolidateError, Seen, consolidate, may_freeze};
use crate::digest::Digest;
use crate::horizons::{HorizonSettings, Horizons, RestoreError, Saved, Scoring};
use crate::model::{Model, Work};
use crate::network::affine;
use crate::ridge::{SolveError, SolveMemory};
use crate::schema::Rows;
use crate::waiting::{Said, Waiting};

/// Samples whose expert answers wait for their labels; a later label teaches the sums but not the weights.
pub const WAITING_MAX: usize = 4_096;
/// Labelled rows that heads are rebuilt from after a new backbone, or when what was saved is of no use.
pub const REBUILT_ROWS: usize = 4_096;
/// Newest labelled answers of the mixture that a frozen head is judged and calibrated on.
const SEEN_MAX: usize = 400;
/// Bytes a waiting sample needs beside its opinions and scores: its key, its place in the tree.
const WAITING_BYTES: usize = 80;

/// The mixture as it answers: so much of the champion's own answer, and one linear head for all the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mixture {
    /// Weight of the champion's own answer, 0 to 1.
    pub champion: f32,
    /// `[width, outputs]`: the weighted sum of the heads; their weights and the champion's sum to 1.
    pub head: Vec<f32>,
}

impl Mixture {
    /// Answers the raw row `[features]` into `work.answer`; `model` is the champion whose features the head reads.
    ///
    /// An answer that is not finite is left to the champion alone; returns whether the mixture answered. No allocation after the
    /// first call with the same `work`.
    pub fn answer(&self, model: &Model, row: &[f32], work: &mut Work) -> bool {
        model.embed(row, work);
        if self.head.len() != work.h.len() * work.standard.len() {
            return false;
        }
        let mut mixed = std::mem::take(&mut work.mixed);
        mixed.clear();
        mixed.extend(work.voice.iter().map(|own| self.champion * own));
        affine(&self.head, &work.h, &mut mixed);
        // Asked before scores become probabilities: a negative one is cut off there, and so is one that is no number.
        let answered = mixed.iter().all(|x| x.is_finite());
        if answered {
            if model.scoring() == Scoring::Classes {
                to_probabilities(&mut mixed);
            }
            model.answer_of(&mixed, &mut work.answer);
        }
        work.mixed = mixed;
        answered
    }

    /// Name of these very numbers.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let numbers = std::iter::once(&self.champion).chain(&self.head);
        Digest::of(&numbers.flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
    }
}

/// Scores of the mixture as probabilities: ridge scores sum to about one, but may leave [0, 1].
fn to_probabilities(scores: &mut [f32]) {
    scores.iter_mut().for_each(|score| *score = score.max(0.0));
    let total: f32 = scores.iter().sum();
    if total > 0.0 {
        scores.iter_mut().for_each(|score| *score /= total);
    } else {
        let each = 1.0 / scores.len().max(1) as f32;
        scores.fill(each);
    }
}

/// What one label told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Learnt {
    /// Loss of the champion alone on this sample, in [0, 1].
    pub bare: f64,
    /// Loss of the mixture as it was when the sample came; none if that is forgotten.
    pub mixed: Option<f64>,
}

/// The heads of one champion, learning from every label. Bounded; [`Adaptive::saved`] is what a restart needs.
#[derive(Clone, Debug)]
pub struct Adaptive {
    horizons: Horizons,
    waiting: Waiting,
    /// What the mixture said before it knew the truth, newest last.
    seen: VecDeque<Seen>,
    memory: SolveMemory,
    /// Labels learnt since this start, to tell how late one comes.
    learnt: u64,
    work: Work,
    /// Whose features `work` holds.
    embedded: Option<u128>,
    mixture: Vec<f32>,
    target: Vec<f32>,
}

impl Adaptive {
    /// Heads of `model` that have learnt nothing but its factory sums.
    ///
    /// Fails with [`SolveError`] if those are not finite.
    pub fn new(model: &Model, settings: &HorizonSettings) -> Result<Self, SolveError> {
        let mut memory = SolveMemory::default();
        let horizons = Horizons::new(model.factory.clone(), model.scoring(), settings.clone(), &mut memory)?;
        Ok(Self::of(horizons))
    }

    /// Heads of `model` that know `rows`, the newest labelled ones in the order their labels came, at most [`REBUILT_ROWS`] of them.
    ///
    /// `before` are the heads of the champion of before, if there are any: which horizon tells the truth is a matter of the stream, so their
    /// weights go on with other features too. Fails with [`SolveError`] as [`Adaptive::new`] does.
    pub fn rebuilt(
        model: &Model,
        settings: &HorizonSettings,
        rows: &Rows,
        before: Option<&Self>,
    ) -> Result<Self, SolveError> {
        let mut memory = SolveMemory::default();
        let newest = rows.len().saturating_sub(REBUILT_ROWS)..rows.len();
        let (features, targets) = learnt(model, rows, newest);
        let pairs = features.iter().zip(&targets).map(|(h, y)| (h.as_slice(), y.as_slice()));
        let (factory, settings) = (model.factory.clone(), settings.clone());
        let mut horizons = Horizons::rebuild(factory, model.scoring(), settings, pairs, &mut memory)?;
        if let Some(before) = before {
            horizons.trust_as(&before.horizons);
        }
        Ok(Self::of(horizons))
    }

    /// Heads as they were saved; `rows` are the newest [`Saved::rows_needed`] rows learnt before the save, in that order.
    ///
    /// Fails with [`RestoreError`] if the settings, the model or the rows are others.
    pub fn restored(
        saved: Saved,
        model: &Model,
        settings: &HorizonSettings,
        rows: &Rows,
    ) -> Result<Self, RestoreError> {
        let (features, targets) = learnt(model, rows, 0..rows.len());
        let pairs: Vec<_> = features.into_iter().zip(targets).collect();
        let horizons = Horizons::restore(saved, model.factory.clone(), model.scoring(), settings, &pairs)?;
        Ok(Self::of(horizons))
    }

    /// With no memory to solve in: before the first label that would be as good as lost.
    fn of(horizons: Horizons) -> Self {
        Self {
            horizons,
            waiting: Waiting::new(WAITING_MAX),
            seen: VecDeque::new(),
            memory: SolveMemory::default(),
            learnt: 0,
            work: Work::default(),
            embedded: None,
            mixture: Vec::new(),
            target: Vec::new(),
        }
    }

    /// What to write to disk. Opinions of samples that still wait are not in it: their labels teach the sums alone.
    #[must_use]
    pub fn saved(&self) -> Saved {
        self.horizons.save()
    }

    /// Takes a sample that was answered: every expert's answer is kept until its label comes. Keys grow with time.
    pub fn sampled(&mut self, model: &Model, key: u128, row: &[f32]) {
        self.embed(model, key, row);
        let said = self.horizons.answer(&self.work.h, &self.work.voice, &mut self.mixture);
        self.waiting.put(key, &said, &self.mixture, self.learnt);
    }

    /// What the mixture says to the sample taken last, as an answer.
    pub fn answer(&mut self, model: &Model, answer: &mut Vec<f32>) {
        answered(model, &mut self.mixture, answer);
    }

    /// Features of the sample taken last.
    #[must_use]
    pub fn features(&self) -> &[f32] {
        &self.work.h
    }

    /// What the champion alone says to the sample taken last.
    #[must_use]
    pub fn bare(&self) -> &[f32] {
        &self.work.answer
    }

    /// Learns a labelled row of which nobody knows any more what was said to it: the sums learn, the weights do not.
    ///
    /// Fails with [`SolveError`] if the heads cannot be solved any more.
    pub fn caught_up(&mut self, model: &Model, row: &[f32], truth: &[f32]) -> Result<(), SolveError> {
        self.embedded = None;
        model.embed(row, &mut self.work);
        model.target(truth, &mut self.target);
        self.horizons.learn(&self.work.h, &self.target, None, &mut self.memory)?;
        self.learnt += 1;
        Ok(())
    }

    /// Learns the label of the sample `key`. Fails with [`SolveError`] if the heads cannot be solved any more.
    pub fn labelled(&mut self, model: &Model, key: u128, row: &[f32], truth: &[f32]) -> Result<Learnt, SolveError> {
        let waited = self.waiting.take(key, self.horizons.opinions(), self.horizons.outputs());
        // The features are computed anew: keeping them would cost a kilobyte per waiting sample.
        self.embed(model, key, row);
        model.target(truth, &mut self.target);
        let said = waited.as_ref().map(|waited| &waited.opinions);
        let late = waited.as_ref().map_or(0, |waited| self.learnt - waited.learnt);
        self.horizons.learn_late(&self.work.h, &self.target, said, late, &mut self.memory)?;
        self.learnt += 1;
        let bare = model.loss(&self.work.answer, truth);
        let mixed = waited.map(|Said { scores, .. }| {
            let (mut standard, mut answer) = (scores.clone(), Vec::new());
            answered(model, &mut standard, &mut answer);
            if self.seen.len() == SEEN_MAX {
                self.seen.pop_front();
            }
            self.seen.push_back(Seen { scores, truth: truth.to_vec() });
            model.loss(&answer, truth)
        });
        Ok(Learnt { bare, mixed })
    }

    /// Freezes the mixture into a candidate; see [`consolidate`].
    ///
    /// Fails with [`ConsolidateError`] if there is nothing to freeze, or too few of its answers were labelled yet.
    pub fn consolidate(&mut self, parent: &Model, seed: u64) -> Result<Model, ConsolidateError> {
        consolidate(parent, &self.horizons, self.seen.make_contiguous(), seed)
    }

    /// Whether [`Adaptive::consolidate`] would find something to freeze.
    ///
    /// Fails with [`ConsolidateError`] as that does.
    pub fn may_freeze(&self, parent: &Model) -> Result<(), ConsolidateError> {
        may_freeze(parent, &self.horizons, self.seen.len())
    }

    fn embed(&mut self, model: &Model, key: u128, row: &[f32]) {
        if self.embedded != Some(key) {
            model.embed(row, &mut self.work);
            self.embedded = Some(key);
        }
    }

    /// Whether the heads read the very features that `model` makes: same backbone, same embedding, same shape.
    #[must_use]
    pub fn fits(before: &Model, model: &Model) -> bool {
        let (old, new) = (&before.network, &model.network);
        let hidden = |network: &crate::network::Network| network.layers.len().saturating_sub(1);
        old.spec == new.spec
            && old.layers[..hidden(old)] == new.layers[..hidden(new)]
            && before.embedding == model.embedding
            && before.normalizer == model.normalizer
            && before.targets == model.targets
            && before.schema() == model.schema()
            && before.factory == model.factory
    }

    /// Another champion with the same features answers from now on; what is known of the heads still holds.
    pub fn champion_replaced(&mut self) {
        self.embedded = None;
    }

    /// What answers now.
    #[must_use]
    pub fn mixture(&self) -> Mixture {
        let champion = self.horizons.weights().next().unwrap_or(0.0);
        let mut head = self.horizons.collapse();
        head.iter_mut().for_each(|x| *x *= 1.0 - champion);
        Mixture { champion, head }
    }

    /// The heads.
    #[must_use]
    pub fn horizons(&self) -> &Horizons {
        &self.horizons
    }

    /// Makes a label cost at most so many multiply-adds on average; returns the labels per block from now on.
    pub fn limit_work(&mut self, mac_per_label: u64) -> usize {
        self.horizons.limit_work(mac_per_label)
    }

    /// Makes blocks twice as long because work is scarce; whether that was possible.
    pub fn stretch(&mut self) -> bool {
        self.horizons.stretch()
    }

    /// Makes blocks half as long again, down to what the settings say.
    pub fn relax(&mut self) {
        self.horizons.relax();
    }

    /// Samples that wait for their labels.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Most bytes all of this can ever need.
    #[must_use]
    pub fn size_bytes_max(&self) -> usize {
        self.horizons.size_bytes_max()
            + (WAITING_MAX + SEEN_MAX) * (WAITING_BYTES + self.horizons.opinion_bytes() + self.horizons.score_bytes())
    }
}

/// The mixture's scores, turned into an answer.
fn answered(model: &Model, scores: &mut [f32], answer: &mut Vec<f32>) {
    if model.scoring() == Scoring::Classes {
        to_probabilities(scores);
    }
    model.answer_of(scores, answer);
}

/// Features and targets of some rows.
fn learnt(model: &Model, rows: &Rows, wanted: std::ops::Range<usize>) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let mut work = Work::default();
    wanted
        .map(|row| {
            model.embed(rows.x(row), &mut work);
            let mut target = Vec::new();
            model.target(rows.y(row), &mut target);
            (work.h.clone(), target)
        })
        .unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};
    use crate::schema::{Feature, FeatureKind, Schema, Task};
    use crate::spec::{Layer, Spec};
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

    fn settings() -> HorizonSettings {
        HorizonSettings { horizons: 6, ..HorizonSettings::default() }
    }

    fn live(adaptive: &mut Adaptive, model: &Model, stream: &Rows, from: usize) {
        for row in from..stream.len() {
            adaptive.sampled(model, row as u128, stream.x(row));
            adaptive.labelled(model, row as u128, stream.x(row), stream.y(row)).unwrap();
        }
    }

    #[test]
    fn one_collapsed_head_answers_as_all_experts_together_do() {
        let model = factory();
        let mut adaptive = Adaptive::new(&model, &settings()).unwrap();
        live(&mut adaptive, &model, &rows(500, true, 2), 0);
        let (mixture, mut work, mut together) = (adaptive.mixture(), Work::default(), Vec::new());
        let fresh = rows(200, true, 3);
        let mut right = 0;
        for row in 0..fresh.len() {
            adaptive.sampled(&model, 1_000 + row as u128, fresh.x(row));
            adaptive.answer(&model, &mut together);
            assert!(mixture.answer(&model, fresh.x(row), &mut work));
            let near = work.answer.iter().zip(&together).all(|(one, all)| (one - all).abs() < 1e-4);
            assert!(near, "{:?} and {together:?}", work.answer);
            right += usize::from(model.loss(&work.answer, fresh.y(row)) < 0.5);
        }
        assert!(right > 185, "{right} of 200 in the world that turned round");
        assert_ne!(mixture.digest(), Mixture { champion: 0.5, ..mixture.clone() }.digest());
    }

    #[test]
    fn a_broken_head_leaves_the_answer_to_the_champion() {
        let model = factory();
        let (mut work, mut bare) = (Work::default(), Work::default());
        model.embed(&[1.0, 0.0, 0.0], &mut bare);
        let head = vec![f32::NAN; bare.h.len() * 2];
        assert!(!Mixture { champion: 0.5, head }.answer(&model, &[1.0, 0.0, 0.0], &mut work));
        assert_eq!(work.answer, bare.answer);
        assert!(!Mixture { champion: 0.5, head: vec![0.0; 3] }.answer(&model, &[1.0, 0.0, 0.0], &mut work));
        assert_eq!(work.answer, bare.answer);
    }

    #[test]
    fn a_restart_with_the_saved_part_and_the_newest_rows_gives_the_same_mixture_to_the_bit() {
        let model = factory();
        let mut adaptive = Adaptive::new(&model, &settings()).unwrap();
        let stream = rows(1_500, true, 2);
        live(&mut adaptive, &model, &stream.slice(0..1_100), 0);
        let saved = adaptive.saved();
        let bytes = postcard::to_stdvec(&saved).unwrap();
        let saved: Saved = postcard::from_bytes(&bytes).unwrap();
        let newer = stream.slice(1_100 - saved.rows_needed()..1_100);
        let mut again = Adaptive::restored(saved, &model, &settings(), &newer).unwrap();
        live(&mut adaptive, &model, &stream, 1_100);
        live(&mut again, &model, &stream, 1_100);
        assert_eq!(again.mixture(), adaptive.mixture());
        let error = Adaptive::restored(adaptive.saved(), &model, &settings(), &stream.slice(0..3)).unwrap_err();
        assert!(matches!(error, RestoreError::Rows { found: 3, .. }), "{error}");
    }

    #[test]
    fn rows_that_are_caught_up_with_teach_each_its_own_features() {
        let model = factory();
        let stream = rows(320, true, 2);
        let mut live = Adaptive::new(&model, &settings()).unwrap();
        let mut late = live.clone();
        for row in 0..stream.len() {
            // Nothing was said to these samples, so that both learn sums alone.
            live.labelled(&model, row as u128, stream.x(row), stream.y(row)).unwrap();
            late.caught_up(&model, stream.x(row), stream.y(row)).unwrap();
        }
        assert_eq!(late.mixture(), live.mixture());
    }

    #[test]
    fn a_new_backbone_keeps_what_is_known_of_the_horizons() {
        let model = factory();
        let mut adaptive = Adaptive::new(&model, &settings()).unwrap();
        live(&mut adaptive, &model, &rows(500, true, 2), 0);
        let newest = rows(200, true, 2);
        let again = Adaptive::rebuilt(&model, &settings(), &newest, Some(&adaptive)).unwrap();
        assert!(again.horizons.weights().eq(adaptive.horizons.weights()));
        let fresh = Adaptive::rebuilt(&model, &settings(), &newest, None).unwrap();
        assert!(fresh.mixture().champion > 2.0 * again.mixture().champion, "the champion of before was wrong");
        let other = HorizonSettings { horizons: 5, ..settings() };
        assert!(Adaptive::rebuilt(&model, &other, &newest, Some(&adaptive)).is_ok(), "other experts begin as equals");
    }

    #[test]
    fn labels_that_come_after_the_ring_has_forgotten_teach_the_sums_alone_and_memory_is_bounded() {
        let model = factory();
        let mut adaptive = Adaptive::new(&model, &settings()).unwrap();
        let stream = rows(64, true, 2);
        for key in 0..WAITING_MAX + 64 {
            adaptive.sampled(&model, key as u128, stream.x(key % 64));
        }
        assert_eq!(adaptive.waiting(), WAITING_MAX);
        let champion = adaptive.mixture().champion;
        for key in 0..64 {
            adaptive.labelled(&model, key as u128, stream.x(key), stream.y(key)).unwrap();
        }
        assert_eq!((adaptive.waiting(), adaptive.horizons().rows()), (WAITING_MAX, 64));
        assert!((adaptive.mixture().champion - champion).abs() < 1e-6, "no opinion, no judgement");
    }

    #[test]
    fn the_widest_heads_of_six_classes_stay_below_four_megabytes() {
        let feature =
            |index: usize| Feature { name: format!("f{index}"), unit: None, kind: FeatureKind::Number, range: None };
        let classes = (0..6).map(|class| format!("c{class}")).collect();
        let schema = Schema { features: (0..128).map(feature).collect(), task: Task::Classification { classes } };
        let mut chance = Chance::new(1, Purpose::Sample, 1);
        let mut rows = Rows::empty(128, 1);
        for row in 0..60_u8 {
            let x: Vec<f32> = (0..128).map(|_| chance.normal()).collect();
            rows.push(&x, &[f32::from(row % 6)]);
        }
        let layers = vec![Layer::Linear { outputs: 128 }, Layer::Relu, Layer::Linear { outputs: 64 }, Layer::Relu];
        let spec = Spec { cut: 2, layers, reconstruct: false };
        let mut training = TrainSettings::default();
        (training.fit.epochs, training.fit.refit) = (1, false);
        let model = base(&schema, &spec, &rows, &training, 0).unwrap().model;
        let adaptive = Adaptive::new(&model, &HorizonSettings::default()).unwrap();
        let bytes = adaptive.size_bytes_max();
        assert!(bytes <= 4 << 20, "{bytes} bytes for {} columns", adaptive.horizons().width());
    }
}
