//! All labels ever seen in a few sums: an exponential histogram, fine for the newest rows and coarse for the oldest.
use serde::{Deserialize, Serialize};

use crate::ridge::Gram;

/// Levels below this one are not worth flash: they hold the newest rows, which the records can give again.
pub const SAVED_LEVEL: usize = 5;

/// Sums per level: level i keeps at most two sums of 2^i blocks, the top level one sum of everything older.
///
/// Source: Datar, Gionis, Indyk and Motwani, Maintaining stream statistics over sliding windows, SIAM J. Computing 31, 2002.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    width: usize,
    outputs: usize,
    /// Level i, oldest first.
    levels: Vec<Vec<Gram>>,
    blocks: u64,
}

impl Histogram {
    /// A histogram of `top + 1` levels for rows of `width` features and `outputs` targets.
    #[must_use]
    pub fn new(width: usize, outputs: usize, top: usize) -> Self {
        Self { width, outputs, levels: vec![Vec::new(); top + 1], blocks: 0 }
    }

    /// Takes the sum of one block in; all blocks have the same number of rows, but for a last one.
    pub(crate) fn push(&mut self, block: Gram) {
        self.blocks += 1;
        self.levels[0].push(block);
        let top = self.levels.len() - 1;
        for level in 0..top {
            if self.levels[level].len() <= 2 {
                return;
            }
            let (oldest, mut next) = (self.levels[level].remove(0), self.levels[level].remove(0));
            next.add(&oldest);
            self.levels[level + 1].push(next);
        }
        if let [all, newer] = &mut self.levels[top][..] {
            all.add(newer);
            self.levels[top].pop();
        }
    }

    /// Blocks taken in.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Rows in the sums.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.levels.iter().flatten().map(|gram| gram.rows).sum()
    }

    /// Levels that hold anything: one more than the highest of them.
    #[must_use]
    pub fn used(&self) -> usize {
        self.levels.iter().rposition(|level| !level.is_empty()).map_or(0, |level| level + 1)
    }

    /// Adds the sums of these levels to `sum`; levels that do not exist add nothing.
    pub(crate) fn add_to(&self, levels: std::ops::Range<usize>, sum: &mut Gram) {
        let levels = levels.start.min(self.levels.len())..levels.end.min(self.levels.len());
        self.levels[levels].iter().flatten().for_each(|gram| sum.add(gram));
    }

    /// Bytes of all sums.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.levels.iter().flatten().map(Gram::size_bytes).sum()
    }

    /// Most bytes the sums can ever need: two per level, a third while it is merged, one at the top.
    #[must_use]
    pub fn size_bytes_max(&self) -> usize {
        let each = Gram::new(self.width, self.outputs).size_bytes();
        (2 * (self.levels.len() - 1) + 2) * each
    }

    /// The part worth saving: levels from [`SAVED_LEVEL`] on, and the number of blocks in them. What is newer is pushed again.
    #[must_use]
    pub(crate) fn settled(&self) -> Self {
        let mut settled = self.clone();
        settled.levels.iter_mut().take(self.first_saved()).for_each(Vec::clear);
        settled.blocks = self.settled_blocks();
        settled
    }

    /// The top level is always saved: it may hold more rows than any record does.
    fn first_saved(&self) -> usize {
        SAVED_LEVEL.min(self.levels.len() - 1)
    }

    /// Blocks in the levels that are saved.
    #[must_use]
    pub(crate) fn settled_blocks(&self) -> u64 {
        let newer = |(level, grams): (usize, &Vec<Gram>)| (grams.len() as u64) << level;
        self.blocks - self.levels.iter().enumerate().take(self.first_saved()).map(newer).sum::<u64>()
    }

    /// Whether every sum has this shape, finite numbers, and a place in a histogram of `top + 1` levels.
    pub(crate) fn fits(&self, width: usize, outputs: usize, top: usize) -> bool {
        self.width == width
            && self.outputs == outputs
            && self.levels.len() == top + 1
            && self.levels.iter().all(|level| level.len() <= 2)
            && self.levels.iter().flatten().all(|gram| gram.fits(width, outputs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(value: f32) -> Gram {
        let mut gram = Gram::new(1, 1);
        gram.push(&[value], &[1.0]);
        gram
    }

    #[test]
    fn nothing_is_lost_and_the_sums_stay_few() {
        let mut histogram = Histogram::new(1, 1, 6);
        for _ in 0..3_000 {
            histogram.push(block(1.0));
            assert!(histogram.size_bytes() <= histogram.size_bytes_max());
        }
        assert_eq!((histogram.rows(), histogram.blocks(), histogram.used()), (3_000, 3_000, 7));
        let mut all = Gram::new(1, 1);
        histogram.add_to(0..99, &mut all);
        assert!((all.a[0] - 3_000.0).abs() < 0.5);
    }

    #[test]
    fn the_settled_part_and_the_newer_blocks_give_the_same_bits() {
        [0, 2, 4, 10].into_iter().for_each(settled_and_newer_blocks_are_the_whole);
    }

    fn settled_and_newer_blocks_are_the_whole(top: usize) {
        let mut whole = Histogram::new(1, 1, top);
        let values: Vec<f32> = (0..500).map(|index| (index as f32 * 0.37).sin()).collect();
        for (index, value) in values.iter().enumerate() {
            whole.push(block(*value));
            let mut again = whole.settled();
            for value in &values[usize::try_from(again.blocks()).unwrap()..=index] {
                again.push(block(*value));
            }
            assert_eq!(again, whole, "after {} blocks", index + 1);
        }
    }
}
