//! Multi-horizon heads: every label improves the model, in constant memory, without a drift detector.
//!
//! Intuition: nobody knows how far back the past still tells the truth. So keep sums over the last 1, 3, 7, 15 … blocks of
//! labels, solve a ridge head for each, with and without the factory's own sums, let all of them predict, and follow
//! those that have lately been right. Linear heads add up to one linear head, so what is served costs one head.
use serde::{Deserialize, Serialize};

use crate::network::affine;
use crate::ridge::{self, Gram, SolveError, SolveMemory};

/// Levels of the histogram: level i keeps at most two sums of 2^i blocks, so 24 levels outlast any gateway.
const LEVELS: usize = 24;

/// How the heads learn. The defaults are one setting for all data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HorizonSettings {
    /// Number of horizons; the last one reaches back to the first label. Default 8.
    pub horizons: usize,
    /// Ridge strengths μ, one set of heads each. Default 10.
    pub ridges: Vec<f32>,
    /// How much a label of the field counts against a factory row. Default 4.
    pub weight: f32,
    /// Step η of the expert weights. Default 0.2.
    pub rate: f64,
    /// Share α of the weight that is spread over all experts after each label, so that none is ever lost. Default 0.001.
    pub share: f64,
    /// Labels per block: 0 means 32 for classification and 1 for regression. Default 0.
    pub block: usize,
}

impl Default for HorizonSettings {
    fn default() -> Self {
        Self { horizons: 8, ridges: vec![10.0], weight: 4.0, rate: 0.2, share: 1e-3, block: 0 }
    }
}

/// How an expert's answer is compared with the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scoring {
    /// The largest output names the class: loss 0 or 1.
    Classes,
    /// Standardised targets: loss `¾ · min(z², 4)`, averaged over targets.
    Targets,
}

/// What each expert said about one sample, kept until its label comes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Opinions {
    /// The class of each expert.
    Classes(Vec<u16>),
    /// `[experts, targets]`, standardised.
    Targets(Vec<f32>),
}

/// The heads, their sums and their weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Horizons {
    settings: HorizonSettings,
    scoring: Scoring,
    factory: Gram,
    /// Level i, oldest first: at most two sums of 2^i blocks.
    levels: Vec<Vec<Gram>>,
    open: Gram,
    blocks: u64,
    /// Heads side by side, `[width, heads · outputs]`: head `(ridge, horizon, factory)`.
    heads: Vec<f32>,
    /// Log weight per expert; expert 0 is the champion's own answer.
    log_weights: Vec<f64>,
    /// Multiply-adds spent on sums and solutions.
    work_mac: u64,
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
        let count = settings.horizons.max(1) * 2 * settings.ridges.len().max(1);
        let (width, outputs) = (factory.width, factory.outputs);
        let mut horizons = Self {
            open: Gram::new(width, outputs),
            levels: vec![Vec::new(); LEVELS],
            blocks: 0,
            heads: vec![0.0; width * count * outputs],
            log_weights: vec![-((count + 1) as f64).ln(); count + 1],
            work_mac: 0,
            settings,
            scoring,
            factory,
        };
        for (index, &ridge) in horizons.settings.ridges.clone().iter().enumerate() {
            let head = ridge::solve(&[(1.0, &horizons.factory)], ridge, memory)?;
            for slot in 0..2 * horizons.settings.horizons {
                horizons.place(index * 2 * horizons.settings.horizons + slot, &head);
            }
        }
        Ok(horizons)
    }

    /// Answers one sample: `h` is `[width]`, `champion` is `[outputs]` (probabilities, or standardised targets). Writes the
    /// mixture into `mixture`, `[outputs]`, and returns what each expert said.
    pub fn answer(&self, h: &[f32], champion: &[f32], mixture: &mut Vec<f32>) -> Opinions {
        let outputs = self.factory.outputs;
        let mut said = vec![0.0; self.heads.len() / self.factory.width];
        affine(&self.heads, h, &mut said);
        mixture.clear();
        mixture.resize(outputs, 0.0);
        let experts = || std::iter::once(champion).chain(said.chunks_exact(outputs));
        for (weight, expert) in self.weights().zip(experts()) {
            mixture.iter_mut().zip(expert).for_each(|(sum, x)| *sum += weight * x);
        }
        match self.scoring {
            Scoring::Classes => {
                let class = |answer| u16::try_from(argmax(answer)).unwrap_or(u16::MAX);
                Opinions::Classes(experts().map(class).collect())
            }
            Scoring::Targets => Opinions::Targets(experts().flatten().copied().collect()),
        }
    }

    /// Learns one label: `y` is one-hot or standardised, `[outputs]`. `said` is what the experts said when the sample came;
    /// without it (the ring has lost it) the sums still learn and the weights do not.
    ///
    /// Fails with [`SolveError`] only if `h` was not finite.
    pub fn learn(
        &mut self,
        h: &[f32],
        y: &[f32],
        said: Option<&Opinions>,
        memory: &mut SolveMemory,
    ) -> Result<(), SolveError> {
        if let Some(said) = said {
            self.reweigh(y, said);
        }
        self.open.push(h, y);
        self.work_mac += self.open.push_work_mac();
        if self.open.rows >= self.block() as u64 { self.close_block(memory) } else { Ok(()) }
    }

    /// Labels per block.
    #[must_use]
    pub fn block(&self) -> usize {
        match (self.settings.block, self.scoring) {
            (0, Scoring::Classes) => 32,
            (0, Scoring::Targets) => 1,
            (block, _) => block,
        }
    }

    /// Takes the labels of an unfinished block in, and refits every head.
    ///
    /// Fails with [`SolveError`] only if a feature was not finite.
    pub fn flush(&mut self, memory: &mut SolveMemory) -> Result<(), SolveError> {
        if self.open.rows > 0 {
            self.push_block();
        }
        self.refit(|_| true, memory)
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
        self.log_weights.iter().map(|log| log.exp() as f32)
    }

    /// Multiply-adds spent on learning so far.
    #[must_use]
    pub fn work_mac(&self) -> u64 {
        self.work_mac
    }

    /// Fixed share (Herbster and Warmuth, 1998) on the losses of what was said.
    fn reweigh(&mut self, y: &[f32], said: &Opinions) {
        let rate = self.settings.rate;
        match said {
            Opinions::Classes(classes) => {
                let truth = argmax(y);
                for (log, &class) in self.log_weights.iter_mut().zip(classes) {
                    *log -= if usize::from(class) == truth { 0.0 } else { rate };
                }
            }
            Opinions::Targets(values) => {
                for (log, answer) in self.log_weights.iter_mut().zip(values.chunks_exact(y.len())) {
                    let square = |(a, y): (&f32, &f32)| f64::from(a - y).powi(2).min(4.0) * 0.75;
                    let loss = answer.iter().zip(y).map(square).sum::<f64>() / y.len() as f64;
                    // An answer that is not a number is as wrong as can be.
                    *log -= rate * if loss.is_nan() { 3.0 } else { loss };
                }
            }
        }
        let highest = self.log_weights.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = self.log_weights.iter().map(|log| (log - highest).exp()).sum();
        let (share, each) = (self.settings.share, self.settings.share / self.log_weights.len() as f64);
        for log in &mut self.log_weights {
            *log = ((1.0 - share) * (*log - highest).exp() / total + each).ln();
        }
    }

    fn close_block(&mut self, memory: &mut SolveMemory) -> Result<(), SolveError> {
        self.push_block();
        let blocks = self.blocks;
        // A long horizon changes slowly: horizon i is solved anew every 2^i / 4 blocks.
        self.refit(|horizon| blocks.is_multiple_of(1 << horizon.saturating_sub(2)), memory)
    }

    fn push_block(&mut self) {
        let empty = Gram::new(self.factory.width, self.factory.outputs);
        let block = std::mem::replace(&mut self.open, empty);
        self.blocks += 1;
        self.levels[0].push(block);
        for level in 0..LEVELS - 1 {
            if self.levels[level].len() <= 2 {
                break;
            }
            let (oldest, mut next) = (self.levels[level].remove(0), self.levels[level].remove(0));
            next.add(&oldest);
            self.levels[level + 1].push(next);
        }
    }

    fn refit(&mut self, due: impl Fn(usize) -> bool, memory: &mut SolveMemory) -> Result<(), SolveError> {
        let count = self.settings.horizons;
        let used = self.levels.iter().rposition(|level| !level.is_empty()).map_or(0, |level| level + 1);
        // Horizons beyond what has been seen are the same head as the longest one that differs.
        let distinct = used.min(count);
        let mut sum = Gram::new(self.factory.width, self.factory.outputs);
        for horizon in 0..distinct {
            let last = horizon + 1 == count;
            let levels = if last { horizon..LEVELS } else { horizon..horizon + 1 };
            for gram in self.levels[levels].iter().flatten() {
                sum.add(gram);
            }
            if !due(horizon) {
                continue;
            }
            let slots = if horizon + 1 == distinct { horizon..count } else { horizon..horizon + 1 };
            for (index, &ridge) in self.settings.ridges.clone().iter().enumerate() {
                for factory in [1.0, 0.0] {
                    let parts = [(self.settings.weight, &sum), (factory, &self.factory)];
                    let parts = if factory > 0.0 { &parts[..] } else { &parts[..1] };
                    let head = ridge::solve(parts, ridge, memory)?;
                    self.work_mac += ridge::solve_work_mac(self.factory.width, self.factory.outputs);
                    for slot in slots.clone() {
                        self.place((index * count + slot) * 2 + usize::from(factory == 0.0), &head);
                    }
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
        assert!(horizons.levels.iter().all(|level| level.len() <= 2));
        let sums: u64 = horizons.levels.iter().flatten().map(|gram| gram.rows).sum();
        assert_eq!(sums, 1_200);
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
        assert!((weight - 1.0 / 17.0).abs() < 1e-6, "no opinion, no judgement");
    }
}
