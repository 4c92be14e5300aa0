//! Which drift tests run, and how strict they are.
use serde::{Deserialize, Serialize};

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
    /// Which tests may raise an alarm. Default: e_sr and psi; ADWIN and Page-Hinkley are there for comparison.
    pub watchers: Vec<Watcher>,
    /// Labelled rows to a false alarm of `e_sr`, on average. Default 10,000.
    pub run_length_rows: f64,
    /// PSI above which a feature has drifted, if its chi-square p-value agrees. Default 0.25.
    pub psi: f64,
    /// Share of features that must have drifted. Default 0.5.
    pub share: f64,
    /// Rows in the window of `psi`; at least 200, or small samples raise false alarms. Default 200.
    pub window_rows: usize,
    /// Rows from one look of `psi` to the next. Default 64.
    pub every_rows: u32,
}

impl Default for WatchSettings {
    fn default() -> Self {
        Self {
            watchers: vec![Watcher::ESr, Watcher::Psi],
            run_length_rows: 10_000.0,
            psi: 0.25,
            share: 0.5,
            window_rows: 200,
            every_rows: 64,
        }
    }
}
