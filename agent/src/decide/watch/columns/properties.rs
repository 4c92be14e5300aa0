//! Promises of the columns on any input: no panic, bounded size, a restart changes nothing, order does not matter.
use proptest::prelude::*;

use super::*;
use crate::decide::drift::seeded::Draws;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn spec(index: usize) -> ColumnSpec {
    let kind = if index == 2 { ColumnKind::Category { count: 3 } } else { ColumnKind::Number };
    let range = (index == 1).then_some([-3.0, 3.0]);
    ColumnSpec { measure: Measure::Feature(NAMES[index].to_owned()), kind, range }
}

/// A value of column `index` that drifts, follows its past, goes missing and breaks its range.
fn value(index: usize, row: usize, draws: &mut Draws) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "simulated values")]
    let x = draws.normal() as f32;
    match (index, row) {
        (_, 900..1100) if index != 3 => f32::NAN,
        (0, 600..) => x + 1.5,
        (1, 1200..) => x * 4.0,
        (2, _) => f32::from(u8::try_from(draws.below(if row > 700 { 5 } else { 3 })).unwrap_or(0)),
        (3, _) => x + f32::from(u16::try_from(row / 40 % 7).unwrap_or(0)),
        _ => x,
    }
}

/// Rows of the columns in the order given.
fn rows(order: [usize; 4], seed: u64, from: usize, count: usize) -> Vec<Vec<f32>> {
    let mut draws: Vec<Draws> = (0..4).map(|index| Draws::new(seed * 31 + index + from as u64)).collect();
    let row = |row: usize, draws: &mut Vec<Draws>| order.map(|index| value(index, row, &mut draws[index])).to_vec();
    (from..from + count).map(|at| row(at, &mut draws)).collect()
}

fn time_of(row: usize) -> Timestamp {
    Timestamp(i64::try_from(row).unwrap_or(0) * 600_000_000)
}

fn frozen(order: [usize; 4], seed: u64) -> Columns {
    let mut columns = Columns::new(order.map(spec).to_vec(), &ColumnPlan::default());
    let baseline: Vec<f32> = rows(order, seed, 0, 400).concat();
    let times: Vec<Timestamp> = (0..400).map(time_of).collect();
    columns.rebaseline(&baseline, Some(&times));
    columns
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn a_restart_anywhere_changes_nothing(seed in 0_u64..1000, cut in 0_usize..1800) {
        let mut straight = frozen([0, 1, 2, 3], seed);
        let mut restored = straight.clone();
        let mut said = 0;
        for (row, values) in rows([0, 1, 2, 3], seed, 400, 1800).iter().enumerate() {
            if row == cut {
                let text = serde_json::to_string(&restored).expect("plain data");
                restored = serde_json::from_str(&text).expect("restores");
                prop_assert_eq!(&straight, &restored);
            }
            let (one, other) = (straight.sample(values, Some(time_of(row))), restored.sample(values, Some(time_of(row))));
            said += one.len();
            prop_assert_eq!(one, other);
        }
        prop_assert!(said > 0);
        prop_assert_eq!(postcard::to_stdvec(&straight).ok(), postcard::to_stdvec(&restored).ok());
    }

    #[test]
    fn the_order_of_columns_is_irrelevant(seed in 0_u64..1000, order in Just([0, 1, 2, 3]).prop_shuffle()) {
        let (mut straight, mut shuffled) = (frozen([0, 1, 2, 3], seed), frozen(order, seed));
        let streams = rows([0, 1, 2, 3], seed, 400, 1800).into_iter().zip(rows(order, seed, 400, 1800));
        for (row, (one, other)) in streams.enumerate() {
            let sorted = |mut findings: Vec<Finding>| {
                findings.sort_by_key(|finding| (finding.measure.clone(), finding.watcher));
                findings
            };
            let (one, other) = (straight.sample(&one, Some(time_of(row))), shuffled.sample(&other, Some(time_of(row))));
            prop_assert_eq!(sorted(one), sorted(other));
        }
    }

    #[test]
    fn no_input_panics_and_the_state_stays_plain(
        bits in prop::collection::vec(any::<u32>(), 4 * 300),
        stream in prop::collection::vec(any::<u32>(), 4 * 600),
        times in prop::collection::vec(any::<i64>(), 600),
    ) {
        let mut columns = Columns::new([0, 1, 2, 3].map(spec).to_vec(), &ColumnPlan::default());
        let values = |bits: &[u32]| -> Vec<f32> { bits.iter().map(|bits| f32::from_bits(*bits)).collect() };
        let baseline_times: Vec<Timestamp> = times.iter().take(300).map(|at| Timestamp(*at)).collect();
        columns.rebaseline(&values(&bits), Some(&baseline_times));
        for (row, at) in values(&stream).chunks(4).zip(&times) {
            columns.sample(row, Some(Timestamp(*at)));
        }
        prop_assert_eq!(columns.views().len(), 4);
        let text = serde_json::to_string(&columns).expect("plain data");
        let read: Columns = serde_json::from_str(&text).expect("no number of the state is infinite or NaN");
        prop_assert_eq!(read, columns);
    }
}

/// 128 features over `rows` rows with everything that makes state: drift, gaps, breaches, seasons.
fn full(rows: usize) -> Columns {
    let range = Some([-4.0, 4.0]);
    let spec = |index: usize| ColumnSpec {
        measure: Measure::Feature(format!("sensor_{index}")),
        kind: ColumnKind::Number,
        range,
    };
    let mut columns = Columns::new((0..128).map(spec).collect(), &ColumnPlan::default());
    let mut draws = Draws::new(5);
    #[expect(clippy::cast_possible_truncation, reason = "simulated values")]
    let mut row = |at: usize| -> Vec<f32> {
        let season = (time_of(at).0.rem_euclid(86_400_000_000) / 3_600_000_000) as f32 / 12.0;
        let value = |draws: &mut Draws| match draws.below(200) {
            0 => f32::NAN,
            1 => 9.0,
            _ => draws.normal() as f32 * 0.5 + season,
        };
        (0..128).map(|_| value(&mut draws)).collect()
    };
    let baseline: Vec<f32> = (0..500).flat_map(&mut row).collect();
    let times: Vec<Timestamp> = (0..500).map(time_of).collect();
    columns.rebaseline(&baseline, Some(&times));
    for at in 500..500 + rows {
        columns.sample(&row(at), Some(time_of(at)));
    }
    columns
}

#[test]
fn the_state_of_128_features_stays_below_one_megabyte() {
    let columns = full(20_000);
    assert!(columns.views().iter().all(|view| view.has_season && view.missing > 0 && view.out_of_range > 0));
    let (json, binary) = (serde_json::to_vec(&columns).unwrap().len(), postcard::to_stdvec(&columns).unwrap().len());
    println!("JSON {json} bytes, postcard {binary} bytes, struct {} bytes", size_of::<Column>());
    assert!(json <= 1_000_000 && binary / 128 <= 4096, "JSON {json}, postcard {binary}");
}
