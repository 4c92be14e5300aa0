//! Mean shift of one column: guards make its values nearly independent, ADWIN watches what they let through.
use serde::{Deserialize, Serialize};

use crate::decide::drift::adwin::{Adwin, AdwinSettings};
use crate::decide::drift::guard::BlockMeans;
use crate::decide::drift::{Detector, Direction};

/// Rows that are averaged at least before ADWIN sees them: a quarter of its cost, and tails that are nearly normal.
const GROUP_ROWS: u32 = 4;
/// ADWIN tests after this many of its values: every 32 rows, as it does on single rows by default.
const CLOCK: u32 = 8;
/// Values ADWIN's shorter half has at least: 8 rows.
const HALF_VALUES: u32 = 2;
/// Standard deviations at which a value is cut off. The mean of what is cut still moves with the column, but a single spike of a
/// heavy-tailed sensor is no shift of the mean.
const CUT_OFF: f64 = 8.0;

/// The test of one column, fed with standardised values.
///
/// Two guards in a row: the first measures the correlation of rows, as far as 64 of them; the second that of its averages, so that a
/// season of hundreds of rows, which nothing shorter can average out, is averaged out as well. Values are scaled to unit variance,
/// because ADWIN is not scale-free.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MeanWatch {
    /// ADWIN's level; none where a mean says nothing, and only the guards are wanted.
    delta: Option<f64>,
    rows: BlockMeans,
    /// Blocks that make one group; 1 as soon as a block alone is long enough.
    group: u32,
    filled: u32,
    sum: f64,
    groups: BlockMeans,
    adwin: Option<Adwin>,
    /// How far the mean went from the baseline since it was reported, in standard deviations.
    held: Option<f64>,
}

/// A shift of the mean, in baseline standard deviations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shift {
    /// How far the means before and after lie apart.
    pub(super) statistic: f64,
    /// How far they may.
    pub(super) threshold: f64,
    /// Rows since the estimated change.
    pub(super) age_rows: u64,
    /// Where the mean went.
    pub(super) direction: Direction,
}

impl MeanWatch {
    /// Nothing seen.
    pub(super) fn new(delta: Option<f64>) -> Self {
        let (rows, groups) = (BlockMeans::new(), BlockMeans::new());
        Self { delta, rows, group: GROUP_ROWS, filled: 0, sum: 0.0, groups, adwin: fresh(delta), held: None }
    }

    /// Takes the next standardised value and returns the shift it reveals, if that is not yet reported.
    pub(super) fn take(&mut self, z: f64, release: f64) -> Option<Shift> {
        let block = self.rows.feed(z.clamp(-CUT_OFF, CUT_OFF))?;
        let group = (GROUP_ROWS / self.rows.block_rows()).max(1);
        if group != self.group {
            // Another scale: what was seen on the old one cannot be compared with what comes.
            self.group = group;
            self.filled = 0;
            self.sum = 0.0;
            self.groups = BlockMeans::new();
            self.adwin = fresh(self.delta);
        }
        self.sum += block;
        self.filled += 1;
        if self.filled < group {
            return None;
        }
        let value = self.sum / f64::from(group).sqrt();
        self.sum = 0.0;
        self.filled = 0;
        let value = self.groups.feed(value)?;
        let alarm = self.adwin.as_mut()?.update(value)?;
        self.recentre();
        let now = self.mean()?;
        let is_away = (alarm.direction == Direction::Up) == (now > 0.0);
        if self.held.is_some_and(|held| !is_away || now.abs() <= held / release) {
            return None;
        }
        self.held = Some(now.abs());
        let scale = self.scale();
        Some(Shift {
            statistic: alarm.statistic / scale,
            threshold: alarm.threshold / scale,
            age_rows: (alarm.index + 1 - alarm.change_point) * u64::from(self.rows_per_value()),
            direction: alarm.direction,
        })
    }

    /// The column is known to have shifted: the guards must not take that for rows that follow each other.
    pub(super) fn recentre(&mut self) {
        self.rows.recentre();
        self.groups.recentre();
    }

    /// Once per look: a column whose mean came back may be reported again.
    pub(super) fn look(&mut self, release: f64) {
        if let (Some(held), Some(mean)) = (self.held, self.mean()) {
            let came_back = mean.abs() < release * held;
            self.held = (!came_back).then_some(held.max(mean.abs()));
        }
    }

    /// Mean of ADWIN's window in baseline standard deviations; `None` while it is empty.
    pub(super) fn mean(&self) -> Option<f64> {
        let adwin = self.adwin.as_ref().filter(|adwin| adwin.width() > 0)?;
        Some(adwin.mean() / self.scale())
    }

    /// Whether a shift was reported and still stands.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    fn scale(&self) -> f64 {
        f64::from(self.group).sqrt()
    }

    /// Lag-1 correlation of the rows.
    pub(super) fn correlation(&self) -> f64 {
        self.rows.correlation()
    }

    /// Rows per block of the first guard.
    pub(super) fn block_rows(&self) -> u32 {
        self.rows.block_rows()
    }

    /// By how much the second guard lengthens the blocks.
    pub(super) fn blocks_joined(&self) -> u32 {
        self.groups.block_rows()
    }

    /// Rows behind one value of ADWIN.
    pub(super) fn rows_per_value(&self) -> u32 {
        self.rows.block_rows() * self.group * self.groups.block_rows()
    }
}

/// An ADWIN at this level; the other settings are constants within its ranges, and the level is kept within (0, 1).
fn fresh(delta: Option<f64>) -> Option<Adwin> {
    let settings =
        AdwinSettings { delta: delta?, clock: CLOCK, min_window_length: HALF_VALUES, ..AdwinSettings::default() };
    Adwin::new(settings).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::drift::seeded::Draws;

    #[test]
    fn a_shift_is_reported_once_and_again_after_it_went() {
        let (mut watch, mut draws, mut reported) = (MeanWatch::new(Some(0.002)), Draws::new(3), Vec::new());
        for row in 0..12_000_u32 {
            let level = if (2000..6000).contains(&row) || row >= 9000 { 1.0 } else { 0.0 };
            if let Some(shift) = watch.take(level + draws.normal(), 0.8) {
                reported.push((row, shift));
            }
            if row % 64 == 0 {
                watch.look(0.8);
            }
        }
        let rows: Vec<u32> = reported.iter().map(|(row, _)| row / 1000).collect();
        assert_eq!(rows, [2, 9], "{reported:?}");
        assert!(reported[0].0 < 2150 && reported[0].1.age_rows < 400, "{reported:?}");
        assert_eq!(reported[0].1.direction, Direction::Up);
    }

    #[test]
    fn one_spike_is_no_shift() {
        let (mut watch, mut draws) = (MeanWatch::new(Some(0.002)), Draws::new(4));
        for row in 0..5000_u32 {
            let z = if row % 1000 == 999 { 1e9 } else { draws.normal() };
            assert_eq!(watch.take(z, 0.8), None);
        }
    }
}
