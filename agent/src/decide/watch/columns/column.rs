//! One column against its frozen law: where each value goes.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::law::{Baseline, Law, lag_one};
use super::mean::{MeanWatch, Shift};
use super::quality::RateWatch;
use super::{ColumnKind, ColumnPlan, ColumnSpec, ColumnTest};
use crate::decide::drift::bins::{BinWindow, Place};
use crate::decide::drift::guard::block_rows;
use crate::decide::drift::season::Phase;
use crate::decide::time::Timestamp;

/// Looks that the trace of a column remembers.
const TRACE_LOOKS: usize = 16;
/// Blocks that the second guard joined of which the window takes one value: so a window of 200 spans at least 50 of the long ones.
const JOINED_PER_VALUE: u32 = 4;

/// Whether the bins of a column were already reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nothing to say.
    #[default]
    Quiet,
    /// Significant, but small.
    Noticed,
    /// Drifted.
    Alarmed,
}

/// One column and everything that watches it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Column {
    pub(super) spec: ColumnSpec,
    /// Valid range; all finite numbers where none is known.
    low: f32,
    high: f32,
    /// None until there is a baseline with a usable row: then the column is shown, never judged.
    pub(super) law: Option<Law>,
    pub(super) window: Option<BinWindow>,
    /// Rows of which the window takes one, and how many are left until it does.
    pub(super) step_rows: u32,
    skip_rows: u32,
    pub(super) standing: Standing,
    pub(super) mean: MeanWatch,
    pub(super) missing: RateWatch,
    pub(super) outside: RateWatch,
    /// Values that could not be freed from their season, because they came without a time.
    pub(super) untimed: u64,
    trace: VecDeque<f32>,
    look_sum: f64,
    look_values: u32,
}

/// What the tests of one column may spend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// ADWIN's delta.
    pub(super) mean_delta: f64,
    /// Rate tests of all columns together.
    pub(super) rate_tests: usize,
}

impl Column {
    /// A column without a baseline.
    pub(super) fn new(spec: ColumnSpec) -> Self {
        let usable = spec.range.filter(|[low, high]| low.is_finite() && high.is_finite() && low <= high);
        let [low, high] = usable.unwrap_or([f32::MIN, f32::MAX]);
        Self {
            spec,
            low,
            high,
            law: None,
            window: None,
            step_rows: 1,
            skip_rows: 0,
            standing: Standing::Quiet,
            mean: MeanWatch::new(None),
            missing: RateWatch::default(),
            outside: RateWatch::default(),
            untimed: 0,
            trace: VecDeque::new(),
            look_sum: 0.0,
            look_values: 0,
        }
    }

    /// Freezes a new law from this column's raw values and starts everything anew.
    pub(super) fn rebaseline(&mut self, raw: &[f32], times: Option<&[Timestamp]>, plan: &ColumnPlan, share: Share) {
        let mut values = Vec::with_capacity(raw.len());
        let mut stamps = Vec::with_capacity(times.map_or(0, <[Timestamp]>::len));
        let mut missing = Vec::with_capacity(raw.len());
        let mut outside = Vec::with_capacity(raw.len());
        for (row, x) in raw.iter().enumerate() {
            let known = !x.is_nan();
            let usable = known && self.is_possible(*x);
            missing.push(f64::from(u8::from(!known)));
            outside.push(f64::from(u8::from(known && !usable)));
            if usable {
                values.push(f64::from(*x));
                stamps.extend(times.map(|times| times[row]));
            }
        }
        let earlier = self.law.as_ref().and_then(|law| law.profile().cloned());
        let rows = Baseline { values: &values, times: times.map(|_| stamps.as_slice()) };
        self.law = Law::freeze(self.spec.kind, rows, plan.how.bins, earlier.as_ref());
        let rate = |faults: &[f64]| {
            let count = faults.iter().filter(|fault| **fault > 0.0).count() as u64;
            RateWatch::new(count, faults.len() as u64, block_rows(lag_one(faults)), share.rate_tests)
        };
        self.missing = rate(&missing);
        self.outside = rate(&outside);
        self.restart(plan, share);
    }

    /// Forgets what was seen since the baseline.
    pub(super) fn restart(&mut self, plan: &ColumnPlan, share: Share) {
        let law = self.law.as_ref();
        let window_rows = usize::try_from(plan.how.window_rows).unwrap_or(usize::MAX);
        self.window = law.map(|law| BinWindow::new(&law.bins, window_rows));
        let tested = plan.has(ColumnTest::Mean) && law.is_some_and(Law::has_mean);
        self.mean = MeanWatch::new(tested.then_some(share.mean_delta));
        // A baseline in time order already tells how far apart rows must lie.
        self.step_rows = law.map_or(1, |law| law.block_rows);
        self.skip_rows = 0;
        self.standing = Standing::Quiet;
        self.missing = self.missing.restarted();
        self.outside = self.outside.restarted();
        self.untimed = 0;
        self.trace.clear();
        self.look_sum = 0.0;
        self.look_values = 0;
    }

    /// Takes the next raw value and returns the mean shift it reveals.
    pub(super) fn take(&mut self, x: f32, phase: Option<Phase>, release: f64) -> Option<Shift> {
        if x.is_nan() {
            self.missing.fault();
            return None;
        }
        if !self.is_possible(x) {
            self.outside.fault();
            if self.spec.kind == ColumnKind::Number {
                return None;
            }
        }
        let law = self.law.as_ref()?;
        let Some(coordinate) = law.coordinate(f64::from(x), phase) else {
            self.untimed += 1;
            return None;
        };
        let due = self.skip_rows == 0;
        self.skip_rows = if due { self.step_rows - 1 } else { self.skip_rows - 1 };
        let is_category = self.spec.kind != ColumnKind::Number;
        let place = if due || is_category { law.bins.place(coordinate) } else { Place::Missing };
        if due && let Some(window) = &mut self.window {
            window.record(place);
        }
        let coordinate = match place {
            Place::Bin(bin) if is_category => f64::from(bin),
            _ => coordinate,
        };
        self.look_sum += coordinate;
        self.look_values += 1;
        self.mean.take(law.standardised(coordinate), release)
    }

    /// Whether a present value lies in the valid range, or is a category known in training.
    fn is_possible(&self, x: f32) -> bool {
        match self.spec.kind {
            ColumnKind::Number => self.low <= x && x <= self.high,
            // Whole numbers up to 254 are exact.
            ColumnKind::Category { count } => x >= 0.0 && f64::from(x) < f64::from(count) && x.fract().abs() <= 0.0,
        }
    }

    /// Once per look: notes the mean since the last one, and spreads the window if the rows follow each other more than thought.
    pub(super) fn look(&mut self, release: f64) {
        if self.look_values > 0 {
            if self.trace.len() == TRACE_LOOKS {
                self.trace.pop_front();
            }
            #[expect(clippy::cast_possible_truncation, reason = "a mean of f32 values, to be drawn")]
            let mean = (self.look_sum / f64::from(self.look_values)).clamp(f32::MIN.into(), f32::MAX.into()) as f32;
            self.trace.push_back(mean);
            self.look_sum = 0.0;
            self.look_values = 0;
        }
        self.mean.look(release);
        self.missing.look();
        self.outside.look();
        let wanted = self.mean.block_rows() * self.values_per_joined();
        if wanted > self.step_rows {
            if let (Some(window), Ok(every)) = (&mut self.window, usize::try_from(wanted.div_ceil(self.step_rows))) {
                window.thin(every);
            }
            self.step_rows = wanted;
        }
    }

    /// Independent values the window holds: less than its values where the second guard found them to go on following each other.
    pub(super) fn values_independent(&self) -> f64 {
        let rows = self.window.as_ref().map_or(0, BinWindow::rows);
        let joined = f64::from(self.mean.blocks_joined());
        #[expect(clippy::cast_precision_loss, reason = "a window holds at most 4096 values")]
        let rows = rows as f64;
        rows * f64::from(self.values_per_joined()) / joined.max(1.0)
    }

    fn values_per_joined(&self) -> u32 {
        self.mean.blocks_joined().div_ceil(JOINED_PER_VALUE).max(1)
    }

    /// Means of the coordinate over the last looks, oldest first.
    pub(super) fn trace(&self) -> Vec<f32> {
        self.trace.iter().copied().collect()
    }
}
