//! How columns are watched: which tests, how often, and how many false alarms together.
use serde::{Deserialize, Serialize};

use crate::decide::drift::{SettingError, require};

/// A test that every column has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnTest {
    /// Shares per bin against the baseline: PSI with a χ² p-value.
    Bins,
    /// Mean shift: ADWIN on guarded, standardised values.
    Mean,
    /// Rates of missing values, and of values out of range or categories unseen in training: e-SR.
    Quality,
}

impl ColumnTest {
    /// Every test.
    pub const ALL: [Self; 3] = [Self::Bins, Self::Mean, Self::Quality];
}

/// How columns are compared with their baseline. A value outside of its range is named by [`ColumnSettings::check`] and works as the
/// nearest allowed one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnSettings {
    /// Values in the window that is compared with the baseline; 200 to 4096. Default 200, the fewest at which a PSI of 0.25 is not
    /// chance; 500 is sensible where rows come fast, or where the baseline has fewer than 500 rows.
    pub window_rows: u32,
    /// Rows from one comparison of the bins to the next; 1 to 4096. Default 64, a third of the window.
    pub every_rows: u32,
    /// Bins of a number, of equal share in the baseline; 2 to 64. Default 10, to which the known rules for PSI belong. Takes effect
    /// at the next rebaseline.
    pub bins: u32,
    /// PSI above which a column has drifted, if its p-value agrees; 0.01 to 10. Default 0.25, about a shift by half a standard
    /// deviation, because people know it.
    pub psi: f64,
    /// Share of the features in alarm from which the data as a whole have drifted; above 0, at most 1. Default 0.5.
    pub share: f64,
    /// ADWIN's bound of a false cut for one column at a run length of 10,000 rows; 1e-9 to 0.1. It is divided by the number of columns
    /// and by run length / 10,000. Default 0.002, at which a single column stays below 0.05 false alarms in 10,000 rows.
    pub mean_level: f64,
    /// Fraction of the limit a statistic must fall below, over one whole look, before its column is reported again; 0.1 to 1.
    /// Default 0.8, so that a statistic that hovers at its limit is one alarm and not many.
    pub release: f64,
}

impl Default for ColumnSettings {
    fn default() -> Self {
        Self { window_rows: 200, every_rows: 64, bins: 10, psi: 0.25, share: 0.5, mean_level: 0.002, release: 0.8 }
    }
}

impl ColumnSettings {
    /// Names the first setting outside of its range.
    ///
    /// # Errors
    ///
    /// The setting, its value and what would be accepted.
    pub fn check(&self) -> Result<(), SettingError> {
        let within = |value: f64, low: f64, high: f64| value >= low && value <= high;
        let refuse =
            |name, value, low, high, expected| require(within(value, low, high), "columns", name, value, expected);
        refuse("window_rows", self.window_rows.into(), 200.0, 4096.0, "200 to 4096")?;
        refuse("every_rows", self.every_rows.into(), 1.0, 4096.0, "1 to 4096")?;
        refuse("bins", self.bins.into(), 2.0, 64.0, "2 to 64")?;
        refuse("psi", self.psi, 0.01, 10.0, "0.01 to 10")?;
        refuse("share", self.share, f64::MIN_POSITIVE, 1.0, "above 0, at most 1")?;
        refuse("mean_level", self.mean_level, 1e-9, 0.1, "1e-9 to 0.1")?;
        refuse("release", self.release, 0.1, 1.0, "0.1 to 1")
    }

    /// The nearest settings within range; what is not a number becomes the default.
    fn within_range(&self) -> Self {
        let default = Self::default();
        Self {
            window_rows: self.window_rows.clamp(200, 4096),
            every_rows: self.every_rows.clamp(1, 4096),
            bins: self.bins.clamp(2, 64),
            psi: number(self.psi, 0.01, 10.0, default.psi),
            share: number(self.share, f64::MIN_POSITIVE, 1.0, default.share),
            mean_level: number(self.mean_level, 1e-9, 0.1, default.mean_level),
            release: number(self.release, 0.1, 1.0, default.release),
        }
    }
}

fn number(value: f64, low: f64, high: f64, default: f64) -> f64 {
    if value.is_nan() { default } else { value.clamp(low, high) }
}

/// What a set of columns is to do: which tests, how strictly, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ColumnPlan {
    /// Tests that run; they see different faults: a changed shape, a small lasting shift, a dying sensor.
    pub tests: Vec<ColumnTest>,
    /// Rows to a false alarm of all tests on all columns together, on average; 100 to 1e12. The tests share it evenly, and within a
    /// test the columns do.
    pub run_length_rows: f64,
    /// How columns are compared.
    pub how: ColumnSettings,
}

impl Default for ColumnPlan {
    /// All tests, a false alarm in 10,000 rows.
    fn default() -> Self {
        Self { tests: ColumnTest::ALL.to_vec(), run_length_rows: 10_000.0, how: ColumnSettings::default() }
    }
}

impl ColumnPlan {
    /// The nearest plan within range.
    pub(super) fn within_range(&self) -> Self {
        Self {
            tests: self.tests.clone(),
            run_length_rows: number(self.run_length_rows, 100.0, 1e12, 10_000.0),
            how: self.how.within_range(),
        }
    }

    /// Whether a test runs.
    pub(super) fn has(&self, test: ColumnTest) -> bool {
        self.tests.contains(&test)
    }

    /// Rows to a false alarm of one of the tests, all its columns together.
    pub(super) fn test_run_length_rows(&self) -> f64 {
        let tests = ColumnTest::ALL.into_iter().filter(|test| self.has(*test)).count();
        self.run_length_rows * f64::from(u8::try_from(tests.max(1)).unwrap_or(3))
    }

    /// Level of one look at the bins of all columns: the false alarms of the looks within a run length add up to one.
    pub(super) fn look_level(&self) -> f64 {
        (f64::from(self.how.every_rows) / self.test_run_length_rows()).min(0.05)
    }

    /// ADWIN's delta for one of `columns`.
    #[expect(clippy::cast_precision_loss, reason = "nobody watches 2^53 columns")]
    pub(super) fn mean_delta(&self, columns: usize) -> f64 {
        let tightened = self.how.mean_level * (10_000.0 / self.run_length_rows) / columns.max(1) as f64;
        tightened.clamp(1e-30, 0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_range_and_others_are_named() {
        let default = ColumnSettings::default();
        assert_eq!(default.check(), Ok(()));
        assert_eq!(default.within_range(), default);
        let short = ColumnSettings { window_rows: 50, ..default.clone() };
        assert_eq!(short.check().unwrap_err().to_string(), "columns: `window_rows` is 50; it must be 200 to 4096");
        assert_eq!(short.within_range().window_rows, 200);
        let odd = ColumnSettings { psi: f64::NAN, share: 0.0, ..default };
        assert!(odd.check().is_err() && odd.within_range().check().is_ok());
        let endless = ColumnPlan { run_length_rows: f64::INFINITY, ..ColumnPlan::default() };
        assert_eq!(endless.within_range().run_length_rows.to_bits(), 1e12_f64.to_bits());
    }

    #[test]
    fn columns_share_the_run_length_and_a_longer_one_is_stricter() {
        let plan = ColumnPlan::default();
        assert!((plan.mean_delta(1) - plan.how.mean_level).abs() < 1e-15);
        assert!((plan.mean_delta(40) - plan.how.mean_level / 40.0).abs() < 1e-15);
        let longer = ColumnPlan { run_length_rows: 50_000.0, ..plan.clone() };
        assert!((longer.mean_delta(40) - plan.how.mean_level / 200.0).abs() < 1e-15);
        assert!((longer.look_level() - plan.look_level() / 5.0).abs() < 1e-15);
        let alone = ColumnPlan { tests: vec![ColumnTest::Bins], ..plan.clone() };
        assert!((plan.look_level() - alone.look_level() / 3.0).abs() < 1e-15, "a test among three has a third");
    }

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let error = serde_json::from_str::<ColumnSettings>(r#"{"windw_rows": 300}"#).unwrap_err();
        assert!(error.to_string().contains("windw_rows"), "{error}");
    }
}
