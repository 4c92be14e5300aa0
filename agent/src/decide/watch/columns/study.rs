//! False alarms and delays of the default tests over many seeded runs; the results are printed and held.
//!
//! `cargo test --workspace --lib -- --ignored columns::study --nocapture`
#![expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "simulated values and small counts")]
use super::*;
use crate::decide::drift::seeded::Draws;

const BASELINE_ROWS: usize = 1000;
const ROWS: usize = 10_000;
/// One row every five minutes: a day has 288.
const STEP_US: i64 = 300_000_000;

/// A stationary law of one column.
#[derive(Clone, Copy, Debug)]
enum Stream {
    Normal,
    /// Student's t with 3 degrees of freedom.
    HeavyTail,
    Autoregressive(f64),
    /// A daily sine of amplitude 1 with noise of 0.3.
    Season,
    /// Normal, and every twentieth value missing at random.
    Gaps,
}

/// One simulated column.
struct Source {
    stream: Stream,
    draws: Draws,
    last: f64,
}

impl Source {
    fn new(stream: Stream, seed: u64) -> Self {
        let mut draws = Draws::new(seed.wrapping_mul(0x9e37_79b9).wrapping_add(17));
        let last = draws.normal();
        Self { stream, draws, last }
    }

    fn next(&mut self, at: Timestamp) -> f64 {
        let draws = &mut self.draws;
        match self.stream {
            Stream::Normal => draws.normal(),
            Stream::HeavyTail => {
                let square: f64 = (0..3).map(|_| draws.normal().powi(2)).sum();
                draws.normal() / (square / 3.0).sqrt()
            }
            Stream::Autoregressive(correlation) => {
                self.last = correlation * self.last + (1.0 - correlation * correlation).sqrt() * draws.normal();
                self.last
            }
            Stream::Season => {
                let day = at.0 as f64 / 86_400e6 * std::f64::consts::TAU;
                day.sin() + 0.3 * draws.normal()
            }
            Stream::Gaps => {
                let value = draws.normal();
                if draws.uniform() < 0.05 { f64::NAN } else { value }
            }
        }
    }
}

fn time_of(row: usize) -> Timestamp {
    Timestamp(i64::try_from(row).unwrap_or(0) * STEP_US)
}

/// Times are handed over, or kept back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Times {
    Given,
    Withheld,
}

/// A simulated device of independent columns.
struct Device {
    columns: Columns,
    sources: Vec<Source>,
    times: Times,
    row: usize,
}

impl Device {
    fn new(stream: Stream, width: usize, times: Times, seed: u64, settings: &ColumnPlan) -> Self {
        let spec = |index: usize| ColumnSpec {
            measure: Measure::Feature(format!("c{index}")),
            kind: ColumnKind::Number,
            range: None,
        };
        let mut sources: Vec<Source> =
            (0..width).map(|index| Source::new(stream, seed * 1000 + index as u64)).collect();
        let mut columns = Columns::new((0..width).map(spec).collect(), settings);
        let mut rows = Vec::new();
        for row in 0..BASELINE_ROWS {
            rows.extend(sources.iter_mut().map(|source| source.next(time_of(row)) as f32));
        }
        let stamps: Vec<Timestamp> = (0..BASELINE_ROWS).map(time_of).collect();
        columns.rebaseline(&rows, (times == Times::Given).then_some(&stamps));
        Self { columns, sources, times, row: BASELINE_ROWS }
    }

    /// One row, its first column moved by `shift`.
    fn step(&mut self, shift: f64) -> Vec<Finding> {
        let at = time_of(self.row);
        self.row += 1;
        let mut row: Vec<f32> = self.sources.iter_mut().map(|source| source.next(at) as f32).collect();
        row[0] += shift as f32;
        self.columns.sample(&row, (self.times == Times::Given).then_some(at))
    }
}

/// Alarms per run.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    psi: f64,
    mean: f64,
    quality: f64,
    share: f64,
    notices: f64,
}

impl Tally {
    fn count(&mut self, finding: &Finding, weight: f64) {
        let place = match (finding.grade, finding.watcher, &finding.measure) {
            (Grade::Notice, ..) => &mut self.notices,
            (_, _, Measure::Features) => &mut self.share,
            (_, Watcher::Mean, _) => &mut self.mean,
            (_, Watcher::Quality, _) => &mut self.quality,
            _ => &mut self.psi,
        };
        *place += weight;
    }

    fn total(&self) -> f64 {
        self.psi + self.mean + self.quality
    }
}

fn false_alarms(stream: Stream, width: usize, times: Times, runs: u64) -> Tally {
    let mut tally = Tally::default();
    let mut profiled = 0;
    for seed in 0..runs {
        let mut device = Device::new(stream, width, times, seed, &ColumnPlan::default());
        for _ in 0..ROWS {
            device.step(0.0).iter().for_each(|finding| tally.count(finding, 1.0 / runs as f64));
        }
        profiled += device.columns.views().iter().filter(|view| view.has_season).count();
    }
    let Tally { psi, mean, quality, share, notices } = tally;
    println!(
        "{stream:?} × {width}, times {times:?}, {runs} runs: psi {psi:.3} mean {mean:.3} quality {quality:.3} total {:.3} | share {share:.3} notices {notices:.3} profiles {profiled}",
        tally.total()
    );
    tally
}

#[test]
#[ignore = "long: false alarms of feature tests, minutes; run by .ci/nightly"]
fn false_alarms_stay_within_the_run_length() {
    use Stream::{Autoregressive, Gaps, HeavyTail, Normal, Season};
    for (stream, width, times, runs, limit) in [
        (Normal, 1, Times::Withheld, 200, 1.0),
        (Normal, 1, Times::Given, 200, 1.0),
        (HeavyTail, 1, Times::Withheld, 200, 1.0),
        (Gaps, 1, Times::Withheld, 200, 1.0),
        (Normal, 8, Times::Withheld, 200, 1.0),
        (Gaps, 128, Times::Withheld, 200, 1.0),
        (HeavyTail, 128, Times::Withheld, 50, 1.0),
        (Autoregressive(0.7), 1, Times::Withheld, 200, 3.0),
        (Autoregressive(0.7), 1, Times::Given, 200, 3.0),
        (Autoregressive(0.7), 128, Times::Withheld, 50, 3.0),
        (Autoregressive(0.9), 1, Times::Withheld, 200, 3.0),
        (Autoregressive(0.9), 8, Times::Given, 200, 3.0),
        (Season, 1, Times::Given, 200, 3.0),
        (Season, 1, Times::Withheld, 200, 3.0),
        (Season, 128, Times::Given, 50, 3.0),
        (Season, 128, Times::Withheld, 50, 3.0),
    ] {
        let tally = false_alarms(stream, width, times, runs);
        assert!(tally.total() <= limit, "{stream:?} × {width}: {tally:?}");
    }
}

/// Median rows from a shift of the first column, 3,000 rows in, to the first alarm about it, and the share found within 5,000.
fn delay(stream: Stream, width: usize, times: Times, shift: f64, runs: u64) -> (usize, f64) {
    let mut delays = Vec::new();
    for seed in 0..runs {
        let mut device = Device::new(stream, width, times, 7000 + seed, &ColumnPlan::default());
        (0..3000).for_each(|_| drop(device.step(0.0)));
        let about =
            |finding: &Finding| finding.grade == Grade::Alarm && finding.measure == Measure::Feature("c0".to_owned());
        delays.push((0..5000).find(|_| device.step(shift).iter().any(about)).unwrap_or(5000));
    }
    delays.sort_unstable();
    let found = delays.iter().filter(|delay| **delay < 5000).count();
    (delays[delays.len() / 2], found as f64 / runs as f64)
}

#[test]
#[ignore = "long: delays of feature tests among many columns, minutes; run by .ci/nightly"]
fn shifts_are_found_in_one_of_many_columns() {
    let laws = [
        (Stream::Normal, Times::Withheld),
        (Stream::HeavyTail, Times::Withheld),
        (Stream::Autoregressive(0.7), Times::Withheld),
        (Stream::Season, Times::Given),
        (Stream::Season, Times::Withheld),
    ];
    for (stream, times) in laws {
        for width in [1, 8, 128] {
            let runs = if width == 128 { 20 } else { 60 };
            let found = [0.5, 1.0, 2.0].map(|shift| delay(stream, width, times, shift, runs));
            println!("{stream:?} {times:?} × {width}: shift .5/1/2 sd: {found:?}");
            if matches!(stream, Stream::Normal) {
                assert!(found[1].0 <= 150 && found[2].0 <= 100, "{found:?}");
            }
        }
    }
}
