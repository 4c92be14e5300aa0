//! The mean loss over the last blocks of rows: what a finding about losses draws.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::finding::Picture;

/// Points of a picture.
const BLOCKS_MAX: usize = 64;
/// Rows of a block.
const BLOCK_ROWS: u32 = 16;

/// Block means of a loss, the last 1,024 rows of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Trace {
    blocks: VecDeque<f32>,
    sum: f64,
    filled: u32,
}

impl Trace {
    pub(super) fn push(&mut self, loss: f64) {
        self.sum += loss;
        self.filled += 1;
        if self.filled == BLOCK_ROWS {
            if self.blocks.len() == BLOCKS_MAX {
                self.blocks.pop_front();
            }
            self.blocks.push_back(self.begun());
            self.sum = 0.0;
            self.filled = 0;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "only drawn")]
    fn begun(&self) -> f32 {
        (self.sum / f64::from(self.filled.max(1))) as f32
    }

    /// The blocks, oldest first; the one begun stands last.
    pub(super) fn picture(&self) -> Picture {
        let skip = usize::from(self.blocks.len() == BLOCKS_MAX && self.filled > 0);
        let begun = (self.filled > 0).then(|| self.begun());
        let values = self.blocks.iter().skip(skip).copied().chain(begun).collect();
        Picture::Trace { every_rows: u64::from(BLOCK_ROWS), values }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_holds_at_most_64_points_and_ends_with_the_rows_just_seen() {
        let mut trace = Trace::default();
        for row in 0..10_000_u32 {
            trace.push(f64::from(u8::from(row >= 9_990)));
            let Picture::Trace { values, every_rows } = trace.picture() else { panic!() };
            assert!(values.len() <= 64 && every_rows == 16);
        }
        trace.push(1.0);
        let Picture::Trace { values, .. } = trace.picture() else { panic!() };
        assert_eq!(values[62..], [10.0 / 16.0, 1.0]);
    }
}
