//! The first model of a device, and the one it goes back to when its state was lost.
use std::path::Path;

use serde_json::json;
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Strategy;

use super::DaemonError;
use super::keeper::Keeper;
use crate::decide::floors::Floors;
use crate::shell::disk::RealDisk;
use crate::shell::files::{remove_unfinished, sync_folder};
use crate::shell::models::{Door, Installed, ModelStore, Refused, Vault, envelope_path, read_limited};
use crate::shell::store::{SetAside, StoreError};

/// What `--model` names, with the signature beside it.
pub(super) struct FirstModel {
    bytes: Vec<u8>,
    envelope: Option<Vec<u8>>,
    path: std::path::PathBuf,
}

impl FirstModel {
    /// Reads the file and the `.dsse` beside it.
    ///
    /// # Errors
    /// [`DaemonError::ReadModel`], [`DaemonError::Bundle`].
    pub(super) fn read(path: &Path) -> Result<Self, DaemonError> {
        let bytes = read_limited(&RealDisk, path).map_err(|refused| match refused {
            Refused::Store(StoreError::Io { source, .. }) => DaemonError::ReadModel { path: path.to_owned(), source },
            refused => DaemonError::Bundle { path: path.to_owned(), source: Box::new(refused) },
        })?;
        // Refused before anything is stored.
        bundle::read(&bytes)
            .map_err(|source| DaemonError::Bundle { path: path.to_owned(), source: Box::new(source.into()) })?;
        let envelope = read_limited(&RealDisk, &envelope_path(path)).ok();
        Ok(Self { bytes, envelope, path: path.to_owned() })
    }
}

/// Installs the named model on a device that has none; after the loss of `control.db`, the one the device came with.
pub(super) fn first_model(
    keeper: &mut Keeper,
    model: Option<FirstModel>,
    set_aside: &[SetAside],
) -> Result<(), DaemonError> {
    for SetAside { path, reason } in set_aside {
        tracing::error!(kept = %path.display(), reason, "a damaged database was set aside");
        keeper.books.say("set_aside", &json!({"kind": "set_aside", "kept": path, "reason": reason}));
    }
    let floors = keeper.floors();
    if keeper.saved.is_none()
        && !set_aside.is_empty()
        && let Some(installed) = factory(&keeper.models, &keeper.gatehouse.vault, &floors)
    {
        tracing::warn!(model = %installed.digest.short(), "the state was lost: the model this device came with serves");
        keeper.install(&installed);
    }
    let Some(FirstModel { bytes, envelope, path }) = model else { return Ok(()) };
    let digest = Digest::of(&bytes);
    let known = keeper.saved.as_ref().map(|saved| saved.cycle.models());
    let refused = |refused: Refused| match refused {
        Refused::Store(error) => DaemonError::Store(error),
        refused => DaemonError::Bundle { path: path.clone(), source: Box::new(refused) },
    };
    let Some((champion, previous, factory)) = known else {
        let vault = &keeper.gatehouse.vault;
        let installed = vault.install(&bytes, envelope.as_deref(), Door::Local, &floors, None).map_err(refused)?;
        tracing::info!(model = %digest.short(), "{}", installed.standing.sentence());
        keeper.install(&installed);
        return Ok(());
    };
    if [Some(champion), previous, Some(factory)].contains(&Some(digest)) {
        // Repairs a damaged file, if it is one.
        keeper.models.put(&bytes)?;
    } else if !keeper.books.models()?.iter().any(|row| row.digest == digest) {
        return Err(DaemonError::OtherModel { champion: champion.short(), offered: digest.short() });
    }
    if digest != champion {
        tracing::info!("--model {} is known; model {} serves by the stored state", digest.short(), champion.short());
    }
    Ok(())
}

/// A model trained from nothing, among the stored ones somebody answers for: what a device without its state goes back to.
fn factory(models: &ModelStore, vault: &Vault, floors: &Floors) -> Option<Installed> {
    let read = |digest: Digest| {
        let bytes = vault.bytes(&digest, floors).ok()?;
        Some((bundle::read(&bytes).ok()?.manifest.provenance.strategy == Strategy::Base, digest))
    };
    let known: Vec<_> = models.list().ok()?.into_iter().filter_map(read).collect();
    let (_, digest) = known.iter().find(|(is_base, _)| *is_base).or(known.first())?;
    vault.reinstall(digest, floors).ok()
}

/// Clears what an interrupted start or install left in the state directory.
pub(super) fn clear(state_dir: &Path, vault: &Vault) -> Result<(), StoreError> {
    let failed = |source| StoreError::io("clean", state_dir, source);
    if remove_unfinished(state_dir).map_err(failed)? > 0 {
        sync_folder(state_dir).map_err(failed)?;
    }
    vault.tidy()
}
