//! What may refuse a candidate that is as good on the whole: segments, anchors, calibration, latency, size.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Check, Detection, Evidence, GateSettings};
use crate::decide::drift::special::beta_lower;

/// Segments that are told apart; further ones count as one.
const SEGMENTS_MAX: usize = 1_024;
/// Equal bins of the confidence.
const BINS: usize = 10;

/// Everything beside the paired losses; what was not measured objects to nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measures {
    /// Differing rows of each segment.
    pub segments: BTreeMap<String, SegmentRows>,
    /// Both on the factory's anchors.
    pub anchors: Evidence,
    /// Confidence of champion and candidate against what was right, for classes.
    pub calibration: (Calibration, Calibration),
    /// p95 of champion and candidate in microseconds.
    pub latency_us: Option<(f64, f64)>,
    /// Bytes of both files.
    pub bytes: Option<(u64, u64)>,
    /// What the candidate's bundle is worth by itself.
    #[serde(default)]
    pub soundness: Option<Soundness>,
    /// Anomalies found and false alarms, for anomaly models.
    #[serde(default)]
    pub detection: Option<Detection>,
}

/// A bundle judged by itself, before its model is let near any row of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Soundness {
    /// Numbers of its tensors that are NaN or infinite where none may be.
    pub not_finite: u64,
    /// How far its golden answers are off at most, in units of their size; `f32::MAX` where they are no numbers.
    pub golden_off: f64,
    /// How far they may be.
    pub golden_most: f64,
    /// Rows it carries along.
    pub rows: u64,
    /// Those it answers with something that is no number.
    pub rows_not_finite: u64,
}

impl Soundness {
    /// Whether nothing speaks against it.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.objection().is_none()
    }

    /// The first check that refuses, its number, and what it was compared with.
    #[must_use]
    pub fn objection(&self) -> Option<(Check, f64, f64)> {
        if self.not_finite > 0 {
            Some((Check::Weights, self.not_finite as f64, 0.0))
        } else if self.golden_off > self.golden_most {
            Some((Check::Golden, self.golden_off, self.golden_most))
        } else if self.rows_not_finite > 0 {
            Some((Check::Finite, self.rows_not_finite as f64, 0.0))
        } else {
            None
        }
    }
}

/// Held-out rows of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SegmentRows {
    /// All.
    pub rows: u64,
    /// Those on which the candidate lost more.
    pub worse: u64,
    /// Those on which it lost less.
    pub better: u64,
    /// How much less it lost, over all of them.
    #[serde(default)]
    pub gain_sum: f64,
}

/// Rows, right answers and confidence by bins of the confidence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    bins: [(u64, u64, f64); BINS],
}

impl Calibration {
    /// Takes the confidence of an answer and whether it was right.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a bin of [0, 1]")]
    pub fn push(&mut self, confidence: f64, right: bool) {
        let confidence = if confidence.is_finite() { confidence.clamp(0.0, 1.0) } else { 0.0 };
        let bin = ((confidence * BINS as f64) as usize).min(BINS - 1);
        let (rows, correct, sum) = &mut self.bins[bin];
        *rows += 1;
        *correct += u64::from(right);
        *sum += confidence;
    }

    /// Expected calibration error in [0, 1], and the standard error of it.
    fn error(&self) -> (f64, f64) {
        let rows: u64 = self.bins.iter().map(|bin| bin.0).sum();
        let n = rows.max(1) as f64;
        let gaps = self.bins.iter().map(|(_, right, sum)| (*right as f64 - sum).abs() / n).sum();
        let spread = |(rows, right, _): &(u64, u64, f64)| {
            let share = *right as f64 / (*rows).max(1) as f64;
            *rows as f64 * share * (1.0 - share)
        };
        (gaps, self.bins.iter().map(spread).sum::<f64>().sqrt() / n)
    }
}

/// P[Bin(worse + better, ½) ≥ worse]: the chance of so many losses if both were equally good.
#[must_use]
pub fn sign_test(worse: u64, better: u64) -> f64 {
    if worse == 0 { 1.0 } else { beta_lower(0.5, worse as f64, better as f64 + 1.0) }
}

impl Measures {
    /// Takes a held-out row of a segment, with how much less the candidate lost.
    pub fn segment(&mut self, name: &str, gain: f64) {
        let name = if self.segments.len() < SEGMENTS_MAX || self.segments.contains_key(name) { name } else { "other" };
        let rows = self.segments.entry(name.to_owned()).or_default();
        rows.rows += 1;
        rows.worse += u64::from(gain < 0.0);
        rows.better += u64::from(gain > 0.0);
        rows.gain_sum += gain;
    }

    /// The first check that refuses: its number, what it was compared with, and the segment if it is one.
    pub(super) fn objection(
        &self,
        evidence: &Evidence,
        settings: &GateSettings,
    ) -> Option<(Check, f64, f64, Option<String>)> {
        self.detection
            .as_ref()
            .and_then(|detection| detection.objection(evidence, settings))
            .or_else(|| self.worst_segment(settings))
            .or_else(|| self.forgotten(evidence, settings))
            .or_else(|| self.miscalibrated(evidence, settings))
            .or_else(|| {
                let (champion, candidate) = self.latency_us?;
                let slow =
                    candidate > champion * settings.latency_factor && candidate - champion > settings.latency_floor_us;
                slow.then(|| (Check::Latency, candidate / champion.max(1e-9), settings.latency_factor, None))
            })
            .or_else(|| {
                let (champion, candidate) = self.bytes?;
                let ratio = candidate as f64 / champion.max(1) as f64;
                (ratio > settings.size_factor).then_some((Check::Size, ratio, settings.size_factor, None))
            })
    }

    /// The segment with the least chance, if that is below its share of the error.
    fn worst_segment(&self, settings: &GateSettings) -> Option<(Check, f64, f64, Option<String>)> {
        let (large, small): (Vec<_>, Vec<_>) =
            self.segments.iter().partition(|(_, rows)| rows.rows >= settings.segment_rows);
        let mut other = SegmentRows::default();
        for (_, rows) in small {
            other.rows += rows.rows;
            other.worse += rows.worse;
            other.better += rows.better;
            other.gain_sum += rows.gain_sum;
        }
        let mut tested: Vec<(&str, SegmentRows)> = large.iter().map(|(name, rows)| (name.as_str(), **rows)).collect();
        if other.rows >= settings.segment_rows {
            tested.push(("other", other));
        }
        // Shared by two at least: a single large group would use up more of the error than many small ones ever do.
        let limit = settings.segment_alpha / tested.len().max(2) as f64;
        // Many a little worse and few much better are no loss: numbers differ on nearly every row.
        let lost = |(_, rows): &(&str, SegmentRows)| rows.gain_sum < 0.0;
        let chance = |(name, rows): (&str, SegmentRows)| (sign_test(rows.worse, rows.better), name.to_owned());
        let (p, name) = tested.into_iter().filter(lost).map(chance).min_by(|one, other| one.0.total_cmp(&other.0))?;
        (p < limit).then_some((Check::Segment, p, limit, Some(name)))
    }

    /// Forgetting is the price of a gain that is shown, and of nothing less: after a change of the law the old anchors are wrong.
    fn forgotten(&self, evidence: &Evidence, settings: &GateSettings) -> Option<(Check, f64, f64, Option<String>)> {
        let (gain, error) = evidence.gain();
        if gain - settings.z * error > 0.0 || self.anchors.rows < settings.segment_rows {
            return None;
        }
        let (kept, error) = self.anchors.gain();
        let most = kept + settings.z * error;
        (most < -settings.anchor_margin).then_some((Check::Anchors, most, -settings.anchor_margin, None))
    }

    /// Only what is shown by enough rows: the error of few rows is mostly chance.
    fn miscalibrated(&self, evidence: &Evidence, settings: &GateSettings) -> Option<(Check, f64, f64, Option<String>)> {
        let (champion, candidate) = &self.calibration;
        let ((champion, _), (candidate, error)) = (champion.error(), candidate.error());
        let excess = candidate - champion - settings.z * error;
        let counts = evidence.rows >= settings.rows_full;
        (counts && excess > settings.calibration_margin).then_some((
            Check::Calibration,
            excess,
            settings.calibration_margin,
            None,
        ))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{GateSettings, judge_all};
    use super::*;

    pub(in crate::decide::gate) fn even(rows: u64) -> Evidence {
        let mut evidence = Evidence::default();
        (0..rows).for_each(|_| evidence.push(0.0, 0.0));
        evidence
    }

    fn verdict(measures: &Measures, evidence: &Evidence) -> (bool, Check, Option<String>) {
        let verdict = judge_all(evidence, measures, &GateSettings::default());
        assert!(!verdict.sentence().is_empty());
        (verdict.passed, verdict.decided_by, verdict.segment)
    }

    fn segment(rows: u64, worse: u64, better: u64) -> SegmentRows {
        SegmentRows { rows, worse, better, gain_sum: better as f64 - worse as f64 }
    }

    #[test]
    fn the_published_chances_come_out_and_decide_at_their_share_of_the_error() {
        for (worse, better, p, blocks) in [
            (7, 0, 0.007_81, false),
            (8, 0, 0.003_91, true),
            (9, 1, 0.010_74, false),
            (10, 1, 0.005_86, true),
            (11, 2, 0.011_23, false),
        ] {
            assert!((sign_test(worse, better) - p).abs() < 5e-6, "{worse} {better}");
            let mut segments: BTreeMap<_, _> = (0..7).map(|name| (name.to_string(), segment(100, 0, 0))).collect();
            segments.insert("line-3".to_owned(), segment(100, worse, better));
            let measures = Measures { segments, ..Measures::default() };
            let (passed, decided_by, name) = verdict(&measures, &even(200));
            assert_eq!(passed, !blocks, "{worse} {better}");
            if blocks {
                assert_eq!((decided_by, name.as_deref()), (Check::Segment, Some("line-3")));
            }
        }
        assert!((sign_test(0, 0) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn small_segments_are_tested_together() {
        let mut measures = Measures::default();
        for row in 0..60 {
            measures.segment(&format!("cell-{}", row % 4), if row < 12 { -1.0 } else { 0.0 });
        }
        assert_eq!(verdict(&measures, &even(200)), (false, Check::Segment, Some("other".to_owned())));
        measures.segments.remove("cell-0");
        measures.segments.remove("cell-1");
        measures.segments.remove("cell-2");
        assert!(verdict(&measures, &even(200)).0, "fifteen rows are too few to say anything");
    }

    #[test]
    fn equal_models_are_refused_for_a_segment_in_at_most_three_of_a_hundred_comparisons() {
        let mut state = 1_u64;
        let mut even_draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as f64) / (1_u64 << 31) as f64
        };
        for rows in [20, 50, 100, 200_u64] {
            let runs = 2_000;
            let blocked = (0..runs)
                .filter(|_| {
                    let mut measures = Measures::default();
                    for name in 0..8 {
                        for _ in 0..rows {
                            let draw = even_draw();
                            let gain = f64::from(u8::from(draw < 0.04)) - f64::from(u8::from(draw > 0.96));
                            measures.segment(&name.to_string(), gain);
                        }
                    }
                    !verdict(&measures, &even(200)).0
                })
                .count();
            println!("{rows} rows in each of 8 segments: {blocked} of {runs} equal models refused");
            assert!(blocked * 100 <= runs * 3, "{rows} rows: {blocked} of {runs}");
        }
    }

    #[test]
    fn anchors_may_be_forgotten_for_a_gain_that_is_shown_and_for_nothing_less() {
        let mut anchors = Evidence::default();
        (0..200).for_each(|row| anchors.push(0.0, f64::from(u8::from(row < 30))));
        let measures = Measures { anchors, ..Measures::default() };
        assert_eq!(verdict(&measures, &even(200)).1, Check::Anchors);
        let mut better = Evidence::default();
        (0..200).for_each(|row| better.push(f64::from(u8::from(row < 40)), 0.0));
        assert!(verdict(&measures, &better).0);
        let mut few = Evidence::default();
        (0..200).for_each(|row| few.push(0.0, f64::from(u8::from(row < 4))));
        assert!(verdict(&Measures { anchors: few, ..Measures::default() }, &even(200)).0, "within the margin");
    }

    #[test]
    fn golden_answers_may_be_off_by_their_limit_and_no_more_and_a_broken_bundle_is_named_before_its_rows() {
        let said = |soundness: Soundness, evidence: &Evidence| {
            let measures = Measures { soundness: Some(soundness), ..Measures::default() };
            let verdict = judge_all(evidence, &measures, &GateSettings::default());
            (verdict.passed, verdict.decided_by, verdict.value, verdict.limit)
        };
        let golden = |golden_off| Soundness { golden_off, golden_most: 0.001, rows: 64, ..Soundness::default() };
        assert!(said(golden(0.001), &even(200)).0 && golden(0.001).is_sound());
        assert_eq!(said(golden(0.001_01), &even(200)), (false, Check::Golden, 0.001_01, 0.001));
        let untested = said(golden(f32::MAX.into()), &Evidence::default());
        assert_eq!((untested.0, untested.1), (false, Check::Golden), "no row was compared, and that is not why");
        let weights = Soundness { not_finite: 3, ..golden(0.5) };
        assert_eq!(said(weights, &even(200)), (false, Check::Weights, 3.0, 0.0), "what is no number is told first");
        let rows = Soundness { rows_not_finite: 2, ..golden(0.0) };
        assert_eq!(said(rows, &even(200)), (false, Check::Finite, 2.0, 0.0));
        assert!(!weights.is_sound() && !rows.is_sound());
    }

    #[test]
    fn a_boastful_a_slow_and_a_huge_candidate_are_refused_by_name() {
        let mut calibration = (Calibration::default(), Calibration::default());
        for row in 0..400 {
            let right = row % 10 < 8;
            calibration.0.push(0.8, right);
            calibration.1.push(0.99, right);
        }
        let boastful = Measures { calibration, ..Measures::default() };
        assert_eq!(verdict(&boastful, &even(400)).1, Check::Calibration);
        assert!(verdict(&boastful, &even(50)).0, "fifty rows show nothing");
        let slow = |champion, candidate| Measures { latency_us: Some((champion, candidate)), ..Measures::default() };
        assert_eq!(verdict(&slow(1_000.0, 1_300.0), &even(200)).1, Check::Latency);
        assert!(verdict(&slow(10.0, 30.0), &even(200)).0, "twenty microseconds are nobody's");
        let large = Measures { bytes: Some((100_000, 300_000)), ..Measures::default() };
        assert_eq!(verdict(&large, &even(200)).1, Check::Size);
    }
}
