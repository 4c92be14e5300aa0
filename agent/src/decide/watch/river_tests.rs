//! The field's detectors on the loss: ADWIN, Page-Hinkley, DDM, EDDM, HDDM, FHDDM and KSWIN, for those who know them.
//!
//! None promises a run length; whoever names one chose its rate. Measured as fed here, 50 runs of 10,000 errors of mean .2, then .4
//! (`performance::tests::long`): false alarms per 10,000 at lag-1 correlation 0 | .5, median rows to find the .4, and how many of
//! 50 did within 2,000 at correlation 0:
//! ADWIN 0 | 0, 175, 50; Page-Hinkley .02 | 0, 258, 47; HDDM_A .02 | .02, 251, 50; HDDM_W .22 | .02, 81, 39; FHDDM .12 | 0, 111, 46;
//! KSWIN .22 | .54, 125, 23; DDM .48 | 7.8, 448, 36; EDDM 21 | 51, its delays mean nothing.
//!
//! All but two see block means once the losses follow their own past (see `drift::guard`; it keeps its first 64 rows to itself):
//! they take any value in [0, 1], so the mean of a block of errors is as good a value as an error. DDM and EDDM do not: DDM's
//! binomial spread and EDDM's distances between errors mean something for single errors only, so they get the errors one by one, and
//! nothing but errors. The guard costs delay where errors cluster: at correlation .5 ADWIN needs 773 rows.
use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Watcher;
use super::episode::Episode;
use super::finding::{Finding, Grade, Measure, Since};
use super::trace::Trace;
use crate::decide::drift::adwin::{Adwin, AdwinSettings};
use crate::decide::drift::ddm::{Ddm, DdmSettings};
use crate::decide::drift::eddm::{Eddm, EddmSettings};
use crate::decide::drift::fhddm::{Fhddm, FhddmSettings};
use crate::decide::drift::guard::Guarded;
use crate::decide::drift::hddm::{HddmA, HddmASettings, HddmW, HddmWSettings};
use crate::decide::drift::kswin::{Kswin, KswinSettings};
use crate::decide::drift::page_hinkley::{PageHinkley, PageHinkleySettings};
use crate::decide::drift::spec::AnyDetector;
use crate::decide::drift::{Alarm, Detector, Direction};

/// Losses that a change point can be traced back over.
const HISTORY_MAX: usize = 4_096;

/// A detector, behind the guard where it may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Fed {
    /// Every loss.
    Single(AnyDetector),
    /// Block means while the losses are autocorrelated.
    Guarded(Guarded<AnyDetector>),
}

/// One detector and what it said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RiverTest {
    watcher: Watcher,
    fed: Fed,
    episode: Episode,
}

/// All detectors of this kind on one loss.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct RiverTests {
    tests: Vec<RiverTest>,
    /// Losses taken, and label ordinal and value of the last of them.
    fed: u64,
    history: VecDeque<(u64, f32)>,
    trace: Trace,
}

/// Whether a test takes nothing but 0/1 losses.
pub(super) fn needs_errors(watcher: Watcher) -> bool {
    matches!(watcher, Watcher::Ddm | Watcher::Eddm)
}

impl RiverTests {
    /// Fresh detectors for those of `watchers` that are of this kind.
    pub(super) fn new(watchers: &[Watcher]) -> Self {
        let test = |watcher: &Watcher| {
            let detector = detector(*watcher)?;
            let fed = if needs_errors(*watcher) { Fed::Single(detector) } else { Fed::Guarded(Guarded::new(detector)) };
            Some(RiverTest { watcher: *watcher, fed, episode: Episode::default() })
        };
        Self { tests: watchers.iter().filter_map(test).collect(), ..Self::default() }
    }

    /// Takes a loss in [0, 1] of label `ordinal` and says what there is to say.
    pub(super) fn take(&mut self, loss: f64, ordinal: u64, quiet: u64, say: &mut Vec<Finding>) {
        if self.tests.is_empty() {
            return;
        }
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        #[expect(clippy::cast_possible_truncation, reason = "only compared before and after a change")]
        self.history.push_back((ordinal, loss as f32));
        self.fed += 1;
        self.trace.push(loss);
        for test in &mut self.tests {
            let alarm = match &mut test.fed {
                Fed::Single(detector) => detector.update(loss),
                Fed::Guarded(detector) => detector.update(loss),
            };
            let Some(alarm) = alarm.filter(|alarm| rises(alarm, &self.history, self.fed)) else {
                continue;
            };
            let since = label_of(&self.history, self.fed, alarm.change_point);
            let Some(since) = test.episode.admit(self.fed, since, quiet) else {
                continue;
            };
            say.push(Finding {
                watcher: test.watcher,
                measure: Measure::Loss,
                grade: Grade::Alarm,
                statistic: alarm.statistic,
                threshold: alarm.threshold,
                p: None,
                direction: Direction::Up,
                since: Since::Label(since),
                since_at: None,
                picture: self.trace.picture(),
            });
        }
    }

    /// The detectors that run.
    pub(super) fn watchers(&self) -> impl Iterator<Item = Watcher> + '_ {
        self.tests.iter().map(|test| test.watcher)
    }
}

fn detector(watcher: Watcher) -> Option<AnyDetector> {
    let up = Direction::Up;
    // The settings used here lie within the detectors' documented ranges.
    match watcher {
        Watcher::Adwin => Adwin::new(AdwinSettings::default()).map(AnyDetector::Adwin).ok(),
        Watcher::PageHinkley => PageHinkley::new(PageHinkleySettings { mode: up, ..PageHinkleySettings::default() })
            .map(AnyDetector::PageHinkley)
            .ok(),
        Watcher::Ddm => Ddm::new(DdmSettings::default()).map(AnyDetector::Ddm).ok(),
        Watcher::Eddm => Eddm::new(EddmSettings::default()).map(AnyDetector::Eddm).ok(),
        Watcher::HddmA => HddmA::new(HddmASettings::default()).map(AnyDetector::HddmA).ok(),
        Watcher::HddmW => HddmW::new(HddmWSettings::default()).map(AnyDetector::HddmW).ok(),
        Watcher::Fhddm => {
            Fhddm::new(FhddmSettings { watch: up, ..FhddmSettings::default() }).map(AnyDetector::Fhddm).ok()
        }
        Watcher::Kswin => Kswin::new(KswinSettings::default()).map(AnyDetector::Kswin).ok(),
        Watcher::ESr
        | Watcher::Classes
        | Watcher::Segments
        | Watcher::Psi
        | Watcher::Mean
        | Watcher::Quality
        | Watcher::Prediction
        | Watcher::QtEwma
        | Watcher::Newma
        | Watcher::Cbpe => None,
    }
}

/// Whether the loss rose; a falling one is good news. A test that sees no direction is asked for the means before and after.
fn rises(alarm: &Alarm, history: &VecDeque<(u64, f32)>, fed: u64) -> bool {
    match alarm.direction {
        Direction::Up => true,
        Direction::Down => false,
        Direction::Both => {
            let at = place(history, fed, alarm.change_point);
            let mean = |losses: &mut dyn Iterator<Item = &(u64, f32)>| {
                let (sum, n) = losses.fold((0.0, 0.0), |(sum, n), (_, loss)| (sum + f64::from(*loss), n + 1.0));
                sum / f64::max(n, 1.0)
            };
            mean(&mut history.range(at..)) > mean(&mut history.range(..at))
        }
    }
}

/// Where loss number `index` of `fed` stands among the last ones; the oldest known one for what is forgotten.
fn place(history: &VecDeque<(u64, f32)>, fed: u64, index: u64) -> usize {
    let oldest = fed - history.len() as u64;
    usize::try_from(index.saturating_sub(oldest)).unwrap_or(usize::MAX).min(history.len().saturating_sub(1))
}

/// The label ordinal of loss number `index` of `fed`.
fn label_of(history: &VecDeque<(u64, f32)>, fed: u64, index: u64) -> u64 {
    history.get(place(history, fed, index)).map_or(0, |(ordinal, _)| *ordinal)
}
