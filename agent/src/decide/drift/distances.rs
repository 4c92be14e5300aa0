//! How far a window lies from its frozen reference: PSI with its null mean and p-value, and four bounded distances beside it.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::bins::{BinWindow, FrozenBins};
use super::special::gamma_upper;

/// Shares are raised to this before PSI divides by them; they are not renormalised.
pub const PSI_FLOOR: f64 = 1e-4;

/// Fewest rows of a window that give a verdict: below, PSI above 0.25 is mostly chance.
pub const VERDICT_ROWS_MIN: u64 = 200;

/// PSI, what it would be without drift, and how unlikely the counts are without drift. Print the three together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PsiReading {
    /// Population stability index, natural logarithm.
    pub psi: f64,
    /// Mean PSI of such a window without drift, `(k−1)(1/n + 1/m)` over the `k` bins in use.
    pub null_mean: f64,
    /// Two-sample χ² p-value of the counts.
    pub p: f64,
}

/// All binned distances of one window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DistanceReading {
    /// PSI with its null mean and p-value.
    pub psi: PsiReading,
    /// Jensen-Shannon distance, natural logarithm, 0 to sqrt(ln 2).
    pub jensen_shannon: f64,
    /// Total variation distance, 0 to 1.
    pub total_variation: f64,
    /// Hellinger distance, 0 to 1.
    pub hellinger: f64,
    /// Largest gap of the binned distribution functions; the true one is larger by at most the largest reference share.
    pub binned_ks: f64,
    /// Values in the window.
    pub rows: u64,
}

/// PSI of the window against its reference; an empty window reads as no drift (0, 0, p 1).
#[must_use]
pub fn psi(reference: &FrozenBins, window: &BinWindow) -> PsiReading {
    let (n, m) = (reference.reference_rows() as f64, window.rows() as f64);
    if window.rows() == 0 {
        return PsiReading { psi: 0.0, null_mean: 0.0, p: 1.0 };
    }
    let test = two_sample_chi_square(reference.counts(), window.counts());
    let shares = reference.proportions().iter().zip(window.counts()).map(|(p, count)| (*p, *count as f64 / m));
    PsiReading {
        psi: shares.map(|(p, q)| psi_term(p, q)).sum(),
        null_mean: f64::from(test.degrees) * (1.0 / n + 1.0 / m),
        p: test.p,
    }
}

/// All distances of the window against its reference; an empty window reads as no drift.
#[must_use]
pub fn distances(reference: &FrozenBins, window: &BinWindow) -> DistanceReading {
    let p = reference.proportions();
    let q = if window.rows() == 0 { p.to_vec() } else { window.proportions() };
    DistanceReading {
        psi: psi(reference, window),
        jensen_shannon: jensen_shannon(p, &q),
        total_variation: total_variation(p, &q),
        hellinger: hellinger(p, &q),
        binned_ks: binned_ks(p, &q),
        rows: window.rows(),
    }
}

/// PSI of shares `q` against `p`, both floored at [`PSI_FLOOR`]: `Σ (Q−P)·ln(Q/P)`. Slices are of one length.
#[must_use]
pub fn psi_of_shares(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| psi_term(*p, *q)).sum()
}

fn psi_term(p: f64, q: f64) -> f64 {
    let (p, q) = (p.max(PSI_FLOOR), q.max(PSI_FLOOR));
    (q - p) * (q / p).ln()
}

/// Jensen-Shannon distance of two lists of shares, natural logarithm, unfloored.
#[must_use]
pub fn jensen_shannon(p: &[f64], q: &[f64]) -> f64 {
    let half = |a: f64, middle: f64| if a > 0.0 { a * (a / middle).ln() } else { 0.0 };
    let sum: f64 = p
        .iter()
        .zip(q)
        .map(|(p, q)| {
            let middle = f64::midpoint(*p, *q);
            half(*p, middle) + half(*q, middle)
        })
        .sum();
    (sum / 2.0).max(0.0).sqrt()
}

/// Total variation distance of two lists of shares.
#[must_use]
pub fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0
}

/// Hellinger distance of two lists of shares.
#[must_use]
pub fn hellinger(p: &[f64], q: &[f64]) -> f64 {
    let overlap: f64 = p.iter().zip(q).map(|(p, q)| (p * q).sqrt()).sum();
    (1.0 - overlap).max(0.0).sqrt()
}

/// Largest gap of the cumulative shares.
#[must_use]
pub fn binned_ks(p: &[f64], q: &[f64]) -> f64 {
    let (mut below_p, mut below_q, mut largest) = (0.0, 0.0, 0.0_f64);
    for (p, q) in p.iter().zip(q) {
        below_p += p;
        below_q += q;
        largest = largest.max((below_p - below_q).abs());
    }
    largest
}

/// Outcome of a two-sample χ² test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChiSquare {
    /// X².
    pub statistic: f64,
    /// Bins in use, less one.
    pub degrees: u32,
    /// Upper tail of χ² at the statistic; 1 without degrees.
    pub p: f64,
}

/// Tests whether counts `a` and `b` over the same bins come from one law; no continuity correction.
#[must_use]
pub fn two_sample_chi_square(a: &[u64], b: &[u64]) -> ChiSquare {
    let (rows_a, rows_b) = (a.iter().sum::<u64>() as f64, b.iter().sum::<u64>() as f64);
    if rows_a == 0.0 || rows_b == 0.0 {
        return ChiSquare { statistic: 0.0, degrees: 0, p: 1.0 };
    }
    let (up, down) = ((rows_b / rows_a).sqrt(), (rows_a / rows_b).sqrt());
    let (mut statistic, mut used) = (0.0, 0_u32);
    for (a, b) in a.iter().zip(b).filter(|(a, b)| **a + **b > 0) {
        let gap = up * *a as f64 - down * *b as f64;
        statistic += gap * gap / (*a + *b) as f64;
        used += 1;
    }
    let degrees = used.saturating_sub(1);
    let p = if degrees == 0 { 1.0 } else { gamma_upper(f64::from(degrees) / 2.0, statistic / 2.0) };
    ChiSquare { statistic, degrees, p }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_shares_are_at_distance_zero_and_disjoint_ones_at_the_end_of_the_scale() {
        let (p, q) = ([0.5, 0.5, 0.0], [0.0, 0.0, 1.0]);
        for distance in [psi_of_shares, jensen_shannon, total_variation, hellinger, binned_ks] {
            assert!(distance(&p, &p).abs() < 1e-9);
        }
        assert!((jensen_shannon(&p, &q) - 2_f64.ln().sqrt()).abs() < 1e-12);
        assert!((total_variation(&p, &q) - 1.0).abs() < 1e-12 && (hellinger(&p, &q) - 1.0).abs() < 1e-12);
        assert!((binned_ks(&p, &q) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn chi_square_of_a_two_by_two_table_has_its_closed_form() {
        let test = two_sample_chi_square(&[30, 70, 0], &[50, 50, 0]);
        assert_eq!(test.degrees, 1);
        assert!(
            (test.statistic - 200.0 * (30.0 * 50.0 - 70.0 * 50.0_f64).powi(2) / (100.0 * 100.0 * 80.0 * 120.0)).abs()
                < 1e-9
        );
        assert!((test.p - 0.003_892_417_122_778_6).abs() < 1e-12, "{}", test.p);
    }

    #[test]
    fn an_empty_window_and_a_constant_feature_read_as_no_drift() {
        let bins = FrozenBins::numbers(&[0.25; 400], 10).unwrap();
        let mut window = BinWindow::new(&bins, 300);
        assert_eq!(psi(&bins, &window), PsiReading { psi: 0.0, null_mean: 0.0, p: 1.0 });
        assert!(distances(&bins, &window).jensen_shannon.abs() < 1e-12);
        for _ in 0..300 {
            window.push(bins.bin(0.25));
        }
        assert_eq!(psi(&bins, &window), PsiReading { psi: 0.0, null_mean: 0.0, p: 1.0 });
        for _ in 0..200 {
            window.push(bins.bin(0.5));
        }
        assert!(psi(&bins, &window).psi > 1.0 && psi(&bins, &window).p < 1e-9);
    }
}
