//! What the estimate without labels knows, and what it cannot know.
use super::super::seeded::Draws;
use super::*;

/// Confidences of two classes, uniform from `low` to 1.
fn confidence(draws: &mut Draws, low: f64) -> f64 {
    low + (1.0 - low) * draws.uniform()
}

fn stored(cbpe: &Cbpe) -> String {
    serde_json::to_string(cbpe).unwrap()
}

#[test]
fn honest_confidences_estimate_accuracy_and_f1() {
    let mut cbpe = Cbpe::new(CbpeSettings::default(), 2);
    let mut draws = Draws::new(1);
    let (mut right, mut hits, mut wrong_second, mut missed) = (0.0, 0.0, 0.0, 0.0);
    for _ in 0..500 {
        let p = confidence(&mut draws, 0.5);
        let (class, correct) = (usize::from(draws.uniform() < 0.3), draws.uniform() < p);
        right += f64::from(u8::from(correct));
        match (class, correct) {
            (1, true) => hits += 1.0,
            (1, false) => wrong_second += 1.0,
            (_, false) => missed += 1.0,
            _ => {}
        }
        cbpe.answer(class, p);
    }
    let estimate = cbpe.view().estimate.unwrap();
    assert!((estimate.accuracy - right / 500.0).abs() < 0.05, "{estimate:?}");
    let f1 = 2.0 * hits / (2.0 * hits + wrong_second + missed);
    assert!((estimate.f1.unwrap() - f1).abs() < 0.08, "{estimate:?} {f1}");
}

#[test]
fn labels_correct_boastful_confidences_and_honest_ones_are_left_alone() {
    let mut boastful = Cbpe::new(CbpeSettings::default(), 2);
    let mut honest = boastful.clone();
    let mut draws = Draws::new(2);
    for _ in 0..500 {
        let p = confidence(&mut draws, 0.8);
        boastful.label(p, draws.uniform() < p - 0.25);
        honest.label(p, draws.uniform() < p);
    }
    assert!(boastful.view().calibrated && boastful.view().gap.unwrap() > 0.15, "{:?}", boastful.view());
    assert!(honest.view().gap.unwrap().abs() < 0.05);
    // From the second chunk on the estimate is right.
    for _ in 0..500 {
        let p = confidence(&mut draws, 0.8);
        boastful.label(p, draws.uniform() < p - 0.25);
    }
    assert!(boastful.view().gap.unwrap().abs() < 0.06, "{:?}", boastful.view());
}

#[test]
fn a_map_that_labels_do_not_support_is_dropped() {
    let mut cbpe = Cbpe::new(CbpeSettings::default(), 2);
    let mut draws = Draws::new(3);
    for chunk in 0..3 {
        for _ in 0..500 {
            let p = confidence(&mut draws, 0.6);
            let truth = if chunk == 0 { p - 0.3 } else { p };
            cbpe.label(p, draws.uniform() < truth);
        }
        if chunk == 0 {
            assert!(cbpe.view().calibrated);
        }
    }
    assert!(cbpe.view().gap.unwrap().abs() < 0.06, "{:?}", cbpe.view());
}

#[test]
fn a_chunk_less_sure_than_the_reference_is_said_once_and_again_after_it_came_back() {
    let mut cbpe = Cbpe::new(CbpeSettings::default(), 3);
    let mut draws = Draws::new(4);
    let mut said = Vec::new();
    for chunk in 0..20 {
        let low = if (10..14).contains(&chunk) || chunk == 17 { 0.4 } else { 0.7 };
        for _ in 0..500 {
            if let Some(outside) = cbpe.answer(0, confidence(&mut draws, low)) {
                assert!(outside.accuracy < outside.low);
                said.push(chunk);
            }
        }
    }
    assert_eq!(said, [10, 17]);
}

#[test]
fn quiet_streams_rarely_leave_the_reference() {
    let (mut said, mut chunks) = (0, 0);
    for seed in 0..40 {
        let mut cbpe = Cbpe::new(CbpeSettings::default(), 2);
        let mut draws = Draws::new(seed);
        for _ in 0..500 * 50 {
            said += u32::from(cbpe.answer(0, confidence(&mut draws, 0.5)).is_some());
        }
        chunks += 44;
    }
    // Three deviations are .3 % if they were known; six reference chunks only estimate them.
    assert!(said * 50 <= chunks, "{said} of {chunks}");
}

#[test]
fn the_isotonic_map_never_falls_and_keeps_the_share_of_its_labels() {
    let mut labelled = Labelled::default();
    let mut draws = Draws::new(5);
    for _ in 0..3000 {
        let bin = draws.below(BINS);
        labelled.confidences.push(bin, 0.5);
        labelled.right[bin] += u32::from(draws.uniform() < 0.9 - 0.01 * bin as f64);
    }
    let map = labelled.isotonic(|_| 0.5);
    assert!(map.windows(2).all(|pair| pair[0] <= pair[1]), "{map:?}");
    let right = f64::from(labelled.right.iter().sum::<u32>()) + 0.5 * BINS as f64;
    let kept: f64 = (0..BINS).map(|bin| map[bin] * f64::from(labelled.confidences.rows[bin] + 1)).sum();
    assert!((right - kept).abs() < 1e-6);
}

#[test]
fn odd_confidences_and_a_restart_change_nothing() {
    let mut cbpe = Cbpe::new(CbpeSettings { chunk_rows: 0, reference_chunks: 0 }, 0);
    let before = stored(&cbpe);
    for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(cbpe.answer(9, odd), None);
        cbpe.label(odd, true);
    }
    assert_eq!(before, stored(&cbpe));
    let mut restored = cbpe.clone();
    let mut draws = Draws::new(6);
    for row in 0..5_000 {
        let p = 3.0 * draws.uniform() - 1.0;
        let right = draws.uniform() < p;
        assert_eq!(cbpe.answer(row % 3, p), restored.answer(row % 3, p));
        cbpe.label(p, right);
        restored.label(p, right);
        if row % 777 == 0 {
            restored = serde_json::from_str(&stored(&restored)).unwrap();
        }
    }
    assert_eq!(cbpe, restored);
    assert!(stored(&cbpe).len() < 20_000, "{}", stored(&cbpe).len());
}
