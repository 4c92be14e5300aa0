//! Calibration: what a quiet recording says about the drift tests, and how late they would find a shift in data like it.
//!
//! Nothing is computed from a formula: the recording runs through the very columns the agent watches, with the guards, the season and
//! the share of the run length that a feature has there. Delays come from shifts injected into resamples of the recording, so that
//! its correlation and the shape of its law are in the figures.
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "row counts; values that the agent holds as f32"
)]
mod resample;
pub mod whole;

use serde::Serialize;
use trainer_core::schema::{Feature, FeatureKind};

use super::columns::{ColumnPlan, ColumnSettings, ColumnSpec, ColumnView, Columns};
use super::finding::{Finding, Grade, Measure};
use super::{BASELINE_ROWS_MAX, WatchSettings, Watcher};
use crate::decide::drift::MAGNITUDE_MAX;
use crate::decide::drift::season::{NoSeason, Profile};
use crate::decide::drift::seeded::Draws;
use crate::decide::time::Timestamp;
use resample::Resampler;
use whole::moments;

/// Fewest usable rows of a column: half of them freeze a reference, the other half must fill several windows.
pub const ROWS_MIN: u64 = 1_000;
/// Shifts whose delay is measured, in standard deviations of the column.
pub const SHIFTS: [f64; 3] = [0.5, 1.0, 2.0];
/// Resamples behind each delay.
pub const RESAMPLES: usize = 100;
/// Windows that are tried, smallest first; the settings take 200 to 4096.
const WINDOWS: [u32; 5] = [200, 500, 1_000, 2_000, 4_000];
/// Looks that a window must have on the second half, or it says nothing.
const LOOKS_MIN: u64 = 8;
/// Rows that a shift is followed at least, and in windows.
const FOLLOWED_ROWS_MIN: usize = 5_000;
const FOLLOWED_WINDOWS: usize = 10;
/// Quiet rows before a shift, at least: the guards must have made up their minds.
const QUIET_ROWS_MIN: usize = 1_000;

/// What is wanted of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Wanted {
    /// Rows to a false alarm of the whole watch, on average.
    pub run_length_rows: f64,
    /// Features that are watched together.
    pub features: usize,
    /// Seed of the resamples.
    pub seed: u64,
}

impl Wanted {
    /// What one of the features gets of the agent's plan: the run length of its family, times the features that share it.
    fn plan(&self, window_rows: u32) -> ColumnPlan {
        let settings = WatchSettings { run_length_rows: self.run_length_rows, ..WatchSettings::default() };
        let plan = settings.feature_plan(settings.run_lengths().features * self.features.max(1) as f64);
        ColumnPlan { how: ColumnSettings { window_rows, ..plan.how }, ..plan }
    }
}

/// A column that is too short to say anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{usable} usable rows are too few: {missing} more are needed")]
pub struct TooShort {
    /// Rows with a usable value.
    pub usable: u64,
    /// Rows that are missing.
    pub missing: u64,
}

/// Whether the time of day shows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "season", rename_all = "snake_case")]
pub enum Season {
    /// It does, and is subtracted.
    Daily {
        /// Share of the variance that the profile explains, each row judged without itself.
        explained: f64,
    },
    /// It does not.
    None {
        /// The same; may be negative.
        explained: f64,
    },
    /// The recording is too short to tell a day from a drift.
    TooShort {
        /// Hours it spans.
        hours: i64,
    },
}

/// How PSI windows of one length behave on the recording: baseline from its first half, windows over the second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WindowTrial {
    /// Values of the window.
    pub window_rows: u32,
    /// Looks at a full window.
    pub looks: u64,
    /// Looks with PSI above its limit, whether or not the p-value agreed.
    pub above: u64,
    /// Largest PSI of all looks.
    pub largest_psi: f64,
}

/// What a recording says about one column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Survey {
    /// Rows of the recording.
    pub rows: u64,
    /// Share of rows without a usable value.
    pub missing_rate: f64,
    /// Mean of the column.
    pub mean: f64,
    /// Standard deviation; 0 for a constant.
    pub deviation: f64,
    /// Correlation of neighbouring rows that the guard measured at the end, season taken out.
    pub correlation: f64,
    /// Rows per value of the mean test at the end.
    pub block_rows: u32,
    /// Whether the time of day shows.
    pub season: Season,
    /// Alarms about the mean on the recording itself.
    pub mean_alarms: u64,
    /// Windows that were tried, smallest first, up to the first quiet one.
    pub windows: Vec<WindowTrial>,
    /// Smallest window that stayed quiet; the largest one tried if none did.
    pub window_rows: u32,
    /// Whether that window stayed quiet.
    pub quiet: bool,
}

/// A test whose delay is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// PSI of the window against the baseline.
    Psi,
    /// ADWIN on the guarded mean.
    Mean,
    /// QT-EWMA on whole rows of which one column moves, each in turn.
    QtEwmaOne,
    /// QT-EWMA on whole rows of which every column moves, by its own deviation.
    QtEwmaAll,
    /// e-SR on the loss.
    ESr,
}

impl Test {
    /// The first alarm of this test among findings.
    fn alarms(self, findings: &[Finding]) -> usize {
        let watcher = match self {
            Self::Psi => Watcher::Psi,
            Self::Mean => Watcher::Mean,
            Self::QtEwmaOne | Self::QtEwmaAll => Watcher::QtEwma,
            Self::ESr => Watcher::ESr,
        };
        let of = |finding: &&Finding| {
            let about = matches!(finding.measure, Measure::Feature(_));
            finding.watcher == watcher && finding.grade == Grade::Alarm && about
        };
        findings.iter().filter(of).count()
    }
}

/// How late a test finds a shift.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Delay {
    /// Which test.
    pub test: Test,
    /// Shift in standard deviations.
    pub shift: f64,
    /// Rows from the shift to the alarm, median over the resamples; none if fewer than half found it.
    pub median_rows: Option<u64>,
    /// The 90 % quantile; none if fewer than nine in ten found it.
    pub p90_rows: Option<u64>,
    /// Share of the resamples in which it was found.
    pub found: f64,
    /// Rows after which the search ended.
    pub followed_rows: u64,
}

/// Delays of both tests, and how often they cried wolf on the resamples before the shift.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Delays {
    /// Per test and shift.
    pub delays: Vec<Delay>,
    /// Rows of resamples without a shift.
    pub quiet_rows: u64,
    /// False alarms of PSI on them.
    pub psi_false_alarms: u64,
    /// False alarms about the mean on them.
    pub mean_false_alarms: u64,
}

/// One column of a recording, cleaned and measured.
#[derive(Clone, Debug)]
pub struct Column {
    /// `NaN` where there is no usable value.
    values: Vec<f64>,
    times: Vec<Timestamp>,
    survey: Survey,
}

impl Column {
    /// Measures a column; `times` holds the time of each row.
    ///
    /// # Errors
    ///
    /// [`TooShort`] below [`ROWS_MIN`] usable values.
    pub fn new(values: &[f64], times: &[Timestamp], wanted: &Wanted) -> Result<Self, TooShort> {
        let clean = |x: &f64| if x.abs() <= MAGNITUDE_MAX { *x } else { f64::NAN };
        let (values, times): (Vec<f64>, Vec<Timestamp>) = values.iter().map(clean).zip(times.iter().copied()).unzip();
        let usable: Vec<(f64, Timestamp)> =
            values.iter().copied().zip(times.iter().copied()).filter(|(x, _)| !x.is_nan()).collect();
        let count = usable.len() as u64;
        if count < ROWS_MIN {
            return Err(TooShort { usable: count, missing: ROWS_MIN - count });
        }
        let (mean, deviation) = moments(usable.iter().map(|(x, _)| *x));
        let survey = Survey {
            rows: values.len() as u64,
            missing_rate: 1.0 - count as f64 / values.len() as f64,
            mean,
            deviation,
            correlation: 0.0,
            block_rows: 1,
            season: season(&usable),
            mean_alarms: 0,
            windows: Vec::new(),
            window_rows: WINDOWS[0],
            quiet: true,
        };
        let mut column = Self { values, times, survey };
        column.guard(wanted);
        column.try_windows(wanted);
        Ok(column)
    }

    /// What the recording says.
    #[must_use]
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The agent's columns for this one alone, their baseline strided over its first `rows` rows.
    fn watched(&self, rows: usize, plan: &ColumnPlan) -> Columns {
        let feature = Feature { name: "column".to_owned(), unit: None, kind: FeatureKind::Number, range: None };
        let mut columns = Columns::new(vec![ColumnSpec::of_feature(&feature)], plan);
        let stride = rows.div_ceil(BASELINE_ROWS_MAX).max(1);
        let each = || (0..rows).step_by(stride);
        let values: Vec<f32> = each().map(|row| self.values[row] as f32).collect();
        let times: Vec<Timestamp> = each().map(|row| self.times[row]).collect();
        columns.rebaseline(&values, Some(&times));
        columns
    }

    fn take(&self, columns: &mut Columns, row: usize, moved: f64) -> Vec<Finding> {
        columns.sample(&[(self.values[row] + moved) as f32], Some(self.times[row]))
    }

    fn guard(&mut self, wanted: &Wanted) {
        let mut columns = self.watched(self.values.len(), &wanted.plan(WINDOWS[0]));
        let alarms: usize =
            (0..self.values.len()).map(|row| Test::Mean.alarms(&self.take(&mut columns, row, 0.0))).sum();
        let view = view(&columns);
        self.survey.mean_alarms = alarms as u64;
        self.survey.correlation = view.as_ref().map_or(0.0, |view| view.correlation);
        self.survey.block_rows = view.map_or(1, |view| view.block_rows);
    }

    fn try_windows(&mut self, wanted: &Wanted) {
        for window_rows in WINDOWS {
            let trial = self.try_window(window_rows, wanted);
            if trial.looks < LOOKS_MIN && !self.survey.windows.is_empty() {
                break;
            }
            self.survey.windows.push(trial);
            self.survey.window_rows = window_rows;
            self.survey.quiet = trial.above == 0;
            if self.survey.quiet {
                break;
            }
        }
    }

    fn try_window(&self, window_rows: u32, wanted: &Wanted) -> WindowTrial {
        let (half, plan) = (self.values.len() / 2, wanted.plan(window_rows));
        let mut columns = self.watched(half, &plan);
        let mut trial = WindowTrial { window_rows, looks: 0, above: 0, largest_psi: 0.0 };
        for row in half..self.values.len() {
            self.take(&mut columns, row, 0.0);
            if !columns.samples().is_multiple_of(plan.how.every_rows.max(1).into()) {
                continue;
            }
            let full = view(&columns).filter(|view| view.rows >= u64::from(window_rows));
            if let Some(distances) = full.and_then(|view| view.distances) {
                trial.looks += 1;
                trial.above += u64::from(distances.reading.psi > plan.how.psi);
                trial.largest_psi = trial.largest_psi.max(distances.reading.psi);
            }
        }
        trial
    }

    /// Measures the delays with PSI windows of `window_rows`; the same seed gives the same figures. A constant has none.
    #[must_use]
    pub fn delays(&self, window_rows: u32, wanted: &Wanted) -> Delays {
        let mut delays = Delays { delays: Vec::new(), quiet_rows: 0, psi_false_alarms: 0, mean_false_alarms: 0 };
        if self.survey.deviation <= 0.0 {
            return delays;
        }
        let plan = wanted.plan(window_rows);
        let window_rows = window_rows as usize;
        let baseline = self.watched(self.values.len(), &plan);
        let mut found = [(); SHIFTS.len()].map(|()| (Vec::new(), Vec::new()));
        let quiet = QUIET_ROWS_MIN.max(window_rows);
        let followed = FOLLOWED_ROWS_MIN.max(FOLLOWED_WINDOWS * window_rows);
        let mut seeds = Draws::new(wanted.seed);
        for _ in 0..RESAMPLES {
            let mut draws = Draws::new(seeds.bits());
            // The shift falls anywhere between two looks.
            let before = quiet + draws.below(plan.how.every_rows.max(1) as usize);
            let mut rows = self.resampler(draws);
            let mut columns = baseline.clone();
            for _ in 0..before {
                let findings = self.take(&mut columns, rows.next_row(), 0.0);
                delays.psi_false_alarms += Test::Psi.alarms(&findings) as u64;
                delays.mean_false_alarms += Test::Mean.alarms(&findings) as u64;
            }
            delays.quiet_rows += before as u64;
            for (shift, (by_psi, by_mean)) in SHIFTS.iter().zip(&mut found) {
                let [psi, mean] =
                    self.first_alarms(columns.clone(), rows.clone(), shift * self.survey.deviation, followed);
                by_psi.push(psi);
                by_mean.push(mean);
            }
        }
        for (shift, (by_psi, by_mean)) in SHIFTS.into_iter().zip(found) {
            for (test, found) in [(Test::Psi, by_psi), (Test::Mean, by_mean)] {
                delays.delays.push(delay(test, shift, found, followed as u64));
            }
        }
        delays.delays.sort_by_key(|delay| delay.test == Test::Mean);
        delays
    }

    /// Rows after which PSI and the mean test find the column moved, within `followed` rows.
    fn first_alarms(&self, mut columns: Columns, mut rows: Resampler, moved: f64, followed: usize) -> [Option<u64>; 2] {
        let mut first = [None; 2];
        for number in 1..=followed as u64 {
            let findings = self.take(&mut columns, rows.next_row(), moved);
            for (first, test) in first.iter_mut().zip([Test::Psi, Test::Mean]) {
                if first.is_none() && test.alarms(&findings) > 0 {
                    *first = Some(number);
                }
            }
            if first.iter().all(Option::is_some) {
                break;
            }
        }
        first
    }

    fn resampler(&self, draws: Draws) -> Resampler {
        let rows = self.values.len();
        let block = 50.max(10 * self.survey.block_rows as usize);
        Resampler::new(rows, block.min(rows / 4), draws)
    }
}

fn view(columns: &Columns) -> Option<ColumnView> {
    columns.views().into_iter().next()
}

fn season(usable: &[(f64, Timestamp)]) -> Season {
    let (values, times): (Vec<f64>, Vec<Timestamp>) = usable.iter().copied().unzip();
    match Profile::learn(&values, &times) {
        Ok(profile) => Season::Daily { explained: profile.explained(&values, &times) },
        Err(NoSeason::Steady { share, .. }) => Season::None { explained: share },
        Err(NoSeason::TooShort { hours }) => Season::TooShort { hours },
    }
}

fn delay(test: Test, shift: f64, mut found: Vec<Option<u64>>, followed_rows: u64) -> Delay {
    let count = found.iter().flatten().count();
    // What was never found is later than everything.
    found.sort_unstable_by_key(|rows| rows.unwrap_or(u64::MAX));
    let quantile = |tenths: usize| found.get((found.len() * tenths).div_ceil(10).saturating_sub(1)).copied().flatten();
    let share = count as f64 / found.len().max(1) as f64;
    Delay { test, shift, median_rows: quantile(5), p90_rows: quantile(9), found: share, followed_rows }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { run_length_rows: 10_000.0, features: 1, seed: 1 };

    fn clock(rows: i64) -> Vec<Timestamp> {
        (0..rows).map(|row| Timestamp(row * 300_000_000)).collect()
    }

    fn column(values: &[f64]) -> Column {
        Column::new(values, &clock(i64::try_from(values.len()).unwrap()), &WANTED).expect("long enough")
    }

    fn normal(rows: usize) -> Vec<f64> {
        let mut draws = Draws::new(3);
        (0..rows).map(|_| 20.0 + 5.0 * draws.normal()).collect()
    }

    fn of(delays: &Delays, test: Test) -> Vec<&Delay> {
        delays.delays.iter().filter(|delay| delay.test == test).collect()
    }

    #[test]
    fn independent_values_need_no_blocks_and_larger_shifts_are_found_sooner() {
        let column = column(&normal(6000));
        let survey = column.survey();
        assert!((survey.mean - 20.0).abs() < 0.3 && (survey.deviation - 5.0).abs() < 0.2, "{survey:?}");
        assert!((survey.block_rows, survey.mean_alarms, survey.quiet) == (4, 0, true), "{survey:?}");
        assert!(
            (200..=500).contains(&survey.window_rows) && matches!(survey.season, Season::None { .. }),
            "{survey:?}"
        );
        let delays = column.delays(survey.window_rows, &WANTED);
        for test in [Test::Psi, Test::Mean] {
            let found = of(&delays, test);
            let medians: Vec<_> = found.iter().map(|delay| delay.median_rows.unwrap_or(u64::MAX)).collect();
            assert!(medians.is_sorted_by(|a, b| a > b), "{test:?} {medians:?}");
            assert!(medians[2] < 130 && found[1].p90_rows >= found[1].median_rows, "{test:?} {found:?}");
        }
        // ADWIN finds half a deviation after about 140 values (drift.md 3.2).
        let half = of(&delays, Test::Mean)[0].median_rows.unwrap();
        assert!((80..260).contains(&half), "{half}");
        assert!(delays.psi_false_alarms + delays.mean_false_alarms <= 3, "{delays:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_figures_and_another_one_others() {
        let column = column(&normal(1200));
        let delays = column.delays(200, &WANTED);
        assert_eq!(column.delays(200, &WANTED), delays);
        assert_ne!(column.delays(200, &Wanted { seed: 2, ..WANTED }), delays);
    }

    #[test]
    fn correlated_values_are_blocked_and_found_later() {
        let mut draws = Draws::new(4);
        let mut x = 0.0;
        let values: Vec<f64> = (0..20_000)
            .map(|_| {
                x = 0.8 * x + 0.6 * draws.normal();
                x
            })
            .collect();
        let (correlated, independent) = (column(&values), column(&normal(20_000)));
        let survey = correlated.survey();
        assert!((survey.correlation - 0.8).abs() < 0.03 && survey.block_rows >= 6, "{survey:?}");
        assert!(survey.mean_alarms <= 2, "{survey:?}");
        let late = |column: &Column| of(&column.delays(500, &WANTED), Test::Mean)[1].median_rows.unwrap_or(u64::MAX);
        assert!(late(&correlated) > 2 * late(&independent));
    }

    #[test]
    fn a_season_is_found_and_subtracted_so_that_a_short_window_is_quiet() {
        let mut draws = Draws::new(5);
        let daily = |row: usize| (row as f64 / 288.0 * std::f64::consts::TAU).sin();
        let values: Vec<f64> = (0..288 * 20).map(|row| daily(row) + 0.3 * draws.normal()).collect();
        let column = column(&values);
        let survey = column.survey();
        assert!(matches!(survey.season, Season::Daily { explained } if explained > 0.7), "{survey:?}");
        assert!(survey.window_rows == 200 && survey.quiet && survey.mean_alarms == 0, "{survey:?}");
        let delays = column.delays(survey.window_rows, &WANTED);
        // The promise: one in 10,000 rows, and the resamples are ten times that.
        assert!(delays.psi_false_alarms + delays.mean_false_alarms <= 10, "{delays:?}");
    }

    #[test]
    fn short_constant_and_broken_columns_have_their_answers() {
        let short = Column::new(&normal(999), &clock(999), &WANTED);
        assert_eq!(short.unwrap_err(), TooShort { usable: 999, missing: 1 });
        let constant = column(&[0.25; 1500]);
        assert_eq!((constant.survey().window_rows, constant.survey().quiet), (200, true));
        assert!(constant.delays(200, &WANTED).delays.is_empty());
        let mut values = normal(3000);
        for (row, x) in values.iter_mut().enumerate() {
            match row % 10 {
                0 => *x = f64::NAN,
                1 if row < 500 => *x = f64::INFINITY,
                2 if row < 500 => *x = -1e200,
                _ => {}
            }
        }
        let broken = column(&values);
        assert!((broken.survey().missing_rate - 400.0 / 3000.0).abs() < 1e-9, "{:?}", broken.survey());
        assert!(of(&broken.delays(200, &WANTED), Test::Psi)[2].median_rows.is_some());
    }
}
