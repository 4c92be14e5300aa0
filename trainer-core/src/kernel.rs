//! The one place that calls the matrix product; safe wrappers that check every bound, and a blocked Cholesky on them.
#![expect(unsafe_code, reason = "gemm takes raw pointers; the wrapper checks the extents of all three matrices first")]
#![allow(clippy::many_single_char_names, reason = "matrix formulas keep their letters")]

/// A matrix inside a slice: `rows × columns`, `stride` numbers from one row to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) stride: usize,
}

impl Shape {
    fn fits(self, length: usize) -> bool {
        let last = self.rows.saturating_sub(1).checked_mul(self.stride);
        let end = last.and_then(|start| start.checked_add(self.columns));
        self.columns <= self.stride && isize::try_from(self.stride).is_ok() && end.is_some_and(|end| end <= length)
    }
}

/// Adds `factor · a · bᵀ` to `c`, where `a` is `[m, k]`, `b` is `[n, k]`, `c` is `[m, n]`, all row-major with strides.
pub(crate) fn add_product_transposed(
    factor: f32,
    (a, sa): (&[f32], Shape),
    (b, sb): (&[f32], Shape),
    (c, sc): (&mut [f32], Shape),
) {
    assert!(sa.fits(a.len()) && sb.fits(b.len()) && sc.fits(c.len()), "a matrix exceeds its slice");
    assert!(sa.columns == sb.columns && sc.rows == sa.rows && sc.columns == sb.rows, "shapes do not match");
    let stride = |stride: usize| isize::try_from(stride).expect("checked above");
    // SAFETY: the assertions above prove that every element gemm touches lies inside its slice, `c` is borrowed
    // mutably and so overlaps neither `a` nor `b`, and all pointers come from live slices of f32.
    unsafe {
        gemm::gemm(
            sc.rows,
            sc.columns,
            sa.columns, //
            c.as_mut_ptr(),
            1,
            stride(sc.stride),
            true, //
            a.as_ptr(),
            1,
            stride(sa.stride), //
            b.as_ptr(),
            stride(sb.stride),
            1, //
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Rows of one panel; 32 keeps the diagonal block in the first-level cache.
const BLOCK: usize = 32;

/// Replaces the lower triangle of the symmetric `[d, d]` matrix by its Cholesky factor `L`, `A = L Lᵀ`.
///
/// Only the lower triangle is read; what stands above the diagonal afterwards is of no use. Returns the index of the first pivot that is not positive, if any; the
/// matrix is then spoilt. Source: right-looking blocked factorisation, Golub & Van Loan, section 4.2.
pub(crate) fn cholesky(matrix: &mut [f32], d: usize, scratch: &mut Vec<f32>) -> Result<(), usize> {
    let mut inverse = [0.0_f32; BLOCK * BLOCK];
    let mut columns = [[0.0_f32; BLOCK]; BLOCK];
    for start in (0..d).step_by(BLOCK) {
        let width = BLOCK.min(d - start);
        factor_diagonal(matrix, d, start, width, &mut columns)?;
        let below = d - start - width;
        if below == 0 {
            break;
        }
        invert_lower(&columns, width, &mut inverse);
        // Panel: L21 = A21 · L11⁻ᵀ, and (L11⁻ᵀ)ᵀ = L11⁻¹, whose rows are what the kernel wants.
        scratch.clear();
        scratch.resize(below * width, 0.0);
        let square = Shape { rows: width, columns: width, stride: BLOCK };
        let panel = Shape { rows: below, columns: width, stride: width };
        let old = Shape { rows: below, columns: width, stride: d };
        add_product_transposed(
            1.0,
            (&matrix[(start + width) * d + start..], old),
            (&inverse, square),
            (scratch, panel),
        );
        for row in 0..below {
            let at = (start + width + row) * d + start;
            matrix[at..at + width].copy_from_slice(&scratch[row * width..(row + 1) * width]);
        }
        // Trailing update, column blocks of the lower triangle only.
        for column in (0..below).step_by(2 * BLOCK) {
            let columns = (2 * BLOCK).min(below - column);
            let rows = below - column;
            let left = (&scratch[column * width..], Shape { rows, columns: width, stride: width });
            let right = (&scratch[column * width..], Shape { rows: columns, columns: width, stride: width });
            let at = (start + width + column) * d + start + width + column;
            add_product_transposed(-1.0, left, right, (&mut matrix[at..], Shape { rows, columns, stride: d }));
        }
    }
    Ok(())
}

/// Factors the diagonal block and leaves it in `columns` too, column by column, which is how the processor likes to read it.
fn factor_diagonal(
    matrix: &mut [f32],
    d: usize,
    start: usize,
    width: usize,
    columns: &mut [[f32; BLOCK]; BLOCK],
) -> Result<(), usize> {
    for row in 0..width {
        let from = &matrix[(start + row) * d + start..][..=row];
        from.iter().enumerate().for_each(|(column, x)| columns[column][row] = *x);
    }
    for column in 0..width {
        let (done, later) = columns.split_at_mut(column + 1);
        let current = &mut done[column];
        let pivot = current[column];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(start + column);
        }
        let pivot = pivot.sqrt();
        current[column] = pivot;
        current[column + 1..].iter_mut().for_each(|x| *x /= pivot);
        for (other, values) in later.iter_mut().enumerate().take(width - column - 1) {
            let weight = current[column + 1 + other];
            // What lies above the diagonal is computed too, and never read: whole columns are what vector units are for.
            values.iter_mut().zip(&*current).for_each(|(x, l)| *x -= weight * l);
        }
    }
    for row in 0..width {
        let into = &mut matrix[(start + row) * d + start..][..=row];
        into.iter_mut().enumerate().for_each(|(column, x)| *x = columns[column][row]);
    }
    Ok(())
}

/// Inverse of the lower triangular diagonal block `columns`, row-major with stride [`BLOCK`], zero above the diagonal.
fn invert_lower(columns: &[[f32; BLOCK]; BLOCK], width: usize, inverse: &mut [f32; BLOCK * BLOCK]) {
    inverse.fill(0.0);
    for unit in 0..width {
        let mut x = [0.0_f32; BLOCK];
        x[unit] = 1.0;
        for k in unit..width {
            let (solved, rest) = x.split_at_mut(k + 1);
            solved[k] /= columns[k][k];
            let weight = solved[k];
            rest.iter_mut().zip(&columns[k][k + 1..]).for_each(|(x, l)| *x -= weight * l);
            inverse[k * BLOCK + unit] = weight;
        }
    }
}

/// Solves `L Lᵀ X = B` in place for `Bᵀ` of shape `[columns, d]`, row-major: each right-hand side is contiguous.
pub(crate) fn solve(factor: &[f32], d: usize, b: &mut [f32]) {
    let columns = b.len() / d.max(1);
    let mut done = Vec::new();
    for start in (0..d).step_by(BLOCK) {
        let width = BLOCK.min(d - start);
        if start > 0 {
            // What is solved already is copied, since the product may not read what it writes.
            done.clear();
            b.chunks_exact(d).for_each(|row| done.extend_from_slice(&row[..start]));
            let left = (&done[..], Shape { rows: columns, columns: start, stride: start });
            let right = (&factor[start * d..], Shape { rows: width, columns: start, stride: d });
            add_product_transposed(
                -1.0,
                left,
                right,
                (&mut b[start..], Shape { rows: columns, columns: width, stride: d }),
            );
        }
        for x in b.chunks_exact_mut(d) {
            for row in start..start + width {
                let sum: f32 = (start..row).map(|k| factor[row * d + k] * x[k]).sum();
                x[row] = (x[row] - sum) / factor[row * d + row];
            }
        }
    }
    for x in b.chunks_exact_mut(d) {
        for row in (0..d).rev() {
            let (above, rest) = x.split_at_mut(row);
            rest[0] /= factor[row * d + row];
            let weight = rest[0];
            above.iter_mut().zip(&factor[row * d..]).for_each(|(x, l)| *x -= weight * l);
        }
    }
}

/// Adds `Xᵀ X` to `c` for the columns `panel` of `x`, `[rows, width]`: `c` is `[panel, panel.end]`, row `i` belongs to column
/// `panel.start + i` and holds its products with the columns `0..panel.end`.
pub(crate) fn add_gram(x: &[f32], width: usize, panel: std::ops::Range<usize>, c: &mut [f32]) {
    let rows = x.len() / width.max(1);
    assert!(panel.end <= width && c.len() == panel.len() * panel.end, "a panel exceeds its matrix");
    assert!(rows > 0 && x.len() == rows * width && isize::try_from(width).is_ok(), "rows of another width");
    let stride = |stride: usize| isize::try_from(stride).expect("checked above");
    // SAFETY: element (i, k) of the left matrix is `x[k · width + panel.start + i]` and element (k, j) of the right one is
    // `x[k · width + j]` with i < panel.len(), j < panel.end ≤ width and k < rows, all inside `x`; `c` is
    // `[panel.len(), panel.end]` exactly, and borrowed mutably.
    unsafe {
        gemm::gemm(
            panel.len(),
            panel.end,
            rows, //
            c.as_mut_ptr(),
            1,
            stride(panel.end),
            true, //
            x.as_ptr().add(panel.start),
            stride(width),
            1, //
            x.as_ptr(),
            1,
            stride(width), //
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::{Chance, Purpose};

    /// A well-conditioned `[d, d]` matrix `G Gᵀ / n + I` and its right-hand side.
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

    #[test]
    fn the_solution_satisfies_the_system_at_sizes_around_the_block() {
        for d in [1, 2, 31, 32, 33, 64, 65, 100, 225] {
            let (a, b) = system(d);
            let (mut factor, mut x) = (a.clone(), b.clone());
            cholesky(&mut factor, d, &mut Vec::new()).expect("positive definite");
            solve(&factor, d, &mut x);
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
        let (mut a, _) = system(70);
        a[50 * 70 + 50] = -1.0;
        assert_eq!(cholesky(&mut a, 70, &mut Vec::new()), Err(50));
        let mut a = vec![f32::NAN];
        assert_eq!(cholesky(&mut a, 1, &mut Vec::new()), Err(0));
    }

    #[test]
    #[should_panic(expected = "exceeds its slice")]
    fn a_matrix_larger_than_its_slice_is_our_own_bug() {
        let shape = Shape { rows: 2, columns: 2, stride: 2 };
        add_product_transposed(1.0, (&[1.0; 3], shape), (&[1.0; 4], shape), (&mut [0.0; 4], shape));
    }
}
