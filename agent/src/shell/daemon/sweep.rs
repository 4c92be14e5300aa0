//! What may be removed from the store after a commit, and the removal.
use std::collections::BTreeSet;

use serde_json::{Value, json};
use trainer_core::digest::Digest;

use super::keeper::Keeper;
use super::shared::Declined;
use crate::decide::collect::{Known, Stored, Wish, doomed};
use crate::decide::cycle::OrderTask;
use crate::shell::store::{ModelStatus, StoreError};
use crate::shell::trainer::runs;

impl Keeper {
    /// Every model that something still needs: champion, previous, factory, last good, what is under way, what a kept snapshot
    /// started from, and the vendor's models these descend from.
    pub(super) fn reachable(&self) -> BTreeSet<Digest> {
        let Some(saved) = &self.saved else { return BTreeSet::new() };
        let (champion, previous, factory) = saved.cycle.models();
        let mut kept = BTreeSet::from([champion, factory]);
        kept.extend(previous);
        // One of them may be brought back.
        kept.extend(saved.cycle.earlier());
        kept.extend(saved.loading.last_good(champion));
        kept.extend(saved.cycle.rollout().candidate().map(|candidate| candidate.digest));
        kept.extend(saved.cycle.orders().trial.compare);
        if let Some(order) = saved.cycle.orders().work {
            kept.insert(order.parent);
            kept.extend(order.refit_of);
            if let OrderTask::Judge { candidate } = order.task {
                kept.insert(candidate);
            }
        }
        kept.extend(runs::parents(&self.snapshots));
        let ancestors: Vec<_> = kept.iter().filter_map(|digest| self.gatehouse.vault.ancestor(digest)).collect();
        kept.extend(ancestors);
        kept
    }

    /// Removes model files nobody needs any more; only after a commit, and not while work may add some.
    pub(super) fn sweep(&self) {
        match self.doomed(Wish::Routine) {
            Ok(doomed) => doomed.iter().for_each(|digest| {
                if let Err(error) = self.gatehouse.vault.remove(digest) {
                    tracing::warn!(error = %error.chain(), "a model nobody needs stays");
                }
            }),
            Err(error) => tracing::warn!(error = %error.chain(), "models nobody needs stay"),
        }
    }

    fn doomed(&self, wish: Wish) -> Result<Vec<Digest>, StoreError> {
        let rows = self.books.models()?;
        let known = |digest: &Digest| match rows.iter().find(|row| row.digest == *digest) {
            None => Known::Nothing,
            Some(row) => match row.status {
                ModelStatus::Rejected | ModelStatus::Retired | ModelStatus::Candidate => {
                    Known::Parted(row.installed_at)
                }
                ModelStatus::Factory | ModelStatus::Champion | ModelStatus::Previous => Known::InUse,
            },
        };
        let stored: Vec<_> =
            self.models.list()?.into_iter().map(|digest| Stored { digest, known: known(&digest) }).collect();
        Ok(doomed(&stored, &self.reachable(), wish))
    }

    /// A person asks for it, or for what it would do.
    pub(super) fn collect_by_command(&mut self, dry: bool) -> Result<Value, Declined> {
        let declined = |code, reason: String| Declined { code, reason };
        if self.saved.is_none() {
            return Err(declined(
                "no_model",
                "this device has no model yet: nothing says which files it needs".to_owned(),
            ));
        }
        if self.working.is_some() || self.books.is_waiting() {
            return Err(declined(
                "busy",
                "a training or a commit is under way: try again when it has ended".to_owned(),
            ));
        }
        let disk = |error: StoreError| declined("disk", error.chain());
        let doomed = self.doomed(Wish::Command).map_err(disk)?;
        let bytes = |digest: &Digest| std::fs::metadata(self.models.path(digest)).map_or(0, |about| about.len());
        let files: Vec<_> = doomed.iter().map(|digest| json!({"digest": digest, "bytes": bytes(digest)})).collect();
        if !dry {
            doomed.iter().try_for_each(|digest| self.gatehouse.vault.remove(digest)).map_err(disk)?;
        }
        let kept = self.models.list().map_err(disk)?.len() - if dry { doomed.len() } else { 0 };
        Ok(json!({"dry_run": dry, "removed": files, "kept": kept}))
    }
}
