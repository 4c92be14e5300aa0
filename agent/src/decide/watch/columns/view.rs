//! A column as status shows it.
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "row counts, rounded and at least 1")]
use serde::{Deserialize, Serialize};

use super::column::{Column, Standing};
use super::look::{Exact, Reading};
use crate::decide::drift::bins::BinWindow;
use crate::decide::drift::distances::{binned_ks, hellinger, jensen_shannon, total_variation};
use crate::decide::drift::kolmogorov::two_sample_p;
use crate::decide::watch::finding::Measure;

/// Distances of the window to the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distances {
    /// PSI with its null mean and p-value.
    #[serde(flatten)]
    pub reading: Reading,
    /// Jensen-Shannon distance, 0 to sqrt(ln 2).
    pub jensen_shannon: f64,
    /// Total variation distance, 0 to 1.
    pub total_variation: f64,
    /// Hellinger distance, 0 to 1.
    pub hellinger: f64,
    /// Largest gap of the binned distribution functions, and its p-value; meaningless for categories.
    pub ks: f64,
    /// p-value of `ks` over independent rows.
    pub ks_p: f64,
}

/// One column now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnView {
    /// What it is.
    pub measure: Measure,
    /// Usable rows of the baseline; 0 if the column cannot be judged.
    pub baseline_rows: u64,
    /// Values in the window.
    pub rows: u64,
    /// Rows of which the window takes one: more than 1 where rows follow their own past.
    pub step_rows: u32,
    /// Distances to the baseline; none before the window suffices for a verdict.
    pub distances: Option<Distances>,
    /// Whether the bins were reported.
    pub standing: Standing,
    /// Missing values since the baseline, and their rate over about the last 256 rows.
    pub missing: u64,
    /// See `missing`.
    pub missing_rate: f64,
    /// Values out of range, or unseen categories, since the baseline.
    pub out_of_range: u64,
    /// Their rate over about the last 256 rows.
    pub out_of_range_rate: f64,
    /// Values skipped because they came without the time that their season needs.
    pub untimed: u64,
    /// Lag-1 correlation of the rows, after the season.
    pub correlation: f64,
    /// Rows per value of the mean test.
    pub block_rows: u32,
    /// Whether a daily profile is subtracted.
    pub has_season: bool,
    /// Mean in the baseline, raw units; after the season where there is one. None for categories and without a baseline.
    pub mean_baseline: Option<f64>,
    /// Mean since the last shift, likewise.
    pub mean_now: Option<f64>,
    /// Whether a shift, a risen missing rate or a risen out-of-range rate was reported and still stands.
    pub held: Held,
}

/// What was reported and still stands, beside the bins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The mean.
    pub mean: bool,
    /// The missing rate.
    pub missing: bool,
    /// The out-of-range rate.
    pub out_of_range: bool,
}

impl Column {
    /// This column for status.
    pub(super) fn view(&self) -> ColumnView {
        let law = self.law.as_ref();
        let numeric = law.filter(|law| !law.bins.edges().is_empty());
        ColumnView {
            measure: self.spec.measure.clone(),
            baseline_rows: law.map_or(0, |law| law.bins.reference_rows()),
            rows: self.window.as_ref().map_or(0, BinWindow::rows),
            step_rows: self.step_rows,
            distances: self.distances(),
            standing: self.standing,
            missing: self.missing.count(),
            missing_rate: self.missing.rate(),
            out_of_range: self.outside.count(),
            out_of_range_rate: self.outside.rate(),
            untimed: self.untimed,
            correlation: self.mean.correlation(),
            block_rows: self.mean.rows_per_value(),
            has_season: law.is_some_and(|law| law.profile().is_some()),
            mean_baseline: numeric.map(|law| law.raw(0.0)),
            mean_now: numeric.and_then(|law| Some(law.raw(self.mean.mean()?))),
            held: Held {
                mean: self.mean.is_held(),
                missing: self.missing.is_held(),
                out_of_range: self.outside.is_held(),
            },
        }
    }

    /// All distances, exactly; `None` before a verdict.
    fn distances(&self) -> Option<Distances> {
        let reading = self.read(Exact::Always)?;
        let (law, window) = (self.law.as_ref()?, self.window.as_ref()?);
        let (p, q) = (law.bins.proportions(), window.proportions());
        let ks = binned_ks(p, &q);
        let baseline = law.bins.reference_rows() / u64::from(law.block_rows.max(1));
        let current = self.values_independent().round().max(1.0) as u64;
        Some(Distances {
            reading,
            jensen_shannon: jensen_shannon(p, &q),
            total_variation: total_variation(p, &q),
            hellinger: hellinger(p, &q),
            ks,
            ks_p: two_sample_p(ks, baseline.max(1), current),
        })
    }

    /// Rows over which the values of the window came, if none was missing.
    pub(super) fn window_span_rows(&self) -> u64 {
        self.window.as_ref().map_or(0, BinWindow::rows) * u64::from(self.step_rows)
    }
}
