//! Multi-horizon heads: every label improves the model, in constant memory, without a drift detector.
//!
//! Intuition: nobody knows how far back the past still tells the truth. So keep sums over the last 1, 3, 7, 15 … blocks of
//! labels, solve a ridge head for each, for the shortest and the longest also with the factory's own sums, let all of them
//! predict, and follow those that have lately been right. Linear heads add up to one linear head, so what is served costs one head.
mod saved;
mod settings;
mod work;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::mix::{MIXERS, Mix};
use crate::network::affine;
use crate::ridge::{self, Gram, SolveError, SolveMemory};
use crate::sums::{Histogram, SAVED_LEVEL};
pub use saved::{RestoreError, Saved};
pub use settings::HorizonSettings;

/// Levels of the histogram from one horizon to the next. Horizons four times apart cost half and lost a little on streams whose
/// concepts last for a few hundred rows.
const STRIDE: usize = 1;
/// An expert below this weight moves no answer by more than its share of a hundredth, so it is solved anew less often.
const HEARD: f32 = 0.01;
/// Refits of a head that is heard for one of a head that is not; more would find an expert again too late after a change.
const UNHEARD_EVERY: u64 = 4;
/// How steps shrink with the delay of labels: between none at all and the root that the worst case asks for.
const DELAY_POWER: f64 = 0.25;
/// Most labels a block is stretched to when work is scarce.
const BLOCK_MAX: usize = 4_096;
/// Blocks that may stand in levels which are not saved: two of each size.
const NEWER_BLOCKS: usize = 2 * ((1 << SAVED_LEVEL) - 1);

/// How an expert's answer is compared with the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scoring {
    /// The largest output names the class: loss 0 or 1.
    Classes,
    /// Standardised targets: squared error.
    Targets,
}

/// What each expert said about one sample, kept until its label comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Opinions {
    /// The class of each expert, then that of each mixer.
    Classes(Vec<u16>),
    /// `[experts + mixers, targets]`, standardised.
    Targets(Vec<f32>),
}

/// The heads, their sums and their weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Horizons {
    settings: HorizonSettings,
    scoring: Scoring,
    factory: Gram,
    histogram: Histogram,
    /// Rows of the unfinished block: `[rows, width]` and `[rows, outputs]`.
    open: (Vec<f32>, Vec<f32>),
    /// Rows of each of the newest blocks, newest last.
    block_rows: VecDeque<u32>,
    /// Labels per block now.
    block: usize,
    /// Heads side by side, `[width, heads · outputs]`: per ridge one for each horizon, then those with the factory.
    heads: Vec<f32>,
    /// Expert 0 is the champion's own answer.
    mix: Mix,
    /// Multiply-adds spent on sums and solutions.
    work_mac: u64,
    /// Rows that were not learnt because a number in them was not finite.
    refused: u64,
}

impl Horizons {
    /// Heads over features of `factory.width` columns, all starting as the factory head.
    ///
    /// Fails with [`SolveError`] if the factory sums are not finite.
    pub fn new(
        factory: Gram,
        scoring: Scoring,
        settings: HorizonSettings,
        memory: &mut SolveMemory,
    ) -> Result<Self, SolveError> {
        let (width, outputs, count) = (factory.width, factory.outputs, settings.heads());
        let mut horizons = Self {
            histogram: Histogram::new(width, outputs, settings.top()),
            open: (Vec::new(), Vec::new()),
            block_rows: VecDeque::new(),
            block: first_block(&settings, scoring),
            heads: vec![0.0; width * count * outputs],
            mix: Mix::new(count + 1, settings.rate, settings.share),
            work_mac: 0,
            refused: 0,
            settings,
            scoring,
            factory,
        };
        let each = horizons.settings.each();
        for (index, &ridge) in horizons.settings.ridges.clone().iter().enumerate() {
            let head = ridge::solve(&[(1.0, &horizons.factory)], ridge, memory)?;
            (0..each).for_each(|slot| horizons.place(index * each + slot, &head));
        }
        Ok(horizons)
    }

    /// Answers one sample: `h` is `[width]`, `champion` is `[outputs]` (probabilities, or standardised targets). Writes the
    /// mixture into `mixture`, `[outputs]`, and returns what each expert said. An expert whose answer is not a number has no
    /// voice.
    pub fn answer(&self, h: &[f32], champion: &[f32], mixture: &mut Vec<f32>) -> Opinions {
        let outputs = self.factory.outputs;
        let mut said = champion.to_vec();
        said.resize(outputs + self.heads.len() / self.factory.width.max(1), 0.0);
        affine(&self.heads, h, &mut said[outputs..]);
        mixture.clear();
        mixture.resize(outputs, 0.0);
        let weights: Vec<f64> = self.mix.weights().collect();
        blend(&weights, &said, mixture);
        for weights in self.mix.mixers() {
            let from = said.len();
            said.resize(from + outputs, 0.0);
            let (experts, mixed) = said.split_at_mut(from);
            blend(weights, experts, mixed);
        }
        match self.scoring {
            Scoring::Classes => {
                let class = |answer: &[f32]| u16::try_from(argmax(answer)).unwrap_or(u16::MAX);
                Opinions::Classes(said.chunks_exact(outputs).map(class).collect())
            }
            Scoring::Targets => Opinions::Targets(said),
        }
    }

    /// Learns one label: `h` is `[width]`, `y` is `[outputs]`, one-hot or standardised. `said` is what the experts said when the
    /// sample came; without it (the ring has lost it) the sums still learn and the weights do not.
    ///
    /// A row with a number that is not finite teaches nothing and is counted ([`Horizons::refused`]). Fails with [`SolveError`] if
    /// the heads cannot be solved, which needs sums beyond what an f32 holds.
    pub fn learn(
        &mut self,
        h: &[f32],
        y: &[f32],
        said: Option<&Opinions>,
        memory: &mut SolveMemory,
    ) -> Result<(), SolveError> {
        self.learn_late(h, y, said, 0, memory)
    }

    /// [`Horizons::learn`] for a label that comes `late` labels after its sample: the longer the answers to a question are outstanding,
    /// the slower the weights follow, by `(1 + late/block)^-¼`.
    ///
    /// Intuition: while a label is outstanding the same mistake is made again and again, and then punished as often. The worst case asks for
    /// steps that shrink with the root of the delay; after an abrupt change such steps are too slow, so half of that, in logarithms, is
    /// taken. Delay counts in blocks, since heads change once per block.
    /// Source: Joulani, György and Szepesvári, Online learning under delayed feedback, ICML 2013.
    pub fn learn_late(
        &mut self,
        h: &[f32],
        y: &[f32],
        said: Option<&Opinions>,
        late: u64,
        memory: &mut SolveMemory,
    ) -> Result<(), SolveError> {
        if !self.takes(h, y) {
            return Ok(());
        }
        if let Some(said) = said {
            let pace = (1.0 + late as f64 / self.block as f64).powf(-DELAY_POWER);
            self.reweigh(y, said, pace);
        }
        self.open_row(h, y);
        self.work_mac += self.factory.push_work_mac();
        if self.open_rows() < self.block {
            return Ok(());
        }
        self.close_block();
        let blocks = self.histogram.blocks();
        let heard: Vec<bool> = self.weights().skip(1).map(|weight| weight >= HEARD).collect();
        let due = |horizon, slot: usize| {
            let rest = if heard[slot] { 1 } else { UNHEARD_EVERY };
            blocks.is_multiple_of(every(horizon) * rest)
        };
        self.refit(due, memory)
    }

    /// Takes the labels of an unfinished block in, and refits every head.
    ///
    /// Fails with [`SolveError`] as [`Horizons::learn`] does.
    pub fn flush(&mut self, memory: &mut SolveMemory) -> Result<(), SolveError> {
        if self.open_rows() > 0 {
            self.close_block();
        }
        self.refit(|_, _| true, memory)
    }

    /// The heads' weighted sum, `[width, outputs]`, without the champion's share: a linear head to freeze into a bundle.
    #[must_use]
    pub fn collapse(&self) -> Vec<f32> {
        let outputs = self.factory.outputs;
        let weights: Vec<f32> = self.weights().skip(1).collect();
        let total: f32 = weights.iter().sum();
        let row = weights.len() * outputs;
        let mut head = vec![0.0; self.factory.width * outputs];
        for (into, from) in head.chunks_exact_mut(outputs).zip(self.heads.chunks_exact(row)) {
            for (weight, part) in weights.iter().zip(from.chunks_exact(outputs)) {
                into.iter_mut().zip(part).for_each(|(sum, x)| *sum += weight / total * x);
            }
        }
        head
    }

    /// Weight of each expert, champion first; they sum to 1.
    pub fn weights(&self) -> impl Iterator<Item = f32> + '_ {
        #[expect(clippy::cast_possible_truncation, reason = "weights are shown and used in f32")]
        self.mix.weights().map(|weight| weight as f32)
    }

    /// Multiply-adds spent on learning so far.
    #[must_use]
    pub fn work_mac(&self) -> u64 {
        self.work_mac
    }

    /// Rows that were not learnt because a number in them was not finite, or because they had another width.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Features the heads read.
    #[must_use]
    pub fn width(&self) -> usize {
        self.factory.width
    }

    /// Outputs of a head.
    pub(crate) fn outputs(&self) -> usize {
        self.factory.outputs
    }

    /// Length of the opinions on one sample.
    pub(crate) fn opinions(&self) -> usize {
        let each = match self.scoring {
            Scoring::Classes => 1,
            Scoring::Targets => self.factory.outputs,
        };
        each * (self.settings.heads() + 1 + MIXERS)
    }

    /// Rows in the sums, the unfinished block included.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.histogram.rows() + self.open_rows() as u64
    }

    /// Whether a row can be learnt; counts it if not.
    fn takes(&mut self, h: &[f32], y: &[f32]) -> bool {
        let finite = |values: &[f32], count: usize| values.len() == count && values.iter().all(|x| x.is_finite());
        let takes = finite(h, self.factory.width) && finite(y, self.factory.outputs);
        self.refused += u64::from(!takes);
        takes
    }

    fn open_row(&mut self, h: &[f32], y: &[f32]) {
        self.open.0.extend_from_slice(h);
        self.open.1.extend_from_slice(y);
    }

    fn open_rows(&self) -> usize {
        self.open.1.len() / self.factory.outputs.max(1)
    }

    fn reweigh(&mut self, y: &[f32], said: &Opinions, pace: f64) {
        let experts = self.settings.heads() + 1;
        match said {
            Opinions::Classes(classes) if classes.len() == experts + MIXERS => {
                let truth = argmax(y);
                let wrong: Vec<bool> = classes.iter().map(|class| usize::from(*class) != truth).collect();
                let (experts, mixers) = wrong.split_at(experts);
                self.mix.judge(experts, mixers, pace);
            }
            Opinions::Targets(answers) if answers.len() == (experts + MIXERS) * y.len() => {
                let (experts, mixers) = answers.split_at(experts * y.len());
                self.mix.pull(experts, mixers, y, pace);
            }
            // Said under other settings: nothing to learn from it.
            Opinions::Classes(_) | Opinions::Targets(_) => {}
        }
    }

    fn close_block(&mut self) {
        let mut block = Gram::new(self.factory.width, self.factory.outputs);
        block.push_rows(&self.open.0, &self.open.1);
        if self.block_rows.len() == NEWER_BLOCKS {
            self.block_rows.pop_front();
        }
        self.block_rows.push_back(u32::try_from(block.rows).unwrap_or(u32::MAX));
        self.open.0.clear();
        self.open.1.clear();
        self.histogram.push(block);
    }

    fn refit(&mut self, due: impl Fn(usize, usize) -> bool, memory: &mut SolveMemory) -> Result<(), SolveError> {
        let count = self.settings.horizons.max(1);
        // Horizons beyond what has been seen are the same head as the longest one that differs.
        let distinct = self.histogram.used().div_ceil(STRIDE).min(count);
        let mut sum = Gram::new(self.factory.width, self.factory.outputs);
        let mut added = 0;
        for horizon in 0..distinct {
            let last = horizon + 1 == distinct;
            let until = if last { usize::MAX } else { STRIDE * horizon + 1 };
            self.histogram.add_to(added..until, &mut sum);
            added = until;
            let slots = if last { horizon..count } else { horizon..horizon + 1 };
            for (index, &ridge) in self.settings.ridges.clone().iter().enumerate() {
                let first = index * self.settings.each();
                let alone = slots.clone().map(|slot| first + slot).collect();
                // The factory's rows are the oldest there are, so they belong to the longest horizon, and to the shortest
                // one, which has too few rows of its own.
                let ends = [(horizon == 0, first + count), (last, first + count + 1)];
                let joined: Vec<usize> = ends.into_iter().filter_map(|(is, slot)| is.then_some(slot)).collect();
                for (factory, slots) in [(0.0, alone), (1.0, joined)] {
                    if !slots.iter().any(|slot| due(horizon, *slot)) {
                        continue;
                    }
                    let parts = [(self.settings.weight, &sum), (factory, &self.factory)];
                    let parts = if factory > 0.0 { &parts[..] } else { &parts[..1] };
                    let head = ridge::solve(parts, ridge, memory)?;
                    self.work_mac += ridge::solve_work_mac(self.factory.width, self.factory.outputs);
                    slots.iter().for_each(|slot| self.place(*slot, &head));
                }
            }
        }
        Ok(())
    }

    fn place(&mut self, slot: usize, head: &[f32]) {
        let outputs = self.factory.outputs;
        let row = self.heads.len() / self.factory.width;
        for (into, from) in self.heads.chunks_exact_mut(row).zip(head.chunks_exact(outputs)) {
            into[slot * outputs..(slot + 1) * outputs].copy_from_slice(from);
        }
    }
}

/// Blocks from one refit of a horizon to the next: a long horizon changes slowly, so a quarter of its length will do.
fn every(horizon: usize) -> u64 {
    1 << (STRIDE * horizon).saturating_sub(2).min(62)
}

fn first_block(settings: &HorizonSettings, scoring: Scoring) -> usize {
    match (settings.block, scoring) {
        (0, Scoring::Classes) => 32,
        (0, Scoring::Targets) => 1,
        (block, _) => block,
    }
}

/// Adds `Σ weight · answer` to `into`, `[outputs]`; an answer that is not a number adds nothing.
fn blend(weights: &[f64], answers: &[f32], into: &mut [f32]) {
    for (weight, answer) in weights.iter().zip(answers.chunks_exact(into.len())) {
        #[expect(clippy::cast_possible_truncation, reason = "weights are used in f32")]
        let weight = *weight as f32;
        for (sum, x) in into.iter_mut().zip(answer).filter(|(_, x)| x.is_finite()) {
            *sum += weight * x;
        }
    }
}

/// Index of the largest number; the first of equals.
#[must_use]
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};

    /// A stream whose labels flip at row 600: `y = sign(x)`, then `y = −sign(x)`.
    fn mistakes(settings: &HorizonSettings) -> (usize, usize, Horizons) {
        let mut memory = SolveMemory::default();
        let mut chance = Chance::new(4, Purpose::Sample, 0);
        let mut factory = Gram::new(2, 2);
        let mut row = |flip: bool| {
            let x = chance.normal();
            ([x, 1.0], if (x > 0.0) == flip { [0.0, 1.0] } else { [1.0, 0.0] })
        };
        for _ in 0..300 {
            let (h, y) = row(false);
            factory.push(&h, &y);
        }
        let mut horizons = Horizons::new(factory, Scoring::Classes, settings.clone(), &mut memory).unwrap();
        let (mut before, mut after) = (0, 0);
        let mut mixture = Vec::new();
        for index in 0..1_200 {
            let (h, y) = row(index >= 600);
            // The champion knows the first law by heart and is never retrained.
            let champion = if h[0] > 0.0 { [1.0, 0.0] } else { [0.0, 1.0] };
            let said = horizons.answer(&h, &champion, &mut mixture);
            let wrong = usize::from(argmax(&mixture) != argmax(&y));
            if index < 600 {
                before += wrong
            } else {
                after += wrong
            }
            horizons.learn(&h, &y, Some(&said), &mut memory).unwrap();
        }
        (before, after, horizons)
    }

    #[test]
    fn a_reversed_law_is_learnt_within_a_few_blocks_while_the_champion_would_fail_forever() {
        let (before, after, horizons) = mistakes(&HorizonSettings::default());
        assert!(before <= 12, "{before} mistakes before the change");
        assert!(after <= 110, "{after} mistakes of 600 after it; the champion alone makes 600");
        assert!(horizons.weights().next().unwrap() < 0.05, "nobody follows the champion any more");
        assert!((horizons.weights().sum::<f32>() - 1.0).abs() < 1e-4);
    }

    #[test]
    fn memory_is_bounded_and_the_state_survives_its_serialisation_bit_for_bit() {
        let (_, _, horizons) = mistakes(&HorizonSettings { block: 1, ..HorizonSettings::default() });
        assert_eq!((horizons.rows(), horizons.refused()), (1_200, 0));
        assert!(horizons.histogram.size_bytes() <= horizons.size_bytes_max());
        let text = serde_json::to_string(&horizons).unwrap();
        assert_eq!(serde_json::from_str::<Horizons>(&text).unwrap(), horizons);
    }

    #[test]
    fn the_collapsed_head_is_the_weighted_sum_of_the_heads() {
        let (_, _, horizons) = mistakes(&HorizonSettings::default());
        let mut mixture = Vec::new();
        let h = [0.7, 1.0];
        let head = horizons.collapse();
        horizons.answer(&h, &[0.0, 0.0], &mut mixture);
        let heads = 1.0 - horizons.weights().next().unwrap();
        for output in 0..2 {
            let collapsed = h[0] * head[output] + h[1] * head[2 + output];
            assert!((collapsed * heads - mixture[output]).abs() < 1e-4);
        }
    }

    #[test]
    fn labels_without_opinions_still_move_the_sums() {
        let mut memory = SolveMemory::default();
        let mut horizons =
            Horizons::new(Gram::new(1, 1), Scoring::Targets, HorizonSettings::default(), &mut memory).unwrap();
        for _ in 0..50 {
            horizons.learn(&[1.0], &[3.0], None, &mut memory).unwrap();
        }
        assert!((horizons.collapse()[0] - 3.0).abs() < 1.5);
        let weight = horizons.weights().next().unwrap();
        assert!((weight - 1.0 / 25.0).abs() < 1e-6, "no opinion, no judgement");
    }
}
