//! When a candidate wins: paired evidence on held-out rows, and a verdict that names the deciding number.
//!
//! What its bundle is worth as numbers is measured where it does no harm, and refused here before any row is compared.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
mod detection;
mod measures;

use serde::{Deserialize, Serialize};
use trainer_core::model::Reference;

/// Champion and candidate on the same held-out rows, both unseen in the candidate's training.
///
/// Per row `d = loss(champion) − loss(candidate)` in [-1, 1]; for 0/1 losses `d` is −1, 0 or +1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Rows compared.
    pub rows: u64,
    /// Σ d.
    pub gain_sum: f64,
    /// Σ d².
    pub gain_square: f64,
    /// Σ loss of the champion.
    pub champion_loss: f64,
    /// Σ loss of the candidate.
    pub candidate_loss: f64,
    /// Σ loss² of the candidate.
    #[serde(default)]
    pub candidate_square: f64,
    /// Rows on which both said something else.
    #[serde(default)]
    pub differed: u64,
    /// Rows to which the candidate gave an answer that is not a finite number.
    #[serde(default, deserialize_with = "rows_not_finite")]
    pub not_finite: u64,
}

/// Earlier versions kept whether there were any.
fn rows_not_finite<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Kept {
        Any(bool),
        Rows(u64),
    }
    Ok(match Kept::deserialize(deserializer)? {
        Kept::Any(any) => any.into(),
        Kept::Rows(rows) => rows,
    })
}

impl Evidence {
    /// Adds one row; losses lie in [0, 1].
    pub fn push(&mut self, champion: f64, candidate: f64) {
        let gain = champion - candidate;
        self.rows += 1;
        self.gain_sum += gain;
        self.gain_square += gain * gain;
        self.champion_loss += champion;
        self.candidate_loss += candidate;
        self.candidate_square += candidate * candidate;
    }

    /// Adjusted mean gain and its standard error after Agresti and Min, half a pseudo-row on either side:
    /// `Σd / (n+2)` and `sqrt(Σd² + 1 − (Σd)²/(n+2)) / (n+2)`.
    #[must_use]
    pub fn gain(&self) -> (f64, f64) {
        let n = self.rows as f64 + 2.0;
        let spread = (self.gain_square + 1.0 - self.gain_sum.powi(2) / n).max(0.0);
        (self.gain_sum / n, spread.sqrt() / n)
    }

    /// What the candidate is expected to lose, by these rows, which it was not trained on.
    #[must_use]
    pub fn reference(&self) -> Reference {
        let (_, mean) = self.losses();
        let variance = (self.candidate_square / self.rows.max(1) as f64 - mean * mean).max(0.0);
        Reference { rows: self.rows, mean, variance }
    }

    /// Mean loss of champion and candidate.
    #[must_use]
    pub fn losses(&self) -> (f64, f64) {
        let n = self.rows.max(1) as f64;
        (self.champion_loss / n, self.candidate_loss / n)
    }
}

pub use detection::Detection;
pub use measures::{Calibration, Measures, SegmentRows, Soundness, sign_test};

/// What the gate asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GateSettings {
    /// How much worse the candidate may be, in loss, once at least `rows_full` rows were compared. Default 0.02.
    pub margin: f64,
    /// Confidence factor there. Default 1.645, one-sided 95 %.
    pub z: f64,
    /// Rows below which the verdict is weak. Default 100.
    pub rows_full: u64,
    /// Margin below `rows_full` rows. Default 0.03.
    pub margin_weak: f64,
    /// Confidence factor there. Default 1.28, one-sided 90 %.
    pub z_weak: f64,
    /// Fewest rows that give a verdict at all. Default 10.
    pub rows_min: u64,
    /// Chance that a candidate as good as the champion in every segment is refused for one of them. 0 tests none. Default 0.05.
    pub segment_alpha: f64,
    /// Held-out rows from which a segment is tested by itself; smaller ones are tested together. Default 30.
    pub segment_rows: u64,
    /// How much worse a candidate that is not shown to be better may be on the factory's anchors, in loss. Default 0.02.
    pub anchor_margin: f64,
    /// How much worse its probabilities may fit what happens (expected calibration error). Default 0.02.
    pub calibration_margin: f64,
    /// Most that its slowest answers (p95) may take, in those of the champion. Default 1.2.
    pub latency_factor: f64,
    /// A difference in microseconds that nobody minds, whatever the factor. Default 200.
    pub latency_floor_us: f64,
    /// Most bytes its file may have, in those of the champion. Default 2.
    pub size_factor: f64,
}

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            margin: 0.02,
            z: 1.645,
            rows_full: 100,
            margin_weak: 0.03,
            z_weak: 1.28,
            rows_min: 10,
            segment_alpha: 0.05,
            segment_rows: 30,
            anchor_margin: 0.02,
            calibration_margin: 0.02,
            latency_factor: 1.2,
            latency_floor_us: 200.0,
            size_factor: 2.0,
        }
    }
}

/// What the gate says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether the candidate may serve.
    pub passed: bool,
    /// Whether fewer than `rows_full` rows spoke.
    pub weak: bool,
    /// The check that decided.
    pub decided_by: Check,
    /// The number it looked at.
    pub value: f64,
    /// What it was compared with.
    pub limit: f64,
    /// The segment that decided, if one did; `other` is all small ones together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Rows, gain and losses behind it.
    pub evidence: Evidence,
}

/// One check of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Enough held-out rows.
    Rows,
    /// Every number of its bundle is finite.
    Weights,
    /// It gives the answers its bundle promises.
    Golden,
    /// Every answer is a finite number.
    Finite,
    /// The observed gain is not negative.
    Gain,
    /// The lower bound of the gain lies above minus the margin.
    LowerBound,
    /// The expected gain exceeds the cost of a retrain (policy `value`), in avoided errors.
    Worth,
    /// The candidate is another model than the champion.
    Other,
    /// No segment is shown to do worse: the chance of so many losses among its differing rows, against its share of the error.
    Segment,
    /// The factory's anchors are not shown to be forgotten, unless the candidate is shown to be better on the newest rows.
    Anchors,
    /// It is not shown to miss more of the anomalies that labels have named (anomaly models).
    Detection,
    /// It is shown not to call more of the newest rows anomalous, labelled or not (anomaly models).
    FalseAlarms,
    /// Its probabilities fit what happens.
    Calibration,
    /// Its slowest answers are not much slower.
    Latency,
    /// Its file is not much larger.
    Size,
}

impl Verdict {
    /// The verdict in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let word = if self.passed { "passed" } else { "refused" };
        let (champion, candidate) = self.evidence.losses();
        let losses = format!("loss {candidate:.4} against {champion:.4} on {} held-out rows", self.evidence.rows);
        match self.decided_by {
            Check::Rows => format!("{word}: {} held-out rows, {} are needed", self.value, self.limit),
            Check::Weights => {
                format!(
                    "{word}: numbers in its bundle that are not finite: {:.0}, allowed {:.0}",
                    self.value, self.limit
                )
            }
            Check::Golden if self.value >= f64::from(f32::MAX) => {
                format!("{word}: its golden answers are no numbers, they may be off by {:.4}", self.limit)
            }
            Check::Golden => {
                format!("{word}: its golden answers are off by up to {:.4}, allowed {:.4}", self.value, self.limit)
            }
            Check::Finite => {
                format!("{word}: it answers no number to {:.0} of its rows, allowed {:.0}", self.value, self.limit)
            }
            Check::Gain => format!("{word}: it is worse by {:.4} ({losses})", -self.value),
            Check::Worth => {
                format!("{word}: it would avoid {:.1} errors, a retrain costs {:.1} ({losses})", self.value, self.limit)
            }
            Check::Other => format!("{word}: training gave the champion once more"),
            Check::Segment => {
                let segment = self.segment.as_deref().unwrap_or("other");
                format!(
                    "{word}: it is worse in segment {segment} (p {:.5}, limit {:.5}; {losses})",
                    self.value, self.limit
                )
            }
            Check::Anchors => format!(
                "{word}: it forgets the factory's anchors by at least {:.4}, allowed {:.4}, and is not shown to be better ({losses})",
                -self.value, -self.limit
            ),
            Check::Detection => format!(
                "{word}: it misses anomalies that the champion finds (p {:.5}, limit {:.5}; {losses})",
                self.value, self.limit
            ),
            Check::FalseAlarms => format!(
                "{word}: it may call up to {:.4} more of the newest rows anomalous, allowed {:.4} ({losses})",
                self.value, self.limit
            ),
            Check::Calibration => {
                format!(
                    "{word}: its probabilities are off by {:.4} more than the champion's, allowed {:.4}",
                    self.value, self.limit
                )
            }
            Check::Latency => format!(
                "{word}: its slowest answers take {:.2} times the champion's, allowed {:.2}",
                self.value, self.limit
            ),
            Check::Size => {
                format!("{word}: its file is {:.2} times the champion's, allowed {:.2}", self.value, self.limit)
            }
            Check::LowerBound => {
                format!("{word}: gain is at least {:+.4}, allowed down to {:+.4} ({losses})", self.value, self.limit)
            }
        }
    }
}

/// Judges a candidate by paired non-inferiority: the observed gain is not negative, and its lower bound is above minus the
/// margin.
#[must_use]
pub fn judge(evidence: &Evidence, settings: &GateSettings) -> Verdict {
    let weak = evidence.rows < settings.rows_full;
    let (z, margin) = if weak { (settings.z_weak, settings.margin_weak) } else { (settings.z, settings.margin) };
    let (gain, error) = evidence.gain();
    let verdict = |passed, decided_by, value, limit| Verdict {
        passed,
        weak,
        decided_by,
        value,
        limit,
        segment: None,
        evidence: *evidence,
    };
    if evidence.not_finite > 0 || !gain.is_finite() {
        verdict(false, Check::Finite, evidence.not_finite.max(1) as f64, 0.0)
    } else if evidence.rows < settings.rows_min {
        verdict(false, Check::Rows, evidence.rows as f64, settings.rows_min as f64)
    } else if gain < 0.0 {
        verdict(false, Check::Gain, gain, 0.0)
    } else {
        let bound = gain - z * error;
        verdict(bound > -margin, Check::LowerBound, bound, -margin)
    }
}

/// Judges by everything that was measured: its bundle's own numbers, [`judge`], then what may refuse a candidate that is as good on
/// the whole.
#[must_use]
pub fn judge_all(evidence: &Evidence, measures: &Measures, settings: &GateSettings) -> Verdict {
    let verdict = judge(evidence, settings);
    if let Some((decided_by, value, limit)) = measures.soundness.as_ref().and_then(Soundness::objection) {
        return Verdict { passed: false, decided_by, value, limit, ..verdict };
    }
    if !verdict.passed {
        return verdict;
    }
    match measures.objection(evidence, settings) {
        Some((decided_by, value, limit, segment)) => {
            Verdict { passed: false, decided_by, value, limit, segment, ..verdict }
        }
        None => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `b` rows where only the champion was right, `c` where only the candidate was, of `n`.
    fn verdict(b: u64, c: u64, n: u64) -> Verdict {
        let mut evidence = Evidence::default();
        for row in 0..n {
            let (champion, candidate) = if row < b { (0.0, 1.0) } else { (f64::from(u8::from(row < b + c)), 0.0) };
            evidence.push(champion, candidate);
        }
        judge(&evidence, &GateSettings::default())
    }

    #[test]
    fn the_published_examples_come_out_to_the_last_digit() {
        for (b, c, n, bound, passed) in [
            (0, 0, 200, -0.00814, true),
            (4, 4, 200, -0.02443, false),
            (6, 8, 200, -0.02162, false),
            (4, 12, 200, 0.00634, true),
            (10, 12, 400, -0.01465, true),
            (0, 0, 80, -0.01561, true),
            (3, 3, 80, -0.04130, false),
        ] {
            let verdict = verdict(b, c, n);
            assert!((verdict.value - bound).abs() < 5e-6, "({b}, {c}, {n}): {}", verdict.value);
            assert_eq!((verdict.passed, verdict.weak), (passed, n < 100), "({b}, {c}, {n})");
        }
    }

    #[test]
    fn a_worse_a_broken_and_an_untested_candidate_are_refused_by_name() {
        assert_eq!(verdict(5, 2, 200).decided_by, Check::Gain);
        assert_eq!(verdict(0, 9, 9).decided_by, Check::Rows);
        let evidence =
            Evidence { rows: 500, gain_sum: 400.0, gain_square: 400.0, not_finite: 3, ..Evidence::default() };
        let broken = judge(&evidence, &GateSettings::default());
        assert!(!broken.passed && broken.decided_by == Check::Finite);
        assert_eq!(
            verdict(5, 2, 200).sentence(),
            "refused: it is worse by 0.0149 (loss 0.0250 against 0.0100 on 200 held-out rows)"
        );
    }
}
