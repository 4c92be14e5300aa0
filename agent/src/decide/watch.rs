//! What is watched while a model serves: its inputs against a frozen baseline, its losses as labels come.
#![expect(clippy::cast_precision_loss, reason = "row counts stay far below 2^53")]
pub mod classes;
pub mod columns;
mod episode;
pub mod finding;
pub mod joint;
pub mod loss_test;
pub mod performance;
mod river_tests;
pub mod segments;
mod settings;
mod trace;
mod windows;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use trainer_core::model::{Model, Reference};
use trainer_core::schema::{FeatureKind, Schema};

use super::drift::adwin::{Adwin, AdwinSettings};
use super::drift::bins::{BinWindow, FrozenBins};
use super::drift::distances;
use super::drift::e_detector::{EDetector, EDetectorSettings, mean_upper};
use super::drift::holm::holm;
use super::drift::page_hinkley::{PageHinkley, PageHinkleySettings};
use super::drift::spec::AnyDetector;
use super::drift::{Detector, Direction};
pub use finding::Since;
pub use settings::{WatchSettings, Watcher};

/// Rows of production that a new baseline rests on, at most.
pub const BASELINE_ROWS_MAX: usize = 512;
/// Labels that calibrate the loss bound of a freshly promoted model.
const CALIBRATION_LABELS: u64 = 100;
/// Losses that a change point can be traced back over.
const ORDINALS: usize = 4_096;
/// Losses in the window that status shows.
const RECENT: usize = 500;

/// What an alarm says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noticed {
    /// Which test.
    pub watcher: Watcher,
    /// Its statistic.
    pub statistic: f64,
    /// What it was compared with.
    pub threshold: f64,
    /// Since which row: a label ordinal for losses, a sample number for features.
    pub since: Since,
    /// The features that drifted most, strongest first, with their PSI; empty for losses.
    pub features: Vec<(String, f64)>,
}

/// One feature against its baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FeatureWatch {
    name: String,
    /// No baseline could be made (every value missing): the feature is shown, never judged.
    bins: Option<FrozenBins>,
    window: Option<BinWindow>,
}

/// A test on the losses, and the loss it began at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct LossWatch {
    watcher: Watcher,
    detector: AnyDetector,
    /// Losses that had been taken before it began.
    first: u64,
}

/// The e-SR detector waits until it knows what loss is normal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Calibration {
    labels: u64,
    sum: f64,
    square: f64,
}

/// A feature as status shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureState {
    /// Feature name.
    pub name: String,
    /// PSI of the window, what it would be without drift, and the p-value of the counts; none before enough rows.
    pub psi: Option<(f64, f64, f64)>,
    /// Rows in the window.
    pub rows: u64,
    /// Missing values since the last baseline.
    pub missing: u64,
    /// Values outside the valid range since the last baseline.
    pub out_of_range: u64,
}

/// All drift state of the serving model: bounded, plain data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    settings: WatchSettings,
    schema: Schema,
    features: Vec<FeatureWatch>,
    losses: Vec<LossWatch>,
    calibration: Option<Calibration>,
    samples: u64,
    last_look: u64,
    recent: VecDeque<f32>,
    /// Losses taken since the tests began anew, and the label ordinals of the last of them.
    fed: u64,
    ordinals: VecDeque<u64>,
}

impl Watch {
    /// A watch for `model` from its own baseline and reference, before its first sample.
    #[must_use]
    pub fn new(model: &Model, settings: &WatchSettings) -> Self {
        let mut watch = Self {
            settings: settings.clone(),
            schema: model.schema().clone(),
            features: Vec::new(),
            losses: Vec::new(),
            calibration: None,
            samples: 0,
            last_look: 0,
            recent: VecDeque::new(),
            fed: 0,
            ordinals: VecDeque::new(),
        };
        watch.rebaseline(&model.baseline);
        watch.expect(Some(model.manifest.reference));
        watch
    }

    /// Freezes a new baseline from raw rows `[n, features]` and empties the windows.
    pub fn rebaseline(&mut self, rows: &[f32]) {
        let width = self.schema.features.len();
        let column = |index: usize| -> Vec<f32> { rows.iter().skip(index).step_by(width).copied().collect() };
        let of = |index: usize| {
            let feature = &self.schema.features[index];
            let bins = match &feature.kind {
                FeatureKind::Number => {
                    let range = feature.range.map(|[low, high]| (low, high));
                    range.map_or_else(
                        || FrozenBins::numbers(&column(index), 10),
                        |range| FrozenBins::numbers_within(&column(index), 10, range),
                    )
                }
                FeatureKind::Category { values } => FrozenBins::categories(&column(index), values.len()),
            };
            let bins = bins.ok();
            let window = bins.as_ref().map(|bins| BinWindow::new(bins, self.settings.window_rows));
            FeatureWatch { name: feature.name.clone(), bins, window }
        };
        self.features = (0..width).map(of).collect();
        self.last_look = self.samples;
    }

    /// Starts the loss tests anew. Without a reference the e-detector calibrates itself first.
    pub fn expect(&mut self, reference: Option<Reference>) {
        self.recent.clear();
        self.ordinals.clear();
        self.fed = 0;
        self.losses.clear();
        self.calibration = None;
        for watcher in self.settings.watchers.clone() {
            let detector = match watcher {
                Watcher::Adwin => Adwin::new(AdwinSettings::default()).map(AnyDetector::Adwin),
                Watcher::PageHinkley => {
                    let settings = PageHinkleySettings { mode: Direction::Up, ..PageHinkleySettings::default() };
                    PageHinkley::new(settings).map(AnyDetector::PageHinkley)
                }
                Watcher::ESr => match reference {
                    Some(reference) if reference.rows >= CALIBRATION_LABELS / 2 => self.e_detector(reference),
                    _ => {
                        self.calibration = Some(Calibration::default());
                        continue;
                    }
                },
                _ => continue,
            };
            // The settings used here lie within the detectors' documented ranges.
            if let Ok(detector) = detector {
                self.losses.push(LossWatch { watcher, detector, first: self.fed });
            }
        }
    }

    /// Takes other settings; if they differ, the loss tests start anew and the windows are emptied.
    pub fn adopt(&mut self, settings: &WatchSettings) {
        if self.settings != *settings {
            self.settings = settings.clone();
            for feature in &mut self.features {
                let window = |bins| BinWindow::new(bins, settings.window_rows);
                feature.window = feature.bins.as_ref().map(window);
            }
            self.expect(None);
        }
    }

    fn e_detector(&self, reference: Reference) -> Result<AnyDetector, super::drift::SettingError> {
        // At least the variance of a 2 % error rate: a short run without errors proves little.
        let p0 = mean_upper(reference.mean, reference.variance.max(0.02), reference.rows);
        let arl = self.settings.run_length_rows.max(2.0);
        EDetector::new(EDetectorSettings { p0, arl, ..EDetectorSettings::default() }).map(AnyDetector::EDetector)
    }

    /// Takes one raw row and, when it is time to look, returns the alarm it raises.
    pub fn sample(&mut self, row: &[f32]) -> Option<Noticed> {
        self.samples += 1;
        for (feature, value) in self.features.iter_mut().zip(row) {
            if let (Some(bins), Some(window)) = (&feature.bins, &mut feature.window) {
                window.record(bins.place(f64::from(*value)));
            }
        }
        let due = self.samples - self.last_look >= u64::from(self.settings.every_rows.max(1));
        if !due || !self.settings.watchers.contains(&Watcher::Psi) {
            return None;
        }
        self.last_look = self.samples;
        self.look()
    }

    fn look(&self) -> Option<Noticed> {
        let readings: Vec<_> = self
            .features
            .iter()
            .filter_map(|feature| {
                let (bins, window) = (feature.bins.as_ref()?, feature.window.as_ref()?);
                let seen = window.rows() + window.missing() + window.out_of_range();
                let full =
                    seen >= self.settings.window_rows as u64 && window.rows() >= distances::VERDICT_ROWS_MIN.min(seen);
                full.then(|| (feature, distances::psi(bins, window), seen))
            })
            .collect();
        if readings.is_empty() {
            return None;
        }
        // One false alarm per run length, spread over the looks within it.
        let level = f64::from(self.settings.every_rows) / self.settings.run_length_rows.max(2.0);
        let adjusted = holm(&readings.iter().map(|(_, reading, _)| reading.p).collect::<Vec<_>>());
        let drifted = readings.iter().zip(adjusted);
        let mut drifted: Vec<_> =
            drifted.filter(|((_, reading, _), p)| reading.psi > self.settings.psi && *p <= level).collect();
        let share = drifted.len() as f64 / self.features.len() as f64;
        if drifted.is_empty() || share < self.settings.share {
            return None;
        }
        drifted.sort_by(|a, b| b.0.1.psi.total_cmp(&a.0.1.psi));
        let window = self.settings.window_rows as u64;
        Some(Noticed {
            watcher: Watcher::Psi,
            statistic: share,
            threshold: self.settings.share,
            since: Since::Sample(self.samples.saturating_sub(window)),
            features: drifted
                .iter()
                .take(5)
                .map(|((feature, reading, _), _)| (feature.name.clone(), reading.psi))
                .collect(),
        })
    }

    /// Takes the loss of one answer, in [0, 1], when its label comes as number `label`; returns the alarm it raises.
    pub fn label(&mut self, loss: f64, label: u64) -> Option<Noticed> {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "losses lie in [0, 1] and are only shown")]
        self.recent.push_back(loss as f32);
        if self.ordinals.len() == ORDINALS {
            self.ordinals.pop_front();
        }
        self.ordinals.push_back(label);
        self.fed += 1;
        let mut noticed = None;
        for watch in &mut self.losses {
            let Some(alarm) = watch.detector.update(loss) else {
                continue;
            };
            if alarm.direction == Direction::Down || noticed.is_some() {
                continue;
            }
            noticed = Some(Noticed {
                watcher: watch.watcher,
                statistic: alarm.statistic,
                threshold: alarm.threshold,
                since: Since::Label(label_of(&self.ordinals, self.fed, watch.first + alarm.change_point)),
                features: Vec::new(),
            });
        }
        self.calibrate(loss);
        noticed
    }

    fn calibrate(&mut self, loss: f64) {
        let Some(calibration) = &mut self.calibration else {
            return;
        };
        calibration.labels += 1;
        calibration.sum += loss;
        calibration.square += loss * loss;
        if calibration.labels >= CALIBRATION_LABELS {
            let n = calibration.labels as f64;
            let mean = calibration.sum / n;
            let reference =
                Reference { rows: calibration.labels, mean, variance: (calibration.square / n - mean * mean).max(0.0) };
            self.calibration = None;
            if let Ok(detector) = self.e_detector(reference) {
                self.losses.push(LossWatch { watcher: Watcher::ESr, detector, first: self.fed });
            }
        }
    }

    /// Mean loss over the last labels (at most 500) and how many they are.
    #[must_use]
    pub fn recent_loss(&self) -> Option<(f64, usize)> {
        let sum: f64 = self.recent.iter().map(|loss| f64::from(*loss)).sum();
        (!self.recent.is_empty()).then(|| (sum / self.recent.len() as f64, self.recent.len()))
    }

    /// Every feature as it stands.
    #[must_use]
    pub fn features(&self) -> Vec<FeatureState> {
        let state = |feature: &FeatureWatch| {
            let window = feature.window.as_ref();
            let enough = window.is_some_and(|window| window.rows() >= distances::VERDICT_ROWS_MIN);
            let psi = feature.bins.as_ref().zip(window).filter(|_| enough).map(|(bins, window)| {
                let reading = distances::psi(bins, window);
                (reading.psi, reading.null_mean, reading.p)
            });
            FeatureState {
                name: feature.name.clone(),
                psi,
                rows: window.map_or(0, BinWindow::rows),
                missing: window.map_or(0, BinWindow::missing),
                out_of_range: window.map_or(0, BinWindow::out_of_range),
            }
        };
        self.features.iter().map(state).collect()
    }
}

/// The label ordinal of loss number `index` of `fed`, of which the last ones are remembered; the oldest known one before that.
fn label_of(ordinals: &VecDeque<u64>, fed: u64, index: u64) -> u64 {
    let oldest = fed - ordinals.len() as u64;
    let at = usize::try_from(index.saturating_sub(oldest)).unwrap_or(usize::MAX).min(ordinals.len().saturating_sub(1));
    ordinals.get(at).copied().unwrap_or(0)
}
