//! Commands of the fleet: admitted once, carried out once, and how they stand stored with what they caused.
//!
//! ```text
//! signed ─► known? say how it stands ─► admitted: row and counters, one transaction ─► carried out (`life`, `decide::command`)
//!                     └ refused: said, not stored (the same order is refused again for the same reason)
//! ```
//! A command whose effect is a step of the cycle changes its row in the same transaction as the step.
use std::collections::BTreeMap;

use fleet_protocol::command::{self, Label};
use fleet_protocol::keys::KeyId;
use fleet_protocol::names::{DeviceId, Micros, Name};
use fleet_protocol::order::{Admission, Order};
use fleet_protocol::status::{ReasonCode, Status};
use serde_json::{Value, json};
use trainer_core::digest::Digest;
use ulid::Ulid;

use super::keeper::Keeper;
use super::life::{ended, moved, report, signers, status_of};
use super::link::Answer;
use super::shared::{Command, Declined};
use super::wishes::{Refused, Step};
use crate::decide::command::deadline;
use crate::decide::time::Timestamp;
use crate::shell::clock;
use crate::shell::mqtt::{Signed, reason_code};
use crate::shell::store::CommandRow;

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
    /// Delete the records of a time span.
    Purge {
        /// From then on.
        since: Timestamp,
        /// Up to then.
        until: Timestamp,
        /// Snapshots that keep rows of their own.
        snapshots: usize,
        /// Who signed it.
        by: String,
    },
    /// End in order; the next start ends the command.
    Restart,
}

/// Rows that change with the next commit.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) changed: BTreeMap<Ulid, CommandRow>,
    /// The command whose step comes next: the run it orders is its own.
    pub(super) starting: Option<Ulid>,
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
}

impl Keeper {
    /// Takes a signed command; none if the disk does not, and it comes again with the next connection.
    pub(super) fn order(&mut self, signed: Signed) -> Option<Answer> {
        let Signed { verified, order } = signed;
        let says = |status| Some(Answer::Says(Box::new(status)));
        let control = self.books.control();
        // Before everything else: a redelivery is normal, and its counter is used up by itself.
        if let Ok(Some(row)) = control.command(order.id) {
            return status_of(&row).and_then(says);
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
        let by = verified.signers().keys().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let mut status = report(order.id, &order.cmd, Status::Init);
        status.extra.insert("by".to_owned(), json!(by));
        let row = CommandRow {
            id: order.id,
            status: serde_json::to_string(&status).ok()?,
            wish: String::from_utf8_lossy(verified.payload()).into_owned(),
            run: None,
            ended: false,
            deadline: deadline(&Status::Init, &self.moment())?,
        };
        let counters: Vec<_> = verified.signers().keys().map(|key_id| (key_id.to_string(), order.ctr)).collect();
        if let Err(error) = self.books.control().admit(&row, &counters) {
            tracing::warn!(error = %error.chain(), "a command cannot be stored and is not carried out");
            return None;
        }
        if let Some(saved) = &mut self.saved {
            verified.signers().keys().for_each(|key| saved.floors.count(key, order.ctr));
            self.changed += 1;
        }
        tracing::info!(id = %order.id, cmd = order.cmd, by, "a signed command was admitted");
        let task = match &command {
            command::Command::RetrainStart { at: Some(at), .. } if *at >= order.exp => {
                let void = "its time comes after it is void: sign it with a later `--expires`".to_owned();
                self.put(ended(row, Err((ReasonCode::Expired, void)), &self.moment()));
                None
            }
            _ => self.execute(row, command, &by),
        };
        self.shared.stored.notify_one();
        Some(Answer::Stored(task))
    }

    /// Carries out what is admitted; returns what the link has to do for it.
    pub(super) fn execute(&mut self, row: CommandRow, command: command::Command, by: &str) -> Option<Task> {
        let (id, moment) = (row.id, self.moment());
        if let command::Command::RetrainStart { at: Some(at), .. } = command
            && !moment.has_come(Timestamp(at.0))
        {
            self.put(moved(row, Status::Scheduled { at }, None, &moment));
            return None;
        }
        let step = match self.step_of(command, by) {
            Ok(step) => step,
            Err(refused) => {
                self.put(ended(row, Err(refused), &moment));
                return None;
            }
        };
        match step {
            Step::Done => self.put(ended(row, Ok(json!({"unchanged": true})), &moment)),
            Step::Task(kind) => {
                self.put(moved(row, Status::Executing, None, &moment));
                return Some(Task { id, kind });
            }
            Step::Loop(command) => {
                let runs = matches!(command, Command::Retrain(_) | Command::Consolidate | Command::Install { .. });
                // A run executes once its work begins, or waits for a budget.
                let next = if runs { Status::Scheduled { at: Micros(clock::now().0) } } else { Status::Successful };
                // Stored in the transaction of the step.
                self.books.orders.changed.insert(id, moved(row.clone(), next, None, &moment));
                self.books.orders.starting = runs.then_some(id);
                let answer = self.command(command);
                self.books.orders.starting = None;
                match answer {
                    // It waits for the disk, and so does its row.
                    Err(Declined { code: "disk", .. }) => {}
                    // Where there was no step to be stored with, or no run that would end it.
                    Ok(result) => {
                        let unstored = self.books.orders.changed.remove(&id).is_some();
                        if unstored || runs && result["run"].is_null() {
                            self.put(ended(row, Ok(result), &moment));
                        }
                    }
                    Err(declined) => {
                        self.books.orders.changed.remove(&id);
                        self.put(ended(row, Err(code(declined)), &moment));
                    }
                }
            }
        }
        None
    }

    /// What the last start had admitted and not ended: runs go on by themselves, what waits for its time goes on waiting, the
    /// rest is begun again.
    pub(super) fn unfinished(&mut self) -> Vec<Task> {
        let open = self.books.control().commands_open().unwrap_or_default();
        let (mut tasks, moment) = (Vec::new(), self.moment());
        for row in open {
            if let Some(run) = row.run {
                if !self.is_under_way(run) {
                    let gone = "its run is not known any more: the state was set aside".to_owned();
                    self.put(ended(row, Err((ReasonCode::Internal, gone)), &moment));
                }
                continue;
            }
            let command = serde_json::from_str::<Order>(&row.wish).ok().and_then(|order| order.command().ok());
            match (command, status_of(&row)) {
                // This is the start that it asked for.
                (Some(command::Command::AgentRestart {}), _) => {
                    self.put(ended(row, Ok(json!({"agent": env!("CARGO_PKG_VERSION")})), &moment));
                }
                // `follow_commands` looks after it.
                (Some(_), Some(status)) if matches!(status.status, Status::Scheduled { .. }) => {}
                (Some(command), status) => {
                    let by = status.as_ref().map_or_else(|| "fleet".to_owned(), signers);
                    tasks.extend(self.execute(row, command, &by));
                }
                (None, _) => {
                    let damaged = (ReasonCode::Internal, "its wish cannot be read any more".to_owned());
                    self.put(ended(row, Err(damaged), &moment));
                }
            }
        }
        tasks
    }

    fn is_under_way(&self, run: i64) -> bool {
        let Some(saved) = &self.saved else { return false };
        let work = saved.cycle.orders().work.map(|order| order.run);
        let tried = saved.cycle.rollout().candidate().map(|candidate| candidate.run);
        [work, tried].into_iter().flatten().any(|known| i64::try_from(known) == Ok(run))
    }

    /// A task has ended.
    pub(super) fn ended(&mut self, id: Ulid, outcome: Result<Value, Refused>) {
        if let Ok(Some(row)) = self.books.control().command(id) {
            self.put(ended(row, outcome, &self.moment()));
        }
    }
}

/// Why the loop declines, in the words of the fleet.
fn code(Declined { code, reason }: Declined) -> Refused {
    let code = match code {
        "busy" => ReasonCode::Busy,
        "bundle" | "stopping" => ReasonCode::Internal,
        other => reason_code(other),
    };
    (code, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loop_declines_has_a_code_of_the_fleet() {
        let code = |code| super::code(Declined { code, reason: "a reason".to_owned() });
        assert_eq!(code("busy"), (ReasonCode::Busy, "a reason".to_owned()), "worth another try");
        assert_eq!((code("bundle").0, code("stopping").0), (ReasonCode::Internal, ReasonCode::Internal));
        for word in ["frozen", "refused", "too_few_rows", "no_model", "older_sequence"] {
            assert_eq!(code(word).0, ReasonCode::Other(word.to_owned()));
        }
    }
}
