//! Everything anyone may ask of a device, whoever asks: command line, socket or fleet.
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::keys::Role;
use crate::names::{Digest, Micros, Name};

/// Most labels one `labels.push` may carry; more come as further commands, so that one never fills a packet.
pub const LABELS_MAX: usize = 1_000;

/// One request: `{"cmd": …, "args": {…}}` on the wire.
///
/// Arguments that this version does not know are refused, not ignored: a signed wish is carried out whole or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "cmd", content = "args", deny_unknown_fields)]
pub enum Command {
    /// Fetches a bundle in chunks and stores it; it serves only after `model.promote`, or after a rollout.
    #[serde(rename = "model.install")]
    ModelInstall {
        slot: Name,
        digest: Digest,
        size_bytes: u64,
        /// Pieces at `down/blob/<digest>/<n>`, each at most [`CHUNK_BYTES_MAX`](crate::CHUNK_BYTES_MAX) bytes.
        chunks: u32,
    },
    /// Makes a stored model the champion.
    #[serde(rename = "model.promote")]
    ModelPromote { slot: Name, digest: Digest },
    /// Falls back to `to`, or to the last good model.
    #[serde(rename = "model.rollback")]
    ModelRollback {
        slot: Name,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<Digest>,
        reason: String,
    },
    /// Answers the question whether a candidate may be tried.
    #[serde(rename = "model.approve")]
    ModelApprove { slot: Name, digest: Digest },
    /// Answers the same question with no.
    #[serde(rename = "model.reject")]
    ModelReject { slot: Name, digest: Digest, reason: String },
    /// Retrains now, within the budgets; the plan chooses the strategy unless one is named.
    #[serde(rename = "retrain.start")]
    RetrainStart {
        slot: Name,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        strategy: Option<Strategy>,
        reason: String,
        /// Not before then, by a clock that is right: until then it stands as `scheduled`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<Micros>,
    },
    /// Stops the training that runs or waits.
    #[serde(rename = "retrain.cancel")]
    RetrainCancel { slot: Name },
    /// Takes the rows of a window as the new normal, or the newest ones.
    #[serde(rename = "drift.rebaseline")]
    DriftRebaseline {
        slot: Name,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<Micros>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Micros>,
    },
    /// Keeps a canary at its share until `model.promote` or `canary.abort`.
    #[serde(rename = "canary.hold")]
    CanaryHold { slot: Name },
    /// Ends a canary; the champion answers everything again.
    #[serde(rename = "canary.abort")]
    CanaryAbort { slot: Name, reason: String },
    /// Hands in labels that arrived elsewhere; at most [`LABELS_MAX`].
    #[serde(rename = "labels.push")]
    LabelsPush { labels: Vec<Label> },
    /// Sends records of a time span to `up/data/<stream>`.
    #[serde(rename = "data.export")]
    DataExport { stream: Name, since: Micros, until: Micros, rows_max: u64 },
    /// Deletes the records of a time span for good.
    #[serde(rename = "data.purge")]
    DataPurge { since: Micros, until: Micros },
    /// Runs the golden inputs, the store's checks and the sensors' checks.
    #[serde(rename = "agent.selftest")]
    AgentSelftest {},
    /// Ends the process in order; the service manager starts it again, and the next start completes the command.
    #[serde(rename = "agent.restart")]
    AgentRestart {},
    /// Trains again from a stored snapshot and compares the digests.
    #[serde(rename = "snapshot.verify")]
    SnapshotVerify { digest: Digest },
    /// Logs more or less for a while; afterwards the configured level returns.
    #[serde(rename = "log.level")]
    LogLevel { level: LogLevel, for_s: u32 },
}

/// How to retrain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// A closed-form head on cached features.
    Head,
    /// The layers above the cut, by latent replay.
    Tail,
    /// Every layer.
    Full,
    /// The statistics of the batch norms, or of the inputs; needs no labels.
    Norm,
    /// The heads that learn from every label are frozen as they are.
    Continual,
}

/// How much the agent logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// A truth that arrived late.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// The answer it belongs to.
    pub record_id: ulid::Ulid,
    /// A class name, a number, or one number per target.
    pub label: Value,
    /// Who says so; a second label of the same source replaces the first.
    pub source: Name,
    /// When it became known.
    pub ts: Micros,
}

/// A command that was not understood.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// Not an object with `cmd`.
    #[error("not a command: an object with `cmd` and `args` is expected")]
    NotACommand(#[source] serde_json::Error),
    /// This version cannot do it.
    #[error("`{name}` is not a command of this version; `birth` lists the ones it has")]
    Unsupported { name: String },
    /// The arguments do not fit.
    #[error("the arguments of `{name}` do not fit")]
    Arguments { name: String, source: serde_json::Error },
    /// Within its shape, but beyond a limit.
    #[error("`labels.push` carries {found} labels, {LABELS_MAX} are allowed; send the rest as further commands")]
    TooManyLabels { found: usize },
    /// A span that ends before it begins.
    #[error("`{name}` names a time span that is empty: `until` must be after `since`")]
    EmptySpan { name: &'static str },
    /// The chunks cannot hold the bundle.
    #[error("{chunks} chunks cannot carry {size_bytes} bytes, at most {max} each", max = crate::CHUNK_BYTES_MAX)]
    Chunks { chunks: u32, size_bytes: u64 },
}

impl Command {
    /// Names of all commands, for `birth`, the manual and completion.
    pub const NAMES: [&'static str; 17] = [
        "model.install",
        "model.promote",
        "model.rollback",
        "model.approve",
        "model.reject",
        "retrain.start",
        "retrain.cancel",
        "drift.rebaseline",
        "canary.hold",
        "canary.abort",
        "labels.push",
        "data.export",
        "data.purge",
        "agent.selftest",
        "agent.restart",
        "snapshot.verify",
        "log.level",
    ];

    /// Reads `cmd` and `args`; absent arguments are none.
    ///
    /// # Errors
    /// [`CommandError`], telling an unknown command from wrong arguments.
    pub fn new(name: &str, args: Map<String, Value>) -> Result<Self, CommandError> {
        if !Self::NAMES.contains(&name) {
            return Err(CommandError::Unsupported { name: name.chars().take(64).collect() });
        }
        let whole = Map::from_iter([("cmd".to_owned(), name.into()), ("args".to_owned(), args.into())]);
        let command: Self = serde_json::from_value(Value::Object(whole))
            .map_err(|source| CommandError::Arguments { name: name.to_owned(), source })?;
        command.check()?;
        Ok(command)
    }

    /// Reads a command as the local socket takes it: without order or signature.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, CommandError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wire {
            cmd: String,
            #[serde(default)]
            args: Map<String, Value>,
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(CommandError::NotACommand)?;
        Self::new(&wire.cmd, wire.args)
    }

    /// What the types cannot say.
    fn check(&self) -> Result<(), CommandError> {
        match self {
            Self::LabelsPush { labels } if labels.len() > LABELS_MAX => {
                Err(CommandError::TooManyLabels { found: labels.len() })
            }
            Self::DriftRebaseline { since: Some(since), until: Some(until), .. }
            | Self::DataExport { since, until, .. }
            | Self::DataPurge { since, until }
                if since >= until =>
            {
                Err(CommandError::EmptySpan { name: self.name() })
            }
            &Self::ModelInstall { chunks, size_bytes, .. }
                if u64::from(chunks) != size_bytes.div_ceil(crate::CHUNK_BYTES_MAX as u64).max(1) =>
            {
                Err(CommandError::Chunks { chunks, size_bytes })
            }
            _ => Ok(()),
        }
    }

    /// The name, as `cmd` says it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::ModelInstall { .. } => "model.install",
            Self::ModelPromote { .. } => "model.promote",
            Self::ModelRollback { .. } => "model.rollback",
            Self::ModelApprove { .. } => "model.approve",
            Self::ModelReject { .. } => "model.reject",
            Self::RetrainStart { .. } => "retrain.start",
            Self::RetrainCancel { .. } => "retrain.cancel",
            Self::DriftRebaseline { .. } => "drift.rebaseline",
            Self::CanaryHold { .. } => "canary.hold",
            Self::CanaryAbort { .. } => "canary.abort",
            Self::LabelsPush { .. } => "labels.push",
            Self::DataExport { .. } => "data.export",
            Self::DataPurge { .. } => "data.purge",
            Self::AgentSelftest {} => "agent.selftest",
            Self::AgentRestart {} => "agent.restart",
            Self::SnapshotVerify { .. } => "snapshot.verify",
            Self::LogLevel { .. } => "log.level",
        }
    }

    /// The role a signer needs. What takes data away, or stops the agent, is the admin's.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::DataExport { .. } | Self::DataPurge { .. } | Self::AgentRestart {} | Self::LogLevel { .. } => {
                Role::Admin
            }
            Self::ModelInstall { .. }
            | Self::ModelPromote { .. }
            | Self::ModelRollback { .. }
            | Self::ModelApprove { .. }
            | Self::ModelReject { .. }
            | Self::RetrainStart { .. }
            | Self::RetrainCancel { .. }
            | Self::DriftRebaseline { .. }
            | Self::CanaryHold { .. }
            | Self::CanaryAbort { .. }
            | Self::LabelsPush { .. }
            | Self::AgentSelftest {}
            | Self::SnapshotVerify { .. } => Role::Operator,
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::*;

    pub(crate) fn every_command() -> Vec<Command> {
        let slot = Name::main_slot();
        let digest = Digest::of(b"candidate");
        let (since, until) = (Micros(1_763_596_800_000_000), Micros(1_763_683_200_000_000));
        let label = Label {
            record_id: ulid::Ulid::from_parts(1_763_683_200_000, 7),
            label: Value::from("leak"),
            source: "laboratory".parse().unwrap(),
            ts: until,
        };
        let reason = || "shift 2 changed the tool".to_owned();
        vec![
            Command::ModelInstall { slot: slot.clone(), digest, size_bytes: 400_000, chunks: 4 },
            Command::ModelPromote { slot: slot.clone(), digest },
            Command::ModelRollback { slot: slot.clone(), to: None, reason: reason() },
            Command::ModelApprove { slot: slot.clone(), digest },
            Command::ModelReject { slot: slot.clone(), digest, reason: reason() },
            Command::RetrainStart { slot: slot.clone(), strategy: Some(Strategy::Head), reason: reason(), at: None },
            Command::RetrainCancel { slot: slot.clone() },
            Command::DriftRebaseline { slot: slot.clone(), since: Some(since), until: Some(until) },
            Command::CanaryHold { slot: slot.clone() },
            Command::CanaryAbort { slot, reason: reason() },
            Command::LabelsPush { labels: vec![label] },
            Command::DataExport { stream: "records".parse().unwrap(), since, until, rows_max: 10_000 },
            Command::DataPurge { since, until },
            Command::AgentSelftest {},
            Command::AgentRestart {},
            Command::SnapshotVerify { digest },
            Command::LogLevel { level: LogLevel::Debug, for_s: 3_600 },
        ]
    }

    #[test]
    fn every_command_is_listed_and_its_json_is_the_golden_one() {
        let commands = every_command();
        assert_eq!(commands.iter().map(Command::name).collect::<Vec<_>>(), Command::NAMES);
        let mut golden = String::new();
        for command in &commands {
            let line = serde_json::to_string(command).unwrap();
            assert_eq!(&Command::from_json(line.as_bytes()).unwrap(), command);
            golden.push_str(&line);
            golden.push('\n');
        }
        expect_file!["../golden/commands.jsonl"].assert_eq(&golden);
    }

    #[test]
    fn whatever_a_device_can_be_asked_to_train_has_the_word_of_its_own_command_line() {
        for word in ["head", "tail", "full", "norm", "continual"] {
            let text =
                format!(r#"{{"cmd":"retrain.start","args":{{"slot":"main","reason":"x","strategy":"{word}"}}}}"#);
            let Command::RetrainStart { strategy: Some(strategy), .. } = Command::from_json(text.as_bytes()).unwrap()
            else {
                panic!("{word}")
            };
            assert_eq!(serde_json::to_value(strategy).unwrap(), word);
        }
    }

    #[test]
    fn arguments_may_be_left_out_where_there_are_none() {
        assert_eq!(Command::from_json(br#"{"cmd":"agent.selftest"}"#).unwrap(), Command::AgentSelftest {});
    }

    #[test]
    fn a_command_is_carried_out_whole_or_not_at_all() {
        let reason = |text: &str| {
            let error = Command::from_json(text.as_bytes()).unwrap_err();
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            format!("{error}{}", cause.unwrap_or_default())
        };
        let unsupported = reason(r#"{"cmd":"agent.explode","args":{}}"#);
        assert_eq!(unsupported, "`agent.explode` is not a command of this version; `birth` lists the ones it has");
        assert!(reason(r#"{"cmd":"retrain.cancel","args":{"slot":"main","gently":true}}"#).contains("gently"));
        assert!(reason(r#"{"cmd":"retrain.cancel","args":{}}"#).contains("missing field `slot`"));
        assert!(reason(r#"{"cmd":"retrain.cancel","args":{"slot":"MAIN"}}"#).contains("`MAIN` is not a name"));
        assert!(reason(r#"{"cmd":"retrain.cancel","args":{"slot":"main"},"extra":1}"#).contains("extra"));
        assert!(reason("[]").contains("not a command"));
        assert!(reason(r#"{"cmd":"data.purge","args":{"since":2,"until":2}}"#).contains("after `since`"));
    }

    #[test]
    fn a_bundle_whose_chunks_do_not_add_up_is_refused() {
        let digest = Digest::of(b"candidate");
        for (size_bytes, chunks) in [(131_072, 2), (131_073, 1), (u64::MAX, u32::MAX), (1, 0)] {
            let text = format!(
                r#"{{"cmd":"model.install","args":{{"slot":"main","digest":"{digest}","size_bytes":{size_bytes},"chunks":{chunks}}}}}"#
            );
            assert!(matches!(Command::from_json(text.as_bytes()), Err(CommandError::Chunks { .. })), "{text}");
        }
    }

    #[test]
    fn too_many_labels_are_refused() {
        let label = r#"{"record_id":"01JD4V3Q8N7Y5ZK2M6T9W0XABC","label":1,"source":"plc","ts":1}"#;
        let labels = vec![label; LABELS_MAX + 1].join(",");
        let text = format!(r#"{{"cmd":"labels.push","args":{{"labels":[{labels}]}}}}"#);
        assert!(matches!(Command::from_json(text.as_bytes()), Err(CommandError::TooManyLabels { found: 1_001 })));
    }

    #[test]
    fn taking_data_away_needs_the_admin() {
        let admins = every_command().into_iter().filter(|command| command.role() == Role::Admin);
        let names: Vec<_> = admins.map(|command| command.name()).collect();
        assert_eq!(names, ["data.export", "data.purge", "agent.restart", "log.level"]);
    }
}
