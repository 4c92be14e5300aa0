//! The gate's variant for anomaly models: labels of anomalies are rare and late, so the newest rows speak too, labelled or not.
use serde::{Deserialize, Serialize};

use super::{Check, Evidence, GateSettings, sign_test};

/// What champion and candidate call anomalous. Beside it the paired rule over all labelled rows holds as for every model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detection {
    /// Held-out rows that labels call anomalous.
    pub anomalies: u64,
    /// Those that only the champion finds.
    pub missed: u64,
    /// Those that only the candidate finds.
    pub found: u64,
    /// Newest rows of the device, labelled or not.
    pub rows: u64,
    /// Those that only the candidate calls anomalous.
    pub more: u64,
    /// Those that only the champion does.
    pub fewer: u64,
}

impl Detection {
    /// Takes a held-out row that its label calls anomalous, and who finds it.
    pub fn anomaly(&mut self, champion: bool, candidate: bool) {
        self.anomalies += 1;
        self.missed += u64::from(champion && !candidate);
        self.found += u64::from(candidate && !champion);
    }

    /// Takes one of the newest rows, and who calls it anomalous.
    pub fn row(&mut self, champion: bool, candidate: bool) {
        self.rows += 1;
        self.more += u64::from(candidate && !champion);
        self.fewer += u64::from(champion && !candidate);
    }

    /// Upper bound of how many more of the newest rows the candidate calls anomalous, as a share: Agresti and Min, as
    /// [`Evidence::gain`].
    #[must_use]
    pub fn excess(&self, z: f64) -> f64 {
        let n = self.rows as f64 + 2.0;
        let difference = self.more as f64 - self.fewer as f64;
        let spread = ((self.more + self.fewer) as f64 + 1.0 - difference.powi(2) / n).max(0.0);
        difference / n + z * spread.sqrt() / n
    }

    /// The first check that refuses. Anomalies are few, so a miss must be shown (exact sign test); newest rows are many, so that there
    /// are no more alarms must be shown, unless labels show that the candidate is better: then those alarms are deserved.
    pub(super) fn objection(
        &self,
        evidence: &Evidence,
        settings: &GateSettings,
    ) -> Option<(Check, f64, f64, Option<String>)> {
        let p = sign_test(self.missed, self.found);
        if p < settings.segment_alpha {
            return Some((Check::Detection, p, settings.segment_alpha, None));
        }
        let (gain, error) = evidence.gain();
        if gain - settings.z * error > 0.0 || self.rows < settings.rows_full {
            return None;
        }
        let excess = self.excess(settings.z);
        (excess > settings.margin).then_some((Check::FalseAlarms, excess, settings.margin, None))
    }
}

#[cfg(test)]
mod tests {
    use super::super::measures::tests::even;
    use super::super::{Measures, judge_all};
    use super::*;

    fn decided(detection: Detection, evidence: &Evidence) -> (bool, Check) {
        let measures = Measures { detection: Some(detection), ..Measures::default() };
        let verdict = judge_all(evidence, &measures, &GateSettings::default());
        assert!(verdict.passed || verdict.sentence().contains("anomal"), "{}", verdict.sentence());
        (verdict.passed, verdict.decided_by)
    }

    #[test]
    fn misses_must_be_shown_and_quiet_must_be_shown() {
        let quiet = Detection { anomalies: 8, rows: 512, more: 4, fewer: 4, ..Detection::default() };
        assert!(decided(quiet, &even(200)).0);
        assert_eq!(decided(Detection { missed: 5, ..quiet }, &even(200)), (false, Check::Detection), "five to none");
        assert!(decided(Detection { missed: 4, ..quiet }, &even(200)).0, "four to none is chance, one in sixteen");
        assert!(decided(Detection { missed: 9, found: 6, ..quiet }, &even(200)).0);
        assert_eq!(decided(Detection { more: 16, ..quiet }, &even(200)), (false, Check::FalseAlarms));
        assert!(decided(Detection { rows: 60, more: 16, ..quiet }, &even(200)).0, "sixty rows show nothing");
        assert!(decided(Detection { more: 3, fewer: 300, ..quiet }, &even(200)).0, "it ends a flood of false alarms");
    }

    #[test]
    fn more_alarms_are_welcome_where_labels_show_that_they_are_deserved() {
        let louder = Detection { anomalies: 20, found: 18, rows: 512, more: 40, ..Detection::default() };
        assert_eq!(decided(louder, &even(200)), (false, Check::FalseAlarms));
        let mut better = Evidence::default();
        (0..200).for_each(|row| better.push(f64::from(u8::from(row < 18)), 0.0));
        assert!(decided(louder, &better).0);
    }

    #[test]
    fn a_louder_candidate_passes_in_at_most_six_of_a_hundred_comparisons() {
        let mut state = 7_u64;
        let mut even_draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as f64) / (1_u64 << 31) as f64
        };
        // Two points more alarms than the champion's, each with as many of its own.
        let (runs, mut passed) = (2_000, 0);
        for _ in 0..runs {
            let mut detection = Detection::default();
            for _ in 0..512 {
                let draw = even_draw();
                detection.row(draw > 0.99, draw < 0.03);
            }
            passed += usize::from(decided(detection, &even(200)).0);
        }
        println!("{passed} of {runs} candidates with two points more alarms pass");
        // As the rule over labelled rows does at its margin: the bound is not exact.
        assert!(passed * 100 <= runs * 6, "{passed} of {runs}");
    }
}
