//! Sums that a ridge head is solved from, and the solution.
use serde::{Deserialize, Serialize};

use crate::cholesky::System;
use crate::kernel;

/// Rows from which on a matrix product beats adding them one by one.
const BLOCK_ROWS: usize = 8;
/// Rows of the Gram that are computed together.
const PANEL: usize = 64;

/// `Σ h hᵀ` and `Σ h yᵀ` over rows; adding two of them is as good as having seen all their rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gram {
    /// Columns of `h`.
    pub width: usize,
    /// Columns of `y`.
    pub outputs: usize,
    /// Rows summed.
    pub rows: u64,
    /// Lower triangle of `Σ h hᵀ`, row by row, `width (width + 1) / 2` numbers.
    pub a: Vec<f32>,
    /// `Σ h yᵀ`, `[width, outputs]`.
    pub r: Vec<f32>,
}

/// A system without a solution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SolveError {
    /// The Gram is not positive definite at this pivot, even with a thousandfold ridge.
    #[error("the Gram matrix is not positive definite at column {0}: a feature is not finite")]
    NotPositive(usize),
}

impl Gram {
    /// Sums over no rows.
    #[must_use]
    pub fn new(width: usize, outputs: usize) -> Self {
        Self { width, outputs, rows: 0, a: vec![0.0; width * (width + 1) / 2], r: vec![0.0; width * outputs] }
    }

    /// Adds one row: `h` is `[width]`, `y` is `[outputs]`.
    pub fn push(&mut self, h: &[f32], y: &[f32]) {
        debug_assert!(h.len() == self.width && y.len() == self.outputs, "row of another width");
        let mut rest = self.a.as_mut_slice();
        for (index, &x) in h.iter().enumerate() {
            let (row, tail) = rest.split_at_mut(index + 1);
            if x != 0.0 {
                row.iter_mut().zip(h).for_each(|(sum, other)| *sum += x * other);
                let r = &mut self.r[index * self.outputs..(index + 1) * self.outputs];
                r.iter_mut().zip(y).for_each(|(sum, y)| *sum += x * y);
            }
            rest = tail;
        }
        self.rows += 1;
    }

    /// Adds a block of rows at once, several times as fast as one by one: `h` is `[rows, width]`, `y` is `[rows, outputs]`.
    pub fn push_rows(&mut self, h: &[f32], y: &[f32]) {
        let rows = h.len() / self.width.max(1);
        debug_assert!(h.len() == rows * self.width && y.len() == rows * self.outputs, "rows of another width");
        if rows < BLOCK_ROWS {
            h.chunks_exact(self.width).zip(y.chunks_exact(self.outputs)).for_each(|(h, y)| self.push(h, y));
            return;
        }
        let mut panel = vec![0.0; PANEL * self.width];
        for start in (0..self.width).step_by(PANEL) {
            let count = PANEL.min(self.width - start);
            let columns = start + count;
            let panel = &mut panel[..count * columns];
            panel.fill(0.0);
            kernel::add_gram(h, self.width, start..columns, panel);
            for (row, from) in panel.chunks_exact(columns).enumerate() {
                let row = start + row;
                let at = row * (row + 1) / 2;
                self.a[at..=at + row].iter_mut().zip(from).for_each(|(sum, x)| *sum += x);
            }
        }
        for (h, y) in h.chunks_exact(self.width).zip(y.chunks_exact(self.outputs)) {
            // A class is one number among zeros.
            for (column, y) in y.iter().enumerate().filter(|(_, y)| **y != 0.0) {
                self.r.iter_mut().skip(column).step_by(self.outputs).zip(h).for_each(|(sum, x)| *sum += x * y);
            }
        }
        self.rows += rows as u64;
    }

    /// Bytes of the sums.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        4 * (self.a.len() + self.r.len())
    }

    /// Whether the sums have this shape and are finite; what comes from a disk is asked first.
    pub(crate) fn fits(&self, width: usize, outputs: usize) -> bool {
        (self.width, self.outputs) == (width, outputs)
            && self.a.len() == width * (width + 1) / 2
            && self.r.len() == width * outputs
            && self.a.iter().chain(&self.r).all(|x| x.is_finite())
    }

    /// Adds the rows of `other`, which has the same shape.
    pub fn add(&mut self, other: &Self) {
        debug_assert!(self.width == other.width && self.outputs == other.outputs, "sums of another shape");
        self.a.iter_mut().zip(&other.a).for_each(|(sum, x)| *sum += x);
        self.r.iter_mut().zip(&other.r).for_each(|(sum, x)| *sum += x);
        self.rows += other.rows;
    }

    /// Multiply-adds of one [`Gram::push`].
    #[must_use]
    pub fn push_work_mac(&self) -> u64 {
        (self.a.len() + self.r.len()) as u64
    }
}

/// Solves `W = (Σ wᵢ Aᵢ + μ I)⁻¹ (Σ wᵢ Rᵢ)` by Cholesky for several weighted sums of one shape; returns `[width, outputs]`.
///
/// `ridge` is μ, for features at unit scale. Two parts in ten million of the trace are added to it, more than what rounding
/// in f32 can take away. If a pivot still is not positive, μ is raised tenfold up to three times; fails with
/// [`SolveError::NotPositive`] after that, which needs a feature that is not finite.
/// Source: ridge regression with a fixed prior Gram; `RanPAC` (`McDonnell` et al., `NeurIPS` 2023).
pub fn solve(parts: &[(f32, &Gram)], ridge: f32, memory: &mut SolveMemory) -> Result<Vec<f32>, SolveError> {
    let Some((_, first)) = parts.first() else {
        return Ok(Vec::new());
    };
    let (width, outputs) = (first.width, first.outputs);
    let system = &mut memory.0;
    let (mut ridge, mut attempts) = (ridge, 0);
    loop {
        system.begin(width, outputs);
        let mut at = 0;
        let mut trace = 0.0;
        for row in 0..width {
            let into = system.row(row);
            for (weight, gram) in parts {
                into.iter_mut().zip(&gram.a[at..]).for_each(|(sum, a)| *sum += weight * a);
            }
            trace += into[row];
            at += row + 1;
        }
        let total = ridge + 2e-7 * trace;
        (0..width).for_each(|index| system.row(index)[index] += total);
        for output in 0..outputs {
            for (weight, gram) in parts {
                let column = gram.r.iter().skip(output).step_by(outputs);
                system.right(output).iter_mut().zip(column).for_each(|(sum, r)| *sum += weight * r);
            }
        }
        match system.solve() {
            Ok(solution) => return Ok(turned(solution, width)),
            Err(pivot) if attempts == 3 => return Err(SolveError::NotPositive(pivot)),
            Err(_) => ridge = ridge.max(1e-3) * 10.0,
        }
        attempts += 1;
    }
}

/// `[outputs, width]` as `[width, outputs]`.
fn turned(solution: &[f32], width: usize) -> Vec<f32> {
    let outputs = solution.len() / width.max(1);
    (0..width).flat_map(|row| (0..outputs).map(move |output| solution[output * width + row])).collect()
}

/// Multiply-adds of one [`solve`] of `width` columns and `outputs` targets.
#[must_use]
pub fn solve_work_mac(width: usize, outputs: usize) -> u64 {
    let (width, outputs) = (width as u64, outputs as u64);
    width.pow(3) / 6 + width.pow(2) * outputs
}

/// Memory reused from one [`solve`] to the next.
#[derive(Clone, Debug, Default)]
pub struct SolveMemory(System);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};

    #[test]
    fn the_head_recovers_a_linear_law_and_the_ridge_shrinks_it() {
        let mut chance = Chance::new(1, Purpose::Sample, 0);
        let mut gram = Gram::new(3, 1);
        for _ in 0..500 {
            let h = [chance.normal(), chance.normal(), 1.0];
            gram.push(&h, &[2.0 * h[0] - 3.0 * h[1] + 0.5]);
        }
        let head = |ridge| solve(&[(1.0, &gram)], ridge, &mut SolveMemory::default()).unwrap();
        for (found, law) in head(1e-3).iter().zip([2.0, -3.0, 0.5]) {
            assert!((found - law).abs() < 1e-3);
        }
        assert!(head(1e4)[0].abs() < 0.2, "a strong ridge pulls the head to zero");
    }

    #[test]
    fn two_halves_add_up_to_the_whole_and_weights_count_rows() {
        let rows: Vec<[f32; 2]> = vec![[1.0, 2.0], [0.5, -1.0], [3.0, 0.25]];
        let mut whole = Gram::new(2, 1);
        let mut halves = [Gram::new(2, 1), Gram::new(2, 1)];
        for (index, row) in rows.iter().enumerate() {
            whole.push(row, &[1.0]);
            halves[index % 2].push(row, &[1.0]);
        }
        let [mut first, second] = halves;
        first.add(&second);
        assert_eq!(first, whole);
        let twice = solve(&[(2.0, &whole)], 1.0, &mut SolveMemory::default()).unwrap();
        let mut doubled = whole.clone();
        doubled.add(&whole);
        assert_eq!(twice, solve(&[(1.0, &doubled)], 1.0, &mut SolveMemory::default()).unwrap());
    }

    #[test]
    fn perfectly_collinear_features_are_solved_and_a_feature_that_is_not_finite_is_named() {
        let mut gram = Gram::new(2, 1);
        for _ in 0..100_000 {
            gram.push(&[1.0, 1.0], &[1.0]);
        }
        let head = solve(&[(4.0, &gram)], 1e-6, &mut SolveMemory::default()).unwrap();
        assert!((head[0] + head[1] - 1.0).abs() < 1e-2, "{head:?}");
        gram.push(&[f32::NAN, 1.0], &[1.0]);
        assert!(matches!(solve(&[(1.0, &gram)], 1.0, &mut SolveMemory::default()), Err(SolveError::NotPositive(_))));
    }
}
