//! The two tests of a feature as the agent runs them: PSI of a window, and ADWIN on guarded means.
use super::super::adwin::{Adwin, AdwinSettings};
use super::super::bins::{BinWindow, FrozenBins};
use super::super::compare::BINS;
use super::super::guard::Guarded;
use super::super::{SettingError, distances};
use super::Wanted;

/// PSI as the agent watches it: one window, a look every so many rows.
#[derive(Clone)]
pub(super) struct Watching<'a> {
    bins: &'a FrozenBins,
    window: BinWindow,
    row: u32,
    wanted: &'a Wanted,
}

impl<'a> Watching<'a> {
    pub(super) fn new(bins: &'a FrozenBins, window_rows: usize, wanted: &'a Wanted) -> Self {
        Self { bins, window: BinWindow::new(bins, window_rows), row: 0, wanted }
    }

    /// Takes a value and says whether it raises an alarm.
    pub(super) fn update(&mut self, x: f64) -> bool {
        self.window.record(self.bins.place(x));
        self.row += 1;
        if self.row < self.wanted.every_rows.max(1) {
            return false;
        }
        self.row = 0;
        if self.window.rows() < self.window.capacity() as u64 {
            return false;
        }
        let reading = distances::psi(self.bins, &self.window);
        reading.psi > self.wanted.psi && reading.p <= self.wanted.level()
    }
}

/// ADWIN behind its guard, before the first value.
pub(super) fn mean_test() -> Result<Guarded<Adwin>, SettingError> {
    Adwin::new(AdwinSettings::default()).map(Guarded::new)
}

/// Bins of a baseline as the agent keeps it: rows evenly strided over the recording.
pub(super) fn frozen(values: &[f64], wanted: &Wanted) -> Option<FrozenBins> {
    let stride = values.len().div_ceil(wanted.baseline_rows.max(1)).max(1);
    FrozenBins::from_numbers(values.iter().step_by(stride).copied(), BINS, None).ok()
}
