//! Principal components of baseline rows: where they vary most, in few numbers, the same on every run.
//!
//! Source: orthogonal iteration with a final rotation (Golub, Van Loan, Matrix Computations, §8.2.4 and §8.5).
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::seeded::Draws;

/// Most columns that are projected.
pub const WIDTH_MAX: usize = 256;
/// Most components.
pub const COMPONENTS_MAX: usize = 16;
/// Standard deviations from the mean at which a value is held: one broken sensor must not overflow all components.
const DEVIATIONS_MAX: f32 = 100.0;
/// Columns iterated beside the wanted ones: they speed up the last of them.
const SPARE: usize = 8;
/// Rounds of the iteration. Any orthonormal directions would do for a test; these many find the ones that matter.
const ROUNDS: usize = 40;
/// A direction with less variance than this share of the first one's only holds rounding.
const VARIANCE_SHARE_MIN: f64 = 1e-9;
/// Sweeps of the rotation; Jacobi's method converges in five or six for so small a matrix.
const SWEEPS: usize = 12;

/// Why rows have no principal components.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalError {
    /// The values are no rows of this width, or the width is out of range.
    #[error("{values} values are no whole number of rows of {width} columns, 1 to {WIDTH_MAX}")]
    Shape {
        /// Values given.
        values: usize,
        /// Columns given.
        width: usize,
    },
    /// Every column is constant or missing.
    #[error("no column of the {rows} rows varies")]
    Constant {
        /// Rows given.
        rows: usize,
    },
}

/// A frozen projection of rows of `width` raw values to a few components.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Principal {
    width: u32,
    components: u32,
    /// Mean of each column.
    means: Vec<f32>,
    /// One over its standard deviation; 0 for a column that is constant, or missing throughout.
    rates: Vec<f32>,
    /// `[width, components]`: directions of length 1, row by row.
    directions: Vec<f32>,
    /// Variance along each direction, largest first.
    variances: Vec<f32>,
}

impl Principal {
    /// Finds the first `components` (1 to [`COMPONENTS_MAX`]; fewer if the rows have a lower rank) of `rows` `[n, width]`.
    ///
    /// Each column is standardised by its mean and deviation over the finite values of `rows`; what is missing or not finite counts as
    /// the mean. A constant column takes no part. Deterministic: the same rows give the same directions, each with its largest entry positive.
    ///
    /// # Errors
    ///
    /// Values that are no whole number of rows, no column or more than [`WIDTH_MAX`], no column that varies.
    pub fn new(rows: &[f32], width: usize, components: usize) -> Result<Self, PrincipalError> {
        if !(1..=WIDTH_MAX).contains(&width) || !rows.len().is_multiple_of(width) {
            return Err(PrincipalError::Shape { values: rows.len(), width });
        }
        let count = rows.len() / width;
        let (means, rates): (Vec<f32>, Vec<f32>) =
            (0..width).map(|column| moments(&rows.iter().skip(column).step_by(width))).unzip();
        if rates.iter().all(|rate| *rate == 0.0) {
            return Err(PrincipalError::Constant { rows: count });
        }
        let correlation = correlation(rows, &means, &rates);
        let wanted = components.clamp(1, COMPONENTS_MAX).min(width);
        let (basis, variances) = leading(&correlation, width, (wanted + SPARE).min(width));
        let floor = variances[0] * VARIANCE_SHARE_MIN;
        let kept = variances.iter().take(wanted).take_while(|variance| **variance > floor).count().max(1);
        #[expect(clippy::cast_possible_truncation, reason = "directions are kept in single precision")]
        let directions = (0..width).flat_map(|column| basis.iter().take(kept).map(move |v| v[column] as f32)).collect();
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        let variances = variances[..kept].iter().map(|variance| *variance as f32).collect();
        #[expect(clippy::cast_possible_truncation, reason = "at most 256")]
        Ok(Self { width: width as u32, components: kept as u32, means, rates, directions, variances })
    }

    /// Values of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width as usize
    }

    /// Components of a row.
    #[must_use]
    pub fn components(&self) -> usize {
        self.components as usize
    }

    /// Variance along each direction, largest first.
    #[must_use]
    pub fn variances(&self) -> &[f32] {
        &self.variances
    }

    /// Projects one raw row of [`Self::width`] values; what is missing or not finite counts as the mean.
    ///
    /// Returns the components, the rest of the array 0, and how many values were missing.
    #[must_use]
    pub fn project(&self, row: &[f32]) -> ([f32; COMPONENTS_MAX], usize) {
        let mut missing = 0;
        let mut point = [0.0_f32; COMPONENTS_MAX];
        let columns = row.iter().zip(&self.means).zip(&self.rates);
        for (((x, mean), rate), direction) in columns.zip(self.directions.chunks_exact(self.components())) {
            if !x.is_finite() {
                missing += 1;
                continue;
            }
            let deviation = standardised(*x, *mean, *rate);
            for (sum, part) in point.iter_mut().zip(direction) {
                *sum += deviation * part;
            }
        }
        (point, missing)
    }
}

/// The value in standard deviations from the mean; 0 for one that is not finite.
fn standardised(x: f32, mean: f32, rate: f32) -> f32 {
    let deviation = (x - mean) * rate;
    // Two huge values can differ by infinity, and infinity times a rate of 0 is no number.
    if deviation.is_nan() { 0.0 } else { deviation.clamp(-DEVIATIONS_MAX, DEVIATIONS_MAX) }
}

/// Mean, and one over the standard deviation or 0.
fn moments<'a>(column: &(impl Iterator<Item = &'a f32> + Clone)) -> (f32, f32) {
    let values = || column.clone().filter(|x| x.is_finite()).map(|x| f64::from(*x));
    let count = values().count();
    if count == 0 {
        return (0.0, 0.0);
    }
    let mean = values().sum::<f64>() / count as f64;
    let variance = values().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count as f64;
    // Below single precision a deviation is rounding: the values of the column could not tell it.
    let varies = variance.sqrt() > mean.abs() * 1e-6 && variance.is_finite();
    #[expect(clippy::cast_possible_truncation, reason = "kept in single precision")]
    let rate = if varies { (1.0 / variance.sqrt()) as f32 } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, reason = "kept in single precision")]
    let mean = mean as f32;
    (mean, if rate.is_finite() { rate } else { 0.0 })
}

/// Correlation matrix `[width, width]` of the standardised rows.
fn correlation(rows: &[f32], means: &[f32], rates: &[f32]) -> Vec<f64> {
    let width = means.len();
    let count = (rows.len() / width).max(1) as f64;
    let mut matrix = vec![0.0_f64; width * width];
    let mut point = vec![0.0_f64; width];
    for row in rows.chunks_exact(width) {
        for (((z, x), mean), rate) in point.iter_mut().zip(row).zip(means).zip(rates) {
            *z = if x.is_finite() { f64::from(standardised(*x, *mean, *rate)) } else { 0.0 };
        }
        for (line, z) in matrix.chunks_exact_mut(width).zip(&point) {
            if *z != 0.0 {
                line.iter_mut().zip(&point).for_each(|(sum, other)| *sum += z * other);
            }
        }
    }
    matrix.iter_mut().for_each(|sum| *sum /= count);
    matrix
}

/// The leading `count` eigenvectors of a symmetric positive matrix `[width, width]`, largest eigenvalue first.
fn leading(matrix: &[f64], width: usize, count: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
    let mut draws = Draws::new(0);
    let mut basis: Vec<Vec<f64>> = (0..count).map(|_| (0..width).map(|_| draws.normal()).collect()).collect();
    orthonormalise(&mut basis);
    let times = |basis: &[Vec<f64>]| -> Vec<Vec<f64>> {
        basis.iter().map(|v| matrix.chunks_exact(width).map(|line| dot(line, v)).collect()).collect()
    };
    for _ in 0..ROUNDS {
        basis = times(&basis);
        orthonormalise(&mut basis);
    }
    let image = times(&basis);
    let mut small: Vec<Vec<f64>> = basis.iter().map(|v| image.iter().map(|w| dot(v, w)).collect()).collect();
    let rotation = diagonalise(&mut small);
    let mut found: Vec<(f64, Vec<f64>)> = (0..count)
        .map(|place| {
            let mut vector = vec![0.0; width];
            for (part, v) in rotation.iter().map(|line| line[place]).zip(&basis) {
                vector.iter_mut().zip(v).for_each(|(sum, x)| *sum += part * x);
            }
            let largest = vector.iter().copied().fold(0.0_f64, |a, b| if b.abs() > a.abs() { b } else { a });
            if largest < 0.0 {
                vector.iter_mut().for_each(|x| *x = -*x);
            }
            (small[place][place].max(0.0), vector)
        })
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (variances, vectors) = found.into_iter().unzip();
    (vectors, variances)
}

/// Modified Gram-Schmidt, twice; what vanishes becomes 0 and stays so.
fn orthonormalise(basis: &mut [Vec<f64>]) {
    for place in 0..basis.len() {
        let (before, rest) = basis.split_at_mut(place);
        let vector = &mut rest[0];
        let length_before = dot(vector, vector).sqrt();
        for _ in 0..2 {
            for other in &*before {
                let part = dot(vector, other);
                vector.iter_mut().zip(other).for_each(|(x, y)| *x -= part * y);
            }
        }
        let length = dot(vector, vector).sqrt();
        let scale = if length > length_before * 1e-12 && length > 0.0 { 1.0 / length } else { 0.0 };
        vector.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Jacobi's method: makes a small symmetric matrix diagonal and returns the rotation, its columns the eigenvectors.
fn diagonalise(matrix: &mut [Vec<f64>]) -> Vec<Vec<f64>> {
    let size = matrix.len();
    let mut rotation: Vec<Vec<f64>> =
        (0..size).map(|row| (0..size).map(|column| f64::from(u8::from(row == column))).collect()).collect();
    for _ in 0..SWEEPS {
        for p in 0..size {
            for q in p + 1..size {
                let off = matrix[p][q];
                if off.abs() <= 1e-15 * (matrix[p][p] * matrix[q][q]).abs().sqrt() || off == 0.0 {
                    continue;
                }
                let theta = (matrix[q][q] - matrix[p][p]) / (2.0 * off);
                let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
                let sine = tangent * cosine;
                let turn = |a: f64, b: f64| (cosine * a - sine * b, sine * a + cosine * b);
                for line in matrix.iter_mut().chain(rotation.iter_mut()) {
                    (line[p], line[q]) = turn(line[p], line[q]);
                }
                let (upper, lower) = matrix.split_at_mut(q);
                for (a, b) in upper[p].iter_mut().zip(&mut lower[0]) {
                    (*a, *b) = turn(*a, *b);
                }
            }
        }
    }
    rotation
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows whose columns are mixed from independent sources of falling strength.
    #[expect(clippy::cast_possible_truncation, reason = "test data")]
    fn mixed(count: usize, width: usize, sources: usize) -> Vec<f32> {
        let mut draws = Draws::new(9);
        let mixing: Vec<f64> = (0..sources * width).map(|_| draws.normal()).collect();
        let mut rows = Vec::new();
        for _ in 0..count {
            let strengths: Vec<f64> = (0..sources).map(|source| draws.normal() / (source + 1) as f64).collect();
            for column in 0..width {
                let x: f64 = strengths.iter().enumerate().map(|(source, s)| s * mixing[source * width + column]).sum();
                rows.push((x * 3.0 + 20.0) as f32);
            }
        }
        rows
    }

    #[test]
    fn the_components_of_the_baseline_are_uncorrelated_and_hold_its_variance() {
        let rows = mixed(1000, 40, 5);
        let principal = Principal::new(&rows, 40, 8).unwrap();
        assert_eq!(principal.components(), 5, "five sources make a rank of five");
        let total: f32 = principal.variances().iter().sum();
        assert!((total - 40.0).abs() < 1e-3, "each column has variance 1: {total}");
        let points: Vec<_> = rows.chunks_exact(40).map(|row| principal.project(row).0).collect();
        for a in 0..5 {
            for b in 0..5 {
                let covariance = points.iter().map(|p| f64::from(p[a] * p[b])).sum::<f64>() / 1000.0;
                let expected = if a == b { f64::from(principal.variances()[a]) } else { 0.0 };
                assert!((covariance - expected).abs() < 1e-3 * 40.0, "{a} {b}: {covariance}, not {expected}");
            }
        }
        assert!(principal.variances().is_sorted_by(|a, b| a >= b));
        assert_eq!(principal, Principal::new(&rows, 40, 8).unwrap());
    }

    #[test]
    fn missing_values_count_as_the_mean_and_constant_columns_take_no_part() {
        let mut rows = mixed(300, 6, 3);
        rows.iter_mut().skip(2).step_by(6).for_each(|x| *x = 7.0);
        rows.iter_mut().skip(4).step_by(6).for_each(|x| *x = f32::NAN);
        let principal = Principal::new(&rows, 6, 4).unwrap();
        assert!(principal.variances().iter().all(|variance| variance.is_finite()));
        let mut row = rows[..6].to_vec();
        let (point, missing) = principal.project(&row);
        assert_eq!(missing, 1);
        (row[2], row[4]) = (1e30, 5.0);
        assert_eq!(principal.project(&row), (point, 0));
        row[0] = f32::INFINITY;
        let mean = principal.means[0];
        let imputed = [mean, row[1], row[2], row[3], row[4], row[5]];
        assert_eq!(principal.project(&row).0.map(f32::to_bits), principal.project(&imputed).0.map(f32::to_bits));
        row[1] = f32::MAX;
        assert!(principal.project(&row).0.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn rows_without_variation_or_shape_are_refused() {
        assert_eq!(Principal::new(&[3.0; 40], 4, 8), Err(PrincipalError::Constant { rows: 10 }));
        assert_eq!(Principal::new(&[], 4, 8), Err(PrincipalError::Constant { rows: 0 }));
        assert!(Principal::new(&[3.0; 41], 4, 8).is_err());
        assert!(Principal::new(&[3.0; 41], 0, 8).is_err());
        assert!(Principal::new(&[3.0; 257], 257, 8).is_err());
    }

    #[test]
    fn directions_are_orthonormal_even_where_all_variances_are_alike() {
        let mut draws = Draws::new(3);
        #[expect(clippy::cast_possible_truncation, reason = "test data")]
        let rows: Vec<f32> = (0..400 * 128).map(|_| draws.normal() as f32).collect();
        let principal = Principal::new(&rows, 128, 16).unwrap();
        for a in 0..16 {
            for b in 0..16 {
                let product: f32 = principal.directions.chunks_exact(16).map(|line| line[a] * line[b]).sum();
                assert!((product - f32::from(u8::from(a == b))).abs() < 1e-4, "{a} {b}: {product}");
            }
        }
    }
}
