//! Delays of the tests that look at more than one column, or at the losses: QT-EWMA on whole rows, e-SR on recorded losses.
use serde::Serialize;
use trainer_core::model::Reference;

use super::resample::Resampler;
use super::{Column, Delay, QUIET_ROWS_MIN, SHIFTS, Test, Wanted, delay};
use crate::decide::drift::seeded::Draws;
use crate::decide::watch::joint::{BASELINE_ROWS_MAX, Joint, JointView, Silent};
use crate::decide::watch::loss_test::{Law, LossTest};
use crate::decide::watch::performance::{PerformanceSettings, overall_run_length};
use crate::decide::watch::{WatchSettings, Watcher};

/// Resamples behind each delay: fewer than for one column, for every row is one of all columns.
pub const WHOLE_RESAMPLES: usize = 40;
/// Rows that a shift is followed.
const FOLLOWED_ROWS: u64 = 5_000;
/// Fewest recorded losses: half of what a test learns its bound from would say too little.
pub const LOSSES_MIN: usize = 200;

/// Delays of one test, and what it said before the shift.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Whole {
    /// Per shift, in standard deviations of what moves.
    pub delays: Vec<Delay>,
    /// Rows of resamples without a shift.
    pub quiet_rows: u64,
    /// Alarms on them.
    pub false_alarms: u64,
    /// QT-EWMA: every so many rows one is tested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_rows: Option<u32>,
    /// QT-EWMA: why it gives no verdict on this recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silent: Option<Silent>,
    /// e-SR: mean of the recorded losses, their deviation, and the bound that the test takes for normal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossSurvey>,
}

/// What recorded losses say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LossSurvey {
    /// Usable losses.
    pub labels: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// Correlation of neighbours: above .1 the run length is not kept.
    pub correlation: f64,
    /// Labels that the bound is learnt from.
    pub calibration_labels: u64,
}

/// Losses that cannot be calibrated.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum LossError {
    /// Too few.
    #[error("{usable} losses are too few: {} more are needed", LOSSES_MIN - usable)]
    TooFew {
        /// Usable ones.
        usable: usize,
    },
    /// One that is no loss.
    #[error("{value} is no loss: 0 or 1 for right or wrong, or a number between them")]
    OutOfRange {
        /// What was given.
        value: f64,
    },
}

/// Runs QT-EWMA over resamples of all `columns` together and measures how late it finds one of them, or all, moved.
///
/// A column that never changes has no deviation and does not move. The same seed gives the same figures.
#[must_use]
pub fn joint(columns: &[&Column], wanted: &Wanted) -> Whole {
    let settings = WatchSettings { run_length_rows: wanted.run_length_rows, ..WatchSettings::default() };
    let run_length_rows = settings.run_lengths().joint;
    let rows = columns.first().map_or(0, |column| column.values.len());
    let row = |at: usize, moved: &[f64], into: &mut Vec<f32>| {
        into.clear();
        into.extend(columns.iter().zip(moved).map(|(column, moved)| (column.values[at] + moved) as f32));
    };
    let still = vec![0.0; columns.len()];
    let (mut baseline, mut one) = (Vec::new(), Vec::new());
    for at in (0..rows).step_by(rows.div_ceil(BASELINE_ROWS_MAX).max(1)) {
        row(at, &still, &mut one);
        baseline.extend_from_slice(&one);
    }
    let fresh = Joint::new(&settings.joint_settings(), run_length_rows, &baseline, columns.len());
    let longest = columns.iter().map(|column| column.survey.block_rows).max().unwrap_or(1);
    let block = 50.max(10 * longest as usize).min((rows / 4).max(1));
    let moving: Vec<usize> = (0..columns.len()).filter(|at| columns[*at].survey.deviation > 0.0).collect();
    let mut whole =
        Whole { delays: Vec::new(), quiet_rows: 0, false_alarms: 0, block_rows: None, silent: None, loss: None };
    let mut seeds = Draws::new(wanted.seed ^ 0x006a_6f69_6e74);
    let mut found: Vec<(Test, f64, Vec<Option<u64>>)> = [Test::QtEwmaOne, Test::QtEwmaAll]
        .iter()
        .flat_map(|moved| SHIFTS.map(|shift| (*moved, shift, Vec::new())))
        .collect();
    let mut last: Option<JointView> = None;
    for resample in 0..WHOLE_RESAMPLES {
        let mut drawn = Resampler::new(rows, block, Draws::new(seeds.bits()));
        let mut test = fresh.clone();
        for _ in 0..QUIET_ROWS_MIN {
            row(drawn.next_row(), &still, &mut one);
            whole.false_alarms += u64::from(alarmed(&mut test, &one));
        }
        whole.quiet_rows += QUIET_ROWS_MIN as u64;
        last = Some(test.view());
        for (moved, shift, found) in &mut found {
            let chosen = moving.get(resample % moving.len().max(1));
            let moves = |at: &usize| *moved == Test::QtEwmaAll || Some(at) == chosen;
            let by: Vec<f64> = (0..columns.len())
                .map(|at| if moves(&at) { *shift * columns[at].survey.deviation } else { 0.0 })
                .collect();
            let (mut test, mut drawn) = (test.clone(), drawn.clone());
            let first = (1..=FOLLOWED_ROWS).find(|_| {
                row(drawn.next_row(), &by, &mut one);
                alarmed(&mut test, &one)
            });
            found.push(first);
        }
        if last.as_ref().is_some_and(|view| view.silent.is_some()) && resample > 4 {
            break;
        }
    }
    if let Some(view) = last {
        (whole.block_rows, whole.silent) = (view.block_rows, view.silent);
    }
    whole.delays = found.into_iter().map(|(moved, shift, found)| delay(moved, shift, found, FOLLOWED_ROWS)).collect();
    whole
}

fn alarmed(test: &mut Joint, row: &[f32]) -> bool {
    test.sample(row).is_some_and(|finding| finding.watcher == Watcher::QtEwma)
}

/// Runs the e-SR test over resamples of recorded `losses` and measures how late it finds their mean risen: of 0/1 losses so many more
/// are 1, others are added to and cut at 1. Missing ones are left out. The same seed gives the same figures.
///
/// # Errors
///
/// [`LossError`] for fewer than [`LOSSES_MIN`] losses, or one outside of 0 to 1.
pub fn losses(losses: &[f64], wanted: &Wanted) -> Result<Whole, LossError> {
    let usable: Vec<f64> = losses.iter().copied().filter(|loss| !loss.is_nan()).collect();
    if let Some(value) = usable.iter().find(|loss| !(0.0..=1.0).contains(*loss)) {
        return Err(LossError::OutOfRange { value: *value });
    }
    if usable.len() < LOSSES_MIN {
        return Err(LossError::TooFew { usable: usable.len() });
    }
    let (mean, deviation) = moments(usable.iter().copied());
    let errors = usable.iter().all(|loss| loss.fract() == 0.0);
    let law = if errors { Law::ZeroOne } else { Law::Bounded };
    let settings = WatchSettings { run_length_rows: wanted.run_length_rows, ..WatchSettings::default() };
    let run_length_rows = overall_run_length(settings.run_lengths().performance, &settings.watchers);
    let PerformanceSettings { calibration_labels, quiet_labels, .. } = settings.performance;
    let learnt = u64::from(calibration_labels).min(usable.len() as u64);
    let reference = Reference { rows: learnt, mean, variance: deviation * deviation };
    let fresh = LossTest::learning(law, run_length_rows, learnt).against(reference);
    let correlation = neighbours(&usable, mean, deviation);
    let block = 50.min(usable.len() / 4);
    let mut whole = Whole {
        delays: Vec::new(),
        quiet_rows: 0,
        false_alarms: 0,
        block_rows: None,
        silent: None,
        loss: Some(LossSurvey {
            labels: usable.len() as u64,
            mean,
            deviation,
            correlation,
            calibration_labels: learnt,
        }),
    };
    let mut seeds = Draws::new(wanted.seed ^ 0x6c6f_7373);
    let mut found = SHIFTS.map(|shift| (shift, Vec::new()));
    for _ in 0..super::RESAMPLES {
        let mut drawn = Resampler::new(usable.len(), block, Draws::new(seeds.bits()));
        let mut test = fresh.clone();
        for ordinal in 0..QUIET_ROWS_MIN as u64 {
            let loss = usable[drawn.next_row()];
            whole.false_alarms += u64::from(test.take(loss, ordinal, quiet_labels.into()).is_some());
        }
        whole.quiet_rows += QUIET_ROWS_MIN as u64;
        for (shift, found) in &mut found {
            // After a false alarm the test would say nothing of its own for a while: the delay is that of a calm one.
            let (mut test, mut drawn) = (fresh.clone(), drawn.clone());
            let mut chance = Draws::new(seeds.bits());
            let rise = *shift * deviation;
            let first = (1..=FOLLOWED_ROWS).find(|ordinal| {
                let loss = worse(usable[drawn.next_row()], rise, mean, law, &mut chance);
                test.take(loss, *ordinal, quiet_labels.into()).is_some()
            });
            found.push(first);
        }
    }
    whole.delays = found.into_iter().map(|(shift, found)| delay(Test::ESr, shift, found, FOLLOWED_ROWS)).collect();
    Ok(whole)
}

/// A loss whose mean has risen by `rise`.
fn worse(loss: f64, rise: f64, mean: f64, law: Law, chance: &mut Draws) -> f64 {
    match law {
        // Right answers become wrong with the chance that raises the mean by so much; beyond 1 all are wrong.
        Law::ZeroOne => {
            let turned = chance.uniform() < rise / (1.0 - mean).max(f64::MIN_POSITIVE);
            if turned { 1.0 } else { loss }
        }
        Law::Bounded => (loss + rise).min(1.0),
    }
}

/// Mean and standard deviation.
pub(super) fn moments(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (mut rows, mut mean, mut square) = (0.0, 0.0, 0.0);
    for x in values {
        rows += 1.0;
        let d = x - mean;
        mean += d / rows;
        square += d * (x - mean);
    }
    (mean, (square / rows).max(0.0).sqrt())
}

fn neighbours(values: &[f64], mean: f64, deviation: f64) -> f64 {
    if deviation <= 0.0 {
        return 0.0;
    }
    let products = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean));
    products.sum::<f64>() / (deviation * deviation * values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::super::{Column, Wanted};
    use super::*;
    use crate::decide::time::Timestamp;

    const WANTED: Wanted = Wanted { run_length_rows: 10_000.0, features: 4, seed: 1 };

    fn columns(count: usize, rows: usize) -> Vec<Column> {
        let times: Vec<Timestamp> = (0..i64::try_from(rows).unwrap()).map(|row| Timestamp(row * 300_000_000)).collect();
        let mut draws = Draws::new(3);
        let mut column = || {
            let values: Vec<f64> = (0..rows).map(|_| 20.0 + 5.0 * draws.normal()).collect();
            Column::new(&values, &times, &WANTED).expect("long enough")
        };
        (0..count).map(|_| column()).collect()
    }

    fn medians(whole: &Whole, test: Test) -> Vec<u64> {
        let of = whole.delays.iter().filter(|delay| delay.test == test);
        of.map(|delay| delay.median_rows.unwrap_or(u64::MAX)).collect()
    }

    #[test]
    fn all_columns_that_move_are_found_sooner_than_one_and_far_sooner_than_near() {
        let columns = columns(4, 3_000);
        let whole = joint(&columns.iter().collect::<Vec<_>>(), &WANTED);
        assert_eq!((whole.silent.as_ref(), whole.block_rows), (None, Some(1)), "{whole:?}");
        let (one, all) = (medians(&whole, Test::QtEwmaOne), medians(&whole, Test::QtEwmaAll));
        assert!(one.is_sorted_by(|a, b| a > b) && all.is_sorted_by(|a, b| a >= b), "{one:?} {all:?}");
        assert!(one.iter().zip(&all).all(|(one, all)| all <= one) && one[2] < 200 && all[0] < 500, "{one:?} {all:?}");
        // Its share is a sixth: 60,000 rows to an alarm, and the resamples are 40,000.
        assert!(whole.false_alarms <= 4, "{whole:?}");
        assert_eq!(joint(&columns.iter().collect::<Vec<_>>(), &WANTED), whole, "the same seed, the same figures");
    }

    #[test]
    fn constant_columns_and_none_give_no_delay_and_no_panic() {
        let times: Vec<Timestamp> = (0..1_500).map(Timestamp).collect();
        let constant = Column::new(&[0.25; 1_500], &times, &WANTED).unwrap();
        let whole = joint(&[&constant], &WANTED);
        assert!(whole.delays.iter().all(|delay| delay.median_rows.is_none()) && whole.false_alarms == 0, "{whole:?}");
        assert!(joint(&[], &WANTED).delays.iter().all(|delay| delay.found <= 0.0));
    }

    #[test]
    fn errors_and_other_losses_that_rise_are_found_sooner_the_more_they_rise() {
        let mut draws = Draws::new(5);
        let errors: Vec<f64> = (0..2_000).map(|_| f64::from(u8::from(draws.uniform() < 0.1))).collect();
        let numbers: Vec<f64> = (0..2_000).map(|_| draws.uniform().powi(3)).collect();
        for recorded in [&errors, &numbers] {
            let whole = losses(recorded, &WANTED).unwrap();
            let found = medians(&whole, Test::ESr);
            assert!(found.is_sorted_by(|a, b| a >= b) && found[0] < 400 && found[2] < 40, "{found:?}");
            assert!(whole.false_alarms <= 25, "{} in {} labels", whole.false_alarms, whole.quiet_rows);
            assert!(whole.loss.unwrap().correlation.abs() < 0.1);
        }
    }

    #[test]
    fn what_is_no_loss_is_refused_and_gaps_are_left_out() {
        assert_eq!(losses(&[0.5; 199], &WANTED).unwrap_err(), LossError::TooFew { usable: 199 });
        let mut recorded = vec![0.0; 300];
        recorded[7] = 1.5;
        assert_eq!(losses(&recorded, &WANTED).unwrap_err(), LossError::OutOfRange { value: 1.5 });
        recorded[7] = f64::NAN;
        let whole = losses(&recorded, &WANTED).unwrap();
        assert_eq!(whole.loss.unwrap().labels, 299);
        assert!(whole.delays.iter().all(|delay| delay.median_rows.is_none()), "no deviation, no shift");
    }
}
