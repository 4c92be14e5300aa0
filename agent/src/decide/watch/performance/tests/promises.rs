//! Delays, false alarms, and what no input may do.
use proptest::prelude::*;

use super::*;

/// First finding of a coin that turns from `before` to `after` at 1,000, of a test that knows `reference`.
pub(super) fn first(reference: Reference, seed: u64, before: f64, after: f64, rows_max: u64) -> Option<u64> {
    let mut performance = performance(&[Watcher::ESr], &classification(2));
    performance.expect(Some(reference));
    let mut draws = Draws::new(seed);
    (0..rows_max).find(|row| {
        let rate = if *row < 1_000 { before } else { after };
        !performance.label(&loss(error(&mut draws, rate), *row)).is_empty()
    })
}

/// Median delay of those that alarm after the change, the share of them among those silent before it, and false alarms.
pub(super) fn delays(runs: u64, after: f64, reference: impl Fn(u64) -> Reference) -> (u64, f64, u64) {
    let each: Vec<_> = (0..runs).map(|seed| first(reference(seed), 1_000 + seed, 0.2, after, 3_000)).collect();
    let early = each.iter().filter(|at| at.is_some_and(|at| at < 1_000)).count();
    let mut late: Vec<u64> = each.iter().flatten().filter(|at| **at >= 1_000).map(|at| at - 1_000).collect();
    late.sort_unstable();
    let share = late.len() as f64 / (each.len() - early) as f64;
    (late.get(late.len() / 2).copied().unwrap_or(u64::MAX), share, early as u64)
}

#[test]
fn a_doubled_error_is_found_within_80_rows_and_half_more_within_310() {
    for (after, at_most) in [(0.4, 80), (0.3, 310)] {
        let (median, share, early) = delays(300, after, |_| known(0.2));
        assert!(median <= at_most && share > 0.99, "{after}: {median} rows, {share} found");
        // A run of 1,000 rows at a run length of 10,000.
        assert!(early <= 45, "{early} false alarms in 300 runs");
    }
}

/// Findings of the three e-SR families over `runs` quiet runs of one run length, `rows` in the reference.
pub(super) fn quiet_findings(runs: u64, rows: u32) -> usize {
    let one = |seed| {
        let mut draws = Draws::new(seed);
        let mut performance = performance(&[Watcher::ESr, Watcher::Classes, Watcher::Segments], &classification(4));
        let mean = (0..rows).map(|_| error(&mut draws, 0.2)).sum::<f64>() / f64::from(rows);
        performance.expect(Some(Reference { rows: rows.into(), mean, variance: mean * (1.0 - mean) }));
        let of_row = |row| {
            let (truth, segment) = (draws.below(4), ["a", "b", "c", "d", "e", "f"][draws.below(6)]);
            let answer = if draws.uniform() < 0.2 { (truth + 1 + draws.below(3)) % 4 } else { truth };
            classified(&mut performance, truth, answer, Some(segment), row).len()
        };
        (0..10_000).map(of_row).sum::<usize>()
    };
    (0..runs).map(one).sum()
}

#[test]
fn the_default_tests_together_keep_the_run_length_on_a_quiet_stream() {
    let said = quiet_findings(200, 1_000);
    assert!(said <= 200, "{said} findings in 200 run lengths");
}

fn tests_of(task: &Task) -> Performance {
    let settings = PerformanceSettings {
        calibration_labels: 50,
        group_calibration_labels: 50,
        quiet_labels: 60,
        window_rows: 50,
        segments_max: 3,
        estimate: crate::decide::drift::cbpe::CbpeSettings { chunk_rows: 50, reference_chunks: 2 },
        ..PerformanceSettings::default()
    };
    Performance::new(&settings, task, 100.0, &ALL)
}

#[derive(Clone, Debug)]
struct Row {
    loss: f64,
    answer: Vec<f32>,
    truth: Vec<f32>,
    segment: Option<String>,
}

/// Rows of any shape, most of them odd.
fn odd_rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (any::<f64>(), prop::collection::vec(any::<f32>(), 0..5), prop::collection::vec(-2.0_f32..6.0, 0..3));
    let row = (row, any::<Option<String>>(), any::<bool>()).prop_map(|((loss, answer, truth), segment, odd)| Row {
        loss: if odd { loss } else { loss.abs() % 1.0 },
        answer,
        truth,
        segment,
    });
    prop::collection::vec(row, 200)
}

/// Rows as a model of three classes gives them, worse from the middle on.
fn rows() -> impl Strategy<Value = Vec<Row>> {
    any::<u64>().prop_map(|seed| {
        let mut draws = Draws::new(seed);
        let row = |row: u32| {
            let truth = draws.below(3);
            let wrong = draws.uniform() < if row < 300 { 0.1 } else { 0.7 };
            let answer = if wrong { (truth + 1) % 3 } else { truth };
            let confidence = 0.4 + 0.6 * single(draws.uniform());
            let mut values = vec![(1.0 - confidence) / 2.0; 3];
            values[answer] = confidence;
            let segment = (draws.below(4) > 0).then(|| format!("segment {}", draws.below(5)));
            Row { loss: f64::from(u8::from(wrong)), answer: values, truth: vec![truth as f32], segment }
        };
        (0..500).map(row).collect()
    })
}

fn feed(performance: &mut Performance, row: &Row, ordinal: u64) -> (Vec<Finding>, Option<Finding>) {
    let segment = row.segment.as_deref();
    let outcome = Outcome { loss: row.loss, answer: &row.answer, truth: &row.truth, segment, ordinal };
    (performance.label(&outcome), performance.sample(&row.answer, ordinal))
}

fn stored(performance: &Performance) -> String {
    serde_json::to_string(performance).expect("plain data")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn a_restart_anywhere_changes_nothing(rows in rows(), cut in 0_usize..500) {
        for task in [classification(3), regression()] {
            let (mut straight, mut restored) = (tests_of(&task), tests_of(&task));
            let mut said = 0;
            for (ordinal, row) in rows.iter().enumerate() {
                if ordinal == cut {
                    restored = serde_json::from_str(&stored(&restored)).expect("restores");
                }
                let heard = feed(&mut straight, row, ordinal as u64);
                said += heard.0.len();
                prop_assert_eq!(heard, feed(&mut restored, row, ordinal as u64));
            }
            prop_assert_eq!(stored(&straight), stored(&restored));
            prop_assert!(said > 0 && straight.view() == restored.view());
        }
    }

    #[test]
    fn no_row_panics_and_the_state_can_always_be_stored(rows in odd_rows()) {
        for task in [classification(3), classification(0), regression(), Task::Regression { targets: Vec::new() }] {
            let mut performance = tests_of(&task);
            performance.expect(Some(Reference { rows: u64::MAX, mean: 2.0, variance: -1.0 }));
            for (ordinal, row) in rows.iter().enumerate() {
                feed(&mut performance, row, ordinal as u64);
            }
            let view = performance.view();
            prop_assert_eq!(view.labels + view.unusable, rows.len() as u64);
            prop_assert!(view.segments.len() <= 4);
            let restored: Performance = serde_json::from_str(&stored(&performance)).expect("restores");
            prop_assert_eq!(restored, performance);
        }
    }

    #[test]
    fn the_order_of_rows_of_different_segments_is_irrelevant(rows in rows()) {
        let named = |row: &&Row| row.segment.as_deref().is_some_and(|name| name < "segment 3");
        let rows: Vec<&Row> = rows.iter().filter(named).collect();
        let mut apart = rows.clone();
        apart.sort_by(|a, b| a.segment.cmp(&b.segment));
        let told = |rows: &[&Row]| {
            let mut performance = Performance { estimate: None, classes: None, overall: None, river: RiverTests::default(), ..tests_of(&classification(3)) };
            let findings = rows.iter().flat_map(|row| feed(&mut performance, row, 0).0).map(|finding| (finding.measure, finding.statistic.to_bits()));
            let mut said: Vec<_> = findings.collect();
            said.sort();
            (said, performance.view().segments)
        };
        prop_assert_eq!(told(&rows), told(&apart));
    }
}

#[test]
fn memory_stays_bounded_with_many_segments_and_classes() {
    let mut performance = Performance::new(&PerformanceSettings::default(), &classification(200), 10_000.0, &ALL);
    let mut draws = Draws::new(9);
    let mut largest = 0;
    for row in 0..60_000_u64 {
        let (truth, segment) = (draws.below(200), draws.below(1_000));
        let answer = if draws.uniform() < 0.3 { draws.below(200) } else { truth };
        classified(&mut performance, truth, answer, Some(&format!("segment {segment}")), row);
        if row % 20_000 == 19_999 {
            largest = postcard::to_stdvec(&performance).unwrap().len();
        }
    }
    assert!(largest < 400_000, "{largest} bytes");
    let view = performance.view();
    assert_eq!((view.segments.len(), view.classes.len()), (65, 65));
}

#[test]
fn odd_numbers_are_counted_where_they_belong() {
    let mut performance = performance(&[Watcher::ESr, Watcher::Classes, Watcher::Cbpe], &classification(2));
    let outcome = |loss: f64, answer: &'static [f32], truth: &'static [f32]| Outcome {
        loss,
        answer,
        truth,
        segment: None,
        ordinal: 0,
    };
    for row in [
        outcome(f64::NAN, &[0.5, 0.5], &[0.0]),
        outcome(f64::INFINITY, &[0.5, 0.5], &[0.0]),
        outcome(1.0, &[f32::NAN, 0.5], &[0.0]),
        outcome(1.0, &[0.5], &[0.0]),
        outcome(1.0, &[], &[]),
        outcome(1.0, &[0.5, 0.5], &[2.0]),
        outcome(1.0, &[0.5, 0.5], &[-1.0]),
        outcome(1.0, &[0.5, 0.5], &[f32::NAN]),
        outcome(7.0, &[0.4, 0.6], &[1.0]),
    ] {
        performance.label(&row);
    }
    let view = performance.view();
    assert_eq!((view.labels, view.unusable, view.malformed), (7, 2, 6));
    assert_eq!(view.recent_loss, Some((1.0, 7)));
    assert!(matches!(view.metrics, Some(Metrics::Classification { rows: 1, .. })));
}
