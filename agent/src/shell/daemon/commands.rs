//! What a person may command the loop, and why it is declined.
use serde_json::{Value, json};
use trainer_core::digest::Digest;
use trainer_core::model::Strategy;

use super::keeper::{Keeper, Saved};
use super::ledger::CANCELLED;
use super::purge;
use super::shared::{Command, Declined, Retraining};
use super::work::baseline;
use crate::decide::cycle::{self, Cycle, OrderTask, Refusal, Report};
use crate::decide::loading::Loading;
use crate::decide::sample::BaselineRows;
use crate::decide::time::Timestamp;
use crate::decide::watch::BASELINE_ROWS_MAX;
use crate::shell::files::remove_durable;
use crate::shell::models::{Door, Installed, Refused};
use crate::shell::store::Record;
use crate::shell::trainer::runs;

/// Rows a person may choose as baseline: read at once, 2 MB at 128 features.
pub const REBASELINE_ROWS_MAX: usize = 4_096;

impl Keeper {
    pub(super) fn command(&mut self, command: Command) -> Result<Value, Declined> {
        if command.changes_who_serves()
            && let Err((_, reason)) = self.may_change()
        {
            return Err(declined("frozen", &reason));
        }
        let command = match command {
            Command::Purge { since, until } => {
                return match self.may_purge(since, until) {
                    Ok(()) => Ok(json!({"snapshots": purge::snapshots(self.snapshots.list())})),
                    Err((_, reason)) => Err(declined("refused", &reason)),
                };
            }
            Command::Install { bytes, envelope, door } => return self.take_in(&bytes, envelope.as_deref(), door),
            Command::Collect { dry } => return self.collect_by_command(dry),
            Command::Cancel => return self.cancel(),
            Command::Consolidate => return self.consolidate(),
            other => other,
        };
        let event = match command {
            Command::Rebaseline { rows, since } => self.rebaseline(rows, since)?,
            Command::Retrain(strategy) => cycle::Event::Retrain { strategy },
            Command::Trial(event) => cycle::Event::Rollout(event),
            Command::RollBack
            | Command::Install { .. }
            | Command::Collect { .. }
            | Command::Consolidate
            | Command::Purge { .. }
            | Command::Cancel => self.roll_back()?,
        };
        self.follow(event)
    }

    /// The newest stored rows of the champion's features, oldest first.
    fn rebaseline(&self, rows: Option<usize>, since: Option<Timestamp>) -> Result<cycle::Event, Declined> {
        let width = match (&self.saved, self.shared.slot.serving()) {
            (Some(_), Some(serving)) => serving.champion.model.schema().features.len(),
            _ => return Err(no_model()),
        };
        let most = if since.is_some() { REBASELINE_ROWS_MAX } else { BASELINE_ROWS_MAX };
        let wanted = rows.unwrap_or(most).min(REBASELINE_ROWS_MAX);
        let found = self.shared.reader.recent(wanted, None).map_err(|error| declined("disk", &error.chain()))?;
        let fits = |record: &Record| {
            let record = &record.record;
            record.features.len() == width && since.is_none_or(|since| record.event_at >= since)
        };
        let baseline = baseline(found.into_iter().rev().filter(fits).map(|record| record.record));
        Ok(cycle::Event::Rebaseline { baseline })
    }

    pub(super) fn roll_back(&mut self) -> Result<cycle::Event, Declined> {
        let saved = self.saved.as_ref().ok_or_else(no_model)?;
        let previous = saved.cycle.models().1.ok_or_else(|| declined("refused", &Refusal::NoPrevious))?;
        let loaded = self.load(&previous).map_err(|reason| declined("bundle", &reason))?;
        let (reference, baseline) = (loaded.model.manifest.reference, BaselineRows::of(&loaded.model));
        Ok(cycle::Event::RollBack { reference, baseline })
    }

    /// Ends what is under way or waits; its checkpoint goes. A refit that is cancelled leaves the candidate that had passed.
    fn cancel(&mut self) -> Result<Value, Declined> {
        let scheduled = self.cancel_scheduled();
        let saved = self.saved.as_ref().ok_or_else(no_model)?;
        let Some(order) = saved.cycle.orders().work else {
            if scheduled > 0 {
                return Ok(json!({"scheduled": scheduled, "cancelled": true}));
            }
            return Err(declined("refused", &"no training is under way and none waits"));
        };
        if let OrderTask::Train { strategy, seed } = order.task
            && self.working.is_none()
            && let Some((snapshot, _)) =
                runs::unfinished(&self.snapshots, order.parent, strategy, seed, &self.rules.training)
            && let Err(error) = remove_durable(&runs::checkpoint_path(&self.snapshots, &snapshot))
        {
            return Err(declined("disk", &format!("the checkpoint cannot be removed: {error}")));
        }
        self.fail(order.run, CANCELLED.to_owned());
        if self.books.trouble().is_some() {
            return Err(self.not_stored());
        }
        if order.refit_of.is_none() {
            self.books.stands(order.run, "cancelled");
        }
        let champion = self.saved.as_ref().map(|saved| saved.cycle.models().0);
        Ok(json!({"run": order.run, "cancelled": true, "champion": champion}))
    }

    /// Freezes the heads that learn from every label, and offers them to the gate.
    fn consolidate(&mut self) -> Result<Value, Declined> {
        let saved = self.saved.as_mut().ok_or_else(no_model)?;
        saved.cycle.freeze_now().map_err(|refusal| declined("busy", &refusal))?;
        let run = self.freeze_mixture().map_err(|reason| declined("refused", &reason))?;
        if self.books.trouble().is_some() {
            return Err(self.not_stored());
        }
        let champion = self.saved.as_ref().map(|saved| saved.cycle.models().0);
        Ok(json!({"run": run, "champion": champion}))
    }

    /// Takes a bundle in: checked, stored, then serving on a device without a model, else judged.
    fn take_in(&mut self, bytes: &[u8], envelope: Option<&[u8]>, door: Door) -> Result<Value, Declined> {
        let refused = |refused: Refused| declined(refused.code(), &refused);
        let (digest, floors) = (Digest::of(bytes), self.floors());
        if self.saved.as_ref().is_some_and(|saved| saved.loading.is_denied(&digest)) {
            return Err(refused(Refused::Denied(digest)));
        }
        let serving = self.shared.slot.serving();
        let schema = serving.as_ref().map(|serving| serving.champion.model.schema());
        let vault = &self.gatehouse.vault;
        // One that is stored already keeps the signature it came with, and its number was counted then.
        let known = envelope.is_none()
            && self.models.get(&digest).is_ok()
            && vault.envelope(&digest).map_err(refused)?.is_some();
        let installed = if known {
            vault.reinstall(&digest, &floors)
        } else {
            vault.install(bytes, envelope, door, &floors, schema)
        };
        let installed = installed.map_err(refused)?;
        if schema.is_some_and(|schema| schema != installed.model.schema()) {
            return Err(refused(Refused::OtherSchema));
        }
        let role = installed.standing.as_str();
        let Some(saved) = &mut self.saved else {
            self.install(&installed);
            return if self.commit() {
                self.carry_out();
                Ok(json!({"digest": digest, "installed": true, "signature": role}))
            } else {
                Err(self.not_stored())
            };
        };
        installed.remember(&mut saved.floors);
        self.changed += 1;
        let (champion, previous, factory) = saved.cycle.models();
        let repairs = [Some(champion), previous, Some(factory)].contains(&Some(digest));
        if repairs && serving.is_none() {
            self.carry_out();
            return Ok(json!({"digest": digest, "installed": true, "signature": role}));
        }
        let parent = installed.model.manifest.parent;
        self.books.candidate(digest, parent, None, role);
        let mut answer = self.follow(cycle::Event::Offered { candidate: digest });
        match &mut answer {
            Ok(answer) => answer["signature"] = json!(role),
            // What is not judged is not kept.
            Err(_) => self.collect(),
        }
        answer
    }

    /// Makes a model the first one: champion and factory model at once. Its files are stored already.
    pub(super) fn install(&mut self, installed: &Installed) {
        let (digest, model) = (installed.digest, &installed.model);
        let cycle = Cycle::new(model, digest, &self.rules.cycle);
        let ordinal = self.shared.reader.newest_labelled(1).ok().and_then(|rows| rows.last().map(|row| row.ordinal));
        let mut floors = self.floors();
        installed.remember(&mut floors);
        self.saved = Some(Saved {
            cycle,
            ordinal: ordinal.unwrap_or(0),
            attempts: 0,
            budget: None,
            flash: None,
            calendar: None,
            loading: Loading::default(),
            floors,
            realised: None,
        });
        self.books.installed(digest, installed.standing.as_str());
        self.changed += 1;
    }

    /// Steps; a refusal changes nothing. What the disk does not take is kept in memory and carried out once it does.
    fn follow(&mut self, event: cycle::Event) -> Result<Value, Declined> {
        let saved = self.saved.as_mut().ok_or_else(no_model)?;
        let reports = saved.cycle.step(event, &self.rules.cycle).map_err(|refusal| {
            let code = match refusal {
                Refusal::Busy(_) => "busy",
                Refusal::TooFew(_) => "too_few_labels",
                Refusal::TooFewSamples { .. } => "too_few_samples",
                Refusal::TooFewRows { .. } => "too_few_rows",
                Refusal::NoPrevious | Refusal::Pointless(..) | Refusal::Rollout(_) => "refused",
            };
            declined(code, &refusal)
        })?;
        let rows = reports.iter().find_map(|report| match report {
            Report::Rebaseline { rows } => Some(*rows),
            _ => None,
        });
        let run = reports.iter().find_map(|report| match report {
            Report::Retrain { order } => Some(order.run),
            _ => None,
        });
        self.after(&reports);
        if self.books.trouble().is_some() {
            return Err(self.not_stored());
        }
        let champion = self.saved.as_ref().map(|saved| saved.cycle.models().0);
        let mut answer = json!({"run": run, "champion": champion});
        if let Some(rows) = rows {
            answer["rows"] = json!(rows);
        }
        Ok(answer)
    }

    fn not_stored(&self) -> Declined {
        let why = self.books.trouble().unwrap_or("the disk refuses");
        declined(
            "disk",
            &format!("{why}; the command waits and is carried out once the disk takes it, do not repeat it"),
        )
    }
}

fn declined(code: &'static str, reason: &impl ToString) -> Declined {
    Declined { code, reason: reason.to_string() }
}

fn no_model() -> Declined {
    declined(
        "no_model",
        &"this device has no model yet: start it with `hone run --model FILE`, or offer one with `hone promote FILE`",
    )
}

/// The strategy a person may name.
///
/// # Errors
/// The names that are known.
pub fn strategy(name: &str) -> Result<Retraining, String> {
    Ok(Retraining::Train(match name {
        "head" => Strategy::Head,
        "tail" => Strategy::Tail,
        "full" => Strategy::Full,
        "norm" | "bn-only" => Strategy::Norm,
        "continual" => return Ok(Retraining::Continual),
        other => return Err(format!("`{other}` is no strategy: use head, tail, full, norm (bn-only) or continual")),
    }))
}
