//! What comes down: commands, settings, notices and pieces of bundles; and the work that the link does for them.
use std::time::Duration;

use fleet_protocol::names::Name;
use fleet_protocol::order::NoticeBody;
use fleet_protocol::status::{ReasonCode, Status};
use fleet_protocol::topics::Topic;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use ulid::Ulid;

use super::export::Export;
use super::incoming::Incoming;
use super::link::Running;
use super::standing::Untaken;
use super::{orders, payload, tasks};
use crate::shell::clock::shown;
use crate::shell::daemon::{Answer, Event, LinkAsk, Task, TaskKind};

/// Between two events about refused messages: a stranger must not fill the disk with them.
const TURNED_AWAY: Duration = Duration::from_secs(10);
/// Without a piece for so long, the sender is told again what is missing; each time after twice as long, up to the other.
const LULL: [Duration; 2] = [Duration::from_secs(2), Duration::from_mins(1)];
/// What the end of the agent waits for, so that the fleet learns of it.
const BEFORE_RESTART: Duration = Duration::from_secs(1);

/// A bundle on its way in, and when its sender is told again.
pub(super) struct Transfer {
    incoming: Incoming,
    tell_at: Instant,
    lull: Duration,
}

impl Transfer {
    fn new(incoming: Incoming) -> Self {
        Self { incoming, tell_at: Instant::now() + LULL[0], lull: LULL[0] }
    }
}

impl Running {
    /// Notices of these are taken.
    pub(super) fn groups(&self) -> Vec<Name> {
        self.fleet.standing.groups()
    }

    pub(super) async fn message(&mut self, topic: &str, payload: &[u8]) {
        if payload.is_empty() {
            // Somebody has cleared what was retained.
            return;
        }
        match topic.parse() {
            Ok(Topic::Command { device, .. }) if device == self.fleet.device => self.command(topic, payload).await,
            Ok(Topic::Desired { device }) if device == self.fleet.device => {
                let taken = self.fleet.standing.desire(payload, &self.fleet.device, &self.fleet.keys);
                self.told(topic, taken.map(|()| "desired")).await;
            }
            Ok(Topic::Notice { group, name }) if self.groups().contains(&group) => {
                // What was signed for one group is nothing to another.
                let taken = self.fleet.standing.notice(payload, &group, &name, &self.fleet.keys);
                let kind = |notice| match notice {
                    NoticeBody::RevokeKey { .. } => "key_revoked",
                    NoticeBody::Freeze { .. } => "frozen",
                    NoticeBody::Thaw {} => "thawed",
                };
                self.told(topic, taken.map(kind)).await;
                let freezes = self.fleet.standing.freezes();
                let _ = self.shared.events.send(Event::Link(Box::new(LinkAsk::Freeze(freezes)))).await;
            }
            Ok(Topic::Chunk { device, digest, index }) if device == self.fleet.device => {
                self.piece(digest.as_bytes(), index, payload).await;
            }
            _ => {}
        }
    }

    async fn say(&mut self, kind: &'static str, payload: Value) {
        let _ = self.shared.events.send(Event::Link(Box::new(LinkAsk::Say { kind, payload }))).await;
    }

    /// Settings or a notice were taken, or not: what follows, and who is told.
    async fn told(&mut self, topic: &str, taken: Result<&'static str, Untaken>) {
        match taken {
            Ok(what) => {
                let Ok(keys) = self.fleet.standing.keys() else { return };
                self.fleet.keys = keys;
                self.fleet.settings = self.fleet.standing.config().mqtt.clone();
                self.fleet.reports.follow(&self.fleet.standing, &self.fleet.keys);
                let (wanted, applied, errors, restart) = self.fleet.standing.told();
                let config = Box::new(self.fleet.standing.config().clone());
                if let Ok(vault) = self.fleet.standing.bundle_keys().map(|keys| self.vault.believing(keys))
                    && let Ok(vault) = vault
                {
                    self.vault = vault;
                }
                let vault = self.vault.clone();
                let _ = self.shared.events.send(Event::Link(Box::new(LinkAsk::Settings { config, vault }))).await;
                let kind = if what == "desired" { "settings" } else { what };
                tracing::info!(wanted, applied, ?errors, ?restart, "the fleet has set: {what}");
                let freezes = self.fleet.standing.freezes();
                let frozen: Vec<_> =
                    freezes.iter().map(|freeze| json!({"group": freeze.group, "until": shown(freeze.until)})).collect();
                let fact = json!({
                    "kind": kind, "desired_rev": wanted, "applied_rev": applied, "errors": errors, "restart": restart,
                    "frozen": frozen,
                });
                self.say(kind, fact).await;
            }
            Err(untaken) if untaken.is_repetition() => {}
            Err(untaken) => {
                self.view.turned_away += 1;
                tracing::warn!(topic, "{untaken}");
                let now = Instant::now();
                if self.turned_away_at.is_none_or(|at| at + TURNED_AWAY <= now) {
                    self.turned_away_at = Some(now);
                    let (code, reason) = (untaken.code(), untaken.to_string());
                    let fact = json!({"kind": "turned_away", "topic": topic, "reason_code": code, "reason": reason});
                    self.say("turned_away", fact).await;
                }
            }
        }
        let messages = self.fleet.reports.identity(&self.shared, &self.fleet.standing);
        self.urge(messages);
    }

    async fn command(&mut self, topic: &str, payload: &[u8]) {
        match orders::check(topic, payload, &self.fleet.device, &self.fleet.keys) {
            None => {}
            Some(Ok(signed)) => self.burst.add(signed, Instant::now()),
            Some(Err(turned)) => {
                self.view.turned_away += 1;
                let now = Instant::now();
                if turned.signature && self.turned_away_at.is_none_or(|at| at + TURNED_AWAY <= now) {
                    self.turned_away_at = Some(now);
                    let status = serde_json::to_value(&turned.status).unwrap_or_default();
                    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
                    let ask = LinkAsk::TurnedAway { topic: topic.to_owned(), key_ids: turned.key_ids, reason };
                    let _ = self.shared.events.send(Event::Link(Box::new(ask))).await;
                }
                // A stranger's message under the name of a known command must not hide how that stands.
                let id = turned.status.id;
                let known = self.ask(|reply| LinkAsk::Known { id, reply }).await.flatten();
                let status = known.as_deref().unwrap_or(&turned.status);
                self.urge(vec![payload::status(&self.fleet.device, status)]);
            }
        }
    }

    /// Hands the commands of a burst to the loop, by their counters.
    pub(super) async fn carry_out(&mut self) {
        for signed in self.burst.take() {
            let recorder = self.shared.recorder.clone();
            // What was answered a moment ago counts for a new baseline; a disk that refuses is told of in the status.
            let _ = spawn_blocking(move || drop(recorder.flush())).await;
            match self.ask(|reply| LinkAsk::Order(Box::new(signed), reply)).await.flatten() {
                None => {}
                Some(Answer::Says(status)) => self.urge(vec![payload::status(&self.fleet.device, &status)]),
                Some(Answer::Stored(task)) => {
                    self.more = true;
                    if let Some(task) = task {
                        self.begin_task(task).await;
                    }
                }
            }
        }
    }

    /// Begins what the loop leaves to the link.
    pub(super) async fn begin_task(&mut self, task: Task) {
        let Task { id, kind } = task;
        let busy = || Err((ReasonCode::Busy, "another one is under way: send it again when that has ended".to_owned()));
        match kind {
            TaskKind::Purge { since, until, .. }
                if self.export.as_ref().is_some_and(|export| export.since.0 < until.0 && since.0 < export.until.0) =>
            {
                let reason = "an export of records in this span is under way: send it again when that has ended";
                self.ended(id, Err((ReasonCode::Other("needed".to_owned()), reason.to_owned()))).await;
            }
            TaskKind::Labels(_) | TaskKind::Selftest | TaskKind::Purge { .. } => {
                tasks::start(&self.shared, &self.models, Task { id, kind });
            }
            TaskKind::Install { .. } if self.incoming.is_some() => self.ended(id, busy()).await,
            TaskKind::Install { digest, size_bytes } => {
                let state_dir = self.shared.place.state_dir.clone();
                match spawn_blocking(move || Incoming::begin(&state_dir, id, digest, size_bytes)).await {
                    Ok(Ok(incoming)) => {
                        self.incoming = Some(Transfer::new(incoming));
                        if !self.finish_incoming().await {
                            self.tell_progress().await;
                        }
                    }
                    Ok(Err(refused)) => self.ended(id, Err(refused)).await,
                    // The agent is stopping.
                    Err(_) => {}
                }
            }
            TaskKind::Export { .. } if self.export.is_some() => self.ended(id, busy()).await,
            TaskKind::Export { stream, since, until, rows_max } => {
                self.export = Some(Export::new(id, stream, since, until, rows_max));
                self.export_on().await;
            }
            TaskKind::Restart => self.restarts_at = Some(Instant::now() + BEFORE_RESTART),
        }
    }

    async fn ended(&mut self, id: Ulid, outcome: Result<Value, (ReasonCode, String)>) {
        // The loop ends before its queue only when the agent stops; the task is begun again at the next start.
        let _ = self.shared.events.send(Event::Link(Box::new(LinkAsk::Ended { id, outcome }))).await;
    }

    async fn piece(&mut self, digest: &[u8; 32], index: u32, payload: &[u8]) {
        let ours = |transfer: &mut Transfer| transfer.incoming.digest.as_bytes() == digest;
        let Some(Transfer { mut incoming, .. }) = self.incoming.take_if(ours) else { return };
        let (id, bytes) = (incoming.id, payload.to_vec());
        let stored = spawn_blocking(move || incoming.piece(index, &bytes).map(|_| incoming)).await;
        match stored {
            Ok(Ok(incoming)) => {
                self.incoming = Some(Transfer::new(incoming));
                self.finish_incoming().await;
            }
            Ok(Err(refused)) => self.ended(id, Err(refused)).await,
            Err(_) => {}
        }
    }

    /// Ends the transfer if nothing is missing.
    async fn finish_incoming(&mut self) -> bool {
        let whole = self.incoming.take_if(|transfer| transfer.incoming.is_whole());
        let Some(Transfer { incoming, .. }) = whole else { return false };
        let (id, state_dir, vault) = (incoming.id, self.shared.place.state_dir.clone(), self.vault.clone());
        if let Ok(outcome) = spawn_blocking(move || incoming.finish(&state_dir, &vault)).await {
            self.ended(id, outcome.map(|digest| json!({"digest": digest}))).await;
        }
        true
    }

    /// Tells the sender which pieces are missing; a command that has ended meanwhile takes its pieces with it.
    pub(super) async fn tell_progress(&mut self) {
        let Some(Transfer { incoming, tell_at, lull }) = &mut self.incoming else { return };
        (*tell_at, *lull) = (Instant::now() + *lull, (2 * *lull).min(LULL[1]));
        let (id, progress) = (incoming.id, incoming.progress());
        let Some(mut status) = self.ask(|reply| LinkAsk::Known { id, reply }).await.flatten() else { return };
        if status.status.is_final() {
            self.incoming = None;
            return;
        }
        status.status = Status::Executing;
        status.extra.insert("transfer".to_owned(), json!(progress));
        let message = payload::status(&self.fleet.device, &status);
        self.urge(vec![message]);
    }

    async fn export_on(&mut self) {
        let Some(export) = self.export.take() else { return };
        let (id, reader, device) = (export.id, self.shared.reader.clone(), self.fleet.device.clone());
        match spawn_blocking(move || export.read_on(&reader, &device)).await {
            Ok(Ok(export)) if export.waiting.is_some() => self.export = Some(export),
            Ok(Ok(export)) => {
                self.ended(id, Ok(json!({"rows": export.rows, "batches": export.batches}))).await;
            }
            Ok(Err(reason)) => self.ended(id, Err((ReasonCode::Internal, reason))).await,
            Err(_) => {}
        }
    }

    pub(super) async fn batch_taken(&mut self) {
        if let Some(export) = &mut self.export {
            export.taken();
        }
        self.export_on().await;
    }

    /// The broker will never take what is exported: whoever waits for it must know.
    pub(super) async fn batch_refused(&mut self, reason: String) {
        let Some(Export { id, .. }) = self.export.take() else { return };
        let reason = format!("{reason}: raise its max_packet_size and limits, then send the command again");
        self.ended(id, Err((ReasonCode::Other("refused".to_owned()), reason))).await;
    }

    /// What waits for time to pass.
    pub(super) async fn follow_tasks(&mut self, now: Instant) {
        if self.incoming.as_ref().is_some_and(|transfer| transfer.tell_at <= now) {
            self.tell_progress().await;
        }
        if self.restarts_at.take_if(|at| *at <= now).is_some() {
            tracing::info!("restarting, as the fleet has ordered");
            let _ = kill_process(getpid(), Signal::TERM);
        }
    }
}
