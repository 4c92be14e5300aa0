//! The champion's adaptive form in the running agent: learns from every label, is published, saved, compared and frozen.
//!
//! ```text
//! sample ─► what every expert says ─┐
//! label  ─► learn ─► contest ───────┴─► each `publish_s`: a new head, numbered, written down, then served
//!                       └─ better ─► frozen ─► gate
//! ```
mod file;
mod freeze;
mod held;
mod views;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use trainer_core::adaptive::{Adaptive, Learnt, REBUILT_ROWS};
use trainer_core::digest::Digest;
use trainer_core::horizons::HorizonSettings;
use trainer_core::model::Model;
use trainer_core::ridge::SolveError;
use trainer_core::schema::Rows;
use ulid::Ulid;

use super::keeper::Keeper;
use super::work::rows_of;
use crate::config::Config;
use crate::decide::continual::ContinualSettings;
use crate::decide::policy::Policy;
use crate::decide::rollout::{Approval, Silence};
use crate::decide::value::CPU_S_PER_MAC;
use crate::shell::inference::{Adapted, Loaded};
use crate::shell::store::{NewRecord, RecordReader};
use file::Folder;

/// Seconds of its CPU share that learning may save up, for labels that come in a burst.
const BURST_S: f64 = 10.0;
/// Labels that are read at once when heads catch up after a start.
const CAUGHT_UP_AT_ONCE: usize = 1_000;

/// Heads that learn from every label, if they are to.
pub(super) struct Heads {
    settings: ContinualSettings,
    training: HorizonSettings,
    serves: bool,
    memory_bytes_max: u64,
    folder: Folder,
    learner: Option<Learner>,
    /// A champion whose heads cannot learn, so that it is told of once.
    given_up: Option<Digest>,
    /// Whether a freeze of the fleet holds who answers, and what is learnt.
    held: bool,
}

struct Learner {
    champion: Digest,
    model: Arc<Model>,
    adaptive: Adaptive,
    /// Ordinal of the newest label learnt.
    through: i64,
    /// Number of the head served last.
    number: i64,
    /// Labels learnt since.
    unpublished: u64,
    published_at: Instant,
    saved_at: Instant,
    unsaved: bool,
    /// Whether labels are stored that came before and are not learnt yet.
    is_behind: bool,
    /// Multiply-adds that learning may still spend.
    allowance: f64,
    /// Multiply-adds that are in the ledger already, or were spent before this start.
    booked_mac: u64,
}

impl Heads {
    pub(super) fn new(config: &Config, folder: PathBuf) -> Self {
        let asks = match config.rollout.approval {
            Approval::Auto | Approval::AskAfter { silence: Silence::Approve, .. } => false,
            Approval::Ask | Approval::AskAfter { silence: Silence::Reject, .. } => true,
        };
        let serves = matches!(config.cycle.policy, Policy::Value | Policy::Continual) && config.continual.serves(asks);
        Self {
            settings: config.continual.clone(),
            training: config.training.heads.clone(),
            serves,
            memory_bytes_max: config.budget.memory_bytes / 2,
            folder: Folder::at(folder),
            learner: None,
            given_up: None,
            held: false,
        }
    }

    /// Whether the mixture is to answer.
    pub(super) fn serves(&self) -> bool {
        self.serves
    }

    /// Most bytes the heads can need: the trainer has so many less.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.learner.as_ref().map_or(0, |learner| learner.adaptive.size_bytes_max() as u64)
    }

    /// Multiply-adds a second that learning may take on average.
    fn mac_per_s(&self) -> f64 {
        self.settings.cpu_share / CPU_S_PER_MAC
    }

    /// Takes samples that the champion answered.
    pub(super) fn sampled(&mut self, rows: &[f32], ids: &[Ulid]) {
        let Some(learner) = self.learner.as_mut().filter(|_| !self.held) else { return };
        let width = learner.model.schema().features.len().max(1);
        for (row, id) in rows.chunks_exact(width).zip(ids) {
            learner.adaptive.sampled(&learner.model, id.0, row);
        }
    }

    /// Makes sure that the heads are those of `champion`.
    fn belong_to(&mut self, champion: &Loaded, reader: &RecordReader, through: i64) {
        // A model that tells anomalies by what it cannot give back has no head.
        if !self.serves || self.given_up == Some(champion.digest) || champion.model.detects() {
            return;
        }
        match &mut self.learner {
            Some(learner) if learner.champion == champion.digest => return,
            Some(learner) if Adaptive::fits(&learner.model, &champion.model) => {
                learner.adaptive.champion_replaced();
                (learner.champion, learner.model) = (champion.digest, Arc::clone(&champion.model));
                (learner.unpublished, learner.unsaved) = (1, true);
                return;
            }
            _ => {}
        }
        let before = self.learner.take();
        let number = before.as_ref().map_or_else(|| self.folder.last_number(reader), |learner| learner.number);
        let begun = self.begin(champion, reader, through, number, before.as_ref());
        match begun {
            Ok(learner) => {
                let bytes = learner.adaptive.size_bytes_max() as u64;
                if bytes > self.memory_bytes_max {
                    tracing::warn!(
                        bytes,
                        "the heads would need more than half of the memory budget: the bare champion answers; raise \
                         budget.memory_bytes or lower training.heads.horizons"
                    );
                    self.given_up = Some(champion.digest);
                } else {
                    self.learner = Some(learner);
                }
            }
            Err(reason) => {
                tracing::warn!(reason, "the heads cannot learn for model {}", champion.digest.short());
                self.given_up = Some(champion.digest);
            }
        }
    }

    /// Heads from what was saved of them, else from the newest labelled records.
    fn begin(
        &self,
        champion: &Loaded,
        reader: &RecordReader,
        through: i64,
        number: i64,
        before: Option<&Learner>,
    ) -> Result<Learner, String> {
        let model = &champion.model;
        let labelled = |after: i64, limit: usize| reader.labelled_since(after, limit).map_err(|error| error.chain());
        let saved = self.folder.read(&champion.digest);
        let (adaptive, learnt_through) = match saved.map(|saved| self.taken_up(saved, model, reader)) {
            Some(Ok(found)) => found,
            other => {
                if let Some(Err(reason)) = other {
                    tracing::warn!(reason, "the heads are built anew from the newest labelled records");
                }
                let newest = reader.newest_labelled(REBUILT_ROWS).map_err(|error| error.chain())?;
                let known: Vec<_> = newest.into_iter().filter(|row| row.ordinal <= through).collect();
                let rows = rows_of(model.schema(), &known);
                let before = before.map(|learner| &learner.adaptive);
                let rebuilt = Adaptive::rebuilt(model, &self.training, &rows, before);
                (rebuilt.map_err(|error| error.to_string())?, through)
            }
        };
        let now = Instant::now();
        let mut learner = Learner {
            champion: champion.digest,
            model: Arc::clone(model),
            adaptive,
            through: learnt_through,
            number,
            unpublished: 1,
            published_at: now,
            saved_at: now,
            unsaved: true,
            is_behind: false,
            allowance: self.mac_per_s() * BURST_S,
            booked_mac: 0,
        };
        learner.booked_mac = learner.adaptive.horizons().work_mac();
        // What came after the save.
        learner.is_behind = self.held && learner.through < through;
        while learner.through < through && !learner.is_behind {
            let rows = labelled(learner.through, CAUGHT_UP_AT_ONCE)?;
            if rows.first().is_none_or(|row| row.ordinal > through) {
                break;
            }
            learner.catch_up_with(&rows, through)?;
        }
        Ok(learner)
    }

    fn taken_up(
        &self,
        saved: file::SavedHeads,
        model: &Model,
        reader: &RecordReader,
    ) -> Result<(Adaptive, i64), String> {
        let needed = saved.heads.rows_needed();
        // Ordinals may skip numbers, never repeat them: the rows before the save are among the newest stored.
        let newest = reader.newest_labelled(needed + REBUILT_ROWS).map_err(|error| error.chain())?;
        let mut before: Vec<_> = newest.into_iter().filter(|row| row.ordinal <= saved.through).collect();
        before.drain(..before.len().saturating_sub(needed));
        let rows: Rows = rows_of(model.schema(), &before);
        // Records may be gone: dropped to spare the disk, or not in the backup.
        let (heads, rows) = if rows.len() == needed {
            (saved.heads, rows)
        } else {
            tracing::warn!(
                needed,
                found = rows.len(),
                "labelled records behind the saved heads are gone: the heads go on without them"
            );
            (saved.heads.without_newer(), rows.slice(0..0))
        };
        let adaptive = Adaptive::restored(heads, model, &self.training, &rows).map_err(|error| error.to_string())?;
        Ok((adaptive, saved.through))
    }

    /// Writes the heads to the disk, if anything was learnt since they were last.
    pub(super) fn save(&mut self) {
        let Some(learner) = self.learner.as_mut().filter(|learner| learner.unsaved) else { return };
        let heads =
            file::SavedHeads { champion: learner.champion, through: learner.through, heads: learner.adaptive.saved() };
        learner.saved_at = Instant::now();
        match self.folder.write(&heads) {
            Ok(()) => learner.unsaved = false,
            Err(error) => tracing::warn!(%error, "the heads cannot be saved; they can be built again from the records"),
        }
    }
}

impl Learner {
    /// Learns one label and books what that took: beyond the allowance, blocks become twice as long.
    fn learn(&mut self, key: u128, row: &[f32], truth: &[f32]) -> Result<Learnt, String> {
        self.booked(|adaptive, model| adaptive.labelled(model, key, row, truth))
    }

    /// Learns one label of before this start.
    fn catch_up(&mut self, row: &[f32], truth: &[f32]) -> Result<(), String> {
        self.booked(|adaptive, model| adaptive.caught_up(model, row, truth))
    }

    /// Labels in the heads, and the multiply-adds that learning took since this was last asked.
    fn book(&mut self) -> (i64, u64) {
        let horizons = self.adaptive.horizons();
        let spent = horizons.work_mac().saturating_sub(self.booked_mac);
        self.booked_mac = horizons.work_mac();
        (i64::try_from(horizons.rows()).unwrap_or(i64::MAX), spent)
    }

    fn booked<T>(&mut self, learn: impl FnOnce(&mut Adaptive, &Model) -> Result<T, SolveError>) -> Result<T, String> {
        let before = self.adaptive.horizons().work_mac();
        let learnt = learn(&mut self.adaptive, &self.model).map_err(|error| error.to_string())?;
        let spent = self.adaptive.horizons().work_mac() - before;
        self.allowance -= spent as f64;
        if self.allowance < 0.0 && self.adaptive.stretch() {
            self.allowance = 0.0;
        }
        self.unpublished += 1;
        self.unsaved = true;
        Ok(learnt)
    }
}

impl Keeper {
    /// Lets the heads of the ordered champion learn and, where they are to answer, answer; else the bare champion does.
    pub(super) fn adapt(&mut self) {
        let Some(serving) = self.shared.slot.serving() else { return };
        let Some(saved) = &self.saved else { return };
        self.heads.belong_to(&serving.champion, &self.shared.reader, saved.ordinal);
        let reserved = self.heads.memory_bytes();
        self.warden.reserve(reserved);
        if saved.cycle.serves_mixture(&self.rules.cycle) {
            self.publish();
        } else if self.shared.slot.adapted(&serving.champion.digest).is_some() {
            self.shared.slot.adapt(None);
        }
    }

    /// Serves what the heads have become, if they have changed and no freeze holds them.
    fn publish(&mut self) {
        if self.heads.held { self.answer_as_held() } else { self.publish_newest() }
    }

    /// Written down first, visible second.
    fn publish_newest(&mut self) {
        let Heads { learner: Some(learner), folder, .. } = &mut self.heads else { return };
        if learner.unpublished == 0 && self.shared.slot.adapted(&learner.champion).is_some() {
            return;
        }
        let mixture = learner.adaptive.mixture();
        let number = learner.number + 1;
        if let Err(error) = folder.note(number, &learner.champion, learner.through, &mixture.digest()) {
            tracing::warn!(%error, "a new head cannot be put on record, so the one before goes on answering");
            return;
        }
        (learner.number, learner.unpublished, learner.published_at) = (number, 0, Instant::now());
        self.shared.slot.adapt(Some(Adapted { champion: learner.champion, number, mixture }));
    }

    /// Lets the heads learn one label, and the contest of mixture and champion with them.
    pub(super) fn learn(&mut self, ordinal: i64, record: &NewRecord, truth: &[f32]) {
        let Some(learner) = &mut self.heads.learner else { return };
        if ordinal <= learner.through || record.features.len() != learner.model.schema().features.len() {
            return;
        }
        if self.heads.held || learner.is_behind {
            learner.is_behind = true;
            return self.judge_held(record, truth);
        }
        learner.through = ordinal;
        let learnt = match learner.learn(record.id.0, &record.features, truth) {
            Ok(learnt) => learnt,
            Err(reason) => {
                tracing::warn!(reason, "the heads cannot learn any more; the bare champion answers");
                self.heads.given_up = Some(learner.champion);
                self.heads.learner = None;
                return self.shared.slot.adapt(None);
            }
        };
        let own = record.model == learner.champion;
        let model = Arc::clone(&learner.model);
        // What was served counts before what would have been.
        let served = (own && record.adaptation > 0).then(|| model.loss(&record.output, truth));
        let Some(saved) = &mut self.saved else { return };
        if let Some(mixed) = served.or(learnt.mixed).filter(|_| own) {
            let reports = saved.cycle.compared(learnt.bare, mixed, &self.rules.cycle);
            self.after(&reports);
        }
        // Why it was not frozen is logged where it is found out.
        let _ = self.freeze_mixture();
    }

    /// Every second: gives learning its share, serves what was learnt, saves now and then.
    pub(super) fn heads_tick(&mut self) {
        let per_s = self.heads.mac_per_s();
        let (publish_s, save_s) = (self.heads.settings.publish_s, self.heads.settings.save_s);
        let known = self.saved.as_ref().map_or(0, |saved| saved.ordinal);
        self.heads.catch_up(&self.shared.reader, known);
        let held = self.heads.held;
        let Some(learner) = &mut self.heads.learner else { return };
        learner.allowance += per_s;
        if learner.allowance > per_s * BURST_S {
            learner.allowance = per_s * BURST_S;
            learner.adaptive.relax();
        }
        let due = !held && learner.unpublished > 0 && learner.published_at.elapsed().as_secs() >= publish_s;
        let save = learner.unsaved && learner.saved_at.elapsed().as_secs() >= save_s;
        if due {
            self.adapt();
        }
        if save {
            self.heads.save();
        }
    }
}
