//! Figures that take longer: recorded in the docs of `loss_test`, repeated with `cargo test -- --ignored --nocapture long`.
use super::promises::{delays, quiet_findings};
use super::*;

fn estimated(rows: u32, seed: u64) -> Reference {
    let mut draws = Draws::new(50_000 + seed);
    let mean = (0..rows).map(|_| error(&mut draws, 0.2)).sum::<f64>() / f64::from(rows);
    Reference { rows: rows.into(), mean, variance: mean * (1.0 - mean) }
}

/// Findings in 200 runs of 10,000 rows of a two-state chain, of one test that knows `reference`: per run, most in one run, and
/// the share of runs with any.
fn false_alarms(correlation: f64, reference: impl Fn(u64) -> Reference) -> (f64, usize, f64) {
    let each = (0..200).map(|seed| {
        let settings = PerformanceSettings { quiet_labels: 1, ..PerformanceSettings::default() };
        let mut performance = Performance::new(&settings, &classification(2), 10_000.0, &[Watcher::ESr]);
        performance.expect(Some(reference(seed)));
        let mut draws = Draws::new(seed);
        let mut last = error(&mut draws, 0.2);
        let of_row = |row| {
            last = error(&mut draws, 0.2 + correlation * (last - 0.2));
            performance.label(&loss(last, row)).len()
        };
        (0..10_000).map(of_row).sum()
    });
    let each: Vec<usize> = each.collect();
    let runs = each.len() as f64;
    let any = each.iter().filter(|said| **said > 0).count() as f64 / runs;
    (each.iter().sum::<usize>() as f64 / runs, each.into_iter().max().unwrap_or(0), any)
}

#[test]
#[ignore = "long: figures of the overall test on three kinds of reference, minutes; run by .ci/nightly"]
fn long_figures_of_the_overall_test() {
    type Make = Box<dyn Fn(u64) -> Reference>;
    let sources: [(&str, Make); 3] = [
        ("known", Box::new(|_| known(0.2))),
        ("1,000 rows", Box::new(|seed| estimated(1_000, seed))),
        ("200 rows", Box::new(|seed| estimated(200, seed))),
    ];
    for rows in [1_000, 200] {
        let said = quiet_findings(200, rows);
        println!("overall, classes and segments, reference of {rows} rows: {said} findings in 200 runs of 10,000");
    }
    for (name, reference) in &sources {
        for after in [0.25, 0.3, 0.4, 0.8] {
            let (median, share, early) = delays(300, after, reference);
            println!("p0 {name}: .2 to {after}: {median} rows, {share:.2} found, {early} early of 300");
        }
        for correlation in [0.0, 0.1, 0.2, 0.3, 0.5, 0.7] {
            let (mean, most, any) = false_alarms(correlation, reference);
            println!("p0 {name}: correlation {correlation}: {mean:.2} per 10,000, at most {most}, {any:.2} of runs");
        }
    }
}

#[test]
#[ignore = "long: figures of the river tests, minutes; run by .ci/nightly"]
fn long_figures_of_the_river_tests() {
    for watcher in &ALL[1..9] {
        for correlation in [0.0, 0.3, 0.5] {
            let (mut quiet, mut delays) = (0, Vec::new());
            for seed in 0..50 {
                let settings = PerformanceSettings { quiet_labels: 1, ..PerformanceSettings::default() };
                let mut performance = Performance::new(&settings, &classification(2), 10_000.0, &[*watcher]);
                let mut draws = Draws::new(seed);
                let mut last = 0.0;
                let mut found = None;
                for row in 0..12_000_u64 {
                    let rate = if row < 10_000 { 0.2 } else { 0.4 };
                    last = error(&mut draws, rate + correlation * (last - rate));
                    let said = performance.label(&loss(last, row)).len();
                    if row < 10_000 {
                        quiet += said;
                    } else if said > 0 {
                        found = found.or(Some(row - 10_000));
                    }
                }
                delays.extend(found);
            }
            delays.sort_unstable();
            println!(
                "{}: correlation {correlation}: {:.2} per 10,000; .2 to .4: {:?} rows, {} of 50 found",
                watcher.name(),
                quiet as f64 / 50.0,
                delays.get(delays.len() / 2),
                delays.len()
            );
        }
    }
}
