//! Commands of the fleet: admitted once, carried out once, and how they stand stored with what they caused.
//!
//! ```text
//! signed ─► known? say how it stands ─► admitted: row and counters, one transaction ─► executing ─► successful | failed
//!                     └ refused: said, not stored (the same order is refused again for the same reason)
//! ```
//! A command whose effect is a step of the cycle changes its row in the same transaction as the step.
use std::collections::BTreeMap;

use fleet_protocol::Extra;
use fleet_protocol::command::{self, Label};
use fleet_protocol::keys::KeyId;
use fleet_protocol::names::{Clock, DeviceId, Micros, Name};
use fleet_protocol::order::{Admission, Order};
use fleet_protocol::status::{CommandStatus, ReasonCode, Status};
use serde_json::{Value, json};
use trainer_core::digest::Digest;
use ulid::Ulid;

use super::keeper::Keeper;
use super::link::Answer;
use super::shared::{Command, Declined};
use super::wishes::{Refused, Step};
use crate::decide::cycle::Report;
use crate::decide::rollout;
use crate::decide::time::Timestamp;
use crate::shell::clock;
use crate::shell::mqtt::Signed;
use crate::shell::store::{CommandRow, Control};

/// A command that has not ended after a day has failed.
const DEADLINE_US: i64 = 86_400_000_000;

/// Work that the link does for the loop.
#[derive(Debug)]
pub struct Task {
    /// The command.
    pub id: Ulid,
    /// What to do.
    pub kind: TaskKind,
}

/// What a task does.
#[derive(Debug)]
pub enum TaskKind {
    /// Store these labels.
    Labels(Vec<Label>),
    /// Read back what must not be damaged.
    Selftest,
    /// Take this bundle in pieces.
    Install {
        /// What it must be.
        digest: Digest,
        /// How long it is.
        size_bytes: u64,
    },
    /// Send records of a time span.
    Export {
        /// Where to.
        stream: Name,
        /// From then on.
        since: Micros,
        /// Up to then.
        until: Micros,
        /// At most so many.
        rows_max: u64,
    },
    /// End in order; the next start ends the command.
    Restart,
}

/// Rows that change with the next commit.
#[derive(Debug, Default)]
pub(super) struct Orders {
    changed: BTreeMap<Ulid, CommandRow>,
    /// The command whose step comes next: the run it orders is its own.
    starting: Option<Ulid>,
}

impl Orders {
    pub(super) fn rows(&self) -> Vec<CommandRow> {
        self.changed.values().cloned().collect()
    }

    pub(super) fn stored(&mut self) {
        self.changed.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty()
    }

    /// Follows what a step reported: a run that begins, or ends, may be a command's.
    pub(super) fn follow(&mut self, report: &Report, control: &Control) {
        let (run, end) = match report {
            Report::Retrain { order } => {
                if let Some(row) = self.starting.take().and_then(|id| self.changed.get_mut(&id)) {
                    row.run = i64::try_from(order.run).ok();
                }
                return;
            }
            Report::Failed { run, reason } => (*run, Err((ReasonCode::Internal, reason.clone()))),
            Report::Gate { run, verdict, .. } if !verdict.passed => {
                (*run, Err((ReasonCode::GateFailed, verdict.sentence())))
            }
            Report::Promote { run, to, .. } => (*run, Ok(json!({"digest": to}))),
            Report::Rollback { .. } => return self.void(control),
            Report::Rollout(rollout::Report::TrialEnded { run, why, .. }) => {
                (*run, Err((ReasonCode::Canceled, why.sentence())))
            }
            Report::Gate { .. }
            | Report::Drift { .. }
            | Report::Waiting { .. }
            | Report::Rebaseline { .. }
            | Report::Considered { .. }
            | Report::Adaptation { .. }
            | Report::Consolidated { .. }
            | Report::Rollout(_) => return,
        };
        let run = i64::try_from(run).ok();
        let waiting = self.changed.values().find(|row| row.run == run && !row.ended).cloned();
        let stored = || control.commands_open().ok()?.into_iter().find(|row| row.run == run);
        if let Some(row) = waiting.or_else(stored) {
            let row = ended(row, end);
            self.changed.insert(row.id, row);
        }
    }

    /// A rollback makes the run under way void.
    fn void(&mut self, control: &Control) {
        for row in control.commands_open().unwrap_or_default().into_iter().filter(|row| row.run.is_some()) {
            let canceled = (ReasonCode::Canceled, "a rollback made its run void".to_owned());
            self.changed.entry(row.id).or_insert_with(|| ended(row, Err(canceled)));
        }
    }
}

fn report(id: Ulid, cmd: &str, status: Status) -> CommandStatus {
    let (ts, clock) = (Micros(clock::now().0), clock::trust());
    CommandStatus { id, cmd: cmd.to_owned(), status, ts, clock, extra: Extra::new() }
}

/// The row with another status; an end never changes.
fn moved(mut row: CommandRow, status: Status, result: Option<Value>) -> CommandRow {
    let Ok(before) = serde_json::from_str::<CommandStatus>(&row.status) else { return row };
    if before.status.may_become(&status) {
        row.ended = status.is_final();
        let mut after = report(row.id, &before.cmd, status);
        after.extra = before.extra;
        after.extra.extend(result.map(|result| ("result".to_owned(), result)));
        row.status = serde_json::to_string(&after).unwrap_or_default();
    }
    row
}

fn ended(row: CommandRow, outcome: Result<Value, (ReasonCode, String)>) -> CommandRow {
    match outcome {
        Ok(result) => moved(row, Status::Successful, Some(result)),
        Err((reason_code, reason)) => moved(row, Status::Failed { reason_code, reason }, None),
    }
}

impl Keeper {
    /// Takes a signed command; none if the disk does not, and it comes again with the next connection.
    pub(super) fn order(&mut self, signed: Signed) -> Option<Answer> {
        let Signed { verified, order } = signed;
        let says = |status| Some(Answer::Says(Box::new(status)));
        let control = self.books.control();
        // Before everything else: a redelivery is normal, and its counter is used up by itself.
        if let Ok(Some(row)) = control.command(order.id) {
            return serde_json::from_str(&row.status).ok().and_then(says);
        }
        let stored = control.high_water().ok()?;
        let key = |(text, counter): (String, u64)| Some((serde_json::from_value::<KeyId>(json!(text)).ok()?, counter));
        let high_water = stored.into_iter().filter_map(key).collect();
        let device: DeviceId = self.shared.device.clone()?;
        let trust = clock::trust();
        let facts = Admission { device: &device, now: Micros(clock::now().0), clock: trust, high_water: &high_water };
        let command = match order.admit(&verified, &facts) {
            Ok(command) => command,
            Err(refusal) => {
                let status = Status::Failed { reason_code: refusal.code(), reason: refusal.to_string() };
                return says(report(order.id, &order.cmd, status));
            }
        };
        let deadline_at = match trust {
            // The clock will jump; a run has deadlines of its own.
            Clock::Unsynced => Timestamp(i64::MAX),
            Clock::Ntp | Clock::Rtc => Timestamp(clock::now().0.saturating_add(DEADLINE_US)),
        };
        let wish = String::from_utf8_lossy(verified.payload()).into_owned();
        let status = serde_json::to_string(&report(order.id, &order.cmd, Status::Init)).ok()?;
        let row = CommandRow { id: order.id, status, wish, run: None, ended: false, deadline_at };
        let counters: Vec<_> = verified.signers().keys().map(|key_id| (key_id.to_string(), order.ctr)).collect();
        if let Err(error) = self.books.control().admit(&row, &counters) {
            tracing::warn!(error = %error.chain(), "a command cannot be stored and is not carried out");
            return None;
        }
        if let Some(saved) = &mut self.saved {
            verified.signers().keys().for_each(|key| saved.floors.count(key, order.ctr));
            self.changed += 1;
        }
        tracing::info!(id = %order.id, cmd = order.cmd, "a signed command was admitted");
        let by = verified.signers().keys().next().map(ToString::to_string).unwrap_or_default();
        let task = self.execute(row, command, &by);
        self.shared.stored.notify_one();
        Some(Answer::Stored(task))
    }

    /// Carries out what is admitted; returns what the link has to do for it.
    fn execute(&mut self, row: CommandRow, command: command::Command, by: &str) -> Option<Task> {
        let id = row.id;
        let step = match self.step_of(command, by) {
            Ok(step) => step,
            Err(refused) => {
                self.put(ended(row, Err(refused)));
                return None;
            }
        };
        match step {
            Step::Done => self.put(ended(row, Ok(json!({"unchanged": true})))),
            Step::Task(kind) => {
                self.put(moved(row, Status::Executing, None));
                return Some(Task { id, kind });
            }
            Step::Loop(command) => {
                let runs = matches!(command, Command::Retrain(_) | Command::Offer { .. } | Command::Install { .. });
                let next = if runs { Status::Executing } else { Status::Successful };
                // Stored in the transaction of the step.
                self.books.orders.changed.insert(id, moved(row.clone(), next, None));
                self.books.orders.starting = runs.then_some(id);
                let answer = self.command(command);
                self.books.orders.starting = None;
                match answer {
                    // It waits for the disk, and so does its row.
                    Err(Declined { code: "disk", .. }) | Ok(_) => {}
                    Err(declined) => {
                        self.books.orders.changed.remove(&id);
                        self.put(ended(row, Err(code(declined))));
                    }
                }
            }
        }
        None
    }

    /// What the last start had admitted and not ended: runs go on by themselves, the rest is begun again.
    pub(super) fn unfinished(&mut self) -> Vec<Task> {
        let open = self.books.control().commands_open().unwrap_or_default();
        let mut tasks = Vec::new();
        for row in open.into_iter().filter(|row| row.run.is_none()) {
            let command = serde_json::from_str::<Order>(&row.wish).ok().and_then(|order| order.command().ok());
            match command {
                // This is the start that it asked for.
                Some(command::Command::AgentRestart {}) => {
                    self.put(ended(row, Ok(json!({"agent": env!("CARGO_PKG_VERSION")}))));
                }
                // Who signed it is not kept with the row.
                Some(command) => tasks.extend(self.execute(row, command, "fleet")),
                None => {
                    self.put(ended(row, Err((ReasonCode::Internal, "its wish cannot be read any more".to_owned()))))
                }
            }
        }
        tasks
    }

    /// A task has ended.
    pub(super) fn ended(&mut self, id: Ulid, outcome: Result<Value, Refused>) {
        if let Ok(Some(row)) = self.books.control().command(id) {
            self.put(ended(row, outcome));
        }
    }

    /// Commands whose time is over have failed.
    pub(super) fn time_out(&mut self) {
        let now = clock::now();
        for row in self.books.control().commands_open().unwrap_or_default() {
            if row.deadline_at <= now {
                self.put(ended(row, Err((ReasonCode::Timeout, "it has not ended within a day".to_owned()))));
            }
        }
    }

    fn put(&mut self, row: CommandRow) {
        if let Err(error) = self.books.control().put_commands(std::slice::from_ref(&row)) {
            tracing::warn!(error = %error.chain(), "how a command stands waits for the disk");
            self.books.orders.changed.insert(row.id, row);
        }
        self.shared.stored.notify_one();
    }
}

fn code(Declined { code, reason }: Declined) -> Refused {
    let code = match code {
        "busy" => ReasonCode::Busy,
        "bundle" | "stopping" => ReasonCode::Internal,
        other => ReasonCode::Other(other.to_owned()),
    };
    (code, reason)
}
