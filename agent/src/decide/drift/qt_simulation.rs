//! Makes the tables of `qt_tables.rs`: thresholds of QT-EWMA by simulation, without any data.
//!
//! A stream without drift is a draw of bin chances from their Dirichlet law and independent hits after it; its path knows no
//! threshold. So each stream is simulated once, its largest statistic in each window of steps is kept, and the thresholds of every
//! run length follow afterwards, window by window, from the streams that have not alarmed before. Long windows need few streams.
use super::qt_tables::{REFERENCE_ROWS, RUN_LENGTHS, WINDOWS};
use super::quant_tree::QtSettings;
use super::seeded::Draws;

const BINS: usize = 32;
/// Alarms per e-fold of steps at the longest run length; 3 % error of a window's rate with 1,000.
const ALARMS: f64 = 3000.0;
/// Steps between two rescalings of the averages: 0.97^128 is far from the end of single precision.
const STRETCH: usize = 128;

/// The law of one stream: an alias table (Walker, 1977) of its bin chances.
struct Stream {
    accept: [u32; BINS],
    alias: [u8; BINS],
    averages: [f32; BINS],
    statistic: f32,
}

/// What every stream of one reference size shares.
struct Shared {
    /// Rows of the reference in each bin; none for an endless reference.
    sizes: Option<[f64; BINS]>,
    chances: [f64; BINS],
    /// `T' = (1−λ)²·T + slope·Z + offset` after a hit.
    slope: [f32; BINS],
    offset: [f32; BINS],
    scale: [f32; STRETCH],
    gain: [f32; STRETCH],
    kept_squared: f32,
    kept_stretch: f32,
}

#[expect(clippy::cast_possible_truncation, reason = "millions of streams in single precision")]
impl Shared {
    fn new(reference_rows: f64) -> Self {
        let weight = QtSettings::default().weight;
        let kept = 1.0 - weight;
        let mut sizes = [reference_rows / BINS as f64; BINS];
        let mut chances = [1.0 / BINS as f64; BINS];
        let finite = reference_rows.is_finite();
        if finite {
            sizes[BINS - 1] += 1.0;
            chances = sizes.map(|size| size / (reference_rows + 1.0));
        }
        let power = |step: usize| kept.powi(i32::try_from(step).unwrap_or(i32::MAX));
        Self {
            sizes: finite.then_some(sizes),
            chances,
            slope: chances.map(|chance| (2.0 * weight * kept / chance) as f32),
            offset: chances.map(|chance| (weight * weight * (1.0 / chance - 1.0) - 2.0 * weight * kept) as f32),
            scale: std::array::from_fn(|step| power(step) as f32),
            gain: std::array::from_fn(|step| (weight / power(step + 1)) as f32),
            kept_squared: (kept * kept) as f32,
            kept_stretch: power(STRETCH) as f32,
        }
    }

    fn stream(&self, draws: &mut Draws) -> Stream {
        let weights = self.sizes.map_or(self.chances, |sizes| sizes.map(|size| draws.gamma(size)));
        let total: f64 = weights.iter().sum();
        let mut shares = weights.map(|weight| weight / total * BINS as f64);
        let mut stream = Stream {
            accept: [u32::MAX; BINS],
            alias: [0; BINS],
            averages: self.chances.map(|c| c as f32),
            statistic: 0.0,
        };
        let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..BINS).partition(|bin| shares[*bin] < 1.0);
        while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
            #[expect(clippy::cast_sign_loss, reason = "a share")]
            let limit = (shares[poor] * 4_294_967_296.0) as u32;
            stream.accept[poor] = limit;
            stream.alias[poor] = rich as u8;
            shares[rich] -= 1.0 - shares[poor];
            if shares[rich] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        // Rounding may leave a bin without a partner; it keeps its whole column.
        for bin in small.into_iter().chain(large) {
            (stream.accept[bin], stream.alias[bin]) = (u32::MAX, bin as u8);
        }
        stream
    }
}

impl Stream {
    /// Largest statistic over the steps of each window.
    fn maxima(&mut self, shared: &Shared, windows: usize, draws: &mut Draws, mut keep: impl FnMut(usize, f32)) {
        let mut step = 0;
        for window in 0..windows {
            let mut largest = 0.0_f32;
            while step < WINDOWS[window + 1] as usize {
                let place = step % STRETCH;
                let bits = draws.bits();
                let column = (bits >> 59) as usize;
                #[expect(clippy::cast_possible_truncation, reason = "the low half")]
                let low = bits as u32;
                let bin = if low < self.accept[column] { column } else { usize::from(self.alias[column]) };
                let average = &mut self.averages[bin];
                self.statistic = shared.kept_squared * self.statistic
                    + shared.slope[bin] * shared.scale[place] * *average
                    + shared.offset[bin];
                *average += shared.gain[place];
                if place == STRETCH - 1 {
                    self.averages.iter_mut().for_each(|average| *average *= shared.kept_stretch);
                }
                if step >= WINDOWS[0] as usize {
                    largest = largest.max(self.statistic);
                }
                step += 1;
            }
            keep(window, largest);
        }
    }
}

/// Streams that are simulated up to the end of a window.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn streams_of(window: usize) -> usize {
    let end = f64::from(WINDOWS[window + 1].max(128));
    (ALARMS * RUN_LENGTHS[RUN_LENGTHS.len() - 1] / end) as usize
}

/// Thresholds by run length and window for one reference size.
fn simulate(reference_rows: f64, seed: u64) -> Vec<Vec<f32>> {
    let shared = Shared::new(reference_rows);
    let mut draws = Draws::new(seed);
    let windows = WINDOWS.len() - 1;
    let mut maxima: Vec<Vec<f32>> = (0..windows).map(|window| Vec::with_capacity(streams_of(window))).collect();
    for stream in 0..streams_of(0) {
        let reached = (0..windows).take_while(|window| stream < streams_of(*window)).count();
        shared.stream(&mut draws).maxima(&shared, reached, &mut draws, |window, largest| maxima[window].push(largest));
    }
    RUN_LENGTHS.iter().map(|run_length| thresholds(&maxima, *run_length)).collect()
}

/// The threshold of each window: exceeded by the promised share of the streams that have not alarmed before.
fn thresholds(maxima: &[Vec<f32>], run_length: f64) -> Vec<f32> {
    let mut alive: Vec<usize> = (0..maxima[0].len()).collect();
    let mut found: Vec<f32> = Vec::new();
    for (window, maxima) in maxima.iter().enumerate() {
        let first = if window == 0 { 0 } else { WINDOWS[window] };
        // Past twice the run length too few streams are left to say more.
        if f64::from(first) >= 2.0 * run_length {
            found.push(found[window - 1]);
            continue;
        }
        alive.retain(|stream| *stream < maxima.len());
        let share = 1.0 - (1.0 - 1.0 / run_length).powi(i32::try_from(WINDOWS[window + 1] - first).unwrap_or(i32::MAX));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let above = (share * alive.len() as f64).round() as usize;
        let mut sorted: Vec<f32> = alive.iter().map(|stream| maxima[*stream]).collect();
        let place = sorted.len() - 1 - above;
        let (_, threshold, _) = sorted.select_nth_unstable_by(place, f32::total_cmp);
        let threshold = *threshold;
        alive.retain(|stream| maxima[*stream] <= threshold);
        found.push(threshold);
    }
    found
}

fn printed(tables: &[Vec<Vec<f32>>]) -> String {
    let rows = |by_window: &Vec<f32>| by_window.iter().map(|h| format!("{h:.4}")).collect::<Vec<_>>().join(", ");
    let tables_of = |(place, run_length): (usize, &f64)| {
        let lines: String = tables.iter().map(|table| format!("        [{}],\n", rows(&table[place]))).collect();
        format!("    // Run length {run_length}.\n    [\n{lines}    ],\n")
    };
    RUN_LENGTHS.iter().enumerate().map(tables_of).collect()
}

#[test]
#[ignore = "long: simulates the thresholds in qt_tables.rs again, three minutes; run by .ci/nightly"]
fn print_the_threshold_tables() {
    let tables: Vec<_> = REFERENCE_ROWS.iter().zip(1_u64..).map(|(rows, seed)| simulate(*rows, seed)).collect();
    println!("{}", printed(&tables));
}
