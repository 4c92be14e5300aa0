//! Running a rollout: reads what is retained, steps the machine, retains its state, then sends what the state orders.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use fleet_protocol::names::{DeviceId, Name};
use fleet_protocol::rollout::{Facts, Order, Rollout, Wish};
use fleet_protocol::status::{CommandStatus, ReasonCode, Status};
use fleet_protocol::topics::{ROOT, Topic};
use tokio::time::Instant;

use super::{exit, known, show, word};
use crate::Global;
use crate::exit::{Exit, Fail, report};
use crate::orders::now;
use crate::picture::{DeviceView, Picture};
use crate::session::{Came, Session, talk};
use crate::transfer::{Bundle, Sender};

/// Between two looks at the clock.
const LOOK: Duration = Duration::from_millis(500);
/// Between two attempts to reach a broker that is away.
const RETRY: Duration = Duration::from_secs(2);

/// Runs `begun`, or the one that is retained, until it ends or a person stops this.
pub(super) fn run(
    global: &Global,
    controller: &Name,
    id: &Name,
    bundle: Bundle,
    begun: Option<Rollout>,
) -> Result<Exit> {
    let rollout = match begun {
        Some(rollout) => {
            if known(global, controller, id).is_ok_and(|rollout| !rollout.is_final()) {
                return Err(Fail::new(Exit::Refused, format!("a rollout `{id}` is under way"))
                    .hint("go on with it (`rollout run`), stop it, or name this one otherwise")
                    .into());
            }
            rollout
        }
        None => known(global, controller, id)?,
    };
    if rollout.digest != bundle.digest {
        return Err(Fail::new(
            Exit::Input,
            format!("`{id}` brings bundle {}, this one is {}", rollout.digest, bundle.digest),
        )
        .into());
    }
    let signature = rollout.signature.clone();
    let mut runner = Runner {
        controller: controller.clone(),
        rollout,
        wish: None,
        begun_at: now(),
        picture: Picture::default(),
        sender: Sender::new(bundle.signed(signature)),
        sent: BTreeSet::new(),
    };
    talk(async {
        loop {
            // The machine is in memory and at the broker: a broker that is away, or has lost everything, changes nothing.
            match runner.converse(global).await {
                Ok(()) => return Ok(()),
                Err(error) if error.downcast_ref::<Fail>().is_some_and(Fail::is_unreachable) => {
                    report(&error);
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    })?;
    show(&runner.rollout, global);
    Ok(exit(&runner.rollout))
}

struct Runner {
    controller: Name,
    rollout: Rollout,
    wish: Option<Wish>,
    begun_at: fleet_protocol::names::Micros,
    picture: Picture,
    sender: Sender,
    /// Commands that stand at this broker.
    sent: BTreeSet<(DeviceId, ulid::Ulid)>,
}

impl Runner {
    async fn converse(&mut self, global: &Global) -> Result<()> {
        let id = self.rollout.id.clone();
        let wishes = Topic::WaveWish { controller: self.controller.clone(), id }.to_string();
        let up = ["cmd/+", "model/+", "drift/+"].map(|rest| format!("{ROOT}/d/+/up/{rest}"));
        let mut session = Session::open(global, up.into_iter().chain([wishes]).collect()).await?;
        self.sent.clear();
        self.retain(&mut session).await?;
        while !self.rollout.is_final() {
            let end = Instant::now() + LOOK;
            while let Some(came) = session.next(end).await? {
                self.hear(&mut session, &came).await?;
            }
            let before = self.rollout.clone();
            self.rollout = before.clone().step(&self.facts(), self.wish, now());
            if self.rollout != before {
                // Stored first, visible second.
                self.retain(&mut session).await?;
                self.tell(&before, global);
            }
            self.carry_out(&mut session).await?;
        }
        Ok(())
    }

    async fn hear(&mut self, session: &mut Session, came: &Came) -> Result<()> {
        match came.topic.parse() {
            Ok(Topic::WaveWish { .. }) => {
                // A wish about an earlier rollout of this name is not about this one.
                let wish = serde_json::from_slice(&came.payload).ok();
                self.wish = wish.filter(|wish: &Wish| wish.ts > self.rollout.since.min(self.begun_at));
            }
            Ok(Topic::CommandStatus { device, id })
                if self.rollout.devices.get(&device).is_some_and(|member| member.install == id) =>
            {
                self.picture.add(came);
                if let Ok(status) = serde_json::from_slice::<CommandStatus>(&came.payload) {
                    self.sender.answer(session, &device, &status).await?;
                }
            }
            _ => self.picture.add(came),
        }
        Ok(())
    }

    fn facts(&self) -> BTreeMap<DeviceId, Facts> {
        let fact = |device: &DeviceId| {
            let (member, view) = (self.rollout.devices.get(device)?, self.picture.devices.get(device)?);
            let ended = |id| view.commands.get(&id).and_then(end);
            let champion = view.model.as_ref().and_then(|model| model.champion.as_ref()).map(|model| model.digest);
            let drifting = DeviceView::drifted(view).map_or(0, |(drifting, _)| drifting);
            let cannot = |id| view.commands.get(&id).is_some_and(says_nothing_of_the_model);
            let excused = cannot(member.install) || cannot(member.promote);
            let (installed, promoted) = (ended(member.install), ended(member.promote));
            Some((device.clone(), Facts { installed, promoted, champion, drifting, excused }))
        };
        self.rollout.devices.keys().filter_map(fact).collect()
    }

    async fn retain(&self, session: &mut Session) -> Result<()> {
        let topic = Topic::Wave { controller: self.controller.clone(), id: self.rollout.id.clone() }.to_string();
        session.publish(&topic, serde_json::to_vec(&self.rollout)?, None).await
    }

    fn tell(&self, before: &Rollout, global: &Global) {
        if global.json {
            return;
        }
        for (device, member) in &self.rollout.devices {
            if before.devices.get(device).is_none_or(|old| old.standing != member.standing) {
                let standing = serde_json::to_value(&member.standing).unwrap_or_default();
                eprintln!(
                    "{device}: {} {}",
                    standing["standing"].as_str().unwrap_or_default(),
                    standing["reason"].as_str().unwrap_or_default()
                );
            }
        }
        if before.state != self.rollout.state || before.wave != self.rollout.wave {
            eprintln!("{}: {}, wave {}", self.rollout.id, word(&self.rollout.state), self.rollout.wave + 1);
        }
    }

    /// Publishes what the state orders and is not there yet, and clears what it orders no more.
    async fn carry_out(&mut self, session: &mut Session) -> Result<()> {
        let mut wanted = BTreeSet::new();
        for order in self.rollout.orders() {
            match order {
                Order::Command(device, id, envelope) => {
                    if self.sent.insert((device.clone(), id)) {
                        let topic = Topic::Command { device: device.clone(), id }.to_string();
                        session.publish(&topic, envelope.to_json(), Some(self.rollout.rules.deadline_s)).await?;
                    }
                    wanted.insert((device, id));
                }
                Order::Clear(device, id) => {
                    self.sent.insert((device, id));
                }
            }
        }
        let over: Vec<_> = self.sent.difference(&wanted).cloned().collect();
        for (device, id) in over {
            session.publish(&Topic::Command { device: device.clone(), id }.to_string(), Vec::new(), None).await?;
            self.sent.remove(&(device, id));
        }
        Ok(())
    }
}

/// A device that is frozen, at work on something else, or has too few labels to judge by.
fn says_nothing_of_the_model(status: &CommandStatus) -> bool {
    match &status.status {
        Status::Failed { reason_code: ReasonCode::Busy, .. } => true,
        Status::Failed { reason_code: ReasonCode::Other(code), .. } => {
            ["frozen", "too_few_labels", "too_few_rows"].contains(&code.as_str())
        }
        _ => false,
    }
}

fn end(status: &CommandStatus) -> Option<Result<(), String>> {
    match &status.status {
        Status::Successful => Some(Ok(())),
        Status::Failed { reason_code, reason } => {
            let code = serde_json::to_value(reason_code).ok()?;
            Some(Err(format!("{}: {reason}", code.as_str().unwrap_or_default())))
        }
        Status::Init
        | Status::Validating
        | Status::WaitingApproval
        | Status::WaitingBudget { .. }
        | Status::Scheduled { .. }
        | Status::Executing => None,
    }
}
