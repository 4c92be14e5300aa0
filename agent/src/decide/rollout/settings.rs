//! What the rollout can be told: how far a candidate must go, who is asked, how much evidence is enough.
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a candidate that passed the gate becomes champion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// At once.
    Gate,
    /// Shadow, then the stages of a canary.
    #[default]
    Full,
    /// Shadow, then half of the sources for a fixed period, decided at its end.
    Ab,
}

/// Who approves a candidate that passed the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Approval {
    /// Nobody is asked.
    #[default]
    Auto,
    /// A person; unanswered until the trial's time is over, it is rejected.
    Ask,
    /// A person, and after `wait` without an answer this is the answer.
    AskAfter {
        /// How long to wait.
        wait: Duration,
        /// What silence means.
        silence: Silence,
    },
}

/// What an unanswered question means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Silence {
    /// Yes.
    Approve,
    /// No.
    Reject,
}

/// An approval nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no approval: use auto, ask, or ask-after:24h:approve and the like (s, m, h or d; approve or reject)")]
pub struct ApprovalError(String);

/// How a candidate that passed the gate is tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutSettings {
    /// `full` (shadow, canary), `ab` (shadow, then half of the sources for `ab_h`) or `gate` (serves once the gate has passed).
    /// Default `full`: a gate on 20 rows is passed by chance now and then, the live tests are not.
    pub mode: Mode,
    /// Who is asked first: `auto`, `ask`, or `ask-after:24h:approve` and the like. Default `auto`.
    pub approval: Approval,
    /// Percent of the samples that the challenger answers, stage by stage after the shadow. Ascending, 1 to 100, at most 8.
    /// Default 1, 10, 50, 100.
    pub stages: Vec<u8>,
    /// Samples that a stage lasts at least: seen in the shadow, answered by the challenger in the canary. 1 to 100,000,
    /// default 50.
    pub dwell_rows: u64,
    /// Seconds that a stage lasts at least. 0 to 2,592,000, default 600.
    pub dwell_s: u64,
    /// Chance of a wrong end of a trial, for each of both tests. 0.0001 to 0.5, default 0.05: evidence of 20 to 1 decides. Later
    /// trials against the same champion may err less.
    pub alpha: f64,
    /// How much worse the challenger may be, in loss: 0.02 is two points of accuracy. 0.001 to 0.5, default 0.02.
    pub margin: f64,
    /// Samples that both answer, at most; a trial that is undecided then ends in the champion. 50 to 1,000,000, default 3000: an
    /// equal model needs some 1,200.
    pub samples_max: u64,
    /// Days that a trial or a question lasts at most, while the agent runs. 0.001 to 365, default 30.
    pub days_max: f64,
    /// Hours after which a missing label counts against the challenger. 0.001 to 8,760, default 168: labels of a week.
    pub label_wait_h: f64,
    /// Hours of an A/B period. 0.001 to 8,760, default 168.
    pub ab_h: f64,
    /// Samples after a promotion on which the former champion looks on; if it proves better, it serves again. 0 to 1,000,000,
    /// default 3000.
    pub watch_samples: u64,
    /// How often the challenger may disagree: this many times as on the held-out rows, and two points more. 1 to 100, default 3.
    pub disagreement_factor: f64,
    /// Most that the challenger's slowest answers (p95) may take, in those of the champion. 1 to 100, default 1.5.
    pub latency_factor: f64,
    /// A difference in microseconds that nobody minds, whatever the factor. 0 to 1,000,000, default 200.
    pub latency_floor_us: f64,
}

impl Default for RolloutSettings {
    fn default() -> Self {
        Self {
            mode: Mode::Full,
            approval: Approval::Auto,
            stages: vec![1, 10, 50, 100],
            dwell_rows: 50,
            dwell_s: 600,
            alpha: 0.05,
            margin: 0.02,
            samples_max: 3_000,
            days_max: 30.0,
            label_wait_h: 168.0,
            ab_h: 168.0,
            watch_samples: 3_000,
            disagreement_factor: 3.0,
            latency_factor: 1.5,
            latency_floor_us: 200.0,
        }
    }
}

impl RolloutSettings {
    /// The longest a trial or a question may last.
    #[must_use]
    pub fn longest(&self) -> Duration {
        seconds(self.days_max * 86_400.0)
    }

    /// How long a label may take.
    #[must_use]
    pub fn label_wait(&self) -> Duration {
        seconds(self.label_wait_h * 3_600.0)
    }

    /// How long an A/B period lasts.
    #[must_use]
    pub fn ab(&self) -> Duration {
        seconds(self.ab_h * 3_600.0)
    }

    /// The first setting outside its range: its name, its value, what it must be.
    #[must_use]
    pub fn out_of_range(&self) -> Option<(&'static str, String, &'static str)> {
        let stages = !self.stages.is_empty()
            && self.stages.len() <= 8
            && self.stages.iter().all(|share| (1..=100).contains(share))
            && self.stages.is_sorted_by(|one, next| one < next);
        let within = |value: f64, low: f64, high: f64| (low..=high).contains(&value);
        [
            (stages, "stages", format!("{:?}", self.stages), "1 to 8 ascending numbers from 1 to 100"),
            ((1..=100_000).contains(&self.dwell_rows), "dwell_rows", self.dwell_rows.to_string(), "1 to 100000"),
            (self.dwell_s <= 2_592_000, "dwell_s", self.dwell_s.to_string(), "0 to 2592000"),
            (within(self.alpha, 1e-4, 0.5), "alpha", self.alpha.to_string(), "0.0001 to 0.5"),
            (within(self.margin, 0.001, 0.5), "margin", self.margin.to_string(), "0.001 to 0.5"),
            (
                (50..=1_000_000).contains(&self.samples_max),
                "samples_max",
                self.samples_max.to_string(),
                "50 to 1000000",
            ),
            (within(self.days_max, 0.001, 365.0), "days_max", self.days_max.to_string(), "0.001 to 365"),
            (within(self.label_wait_h, 0.001, 8_760.0), "label_wait_h", self.label_wait_h.to_string(), "0.001 to 8760"),
            (within(self.ab_h, 0.001, 8_760.0), "ab_h", self.ab_h.to_string(), "0.001 to 8760"),
            (self.watch_samples <= 1_000_000, "watch_samples", self.watch_samples.to_string(), "0 to 1000000"),
            (
                within(self.disagreement_factor, 1.0, 100.0),
                "disagreement_factor",
                self.disagreement_factor.to_string(),
                "1 to 100",
            ),
            (within(self.latency_factor, 1.0, 100.0), "latency_factor", self.latency_factor.to_string(), "1 to 100"),
            (
                within(self.latency_floor_us, 0.0, 1e6),
                "latency_floor_us",
                self.latency_floor_us.to_string(),
                "0 to 1000000",
            ),
        ]
        .into_iter()
        .find_map(|(good, name, value, range)| (!good).then_some((name, value, range)))
    }
}

fn seconds(count: f64) -> Duration {
    Duration::try_from_secs_f64(count).unwrap_or(Duration::MAX)
}

impl FromStr for Approval {
    type Err = ApprovalError;

    fn from_str(text: &str) -> Result<Self, ApprovalError> {
        let refuse = || ApprovalError(text.to_owned());
        match text {
            "auto" => return Ok(Self::Auto),
            "ask" => return Ok(Self::Ask),
            _ => {}
        }
        let (span, silence) =
            text.strip_prefix("ask-after:").and_then(|rest| rest.split_once(':')).ok_or_else(refuse)?;
        let silence = match silence {
            "approve" => Silence::Approve,
            "reject" => Silence::Reject,
            _ => return Err(refuse()),
        };
        let (count, unit) = span.split_at_checked(span.len().saturating_sub(1)).ok_or_else(refuse)?;
        let unit_s = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(refuse()),
        };
        let count: u64 = count.parse().ok().filter(|count| (1..=100_000).contains(count)).ok_or_else(refuse)?;
        Ok(Self::AskAfter { wait: Duration::from_secs(count * unit_s), silence })
    }
}

impl fmt::Display for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Ask => write!(f, "ask"),
            Self::AskAfter { wait, silence } => {
                let silence = match silence {
                    Silence::Approve => "approve",
                    Silence::Reject => "reject",
                };
                let seconds = wait.as_secs();
                let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
                let (unit_s, unit) =
                    units.into_iter().find(|(unit_s, _)| seconds.is_multiple_of(*unit_s)).unwrap_or((1, "s"));
                write!(f, "ask-after:{}{unit}:{silence}", seconds / unit_s)
            }
        }
    }
}

impl TryFrom<String> for Approval {
    type Error = ApprovalError;

    fn try_from(text: String) -> Result<Self, ApprovalError> {
        text.parse()
    }
}

impl From<Approval> for String {
    fn from(approval: Approval) -> Self {
        approval.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_approval_is_printed_as_it_is_typed() {
        for text in ["auto", "ask", "ask-after:24h:approve", "ask-after:7d:reject", "ask-after:90s:approve"] {
            let approval: Approval = text.parse().unwrap();
            assert_eq!(approval.to_string().parse::<Approval>(), Ok(approval));
        }
        assert_eq!("ask-after:36h:reject".parse::<Approval>().unwrap().to_string(), "ask-after:36h:reject");
        for text in [
            "",
            "yes",
            "ask-after",
            "ask-after:24h",
            "ask-after:h:approve",
            "ask-after:0s:approve",
            "ask-after:1w:approve",
            "ask-after:1ä:approve",
        ] {
            assert!(text.parse::<Approval>().unwrap_err().to_string().contains("ask-after:24h:approve"), "{text}");
        }
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        assert_eq!(RolloutSettings::default().out_of_range(), None);
        let named = |settings: RolloutSettings| settings.out_of_range().unwrap().0;
        assert_eq!(named(RolloutSettings { stages: vec![10, 5], ..RolloutSettings::default() }), "stages");
        assert_eq!(named(RolloutSettings { alpha: f64::NAN, ..RolloutSettings::default() }), "alpha");
        assert_eq!(named(RolloutSettings { samples_max: 1, ..RolloutSettings::default() }), "samples_max");
    }
}
