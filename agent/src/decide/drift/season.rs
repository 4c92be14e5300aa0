//! Season: what a value usually is at this time of day, so that every morning is not reported as drift.
#![expect(clippy::cast_precision_loss, reason = "row counts and microseconds of a day stay far below 2^53")]
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::special::beta_lower;
use crate::decide::time::Timestamp;

/// Slots of a day (UTC): one per hour.
pub const SLOTS: usize = 24;
/// A profile needs rows over this long: 47 hours reach every hour of the day on two days.
pub const SPAN_HOURS_MIN: i64 = 47;
/// Chance, without season, of slots that explain as much; a thousandth of the columns gets a needless profile.
pub const LEVEL: f64 = 0.001;
/// Share of the variance the slots must explain: below a tenth, the noise of the slot means costs more than the season.
pub const SHARE_MIN: f64 = 0.1;

const HOUR_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * HOUR_US;

/// Why rows give no profile.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum NoSeason {
    /// The rows lie too close together in time to tell a day from a drift.
    #[error("rows span {hours} h; a daily profile needs at least {SPAN_HOURS_MIN} h")]
    TooShort {
        /// Hours from the first to the last row.
        hours: i64,
    },
    /// The hour of the day explains too little.
    #[error("the hour of the day explains {share:.2} of the variance (p = {p:.3}); that is no daily profile")]
    Steady {
        /// Explained share of the variance, 0 to 1.
        share: f64,
        /// Chance of so regular slots without a season.
        p: f64,
    },
}

/// A moment of the day, between the middles of two slots.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    before: usize,
    after: usize,
    weight_after: f64,
}

impl Phase {
    /// The phase of a moment; every timestamp has one.
    #[must_use]
    pub fn of(at: Timestamp) -> Self {
        // Half a slot back, so that whole numbers are the middles of slots.
        let since = at.0.rem_euclid(DAY_US) - HOUR_US / 2;
        let since = since.rem_euclid(DAY_US);
        let before = usize::try_from(since / HOUR_US).unwrap_or(0);
        let weight_after = (since % HOUR_US) as f64 / HOUR_US as f64;
        Self { before, after: (before + 1) % SLOTS, weight_after }
    }
}

/// The usual value by time of day: a mean per slot, joined by straight lines from middle to middle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// One mean per slot, in the units of the values.
    means: Vec<f32>,
    /// Rows each mean rests on; 0 where the neighbours were joined.
    rows: Vec<u32>,
}

impl Profile {
    /// Learns the profile of finite `values` taken at `times` (same length; other lengths are cut to the shorter one).
    ///
    /// The slots are tested against how much their means differ from day to day: `F = MS(slots) / MS(days within slots)`. So rows
    /// that merely follow their own past, which make the hours of one day differ, but not alike on the next, give no profile.
    ///
    /// # Errors
    ///
    /// [`NoSeason::TooShort`] if the rows span less than [`SPAN_HOURS_MIN`], [`NoSeason::Steady`] if the slots explain less than
    /// [`SHARE_MIN`] of the variance or no more than chance would at [`LEVEL`].
    pub fn learn(values: &[f64], times: &[Timestamp]) -> Result<Self, NoSeason> {
        let first = times.iter().map(|at| at.0).min().unwrap_or(0);
        let last = times.iter().map(|at| at.0).max().unwrap_or(0);
        let hours = last.saturating_sub(first) / HOUR_US;
        if hours < SPAN_HOURS_MIN || values.is_empty() {
            return Err(NoSeason::TooShort { hours });
        }
        // Sum and rows of every hour of every day; as many as rows at most.
        let mut cells: BTreeMap<(usize, i64), (f64, u32)> = BTreeMap::new();
        for (value, at) in values.iter().zip(times) {
            let slot = usize::try_from(at.0.rem_euclid(DAY_US) / HOUR_US).unwrap_or(0);
            let cell = cells.entry((slot, at.0.div_euclid(DAY_US))).or_default();
            cell.0 += value;
            cell.1 += 1;
        }
        let mut sums = [(0.0, 0_u32); SLOTS];
        let mut days: Vec<Vec<f64>> = vec![Vec::new(); SLOTS];
        for ((slot, _), (sum, rows)) in cells {
            sums[slot].0 += sum;
            sums[slot].1 += rows;
            days[slot].push(sum / f64::from(rows));
        }
        let p = slots_p(&days);
        let profile = Self::from_sums(&sums);
        let share = profile.explained(values, times);
        if p <= LEVEL && share >= SHARE_MIN { Ok(profile) } else { Err(NoSeason::Steady { share, p }) }
    }

    /// Means of the slots; a slot without rows lies on the line between its neighbours that have some.
    fn from_sums(sums: &[(f64, u32); SLOTS]) -> Self {
        let filled: Vec<usize> = (0..SLOTS).filter(|slot| sums[*slot].1 > 0).collect();
        let mean = |slot: usize| sums[slot].0 / f64::from(sums[slot].1);
        let mean_of = |slot: usize| {
            let after = filled.iter().copied().find(|other| *other >= slot).or(filled.first().copied());
            let before = filled.iter().copied().rev().find(|other| *other <= slot).or(filled.last().copied());
            let (Some(before), Some(after)) = (before, after) else {
                return 0.0;
            };
            if before == after {
                return mean(before);
            }
            let (since, gap) = ((slot + SLOTS - before) % SLOTS, (after + SLOTS - before) % SLOTS);
            mean(before) + (mean(after) - mean(before)) * (since as f64 / gap as f64)
        };
        #[expect(clippy::cast_possible_truncation, reason = "the values were f32, and the state is saved often")]
        let means = (0..SLOTS).map(|slot| mean_of(slot).clamp(f32::MIN.into(), f32::MAX.into()) as f32).collect();
        Self { means, rows: sums.iter().map(|(_, rows)| *rows).collect() }
    }

    /// Share of the variance that is gone after the profile is subtracted, each row judged without itself.
    #[must_use]
    pub fn explained(&self, values: &[f64], times: &[Timestamp]) -> f64 {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let total: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let rest = |(value, at): (&f64, &Timestamp)| self.residual_left_out(*value, Phase::of(*at)).powi(2);
        let left: f64 = values.iter().zip(times).map(rest).sum();
        if total > 0.0 { 1.0 - left / total } else { 0.0 }
    }

    /// The usual value at a phase.
    #[must_use]
    pub fn at(&self, phase: Phase) -> f64 {
        let mean = |slot: usize| f64::from(self.means.get(slot).copied().unwrap_or(0.0));
        let (before, after) = (mean(phase.before), mean(phase.after));
        before + (after - before) * phase.weight_after
    }

    /// What is left of a row the profile was learned from, as if it had not been: its pull on its own mean is taken out.
    ///
    /// Without this the rows of the baseline lie closer to the profile than any later row can, and the difference reads as drift.
    #[must_use]
    pub fn residual_left_out(&self, value: f64, phase: Phase) -> f64 {
        let pull = |slot: usize, weight: f64| {
            let rows = self.rows.get(slot).copied().unwrap_or(0);
            if rows == 0 { 0.0 } else { weight / f64::from(rows) }
        };
        // The row lies in the slot whose middle is nearer.
        let own = if phase.weight_after < 0.5 {
            pull(phase.before, 1.0 - phase.weight_after)
        } else {
            pull(phase.after, phase.weight_after)
        };
        (value - self.at(phase)) / (1.0 - own.min(0.5))
    }
}

/// Chance, without season, that the means of the slots differ as much beside their differences from day to day.
fn slots_p(days: &[Vec<f64>]) -> f64 {
    let used: Vec<&Vec<f64>> = days.iter().filter(|means| means.len() >= 2).collect();
    if used.len() < 2 {
        return 1.0;
    }
    let cells: f64 = used.iter().map(|means| means.len() as f64).sum();
    let grand = used.iter().flat_map(|means| means.iter()).sum::<f64>() / cells;
    let (mut between, mut within) = (0.0, 0.0);
    for means in &used {
        let mean = means.iter().sum::<f64>() / means.len() as f64;
        between += means.len() as f64 * (mean - grand).powi(2);
        within += means.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
    }
    let (slots, rest) = (used.len() as f64 - 1.0, cells - used.len() as f64);
    if between <= 0.0 {
        return 1.0;
    }
    // Upper tail of F with `slots` and `rest` degrees: I_x(rest/2, slots/2) at x = within / (within + between).
    beta_lower(within / (within + between), rest / 2.0, slots / 2.0)
}

#[cfg(test)]
mod tests {
    use super::super::seeded::Draws;
    use super::*;

    /// One row every five minutes.
    fn times(rows: i64) -> Vec<Timestamp> {
        (0..rows).map(|row| Timestamp(1_700_000_000_000_000 + row * 300_000_000)).collect()
    }

    fn sine(at: Timestamp) -> f64 {
        (at.0.rem_euclid(DAY_US) as f64 / DAY_US as f64 * std::f64::consts::TAU).sin()
    }

    #[test]
    fn a_daily_sine_is_learned_and_what_is_left_is_its_noise() {
        let (times, mut draws) = (times(1000), Draws::new(1));
        let values: Vec<f64> = times.iter().map(|at| sine(*at) + 0.3 * draws.normal()).collect();
        let profile = Profile::learn(&values, &times).unwrap();
        let later: Vec<Timestamp> = times.iter().map(|at| Timestamp(at.0 + 17 * DAY_US)).collect();
        let left: f64 = later.iter().map(|at| (sine(*at) - profile.at(Phase::of(*at))).powi(2)).sum();
        assert!((left / 1000.0).sqrt() < 0.08, "{}", (left / 1000.0).sqrt());
        // Rows left out of their own mean scatter like new ones: sqrt(0.3² + 0.3²/42).
        let out: f64 =
            values.iter().zip(&times).map(|(x, at)| profile.residual_left_out(*x, Phase::of(*at)).powi(2)).sum();
        assert!(((out / 1000.0).sqrt() - 0.303).abs() < 0.02, "{}", (out / 1000.0).sqrt());
    }

    #[test]
    fn noise_and_its_own_past_are_no_season() {
        let times = times(1000);
        let mut found = 0;
        for (correlation, seed) in [0.0, 0.7, 0.9].into_iter().flat_map(|c| (0..40).map(move |seed| (c, seed))) {
            let (mut draws, mut x) = (Draws::new(seed), 0.0);
            let mut next = || {
                x = correlation * x + f64::sqrt(1.0 - correlation * correlation) * draws.normal();
                x
            };
            let values: Vec<f64> = times.iter().map(|_| next()).collect();
            found += u32::from(Profile::learn(&values, &times).is_ok());
        }
        assert!(found <= 2, "{found} of 120");
    }

    #[test]
    fn less_than_two_days_is_refused_with_its_length() {
        let times = times(12 * 30);
        let values: Vec<f64> = times.iter().map(|at| sine(*at)).collect();
        let refused = Profile::learn(&values, &times).unwrap_err();
        assert_eq!(refused.to_string(), "rows span 29 h; a daily profile needs at least 47 h");
        assert!(Profile::learn(&[], &[]).is_err());
        assert!(matches!(Profile::learn(&[5.0; 1000], &self::times(1000)), Err(NoSeason::Steady { .. })));
    }

    #[test]
    fn hours_without_rows_lie_between_their_neighbours() {
        // A shift from 6 to 14 UTC on three days.
        let times: Vec<Timestamp> = (0..3 * 24).map(|hour| Timestamp(hour * HOUR_US)).collect();
        let times: Vec<Timestamp> =
            times.into_iter().filter(|at| (6..14).contains(&(at.0.rem_euclid(DAY_US) / HOUR_US))).collect();
        let values: Vec<f64> = times.iter().map(|at| (at.0.rem_euclid(DAY_US) / HOUR_US) as f64).collect();
        // 6 h of day 0 to 13 h of day 2 are 55 hours.
        let profile = Profile::learn(&values, &times).unwrap();
        let middle = |hour: i64| profile.at(Phase::of(Timestamp(hour * HOUR_US + HOUR_US / 2)));
        assert!((middle(9) - 9.0).abs() < 1e-9);
        assert!(middle(20) < 13.0 && middle(20) > 6.0, "{}", middle(20));
    }

    #[test]
    fn every_moment_has_a_phase() {
        for at in [i64::MIN, -1, 0, HOUR_US / 2, DAY_US - 1, i64::MAX] {
            let phase = Phase::of(Timestamp(at));
            assert!(
                phase.before < SLOTS && phase.after < SLOTS && (0.0..1.0).contains(&phase.weight_after),
                "{phase:?}"
            );
        }
        assert_eq!(Phase::of(Timestamp(HOUR_US / 2)), Phase { before: 0, after: 1, weight_after: 0.0 });
    }
}
