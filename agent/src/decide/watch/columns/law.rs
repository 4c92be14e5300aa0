//! What is normal for one column, frozen from the rows of the baseline: bins, mean, spread, season, and how much the rows tell.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

use super::ColumnKind;
use crate::decide::drift::bins::FrozenBins;
use crate::decide::drift::guard::block_rows;
use crate::decide::drift::season::{NoSeason, Phase, Profile};
use crate::decide::time::Timestamp;

/// Usable rows of a baseline per bin, at least: fewer rows get fewer bins, down to two.
const ROWS_PER_BIN: usize = 5;

/// One column of the baseline, row by row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Baseline<'rows> {
    /// Values that are present and within range, as `f64`.
    pub(super) values: &'rows [f64],
    /// Their times, if the rows carry any.
    pub(super) times: Option<&'rows [Timestamp]>,
}

/// The frozen law of a column.
///
/// What the tests watch is not the value itself but its coordinate: the value less its season; for a constant, its distance from the
/// constant (so that leaving it downwards is seen as well); for a category, its index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Law {
    pub(super) bins: FrozenBins,
    /// Mean of the coordinate.
    pub(super) mean: f64,
    /// Standard deviation of the coordinate; exactly 0 if it never varied.
    pub(super) deviation: f64,
    /// The only value a number ever had.
    constant: Option<f64>,
    profile: Option<Profile>,
    /// Rows that tell as much as one independent row.
    pub(super) block_rows: u32,
}

impl Law {
    /// Freezes the law of a column; `None` without a usable row, or with more categories than bins can hold.
    ///
    /// `earlier` is the profile in use so far: rows with times that span too little keep it, rows without times cannot.
    pub(super) fn freeze(kind: ColumnKind, rows: Baseline<'_>, bins: u32, earlier: Option<&Profile>) -> Option<Self> {
        if let ColumnKind::Category { count } = kind {
            #[expect(clippy::cast_possible_truncation, reason = "they came from f32")]
            let indices: Vec<f32> = rows.values.iter().map(|value| *value as f32).collect();
            let bins = FrozenBins::categories(&indices, usize::try_from(count).ok()?).ok()?;
            let coordinates: Vec<f64> = indices.iter().filter_map(|index| bins.bin(*index)).map(f64::from).collect();
            return Some(Self::of(bins, &coordinates, None, None));
        }
        let first = *rows.values.first()?;
        let constant = rows.values.iter().all(|value| value.total_cmp(&first).is_eq()).then_some(first);
        let profile =
            rows.times.filter(|_| constant.is_none()).and_then(|times| match Profile::learn(rows.values, times) {
                Ok(profile) => Some((profile, Learned::Here)),
                Err(NoSeason::TooShort { .. }) => earlier.map(|profile| (profile.clone(), Learned::Earlier)),
                Err(NoSeason::Steady { .. }) => None,
            });
        let coordinates: Vec<f64> = match (&profile, rows.times, constant) {
            (_, _, Some(constant)) => rows.values.iter().map(|value| (value - constant).abs()).collect(),
            (Some((profile, Learned::Here)), Some(times), _) => {
                let left = |(value, at): (&f64, &Timestamp)| profile.residual_left_out(*value, Phase::of(*at));
                rows.values.iter().zip(times).map(left).collect()
            }
            (Some((profile, Learned::Earlier)), Some(times), _) => {
                let left = |(value, at): (&f64, &Timestamp)| value - profile.at(Phase::of(*at));
                rows.values.iter().zip(times).map(left).collect()
            }
            _ => rows.values.to_vec(),
        };
        let wanted = usize::try_from(bins).unwrap_or(2).min(coordinates.len() / ROWS_PER_BIN).max(2);
        let bins = FrozenBins::from_numbers(coordinates.iter().copied(), wanted, None).ok()?;
        Some(Self::of(bins, &coordinates, constant, profile.map(|(profile, _)| profile)))
    }

    fn of(bins: FrozenBins, coordinates: &[f64], constant: Option<f64>, profile: Option<Profile>) -> Self {
        let n = coordinates.len().max(1) as f64;
        let varies = coordinates.windows(2).any(|pair| pair[0].total_cmp(&pair[1]).is_ne());
        let mean =
            if varies { coordinates.iter().sum::<f64>() / n } else { coordinates.first().copied().unwrap_or(0.0) };
        let square: f64 = coordinates.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if varies { (square / n).sqrt() } else { 0.0 };
        Self { bins, mean, deviation, constant, profile, block_rows: block_rows(lag_one(coordinates)) }
    }

    /// Coordinate of a present value within range; `None` if its season needs a time that was not given.
    pub(super) fn coordinate(&self, x: f64, phase: Option<Phase>) -> Option<f64> {
        match (&self.profile, self.constant) {
            (Some(profile), _) => phase.map(|phase| x - profile.at(phase)),
            (None, Some(constant)) => Some((x - constant).abs()),
            (None, None) => Some(x),
        }
    }

    /// A coordinate in standard deviations from the mean; for one that never varied, 1 for any other value.
    pub(super) fn standardised(&self, coordinate: f64) -> f64 {
        if self.deviation > 0.0 {
            (coordinate - self.mean) / self.deviation
        } else {
            f64::from(u8::from(coordinate.total_cmp(&self.mean).is_ne()))
        }
    }

    /// Whether a mean shift can be told: not for a constant, and the index of a category has no mean.
    pub(super) fn has_mean(&self) -> bool {
        self.deviation > 0.0 && !self.bins.edges().is_empty()
    }

    /// The raw value so many standard deviations from the mean; after the season where there is one.
    pub(super) fn raw(&self, deviations: f64) -> f64 {
        self.constant.unwrap_or(0.0) + self.mean + deviations * self.deviation
    }

    /// The daily profile in use.
    pub(super) fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }
}

/// Where a profile came from.
enum Learned {
    /// From the rows themselves: each pulled it towards itself.
    Here,
    /// From an earlier baseline.
    Earlier,
}

/// Lag-1 correlation of values in the order given; 0 if they do not vary.
pub(super) fn lag_one(values: &[f64]) -> f64 {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let covariance: f64 = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}
