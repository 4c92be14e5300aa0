//! Which drift tests run, and how strict they are.
#![expect(clippy::cast_precision_loss, reason = "a handful of families")]
use serde::{Deserialize, Serialize};

use super::columns::{ColumnPlan, ColumnSettings, ColumnTest};
use super::joint::JointSettings;
use super::performance::PerformanceSettings;

/// A test, by the name that settings and policies give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watcher {
    /// e-SR with the e-CUSUM change point on the losses.
    ESr,
    /// ADWIN on the losses.
    Adwin,
    /// Page-Hinkley on the losses.
    PageHinkley,
    /// DDM on 0/1 losses.
    Ddm,
    /// EDDM on 0/1 losses.
    Eddm,
    /// HDDM with Hoeffding's bound on the losses.
    HddmA,
    /// HDDM with weighted means on the losses.
    HddmW,
    /// FHDDM on 1 − error, the input of its paper.
    Fhddm,
    /// KSWIN on the losses.
    Kswin,
    /// e-SR on the recall and the precision of each class: what moves F1.
    Classes,
    /// e-SR on the losses of each segment.
    Segments,
    /// Population stability of the features.
    Psi,
    /// ADWIN on the mean of each feature, guarded against autocorrelation and season.
    Mean,
    /// e-SR on missing values and values outside the valid range, each feature.
    Quality,
    /// Population stability of the score and of the answered class.
    Prediction,
    /// QT-EWMA on all features together, or on the embedding.
    QtEwma,
    /// NEWMA on the same: a notice only, it promises no run length.
    Newma,
    /// Accuracy estimated without labels: a notice only.
    Cbpe,
}

impl Watcher {
    /// Every watcher, in the order in which they are asked.
    pub const ALL: [Self; 18] = [
        Self::ESr,
        Self::Adwin,
        Self::PageHinkley,
        Self::Ddm,
        Self::Eddm,
        Self::HddmA,
        Self::HddmW,
        Self::Fhddm,
        Self::Kswin,
        Self::Classes,
        Self::Segments,
        Self::Psi,
        Self::Mean,
        Self::Quality,
        Self::Prediction,
        Self::QtEwma,
        Self::Newma,
        Self::Cbpe,
    ];

    /// Name in settings and policies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ESr => "e_sr",
            Self::Adwin => "adwin",
            Self::PageHinkley => "page_hinkley",
            Self::Ddm => "ddm",
            Self::Eddm => "eddm",
            Self::HddmA => "hddm_a",
            Self::HddmW => "hddm_w",
            Self::Fhddm => "fhddm",
            Self::Kswin => "kswin",
            Self::Classes => "classes",
            Self::Segments => "segments",
            Self::Psi => "psi",
            Self::Mean => "mean",
            Self::Quality => "quality",
            Self::Prediction => "prediction",
            Self::QtEwma => "qt_ewma",
            Self::Newma => "newma",
            Self::Cbpe => "cbpe",
        }
    }
}

/// How drift is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchSettings {
    /// Tests that run. Default: e_sr, segments, psi, mean, quality, prediction and qt_ewma, which share one run length; the others are
    /// there for comparison and promise none. A test that is left out costs nothing.
    pub watchers: Vec<Watcher>,
    /// Rows to a false alarm of all of them together, on average: 100 to 1e9. Losses take half of it, in labelled rows; what looks at
    /// rows without labels takes the other half. Default 10,000; `hone drift calibrate` computes it from "1 per 30 days".
    pub run_length_rows: f64,
    /// How features and answers are compared with their baseline.
    pub columns: ColumnSettings,
    /// All features together, or the embedding.
    pub joint: JointSettings,
    /// Losses, segments, classes, and the estimate without labels.
    pub performance: PerformanceSettings,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            watchers: vec![
                Watcher::ESr,
                Watcher::Segments,
                Watcher::Psi,
                Watcher::Mean,
                Watcher::Quality,
                Watcher::Prediction,
                Watcher::QtEwma,
            ],
            run_length_rows: 10_000.0,
            columns: ColumnSettings::default(),
            joint: JointSettings::default(),
            performance: PerformanceSettings::default(),
        }
    }
}

/// Rows to a false alarm of each family of tests.
///
/// A family at run length `A/w` raises a share `w` of the false alarms of a run length `A`; the shares of the families that run sum
/// to 1. Losses take half, because they say that something is wrong and not only that something is different; the rest is split
/// evenly, and what runs alone takes everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RunLengths {
    pub(super) performance: f64,
    pub(super) features: f64,
    pub(super) answers: f64,
    pub(super) joint: f64,
}

impl WatchSettings {
    fn runs(&self, any: &[Watcher]) -> bool {
        any.iter().any(|watcher| self.watchers.contains(watcher))
    }

    pub(super) fn run_lengths(&self) -> RunLengths {
        let losses = self.runs(&[Watcher::ESr, Watcher::Classes, Watcher::Segments]);
        let families = [
            self.runs(&[Watcher::Psi, Watcher::Mean, Watcher::Quality]),
            self.runs(&[Watcher::Prediction]),
            self.runs(&[Watcher::QtEwma]),
        ];
        let others = families.into_iter().filter(|runs| *runs).count();
        let of_losses = if others == 0 { 1.0 } else { 2.0 };
        let of_others = others.max(1) as f64 * if losses { 2.0 } else { 1.0 };
        let all = self.run_length_rows.clamp(100.0, 1e9);
        let other = all * of_others;
        RunLengths { performance: all * of_losses, features: other, answers: other, joint: other }
    }

    pub(super) fn feature_plan(&self, run_length_rows: f64) -> ColumnPlan {
        let tests = [
            (Watcher::Psi, ColumnTest::Bins),
            (Watcher::Mean, ColumnTest::Mean),
            (Watcher::Quality, ColumnTest::Quality),
        ];
        let tests = tests.into_iter().filter(|(watcher, _)| self.watchers.contains(watcher)).map(|(_, test)| test);
        ColumnPlan { tests: tests.collect(), ..self.answer_plan(run_length_rows) }
    }

    /// Answers are never missing, and their mean moves with the inputs: their shares per bin are what tells.
    pub(super) fn answer_plan(&self, run_length_rows: f64) -> ColumnPlan {
        ColumnPlan { tests: vec![ColumnTest::Bins], run_length_rows, how: self.columns.clone() }
    }

    pub(super) fn joint_settings(&self) -> JointSettings {
        JointSettings { newma: self.joint.newma || self.watchers.contains(&Watcher::Newma), ..self.joint.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_the_families_that_run_sum_to_one() {
        use Watcher::{ESr, Mean, Prediction, Psi, QtEwma};
        for watchers in
            [vec![ESr], vec![Psi, Mean], vec![ESr, Psi], vec![Psi, QtEwma], vec![ESr, Psi, Prediction, QtEwma]]
        {
            let settings = WatchSettings { watchers, ..WatchSettings::default() };
            let lengths = settings.run_lengths();
            let mut share = 0.0;
            for (any, length) in [
                (&[ESr][..], lengths.performance),
                (&[Psi, Mean], lengths.features),
                (&[Prediction], lengths.answers),
                (&[QtEwma], lengths.joint),
            ] {
                share += if settings.runs(any) { settings.run_length_rows / length } else { 0.0 };
            }
            assert!((share - 1.0).abs() < 1e-12, "{:?}: {share}", settings.watchers);
        }
    }
}
