//! Promises every detector keeps: restoring changes nothing, memory is bounded, no finite input panics.
use proptest::prelude::*;

use super::Detector;
use super::guard::Guarded;
use super::spec::{AnyDetector, DETECTORS};

/// Specifications of every detector, with settings that make the most of their state.
fn specifications() -> Vec<String> {
    let special =
        ["adwin:clock=1", "hddm_a:two_sided=true", "hddm_w:two_sided=true", "e_detector:p0=0.2,arl=50,grid=linear"];
    DETECTORS.iter().chain(&special).map(|text| (*text).to_owned()).collect()
}

fn build(specification: &str) -> AnyDetector {
    specification.parse().expect("a known detector")
}

/// Losses with a step, so that alarms and resets happen.
fn losses() -> impl Strategy<Value = Vec<f64>> {
    (prop::collection::vec(0.0..1.0_f64, 300), 0.0..0.6_f64, 0.0..0.9_f64).prop_map(|(draws, before, after)| {
        let rate = |row: usize| if row < 150 { before } else { after };
        draws.into_iter().enumerate().map(|(row, draw)| if draw < rate(row) { 1.0 } else { 0.0 }).collect()
    })
}

fn stored(detector: &AnyDetector) -> Vec<u8> {
    postcard::to_stdvec(detector).expect("plain data")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn restoring_anywhere_changes_nothing(values in losses(), cut in 0_usize..300) {
        for specification in specifications() {
            let mut straight = build(&specification);
            let mut restored = build(&specification);
            for (row, x) in values.iter().enumerate() {
                if row == cut {
                    restored = postcard::from_bytes(&stored(&restored)).expect("restores");
                }
                prop_assert_eq!(straight.update(*x), restored.update(*x));
                prop_assert_eq!(straight.is_warning(), restored.is_warning());
            }
            prop_assert_eq!(stored(&straight), stored(&restored));
        }
    }

    #[test]
    fn no_input_panics_and_what_is_not_finite_changes_nothing(values in prop::collection::vec(any::<f64>(), 200)) {
        for specification in specifications() {
            let mut detector = build(&specification);
            let mut guarded = Guarded::new(build(&specification));
            for x in &values {
                guarded.update(*x);
                let before = stored(&detector);
                let alarm = detector.update(*x);
                if x.is_finite() {
                    prop_assert!(alarm.is_none_or(|alarm| alarm.change_point <= alarm.index));
                } else {
                    prop_assert_eq!(alarm, None);
                    prop_assert_eq!(before, stored(&detector));
                }
            }
        }
    }
}

#[test]
fn what_is_not_finite_is_ignored_by_every_detector() {
    for specification in specifications() {
        let mut detector = build(&specification);
        detector.update(0.5);
        let before = stored(&detector);
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, -1e101] {
            assert_eq!(detector.update(x), None, "{specification}");
        }
        assert_eq!(before, stored(&detector), "{specification}");
    }
}

#[test]
fn memory_stays_bounded_over_long_streams() {
    for specification in specifications() {
        let mut detector = build(&specification);
        let limit = if specification.starts_with("kswin") { 5000 } else { 2048 };
        for row in 0..100_000_u32 {
            detector.update(f64::from(row % 5 == 0));
        }
        assert!(stored(&detector).len() <= limit, "{specification}: {} bytes", stored(&detector).len());
    }
}
