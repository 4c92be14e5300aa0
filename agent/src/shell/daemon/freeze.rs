//! A freeze of the fleet in the loop: nothing new is trained, tried or promoted until it ends; what serves goes on, and may be
//! taken back.
use fleet_protocol::status::ReasonCode;
use serde_json::{Value, json};

use super::keeper::Keeper;
use super::shared::Command;
use super::wishes::Refused;
use crate::decide::command::{Freeze, frozen};
use crate::decide::cycle;
use crate::decide::rollout::{self, Silence, View};
use crate::shell::clock::shown;

/// Who holds a trial while it is frozen, and lets it go on afterwards.
const FREEZE: &str = "freeze";

impl Command {
    /// Whether it may lead to another model that serves, other than the one before.
    pub(super) fn changes_who_serves(&self) -> bool {
        match self {
            Self::Retrain(_) | Self::Consolidate | Self::Install { .. } => true,
            Self::Trial(event) => {
                matches!(event, rollout::Event::Approve(_) | rollout::Event::Promote(_) | rollout::Event::Resume(_))
            }
            Self::Cancel | Self::Rebaseline { .. } | Self::RollBack | Self::Purge { .. } | Self::Collect { .. } => {
                false
            }
        }
    }
}

impl Keeper {
    /// The freeze that is in force.
    pub(super) fn frozen(&self) -> Option<&Freeze> {
        if self.freezes.is_empty() { None } else { frozen(&self.freezes, &self.moment()) }
    }

    /// # Errors
    /// A freeze, until when, and what ends it.
    pub(super) fn may_change(&self) -> Result<(), Refused> {
        let Some(Freeze { group, until }) = self.frozen() else { return Ok(()) };
        let reason = format!(
            "the fleet has frozen group `{group}` until {}: wait, or end that with `hone-fleet thaw --group {group}`",
            shown(*until)
        );
        Err((ReasonCode::Other("frozen".to_owned()), reason))
    }

    /// Takes what is frozen now; what is under way is held, or goes on.
    pub(super) fn freeze(&mut self, freezes: Vec<Freeze>) {
        self.freezes = freezes;
        self.keep_frozen();
    }

    /// Every second: holds a trial while it is frozen and lets it go on when that ends; work under way leaves a checkpoint.
    pub(super) fn keep_frozen(&mut self) {
        let is_frozen = self.frozen().is_some();
        self.hold_heads(is_frozen);
        if is_frozen {
            self.suspend_for_stop();
        }
        if std::mem::replace(&mut self.was_frozen, is_frozen) && !is_frozen && !self.books.is_waiting() {
            // Its time is over, and nothing else would begin what has waited.
            self.carry_out();
        }
        let Some(saved) = &self.saved else { return };
        let View::Trial { held, .. } = saved.cycle.rollout().view(self.warden.now()) else { return };
        let answer = || rollout::Answer::new(FREEZE, crate::shell::clock::now());
        let event = match (is_frozen, held) {
            (true, None) => rollout::Event::Hold(answer()),
            (false, Some(held)) if held.by == FREEZE => rollout::Event::Resume(answer()),
            _ => return,
        };
        if let Some(saved) = &mut self.saved {
            let reports = saved.cycle.step(cycle::Event::Rollout(event), &self.rules.cycle).unwrap_or_default();
            self.changed += 1;
            self.after(&reports);
        }
    }

    /// Whether silence would now let a candidate be tried: while frozen the question stays open.
    pub(super) fn waits_for_the_thaw(&self) -> bool {
        let Some(saved) = self.saved.as_ref().filter(|_| self.frozen().is_some()) else { return false };
        let view = saved.cycle.rollout().view(self.warden.now());
        matches!(view, View::AwaitingApproval { left_s: 0, silence: Silence::Approve, .. })
    }

    pub(super) fn frozen_view(&self) -> Value {
        self.frozen().map_or(
            Value::Null,
            |freeze| json!({"group": freeze.group, "until": shown(freeze.until), "until_us": freeze.until.0}),
        )
    }
}
