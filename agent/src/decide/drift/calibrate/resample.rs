//! Block bootstrap: new streams from pieces of a recording, each long enough to keep its correlation.
use super::super::seeded::Draws;

/// Draws row numbers of a recording, piece by piece; with a season each piece begins at the same time of day it replaces.
#[derive(Clone, Debug)]
pub(super) struct Resampler {
    rows: usize,
    block: usize,
    day: Option<usize>,
    draws: Draws,
    at: usize,
    left: usize,
    /// Rows drawn, from a random time of day on.
    drawn: usize,
}

impl Resampler {
    /// Pieces of `block` rows out of `rows`; `day` is the rows of a season.
    pub(super) fn new(rows: usize, block: usize, day: Option<usize>, mut draws: Draws) -> Self {
        let day = day.filter(|day| (2..rows).contains(day));
        let drawn = day.map_or(0, |day| draws.below(day));
        Self { rows: rows.max(1), block: block.max(1), day, draws, at: 0, left: 0, drawn }
    }

    /// The next row.
    pub(super) fn next_row(&mut self) -> usize {
        if self.left == 0 || self.at >= self.rows {
            self.at = match self.day {
                None => self.draws.below(self.rows.saturating_sub(self.block) + 1),
                Some(day) => {
                    let phase = self.drawn % day;
                    phase + day * self.draws.below((self.rows - phase).div_ceil(day))
                }
            };
            self.left = self.block;
        }
        let row = self.at;
        self.at += 1;
        self.left -= 1;
        self.drawn += 1;
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_follow_the_recording_and_a_season_keeps_its_time_of_day() {
        let mut rows = Resampler::new(100, 10, None, Draws::new(1));
        let drawn: Vec<usize> = (0..1000).map(|_| rows.next_row()).collect();
        assert!(drawn.chunks(10).all(|piece| piece.windows(2).all(|pair| pair[1] == pair[0] + 1)));
        assert!((0..100).all(|row| drawn.contains(&row)));
        let mut rows = Resampler::new(100, 10, Some(24), Draws::new(1));
        let first = rows.next_row();
        assert!((1..1000).all(|step| rows.next_row() % 24 == (first + step) % 24));
        let mut short = Resampler::new(1, 50, Some(24), Draws::new(1));
        assert_eq!([short.next_row(), short.next_row()], [0, 0]);
    }
}
