//! Which drift tests run, and how strict they are.
use serde::{Deserialize, Serialize};

/// Which tests may raise an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watcher {
    /// ADWIN on the losses.
    Adwin,
    /// Page-Hinkley on the losses.
    PageHinkley,
    /// e-SR with the e-CUSUM change point on the losses.
    ESr,
    /// Population stability of the features.
    Psi,
}

impl Watcher {
    /// Every watcher, in the order in which they are asked.
    pub const ALL: [Self; 4] = [Self::Adwin, Self::PageHinkley, Self::ESr, Self::Psi];

    /// Name in settings and policies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Adwin => "adwin",
            Self::PageHinkley => "page_hinkley",
            Self::ESr => "e_sr",
            Self::Psi => "psi",
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
