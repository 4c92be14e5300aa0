//! Exact two-sample statistics over raw values, for reports: KS, Wasserstein, energy and Cramér-von Mises.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

/// The four statistics of one pair of samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TwoSample {
    /// Kolmogorov-Smirnov D, the largest gap of the distribution functions F and G.
    pub ks: f64,
    /// Wasserstein-1 distance `∫|F−G|`, in units of the values.
    pub wasserstein: f64,
    /// Energy distance `sqrt(2∫(F−G)²)`.
    pub energy: f64,
    /// Cramér-von Mises `U/(nm(n+m)) − (4nm−1)/(6(n+m))`, mid-ranks.
    pub cramer_von_mises: f64,
}

/// Compares two samples; values that are not finite are left out. `None` if nothing is left of one of them.
///
/// Sorts copies: `O((n+m) log(n+m))`.
#[must_use]
pub fn two_sample(first: &[f64], second: &[f64]) -> Option<TwoSample> {
    let (first, second) = (sorted(first), sorted(second));
    if first.is_empty() || second.is_empty() {
        return None;
    }
    let (n, m) = (first.len() as f64, second.len() as f64);
    let (mut ks, mut wasserstein, mut energy) = (0.0_f64, 0.0, 0.0);
    let (mut rank_gap_x, mut rank_gap_y) = (0.0, 0.0);
    let (mut below_x, mut below_y) = (0, 0);
    let mut previous: Option<(f64, f64)> = None;
    while below_x < first.len() || below_y < second.len() {
        let value = match (first.get(below_x), second.get(below_y)) {
            (Some(a), Some(b)) => a.min(*b),
            (Some(a), None) | (None, Some(a)) => *a,
            (None, None) => break,
        };
        if let Some((position, gap)) = previous {
            wasserstein += gap.abs() * (value - position);
            energy += gap * gap * (value - position);
        }
        let ties_x = first[below_x..].iter().take_while(|a| **a <= value).count();
        let ties_y = second[below_y..].iter().take_while(|b| **b <= value).count();
        let mid_rank = (below_x + below_y) as f64 + (ties_x + ties_y + 1) as f64 / 2.0;
        rank_gap_x += (1..=ties_x).map(|i| (mid_rank - (below_x + i) as f64).powi(2)).sum::<f64>();
        rank_gap_y += (1..=ties_y).map(|i| (mid_rank - (below_y + i) as f64).powi(2)).sum::<f64>();
        below_x += ties_x;
        below_y += ties_y;
        let gap = below_x as f64 / n - below_y as f64 / m;
        ks = ks.max(gap.abs());
        previous = Some((value, gap));
    }
    let u = n * rank_gap_x + m * rank_gap_y;
    let cramer_von_mises = u / (n * m * (n + m)) - (4.0 * n * m - 1.0) / (6.0 * (n + m));
    Some(TwoSample { ks, wasserstein, energy: (2.0 * energy).sqrt(), cramer_von_mises })
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_copy_lies_one_shift_away() {
        let first = [0.0, 1.0, 2.0, 3.0];
        let second = first.map(|x| x + 10.0);
        let statistics = two_sample(&first, &second).unwrap();
        assert!((statistics.ks - 1.0).abs() < 1e-12 && (statistics.wasserstein - 10.0).abs() < 1e-12);
        let same = two_sample(&first, &first).unwrap();
        assert!(same.ks.abs() + same.wasserstein.abs() + same.energy.abs() < 1e-12);
    }

    #[test]
    fn zeros_of_both_signs_are_one_value_and_an_empty_side_has_no_answer() {
        assert!(two_sample(&[-0.0], &[0.0]).unwrap().ks.abs() < 1e-12);
        assert_eq!(two_sample(&[f64::NAN], &[0.0]), None);
    }
}
