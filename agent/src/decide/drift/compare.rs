//! Two recordings of the same columns, compared once: distances, p-values, and a verdict for each column.
#![expect(clippy::cast_precision_loss, reason = "category indices are small and exact in f32")]
use serde::Serialize;

use super::bins::{BinWindow, FrozenBins};
use super::distances::{self, DistanceReading, VERDICT_ROWS_MIN};
use super::holm::holm;
use super::kolmogorov::two_sample_p;
use super::statistics::{TwoSample, two_sample};

/// Bins of a column of numbers: deciles of the reference.
pub const BINS: usize = 10;

/// One column of both recordings.
#[derive(Clone, Debug, PartialEq)]
pub enum Pair<'a> {
    /// Numbers; `NaN` = missing.
    Numbers {
        /// The recording that is taken for normal.
        reference: &'a [f64],
        /// The recording in question.
        current: &'a [f64],
    },
    /// Texts; `None` = missing.
    Texts {
        /// The recording that is taken for normal.
        reference: &'a [Option<String>],
        /// The recording in question.
        current: &'a [Option<String>],
    },
}

/// What counts as drift.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// PSI above which a difference is large.
    pub psi: f64,
    /// Chance of any false verdict over all columns together that is accepted.
    pub level: f64,
}

/// What a comparison says about a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Large and no chance: PSI above the limit, adjusted p at most the level.
    Drift,
    /// No chance, but small: adjusted p at most the level, PSI within the limit.
    Notice,
    /// Nothing that chance does not explain.
    None,
    /// Fewer than [`VERDICT_ROWS_MIN`] usable values on one side.
    TooFewRows,
}

/// What is counted on one side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Rows.
    pub rows: u64,
    /// Of these without a value.
    pub missing: u64,
    /// Of these infinite.
    pub infinite: u64,
}

impl Tally {
    /// Rows with a value that can be compared.
    #[must_use]
    pub fn usable(self) -> u64 {
        self.rows - self.missing - self.infinite
    }

    fn of_numbers(values: &[f64]) -> Self {
        let count = |wanted: fn(&f64) -> bool| values.iter().filter(|value| wanted(value)).count() as u64;
        Self { rows: values.len() as u64, missing: count(|x| x.is_nan()), infinite: count(|x| x.is_infinite()) }
    }

    fn of_texts(values: &[Option<String>]) -> Self {
        let missing = values.iter().filter(|value| value.is_none()).count() as u64;
        Self { rows: values.len() as u64, missing, infinite: 0 }
    }
}

/// How one column differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Rows of the reference.
    pub reference: Tally,
    /// Rows of the recording in question.
    pub current: Tally,
    /// Binned distances, with their chi-square p; none if one side has no usable value.
    pub distances: Option<DistanceReading>,
    /// Statistics of the raw values, and the p-value of KS; none for texts, or if one side has no usable value.
    pub values: Option<(TwoSample, f64)>,
    /// Texts of the recording in question that the reference does not know, by rows.
    pub unseen: u64,
    /// Chi-square p, adjusted (Holm) for all columns with a verdict.
    pub adjusted_p: Option<f64>,
    /// What it comes to.
    pub verdict: Verdict,
}

/// Compares all columns under one rule; the result has the order of `pairs`.
#[must_use]
pub fn compare(pairs: &[Pair<'_>], rule: &Rule) -> Vec<Comparison> {
    let mut all: Vec<Comparison> = pairs.iter().map(one).collect();
    let judged: Vec<usize> = (0..all.len()).filter(|&index| enough(&all[index])).collect();
    let p_of = |index: &usize| all[*index].distances.map_or(1.0, |reading| reading.psi.p);
    let adjusted = holm(&judged.iter().map(p_of).collect::<Vec<_>>());
    for (index, adjusted) in judged.into_iter().zip(adjusted) {
        let comparison = &mut all[index];
        let large = comparison.distances.is_some_and(|reading| reading.psi.psi > rule.psi);
        comparison.adjusted_p = Some(adjusted);
        comparison.verdict = match (adjusted <= rule.level, large) {
            (true, true) => Verdict::Drift,
            (true, false) => Verdict::Notice,
            (false, _) => Verdict::None,
        };
    }
    all
}

fn enough(comparison: &Comparison) -> bool {
    comparison.distances.is_some() && comparison.reference.usable().min(comparison.current.usable()) >= VERDICT_ROWS_MIN
}

fn one(pair: &Pair<'_>) -> Comparison {
    match pair {
        Pair::Numbers { reference, current } => {
            let bins = FrozenBins::from_numbers(reference.iter().copied(), BINS, None).ok();
            let values = two_sample(reference, current);
            let (first, second) = (Tally::of_numbers(reference), Tally::of_numbers(current));
            let values = values.map(|found| (found, two_sample_p(found.ks, first.usable(), second.usable())));
            let places = current.iter().copied();
            finished(first, second, bins.and_then(|bins| read(&bins, places, second)), values, 0)
        }
        Pair::Texts { reference, current } => {
            let mut known: Vec<&str> = reference.iter().flatten().map(String::as_str).collect();
            known.sort_unstable();
            known.dedup();
            let index = |text: &Option<String>| {
                let Some(text) = text else { return f32::NAN };
                known.binary_search(&text.as_str()).unwrap_or(known.len()) as f32
            };
            let indices: Vec<f32> = reference.iter().map(index).collect();
            let bins = FrozenBins::categories(&indices, known.len()).ok();
            let (first, second) = (Tally::of_texts(reference), Tally::of_texts(current));
            let places = current.iter().map(|text| f64::from(index(text)));
            let unseen = current.iter().flatten().filter(|text| known.binary_search(&text.as_str()).is_err()).count();
            finished(first, second, bins.and_then(|bins| read(&bins, places, second)), None, unseen as u64)
        }
    }
}

fn read(bins: &FrozenBins, values: impl Iterator<Item = f64>, tally: Tally) -> Option<DistanceReading> {
    let mut window = BinWindow::new(bins, usize::try_from(tally.rows).unwrap_or(usize::MAX));
    values.for_each(|value| window.record(bins.place(value)));
    (window.rows() > 0).then(|| distances::distances(bins, &window))
}

fn finished(
    reference: Tally,
    current: Tally,
    distances: Option<DistanceReading>,
    values: Option<(TwoSample, f64)>,
    unseen: u64,
) -> Comparison {
    Comparison { reference, current, distances, values, unseen, adjusted_p: None, verdict: Verdict::TooFewRows }
}

#[cfg(test)]
mod tests {
    use super::super::seeded::Draws;
    use super::*;

    const RULE: Rule = Rule { psi: 0.25, level: 0.01 };

    fn normal(seed: u64, rows: usize, mean: f64) -> Vec<f64> {
        let mut draws = Draws::new(seed);
        (0..rows).map(|_| mean + draws.normal()).collect()
    }

    fn verdicts(pairs: &[(Vec<f64>, Vec<f64>)]) -> Vec<Verdict> {
        let pairs: Vec<_> = pairs.iter().map(|(reference, current)| Pair::Numbers { reference, current }).collect();
        compare(&pairs, &RULE).into_iter().map(|comparison| comparison.verdict).collect()
    }

    #[test]
    fn a_large_shift_is_drift_a_small_one_a_notice_and_few_rows_have_no_verdict() {
        let reference = normal(1, 5000, 0.0);
        let pairs = [
            (reference.clone(), normal(2, 2000, 1.0)),
            (reference.clone(), normal(3, 2000, 0.2)),
            (reference.clone(), normal(4, 2000, 0.0)),
            (reference.clone(), normal(5, 199, 3.0)),
            (reference[..199].to_vec(), normal(6, 500, 3.0)),
        ];
        assert_eq!(
            verdicts(&pairs),
            [Verdict::Drift, Verdict::Notice, Verdict::None, Verdict::TooFewRows, Verdict::TooFewRows]
        );
    }

    #[test]
    fn many_columns_are_judged_together() {
        // Each p alone is below the level about once in a hundred columns; together none may stand.
        let pairs: Vec<_> = (0..200).map(|seed| (normal(seed, 500, 0.0), normal(seed + 1000, 300, 0.0))).collect();
        assert!(verdicts(&pairs).iter().all(|verdict| *verdict == Verdict::None));
    }

    #[test]
    fn missing_and_infinite_values_are_counted_and_unseen_texts_are_one_more_bin() {
        let mut current = normal(2, 300, 0.0);
        current[..20].fill(f64::NAN);
        current[20..25].fill(f64::INFINITY);
        let reference = normal(1, 300, 0.0);
        let found = &compare(&[Pair::Numbers { reference: &reference, current: &current }], &RULE)[0];
        assert_eq!(found.current, Tally { rows: 300, missing: 20, infinite: 5 });
        assert_eq!(found.distances.unwrap().rows, 275);
        let texts = |text: &str, rows: usize| vec![Some(text.to_owned()); rows];
        let reference = [texts("a", 200), texts("b", 100)].concat();
        let current = [texts("a", 100), texts("c", 100), texts("d", 50), vec![None; 7]].concat();
        let found = &compare(&[Pair::Texts { reference: &reference, current: &current }], &RULE)[0];
        assert_eq!((found.unseen, found.current.missing, found.verdict), (150, 7, Verdict::Drift));
    }

    #[test]
    fn nothing_to_compare_with_is_no_verdict_and_no_panic() {
        let gap = vec![f64::NAN; 500];
        let huge = [f64::MAX, f64::MIN, 0.0].repeat(200);
        let ones = vec![1.0; 500];
        assert_eq!(
            verdicts(&[(gap.clone(), ones.clone()), (ones.clone(), gap), (Vec::new(), ones.clone())]),
            [Verdict::TooFewRows; 3]
        );
        assert_eq!(verdicts(&[(ones.clone(), ones.clone()), (huge.clone(), huge)]), [Verdict::None; 2]);
        assert_eq!(verdicts(&[(ones, vec![2.0; 500])]), [Verdict::Drift]);
    }
}
