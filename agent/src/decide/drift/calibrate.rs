//! Calibration: what a quiet recording says about the drift tests, and how late they would find a shift in data like it.
//!
//! Delays are measured, not computed: shifts are injected into resamples of the recording itself, so that its correlation, its
//! season and the shape of its law are in the figures.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
mod resample;
pub mod season;
mod watching;

use serde::Serialize;

use super::bins::{BinWindow, FrozenBins};
use super::distances;
use super::seeded::Draws;
use super::{Detector as _, MAGNITUDE_MAX};
use resample::Resampler;
use season::{Profile, Season};
use watching::{Watching, frozen, mean_test};

/// Fewest usable rows of a column: half of them freeze a reference, the other half must fill several windows.
pub const ROWS_MIN: u64 = 1_000;
/// Shifts whose delay is measured, in standard deviations of the column.
pub const SHIFTS: [f64; 3] = [0.5, 1.0, 2.0];
/// Resamples behind each delay.
pub const RESAMPLES: usize = 100;
/// Windows that are tried beside whole days, smallest first.
const WINDOWS: [usize; 6] = [200, 500, 1_000, 2_000, 5_000, 10_000];
/// Days that a window may span.
const WINDOW_DAYS: [usize; 3] = [1, 2, 7];
/// Longest window the settings accept.
const WINDOW_ROWS_MAX: usize = 100_000;
/// Looks that a window must have on the second half, or it says nothing.
const LOOKS_MIN: usize = 8;
/// Rows that a shift is followed at least, and in windows.
const FOLLOWED_ROWS_MIN: usize = 5_000;
const FOLLOWED_WINDOWS: usize = 10;
/// Quiet rows before a shift, at least: the guard must have made up its mind.
const QUIET_ROWS_MIN: usize = 1_000;

/// What is wanted of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Wanted {
    /// Rows to a false alarm, on average.
    pub run_length_rows: f64,
    /// Rows per day.
    pub rows_per_day: f64,
    /// PSI above which a feature has drifted.
    pub psi: f64,
    /// Rows from one look of PSI to the next.
    pub every_rows: u32,
    /// Rows a baseline rests on, at most.
    pub baseline_rows: usize,
    /// Features that are watched together.
    pub features: usize,
    /// Seed of the resamples.
    pub seed: u64,
}

impl Wanted {
    /// p-value that one feature must reach at one look: a false alarm per run length, over all looks and features.
    fn level(&self) -> f64 {
        f64::from(self.every_rows) / self.run_length_rows.max(2.0) / self.features.max(1) as f64
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

/// How PSI windows of one length behave on the recording: reference from its first half, windows over the second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WindowTrial {
    /// Rows of the window.
    pub window_rows: usize,
    /// Looks at a full window.
    pub looks: u64,
    /// Looks with PSI above its limit. The p-value is not asked: it takes rows for independent, which is in question here.
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
    /// Correlation of neighbouring rows.
    pub correlation: f64,
    /// Rows per block that the guard settled on, season taken out.
    pub block_rows: u32,
    /// Whether the time of day shows.
    pub season: Season,
    /// Alarms of the guarded ADWIN on the recording, season taken out.
    pub mean_alarms: u64,
    /// Windows that were tried, smallest first, up to the first quiet one.
    pub windows: Vec<WindowTrial>,
    /// Smallest window that stayed quiet; the largest one tried if none did.
    pub window_rows: usize,
    /// Whether that window stayed quiet.
    pub quiet: bool,
}

/// A test whose delay is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// PSI of the window against the baseline.
    Psi,
    /// Guarded ADWIN on the mean, season taken out.
    Mean,
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
    /// False alarms of the guarded ADWIN on them.
    pub mean_false_alarms: u64,
}

/// One column of a recording, cleaned and measured.
#[derive(Clone, Debug)]
pub struct Column {
    /// `NaN` where there is no usable value.
    values: Vec<f64>,
    profile: Option<Profile>,
    slots: Vec<u8>,
    survey: Survey,
}

impl Column {
    /// Measures a column; `seconds` holds the time of each row, in seconds from any midnight.
    ///
    /// # Errors
    ///
    /// [`TooShort`] below [`ROWS_MIN`] usable values.
    pub fn new(values: &[f64], seconds: &[f64], wanted: &Wanted) -> Result<Self, TooShort> {
        let clean = |x: &f64| if x.abs() <= MAGNITUDE_MAX { *x } else { f64::NAN };
        let values: Vec<f64> = values.iter().map(clean).collect();
        let usable = values.iter().filter(|x| !x.is_nan()).count() as u64;
        if usable < ROWS_MIN {
            return Err(TooShort { usable, missing: ROWS_MIN - usable });
        }
        let (mean, deviation) = moments(&values);
        let (season, profile) = season::find(&values, seconds);
        let slots: Vec<u8> = seconds.iter().map(|second| season::slot(*second)).collect();
        let survey = Survey {
            rows: values.len() as u64,
            missing_rate: 1.0 - usable as f64 / values.len() as f64,
            mean,
            deviation,
            correlation: correlation(&values, mean),
            block_rows: 1,
            season,
            mean_alarms: 0,
            windows: Vec::new(),
            window_rows: WINDOWS[0],
            quiet: true,
        };
        let mut column = Self { values, profile, slots, survey };
        column.guard();
        column.try_windows(wanted);
        Ok(column)
    }

    /// What the recording says.
    #[must_use]
    pub fn survey(&self) -> &Survey {
        &self.survey
    }

    /// The value of a row as the mean test sees it: season taken out, in standard deviations.
    fn standard(&self, row: usize, x: f64) -> f64 {
        let normal = self.profile.as_ref().map_or(self.survey.mean, |profile| profile.at(self.slots[row]));
        (x - normal) / self.survey.deviation
    }

    fn guard(&mut self) {
        if self.survey.deviation == 0.0 {
            return;
        }
        let Ok(mut test) = mean_test() else { return };
        let alarms =
            self.values.iter().enumerate().filter(|(row, x)| test.update(self.standard(*row, **x)).is_some()).count();
        self.survey.mean_alarms = alarms as u64;
        self.survey.block_rows = test.guard().block_rows();
    }

    fn try_windows(&mut self, wanted: &Wanted) {
        let half = self.values.len() / 2;
        let Some(bins) = frozen(&self.values[..half], wanted) else { return };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a positive number of rows")]
        let day = wanted.rows_per_day.round().min(1e9) as usize;
        let days = WINDOW_DAYS.map(|days| days.saturating_mul(day));
        let mut lengths: Vec<usize> = WINDOWS.into_iter().chain(days).collect();
        lengths.retain(|rows| (WINDOWS[0]..=WINDOW_ROWS_MAX).contains(rows));
        lengths.sort_unstable();
        lengths.dedup();
        for window_rows in lengths {
            let trial = self.try_window(&bins, half, window_rows, wanted);
            if trial.looks < LOOKS_MIN as u64 && !self.survey.windows.is_empty() {
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

    fn try_window(&self, bins: &FrozenBins, from: usize, window_rows: usize, wanted: &Wanted) -> WindowTrial {
        let mut window = BinWindow::new(bins, window_rows);
        let mut trial = WindowTrial { window_rows, looks: 0, above: 0, largest_psi: 0.0 };
        for (row, x) in (1_u32..).zip(&self.values[from..]) {
            window.record(bins.place(*x));
            if row % wanted.every_rows.max(1) == 0 && window.rows() == window_rows as u64 {
                let psi = distances::psi(bins, &window).psi;
                trial.looks += 1;
                trial.above += u64::from(psi > wanted.psi);
                trial.largest_psi = trial.largest_psi.max(psi);
            }
        }
        trial
    }

    /// Measures the delays with PSI windows of `window_rows`; the same seed gives the same figures. A constant has none.
    #[must_use]
    pub fn delays(&self, window_rows: usize, wanted: &Wanted) -> Delays {
        let mut delays = Delays { delays: Vec::new(), quiet_rows: 0, psi_false_alarms: 0, mean_false_alarms: 0 };
        let (Some(bins), Ok(mean)) = (frozen(&self.values, wanted), mean_test()) else { return delays };
        if self.survey.deviation == 0.0 {
            return delays;
        }
        let mut found = [(); SHIFTS.len()].map(|()| (Vec::new(), Vec::new()));
        let quiet = QUIET_ROWS_MIN.max(window_rows);
        let followed = FOLLOWED_ROWS_MIN.max(FOLLOWED_WINDOWS * window_rows);
        let mut seeds = Draws::new(wanted.seed);
        for _ in 0..RESAMPLES {
            let mut draws = Draws::new(seeds.bits());
            // The shift falls anywhere between two looks.
            let phase = draws.below(wanted.every_rows.max(1) as usize);
            let mut rows = self.resampler(draws, wanted);
            let mut psi = Watching::new(&bins, window_rows, wanted);
            let mut mean = mean.clone();
            for _ in 0..quiet + phase {
                let row = rows.next_row();
                delays.psi_false_alarms += u64::from(psi.update(self.values[row]));
                delays.mean_false_alarms += u64::from(mean.update(self.standard(row, self.values[row])).is_some());
            }
            delays.quiet_rows += (quiet + phase) as u64;
            for (shift, found) in SHIFTS.iter().zip(&mut found) {
                let moved = shift * self.survey.deviation;
                let (mut rows, mut psi, mut mean) = (rows.clone(), psi.clone(), mean.clone());
                let (mut by_psi, mut by_mean) = (None, None);
                for row_number in 1..=followed as u64 {
                    let row = rows.next_row();
                    let x = self.values[row] + moved;
                    if by_psi.is_none() && psi.update(x) {
                        by_psi = Some(row_number);
                    }
                    if by_mean.is_none() && mean.update(self.standard(row, x)).is_some() {
                        by_mean = Some(row_number);
                    }
                    if by_psi.is_some() && by_mean.is_some() {
                        break;
                    }
                }
                found.0.push(by_psi);
                found.1.push(by_mean);
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

    fn resampler(&self, draws: Draws, wanted: &Wanted) -> Resampler {
        let rows = self.values.len();
        let mut block = 50.max(10 * self.survey.block_rows as usize);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 24 rows per day")]
        let day = self.profile.is_some().then_some(wanted.rows_per_day.round() as usize);
        if let Some(day) = day {
            block = block.max(day / 24);
        }
        Resampler::new(rows, block.min(rows / 4), day, draws)
    }
}

fn moments(values: &[f64]) -> (f64, f64) {
    let (mut rows, mut mean, mut square) = (0.0, 0.0, 0.0);
    for x in values.iter().filter(|x| !x.is_nan()) {
        rows += 1.0;
        let d = x - mean;
        mean += d / rows;
        square += d * (x - mean);
    }
    (mean, (square / rows).max(0.0).sqrt())
}

/// Correlation of neighbouring rows that both have a value; 0 for a constant.
fn correlation(values: &[f64], mean: f64) -> f64 {
    let pairs = values.windows(2).filter(|pair| !pair[0].is_nan() && !pair[1].is_nan());
    let (mut both, mut first) = (0.0, 0.0);
    for pair in pairs {
        both += (pair[0] - mean) * (pair[1] - mean);
        first += (pair[0] - mean).powi(2);
    }
    if first > 0.0 { (both / first).clamp(-1.0, 1.0) } else { 0.0 }
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

    const WANTED: Wanted = Wanted {
        run_length_rows: 10_000.0,
        rows_per_day: 288.0,
        psi: 0.25,
        every_rows: 64,
        baseline_rows: 512,
        features: 1,
        seed: 1,
    };

    fn clock(rows: usize) -> Vec<f64> {
        (0..rows).map(|row| row as f64 * 300.0).collect()
    }

    fn column(values: &[f64]) -> Column {
        Column::new(values, &clock(values.len()), &WANTED).expect("long enough")
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
        assert!((survey.block_rows, survey.mean_alarms, survey.quiet) == (1, 0, true), "{survey:?}");
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
        let late = |column: &Column| of(&column.delays(500, &WANTED), Test::Mean)[1].median_rows.unwrap();
        assert!(late(&correlated) > 2 * late(&independent));
    }

    #[test]
    fn a_season_is_found_and_the_window_then_spans_whole_days() {
        let mut draws = Draws::new(5);
        let daily = |row: usize| (row as f64 / 288.0 * std::f64::consts::TAU).sin();
        let values: Vec<f64> = (0..288 * 20).map(|row| daily(row) + 0.3 * draws.normal()).collect();
        let column = column(&values);
        let survey = column.survey();
        assert!(matches!(survey.season, Season::Daily { explained } if explained > 0.7), "{survey:?}");
        assert!(survey.window_rows >= 288 && survey.quiet && survey.windows[0].above > 0, "{survey:?}");
        assert!(survey.mean_alarms == 0 && survey.block_rows <= 2, "{survey:?}");
        let delays = column.delays(survey.window_rows, &WANTED);
        assert!(delays.mean_false_alarms == 0, "{delays:?}");
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
