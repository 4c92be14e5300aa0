//! Rows of an anomaly model that count as normal although nobody has said so: of normal rows hardly any is ever labelled.
//!
//! ```text
//!  labelled ──────────────────────────────► what the label says
//!  not called anomalous ──────────────────► normal
//!  called anomalous ─┬─ as most of them ──► normal: not the row has changed, but what is normal
//!                    └─ stands out ───────► neither: left out
//! ```
//!
//! The champion's word alone would not do: once the plant has changed it calls everything anomalous, and would never be trained on
//! what is normal now. Nor would the rows alone: a hundredth of the normal ones stands out too.

/// How many robust deviations from the median stand out (modified z-score; Iglewicz and Hoaglin 1993): as far out as one normal row in
/// a hundred lies, for the threshold calls as many anomalous anyway. The usual 3.5 leaves an eighth of the faults in where all sensors have
/// moved, and a few of them among the rows the threshold is set on make the detector deaf.
const DEVIATIONS: f64 = 2.33;
/// A standard deviation in median absolute deviations of normal values.
const PER_MAD: f64 = 1.4826;
/// Errors below this are rounding, whose logarithm says nothing.
const ERROR_MIN: f32 = 1e-12;

/// Which rows of a stretch of the stream are left out, by the champion's reconstruction `errors` and its `threshold`: those it calls
/// anomalous whose error, as a logarithm, lies far above the median of all of them. What is no number is left out.
#[must_use]
pub fn stand_out(errors: &[f32], threshold: f32) -> Vec<bool> {
    let logs = |error: &f32| f64::from(error.max(ERROR_MIN).ln());
    let mut sorted: Vec<f64> = errors.iter().filter(|error| error.is_finite()).map(logs).collect();
    let middle = median(&mut sorted);
    let mut distances: Vec<f64> = sorted.iter().map(|log| (log - middle).abs()).collect();
    let cut = middle + DEVIATIONS * PER_MAD * median(&mut distances);
    errors.iter().map(|error| !error.is_finite() || *error > threshold && logs(error) > cut).collect()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        even if even.is_multiple_of(2) => f64::midpoint(values[half - 1], values[half]),
        _ => values[half],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors around `typical`, as a sum of squares spreads them, and every `every`th a hundred times that.
    fn errors(rows: u16, typical: f32, every: u16) -> Vec<f32> {
        let one = |row: u16| {
            let spread = 0.5 + f32::from(row * 37 % 100) / 100.0;
            typical * spread * if row % every == every - 1 { 100.0 } else { 1.0 }
        };
        (0..rows).map(one).collect()
    }

    fn left_out(errors: &[f32], threshold: f32) -> Vec<usize> {
        let out = stand_out(errors, threshold);
        (0..errors.len()).filter(|row| out[*row]).collect()
    }

    #[test]
    fn faults_are_left_out_and_every_normal_row_counts() {
        let errors = errors(500, 0.1, 50);
        assert_eq!(left_out(&errors, 0.2), (0..10).map(|fault| fault * 50 + 49).collect::<Vec<_>>());
    }

    #[test]
    fn where_everything_is_called_anomalous_only_what_stands_out_among_it_is_left_out() {
        let errors = errors(500, 30.0, 50);
        assert!(errors.iter().all(|error| *error > 0.2), "all alarmed");
        assert_eq!(left_out(&errors, 0.2), (0..10).map(|fault| fault * 50 + 49).collect::<Vec<_>>());
    }

    #[test]
    fn what_the_champion_does_not_call_anomalous_counts_however_far_out_it_lies() {
        let errors = errors(500, 0.001, 50);
        assert_eq!(left_out(&errors, 1.0), [0; 0]);
    }

    #[test]
    fn no_rows_equal_rows_and_rows_without_a_number_are_no_trouble() {
        assert_eq!(stand_out(&[], 1.0), [false; 0]);
        assert_eq!(stand_out(&[5.0; 3], 1.0), [false; 3]);
        assert_eq!(stand_out(&[0.0, 0.0, 0.0, 9.0], 1.0), [false, false, false, true]);
        assert_eq!(stand_out(&[f32::NAN, 0.5, f32::INFINITY, 0.5], 1.0), [true, false, true, false]);
        assert_eq!(stand_out(&[f32::NAN], 1.0), [true]);
    }
}
