//! What the heads take: work per label, which longer blocks lessen, and memory.
use super::{BLOCK_MAX, Horizons, Scoring, every, first_block};
use crate::ridge::{self, Gram};

impl Horizons {
    /// Labels per block.
    #[must_use]
    pub fn block(&self) -> usize {
        self.block
    }

    /// Makes blocks as long as it takes for a label to cost at most `mac_per_label` multiply-adds on average, up to 4,096 labels,
    /// and never shorter than the settings say. Returns the labels per block from now on.
    pub fn limit_work(&mut self, mac_per_label: u64) -> usize {
        self.block = first_block(&self.settings, self.scoring);
        while self.block < BLOCK_MAX && self.work_mac_per_label(self.block) > mac_per_label {
            self.block *= 2;
        }
        self.block
    }

    /// Makes blocks twice as long, up to 4,096 labels, because work is scarce; whether that was possible.
    pub fn stretch(&mut self) -> bool {
        let longer = self.block < BLOCK_MAX;
        if longer {
            self.block *= 2;
        }
        longer
    }

    /// Makes blocks half as long again, down to what the settings say.
    pub fn relax(&mut self) {
        self.block = (self.block / 2).max(first_block(&self.settings, self.scoring));
    }

    /// Multiply-adds that a label costs on average in blocks of `block` labels: its sums, and its part of the solutions.
    #[must_use]
    pub fn work_mac_per_label(&self, block: usize) -> u64 {
        let Gram { width, outputs, .. } = self.factory;
        let each = self.settings.ridges.len() as u64 * ridge::solve_work_mac(width, outputs);
        let refits: u64 = (0..self.settings.horizons.max(1)).map(|horizon| each / every(horizon)).sum::<u64>() + each;
        self.factory.push_work_mac() + refits / block.max(1) as u64
    }

    /// Most bytes that sums, heads and the unfinished block can ever need.
    #[must_use]
    pub fn size_bytes_max(&self) -> usize {
        let row = self.factory.width + self.factory.outputs;
        let numbers = self.heads.len() + self.block * row;
        // The sum that a refit builds up counts too; the mixers' weights are a few kilobytes.
        self.histogram.size_bytes_max() + 2 * self.factory.size_bytes() + 4 * numbers + 8 * 16 * self.settings.heads()
    }

    /// Bytes of the mixture's scores for one sample.
    #[must_use]
    pub fn score_bytes(&self) -> usize {
        4 * self.factory.outputs
    }

    /// Bytes of what the experts said about one sample.
    #[must_use]
    pub fn opinion_bytes(&self) -> usize {
        let each = match self.scoring {
            Scoring::Classes => 2,
            Scoring::Targets => 4,
        };
        each * self.opinions()
    }
}
