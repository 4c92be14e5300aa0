//! Block bootstrap: new streams from pieces of a recording, each long enough to keep its correlation.
use crate::decide::drift::seeded::Draws;

/// Draws row numbers of a recording, piece by piece.
#[derive(Clone, Debug)]
pub(super) struct Resampler {
    rows: usize,
    block: usize,
    draws: Draws,
    at: usize,
    left: usize,
}

impl Resampler {
    /// Pieces of `block` rows out of `rows`.
    pub(super) fn new(rows: usize, block: usize, draws: Draws) -> Self {
        Self { rows: rows.max(1), block: block.max(1), draws, at: 0, left: 0 }
    }

    /// The next row.
    pub(super) fn next_row(&mut self) -> usize {
        if self.left == 0 || self.at >= self.rows {
            self.at = self.draws.below(self.rows.saturating_sub(self.block) + 1);
            self.left = self.block;
        }
        let row = self.at;
        self.at += 1;
        self.left -= 1;
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_the_recording_and_every_row_comes() {
        let mut rows = Resampler::new(100, 10, Draws::new(1));
        let drawn: Vec<usize> = (0..1000).map(|_| rows.next_row()).collect();
        assert!(drawn.chunks(10).all(|piece| piece.windows(2).all(|pair| pair[1] == pair[0] + 1)));
        assert!((0..100).all(|row| drawn.contains(&row)));
        let mut short = Resampler::new(1, 50, Draws::new(1));
        assert_eq!([short.next_row(), short.next_row()], [0, 0]);
    }
}
