//! What the link to the fleet asks of the loop: the loop alone touches `control.db`, and never waits for the network.
use fleet_protocol::keys::KeyId;
use fleet_protocol::status::{CommandStatus, ReasonCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use ulid::Ulid;

use super::keeper::Keeper;
use super::orders::Task;
use crate::config::Config;
use crate::decide::command::Freeze;
use crate::decide::outbox::evict;
use crate::shell::clock;
use crate::shell::models::Vault;
use crate::shell::mqtt::Signed;
use crate::shell::store::{Backlog, LinkRow, StoredReport};

/// Commands that are read at once.
const COMMANDS_AT_ONCE: usize = 64;

/// One question or order of the link.
#[derive(Debug)]
pub enum LinkAsk {
    /// The link starts; answered with where it goes on, and with tasks that the last start left unfinished.
    Begin(oneshot::Sender<(LinkRow, Vec<Task>)>),
    /// What is new since a position and a version.
    Read {
        /// Reports after this position.
        after: i64,
        /// At most so many.
        limit: usize,
        /// Commands that changed after this version.
        version: i64,
        /// The answer.
        reply: oneshot::Sender<News>,
    },
    /// The broker has everything up to `through`; these it will never take.
    Took {
        /// Position.
        through: i64,
        /// Position and reason code.
        parked: Vec<(i64, u8)>,
    },
    /// Hold the cap, begin commands whose time has come, end those whose time is over, and say what waits.
    Survey {
        /// Bytes that may wait.
        bytes_max: u64,
        /// The answer.
        reply: oneshot::Sender<(Backlog, Vec<Task>)>,
    },
    /// A signed command for this device.
    Order(Box<Signed>, oneshot::Sender<Option<Answer>>),
    /// How a command stands, if it is known.
    Known {
        /// The command.
        id: Ulid,
        /// The answer.
        reply: oneshot::Sender<Option<Box<CommandStatus>>>,
    },
    /// A task has ended.
    Ended {
        /// The command.
        id: Ulid,
        /// Its result, or why it failed.
        outcome: Result<Value, (ReasonCode, String)>,
    },
    /// This is frozen from now on, and nothing else.
    Freeze(Vec<Freeze>),
    /// The fleet has changed the settings, or whom to believe: what can take effect at once does.
    Settings {
        /// The settings.
        config: Box<Config>,
        /// The store, with the keys of now at its door.
        vault: Vault,
    },
    /// Something happened on the link that is worth keeping.
    Say {
        /// Kind of the report.
        kind: &'static str,
        /// The report.
        payload: Value,
    },
    /// A signature was refused.
    TurnedAway {
        /// Where it came in.
        topic: String,
        /// Who it claimed to be from.
        key_ids: Vec<String>,
        /// Why.
        reason: String,
    },
}

/// What the link publishes next.
#[derive(Debug, Default)]
pub struct News {
    /// Reports in the order of commits; with the model a verdict compared with.
    pub reports: Vec<(StoredReport, Option<fleet_protocol::names::Digest>)>,
    /// How commands stand, each with its version.
    pub commands: Vec<(i64, CommandStatus)>,
    /// Whether there may be more of either.
    pub more: bool,
}

/// What becomes of a signed command.
#[derive(Debug)]
pub enum Answer {
    /// It is known, or not carried out: this is all there is to say.
    Says(Box<CommandStatus>),
    /// It is stored; its status is among the [`News`]. A task, if the link has to do it.
    Stored(Option<Task>),
}

impl Keeper {
    /// Answers the link; whoever asked may have gone away.
    pub(super) fn link(&mut self, ask: LinkAsk) {
        match ask {
            LinkAsk::Begin(reply) => {
                let row = self.books.control().link_begins().unwrap_or_else(|error| {
                    tracing::error!(error = %error.chain(), "the link begins anew: what was sent is sent again");
                    LinkRow::default()
                });
                let tasks = self.unfinished();
                let _ = reply.send((row, tasks));
            }
            LinkAsk::Read { after, limit, version, reply } => {
                let _ = reply.send(self.news(after, limit, version));
            }
            LinkAsk::Took { through, parked } => {
                if let Err(error) = self.books.control().link_took(through, &parked, clock::now()) {
                    tracing::warn!(error = %error.chain(), "what the broker has taken is sent again after a restart");
                }
            }
            LinkAsk::Survey { bytes_max, reply } => {
                self.hold_cap(bytes_max);
                let tasks = self.follow_commands();
                let _ = reply.send((self.books.control().backlog().unwrap_or_default(), tasks));
            }
            LinkAsk::Order(signed, reply) => {
                let _ = reply.send(self.order(*signed));
            }
            LinkAsk::Known { id, reply } => {
                let row = self.books.control().command(id).ok().flatten();
                let _ = reply.send(row.and_then(|row| serde_json::from_str(&row.status).ok()));
            }
            LinkAsk::Ended { id, outcome } => self.ended(id, outcome),
            LinkAsk::Settings { config, vault } => {
                self.gatehouse.vault = vault;
                self.rules.training = config.training.clone();
                self.storage.settings = config.records.clone();
                self.rules.snapshot_bytes = config.snapshots.keep_bytes;
            }
            LinkAsk::Freeze(freezes) => self.freeze(freezes),
            LinkAsk::Say { kind, payload } => {
                self.books.say(kind, &payload);
                self.commit();
            }
            LinkAsk::TurnedAway { topic, key_ids, reason } => {
                let id = |text: &String| serde_json::from_value::<KeyId>(json!(text)).ok();
                let key_ids: Vec<_> = key_ids.iter().filter_map(id).collect();
                self.books.say("sig_rejected", &json!({"topic": topic, "key_ids": key_ids, "reason": reason}));
            }
        }
    }

    fn news(&mut self, after: i64, limit: usize, version: i64) -> News {
        let control = self.books.control();
        let reports = control.unsent_after(after, limit).unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "reports for the fleet cannot be read");
            Vec::new()
        });
        let commands = control.commands_after(version, COMMANDS_AT_ONCE).unwrap_or_default();
        let more = reports.len() == limit || commands.len() == COMMANDS_AT_ONCE;
        let champion = |stored: &StoredReport| {
            let run = serde_json::from_str::<Value>(&stored.report.json).ok()?["run"].as_i64()?;
            control.run(run).ok()??.parent.to_string().parse().ok()
        };
        let parent = |stored: &StoredReport| (stored.report.kind == "gate").then(|| champion(stored)).flatten();
        let reports = reports.into_iter().map(|stored| {
            let parent = parent(&stored);
            (stored, parent)
        });
        let reports = reports.collect();
        let status = |(version, row): (i64, crate::shell::store::CommandRow)| {
            Some((version, serde_json::from_str(&row.status).ok()?))
        };
        News { reports, commands: commands.into_iter().filter_map(status).collect(), more }
    }

    fn hold_cap(&mut self, bytes_max: u64) {
        let control = self.books.control();
        let waiting = control.backlog().unwrap_or_default();
        if u64::try_from(waiting.bytes).unwrap_or(0) <= bytes_max {
            return;
        }
        let dropped = control.unsent_entries().map(|entries| evict(&entries, bytes_max)).unwrap_or_default();
        match control.drop_reports(&dropped) {
            Ok(()) => tracing::warn!(dropped = dropped.len(), "reports were dropped: the fleet was away for too long"),
            Err(error) => tracing::warn!(error = %error.chain(), "reports that should be dropped stay"),
        }
    }
}
