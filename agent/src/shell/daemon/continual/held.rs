//! A freeze and the heads: who answered when it began answers until it ends, also over a restart; labels that come meanwhile are
//! learnt afterwards.
use std::sync::Arc;

use trainer_core::model::Work;

use super::file::Held;
use super::{CAUGHT_UP_AT_ONCE, Heads, Learner};
use crate::shell::daemon::keeper::Keeper;
use crate::shell::inference::Adapted;
use crate::shell::store::{LabelledRow, NewRecord, RecordReader};

impl Heads {
    /// Learns the next of the labels that came while nothing was learnt, those up to `through`.
    pub(super) fn catch_up(&mut self, reader: &RecordReader, through: i64) {
        let Some(learner) = self.learner.as_mut().filter(|learner| learner.is_behind && !self.held) else { return };
        let learnt = reader.labelled_since(learner.through, CAUGHT_UP_AT_ONCE).map_err(|error| error.chain());
        match learnt.and_then(|rows| learner.catch_up_with(&rows, through).map(|()| rows.len())) {
            Ok(count) => learner.is_behind = count == CAUGHT_UP_AT_ONCE && learner.through < through,
            Err(reason) => tracing::warn!(reason, "labels that came during the freeze are not learnt yet"),
        }
    }
}

impl Learner {
    /// Learns labelled rows in the order of their labels: their opinions are gone, so the sums learn and the weights do not.
    pub(super) fn catch_up_with(&mut self, rows: &[LabelledRow], through: i64) -> Result<(), String> {
        let (features, truths) = (self.model.schema().features.len(), self.model.schema().truths());
        for row in rows.iter().filter(|row| row.ordinal <= through) {
            if row.features.len() == features && row.truth.len() == truths {
                self.catch_up(&row.features, &row.truth)?;
            }
            self.through = row.ordinal;
        }
        Ok(())
    }
}

impl Keeper {
    /// At a start: whether a freeze that is in force holds the heads; nothing is kept of one that is over.
    pub(in crate::shell::daemon) fn begin_held(&mut self) {
        self.heads.held = self.frozen().is_some();
        if !self.heads.held {
            self.let_go();
        }
    }

    /// Holds who answers and what is learnt while the fleet has frozen this device, and lets both go on when that ends.
    pub(in crate::shell::daemon) fn hold_heads(&mut self, is_frozen: bool) {
        if self.heads.held == is_frozen {
            return;
        }
        self.heads.held = is_frozen;
        if is_frozen {
            self.heads.save();
            self.keep_who_answers();
            return;
        }
        self.let_go();
        if let Some(learner) = &mut self.heads.learner {
            learner.unpublished = learner.unpublished.max(1);
        }
        self.adapt();
    }

    fn keep_who_answers(&self) {
        let Some(serving) = self.shared.slot.serving() else { return };
        let champion = serving.champion.digest;
        let head = self.shared.slot.adapted(&champion).map(|adapted| (adapted.number, adapted.mixture.clone()));
        if let Err(error) = self.heads.folder.hold(&Held { champion, head }) {
            tracing::warn!(%error, "who answers is held, but a restart during the freeze may let a newer head answer");
        }
    }

    fn let_go(&self) {
        if let Err(error) = self.heads.folder.let_go() {
            tracing::warn!(%error, "what a freeze had held stays on the disk until the next one");
        }
    }

    /// Lets the head of when the freeze began answer; where that is not known, for the power went in that moment, the newest one.
    pub(super) fn answer_as_held(&mut self) {
        let Heads { learner: Some(learner), folder, .. } = &self.heads else { return };
        let champion = learner.champion;
        if self.shared.slot.adapted(&champion).is_some() {
            return;
        }
        match folder.who_is_held() {
            Some(Held { champion: held, head: Some((number, mixture)) }) if held == champion => {
                self.shared.slot.adapt(Some(Adapted { champion, number, mixture }));
            }
            // The bare champion answered, or another model did: after a way back nothing adapts before the thaw.
            Some(_) => {}
            None => {
                self.publish_newest();
                self.keep_who_answers();
            }
        }
    }

    /// A label that is not learnt now still says whether what answers is worse than the bare champion: that way stays open.
    pub(super) fn judge_held(&mut self, record: &NewRecord, truth: &[f32]) {
        let Some(learner) = &self.heads.learner else { return };
        if record.model != learner.champion || record.adaptation == 0 {
            return;
        }
        let (model, mut work) = (Arc::clone(&learner.model), Work::default());
        model.answer(&record.features, &mut work);
        let (bare, mixed) = (model.loss(&work.answer, truth), model.loss(&record.output, truth));
        let Some(saved) = &mut self.saved else { return };
        let reports = saved.cycle.compared(bare, mixed, &self.rules.cycle);
        self.after(&reports);
    }
}
