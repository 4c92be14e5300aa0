//! Law of the two-sided Kolmogorov-Smirnov statistic: exact up to 140 rows and in the tails, within 5e-6 elsewhere.
//!
//! Matrix power of Marsaglia, Tsang and Wang (2003) for few rows or small values, twice the one-sided law of Birnbaum and Tingey
//! (1951) in the upper tail, Pelz and Good's expansion (1976) between. Where each is used follows Simard and L'Ecuyer (2011), as
//! scipy does, so that p-values equal scipy's to 1e-6.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use std::f64::consts::PI;

use super::special::ln_gamma;

/// From this `n·d²` on, both sides exceed `d` together with a chance below 1e-7, so twice one side is the answer.
const TAIL: f64 = 2.2;
/// Up to this many rows the matrix is small at every value.
const MATRIX_ROWS_MAX: u64 = 140;
/// Above that, the matrix serves while `n·d^1.5` is at most this; its size then grows with the cube root of the rows.
const MATRIX_VALUE_MAX: f64 = 1.4;
/// And above this many rows the expansion serves everywhere.
const EXPANSION_ROWS_MIN: u64 = 100_000;

/// p-value of a two-sample KS statistic `d` of `n` and `m` rows: the one-sample law at `round(nm/(n+m))` rows.
#[must_use]
pub fn two_sample_p(d: f64, n: u64, m: u64) -> f64 {
    if n == 0 || m == 0 {
        return 1.0;
    }
    let (n, m) = (n as f64, m as f64);
    let effective = (n * m / (n + m)).round_ties_even().max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number of at least 1")]
    one_sample_p(d, effective as u64)
}

/// Chance that the two-sided KS statistic of `n` rows reaches `d`.
#[must_use]
pub fn one_sample_p(d: f64, n: u64) -> f64 {
    let rows = n as f64;
    if d.is_nan() || n == 0 || rows * d <= 0.5 {
        return 1.0;
    }
    if d >= 1.0 {
        return 0.0;
    }
    let p = if rows * d * d >= TAIL {
        2.0 * one_sided_p(d, n)
    } else if n <= MATRIX_ROWS_MAX || (n <= EXPANSION_ROWS_MIN && rows * d.powf(1.5) <= MATRIX_VALUE_MAX) {
        1.0 - matrix_power_law(d, n)
    } else {
        1.0 - expansion(d, rows)
    };
    p.clamp(0.0, 1.0)
}

/// Chance that the one-sided statistic of `n` rows reaches `d`: `d Σ C(n,j) (1−d−j/n)^(n−j) (d+j/n)^(j−1)`.
fn one_sided_p(d: f64, n: u64) -> f64 {
    let rows = n as f64;
    let ln_factorial = ln_gamma(rows + 1.0);
    (0..n)
        .map(|j| j as f64)
        .take_while(|j| 1.0 - d - j / rows > 0.0)
        .map(|j| {
            let choose = ln_factorial - ln_gamma(j + 1.0) - ln_gamma(rows - j + 1.0);
            (choose + (rows - j) * (1.0 - d - j / rows).ln() + (j - 1.0) * (d + j / rows).ln()).exp()
        })
        .sum::<f64>()
        * d
}

/// Distribution function of the statistic by the power of a `(2k−1)²` matrix, `k = ceil(n·d)`.
fn matrix_power_law(d: f64, n: u64) -> f64 {
    let rows = n as f64;
    let ceiling = (rows * d).floor() + 1.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small whole number of at least 1")]
    let k = ceiling as usize;
    let size = 2 * k - 1;
    let h = ceiling - rows * d;
    let mut matrix = vec![0.0; size * size];
    for row in 0..size {
        for column in 0..size.min(row + 2) {
            matrix[row * size + column] = 1.0;
        }
    }
    for i in 0..size {
        let power = h.powi(i32::try_from(i + 1).unwrap_or(i32::MAX));
        let mirrored = h.powi(i32::try_from(size - i).unwrap_or(i32::MAX));
        matrix[i * size] -= power;
        matrix[(size - 1) * size + i] -= mirrored;
    }
    if 2.0 * h > 1.0 {
        matrix[(size - 1) * size] += (2.0 * h - 1.0).powi(i32::try_from(size).unwrap_or(i32::MAX));
    }
    for row in 0..size {
        for column in 0..size.min(row + 1) {
            // The entry is divided by (row − column + 1)!, in logarithms so that a large matrix does not overflow.
            matrix[row * size + column] *= (-ln_gamma((row - column) as f64 + 2.0)).exp();
        }
    }
    let (power, exponent) = matrix_power(&matrix, size, n);
    let entry = power[(k - 1) * size + k - 1];
    if entry <= 0.0 {
        return 0.0;
    }
    // n!/n^n, with the powers of ten that were split off.
    (entry.ln() + f64::from(exponent) * 10_f64.ln() + ln_gamma(rows + 1.0) - rows * rows.ln()).exp()
}

/// `matrix^exponent` by squaring, as mantissas and a common power of ten.
fn matrix_power(matrix: &[f64], size: usize, exponent: u64) -> (Vec<f64>, i32) {
    let mut result: Vec<f64> = (0..size * size).map(|place| if place % (size + 1) == 0 { 1.0 } else { 0.0 }).collect();
    let mut result_tens = 0;
    let mut square = matrix.to_vec();
    let mut square_tens = 0;
    let mut rest = exponent;
    while rest > 0 {
        if rest % 2 == 1 {
            result = product(&result, &square, size);
            result_tens += square_tens + take_tens(&mut result, size);
        }
        rest /= 2;
        if rest > 0 {
            square = product(&square, &square, size);
            square_tens = 2 * square_tens + take_tens(&mut square, size);
        }
    }
    (result, result_tens)
}

/// Divides by 1e140 when the middle grows past it, and returns the tens taken.
fn take_tens(matrix: &mut [f64], size: usize) -> i32 {
    if matrix[(size / 2) * (size + 1)] <= 1e140 {
        return 0;
    }
    for entry in matrix.iter_mut() {
        *entry *= 1e-140;
    }
    140
}

fn product(left: &[f64], right: &[f64], size: usize) -> Vec<f64> {
    let mut result = vec![0.0; size * size];
    for (row, sums) in left.chunks_exact(size).zip(result.chunks_exact_mut(size)) {
        for (factor, entries) in row.iter().zip(right.chunks_exact(size)) {
            for (sum, entry) in sums.iter_mut().zip(entries) {
                *sum += factor * entry;
            }
        }
    }
    result
}

/// Distribution function by Pelz and Good: Kolmogorov's limit and three corrections in powers of `1/sqrt(n)`.
fn expansion(d: f64, rows: f64) -> f64 {
    let z = rows.sqrt() * d;
    let square = z * z;
    let pi2 = PI * PI;
    let (pi4, pi6) = (pi2 * pi2, pi2 * pi2 * pi2);
    let mut sums = [0.0; 4];
    // Below z = 1.5 the eighth odd term is smaller than 1e-40.
    for k in 0..16 {
        let odd = f64::from(2 * k + 1);
        let o2 = odd * odd;
        let (o4, o6) = (o2 * o2, o2 * o2 * o2);
        let q = (-pi2 * o2 / (8.0 * square)).exp();
        sums[0] += q;
        sums[1] += q * (pi2 / 4.0 * o2 - square);
        sums[2] += q
            * (6.0 * z.powi(6)
                + 2.0 * z.powi(4)
                + (2.0 * z.powi(4) - 5.0 * square) * pi2 / 4.0 * o2
                + pi4 * (1.0 - 2.0 * square) / 16.0 * o4);
        sums[3] += q
            * (-30.0 * z.powi(6) - 90.0 * z.powi(8)
                + pi2 * (135.0 * z.powi(4) - 96.0 * z.powi(6)) / 4.0 * o2
                + pi4 * (-60.0 * square + 212.0 * z.powi(4)) / 16.0 * o4
                + pi6 * (5.0 - 30.0 * square) / 64.0 * o6);
    }
    let (mut second, mut third) = (0.0, 0.0);
    for k in 1..16 {
        let k2 = f64::from(k * k);
        let q = (-pi2 * k2 / (2.0 * square)).exp();
        second += pi2 * k2 * q;
        third += pi2 * k2 * (3.0 * square - pi2 * k2) * q;
    }
    let root = (2.0 * PI).sqrt();
    root * sums[0] / z
        + root * sums[1] / (6.0 * z.powi(4)) / rows.sqrt()
        + root * (sums[2] / (72.0 * z.powi(7)) - second / (36.0 * z.powi(3))) / rows
        + root * (sums[3] / (6480.0 * z.powi(10)) + third / (216.0 * z.powi(6))) / rows.powf(1.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_samples_have_their_closed_forms() {
        // One row: P(D ≥ d) = 2(1 − d) from one half on. Two rows: P(D < d) = 2(2d − ½)² up to one half.
        assert!((one_sample_p(0.7, 1) - 0.6).abs() < 1e-12);
        assert!((one_sample_p(0.4, 2) - (1.0 - 2.0 * 0.3_f64.powi(2))).abs() < 1e-12);
        assert!((one_sample_p(0.9, 3) - 2.0 * 0.1_f64.powi(3)).abs() < 1e-12);
    }

    #[test]
    fn the_table_of_marsaglia_tsang_and_wang_is_met() {
        assert!((1.0 - one_sample_p(0.274, 10) - 0.628_479_615_456_504_3).abs() < 1e-12);
    }

    #[test]
    fn the_three_ways_agree_where_they_meet() {
        for (n, tolerance) in [(141_u32, 5e-6), (400, 3e-7), (1000, 3e-7)] {
            for z in [0.5, 0.7, 0.9, 1.1, 1.3, 1.47] {
                let d = z / f64::from(n).sqrt();
                let by_matrix = matrix_power_law(d, n.into());
                let by_expansion = expansion(d, f64::from(n));
                assert!((by_matrix - by_expansion).abs() < tolerance, "n {n} z {z}: {by_matrix} {by_expansion}");
            }
            let d = (TAIL / f64::from(n)).sqrt();
            assert!((1.0 - matrix_power_law(d, n.into()) - 2.0 * one_sided_p(d, n.into())).abs() < 1e-7);
        }
    }

    #[test]
    fn the_p_value_falls_with_the_statistic_and_stays_a_probability() {
        for n in [1, 2, 10, 137, 141, 1001, 99_999, 100_001] {
            let p: Vec<f64> = (0..=200_u32).map(|step| one_sample_p(f64::from(step) / 200.0, n)).collect();
            assert!(p.windows(2).all(|pair| pair[1] <= pair[0] + 5e-6), "n {n}");
            assert!(p.iter().all(|p| (0.0..=1.0).contains(p)));
        }
        assert!((two_sample_p(f64::NAN, 3, 4) - 1.0).abs() < 1e-12 && (two_sample_p(0.3, 0, 4) - 1.0).abs() < 1e-12);
    }
}
