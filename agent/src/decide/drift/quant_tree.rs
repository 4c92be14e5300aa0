//! `QuantTree`: cuts reference rows of a vector into bins whose chances do not depend on the law of the data.
//!
//! Source: Frittoli, Carrera, Boracchi, arXiv 2208.14801.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::seeded::Draws;
use super::{Direction, SettingError, require, usable};

/// Most bins a tree may have.
pub const LEAVES_MAX: usize = 255;

/// Why no tree could be grown or no threshold found.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QtError {
    /// The reference is not a whole number of rows.
    #[error(
        "the reference has {values} values, not a whole number of rows of {dimension}; check the embedding's length"
    )]
    Shape {
        /// Values given.
        values: usize,
        /// Values per row.
        dimension: usize,
    },
    /// Too few rows for the bins.
    #[error("{rows} usable reference rows cannot fill {leaves} bins; give at least {} rows", leaves * 4)]
    TooFewRows {
        /// Rows without a value that is not finite.
        rows: usize,
        /// Bins asked for.
        leaves: usize,
    },
    /// A setting out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// Settings of [`QtEwma`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QtSettings {
    /// Bins K, 2 to [`LEAVES_MAX`].
    pub leaves: u32,
    /// Weight λ of the newest row, in (0, 1).
    pub weight: f64,
    /// Seed of the cuts.
    pub seed: u64,
}

impl Default for QtSettings {
    fn default() -> Self {
        Self { leaves: 32, weight: 0.03, seed: 0 }
    }
}

/// One bin: what lies at or beyond `limit` on one coordinate, of what no earlier bin took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Cut {
    coordinate: u32,
    side: Direction,
    limit: f32,
}

/// The frozen tree: K−1 cuts, and the chance of each of K bins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantTree {
    dimension: u32,
    cuts: Vec<Cut>,
    /// Reference rows in each bin.
    sizes: Vec<u32>,
    chances: Vec<f64>,
}

impl QuantTree {
    /// Grows a tree on `[rows, dimension]` reference values; rows with a value that is not finite are left out.
    ///
    /// Tied values are told apart by a jitter of single-precision size while growing.
    ///
    /// # Errors
    ///
    /// A setting out of range, values that are no whole number of rows, fewer than 4 rows a bin.
    pub fn grow(settings: QtSettings, dimension: usize, reference: &[f32]) -> Result<Self, QtError> {
        let leaves = settings.leaves as usize;
        require((2..=LEAVES_MAX).contains(&leaves), "qt_ewma", "leaves", settings.leaves.into(), "2 to 255")?;
        let length = u32::try_from(dimension).unwrap_or(u32::MAX);
        require((1..=65_536).contains(&length), "qt_ewma", "dimension", length.into(), "1 to 65536")?;
        if !reference.len().is_multiple_of(dimension) {
            return Err(QtError::Shape { values: reference.len(), dimension });
        }
        let mut draws = Draws::new(settings.seed);
        let mut rows: Vec<Vec<f32>> = Vec::new();
        for row in reference.chunks_exact(dimension).filter(|row| row.iter().all(|x| x.is_finite())) {
            rows.push(row.iter().map(|x| jittered(*x, &mut draws)).collect());
        }
        if rows.len() < 4 * leaves {
            return Err(QtError::TooFewRows { rows: rows.len(), leaves });
        }
        let count = rows.len();
        let (mut cuts, mut sizes) = (Vec::new(), Vec::new());
        for taken in 0..leaves - 1 {
            let size = (rows.len() as f64 / (leaves - taken) as f64).round();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, at most the rows")]
            let size = (size as usize).max(1);
            let coordinate = draws.below(dimension);
            let end = if draws.below(2) == 0 { Direction::Down } else { Direction::Up };
            rows.sort_by(|first, second| first[coordinate].total_cmp(&second[coordinate]));
            let limit = if end == Direction::Down {
                let limit = rows[size - 1][coordinate];
                rows.drain(..size);
                limit
            } else {
                let limit = rows[rows.len() - size][coordinate];
                rows.truncate(rows.len() - size);
                limit
            };
            cuts.push(Cut { coordinate: u32::try_from(coordinate).unwrap_or(0), side: end, limit });
            sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
        }
        sizes.push(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        let chances = chances(&sizes, count);
        Ok(Self { dimension: length, cuts, sizes, chances })
    }

    /// Bin of a row; `None` for a row of another length or with a value that is not finite.
    #[must_use]
    pub fn bin(&self, row: &[f32]) -> Option<usize> {
        if row.len() != self.dimension as usize || !row.iter().all(|x| usable(f64::from(*x))) {
            return None;
        }
        let inside = |cut: &Cut| {
            let x = row[cut.coordinate as usize];
            if cut.side == Direction::Down { x <= cut.limit } else { x >= cut.limit }
        };
        Some(self.cuts.iter().position(inside).unwrap_or(self.cuts.len()))
    }

    /// Chance of each bin under the law of the reference.
    #[must_use]
    pub fn chances(&self) -> &[f64] {
        &self.chances
    }

    /// Reference rows in each bin.
    #[must_use]
    pub fn sizes(&self) -> &[u32] {
        &self.sizes
    }

    /// Reference rows the tree was grown on.
    #[must_use]
    pub fn reference_rows(&self) -> u64 {
        self.sizes.iter().map(|size| u64::from(*size)).sum()
    }
}

/// Expected chances of the bins: `L/(N+1)`, and one more for the last.
fn chances(sizes: &[u32], rows: usize) -> Vec<f64> {
    let last = sizes.len() - 1;
    let share =
        |(bin, size): (usize, &u32)| (f64::from(*size) + if bin == last { 1.0 } else { 0.0 }) / (rows + 1) as f64;
    sizes.iter().enumerate().map(share).collect()
}

/// The value moved by up to half a unit in its last place, more or less.
fn jittered(x: f32, draws: &mut Draws) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "a jitter needs no precision")]
    let jitter = (draws.uniform() - 0.5) as f32;
    x + jitter * f32::EPSILON * 4.0 * x.abs().max(f32::MIN_POSITIVE)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    pub(crate) fn rows(count: usize, dimension: usize, shift: f64, seed: u64) -> Vec<f32> {
        let mut draws = Draws::new(seed);
        (0..count * dimension).map(|_| (draws.normal() + shift) as f32).collect()
    }

    pub(crate) fn tree(count: usize, seed: u64) -> QuantTree {
        QuantTree::grow(QtSettings { seed, ..QtSettings::default() }, 8, &rows(count, 8, 0.0, seed)).unwrap()
    }

    #[test]
    fn the_bins_hold_equal_shares_of_the_reference_and_of_new_rows() {
        let tree = tree(2048, 3);
        assert_eq!(tree.reference_rows(), 2048);
        assert!((tree.chances().iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let mut hits = [0_u32; 32];
        rows(32_000, 8, 0.0, 77).chunks_exact(8).for_each(|row| hits[tree.bin(row).unwrap()] += 1);
        assert!(hits.iter().all(|hits| (600..1500).contains(hits)), "{hits:?}");
    }

    #[test]
    fn constant_columns_still_fill_every_bin_and_too_few_rows_are_refused() {
        let flat = QuantTree::grow(QtSettings::default(), 2, &[1.5; 1024]).unwrap();
        assert_eq!(flat.reference_rows(), 512);
        let refused = QuantTree::grow(QtSettings::default(), 2, &[1.5; 40]);
        assert_eq!(refused, Err(QtError::TooFewRows { rows: 20, leaves: 32 }));
        assert!(QuantTree::grow(QtSettings::default(), 3, &[1.5; 40]).is_err());
    }
}
