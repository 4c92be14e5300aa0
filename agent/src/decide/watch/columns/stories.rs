//! What columns say, and what they do with bad input.
use super::*;
use crate::decide::drift::seeded::Draws;
use crate::decide::watch::Since;

fn number(name: &str) -> ColumnSpec {
    ColumnSpec { measure: Measure::Feature(name.to_owned()), kind: ColumnKind::Number, range: None }
}

fn category(name: &str, count: u32) -> ColumnSpec {
    ColumnSpec { measure: Measure::Feature(name.to_owned()), kind: ColumnKind::Category { count }, range: None }
}

/// Columns with a baseline of `rows` rows drawn by `draw`.
fn frozen(specs: Vec<ColumnSpec>, rows: usize, mut draw: impl FnMut(usize) -> f32) -> Columns {
    let width = specs.len();
    let mut columns = Columns::new(specs, &ColumnPlan::default());
    let rows: Vec<f32> = (0..rows * width).map(|place| draw(place % width)).collect();
    columns.rebaseline(&rows, None);
    columns
}

/// Feeds `rows` rows and returns what was said about which test and measure, each with its grade.
fn said(columns: &mut Columns, rows: usize, mut draw: impl FnMut(usize) -> f32) -> Vec<Finding> {
    let width = columns.list.len();
    (0..rows)
        .flat_map(|_| {
            let row: Vec<f32> = (0..width).map(&mut draw).collect();
            columns.sample(&row, None)
        })
        .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "simulated values")]
fn normal(draws: &mut Draws) -> f32 {
    draws.normal() as f32
}

fn alarms(findings: &[Finding], watcher: Watcher) -> Vec<Measure> {
    let of = |finding: &&Finding| finding.watcher == watcher && finding.grade == Grade::Alarm;
    findings.iter().filter(of).map(|finding| finding.measure.clone()).collect()
}

fn feature(name: &str) -> Measure {
    Measure::Feature(name.to_owned())
}

#[test]
fn a_shift_is_said_once_by_bins_and_mean_with_the_numbers_to_draw_it() {
    let mut draws = Draws::new(1);
    let mut columns = frozen(vec![number("a"), number("b"), number("c")], 600, |_| normal(&mut draws));
    assert_eq!(said(&mut columns, 3000, |_| normal(&mut draws)), []);
    let findings = said(&mut columns, 4000, |index| normal(&mut draws) + if index == 1 { 2.0 } else { 0.0 });
    assert_eq!(alarms(&findings, Watcher::Psi), [feature("b")]);
    assert_eq!(alarms(&findings, Watcher::Mean), [feature("b")]);
    let bins = findings.iter().find(|finding| finding.watcher == Watcher::Psi).unwrap();
    assert!(bins.statistic > bins.threshold && bins.p.unwrap() < 0.003, "{bins:?}");
    assert_eq!(bins.direction, Direction::Up);
    let Picture::Histogram { edges, reference, current } = &bins.picture else {
        panic!("{:?}", bins.picture);
    };
    assert_eq!((edges.len(), reference.len(), current.len()), (9, 10, 10));
    let mean = findings.iter().find(|finding| finding.watcher == Watcher::Mean).unwrap();
    let Since::Sample(since) = mean.since else { panic!("{:?}", mean.since) };
    assert!(since.abs_diff(3000) < 300, "{since}");
    let view = &columns.views()[1];
    assert!(view.held.mean && view.standing == Standing::Alarmed);
    assert!((view.mean_now.unwrap() - 2.0).abs() < 0.2 && view.mean_baseline.unwrap().abs() < 0.2);
    let distances = view.distances.unwrap();
    assert!(distances.ks > 0.5 && distances.ks_p < 1e-6 && distances.hellinger > 0.4);
}

#[test]
fn a_window_of_fewer_rows_than_a_verdict_needs_is_not_judged_however_far_they_are_off() {
    let mut draws = Draws::new(21);
    let mut columns = frozen(vec![number("a")], 600, |_| normal(&mut draws));
    let early = said(&mut columns, 190, |_| normal(&mut draws) + 3.0);
    assert!(alarms(&early, Watcher::Psi).is_empty(), "{early:?}");
    let later = said(&mut columns, 200, |_| normal(&mut draws) + 3.0);
    assert!(alarms(&later, Watcher::Psi).contains(&feature("a")));
}

#[test]
fn a_drift_that_went_and_comes_again_is_said_again() {
    let mut draws = Draws::new(2);
    let mut columns = frozen(vec![number("a")], 600, |_| normal(&mut draws));
    let mut count = 0;
    for round in 0..4_u8 {
        let shift = f32::from(round % 2) * 2.0;
        count += alarms(&said(&mut columns, 3000, |_| normal(&mut draws) + shift), Watcher::Psi)
            .iter()
            .filter(|measure| **measure == feature("a"))
            .count();
    }
    assert_eq!(count, 2);
}

#[test]
fn most_features_in_alarm_are_a_drift_of_the_data() {
    let mut draws = Draws::new(3);
    let specs = ["a", "b", "c", "d"].map(number).to_vec();
    let mut columns = frozen(specs, 600, |_| normal(&mut draws));
    let findings = said(&mut columns, 3000, |index| normal(&mut draws) + if index < 2 { 2.0 } else { 0.0 });
    let whole: Vec<&Finding> = findings.iter().filter(|finding| finding.measure == Measure::Features).collect();
    assert_eq!(whole.len(), 1);
    assert!((whole[0].statistic - 0.5).abs() < 1e-9 && (whole[0].threshold - 0.5).abs() < 1e-9);
    let Picture::Ranking { strongest } = &whole[0].picture else { panic!("{:?}", whole[0].picture) };
    assert_eq!(strongest.len(), 2);
}

#[test]
fn a_wider_scatter_without_a_shift_is_seen_by_the_bins_alone() {
    let mut draws = Draws::new(4);
    let mut columns = frozen(vec![number("a")], 600, |_| normal(&mut draws));
    let findings = said(&mut columns, 2000, |_| 3.0 * normal(&mut draws));
    assert_eq!(alarms(&findings, Watcher::Psi), [feature("a"), Measure::Features]);
    assert!(alarms(&findings, Watcher::Mean).is_empty());
}

#[test]
fn a_constant_is_seen_leaving_either_way_and_has_no_mean_test() {
    for value in [0.1_f32, 0.7, -0.3] {
        let mut columns = frozen(vec![number("a")], 500, |_| 0.3);
        assert_eq!(said(&mut columns, 1000, |_| 0.3), []);
        let findings = said(&mut columns, 400, |_| value);
        assert_eq!(alarms(&findings, Watcher::Psi), [feature("a"), Measure::Features], "{value}");
        assert!(alarms(&findings, Watcher::Mean).is_empty());
        assert_eq!(columns.views()[0].mean_now, None);
    }
}

#[test]
fn missing_values_infinities_and_impossible_values_are_counted_and_their_rates_reported() {
    let range = ColumnSpec { range: Some([-10.0, 10.0]), ..number("b") };
    let mut draws = Draws::new(5);
    let mut columns = frozen(vec![number("a"), range, category("c", 3)], 500, |index| match index {
        2 => f32::from(u8::try_from(draws.below(3)).unwrap()),
        _ => normal(&mut draws),
    });
    let mut turn = 0_u32;
    let findings = said(&mut columns, 960, |index| {
        turn += 1;
        match (index, turn % 2) {
            (0, 0) => f32::NAN,
            (1, 0) if turn.is_multiple_of(4) => f32::INFINITY,
            (1, 0) => 11.0,
            (0 | 1, _) => normal(&mut draws),
            (_, 0) => 7.0,
            _ => f32::from(u8::try_from(draws.below(3)).unwrap()),
        }
    });
    let mut quality = alarms(&findings, Watcher::Quality);
    quality.sort();
    let named = |of: fn(String) -> Measure, name: &str| of(name.to_owned());
    assert_eq!(
        quality,
        [named(Measure::Missing, "a"), named(Measure::OutOfRange, "b"), named(Measure::OutOfRange, "c")]
    );
    let views = columns.views();
    assert_eq!((views[0].missing, views[0].out_of_range), (480, 0));
    assert_eq!((views[1].missing, views[1].out_of_range), (0, 480));
    assert_eq!(views[2].out_of_range, 480);
    // An unseen category is a bin of its own as well.
    assert!(alarms(&findings, Watcher::Psi).contains(&feature("c")));
}

#[test]
fn a_column_without_a_usable_baseline_is_shown_and_never_judged() {
    let mut columns = frozen(vec![number("a"), category("many", 300)], 500, |_| f32::NAN);
    assert_eq!(said(&mut columns, 2000, |_| 1.0), []);
    let view = &columns.views()[0];
    assert_eq!((view.baseline_rows, view.rows, view.distances), (0, 0, None));
    let mut never = Columns::new(vec![number("a")], &ColumnPlan::default());
    assert_eq!(said(&mut never, 2000, |_| 1.0), []);
    let mut none = Columns::new(Vec::new(), &ColumnPlan::default());
    none.rebaseline(&[], None);
    assert_eq!(said(&mut none, 200, |_| 1.0), []);
}

#[test]
fn fewer_rows_than_bins_give_few_bins_and_no_verdict() {
    let mut draws = Draws::new(6);
    let mut columns = frozen(vec![number("a")], 7, |_| normal(&mut draws));
    assert_eq!(columns.list[0].law.as_ref().unwrap().bins.bins(), 2);
    let findings = said(&mut columns, 1000, |_| normal(&mut draws));
    assert!(alarms(&findings, Watcher::Psi).is_empty());
    assert_eq!(columns.views()[0].distances, None);
}

#[test]
fn a_short_row_lacks_its_last_values_and_a_long_one_is_cut() {
    let mut columns = frozen(vec![number("a"), number("b")], 100, |_| 1.0);
    columns.sample(&[1.0], None);
    columns.sample(&[1.0, 1.0, 1.0], None);
    assert_eq!(columns.views().iter().map(|view| view.missing).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn other_settings_start_the_tests_anew_and_equal_ones_change_nothing() {
    let mut draws = Draws::new(7);
    let mut columns = frozen(vec![number("a")], 500, |_| normal(&mut draws));
    said(&mut columns, 500, |_| normal(&mut draws));
    let before = columns.clone();
    columns.adopt(&ColumnPlan::default());
    assert_eq!(columns, before);
    columns.adopt(&ColumnPlan {
        how: ColumnSettings { window_rows: 500, ..ColumnSettings::default() },
        ..ColumnPlan::default()
    });
    assert_eq!((columns.views()[0].rows, columns.views()[0].baseline_rows), (0, 500));
}

#[test]
fn a_season_is_learned_kept_by_a_short_baseline_and_dropped_without_times() {
    let hour = 3_600_000_000_i64;
    let mut draws = Draws::new(8);
    let mut value = |at: Timestamp| {
        #[expect(clippy::cast_precision_loss, reason = "a few days of microseconds")]
        let day = at.0 as f64 / 86_400e6 * std::f64::consts::TAU;
        #[expect(clippy::cast_possible_truncation, reason = "simulated values")]
        let wave = day.sin() as f32;
        wave + 0.3 * normal(&mut draws)
    };
    let times = |rows: i64| -> Vec<Timestamp> { (0..rows).map(|row| Timestamp(row * hour / 12)).collect() };
    let mut columns = Columns::new(vec![number("a")], &ColumnPlan::default());
    for (rows, given, expected) in [(900, true, true), (300, true, true), (900, false, false), (300, true, false)] {
        let times = times(rows);
        let values: Vec<f32> = times.iter().map(|at| value(*at)).collect();
        columns.rebaseline(&values, given.then_some(&times));
        assert_eq!(columns.views()[0].has_season, expected, "{rows} rows, times {given}");
    }
    // With a season a value without a time says nothing, and is counted.
    let times = times(900);
    let values: Vec<f32> = times.iter().map(|at| value(*at)).collect();
    columns.rebaseline(&values, Some(&times));
    columns.sample(&[0.0], None);
    assert_eq!((columns.views()[0].untimed, columns.views()[0].rows), (1, 0));
}

#[test]
fn the_predicted_class_is_a_column_like_any_other() {
    let spec = ColumnSpec { measure: Measure::PredictedClass, ..category("", 4) };
    let mut draws = Draws::new(9);
    let mut columns = frozen(vec![spec], 500, |_| f32::from(u8::try_from(draws.below(4)).unwrap()));
    let findings = said(&mut columns, 600, |_| f32::from(u8::try_from(draws.below(2)).unwrap()));
    assert_eq!(alarms(&findings, Watcher::Prediction), [Measure::PredictedClass]);
    assert!(findings.iter().all(|finding| finding.measure != Measure::Features));
}

#[test]
fn a_step_is_not_taken_for_rows_that_follow_each_other_and_stays_in_the_picture() {
    for seed in 0..8 {
        let mut draws = Draws::new(100 + seed);
        let mut columns = frozen(vec![number("a")], 400, |_| normal(&mut draws));
        said(&mut columns, 400, |_| normal(&mut draws));
        let found = said(&mut columns, 300, |_| normal(&mut draws) + 2.0);
        assert_eq!(alarms(&found, Watcher::Psi).first(), Some(&feature("a")), "{seed}");
        for row in 300..3000 {
            said(&mut columns, 1, |_| normal(&mut draws) + 2.0);
            assert!(columns.views()[0].distances.is_some(), "{seed}: no distance at row {row} after the step");
        }
        assert!(columns.views()[0].step_rows <= 2, "{seed}");
    }
}
