//! Error rates of the tests by simulation. `cargo test --workspace --lib -- --ignored --nocapture evidence_study` prints them.
use super::*;
use crate::decide::drift::seeded::Draws;

const RUNS: u64 = 2_000;
const SAMPLES_MAX: u64 = 3_000;

/// Share of runs that ended so, and the median number of samples of those.
struct Ended {
    share: f64,
    median: u64,
}

/// Runs trials of a challenger that is right `points` more often than the champion. On 8 % of the samples exactly one of both is
/// right; where the difference itself is larger, the one that is behind still wins 1 %.
fn study(points: f64, end: Leaning) -> Ended {
    let behind = ((0.08 - f64::abs(points)) / 2.0).max(0.01);
    let (better, worse) = (behind + points.max(0.0), behind - points.min(0.0));
    let mut ends = Vec::new();
    for run in 0..RUNS {
        let mut even = Draws::new(run);
        let mut trial = Trial::new(0.02, 0.05, 1);
        for sample in 1..=SAMPLES_MAX {
            let draw = even.uniform();
            let difference = f64::from(u8::from(draw < better)) - f64::from(u8::from(draw > 1.0 - worse));
            let number = trial.sampled(difference == 0.0);
            trial.labelled(number, difference);
            let (abort, promote) = trial.ln_evidence(false);
            let reached = if end == Leaning::Worse { abort } else { promote };
            if reached >= trial.ln_limit() {
                ends.push(sample);
                break;
            }
        }
    }
    ends.sort_unstable();
    let median = ends.get(ends.len() / 2).copied().unwrap_or(u64::MAX);
    Ended { share: ends.len() as f64 / RUNS as f64, median }
}

#[test]
#[ignore = "long: 2,000 simulated trials for each case, minutes; run by .ci/nightly"]
fn evidence_study() {
    for points in [0.0, -0.02, -0.05, -0.1, -0.3] {
        let Ended { share, median } = study(points, Leaning::Worse);
        println!("abort at {:+} points: {share:.4} of runs, median {median}", points * 100.0);
    }
    for points in [-0.02, 0.0, 0.02, 0.05, 0.1] {
        let Ended { share, median } = study(points, Leaning::NotWorse);
        println!("promote at {:+} points: {share:.4} of runs, median {median}", points * 100.0);
    }
    assert!(study(0.0, Leaning::Worse).share <= 0.05, "an equal model is aborted");
    assert!(study(-0.1, Leaning::Worse).median <= 100, "a bad model stays");
    assert!(study(-0.02, Leaning::NotWorse).share <= 0.05, "a worse model is promoted");
    assert!(study(0.0, Leaning::NotWorse).median <= 1_200, "an equal model waits");
}
