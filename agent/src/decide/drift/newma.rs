//! NEWMA: compares a fast and a slow average of random features of an embedding; no reference is needed.
//!
//! Source: Keriven, Garreau, Poli, IEEE TSP 68, 2020. It promises no run length: a notice, never a trigger on its own. It compares
//! about the last 91 rows (at the default rates) with older ones.
use serde::{Deserialize, Serialize};

use super::seeded::Draws;
use super::{Alarm, Direction, SettingError, require, usable};

/// Forgetting of the moments of the statistic.
const MOMENT_FORGETTING: f64 = 0.05;
/// Normal quantile of 99.9 %: the published 95 % fires far too often.
const SPREADS: f64 = 3.09;
/// Rows in a row above the threshold that make an alarm.
const ROWS_IN_A_ROW: u32 = 3;
/// Reference rows whose pairwise distances give the kernel's width.
const WIDTH_ROWS_MAX: usize = 200;

/// Settings of [`Newma`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewmaSettings {
    /// Random frequencies m, 1 to 1024; each gives a cosine and a sine.
    pub features: u32,
    /// Rate Λ of the fast average, in (0, 1), above `slow`.
    pub fast: f64,
    /// Rate λ of the slow average, in (0, 1).
    pub slow: f64,
    /// Seed of the frequencies.
    pub seed: u64,
}

impl Default for NewmaSettings {
    fn default() -> Self {
        Self { features: 64, fast: 0.02, slow: 0.005, seed: 0 }
    }
}

/// The running comparison; memory is the `[features, dimension]` matrix and two averages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Newma {
    settings: NewmaSettings,
    dimension: u32,
    /// `[features, dimension]`, row by row.
    frequencies: Vec<f32>,
    /// Fast and slow averages of `(cos, sin)`, interleaved.
    averages: Option<(Vec<f64>, Vec<f64>)>,
    mean: f64,
    second_moment: f64,
    above: u32,
    first_above: u64,
    seen: u64,
}

impl Newma {
    /// A fresh detector for rows of `dimension` values, with a kernel as wide as the median distance of the `reference` rows
    /// (`[rows, dimension]`, row by row; at most 200 are looked at; width 1 per dimension without any).
    ///
    /// # Errors
    ///
    /// Names the first setting outside of its documented range; `dimension` is 1 to 65,536.
    pub fn new(settings: NewmaSettings, dimension: usize, reference: &[f32]) -> Result<Self, SettingError> {
        let NewmaSettings { features, fast, slow, seed } = settings;
        require((1..=1024).contains(&features), "newma", "features", features.into(), "1 to 1024")?;
        require(slow > 0.0 && slow < 1.0, "newma", "slow", slow, "between 0 and 1")?;
        require(fast > slow && fast < 1.0, "newma", "fast", fast, "above slow and below 1")?;
        let length = u32::try_from(dimension).unwrap_or(u32::MAX);
        require((1..=65_536).contains(&length), "newma", "dimension", length.into(), "1 to 65536")?;
        let width = median_squared_distance(dimension, reference).unwrap_or(f64::from(length)).sqrt();
        let mut draws = Draws::new(seed);
        #[expect(clippy::cast_possible_truncation, reason = "frequencies are kept in single precision")]
        let frequencies = (0..dimension * features as usize).map(|_| (draws.normal() / width) as f32).collect();
        Ok(Self {
            settings,
            dimension: length,
            frequencies,
            averages: None,
            mean: 0.0,
            second_moment: 0.0,
            above: 0,
            first_above: 0,
            seen: 0,
        })
    }

    /// Takes the next embedding and returns an alarm after three rows in a row above the threshold.
    ///
    /// A row of another length, or with a value that is not finite, is ignored and returns `None`. The change point is the first
    /// row above the threshold; the direction is always `Both`.
    pub fn update(&mut self, row: &[f32]) -> Option<Alarm> {
        if row.len() != self.dimension as usize || !row.iter().all(|x| usable(f64::from(*x))) {
            return None;
        }
        let index = self.seen;
        self.seen += 1;
        let point = self.features(row);
        let Some((fast, slow)) = &mut self.averages else {
            self.averages = Some((point.clone(), point));
            return None;
        };
        let mut squared = 0.0;
        for ((fast, slow), x) in fast.iter_mut().zip(slow.iter_mut()).zip(&point) {
            *fast += self.settings.fast * (x - *fast);
            *slow += self.settings.slow * (x - *slow);
            squared += (*fast - *slow) * (*fast - *slow);
        }
        let spread = (self.second_moment - self.mean * self.mean).max(0.0).sqrt();
        let threshold = self.mean + SPREADS * spread;
        self.mean += MOMENT_FORGETTING * (squared - self.mean);
        self.second_moment += MOMENT_FORGETTING * (squared * squared - self.second_moment);
        // The fast average needs its memory filled before the statistic means anything.
        if squared <= threshold || index < self.warm_up_rows() {
            self.above = 0;
            return None;
        }
        if self.above == 0 {
            self.first_above = index;
        }
        self.above += 1;
        if self.above < ROWS_IN_A_ROW {
            return None;
        }
        self.above = 0;
        Some(Alarm { index, statistic: squared, threshold, change_point: self.first_above, direction: Direction::Both })
    }

    /// Rows the slow average takes to forget its first one.
    fn warm_up_rows(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive; a float cast saturates")]
        let rows = (2.0 / self.settings.slow).ceil() as u64;
        rows
    }

    /// `(cos Wx, sin Wx)/sqrt(m)`.
    fn features(&self, row: &[f32]) -> Vec<f64> {
        let scale = 1.0 / f64::from(self.settings.features).sqrt();
        let frequencies = self.frequencies.chunks_exact(self.dimension as usize);
        frequencies
            .flat_map(|frequency| {
                let angle: f64 = frequency.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let (sine, cosine) = angle.sin_cos();
                [cosine * scale, sine * scale]
            })
            .collect()
    }
}

/// Median squared distance between the first rows; `None` without two different usable rows.
fn median_squared_distance(dimension: usize, reference: &[f32]) -> Option<f64> {
    let usable_row = |row: &&[f32]| row.iter().all(|x| usable(f64::from(*x)));
    let rows: Vec<&[f32]> = reference.chunks_exact(dimension.max(1)).filter(usable_row).take(WIDTH_ROWS_MAX).collect();
    let mut distances = Vec::new();
    for (place, first) in rows.iter().enumerate() {
        for second in &rows[..place] {
            distances
                .push(first.iter().zip(*second).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>());
        }
    }
    distances.sort_unstable_by(f64::total_cmp);
    distances.get(distances.len() / 2).copied().filter(|distance| *distance > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize, dimension: usize, shift: f32, seed: u64) -> Vec<f32> {
        let mut draws = Draws::new(seed);
        #[expect(clippy::cast_possible_truncation, reason = "test data")]
        let mut next = || draws.normal() as f32 + shift;
        (0..count * dimension).map(|_| next()).collect()
    }

    #[test]
    fn a_shift_of_all_coordinates_is_noticed_soon() {
        let mut newma = Newma::new(NewmaSettings::default(), 8, &rows(200, 8, 0.0, 1)).unwrap();
        for row in rows(2000, 8, 0.0, 2).chunks_exact(8) {
            newma.update(row);
        }
        let alarm = rows(400, 8, 1.0, 3).chunks_exact(8).find_map(|row| newma.update(row)).unwrap();
        assert!(alarm.index < 2100 && alarm.change_point >= 2000, "{alarm:?}");
        assert_eq!(alarm.index, alarm.change_point + 2, "one row above the threshold, or two, are chance");
    }

    #[test]
    fn restoring_anywhere_changes_nothing_and_foreign_rows_are_ignored() {
        let mut straight = Newma::new(NewmaSettings::default(), 4, &[]).unwrap();
        let mut restored = straight.clone();
        for row in rows(600, 4, 0.0, 4).chunks_exact(4) {
            restored = postcard::from_bytes(&postcard::to_stdvec(&restored).unwrap()).unwrap();
            assert_eq!(straight.update(row), restored.update(row));
        }
        assert_eq!(straight, restored);
        assert_eq!((straight.update(&[0.0; 3]), straight.update(&[f32::NAN; 4])), (None, None));
        assert_eq!(straight, restored);
    }

    #[test]
    fn rates_the_wrong_way_round_are_refused() {
        assert!(Newma::new(NewmaSettings { fast: 0.001, ..NewmaSettings::default() }, 4, &[]).is_err());
        assert!(Newma::new(NewmaSettings::default(), 0, &[]).is_err());
    }
}
