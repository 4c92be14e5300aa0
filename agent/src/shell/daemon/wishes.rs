//! What a signed command asks for, in the loop's own words, or why this device does not do it.
use fleet_protocol::command;
use fleet_protocol::status::ReasonCode;
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Strategy;

use super::keeper::Keeper;
use super::orders::TaskKind;
use super::purge;
use super::shared::Command;
use crate::decide::rollout;
use crate::decide::time::Timestamp;
use crate::shell::clock;
use crate::shell::models::Door;
use crate::shell::mqtt::{brought_signature, installed};
use crate::shell::store::StoreError;

/// What this agent carries out; everything else is answered with `unsupported`.
pub const SUPPORTED: [&str; 15] = [
    "model.install",
    "model.promote",
    "model.rollback",
    "model.approve",
    "model.reject",
    "canary.hold",
    "canary.abort",
    "retrain.start",
    "retrain.cancel",
    "drift.rebaseline",
    "labels.push",
    "data.export",
    "data.purge",
    "agent.selftest",
    "agent.restart",
];

/// What a wish comes to.
pub(super) enum Step {
    /// The loop does it now, and a run of it may take its time.
    Loop(Command),
    /// The link does it.
    Task(TaskKind),
    /// There is nothing to do.
    Done,
}

pub(super) type Refused = (ReasonCode, String);

impl Keeper {
    /// Refuses an answer about another model than the one that is asked about or tried: it was given too late.
    fn is_tried(&self, digest: Digest) -> Result<(), Refused> {
        let candidate = self.saved.as_ref().and_then(|saved| saved.cycle.rollout().candidate());
        match candidate {
            Some(candidate) if candidate.digest == digest => Ok(()),
            _ => {
                Err((ReasonCode::Other("not_tried".to_owned()), format!("{} is not being tried here", digest.short())))
            }
        }
    }

    /// Whether it is on trial and a person holds it at its share, until somebody says what is to become of it.
    fn is_held(&self, digest: Digest) -> bool {
        let Some(saved) = &self.saved else { return false };
        let view = saved.cycle.rollout().view(self.warden.now());
        matches!(view, rollout::View::Trial { challenger, held: Some(_), .. } if challenger == digest)
    }

    /// What a command comes to here; `by` is who signed it.
    pub(super) fn step_of(&self, command: command::Command, by: &str) -> Result<Step, Refused> {
        let cmd = command.name();
        let unsupported = |what: &str| Err((ReasonCode::Unsupported, what.to_owned()));
        let digest_of = |digest: &fleet_protocol::names::Digest| Digest::from(*digest.as_bytes());
        // These need no model.
        match command {
            command::Command::ModelInstall { digest, size_bytes, .. } => {
                self.may_change()?;
                return Ok(Step::Task(TaskKind::Install { digest: digest_of(&digest), size_bytes }));
            }
            command::Command::DataExport { stream, since, until, rows_max } => {
                return Ok(Step::Task(TaskKind::Export { stream, since, until, rows_max }));
            }
            command::Command::DataPurge { since, until } => {
                let (since, until) = (Timestamp(since.0), Timestamp(until.0));
                self.may_purge(since, until)?;
                let (snapshots, by) = (purge::snapshots(self.snapshots.list()), by.to_owned());
                return Ok(Step::Task(TaskKind::Purge { since, until, snapshots, by }));
            }
            command::Command::AgentRestart {} => return Ok(Step::Task(TaskKind::Restart)),
            _ => {}
        }
        let champion = self.saved.as_ref().map(|saved| saved.cycle.models());
        let Some((champion, previous, _)) = champion else {
            // The first model of a device comes over the fleet as well.
            if let command::Command::ModelPromote { digest, .. } = &command {
                return self.bundle(digest_of(digest));
            }
            return Err((ReasonCode::Other("no_model".to_owned()), "this device has no model yet".to_owned()));
        };
        let answer = rollout::Answer::new(by, clock::now());
        let trial =
            |event: &dyn Fn(rollout::Answer) -> rollout::Event| Step::Loop(Command::Trial(event(answer.clone())));
        Ok(match command {
            command::Command::RetrainStart { strategy, .. } => Step::Loop(match strategy {
                None | Some(command::Strategy::Head) => Command::Retrain(Strategy::Head),
                Some(command::Strategy::Tail) => Command::Retrain(Strategy::Tail),
                Some(command::Strategy::Full) => Command::Retrain(Strategy::Full),
                Some(command::Strategy::Norm) => Command::Retrain(Strategy::Norm),
                Some(command::Strategy::Continual) => Command::Consolidate,
            }),
            command::Command::ModelPromote { digest, .. } if digest.to_string() == champion.to_string() => Step::Done,
            command::Command::ModelPromote { digest, .. } if self.is_held(digest_of(&digest)) => {
                trial(&rollout::Event::Promote)
            }
            command::Command::ModelPromote { digest, .. } => return self.bundle(digest_of(&digest)),
            command::Command::ModelRollback { to: Some(to), .. }
                if previous.is_none_or(|previous| previous.to_string() != to.to_string()) =>
            {
                return unsupported("only the previous model can be brought back: name it, or name none");
            }
            command::Command::ModelRollback { .. } => Step::Loop(Command::RollBack),
            command::Command::DriftRebaseline { until: Some(_), .. } => {
                return unsupported("`until` is not supported: the newest rows are taken, from `since` on");
            }
            command::Command::DriftRebaseline { since, .. } => {
                Step::Loop(Command::Rebaseline { rows: None, since: since.map(|since| Timestamp(since.0)) })
            }
            command::Command::LabelsPush { labels } => Step::Task(TaskKind::Labels(labels)),
            command::Command::AgentSelftest {} => Step::Task(TaskKind::Selftest),
            command::Command::RetrainCancel { .. } => Step::Loop(Command::Cancel),
            command::Command::ModelApprove { digest, .. } => {
                self.is_tried(digest_of(&digest))?;
                trial(&rollout::Event::Approve)
            }
            command::Command::ModelReject { digest, reason, .. } => {
                self.is_tried(digest_of(&digest))?;
                trial(&|answer| rollout::Event::Reject(answer, reason.clone()))
            }
            command::Command::CanaryHold { .. } => trial(&rollout::Event::Hold),
            command::Command::CanaryAbort { reason, .. } => {
                trial(&|answer| rollout::Event::Reject(answer, reason.clone()))
            }
            command::Command::ModelInstall { .. }
            | command::Command::DataExport { .. }
            | command::Command::DataPurge { .. }
            | command::Command::AgentRestart {}
            | command::Command::SnapshotVerify { .. }
            | command::Command::LogLevel { .. } => {
                return unsupported(&format!("this agent does not carry out `{cmd}`; `birth` lists what it does"));
            }
        })
    }

    /// A bundle that is judged, and serves if it passes: from the store, whose signatures it has, else from what `model.install` has
    /// brought, with the signature that came with it. Nothing unsigned comes this way.
    fn bundle(&self, digest: Digest) -> Result<Step, Refused> {
        let unknown = |error: StoreError| {
            (ReasonCode::Other("unknown_model".to_owned()), format!("{}; bring it with model.install", error.chain()))
        };
        let (bytes, envelope) = match self.models.get(&digest) {
            Ok(bytes) => (bytes, None),
            Err(_) => {
                let brought = installed(&self.shared.place.state_dir).map_err(unknown)?;
                (brought.get(&digest).map_err(unknown)?, brought_signature(&brought, &digest))
            }
        };
        bundle::read(&bytes).map_err(|error| (ReasonCode::Other("bundle".to_owned()), error.to_string()))?;
        Ok(Step::Loop(Command::Install { bytes, envelope, door: Door::Network }))
    }
}
