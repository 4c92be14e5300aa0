//! A symmetric system solved by a blocked Cholesky factorisation, most of it matrix products.
use crate::kernel::{Shape, add_product, add_product_transposed};

/// Columns of one panel. Of 16, 24, 32 and 48 the fastest at widths from 65 to 257: larger blocks leave more to plain loops.
const BLOCK: usize = 16;
/// Columns of the rest that are updated together; narrower ones compute less above the diagonal, wider ones feed the product better.
const STEP: usize = 3 * BLOCK;

type Square = [[f32; BLOCK]; BLOCK];

/// A system `A X = R` and the memory to solve it, reused from one to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct System {
    width: usize,
    /// `[width + outputs, width]`: the lower triangle of `A`, below it the rows of `Rᵀ`. What stands above the diagonal is of no use.
    matrix: Vec<f32>,
    panel: Vec<f32>,
    /// Inverses of the diagonal blocks of the factor, one after the other, row-major.
    inverses: Vec<f32>,
    /// `Xᵀ`, `[outputs, width]`.
    solution: Vec<f32>,
}

impl System {
    /// Begins a system of `width` unknowns and `outputs` right-hand sides: all zero where it is read before it is written.
    pub(crate) fn begin(&mut self, width: usize, outputs: usize) {
        self.width = width;
        self.matrix.clear();
        self.matrix.resize((width + outputs) * width, 0.0);
        self.panel.clear();
        self.panel.resize((width + outputs) * BLOCK, 0.0);
        self.inverses.clear();
        self.inverses.resize(width.div_ceil(BLOCK) * BLOCK * BLOCK, 0.0);
        self.solution.clear();
        self.solution.resize(outputs * width, 0.0);
    }

    /// Row of the lower triangle of `A`, `[row + 1]`.
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        &mut self.matrix[row * self.width..][..=row]
    }

    /// The right-hand side `output`, `[width]`.
    pub(crate) fn right(&mut self, output: usize) -> &mut [f32] {
        &mut self.matrix[(self.width + output) * self.width..][..self.width]
    }

    /// Solves the system, which is spoilt by it; returns `Xᵀ`, `[outputs, width]`, row-major.
    ///
    /// Fails with the index of the first pivot that is not positive. Source: right-looking blocked factorisation, Golub & Van Loan,
    /// section 4.2; the right-hand sides stand below the matrix as further rows, so the factorisation carries the forward substitution.
    pub(crate) fn solve(&mut self) -> Result<&[f32], usize> {
        for start in (0..self.width).step_by(BLOCK) {
            self.eliminate(start)?;
        }
        self.substitute_back();
        Ok(&self.solution)
    }

    /// Factors the columns `start..start + BLOCK` and takes them out of what stands to the right of them.
    fn eliminate(&mut self, start: usize) -> Result<(), usize> {
        let d = self.width;
        let width = BLOCK.min(d - start);
        let mut columns = [[0.0; BLOCK]; BLOCK];
        for (index, column) in columns.iter_mut().enumerate() {
            // A block at the edge goes on as the unit matrix.
            column[index] = 1.0;
            for (row, x) in column.iter_mut().enumerate().take(width).skip(index) {
                *x = self.matrix[(start + row) * d + start + index];
            }
        }
        factor(&mut columns).map_err(|column| start + column)?;
        let inverse = &mut self.inverses[start * BLOCK..][..BLOCK * BLOCK];
        for (into, row) in inverse.chunks_exact_mut(BLOCK).zip(invert(&columns)) {
            into.copy_from_slice(&row);
        }
        // Panel: L21 = A21 · L11⁻ᵀ, and (L11⁻ᵀ)ᵀ = L11⁻¹, whose rows are what the product wants.
        let below = self.matrix.len() / d - start - width;
        if below == 0 {
            return Ok(());
        }
        let panel = &mut self.panel[..below * width];
        panel.fill(0.0);
        let first = (start + width) * d;
        let old = Shape { rows: below, columns: width, stride: d };
        let square = Shape { rows: width, columns: width, stride: BLOCK };
        let new = Shape { rows: below, columns: width, stride: width };
        add_product_transposed(1.0, (&self.matrix[first + start..], old), (inverse, square), (panel, new));
        for (row, from) in panel.chunks_exact(width).enumerate() {
            self.matrix[first + row * d + start..][..width].copy_from_slice(from);
        }
        // The rest, column blocks of the lower triangle only.
        let right = d - start - width;
        for column in (0..right).step_by(STEP) {
            let (rows, columns) = (below - column, STEP.min(right - column));
            let tall = Shape { rows, columns: width, stride: width };
            let wide = Shape { rows: columns, columns: width, stride: width };
            let rest = Shape { rows, columns, stride: d };
            let (panel, at) = (&panel[column * width..], first + column * d + start + width + column);
            add_product_transposed(-1.0, (panel, tall), (panel, wide), (&mut self.matrix[at..], rest));
        }
        Ok(())
    }

    /// `Xᵀ L = Yᵀ` from the last block to the first, where `Yᵀ` is what the elimination has made of the right-hand sides.
    fn substitute_back(&mut self) {
        let d = self.width;
        let (factor, right) = self.matrix.split_at_mut(d * d);
        let outputs = self.solution.len() / d.max(1);
        if outputs == 0 {
            return;
        }
        for start in (0..d).step_by(BLOCK).rev() {
            let width = BLOCK.min(d - start);
            let (done, now) = (d - start - width, Shape { rows: outputs, columns: width, stride: d });
            if done > 0 {
                let known = Shape { rows: outputs, columns: done, stride: d };
                let rows = Shape { rows: done, columns: width, stride: d };
                let known = (&self.solution[start + width..], known);
                let rows = (&factor[(start + width) * d + start..], rows);
                add_product(-1.0, known, rows, (&mut right[start..], now));
            }
            let inverse = (&self.inverses[start * BLOCK..], Shape { rows: width, columns: width, stride: BLOCK });
            add_product(1.0, (&right[start..], now), inverse, (&mut self.solution[start..], now));
        }
    }
}

/// Replaces the symmetric block, given column by column, by its Cholesky factor; what stands above the diagonal afterwards is of no use.
///
/// Whole columns are computed, since those are what vector units are for.
fn factor(columns: &mut Square) -> Result<(), usize> {
    for column in 0..BLOCK {
        let (done, later) = columns.split_at_mut(column + 1);
        let current = &mut done[column];
        let pivot = current[column];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(column);
        }
        let scale = 1.0 / pivot.sqrt();
        current.iter_mut().for_each(|x| *x *= scale);
        for (values, weight) in later.iter_mut().zip(&current[column + 1..]) {
            values.iter_mut().zip(&*current).for_each(|(x, l)| *x -= weight * l);
        }
    }
    Ok(())
}

/// Inverse of the lower triangular block, which is given column by column; the inverse comes row by row.
fn invert(columns: &Square) -> Square {
    let mut inverse = [[0.0; BLOCK]; BLOCK];
    (0..BLOCK).for_each(|index| inverse[index][index] = 1.0);
    for (index, column) in columns.iter().enumerate() {
        let (done, later) = inverse.split_at_mut(index + 1);
        let solved = &mut done[index];
        let scale = 1.0 / column[index];
        solved.iter_mut().for_each(|x| *x *= scale);
        for (row, weight) in later.iter_mut().zip(&column[index + 1..]) {
            row.iter_mut().zip(&*solved).for_each(|(x, s)| *x -= weight * s);
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};

    /// A well-conditioned `[d, d]` matrix `G Gᵀ / n + I` and two right-hand sides, `[2, d]`.
    fn system(d: usize) -> (Vec<f32>, Vec<f32>) {
        let mut chance = Chance::new(7, Purpose::Sample, d as u64);
        let n = d + 3;
        let g: Vec<f32> = (0..d * n).map(|_| chance.normal()).collect();
        let mut a = vec![0.0; d * d];
        for i in 0..d {
            for j in 0..d {
                let dot: f32 = (0..n).map(|k| g[i * n + k] * g[j * n + k]).sum();
                a[i * d + j] = dot / n as f32 + f32::from(u8::from(i == j));
            }
        }
        (a, (0..d * 2).map(|_| chance.normal()).collect())
    }

    fn fill(system: &mut System, a: &[f32], b: &[f32], d: usize) {
        system.begin(d, b.len() / d);
        (0..d).for_each(|row| system.row(row).copy_from_slice(&a[row * d..][..=row]));
        b.chunks_exact(d).enumerate().for_each(|(output, b)| system.right(output).copy_from_slice(b));
    }

    #[test]
    fn the_solution_satisfies_the_system_at_sizes_around_the_block() {
        let mut memory = System::default();
        // Larger and smaller ones take turns, so that nothing of the one before is left.
        for d in [225, 1, 64, 15, 16, 100, 17, 31, 33, 48, 2, 65] {
            let (a, b) = system(d);
            fill(&mut memory, &a, &b, d);
            let x = memory.solve().expect("positive definite");
            for i in 0..d {
                for c in 0..2 {
                    let left: f32 = (0..d).map(|k| a[i * d + k] * x[c * d + k]).sum();
                    assert!((left - b[c * d + i]).abs() < 1e-3, "d {d}, row {i}: {left} for {}", b[c * d + i]);
                }
            }
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_names_its_pivot() {
        let (mut a, b) = system(70);
        a[50 * 70 + 50] = -1.0;
        let mut memory = System::default();
        fill(&mut memory, &a, &b, 70);
        assert_eq!(memory.solve(), Err(50));
        fill(&mut memory, &[f32::NAN], &[1.0], 1);
        assert_eq!(memory.solve(), Err(0));
    }

    #[test]
    fn a_system_without_right_hand_sides_or_unknowns_has_an_empty_solution() {
        let mut memory = System::default();
        fill(&mut memory, &[4.0], &[], 1);
        assert_eq!(memory.solve(), Ok(&[][..]));
        memory.begin(0, 0);
        assert_eq!(memory.solve(), Ok(&[][..]));
    }
}
