//! Losses, classes, segments and estimates: what they say, and when they keep quiet.
mod long;
mod promises;

use super::*;
use crate::decide::drift::seeded::Draws;

const ALL: [Watcher; 12] = [
    Watcher::ESr,
    Watcher::Adwin,
    Watcher::PageHinkley,
    Watcher::Ddm,
    Watcher::Eddm,
    Watcher::HddmA,
    Watcher::HddmW,
    Watcher::Fhddm,
    Watcher::Kswin,
    Watcher::Classes,
    Watcher::Segments,
    Watcher::Cbpe,
];

fn classification(classes: usize) -> Task {
    Task::Classification { classes: (0..classes).map(|class| format!("class {class}")).collect() }
}

fn regression() -> Task {
    Task::Regression { targets: vec!["y".into()] }
}

fn known(rate: f64) -> Reference {
    Reference { rows: 1_000_000, mean: rate, variance: rate * (1.0 - rate) }
}

fn performance(tests: &[Watcher], task: &Task) -> Performance {
    Performance::new(&PerformanceSettings::default(), task, 10_000.0, tests)
}

/// A row of loss alone.
fn loss(loss: f64, ordinal: u64) -> Outcome<'static> {
    Outcome { loss, answer: &[], truth: &[], segment: None, ordinal }
}

/// A row of `classes` classes that is answered wrongly or not.
fn classified(
    performance: &mut Performance,
    truth: usize,
    answer: usize,
    segment: Option<&str>,
    ordinal: u64,
) -> Vec<Finding> {
    let classes = classes_of(&performance.task).len();
    let mut row = vec![0.1 / classes as f32; classes];
    row[answer] = 0.9;
    let error = f64::from(u8::from(truth != answer));
    performance.label(&Outcome { loss: error, answer: &row, truth: &[truth as f32], segment, ordinal })
}

#[expect(clippy::cast_possible_truncation, reason = "made-up confidences")]
fn single(x: f64) -> f32 {
    x as f32
}

fn error(draws: &mut Draws, rate: f64) -> f64 {
    f64::from(u8::from(draws.uniform() < rate))
}

#[test]
fn every_test_finds_a_risen_error_and_none_a_fallen_one() {
    for watcher in &ALL[..9] {
        let (mut risen, mut fallen) = (Vec::new(), Vec::new());
        for seed in 0..5 {
            for (before, after, found) in [(0.1, 0.6, &mut risen), (0.6, 0.05, &mut fallen)] {
                let mut performance = performance(&[*watcher], &classification(2));
                performance.expect(Some(known(before)));
                let mut draws = Draws::new(seed);
                for row in 0..2_000_u64 {
                    let rate = if row < 1_000 { before } else { after };
                    let findings = performance.label(&loss(error(&mut draws, rate), 5_000 + row));
                    found.extend(findings.into_iter().filter(|_| row >= 1_000).map(|finding| (row, finding)));
                }
            }
        }
        assert!(risen.len() >= 4, "{watcher:?} found {} of 5", risen.len());
        for (row, finding) in risen {
            let Since::Label(since) = finding.since else { panic!() };
            assert_eq!(
                (finding.watcher, &finding.measure, finding.direction),
                (*watcher, &Measure::Loss, Direction::Up)
            );
            // The field's detectors date by a bucket's edge or a best value long ago; the e-CUSUM is held to it.
            let earliest = if *watcher == Watcher::ESr { 5_950 } else { 5_000 };
            assert!((earliest..=5_000 + row).contains(&since), "{watcher:?} at {row} says since {since}");
            assert!(matches!(finding.picture, Picture::Trace { ref values, .. } if values.len() >= 60));
        }
        // EDDM looks at distances and may stumble; the others never speak of good news.
        assert!(fallen.is_empty() || *watcher == Watcher::Eddm, "{watcher:?}: {fallen:?}");
    }
}

#[test]
fn a_lasting_rise_is_one_episode_with_one_change_point() {
    let mut performance = performance(&[Watcher::ESr], &classification(2));
    performance.expect(Some(known(0.1)));
    let mut draws = Draws::new(3);
    let mut said = Vec::new();
    for row in 0..2_400_u64 {
        let findings = performance.label(&loss(error(&mut draws, if row < 1_000 { 0.1 } else { 0.6 }), row));
        said.extend(findings.iter().map(|finding| (row, finding.since)));
    }
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said.iter().all(|(_, since)| *since == said[0].1), "{said:?}");
    assert!(said[1].0 - said[0].0 >= 500 && said[2].0 - said[1].0 >= 500, "{said:?}");
    performance.expect(Some(known(0.1)));
    let again = (3_000..3_100).find(|row| !performance.label(&loss(1.0, *row)).is_empty());
    assert!(again.is_some(), "a promotion begins a new episode");
}

#[test]
fn without_a_reference_the_first_labels_are_normal_and_nothing_is_said_meanwhile() {
    let mut performance = performance(&[Watcher::ESr], &classification(2));
    performance.expect(Some(Reference { rows: 49, mean: 0.0, variance: 0.0 }));
    let mut draws = Draws::new(4);
    for row in 0..100 {
        assert_eq!(performance.view().e_sr, Some(TestState::Learning { rows: row, rows_wanted: 100 }));
        assert!(performance.label(&loss(error(&mut draws, 0.5), row)).is_empty());
    }
    let Some(TestState::Watching { bound, threshold, .. }) = performance.view().e_sr else { panic!() };
    assert!(bound > 0.5 && bound < 0.65 && (threshold - 10_000.0).abs() < 1e-9, "{bound} {threshold}");
    assert!((100..200).any(|row| !performance.label(&loss(1.0, row)).is_empty()));
}

#[test]
fn the_bound_sharpens_with_quiet_rows_and_never_below_the_reference() {
    let mut performance = performance(&[Watcher::ESr], &classification(2));
    let bound = |performance: &Performance| match performance.view().e_sr {
        Some(TestState::Watching { bound, .. }) => bound,
        other => panic!("{other:?}"),
    };
    let mut draws = Draws::new(5);
    performance.expect(Some(Reference { rows: 200, mean: 0.2, variance: 0.16 }));
    let first = bound(&performance);
    for row in 0..6_200 {
        performance.label(&loss(error(&mut draws, 0.2), row));
    }
    let sharp = bound(&performance);
    assert!(first > 0.245 && sharp < 0.23 && sharp > 0.2, "{first} then {sharp}");
    for row in 6_200..30_000 {
        performance.label(&loss(0.0, row));
    }
    assert!((bound(&performance) - 0.2).abs() < 1e-12, "a quiet time is no reason to alarm at what was normal");
}

#[test]
fn the_segment_that_goes_wrong_is_named_while_the_others_hide_it() {
    let mut performance = performance(&[Watcher::Segments], &classification(2));
    let mut draws = Draws::new(6);
    let mut said = Vec::new();
    for row in 0..20_000_u64 {
        let segment = draws.below(10);
        let rate = if segment == 7 && row >= 12_000 { 0.6 } else { 0.1 };
        let wrong = usize::from(draws.uniform() < rate);
        said.extend(classified(&mut performance, 0, wrong, Some(&format!("line {segment}")), row));
    }
    assert!(!said.is_empty());
    for finding in said {
        assert_eq!((finding.watcher, finding.measure), (Watcher::Segments, Measure::Segment("line 7".into())));
        let Since::Label(since) = finding.since else { panic!() };
        assert!(since.abs_diff(12_000) < 400, "{since}");
    }
    let view = performance.view();
    assert_eq!(view.segments.len(), 10);
    let seventh = &view.segments[7];
    assert!(seventh.name == "line 7" && seventh.window_labels == 100 && seventh.accuracy.unwrap() < 0.6, "{seventh:?}");
}

#[test]
fn segments_past_the_limit_and_endless_names_share_other() {
    let settings = PerformanceSettings { segments_max: 3, ..PerformanceSettings::default() };
    let mut performance = Performance::new(&settings, &regression(), 10_000.0, &[Watcher::Segments]);
    let long = "x".repeat(1_000);
    for name in [&long, "d", "a", "b", "c", "e", "other", "a"] {
        performance.label(&Outcome { segment: Some(name), ..loss(0.5, 1) });
    }
    let seen: Vec<_> = performance.view().segments.into_iter().map(|segment| (segment.name, segment.labels)).collect();
    let expected = [("a", 2), ("b", 1), ("d", 1), ("other", 4)].map(|(name, labels)| (name.to_owned(), labels));
    assert_eq!(seen, expected);
}

#[test]
fn a_class_that_is_missed_and_the_class_it_is_taken_for_are_named() {
    let mut performance = performance(&[Watcher::Classes], &classification(4));
    let mut draws = Draws::new(7);
    let mut said = Vec::new();
    for row in 0..12_000_u64 {
        let truth = draws.below(4);
        let confused = truth == 2 && row >= 8_000 && draws.uniform() < 0.5;
        let answer = if confused {
            1
        } else if draws.uniform() < 0.1 {
            draws.below(4)
        } else {
            truth
        };
        said.extend(classified(&mut performance, truth, answer, None, row));
    }
    let measures: std::collections::BTreeSet<_> = said.into_iter().map(|finding| finding.measure).collect();
    // What is still answered as class 2 is wrong more often too, for the right ones became fewer.
    let [missed, taken_for] = [Measure::Recall("class 2".into()), Measure::Precision("class 1".into())];
    let also = Measure::Precision("class 2".into());
    assert!(measures.contains(&missed) && measures.contains(&taken_for), "{measures:?}");
    assert!(measures.iter().all(|measure| [&missed, &taken_for, &also].contains(&measure)), "{measures:?}");
}

#[test]
fn classes_past_the_limit_are_counted_together() {
    let settings = PerformanceSettings { classes_max: 2, ..PerformanceSettings::default() };
    let mut performance = Performance::new(&settings, &classification(5), 10_000.0, &[Watcher::Classes]);
    for (row, truth) in [4, 3, 2, 0].into_iter().enumerate() {
        classified(&mut performance, truth, 1, None, row as u64);
    }
    let view = performance.view().classes;
    assert_eq!(view.iter().map(|class| class.name.as_str()).collect::<Vec<_>>(), ["class 0", "class 1", "other"]);
    let rows = |state| if let TestState::Learning { rows, .. } = state { rows } else { panic!() };
    assert_eq!(
        view.iter().map(|class| (rows(class.recall), rows(class.precision))).collect::<Vec<_>>(),
        [(1, 0), (0, 4), (3, 0)]
    );
}

#[test]
fn tests_that_cannot_watch_numbers_say_so_and_the_others_run() {
    let mut performance = performance(&ALL, &regression());
    for row in 0..100_u16 {
        let answer = [f32::from(row)];
        performance.label(&Outcome { answer: &answer, truth: &[f32::from(row) + 1.0], ..loss(0.1, row.into()) });
        assert_eq!(performance.sample(&answer, row.into()), None);
    }
    let view = performance.view();
    let idle: Vec<_> = view.idle.iter().map(|idle| idle.watcher).collect();
    assert_eq!(idle, [Watcher::Ddm, Watcher::Eddm, Watcher::Classes, Watcher::Cbpe]);
    assert_eq!(view.tests.len(), 6);
    assert!(matches!(view.metrics, Some(Metrics::Regression { rows: 100, rmse, .. }) if (rmse - 1.0).abs() < 1e-6));
    assert!(view.estimate.is_none() && view.classes.is_empty());
    // Classes do not run, so the overall loss shares with the segments only.
    assert!(matches!(view.e_sr, Some(TestState::Watching { threshold, .. }) if (threshold - 20_000.0).abs() < 1e-9));
}

#[test]
fn answers_that_grow_unsure_are_a_notice_once() {
    let mut performance = performance(&[Watcher::Cbpe], &classification(2));
    let mut draws = Draws::new(8);
    let mut said = Vec::new();
    for row in 0..8_000_u64 {
        let low = if row < 6_000 { 0.8_f32 } else { 0.5 };
        let p = low + (1.0 - low) * single(draws.uniform());
        said.extend(performance.sample(&[1.0 - p, p], row).map(|finding| (row, finding)));
    }
    let [(row, finding)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((*row, finding.since, finding.grade), (6_499, Since::Sample(6_000), Grade::Notice));
    assert!(finding.statistic < finding.threshold && finding.direction == Direction::Down);
}
