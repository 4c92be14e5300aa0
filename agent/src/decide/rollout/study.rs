//! Error rates of the whole machine by simulation: both tests, guards, ramp, deadlines, as a device runs them.
//! `cargo test --workspace --lib -- --ignored --nocapture rollout_study` prints them.
#![expect(clippy::float_cmp, clippy::cast_possible_truncation, reason = "classes are small whole numbers")]
use std::time::Duration;

use super::stories::{candidate, named};
use super::*;
use crate::decide::drift::seeded::Draws;

/// Seconds between two samples.
const EVERY_S: u64 = 10;
/// Share of the samples on which both are wrong, one way or the other.
const BOTH_WRONG: f64 = 0.02;

/// How one trial ended.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is counted")]
struct End {
    won: bool,
    aborted: bool,
    guarded: bool,
    regretted: bool,
    pairs: u64,
    labels: u64,
}

/// What many of them come to.
#[derive(Debug)]
struct Shares {
    won: f64,
    aborted: f64,
    guarded: f64,
    undecided: f64,
    regretted: f64,
    won_pairs: u64,
    won_labels: u64,
    aborted_pairs: u64,
    aborted_labels: u64,
}

/// One trial of a challenger that is right `points` more often than the champion, on a stream on which exactly one of both is right
/// on 8 % of the samples (more, if the difference is larger); labels of disagreements come `delay` samples later.
fn trial(points: f64, delay: usize, seed: u64) -> End {
    story(points, points, delay, seed)
}

/// The same with a challenger that, once it is promoted, is right `later` more often than the former champion.
fn story(points: f64, later: f64, delay: usize, seed: u64) -> End {
    let settings = RolloutSettings::default();
    let (mut even, mut rollout) = (Draws::new(seed), Rollout::default());
    let shares = |points: f64| {
        let behind = ((0.08 - points.abs()) / 2.0).max(0.01);
        (behind + points.max(0.0), behind - points.min(0.0))
    };
    let at = |row: u64| Uptime(Duration::from_secs(row * EVERY_S));
    let mut end = End { won: false, aborted: false, guarded: false, regretted: false, pairs: 0, labels: 0 };
    let _ = rollout.step(Event::Passed(Box::new(candidate(1))), at(0), &settings).unwrap();
    let mut pending = std::collections::VecDeque::new();
    let measure = Measure::Classes;
    for row in 0..40_000_u64 {
        let (draw, class) = (even.uniform(), even.uniform());
        let truth = (class * 4.0).floor() as f32;
        let (wrong, other) = ((truth + 1.0) % 4.0, (truth + 2.0) % 4.0);
        let (better, worse) = shares(if end.won { later } else { points });
        let (champion, challenger) = match draw {
            draw if draw < better => (wrong, truth),
            draw if draw < better + worse => (truth, wrong),
            draw if draw < better + worse + BOTH_WRONG / 2.0 => (wrong, other),
            draw if draw < better + worse + BOTH_WRONG => (wrong, wrong),
            _ => (truth, truth),
        };
        let hot = |class: f32| [0.0, 1.0, 2.0, 3.0].map(|index: f32| if index == class { 1.0 } else { 0.0 });
        let orders = rollout.orders();
        let wall = Timestamp((row * EVERY_S).cast_signed() * 1_000_000);
        let served = orders.route.is_some_and(|route| route.takes("pump", wall));
        // After the promotion the challenger is champion, and the former one is compared.
        let (first, second) = if end.won { (challenger, champion) } else { (champion, challenger) };
        let id = SampleId(0, row);
        let pair = Pair {
            id,
            now: at(row),
            source: 1,
            served,
            champion: &hot(first),
            challenger: &hot(second),
            took_us: None,
            measure: &measure,
        };
        let mut reports = rollout.pair(&pair, &settings);
        if champion != challenger {
            pending.push_back((row, truth));
        }
        while let Some((asked, truth)) = pending.pop_front_if(|(asked, _)| *asked + delay as u64 <= row) {
            let told = Told { id: SampleId(0, asked), now: at(row), truth: &[truth], measure: &measure, arm: None };
            reports.extend(rollout.label(&told, &settings));
        }
        reports.extend(rollout.step(Event::Tick(wall), at(row), &settings).unwrap());
        for report in &reports {
            match report {
                Report::TrialWon { standing, .. } => {
                    (end.won, end.pairs, end.labels) = (true, standing.pairs, standing.labelled);
                }
                Report::TrialEnded { why, standing, .. } => {
                    end.aborted = *why == Why::Worse;
                    end.guarded = matches!(why, Why::Guard { .. });
                    (end.pairs, end.labels) = (standing.pairs, standing.labelled);
                    return end;
                }
                Report::Regretted { .. } => {
                    end.regretted = true;
                    return end;
                }
                _ => {}
            }
        }
        if rollout.orders().promote.is_some() {
            let _ = rollout.step(Event::Promoted(named(0)), at(row), &settings).unwrap();
        } else if end.won && rollout.orders().compare.is_none() {
            return end;
        }
    }
    end
}

fn study(points: f64, delay: usize, runs: u64) -> Shares {
    let ends: Vec<End> = (0..runs).map(|seed| trial(points, delay, seed)).collect();
    let share = |which: &dyn Fn(&End) -> bool| ends.iter().filter(|end| which(end)).count() as f64 / runs as f64;
    let median = |which: &dyn Fn(&End) -> bool, what: &dyn Fn(&End) -> u64| {
        let mut values: Vec<u64> = ends.iter().filter(|end| which(end)).map(what).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    };
    Shares {
        won: share(&|end| end.won),
        aborted: share(&|end| end.aborted),
        guarded: share(&|end| end.guarded),
        undecided: share(&|end| !end.won && !end.aborted && !end.guarded),
        regretted: share(&|end| end.regretted),
        won_pairs: median(&|end| end.won, &|end| end.pairs),
        won_labels: median(&|end| end.won, &|end| end.labels),
        aborted_pairs: median(&|end| end.aborted, &|end| end.pairs),
        aborted_labels: median(&|end| end.aborted, &|end| end.labels),
    }
}

/// Holds what is promised on `runs` runs, with `slack` for their number.
fn promises(runs: u64, slack: f64) {
    let told = |points: f64, delay: usize| {
        let shares = study(points, delay, runs);
        let Shares { won, aborted, guarded, undecided, regretted, .. } = shares;
        let Shares { won_pairs, won_labels, aborted_pairs, aborted_labels, .. } = shares;
        println!(
            "{:+} points, labels after {delay} samples: promoted {won:.4} (median {won_pairs} samples, {won_labels} labels), \
             aborted {aborted:.4} (median {aborted_pairs} samples, {aborted_labels} labels), guards {guarded:.4}, undecided \
             {undecided:.4}, regretted {regretted:.4}",
            points * 100.0
        );
        shares
    };
    let equal = told(0.0, 0);
    assert!(equal.aborted + equal.guarded <= 0.05 + slack, "an equal model is aborted: {equal:?}");
    assert!(equal.won_labels <= 1_200, "an equal model waits for labels: {equal:?}");
    assert!(equal.won >= 0.6 && equal.regretted <= 0.05 + slack, "an equal model is not promoted: {equal:?}");
    let bad = told(-0.1, 0);
    assert!(bad.aborted_pairs <= 100 && bad.won == 0.0, "a bad model stays: {bad:?}");
    for delay in [0, 200] {
        let worse = told(-0.02, delay);
        assert!(worse.won <= 0.05 + slack, "a worse model is promoted: {worse:?}");
    }
    let better = told(0.05, 0);
    assert!(better.won >= 0.95 - slack, "a better model is not promoted: {better:?}");
}

/// Share of promoted models, ten points worse from their promotion on, that the watch over them sends back.
fn regretted(delay: usize, runs: u64) -> f64 {
    let ends = (0..runs).map(|seed| story(0.05, -0.1, delay, seed)).filter(|end| end.won).collect::<Vec<_>>();
    let share = ends.iter().filter(|end| end.regretted).count() as f64 / ends.len() as f64;
    println!(
        "ten points worse after its promotion, labels after {delay} samples: regretted {share:.4} of {}",
        ends.len()
    );
    share
}

#[test]
fn a_champion_that_turns_bad_is_sent_back_also_where_labels_come_after_the_watch_took_its_last_sample() {
    for delay in [0, 4_000] {
        assert!(regretted(delay, 12) >= 0.9);
    }
}

#[test]
fn a_hundred_trials_of_each_kind_end_as_promised() {
    promises(100, 0.06);
}

#[test]
#[ignore = "long: 2,000 simulated rollouts of each kind; run by .ci/nightly"]
fn rollout_study() {
    promises(2_000, 0.0);
    assert!(regretted(0, 500) >= 0.95 && regretted(4_000, 500) >= 0.95);
}
