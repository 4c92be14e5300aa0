//! When a device retrains, as one word a person can type.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::watch::Watcher;

/// When a device retrains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// Never.
    Static,
    /// Every so many labels.
    Fixed {
        /// Labels between two retrains.
        labels: u64,
    },
    /// After alarms, enough new labels, or by the clock.
    Trigger {
        /// Tests that count. None named: the configured ones, and new labels as a reason of their own.
        watchers: Vec<Watcher>,
    },
    /// When the expected gain exceeds the cost, and after alarms of the default tests.
    Value,
    /// Multi-horizon heads learn from every label.
    Continual,
}

/// A policy nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a policy: use static, fixed:LABELS, trigger:adwin, trigger:page_hinkley, trigger:e_sr, trigger:psi, \
     trigger:any, value or continual"
)]
pub struct PolicyError(pub String);

impl Policy {
    /// Whether enough new labels are a reason of their own. A policy that names its tests has no other reason but the clock.
    #[must_use]
    pub fn counts_labels(&self) -> bool {
        matches!(self, Self::Trigger { watchers } if watchers.is_empty())
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let refuse = || PolicyError(text.to_owned());
        match text.split_once(':') {
            None if text == "static" => Ok(Self::Static),
            None if text == "value" => Ok(Self::Value),
            None if text == "continual" => Ok(Self::Continual),
            Some(("fixed", labels)) => {
                let labels = labels.parse().ok().filter(|labels| (1..=1_000_000_000).contains(labels));
                Ok(Self::Fixed { labels: labels.ok_or_else(refuse)? })
            }
            Some(("trigger", "any")) => Ok(Self::Trigger { watchers: Vec::new() }),
            Some(("trigger", names)) => {
                let one =
                    |name: &str| Watcher::ALL.into_iter().find(|watcher| watcher.name() == name).ok_or_else(refuse);
                Ok(Self::Trigger { watchers: names.split('+').map(one).collect::<Result<_, _>>()? })
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static => write!(f, "static"),
            Self::Fixed { labels } => write!(f, "fixed:{labels}"),
            Self::Trigger { watchers } if watchers.is_empty() => write!(f, "trigger:any"),
            Self::Trigger { watchers } => {
                let names: Vec<_> = watchers.iter().map(|watcher| watcher.name()).collect();
                write!(f, "trigger:{}", names.join("+"))
            }
            Self::Value => write!(f, "value"),
            Self::Continual => write!(f, "continual"),
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_printed_as_it_is_typed() {
        for text in ["static", "fixed:222", "trigger:adwin", "trigger:psi+adwin", "trigger:any", "value", "continual"] {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        for text in ["", "fixed", "fixed:0", "fixed:x", "trigger:", "trigger:adwni", "values"] {
            let error = text.parse::<Policy>().unwrap_err().to_string();
            assert!(error.contains("trigger:adwin"), "{error}");
        }
    }
}
