//! Drift: incremental detectors over one stream, distances to a frozen reference, and tests with a promised run length.
//!
//! Everything here is plain serialisable data of bounded size: saving and restoring a detector between any two samples changes
//! nothing that follows, to the bit. Nothing reads a clock or draws chance of its own; what is random is drawn from a seed.
use serde::{Deserialize, Serialize};

pub mod adwin;
pub mod bins;
pub mod cbpe;
pub mod compare;
pub mod ddm;
pub mod distances;
pub mod e_detector;
pub mod eddm;
pub mod fhddm;
pub mod guard;
pub mod hddm;
pub mod holm;
pub mod kolmogorov;
pub mod kswin;
mod mersenne;
pub mod newma;
pub mod page_hinkley;
pub mod principal;
pub mod qt_ewma;
#[cfg(test)]
mod qt_simulation;
mod qt_tables;
pub mod qt_thresholds;
pub mod quant_tree;
pub mod season;
pub(crate) mod seeded;
pub mod spec;
pub mod special;
pub mod statistics;
pub mod thinning;

#[cfg(test)]
mod parity;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod vector_properties;

/// Values beyond this are treated like non-finite ones: their squares would overflow a detector's sums and silence it for good.
pub const MAGNITUDE_MAX: f64 = 1e100;

/// A test on one stream that looks at every value once.
pub trait Detector {
    /// Takes the next value and returns the alarm it raises, if any.
    ///
    /// Values that are not finite, or beyond [`MAGNITUDE_MAX`], are ignored and return `None`: the state, the warning and the
    /// sample count stay as they were. The caller counts them as missing.
    fn update(&mut self, x: f64) -> Option<Alarm>;

    /// Whether the detector warned at the last value; detectors without a warning level always say no.
    fn is_warning(&self) -> bool;
}

/// What a detector says when it fires.
///
/// Indices are 0-based counts of the values the detector accepted since it was created, not since its last reset.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The value that raised the alarm.
    pub index: u64,
    /// The tested statistic, in the detector's own units.
    pub statistic: f64,
    /// What the statistic was compared with.
    pub threshold: f64,
    /// Estimate of the first value that obeys the new law; never later than `index`.
    pub change_point: u64,
    /// Where the watched quantity went.
    pub direction: Direction,
}

/// Where a watched quantity went, or which way a detector looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// It rose.
    Up,
    /// It fell.
    Down,
    /// Either way, or a change of law without a direction.
    Both,
}

/// A setting outside of what a detector can work with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{detector}: `{parameter}` is {value}; it must be {expected}")]
pub struct SettingError {
    /// Name of the detector as in a specification text.
    pub detector: &'static str,
    /// Name of the parameter.
    pub parameter: &'static str,
    /// What was given.
    pub value: f64,
    /// What would be accepted, for people.
    pub expected: &'static str,
}

/// Refuses a setting unless `accepted`.
pub(crate) fn require(
    accepted: bool,
    detector: &'static str,
    parameter: &'static str,
    value: f64,
    expected: &'static str,
) -> Result<(), SettingError> {
    if accepted { Ok(()) } else { Err(SettingError { detector, parameter, value, expected }) }
}

/// Whether a detector takes this value at all.
pub(crate) fn usable(x: f64) -> bool {
    x.abs() <= MAGNITUDE_MAX
}

/// A running mean, updated as `mean += (x − mean)/n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mean {
    pub(crate) count: u64,
    pub(crate) value: f64,
}

impl Mean {
    /// Takes one more value.
    #[expect(clippy::cast_precision_loss, reason = "a detector never sees 2^53 values")]
    pub(crate) fn update(&mut self, x: f64) {
        self.count += 1;
        self.value += (1.0 / self.count as f64) * (x - self.value);
    }
}
