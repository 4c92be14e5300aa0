//! Whether the time of day shows in a column, and its profile over the day.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::Serialize;

/// Seconds of a day.
pub const DAY_S: f64 = 86_400.0;
/// Slots of a day, an hour each.
pub const SLOTS: usize = 24;
/// Whole days that a recording must span: with fewer, any slow wandering looks like a season.
pub const DAYS_MIN: f64 = 4.0;
/// Share of the variance that other days' profiles must explain.
const EXPLAINED_MIN: f64 = 0.1;

/// Whether the time of day shows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "season", rename_all = "snake_case")]
pub enum Season {
    /// It does.
    Daily {
        /// Share of the variance of a day that the profile of other days explains.
        explained: f64,
    },
    /// It does not.
    None {
        /// The same; may be negative.
        explained: f64,
    },
    /// The recording spans fewer than [`DAYS_MIN`] days, or has fewer than a row for each hour.
    TooShort {
        /// Days it spans.
        days: f64,
    },
}

/// Mean of each hour of the day.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    means: [f64; SLOTS],
}

impl Profile {
    /// The mean at a slot.
    #[must_use]
    pub fn at(&self, slot: u8) -> f64 {
        self.means[usize::from(slot) % SLOTS]
    }
}

/// The slot of a moment.
#[must_use]
pub fn slot(seconds: f64) -> u8 {
    let hour = (seconds.rem_euclid(DAY_S) / DAY_S * SLOTS as f64).floor();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 24, and 0 for NaN")]
    let hour = hour.clamp(0.0, SLOTS as f64 - 1.0) as u8;
    hour
}

/// Looks for a daily season: profiles of the even days must explain the odd ones and the other way round.
pub(super) fn find(values: &[f64], seconds: &[f64]) -> (Season, Option<Profile>) {
    let (first, last) = (seconds.first().copied().unwrap_or(0.0), seconds.last().copied().unwrap_or(0.0));
    let days = (last - first) / DAY_S;
    if days.is_nan() || days < DAYS_MIN || values.len() as f64 / days < SLOTS as f64 {
        return (Season::TooShort { days }, None);
    }
    let rows = || values.iter().copied().zip(seconds.iter().copied()).filter(|(x, _)| !x.is_nan());
    let is_even = |second: f64| ((second - first) / DAY_S).floor().rem_euclid(2.0) < 1.0;
    let (even, even_mean) = profile(rows().filter(|(_, second)| is_even(*second)));
    let (odd, odd_mean) = profile(rows().filter(|(_, second)| !is_even(*second)));
    let (mut with, mut without) = (0.0, 0.0);
    for (x, second) in rows() {
        let (other, mean) = if is_even(second) { (&odd, odd_mean) } else { (&even, even_mean) };
        with += (x - other.at(slot(second))).powi(2);
        without += (x - mean).powi(2);
    }
    let explained = if without > 0.0 { 1.0 - with / without } else { 0.0 };
    if explained < EXPLAINED_MIN {
        return (Season::None { explained }, None);
    }
    (Season::Daily { explained }, Some(profile(rows()).0))
}

/// Means by hour, the overall mean where an hour has no row, and that mean.
fn profile(rows: impl Iterator<Item = (f64, f64)>) -> (Profile, f64) {
    let mut sums = [(0.0, 0.0); SLOTS];
    for (x, second) in rows {
        let (sum, count) = &mut sums[usize::from(slot(second))];
        *sum += x;
        *count += 1.0;
    }
    let (sum, count) = sums.iter().fold((0.0, 0.0), |(sum, count), slot| (sum + slot.0, count + slot.1));
    let mean = if count > 0.0 { sum / count } else { 0.0 };
    (Profile { means: sums.map(|(sum, count)| if count > 0.0 { sum / count } else { mean }) }, mean)
}

#[cfg(test)]
mod tests {
    use super::super::super::seeded::Draws;
    use super::*;

    #[test]
    fn slow_wandering_is_no_season() {
        let mut found = 0;
        for seed in 0..20 {
            let mut draws = Draws::new(seed);
            let mut x = 0.0;
            let values: Vec<f64> = (0..288 * 14)
                .map(|_| {
                    x = 0.99 * x + draws.normal();
                    x
                })
                .collect();
            let seconds: Vec<f64> = (0..values.len()).map(|row| row as f64 * 300.0).collect();
            found += u32::from(find(&values, &seconds).1.is_some());
        }
        assert!(found <= 1, "{found} of 20");
    }

    #[test]
    fn hours_are_slots_and_strange_moments_too() {
        assert_eq!([0.0, 3599.0, 3600.0, 86_399.9, -1.0, 90_000.0].map(slot), [0, 0, 1, 23, 23, 1]);
        assert_eq!([f64::NAN, f64::INFINITY].map(slot), [0, 0]);
    }

    #[test]
    fn a_short_recording_is_not_asked() {
        let seconds: Vec<f64> = (0..1000).map(f64::from).collect();
        assert!(matches!(find(&vec![1.0; 1000], &seconds).0, Season::TooShort { .. }));
        assert!(matches!(find(&[], &[]).0, Season::TooShort { .. }));
    }
}
