//! How a command fares: its life cycle and the reasons it may fail for.
//!
//! ```text
//! init → validating → scheduled → waiting_approval | waiting_budget | executing → successful | failed
//!                                      └── each may become the others ──┘
//!              every state that is not an end may go to failed: `cancel` is always accepted
//! ```
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::Extra;
use crate::names::{Clock, Micros};

/// Where a command stands; the data of a state lives in its variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Stored, nothing done yet.
    Init,
    /// Arguments and the present state are being checked.
    Validating,
    /// A person must agree.
    WaitingApproval,
    /// A budget says no for now; tried again at `retry_at`, if that is known.
    WaitingBudget { reason_code: ReasonCode, retry_at: Option<Micros> },
    /// Will start at `at`.
    Scheduled { at: Micros },
    /// Under way.
    Executing,
    /// Done.
    Successful,
    /// Will not be done.
    Failed { reason_code: ReasonCode, reason: String },
}

/// Why a command failed or waits, for machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    RejectedSignature,
    Replayed,
    Expired,
    NotAuthorized,
    Unsupported,
    Busy,
    BudgetPower,
    BudgetThermal,
    BudgetMemory,
    BudgetStorage,
    GateFailed,
    Timeout,
    Canceled,
    Internal,
    /// A reason of a newer version, kept as it came.
    #[serde(untagged)]
    Other(String),
}

impl Status {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Successful | Self::Failed { .. })
    }

    /// Whether `next` may follow. A state may repeat (a redelivered command republishes it), an end never changes.
    #[must_use]
    pub fn may_become(&self, next: &Self) -> bool {
        self == next || !self.is_final() && (next.is_final() || self.rank() <= next.rank())
    }

    /// Working and waiting share a rank: a training that a budget suspends waits again, and its candidate waits for a person
    /// before it is tried.
    fn rank(&self) -> u8 {
        match self {
            Self::Init => 0,
            Self::Validating => 1,
            Self::Scheduled { .. } => 2,
            Self::WaitingApproval | Self::WaitingBudget { .. } | Self::Executing => 3,
            Self::Successful | Self::Failed { .. } => 4,
        }
    }
}

/// The retained report on one command, at `up/cmd/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct CommandStatus {
    /// The command.
    pub id: Ulid,
    /// Its name, as the signer wrote it.
    pub cmd: String,
    /// Where it stands.
    pub status: Status,
    /// Since when.
    pub ts: Micros,
    /// How far `ts` can be trusted.
    pub clock: Clock,
    /// It fails if it still stands so then; none at an end.
    pub deadline: Option<Micros>,
    /// Fields of a newer version; a command's own result under `result`, its signers under `by`.
    pub extra: Extra,
}

/// A report whose fields contradict its state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// A failure or a refusal without its reason.
    #[error("status `{status}` needs `{field}`")]
    Missing { status: &'static str, field: &'static str },
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Init,
    Validating,
    WaitingApproval,
    WaitingBudget,
    Scheduled,
    Executing,
    Successful,
    Failed,
}

/// The report as it travels: flat, with the spellings of thin-edge, so that an adapter is a rename.
#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    id: Ulid,
    cmd: String,
    status: State,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason_code: Option<ReasonCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Micros>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_at: Option<Micros>,
    ts: Micros,
    clock: Clock,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<Micros>,
    #[serde(flatten)]
    extra: Extra,
}

impl TryFrom<Wire> for CommandStatus {
    type Error = StatusError;

    fn try_from(wire: Wire) -> Result<Self, StatusError> {
        let Wire { id, cmd, status, reason_code, reason, at, retry_at, ts, clock, deadline, extra } = wire;
        let missing = |status, field| StatusError::Missing { status, field };
        let status = match status {
            State::Init => Status::Init,
            State::Validating => Status::Validating,
            State::WaitingApproval => Status::WaitingApproval,
            State::WaitingBudget => {
                let reason_code = reason_code.ok_or(missing("waiting_budget", "reason_code"))?;
                Status::WaitingBudget { reason_code, retry_at }
            }
            State::Scheduled => Status::Scheduled { at: at.ok_or(missing("scheduled", "at"))? },
            State::Executing => Status::Executing,
            State::Successful => Status::Successful,
            State::Failed => {
                let reason_code = reason_code.ok_or(missing("failed", "reason_code"))?;
                Status::Failed { reason_code, reason: reason.ok_or(missing("failed", "reason"))? }
            }
        };
        Ok(Self { id, cmd, status, ts, clock, deadline, extra })
    }
}

impl From<CommandStatus> for Wire {
    fn from(report: CommandStatus) -> Self {
        let CommandStatus { id, cmd, status, ts, clock, deadline, extra } = report;
        let (mut reason_code, mut reason, mut at, mut retry_at) = (None, None, None, None);
        let status = match status {
            Status::Init => State::Init,
            Status::Validating => State::Validating,
            Status::WaitingApproval => State::WaitingApproval,
            Status::WaitingBudget { reason_code: code, retry_at: time } => {
                (reason_code, retry_at) = (Some(code), time);
                State::WaitingBudget
            }
            Status::Scheduled { at: time } => {
                at = Some(time);
                State::Scheduled
            }
            Status::Executing => State::Executing,
            Status::Successful => State::Successful,
            Status::Failed { reason_code: code, reason: text } => {
                (reason_code, reason) = (Some(code), Some(text));
                State::Failed
            }
        };
        Self { id, cmd, status, reason_code, reason, at, retry_at, ts, clock, deadline, extra }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    fn every_status() -> Vec<Status> {
        vec![
            Status::Init,
            Status::Validating,
            Status::WaitingApproval,
            Status::WaitingBudget { reason_code: ReasonCode::BudgetThermal, retry_at: Some(Micros(9)) },
            Status::Scheduled { at: Micros(8) },
            Status::Executing,
            Status::Successful,
            Status::Failed { reason_code: ReasonCode::GateFailed, reason: "2 points worse on the anchors".to_owned() },
        ]
    }

    fn report(status: Status) -> CommandStatus {
        let id = Ulid::from_parts(1_763_683_200_000, 7);
        let (ts, clock) = (Micros(1_763_683_200_000_000), Clock::Ntp);
        let deadline = (!status.is_final()).then_some(Micros(1_763_769_600_000_000));
        CommandStatus { id, cmd: "retrain.start".to_owned(), status, ts, clock, deadline, extra: Extra::new() }
    }

    #[test]
    fn every_report_survives_the_wire_and_is_the_golden_one() {
        let mut golden = String::new();
        for status in every_status() {
            let line = serde_json::to_string(&report(status.clone())).unwrap();
            assert_eq!(serde_json::from_str::<CommandStatus>(&line).unwrap(), report(status));
            golden.push_str(&line);
            golden.push('\n');
        }
        expect_file!["../golden/status.jsonl"].assert_eq(&golden);
    }

    #[test]
    fn what_a_newer_version_adds_is_kept() {
        let text = r#"{"id":"01JD4V3Q8N7Y5ZK2M6T9W0XABC","cmd":"x.y","status":"failed","reason_code":"moonphase","reason":"full","ts":1,"clock":"rtc","result":{"rows":3}}"#;
        let report: CommandStatus = serde_json::from_str(text).unwrap();
        let Status::Failed { reason_code, .. } = &report.status else { panic!("{report:?}") };
        assert_eq!(reason_code, &ReasonCode::Other("moonphase".to_owned()));
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
    }

    #[test]
    fn a_failure_without_a_reason_is_refused() {
        let text =
            r#"{"id":"01JD4V3Q8N7Y5ZK2M6T9W0XABC","cmd":"x","status":"failed","reason":"?","ts":1,"clock":"ntp"}"#;
        let error = serde_json::from_str::<CommandStatus>(text).unwrap_err();
        assert!(error.to_string().contains("`failed` needs `reason_code`"), "{error}");
    }

    #[test]
    fn a_command_only_moves_forward_and_can_always_be_canceled() {
        let canceled = Status::Failed { reason_code: ReasonCode::Canceled, reason: "by the operator".to_owned() };
        for status in every_status() {
            assert!(status.may_become(&status));
            assert_eq!(status.may_become(&canceled), !status.is_final());
            assert_eq!(status.may_become(&Status::Init), status == Status::Init);
        }
        let (waits, scheduled) = (every_status()[3].clone(), every_status()[4].clone());
        assert!(Status::WaitingApproval.may_become(&waits));
        assert!(Status::Executing.may_become(&waits), "a budget suspends it");
        assert!(!Status::Executing.may_become(&scheduled) && !waits.may_become(&Status::Validating));
    }
}
