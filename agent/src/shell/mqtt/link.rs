//! The link itself: one task that owns the connection, the outbox and what is retained; it waits for the loop, never for the
//! network.
mod goodbye;
mod large;
mod rival;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fleet_protocol::names::Micros;
use fleet_protocol::report::Presence;
use fleet_protocol::topics::{ROOT, device_filters};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until};
use ulid::Ulid;

use super::connection::{self, Connection, Heard, Message, Refused, Token, WINDOW};
use super::export::Export;
use super::fleet::Fleet;
use super::inbox::Transfer;
use super::orders::Burst;
use super::view::LinkView;
use super::{events, payload};
use crate::decide::link::{Link, LinkEvent, LinkOrder};
use crate::decide::outbox::Outbox;
use crate::decide::time::Uptime;
use crate::shell::clock;
use crate::shell::daemon::{Event, LinkAsk, News, Shared, Task};
use crate::shell::models::{ModelStore, Vault};
use crate::shell::parting::HangUps;
use crate::shell::store::LinkRow;

/// Between two looks at the clock while a connection stands, and while none does.
const TICK: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(200)];
/// Between two looks at the cap and at deadlines.
const SURVEY: Duration = Duration::from_secs(10);
/// Acknowledgements after which the disk is told; in a lull it is told at once.
const TAKEN_AT_ONCE: u32 = 256;
/// What the end may take: a will that was not called off says `offline` all the same.
const GOODBYE: Duration = Duration::from_millis(400);
/// Statuses and reports that wait beside the outbox; beyond, the next connection brings them again.
const URGENT_MAX: usize = 1_024;
/// Room for topic and properties in a packet.
const ENVELOPE_BYTES: usize = 1_024;
/// A broker that takes less is not worked with.
const PACKET_BYTES_MIN: usize = 16 * 1024;
pub(super) struct Running {
    pub(super) fleet: Fleet,
    pub(super) shared: Arc<Shared>,
    pub(super) models: ModelStore,
    pub(super) vault: Vault,
    link: Link,
    outbox: Outbox,
    boot: u64,
    connection: Option<Connection>,
    session: Ulid,
    packet_bytes_max: usize,
    /// Reports at hand, by position.
    messages: BTreeMap<i64, Message>,
    /// What goes before them and is not kept: presence, retained reports, statuses.
    urgent: VecDeque<Message>,
    /// The newest change of a command that was read.
    version: i64,
    /// Whether the disk may hold more than was read.
    pub(super) more: bool,
    /// Acknowledged since the disk was told.
    taken: u32,
    parked: Vec<(i64, u8)>,
    pub(super) burst: Burst,
    /// A bundle on its way in.
    pub(super) incoming: Option<Transfer>,
    /// Records on their way out.
    pub(super) export: Option<Export>,
    /// The agent ends once the broker knows that it will.
    pub(super) restarts_at: Option<Instant>,
    begun: Instant,
    tick_at: Instant,
    survey_at: Instant,
    pub(super) turned_away_at: Option<Instant>,
    /// Somebody else had our name then.
    rival_at: Option<Instant>,
    hang_ups: HangUps,
    pub(super) view: LinkView,
}

/// The token of what needs no answer to its acknowledgement; positions begin at 1.
const URGENT: Token = 0;
/// The token of the goodbye.
const OFFLINE: Token = Token::MAX;
/// The token of a batch of records.
const BATCH: Token = Token::MAX - 1;
/// The token of what other systems read: refused, it is a matter of the broker's rules and nothing waits for it.
const NEIGHBOUR: Token = Token::MAX - 2;

impl Running {
    /// A link that goes on where `row` says.
    pub(super) fn new(fleet: Fleet, shared: Arc<Shared>, models: ModelStore, vault: Vault, row: LinkRow) -> Self {
        let now = Instant::now();
        let (broker, device) = (fleet.settings.broker.clone(), fleet.device.to_string());
        Self {
            fleet,
            shared,
            models,
            vault,
            link: Link::new(Uptime::default()),
            outbox: Outbox::new(row.through, WINDOW),
            boot: u64::try_from(row.boots).unwrap_or(0),
            connection: None,
            session: Ulid::default(),
            packet_bytes_max: 0,
            messages: BTreeMap::new(),
            urgent: VecDeque::new(),
            version: 0,
            more: true,
            taken: 0,
            parked: Vec::new(),
            burst: Burst::default(),
            incoming: None,
            export: None,
            restarts_at: None,
            begun: now,
            tick_at: now,
            survey_at: now,
            turned_away_at: None,
            rival_at: None,
            hang_ups: HangUps::default(),
            view: LinkView { broker, device, ..LinkView::default() },
        }
    }

    /// Runs until `stop` says so, then says goodbye.
    pub(super) async fn run(mut self, unfinished: Vec<Task>, mut stop: watch::Receiver<bool>) {
        for task in unfinished {
            self.begin_task(task).await;
        }
        loop {
            self.shared.pulses.link.turn();
            let wake = self.burst.ends().map_or(self.tick_at, |ends| ends.min(self.tick_at));
            tokio::select! {
                heard = connection::next(&mut self.connection) => self.heard(heard).await,
                () = self.shared.stored.notified() => {
                    self.more = true;
                }
                () = sleep_until(wake) => self.tick().await,
                _ = stop.changed() => break,
            }
            self.pump().await;
            self.tell_disk().await;
            self.view.follow(self.link);
            self.shared.link.send_replace(serde_json::to_value(&self.view).unwrap_or_default());
        }
        Box::pin(self.goodbye()).await;
    }

    fn uptime(&self) -> Uptime {
        Uptime(self.begun.elapsed())
    }

    fn step(&mut self, event: LinkEvent) {
        let (link, order) = self.link.step(event, self.uptime(), &self.fleet.rules);
        self.link = link;
        match order {
            LinkOrder::Keep => {}
            LinkOrder::Connect => {
                self.session = Ulid::generate();
                let will = self.presence(Presence::Offline);
                self.connection = Some(Connection::open(&self.fleet.dial, &will));
            }
            LinkOrder::Drop => {
                self.connection = None;
                if let Some(export) = &mut self.export {
                    export.is_sent = false;
                }
                self.outbox.connection_lost();
                self.urgent.clear();
            }
        }
    }

    fn presence(&self, presence: Presence) -> Message {
        payload::presence(&self.fleet.device, presence, self.session, self.boot, Micros(clock::now().0))
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        if self.burst.ends().is_some_and(|ends| ends <= now) {
            self.carry_out().await;
        }
        if self.tick_at > now {
            return;
        }
        self.step(LinkEvent::Tick);
        self.forget_rival();
        self.follow_tasks(now).await;
        self.tick_at = now + TICK[usize::from(!matches!(self.link, Link::Online { .. }))];
        if self.survey_at <= now {
            self.survey_at = now + SURVEY;
            let bytes_max = self.fleet.settings.outbox_bytes_max;
            if let Some((backlog, tasks)) = self.ask(|reply| LinkAsk::Survey { bytes_max, reply }).await {
                self.view.waits(backlog);
                for task in tasks {
                    self.begin_task(task).await;
                }
            }
        }
        if matches!(self.link, Link::Online { .. }) {
            let messages = self.fleet.reports.due(&self.shared, &self.view, now).await;
            self.urge(messages);
        }
    }

    async fn heard(&mut self, heard: Heard) {
        if !matches!(heard, Heard::Lost(_) | Heard::TakenOver) {
            self.step(LinkEvent::Heard);
        }
        match heard {
            Heard::Accepted { packet_bytes_max } => self.accepted(packet_bytes_max).await,
            Heard::Subscribed { granted } => {
                if !granted {
                    self.alarm("the broker grants no subscription to this device's commands: check its access rules");
                }
            }
            Heard::Taken(URGENT | NEIGHBOUR) | Heard::Alive => {}
            Heard::Taken(BATCH) => self.batch_taken().await,
            Heard::Refused(NEIGHBOUR, Refused { code, .. }) => {
                self.alarm(&format!(
                    "the broker refuses what other systems shall read with code {code:#04x}: allow it, or switch it off"
                ));
            }
            Heard::Taken(position) => self.settle(position),
            Heard::Refused(BATCH, Refused { code, for_good: true }) => {
                self.batch_refused(format!("the broker refuses a batch with code {code:#04x}")).await;
            }
            Heard::Refused(position, Refused { code, for_good: true })
                if position < NEIGHBOUR && position != URGENT =>
            {
                self.park(position, code);
            }
            Heard::Refused(_, Refused { code, .. }) => {
                // Nothing is lost and nothing overtaken: the whole link waits, longer each time.
                self.alarm(&format!(
                    "the broker refuses a message with code {code:#04x}: check its access rules and quotas"
                ));
                self.lost("a message was refused");
            }
            Heard::Message { topic, payload } => self.message(&topic, &payload).await,
            Heard::TakenOver => self.taken_over(),
            Heard::Lost(reason) => self.hung_up(&reason),
        }
    }

    fn lost(&mut self, reason: &str) {
        if matches!(self.link, Link::Online { .. }) || self.view.reason.as_deref() != Some(reason) {
            tracing::warn!(reason, "the link to the fleet is down");
        }
        self.view.reason = Some(reason.to_owned());
        self.step(LinkEvent::Lost);
    }

    fn alarm(&mut self, what: &str) {
        if self.view.alarm.as_deref() != Some(what) {
            tracing::error!(what, "the link to the fleet needs a person");
        }
        self.view.alarm = Some(what.to_owned());
    }

    /// Subscribes and says everything again: the broker may have lost what it retained.
    async fn accepted(&mut self, packet_bytes_max: usize) {
        self.step(LinkEvent::Accepted);
        if packet_bytes_max < PACKET_BYTES_MIN {
            // Reports would be given up one by one that another broker, or this one tomorrow, would take.
            self.alarm(&format!("the broker takes {packet_bytes_max} bytes at once only: raise its max_packet_size"));
            return self.lost("the broker takes small packets only");
        }
        tracing::info!(broker = self.view.broker, session = %self.session, "the link to the fleet is up");
        self.view.connections += 1;
        self.view.reason = None;
        if self.has_no_rival() {
            self.view.alarm = None;
        }
        self.packet_bytes_max = packet_bytes_max;
        (self.version, self.more) = (0, true);
        for filter in device_filters(&self.fleet.device, &self.groups()) {
            if !self.connection.as_ref().is_some_and(|connection| connection.subscribe(filter)) {
                return self.lost("the client takes no subscription");
            }
        }
        let online = self.presence(Presence::Online);
        let mut messages = vec![online];
        let Fleet { reports, standing, .. } = &mut self.fleet;
        messages.extend(reports.all(&self.shared, standing, Instant::now()).await);
        self.urge(messages);
        self.tell_progress().await;
    }

    pub(super) fn urge(&mut self, messages: Vec<Message>) {
        for message in messages {
            if self.urgent.len() < URGENT_MAX {
                self.urgent.push_back(message);
            }
        }
    }

    /// Sends as much as the window allows, reading on from the disk.
    async fn pump(&mut self) {
        while matches!(self.link, Link::Online { .. }) {
            if self.more && self.urgent.len() < URGENT_MAX / 2 && self.outbox.wants().is_some() {
                self.read_on().await;
            }
            let Some(connection) = &mut self.connection else { return };
            if !connection.has_room() {
                return;
            }
            let (token, message) = if let Some(message) = self.urgent.pop_front() {
                (if message.topic.starts_with(ROOT) { URGENT } else { NEIGHBOUR }, message)
            } else if let Some(position) = self.outbox.send_next() {
                let Some(message) = self.messages.get(&position) else {
                    self.settle(position);
                    continue;
                };
                (position.cast_unsigned(), message.clone())
            } else if let Some(export) = self.export.as_mut().filter(|export| !export.is_sent)
                && let Some((message, _)) = &export.waiting
            {
                export.is_sent = true;
                (BATCH, message.clone())
            } else {
                return;
            };
            if message.payload.len() + message.topic.len() + ENVELOPE_BYTES > self.packet_bytes_max {
                self.too_large(token, &message).await;
                continue;
            }
            if !connection.publish(token, &message) {
                return self.lost("the client takes no more messages");
            }
        }
    }

    async fn read_on(&mut self) {
        let Some((after, limit)) = self.outbox.wants() else { return };
        let version = self.version;
        let Some(news) = self.ask(|reply| LinkAsk::Read { after, limit, version, reply }).await else { return };
        let News { reports, commands, more } = news;
        self.more = more;
        let trust = clock::trust();
        for (stored, champion) in reports {
            let clock = clock::trust_at(stored.report.at, self.shared.place.started_at, trust);
            self.outbox.add(stored.position);
            match events::event(&self.fleet.device, &stored, champion, clock) {
                Some(message) => drop(self.messages.insert(stored.position, message)),
                None => self.park(stored.position.cast_unsigned(), 0x99),
            }
        }
        let statuses = commands.iter().map(|(_, status)| payload::status(&self.fleet.device, status)).collect();
        self.version = commands.last().map_or(version, |(version, _)| *version);
        self.urge(statuses);
    }

    fn settle(&mut self, position: impl TryInto<i64>) {
        let Ok(position) = position.try_into() else { return };
        self.messages.remove(&position);
        self.outbox.settle(position);
        self.taken += 1;
        self.view.delivered += 1;
    }

    /// Tells the disk what the broker has, after many acknowledgements or in a lull.
    async fn tell_disk(&mut self) {
        if self.taken >= TAKEN_AT_ONCE || self.taken > 0 && self.outbox.in_flight() == 0 {
            self.taken = 0;
            let ask = LinkAsk::Took { through: self.outbox.through(), parked: std::mem::take(&mut self.parked) };
            // The loop ends before its queue only when the agent stops: what it was not told is sent again.
            let _ = self.shared.events.send(Event::Link(Box::new(ask))).await;
        }
    }

    pub(super) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> LinkAsk) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.events.send(Event::Link(Box::new(question(reply)))).await.ok()?;
        answer.await.ok()
    }
}
