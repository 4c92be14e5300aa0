//! Detectors by name: `adwin:delta=0.002,clock=1` becomes a detector that can be stored, with river's parameter names.
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::adwin::{Adwin, AdwinSettings};
use super::ddm::{Ddm, DdmSettings};
use super::e_detector::{EDetector, EDetectorSettings, Grid};
use super::eddm::{Eddm, EddmSettings};
use super::fhddm::{Fhddm, FhddmSettings};
use super::hddm::{HddmA, HddmASettings, HddmW, HddmWSettings};
use super::kswin::{Kswin, KswinSettings};
use super::page_hinkley::{PageHinkley, PageHinkleySettings};
use super::{Alarm, Detector, Direction, SettingError};

/// Names a specification may begin with.
pub const DETECTORS: [&str; 9] =
    ["adwin", "page_hinkley", "e_detector", "ddm", "eddm", "hddm_a", "hddm_w", "fhddm", "kswin"];

/// A specification text that names no detector we can build.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// The part before the colon is not a detector.
    #[error("unknown detector `{name}`; known are {}", DETECTORS.join(", "))]
    UnknownDetector {
        /// What was given.
        name: String,
    },
    /// The detector has no such parameter.
    #[error("{detector} has no parameter `{parameter}`; it has {}", known.join(", "))]
    UnknownParameter {
        /// Name of the detector.
        detector: &'static str,
        /// What was given.
        parameter: String,
        /// The parameters it has.
        known: &'static [&'static str],
    },
    /// A part that is not `name=value`.
    #[error("{detector}: `{part}` is not `name=value`; separate parameters by commas")]
    NotAPair {
        /// Name of the detector.
        detector: &'static str,
        /// What was given.
        part: String,
    },
    /// A parameter given twice.
    #[error("{detector}: `{parameter}` is given twice; keep one")]
    Repeated {
        /// Name of the detector.
        detector: &'static str,
        /// The parameter.
        parameter: String,
    },
    /// A value of the wrong kind.
    #[error("{detector}: `{parameter}` is `{value}`; it must be {expected}")]
    Value {
        /// Name of the detector.
        detector: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// What would be read.
        expected: &'static str,
    },
    /// A value of the right kind, out of range.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// Any of the detectors of one stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnyDetector {
    /// See [`Adwin`].
    Adwin(Adwin),
    /// See [`PageHinkley`].
    PageHinkley(PageHinkley),
    /// See [`EDetector`].
    EDetector(EDetector),
    /// See [`Ddm`].
    Ddm(Ddm),
    /// See [`Eddm`].
    Eddm(Eddm),
    /// See [`HddmA`].
    HddmA(HddmA),
    /// See [`HddmW`].
    HddmW(HddmW),
    /// See [`Fhddm`].
    Fhddm(Fhddm),
    /// See [`Kswin`].
    Kswin(Kswin),
}

impl AnyDetector {
    /// The name a specification of it begins with.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Adwin(_) => "adwin",
            Self::PageHinkley(_) => "page_hinkley",
            Self::EDetector(_) => "e_detector",
            Self::Ddm(_) => "ddm",
            Self::Eddm(_) => "eddm",
            Self::HddmA(_) => "hddm_a",
            Self::HddmW(_) => "hddm_w",
            Self::Fhddm(_) => "fhddm",
            Self::Kswin(_) => "kswin",
        }
    }
}

impl Detector for AnyDetector {
    fn update(&mut self, x: f64) -> Option<Alarm> {
        match self {
            Self::Adwin(detector) => detector.update(x),
            Self::PageHinkley(detector) => detector.update(x),
            Self::EDetector(detector) => detector.update(x),
            Self::Ddm(detector) => detector.update(x),
            Self::Eddm(detector) => detector.update(x),
            Self::HddmA(detector) => detector.update(x),
            Self::HddmW(detector) => detector.update(x),
            Self::Fhddm(detector) => detector.update(x),
            Self::Kswin(detector) => detector.update(x),
        }
    }

    fn is_warning(&self) -> bool {
        match self {
            Self::Adwin(detector) => detector.is_warning(),
            Self::PageHinkley(detector) => detector.is_warning(),
            Self::EDetector(detector) => detector.is_warning(),
            Self::Ddm(detector) => detector.is_warning(),
            Self::Eddm(detector) => detector.is_warning(),
            Self::HddmA(detector) => detector.is_warning(),
            Self::HddmW(detector) => detector.is_warning(),
            Self::Fhddm(detector) => detector.is_warning(),
            Self::Kswin(detector) => detector.is_warning(),
        }
    }
}

impl FromStr for AnyDetector {
    type Err = SpecError;

    /// Reads `name` or `name:parameter=value,…`; what is not given keeps its default.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, rest) = text.trim().split_once(':').unwrap_or((text.trim(), ""));
        match name.trim() {
            "adwin" => adwin(rest),
            "page_hinkley" => page_hinkley(rest),
            "e_detector" => e_detector(rest),
            "ddm" => ddm(rest),
            "eddm" => eddm(rest),
            "hddm_a" => hddm_a(rest),
            "hddm_w" => hddm_w(rest),
            "fhddm" => fhddm(rest),
            "kswin" => kswin(rest),
            other => Err(SpecError::UnknownDetector { name: other.chars().take(80).collect() }),
        }
    }
}

fn adwin(text: &str) -> Result<AnyDetector, SpecError> {
    let known = &["delta", "clock", "max_buckets", "min_window_length", "grace_period"];
    let given = Parameters::read("adwin", known, text)?;
    let mut settings = AdwinSettings::default();
    given.set("delta", &mut settings.delta)?;
    given.set("clock", &mut settings.clock)?;
    given.set("max_buckets", &mut settings.max_buckets)?;
    given.set("min_window_length", &mut settings.min_window_length)?;
    given.set("grace_period", &mut settings.grace_period)?;
    Ok(AnyDetector::Adwin(Adwin::new(settings)?))
}

fn page_hinkley(text: &str) -> Result<AnyDetector, SpecError> {
    let known = &["min_instances", "delta", "threshold", "alpha", "mode"];
    let given = Parameters::read("page_hinkley", known, text)?;
    let mut settings = PageHinkleySettings::default();
    given.set("min_instances", &mut settings.min_instances)?;
    given.set("delta", &mut settings.delta)?;
    given.set("threshold", &mut settings.threshold)?;
    given.set("alpha", &mut settings.alpha)?;
    given.set("mode", &mut settings.mode)?;
    Ok(AnyDetector::PageHinkley(PageHinkley::new(settings)?))
}

fn e_detector(text: &str) -> Result<AnyDetector, SpecError> {
    let given = Parameters::read("e_detector", &["p0", "arl", "direction", "grid"], text)?;
    let mut settings = EDetectorSettings::default();
    given.set("p0", &mut settings.p0)?;
    given.set("arl", &mut settings.arl)?;
    given.set("direction", &mut settings.direction)?;
    given.set("grid", &mut settings.grid)?;
    Ok(AnyDetector::EDetector(EDetector::new(settings)?))
}

fn ddm(text: &str) -> Result<AnyDetector, SpecError> {
    let given = Parameters::read("ddm", &["warm_start", "warning_threshold", "drift_threshold"], text)?;
    let mut settings = DdmSettings::default();
    given.set("warm_start", &mut settings.warm_start)?;
    given.set("warning_threshold", &mut settings.warning_threshold)?;
    given.set("drift_threshold", &mut settings.drift_threshold)?;
    Ok(AnyDetector::Ddm(Ddm::new(settings)?))
}

fn eddm(text: &str) -> Result<AnyDetector, SpecError> {
    let given = Parameters::read("eddm", &["warm_start", "alpha", "beta"], text)?;
    let mut settings = EddmSettings::default();
    given.set("warm_start", &mut settings.warm_start)?;
    given.set("alpha", &mut settings.alpha)?;
    given.set("beta", &mut settings.beta)?;
    Ok(AnyDetector::Eddm(Eddm::new(settings)?))
}

fn hddm_a(text: &str) -> Result<AnyDetector, SpecError> {
    let given =
        Parameters::read("hddm_a", &["drift_confidence", "warning_confidence", "two_sided", "two_sided_test"], text)?;
    let mut settings = HddmASettings::default();
    given.set("drift_confidence", &mut settings.drift_confidence)?;
    given.set("warning_confidence", &mut settings.warning_confidence)?;
    given.set("two_sided", &mut settings.two_sided)?;
    given.set("two_sided_test", &mut settings.two_sided)?;
    Ok(AnyDetector::HddmA(HddmA::new(settings)?))
}

fn hddm_w(text: &str) -> Result<AnyDetector, SpecError> {
    let known = &["drift_confidence", "warning_confidence", "lambda_val", "two_sided", "two_sided_test"];
    let given = Parameters::read("hddm_w", known, text)?;
    let mut settings = HddmWSettings::default();
    given.set("drift_confidence", &mut settings.drift_confidence)?;
    given.set("warning_confidence", &mut settings.warning_confidence)?;
    given.set("lambda_val", &mut settings.lambda_val)?;
    given.set("two_sided", &mut settings.two_sided)?;
    given.set("two_sided_test", &mut settings.two_sided)?;
    Ok(AnyDetector::HddmW(HddmW::new(settings)?))
}

fn fhddm(text: &str) -> Result<AnyDetector, SpecError> {
    let known = &["sliding_window_size", "confidence_level", "short_window_size", "watch"];
    let given = Parameters::read("fhddm", known, text)?;
    let mut settings = FhddmSettings::default();
    given.set("sliding_window_size", &mut settings.sliding_window_size)?;
    given.set("confidence_level", &mut settings.confidence_level)?;
    given.set("short_window_size", &mut settings.short_window_size)?;
    given.set("watch", &mut settings.watch)?;
    Ok(AnyDetector::Fhddm(Fhddm::new(settings)?))
}

fn kswin(text: &str) -> Result<AnyDetector, SpecError> {
    let given = Parameters::read("kswin", &["alpha", "window_size", "stat_size", "seed"], text)?;
    let mut settings = KswinSettings::default();
    given.set("alpha", &mut settings.alpha)?;
    given.set("window_size", &mut settings.window_size)?;
    given.set("stat_size", &mut settings.stat_size)?;
    given.set("seed", &mut settings.seed)?;
    Ok(AnyDetector::Kswin(Kswin::new(settings)?))
}

/// The `name=value` pairs of one specification, all of them known and none twice.
struct Parameters<'text> {
    detector: &'static str,
    pairs: Vec<(&'text str, &'text str)>,
}

impl<'text> Parameters<'text> {
    fn read(detector: &'static str, known: &'static [&'static str], text: &'text str) -> Result<Self, SpecError> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(SpecError::NotAPair { detector, part: part.to_owned() });
            };
            let (name, value) = (name.trim(), value.trim());
            if !known.contains(&name) {
                return Err(SpecError::UnknownParameter { detector, parameter: name.to_owned(), known });
            }
            if pairs.iter().any(|(earlier, _)| *earlier == name) {
                return Err(SpecError::Repeated { detector, parameter: name.to_owned() });
            }
            pairs.push((name, value));
        }
        Ok(Self { detector, pairs })
    }

    /// Replaces `target` if the parameter is given.
    fn set<T: Readable>(&self, parameter: &'static str, target: &mut T) -> Result<(), SpecError> {
        let Some((_, value)) = self.pairs.iter().find(|(name, _)| *name == parameter) else {
            return Ok(());
        };
        let refuse = || SpecError::Value {
            detector: self.detector,
            parameter,
            value: (*value).to_owned(),
            expected: T::EXPECTED,
        };
        *target = T::read(value).ok_or_else(refuse)?;
        Ok(())
    }
}

/// A kind of value a specification may hold.
trait Readable: Sized {
    const EXPECTED: &'static str;
    fn read(text: &str) -> Option<Self>;
}

impl Readable for f64 {
    const EXPECTED: &'static str = "a number";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Readable for u32 {
    const EXPECTED: &'static str = "a whole number from 0 on";
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Readable for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(text: &str) -> Option<Self> {
        match text {
            "true" | "True" => Some(true),
            "false" | "False" => Some(false),
            _ => None,
        }
    }
}

impl Readable for Direction {
    const EXPECTED: &'static str = "up, down or both";
    fn read(text: &str) -> Option<Self> {
        match text {
            "up" => Some(Self::Up),
            "down" => Some(Self::Down),
            "both" => Some(Self::Both),
            _ => None,
        }
    }
}

impl Readable for Grid {
    const EXPECTED: &'static str = "geometric or linear";
    fn read(text: &str) -> Option<Self> {
        match text {
            "geometric" => Some(Self::Geometric),
            "linear" => Some(Self::Linear),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        text.parse::<AnyDetector>().unwrap_err().to_string()
    }

    #[test]
    fn every_known_name_builds_the_detector_of_that_name() {
        for name in DETECTORS {
            let detector: AnyDetector = name.parse().unwrap();
            assert_eq!(detector.name(), name);
            assert_eq!(format!("{name}:").parse(), Ok(detector));
        }
    }

    #[test]
    fn parameters_reach_the_settings() {
        let expected = Adwin::new(AdwinSettings { delta: 0.05, clock: 1, ..AdwinSettings::default() }).unwrap();
        assert_eq!(" adwin: delta = 0.05 , clock=1".parse(), Ok(AnyDetector::Adwin(expected)));
        let expected = HddmA::new(HddmASettings { two_sided: true, ..HddmASettings::default() }).unwrap();
        assert_eq!("hddm_a:two_sided=True".parse(), Ok(AnyDetector::HddmA(expected)));
    }

    #[test]
    fn a_wrong_text_is_answered_with_what_would_be_right() {
        assert_eq!(
            refusal("adwine"),
            "unknown detector `adwine`; known are adwin, page_hinkley, e_detector, ddm, eddm, hddm_a, hddm_w, fhddm, kswin"
        );
        assert_eq!(
            refusal("adwin:detla=0.1"),
            "adwin has no parameter `detla`; it has delta, clock, max_buckets, min_window_length, grace_period"
        );
        assert_eq!(refusal("ddm:30"), "ddm: `30` is not `name=value`; separate parameters by commas");
        assert_eq!(refusal("ddm:warm_start=1,warm_start=2"), "ddm: `warm_start` is given twice; keep one");
        assert_eq!(refusal("page_hinkley:mode=left"), "page_hinkley: `mode` is `left`; it must be up, down or both");
        assert_eq!(refusal("adwin:delta=2"), "adwin: `delta` is 2; it must be between 0 and 1");
    }
}
