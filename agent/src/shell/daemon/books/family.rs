//! The lineage: which models there are, who made them, and what has become of them.
use serde_json::json;
use trainer_core::digest::Digest;

use super::{Books, RUNS_MAX};
use crate::decide::cycle::{Cycle, OrderTask};
use crate::shell::clock;
use crate::shell::store::{ModelRow, ModelStatus, RunRow, StoreError};

impl Books {
    /// The newest run that made or judged a model.
    pub(in crate::shell::daemon) fn run_of(&self, model: &Digest) -> Option<u64> {
        let of = |row: &&RunRow| row.candidate == Some(*model);
        let waiting = self.runs.values().rev().find(of).map(|row| row.number);
        let stored = || self.control.runs_newest(RUNS_MAX).ok()?.iter().find(of).map(|row| row.number);
        waiting.or_else(stored).and_then(|number| u64::try_from(number).ok())
    }

    /// Adds the first model.
    pub(in crate::shell::daemon) fn installed(&mut self, digest: Digest, role: &str) {
        self.model(digest, None, None, role, ModelStatus::Champion);
        self.say("installed", &json!({"kind": "installed", "model": digest, "role": role}));
    }

    /// Adds a model that waits for its verdict; one that is known keeps its row.
    pub(in crate::shell::daemon) fn candidate(
        &mut self,
        digest: Digest,
        parent: Option<Digest>,
        run: Option<i64>,
        role: &str,
    ) {
        if !self.models.contains_key(&digest) && !matches!(self.control.model(&digest), Ok(Some(_))) {
            self.model(digest, parent, run, role, ModelStatus::Candidate);
        }
    }

    fn model(&mut self, digest: Digest, parent: Option<Digest>, run: Option<i64>, role: &str, status: ModelStatus) {
        let role = role.to_owned();
        self.models.insert(digest, ModelRow { digest, role, parent, run, installed_at: clock::now(), status });
    }

    /// Every model ever known, with what has become of it, also what is not stored yet.
    pub(in crate::shell::daemon) fn models(&self) -> Result<Vec<ModelRow>, StoreError> {
        let mut rows = self.control.models()?;
        rows.retain(|row| !self.models.contains_key(&row.digest));
        rows.extend(self.models.values().cloned());
        Ok(rows)
    }

    pub(in crate::shell::daemon) fn lineage(&mut self, cycle: &Cycle, rejected: &[Digest]) {
        let (champion, previous, factory) = cycle.models();
        let work = cycle.orders().work;
        let tried = cycle.rollout().candidate().map(|candidate| candidate.digest);
        let waits = |row: &ModelRow| {
            tried == Some(row.digest)
                || work.as_ref().is_some_and(|order| {
                    row.run == i64::try_from(order.run).ok() || order.task == OrderTask::Judge { candidate: row.digest }
                })
        };
        let rows = match self.models() {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(error = %error.chain(), "the lineage cannot be read"),
        };
        for mut row in rows {
            let status = match row.status {
                _ if row.digest == champion => ModelStatus::Champion,
                _ if Some(row.digest) == previous => ModelStatus::Previous,
                _ if row.digest == factory => ModelStatus::Factory,
                _ if rejected.contains(&row.digest) => ModelStatus::Rejected,
                ModelStatus::Champion | ModelStatus::Previous => ModelStatus::Retired,
                // Judged, and then refitted on all rows under another name.
                ModelStatus::Candidate if !waits(&row) => ModelStatus::Retired,
                other => other,
            };
            if status != row.status {
                row.status = status;
                self.models.insert(row.digest, row);
            }
        }
    }
}
