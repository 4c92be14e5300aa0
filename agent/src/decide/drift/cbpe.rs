//! CBPE: how often the answers are right, estimated from their confidence while no labels come.
//!
//! With honest confidences the mean confidence of the answered class is the accuracy (reference: NannyML's confidence-based
//! performance estimation). Labels make them honest: an isotonic map from confidence to share of right answers, by
//! pool-adjacent-violators over [`BINS`] bins of equal width, kept only if it lowers the expected calibration error on labels it was
//! not fitted to. Chunks are kept as counts per bin, so that a new map moves the reference chunks and the newest one alike.
//!
//! The estimate sees inputs that make the model unsure. It is blind to a change of the truth behind the same inputs and to
//! inputs unlike any labelled one: a notice, never an alarm. Regression has no such confidence.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Bins of confidence between `1/classes` and 1.
pub const BINS: usize = 32;
/// Estimates remembered to be drawn.
pub const ESTIMATES_MAX: usize = 64;
/// Standard deviations of the reference chunks within which a chunk is unremarkable.
const DEVIATIONS: f64 = 3.0;
/// Every third label checks a fitted map instead of fitting it.
const HELD_EVERY: u32 = 3;

/// Settings of [`Cbpe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CbpeSettings {
    /// Rows of a chunk, of answers as of labels; 50 to 100,000. Default 500: the standard error of an accuracy is then about .02.
    pub chunk_rows: u32,
    /// First chunks of a model that say what is normal; 2 to 64. Default 6.
    pub reference_chunks: u32,
}

impl Default for CbpeSettings {
    fn default() -> Self {
        Self { chunk_rows: 500, reference_chunks: 6 }
    }
}

/// What a chunk of answers is worth.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Expected share of right answers.
    pub accuracy: f64,
    /// Expected F1 of the second class, for two classes: `2 TP / (2 TP + FP + FN)` of the expected counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub f1: Option<f64>,
}

/// A chunk that left what the reference chunks spread over.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outside {
    /// Its estimated accuracy.
    pub accuracy: f64,
    /// Lowest unremarkable accuracy.
    pub low: f64,
    /// Highest unremarkable accuracy.
    pub high: f64,
}

/// How the last estimates did, for people.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CbpeView {
    /// Chunks of answers finished.
    pub chunks: u64,
    /// Estimate of the newest chunk.
    pub estimate: Option<Estimate>,
    /// Accuracies that would be unremarkable; none before enough reference chunks.
    pub expected: Option<[f64; 2]>,
    /// Whether labels have corrected the confidences.
    pub calibrated: bool,
    /// Accuracy of the newest chunk of labels.
    pub realised: Option<f64>,
    /// Estimate minus realised accuracy on that chunk, before it taught anything.
    pub gap: Option<f64>,
}

/// Counts of confidences per bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Histogram {
    rows: [u32; BINS],
    confidence: [f64; BINS],
}

impl Histogram {
    fn push(&mut self, bin: usize, confidence: f64) {
        self.rows[bin] += 1;
        self.confidence[bin] += confidence;
    }

    /// Rows, expected right answers, and their sum of squares over rows, with the shares of a map or the raw confidences.
    fn sums(&self, map: Option<&[f64; BINS]>) -> [f64; 3] {
        let mut sums = [0.0; 3];
        for bin in 0..BINS {
            let rows = f64::from(self.rows[bin]);
            if rows > 0.0 {
                let share = map.map_or(self.confidence[bin] / rows, |map| map[bin]);
                sums = [sums[0] + rows, sums[1] + rows * share, sums[2] + rows * share * share];
            }
        }
        sums
    }
}

/// Labelled confidences per bin.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Labelled {
    confidences: Histogram,
    right: [u32; BINS],
}

impl Labelled {
    /// The isotonic map of these labels; one imagined label per bin, as confident as the bin, keeps empty bins from guessing.
    fn isotonic(&self, centre: impl Fn(usize) -> f64) -> [f64; BINS] {
        let mut pools: Vec<(f64, f64, usize)> = Vec::with_capacity(BINS);
        for bin in 0..BINS {
            pools.push((f64::from(self.right[bin]) + centre(bin), f64::from(self.confidences.rows[bin]) + 1.0, 1));
            while let [.., before, last] = pools.as_slice()
                && before.0 * last.1 >= last.0 * before.1
            {
                let joined = (before.0 + last.0, before.1 + last.1, before.2 + last.2);
                pools.truncate(pools.len() - 2);
                pools.push(joined);
            }
        }
        let mut map = [0.0; BINS];
        let shares = pools.iter().flat_map(|(right, rows, bins)| std::iter::repeat_n(right / rows, *bins));
        map.iter_mut().zip(shares).for_each(|(place, share)| *place = share);
        map
    }

    /// Mean over rows of the distance between expected and true share of their bin.
    fn calibration_error(&self, map: Option<&[f64; BINS]>) -> f64 {
        let (mut rows, mut sum) = (0.0, 0.0);
        for bin in 0..BINS {
            let n = f64::from(self.confidences.rows[bin]);
            if n > 0.0 {
                let expected = map.map_or(self.confidences.confidence[bin], |map| n * map[bin]);
                rows += n;
                sum += (expected - f64::from(self.right[bin])).abs();
            }
        }
        if rows > 0.0 { sum / rows } else { 0.0 }
    }

    fn join(&mut self, other: &Self) {
        for bin in 0..BINS {
            self.confidences.rows[bin] += other.confidences.rows[bin];
            self.confidences.confidence[bin] += other.confidences.confidence[bin];
            self.right[bin] += other.right[bin];
        }
    }
}

/// A chunk of answers: those of the second class of two apart from the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Chunk {
    rows: u32,
    sides: [Histogram; 2],
}

impl Chunk {
    fn estimate(&self, map: Option<&[f64; BINS]>, classes: usize) -> Estimate {
        let [[n0, right0, _], [n1, right1, _]] = [self.sides[0].sums(map), self.sides[1].sums(map)];
        let n = n0 + n1;
        // Of two classes an answer of the first that is wrong is a missed second.
        let (hits, missed) = (right1, n0 - right0);
        let pairs = 2.0 * hits + (n1 - hits) + missed;
        let f1 = (classes == 2 && pairs > 0.0).then(|| 2.0 * hits / pairs);
        Estimate { accuracy: if n > 0.0 { (right0 + right1) / n } else { 0.0 }, f1 }
    }

    /// Variance of the expected share from row to row.
    fn variance(&self, map: Option<&[f64; BINS]>) -> f64 {
        let [first, second] = [self.sides[0].sums(map), self.sides[1].sums(map)];
        let n = (first[0] + second[0]).max(1.0);
        let mean = (first[1] + second[1]) / n;
        ((first[2] + second[2]) / n - mean * mean).max(0.0)
    }
}

/// The estimator of one model; start a new one when another model answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cbpe {
    settings: CbpeSettings,
    classes: usize,
    map: Option<[f64; BINS]>,
    fitted: Labelled,
    held: Labelled,
    labels: u32,
    chunk: Chunk,
    newest: Option<Chunk>,
    references: Vec<Chunk>,
    estimates: VecDeque<f32>,
    chunks: u64,
    outside: bool,
    realised: Option<(f64, f64)>,
}

impl Cbpe {
    /// An estimator for answers over `classes` classes; settings out of range are brought into it.
    #[must_use]
    pub fn new(settings: CbpeSettings, classes: usize) -> Self {
        let settings = CbpeSettings {
            chunk_rows: settings.chunk_rows.clamp(50, 100_000),
            reference_chunks: settings.reference_chunks.clamp(2, 64),
        };
        Self {
            settings,
            classes: classes.max(1),
            map: None,
            fitted: Labelled::default(),
            held: Labelled::default(),
            labels: 0,
            chunk: Chunk::default(),
            newest: None,
            references: Vec::new(),
            estimates: VecDeque::new(),
            chunks: 0,
            outside: false,
            realised: None,
        }
    }

    /// Rows of a chunk.
    #[must_use]
    pub fn chunk_rows(&self) -> u32 {
        self.settings.chunk_rows
    }

    /// Estimated accuracies of the last chunks, oldest first, as they were estimated then.
    #[must_use]
    pub fn estimates(&self) -> Vec<f32> {
        self.estimates.iter().copied().collect()
    }

    /// Takes an answer: the class it names and the confidence in it. Returns something when a chunk is the first to lie outside of the
    /// reference chunks' mean ± 3 standard deviations. A confidence that is no number is ignored.
    pub fn answer(&mut self, class: usize, confidence: f64) -> Option<Outside> {
        let bin = self.bin(confidence)?;
        let side = usize::from(self.classes == 2 && class == 1);
        self.chunk.sides[side].push(bin, confidence.clamp(0.0, 1.0));
        self.chunk.rows += 1;
        if self.chunk.rows < self.settings.chunk_rows {
            return None;
        }
        let chunk = std::mem::take(&mut self.chunk);
        self.chunks += 1;
        let accuracy = chunk.estimate(self.map.as_ref(), self.classes).accuracy;
        if self.estimates.len() == ESTIMATES_MAX {
            self.estimates.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "only drawn")]
        self.estimates.push_back(accuracy as f32);
        let expected = self.expected();
        if expected.is_none() {
            self.references.push(chunk.clone());
        }
        self.newest = Some(chunk);
        let [low, high] = expected?;
        let was = std::mem::replace(&mut self.outside, !(low..=high).contains(&accuracy));
        (self.outside && !was).then_some(Outside { accuracy, low, high })
    }

    /// Takes a label of an answer: the confidence it had, and whether it was right. Every chunk of labels refits the map.
    pub fn label(&mut self, confidence: f64, right: bool) {
        let Some(bin) = self.bin(confidence) else {
            return;
        };
        let part = if self.labels % HELD_EVERY == HELD_EVERY - 1 { &mut self.held } else { &mut self.fitted };
        part.confidences.push(bin, confidence.clamp(0.0, 1.0));
        part.right[bin] += u32::from(right);
        self.labels += 1;
        if self.labels >= self.settings.chunk_rows {
            self.refit();
        }
    }

    fn refit(&mut self) {
        let (fitted, held) = (std::mem::take(&mut self.fitted), std::mem::take(&mut self.held));
        self.labels = 0;
        let centre = |bin: usize| self.centre(bin);
        let candidate = fitted.isotonic(centre);
        let mut all = fitted;
        all.join(&held);
        let [rows, expected, _] = all.confidences.sums(self.map.as_ref());
        let right: u32 = all.right.iter().sum();
        self.realised = Some((expected / rows, f64::from(right) / rows));
        let raw = held.calibration_error(None);
        let known = self.map.as_ref().map_or(raw, |map| held.calibration_error(Some(map)));
        let fresh = held.calibration_error(Some(&candidate));
        if fresh < raw.min(known) {
            self.map = Some(all.isotonic(|bin| self.centre(bin)));
        } else if raw <= known {
            self.map = None;
        }
    }

    /// Accuracies within three standard deviations of the reference chunks; at least the spread that drawing rows alone gives.
    fn expected(&self) -> Option<[f64; 2]> {
        if self.references.len() < self.settings.reference_chunks as usize {
            return None;
        }
        let n = self.references.len() as f64;
        let map = self.map.as_ref();
        let each = self.references.iter().map(|chunk| chunk.estimate(map, self.classes).accuracy);
        let mean = each.clone().sum::<f64>() / n;
        let variance = each.map(|accuracy| (accuracy - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let within = self.references.iter().map(|chunk| chunk.variance(map)).sum::<f64>() / n;
        let spread = variance.max(within / f64::from(self.settings.chunk_rows)).sqrt();
        Some([mean - DEVIATIONS * spread, mean + DEVIATIONS * spread])
    }

    /// How it stands.
    #[must_use]
    pub fn view(&self) -> CbpeView {
        let newest = self.newest.as_ref();
        CbpeView {
            chunks: self.chunks,
            estimate: newest.map(|chunk| chunk.estimate(self.map.as_ref(), self.classes)),
            expected: self.expected(),
            calibrated: self.map.is_some(),
            realised: self.realised.map(|(_, realised)| realised),
            gap: self.realised.map(|(estimate, realised)| estimate - realised),
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "scaled to 0..BINS")]
    fn bin(&self, confidence: f64) -> Option<usize> {
        let lowest = 1.0 / self.classes as f64;
        let place = (confidence - lowest) / (1.0 - lowest).max(f64::MIN_POSITIVE);
        confidence.is_finite().then(|| ((place.clamp(0.0, 1.0) * BINS as f64) as usize).min(BINS - 1))
    }

    fn centre(&self, bin: usize) -> f64 {
        let lowest = 1.0 / self.classes as f64;
        lowest + (1.0 - lowest) * (bin as f64 + 0.5) / BINS as f64
    }
}

#[cfg(test)]
mod tests;
