//! Frozen bins: a reference cut into bins once, and a ring of the newest values that is compared with it.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
use serde::{Deserialize, Serialize};

/// Most bins a reference may have, `other` included; a ring stores bin ids as `u8`.
pub const BINS_MAX: usize = 255;

/// A reference that cannot be frozen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// No row holds a usable value.
    #[error(
        "the reference has no usable value ({missing} missing, {out_of_range} out of range); give rows with this feature present"
    )]
    Empty {
        /// Rows without a value.
        missing: u64,
        /// Rows outside of the valid range.
        out_of_range: u64,
    },
    /// Fewer than 2 or too many bins.
    #[error("{bins} bins cannot be frozen; ask for 2 to {BINS_MAX}")]
    BinCount {
        /// What was asked for.
        bins: usize,
    },
    /// No category, or more than fit.
    #[error("{count} categories cannot be frozen; give 1 to {}", BINS_MAX - 1)]
    CategoryCount {
        /// What was asked for.
        count: usize,
    },
}

/// Where one value falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Into a bin.
    Bin(u8),
    /// Not a number: no value was measured.
    Missing,
    /// A number outside of the valid range (an infinity always is); never a bin.
    OutOfRange,
}

/// How values become bins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Cuts {
    /// Interior edges, ascending and distinct; a value's bin is the number of edges strictly below it.
    Numbers { edges: Vec<f64>, valid: Option<(f64, f64)> },
    /// Categories `0..count`, then `other`.
    Categories { count: u8 },
}

/// The frozen reference of one feature, score or label: cuts, shares, and how many rows it rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrozenBins {
    cuts: Cuts,
    counts: Vec<u64>,
    proportions: Vec<f64>,
    rows: u64,
    missing: u64,
    out_of_range: u64,
}

impl FrozenBins {
    /// Freezes numbers into at most `bins` bins of equal share.
    ///
    /// Edges are the distinct quantiles at `i/bins`, linearly interpolated at position `(n−1)·i/bins`. Ties collapse edges: a
    /// constant has one edge and two bins. NaN is missing.
    ///
    /// # Errors
    ///
    /// Fewer than 2 or more than [`BINS_MAX`] bins, or no usable value.
    pub fn numbers(values: &[f32], bins: usize) -> Result<Self, ReferenceError> {
        Self::from_numbers(values.iter().map(|value| f64::from(*value)), bins, None)
    }

    /// Like [`FrozenBins::numbers`], with values below `valid.0` or above `valid.1` counted apart, now and later.
    ///
    /// # Errors
    ///
    /// Those of [`FrozenBins::numbers`].
    pub fn numbers_within(values: &[f32], bins: usize, valid: (f32, f32)) -> Result<Self, ReferenceError> {
        let range = (f64::from(valid.0), f64::from(valid.1));
        Self::from_numbers(values.iter().map(|value| f64::from(*value)), bins, Some(range))
    }

    /// Like [`FrozenBins::numbers`] for double precision.
    ///
    /// # Errors
    ///
    /// Those of [`FrozenBins::numbers`].
    pub fn from_numbers(
        values: impl IntoIterator<Item = f64>,
        bins: usize,
        valid: Option<(f64, f64)>,
    ) -> Result<Self, ReferenceError> {
        if !(2..=BINS_MAX).contains(&bins) {
            return Err(ReferenceError::BinCount { bins });
        }
        let (mut missing, mut out_of_range) = (0, 0);
        let mut sorted = Vec::new();
        for value in values {
            match check(value, valid) {
                Ok(value) => sorted.push(value),
                Err(Place::Missing) => missing += 1,
                Err(_) => out_of_range += 1,
            }
        }
        if sorted.is_empty() {
            return Err(ReferenceError::Empty { missing, out_of_range });
        }
        sorted.sort_unstable_by(f64::total_cmp);
        let mut edges: Vec<f64> = (1..bins).map(|part| quantile(&sorted, part, bins)).collect();
        edges.dedup();
        let mut counts = vec![0; edges.len() + 1];
        for value in &sorted {
            counts[edges_below(&edges, *value)] += 1;
        }
        Ok(Self::from_counts(Cuts::Numbers { edges, valid }, counts, missing, out_of_range))
    }

    /// Freezes category indices: one bin for each of `0..count` and a last one, `other`, for everything else.
    ///
    /// NaN is missing.
    ///
    /// # Errors
    ///
    /// No category or more than 254, or no usable value.
    pub fn categories(values: &[f32], count: usize) -> Result<Self, ReferenceError> {
        let refuse = || ReferenceError::CategoryCount { count };
        let small = u8::try_from(count).map_err(|_| refuse())?;
        if small == 0 || small == u8::MAX {
            return Err(refuse());
        }
        let mut counts = vec![0; count + 1];
        let mut missing = 0;
        for value in values {
            match category(f64::from(*value), small) {
                Place::Bin(bin) => counts[usize::from(bin)] += 1,
                _ => missing += 1,
            }
        }
        if counts.iter().all(|rows| *rows == 0) {
            return Err(ReferenceError::Empty { missing, out_of_range: 0 });
        }
        Ok(Self::from_counts(Cuts::Categories { count: small }, counts, missing, 0))
    }

    fn from_counts(cuts: Cuts, counts: Vec<u64>, missing: u64, out_of_range: u64) -> Self {
        let rows: u64 = counts.iter().sum();
        let proportions = counts.iter().map(|count| *count as f64 / rows as f64).collect();
        Self { cuts, counts, proportions, rows, missing, out_of_range }
    }

    /// Bin of a value; `None` if it is missing or out of range.
    #[must_use]
    pub fn bin(&self, x: f32) -> Option<u8> {
        match self.place(f64::from(x)) {
            Place::Bin(bin) => Some(bin),
            Place::Missing | Place::OutOfRange => None,
        }
    }

    /// Bin of a value, or why it has none.
    #[must_use]
    pub fn place(&self, x: f64) -> Place {
        match &self.cuts {
            Cuts::Numbers { edges, valid } => match check(x, *valid) {
                Ok(x) => Place::Bin(u8::try_from(edges_below(edges, x)).unwrap_or(u8::MAX)),
                Err(place) => place,
            },
            Cuts::Categories { count } => category(x, *count),
        }
    }

    /// Number of bins, `other` included.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.counts.len()
    }

    /// Interior edges, ascending; empty for categories.
    #[must_use]
    pub fn edges(&self) -> &[f64] {
        match &self.cuts {
            Cuts::Numbers { edges, .. } => edges,
            Cuts::Categories { .. } => &[],
        }
    }

    /// Share of the reference in each bin; sums to 1.
    #[must_use]
    pub fn proportions(&self) -> &[f64] {
        &self.proportions
    }

    /// Reference rows in each bin.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Reference rows in all bins: those with a usable value.
    #[must_use]
    pub fn reference_rows(&self) -> u64 {
        self.rows
    }

    /// Reference rows without a value.
    #[must_use]
    pub fn missing_rows(&self) -> u64 {
        self.missing
    }

    /// Reference rows outside of the valid range.
    #[must_use]
    pub fn out_of_range_rows(&self) -> u64 {
        self.out_of_range
    }
}

/// The newest values of a stream as bin ids, with their counts kept up to date; a push costs one decrement and one increment.
///
/// Missing and out-of-range values take no place in the ring: they are counted since its creation, and their rates are watched
/// apart. So a sparse feature still reaches a verdict, over a longer time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BinWindow {
    ring: Vec<u8>,
    next: u32,
    capacity: u32,
    counts: Vec<u64>,
    missing: u64,
    out_of_range: u64,
}

impl BinWindow {
    /// An empty window of at most `capacity` values (at least 1) over the bins of `reference`.
    #[must_use]
    pub fn new(reference: &FrozenBins, capacity: usize) -> Self {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX).max(1);
        Self { ring: Vec::new(), next: 0, capacity, counts: vec![0; reference.bins()], missing: 0, out_of_range: 0 }
    }

    /// Takes the bin of the next value; `None`, or a bin the reference does not have, counts as missing.
    pub fn push(&mut self, bin: Option<u8>) {
        self.record(bin.map_or(Place::Missing, Place::Bin));
    }

    /// Takes the place of the next value.
    pub fn record(&mut self, place: Place) {
        let bin = match place {
            Place::Bin(bin) if usize::from(bin) < self.counts.len() => bin,
            Place::Bin(_) | Place::Missing => {
                self.missing += 1;
                return;
            }
            Place::OutOfRange => {
                self.out_of_range += 1;
                return;
            }
        };
        self.counts[usize::from(bin)] += 1;
        let place = self.next as usize;
        match self.ring.get_mut(place) {
            Some(oldest) => {
                self.counts[usize::from(*oldest)] -= 1;
                *oldest = bin;
            }
            None => self.ring.push(bin),
        }
        self.next += 1;
        if self.next == self.capacity {
            self.next = 0;
        }
    }

    /// Values in the window.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.ring.len() as u64
    }

    /// Most values the window holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Values in each bin.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Share of the window in each bin; all 0 while it is empty.
    #[must_use]
    pub fn proportions(&self) -> Vec<f64> {
        let rows = (self.ring.len() as f64).max(1.0);
        self.counts.iter().map(|count| *count as f64 / rows).collect()
    }

    /// Missing values since the window was created or emptied.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Out-of-range values since the window was created or emptied.
    #[must_use]
    pub fn out_of_range(&self) -> u64 {
        self.out_of_range
    }

    /// Keeps every `every`-th value, counted back from the newest one, as if no others had been taken.
    pub fn thin(&mut self, every: usize) {
        let oldest = if self.ring.len() == self.capacity() { self.next as usize } else { 0 };
        self.ring.rotate_left(oldest);
        let surplus = self.ring.len().saturating_sub(1) % every.max(1);
        self.ring = self.ring.iter().skip(surplus).step_by(every.max(1)).copied().collect();
        self.counts.fill(0);
        for bin in &self.ring {
            self.counts[usize::from(*bin)] += 1;
        }
        let full = self.ring.len() == self.capacity();
        self.next = if full { 0 } else { u32::try_from(self.ring.len()).unwrap_or(0) };
    }

    /// Forgets all values and counters.
    pub fn clear(&mut self) {
        self.ring.clear();
        self.next = 0;
        self.counts.fill(0);
        self.missing = 0;
        self.out_of_range = 0;
    }
}

/// The value itself if it is a number within range.
fn check(x: f64, valid: Option<(f64, f64)>) -> Result<f64, Place> {
    if x.is_nan() {
        return Err(Place::Missing);
    }
    let inside = x.is_finite() && valid.is_none_or(|(low, high)| low <= x && x <= high);
    if inside { Ok(x) } else { Err(Place::OutOfRange) }
}

fn category(x: f64, count: u8) -> Place {
    if x.is_nan() {
        return Place::Missing;
    }
    // Comparing with every known index refuses fractions and negative numbers without a cast that could wrap.
    Place::Bin((0..count).find(|index| x.total_cmp(&f64::from(*index)).is_eq()).unwrap_or(count))
}

fn edges_below(edges: &[f64], x: f64) -> usize {
    edges.iter().map(|edge| usize::from(*edge < x)).sum()
}

/// Quantile at `part/parts` of sorted, non-empty values, linearly interpolated.
fn quantile(sorted: &[f64], part: usize, parts: usize) -> f64 {
    let position = (sorted.len() - 1) * part;
    let (below, rest) = (position / parts, position % parts);
    let low = sorted[below];
    if rest == 0 {
        return low;
    }
    low + (sorted[below + 1] - low) * (rest as f64 / parts as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deciles_of_a_ramp_cut_it_evenly_and_a_value_on_an_edge_falls_below_it() {
        let ramp: Vec<f32> = (0..=100).map(|row| row as f32).collect();
        let bins = FrozenBins::numbers(&ramp, 10).unwrap();
        assert_eq!(bins.edges(), [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0]);
        assert_eq!(
            (bins.bin(10.0), bins.bin(10.5), bins.bin(-5.0), bins.bin(1e9)),
            (Some(0), Some(1), Some(0), Some(9))
        );
        assert_eq!(bins.counts(), [11, 10, 10, 10, 10, 10, 10, 10, 10, 10]);
        assert_eq!(bins.reference_rows(), 101);
    }

    #[test]
    fn a_constant_has_one_edge_and_two_bins() {
        let bins = FrozenBins::numbers(&[0.25; 40], 10).unwrap();
        assert_eq!((bins.edges(), bins.proportions()), ([0.25].as_slice(), [1.0, 0.0].as_slice()));
        assert_eq!((bins.bin(0.25), bins.bin(0.3)), (Some(0), Some(1)));
    }

    #[test]
    fn missing_and_out_of_range_are_counted_and_never_a_bin() {
        let bins = FrozenBins::numbers_within(&[1.0, 2.0, f32::NAN, 99.0, f32::INFINITY], 2, (0.0, 10.0)).unwrap();
        assert_eq!((bins.reference_rows(), bins.missing_rows(), bins.out_of_range_rows()), (2, 1, 2));
        let mut window = BinWindow::new(&bins, 4);
        for x in [1.0, f64::NAN, -1.0, f64::NEG_INFINITY, 2.0] {
            window.record(bins.place(x));
        }
        window.push(None);
        window.push(Some(200));
        assert_eq!((window.rows(), window.missing(), window.out_of_range()), (2, 3, 2));
    }

    #[test]
    fn unseen_categories_go_to_other() {
        let bins = FrozenBins::categories(&[0.0, 1.0, 1.0, f32::NAN], 3).unwrap();
        assert_eq!(bins.counts(), [1, 2, 0, 0]);
        assert_eq!([2.0, 3.0, -1.0, 0.5].map(|x| bins.bin(x)), [Some(2), Some(3), Some(3), Some(3)]);
        assert_eq!(bins.missing_rows(), 1);
    }

    #[test]
    fn the_window_keeps_the_newest_values_only() {
        let bins = FrozenBins::categories(&[0.0], 2).unwrap();
        let mut window = BinWindow::new(&bins, 3);
        for bin in [0, 0, 1, 1, 2] {
            window.push(Some(bin));
        }
        assert_eq!((window.rows(), window.counts()), (3, [0, 2, 1].as_slice()));
        window.clear();
        assert_eq!((window.rows(), window.counts()), (0, [0, 0, 0].as_slice()));
    }

    #[test]
    fn a_thinned_window_holds_every_other_value_and_fills_on() {
        let bins = FrozenBins::categories(&[0.0], 5).unwrap();
        for capacity in [4, 5, 9] {
            let mut window = BinWindow::new(&bins, capacity);
            for bin in [0, 1, 2, 3, 5] {
                window.push(Some(bin));
            }
            // At distance 0, 2 and 4 from the newest, where they are still held.
            window.thin(2);
            let expected: &[u64] = if capacity == 4 { &[0, 0, 1, 0, 0, 1] } else { &[1, 0, 1, 0, 0, 1] };
            assert_eq!(window.counts(), expected);
            for _ in 0..capacity {
                window.push(Some(4));
            }
            assert_eq!(window.counts(), [0, 0, 0, 0, capacity as u64, 0]);
        }
    }

    #[test]
    fn an_unusable_reference_is_refused_with_what_was_wrong() {
        assert_eq!(FrozenBins::numbers(&[f32::NAN], 10), Err(ReferenceError::Empty { missing: 1, out_of_range: 0 }));
        assert_eq!(FrozenBins::numbers(&[1.0], 1), Err(ReferenceError::BinCount { bins: 1 }));
        assert_eq!(FrozenBins::categories(&[1.0], 255), Err(ReferenceError::CategoryCount { count: 255 }));
        assert!(FrozenBins::categories(&[1.0], 0).is_err());
    }
}
