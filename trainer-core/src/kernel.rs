//! The one place that calls the matrix product: safe wrappers that check every bound.
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
    assert!(sb.fits(b.len()), "a matrix exceeds its slice");
    let turned = Strided { rows: sb.columns, columns: sb.rows, row: 1, column: sb.stride };
    add_strided(factor, (a, sa), (b, turned), (c, sc));
}

/// Adds `factor · a · b` to `c`, where `a` is `[m, k]`, `b` is `[k, n]`, `c` is `[m, n]`, all row-major with strides.
pub(crate) fn add_product(
    factor: f32,
    (a, sa): (&[f32], Shape),
    (b, sb): (&[f32], Shape),
    (c, sc): (&mut [f32], Shape),
) {
    assert!(sb.fits(b.len()), "a matrix exceeds its slice");
    let straight = Strided { rows: sb.rows, columns: sb.columns, row: sb.stride, column: 1 };
    add_strided(factor, (a, sa), (b, straight), (c, sc));
}

/// A matrix read in either direction, whose extent its maker has checked.
struct Strided {
    rows: usize,
    columns: usize,
    row: usize,
    column: usize,
}

fn add_strided(factor: f32, (a, sa): (&[f32], Shape), (b, sb): (&[f32], Strided), (c, sc): (&mut [f32], Shape)) {
    assert!(sa.fits(a.len()) && sc.fits(c.len()), "a matrix exceeds its slice");
    assert!(sa.columns == sb.rows && sc.rows == sa.rows && sc.columns == sb.columns, "shapes do not match");
    let stride = |stride: usize| isize::try_from(stride).expect("checked by `fits`");
    // SAFETY: the assertions here and in the two callers prove that every element gemm touches lies inside its slice, `c` is
    // borrowed mutably and so overlaps neither `a` nor `b`, and all pointers come from live slices of f32.
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
            stride(sb.column),
            stride(sb.row), //
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
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

    #[test]
    fn a_product_reads_its_right_side_straight_or_turned() {
        let shape = |rows, columns, stride| Shape { rows, columns, stride };
        // The last column of each slice belongs to somebody else.
        let a = [1.0, 2.0, 9.0, 3.0, 4.0, 9.0];
        let b = [5.0, 6.0, 9.0, 7.0, 8.0, 9.0];
        let mut c = [1.0, 1.0, 9.0, 1.0, 1.0, 9.0];
        let whole = shape(2, 2, 3);
        add_product(1.0, (&a, whole), (&b, whole), (&mut c, whole));
        assert_eq!(c.map(f32::to_bits), [20.0, 23.0, 9.0, 44.0, 51.0, 9.0].map(f32::to_bits));
        add_product_transposed(-1.0, (&a, whole), (&b, whole), (&mut c, whole));
        assert_eq!(c.map(f32::to_bits), [3.0, 0.0, 9.0, 5.0, -2.0, 9.0].map(f32::to_bits));
    }

    #[test]
    #[should_panic(expected = "exceeds its slice")]
    fn a_matrix_larger_than_its_slice_is_our_own_bug() {
        let shape = Shape { rows: 2, columns: 2, stride: 2 };
        add_product_transposed(1.0, (&[1.0; 3], shape), (&[1.0; 4], shape), (&mut [0.0; 4], shape));
    }

    #[test]
    #[should_panic(expected = "exceeds its slice")]
    fn so_is_a_right_side_larger_than_its_slice() {
        let shape = Shape { rows: 2, columns: 2, stride: 2 };
        add_product(1.0, (&[1.0; 4], shape), (&[1.0; 3], shape), (&mut [0.0; 4], shape));
    }
}
