//! Holm: which of several p-values stand when all are looked at together.
#![expect(clippy::cast_precision_loss, reason = "nobody watches 2^53 features")]

/// Smallest level at which each of the tests would be rejected with all the others beside it; NaN counts as 1.
///
/// Same order as given. Reject where the result is at most the level: the chance of any false rejection is then at most the level,
/// whatever the dependence between the tests. Source: Holm, Scandinavian Journal of Statistics, 1979.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let clean = |index: usize| {
        if p_values[index].is_nan() { 1.0 } else { p_values[index].clamp(0.0, 1.0) }
    };
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|first, second| clean(*first).total_cmp(&clean(*second)));
    let mut adjusted = vec![1.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, index) in order.into_iter().enumerate() {
        let remaining = (p_values.len() - rank) as f64;
        largest = largest.max(remaining * clean(index)).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

/// Which tests are rejected at `level`, in the order given.
#[must_use]
pub fn holm_rejections(p_values: &[f64], level: f64) -> Vec<bool> {
    holm(p_values).into_iter().map(|p| p <= level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_faces_all_tests_and_the_next_one_fewer() {
        let adjusted = holm(&[0.04, 0.01, 0.03]);
        let expected = [0.06, 0.03, 0.06];
        assert!(adjusted.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-12), "{adjusted:?}");
        assert_eq!(holm_rejections(&[0.04, 0.01, 0.03], 0.05), [false, true, false]);
    }

    #[test]
    fn a_test_behind_one_that_stands_is_never_rejected() {
        assert_eq!(holm_rejections(&[0.03, 0.04, 0.05], 0.05), [false, false, false]);
        assert_eq!(holm_rejections(&[f64::NAN, 0.0], 0.05), [false, true]);
        assert!(holm(&[]).is_empty());
    }
}
