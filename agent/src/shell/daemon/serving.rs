//! Who answers: counted on disk, checked, vetted where it has not proven itself, then swapped in; else the next of the chain.
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use trainer_core::bundle;
use trainer_core::digest::Digest;

use super::keeper::Keeper;
use super::{DaemonError, first};
use crate::config::Config;
use crate::decide::cycle;
use crate::decide::floors::Floors;
use crate::decide::loading::{Admission, LoadingRules};
use crate::decide::sample::BaselineRows;
use crate::shell::inference::{Loaded, Serving};
use crate::shell::models::vetting::Vetting;
use crate::shell::models::{DeviceKey, FloorsFile, ModelStore, Refused, Standing, Vault};

/// What loading a model needs beside its file.
pub(super) struct Gatehouse {
    pub(super) vault: Vault,
    pub(super) vetting: Vetting,
    pub(super) floors_file: FloorsFile,
    pub(super) rules: LoadingRules,
    /// Came through vetting since this start.
    pub(super) vetted: BTreeSet<Digest>,
    /// Who answers for the champion, and its epoch.
    pub(super) champion: Option<(Standing, u32)>,
}

impl Gatehouse {
    /// Opens what the state directory holds of it and clears what an interruption left.
    ///
    /// # Errors
    /// The disk refuses, or a key of the settings is none.
    pub(super) fn open(
        state_dir: &Path,
        models: &ModelStore,
        config: &Config,
        vetting: Vetting,
    ) -> Result<Self, DaemonError> {
        let wrong = |_| DaemonError::System(io::Error::other("a trusted key is none"));
        let mut keys = config.mqtt.keys().map_err(wrong)?;
        config.models.trust(&mut keys).map_err(wrong)?;
        let required = config.models.requires(&keys);
        let own = DeviceKey::open(&**models.disk(), state_dir)?;
        let device = config.mqtt.device.parse().ok();
        let vault = Vault::new(models.clone(), own, keys, device, required)
            .map_err(|error| DaemonError::System(io::Error::other(error)))?;
        first::clear(state_dir, &vault)?;
        let (floors_file, damaged) = FloorsFile::open(Arc::clone(models.disk()), state_dir)?;
        for path in damaged {
            tracing::error!(file = %path.display(), "a generation of the floors is damaged; the other one counts");
        }
        let rules = config.models.rules();
        Ok(Self { vault, vetting, floors_file, rules, vetted: BTreeSet::new(), champion: None })
    }
}

impl Keeper {
    /// Lets the ordered models answer. A champion that cannot be served gives way to the last good model, the previous one, the
    /// factory's, and at last to no model, with which everything but answering goes on.
    pub(super) fn serve(&mut self) {
        let Some(saved) = &self.saved else { return };
        let (champion, previous, factory) = saved.cycle.models();
        let serving = self.shared.slot.serving();
        let serves = serving.as_ref().map(|serving| {
            let previous = serving.previous.as_ref().map(|loaded| loaded.digest);
            (serving.champion.digest, previous)
        });
        if serves == Some((champion, previous)) {
            return;
        }
        let known = serving.as_ref().map(|serving| &serving.champion).filter(|loaded| loaded.digest == champion);
        let reason = match known.cloned().map_or_else(|| self.admit(champion, champion == factory), Ok) {
            Ok(loaded) => return self.swap(loaded, previous),
            Err(reason) => reason,
        };
        if self.unloadable.replace(champion) != Some(champion) {
            tracing::error!(reason, "the champion cannot be served");
            self.books.say("model_damaged", &json!({"digest": champion, "reason": reason}));
        }
        let chain = self.saved.as_ref().map(|saved| saved.loading.chain(champion, previous, factory));
        let older = chain.unwrap_or_default().into_iter().filter(|digest| *digest != champion);
        let Some(loaded) = older.into_iter().find_map(|digest| self.admit(digest, digest == factory).ok()) else {
            tracing::error!("no model can be served: samples are refused until one is installed");
            self.commit();
            self.shared.slot.swap(None);
            return;
        };
        let Some(saved) = &mut self.saved else { return };
        let (reference, baseline) = (loaded.model.manifest.reference, BaselineRows::of(&loaded.model));
        let event = cycle::Event::FallBack { to: loaded.digest, reference, baseline };
        let reports = saved.cycle.step(event, &self.rules.cycle).unwrap_or_default();
        let previous = saved.cycle.models().1;
        self.books.note(&reports, &saved.cycle);
        // A device that cannot write still answers: the older model serves, its report waits for the disk.
        self.commit();
        self.swap(loaded, previous);
    }

    fn swap(&mut self, champion: Loaded, previous: Option<Digest>) {
        let previous = previous.and_then(|digest| self.load(&digest).ok());
        let before = self.shared.slot.serving().map(|serving| serving.champion.digest);
        let after = champion.digest;
        self.shared.slot.swap(Some(Serving { champion, previous }));
        if before == Some(after) {
            return;
        }
        tracing::info!(model = %after.short(), "serving");
        let floors = self.floors();
        self.gatehouse.champion = self.gatehouse.vault.standing(&after, &floors).ok();
        if let (Some(saved), Some(before)) = (&mut self.saved, before) {
            saved.loading.left(&before);
            self.changed += 1;
        }
    }

    /// Loads a model that shall serve: its start is counted and stored first, so that one that takes the agent down runs out of
    /// tries; then signature, bytes and, unless it has proven itself, vetting. `last`: nothing is left to fall back to.
    ///
    /// # Errors
    /// Why it may not, in words.
    pub(super) fn admit(&mut self, digest: Digest, last: bool) -> Result<Loaded, String> {
        let rules = self.gatehouse.rules;
        let Some(saved) = &mut self.saved else { return Err("there is no state yet".to_owned()) };
        let Admission::Granted { vet } = saved.loading.begin(digest, last, &rules) else {
            return Err(Refused::Denied(digest).to_string());
        };
        // A device that cannot write still answers.
        self.commit();
        let loaded = self.load_after(digest, vet);
        if let (Err(refused), Some(saved)) = (&loaded, &mut self.saved) {
            // A damaged file may be repaired; what hung or answers no number does so again.
            match refused {
                Refused::Vetting(_) if !last => saved.loading.deny(digest),
                _ => saved.loading.left(&digest),
            }
        }
        loaded.map_err(|refused| refused.to_string())
    }

    fn load_after(&mut self, digest: Digest, vet: bool) -> Result<Loaded, Refused> {
        if let Some(loaded) = self.in_memory(&digest) {
            return Ok(loaded);
        }
        let bytes = self.gatehouse.vault.bytes(&digest, &self.floors())?;
        if vet && !self.gatehouse.vetted.contains(&digest) {
            self.gatehouse.vetting.vet(&bytes)?;
            self.gatehouse.vetted.insert(digest);
        }
        Ok(Loaded { model: Arc::new(bundle::read(&bytes)?), digest })
    }

    fn in_memory(&self, digest: &Digest) -> Option<Loaded> {
        self.shared.slot.serving().and_then(|serving| serving.version(digest).cloned())
    }

    /// A model in memory, from the slot or from its file: to be looked at, or kept ready beside the one that serves.
    ///
    /// # Errors
    /// Why not, in words.
    pub(super) fn load(&self, digest: &Digest) -> Result<Loaded, String> {
        if let Some(loaded) = self.in_memory(digest) {
            return Ok(loaded);
        }
        if self.saved.as_ref().is_some_and(|saved| saved.loading.is_denied(digest)) {
            return Err(Refused::Denied(*digest).to_string());
        }
        let read = || -> Result<Loaded, Refused> {
            let bytes = self.gatehouse.vault.bytes(digest, &self.floors())?;
            Ok(Loaded { model: Arc::new(bundle::read(&bytes)?), digest: *digest })
        };
        read().map_err(|refused| refused.to_string())
    }

    /// What may not come back.
    pub(super) fn floors(&self) -> Floors {
        self.saved.as_ref().map_or_else(|| self.gatehouse.floors_file.floors().clone(), |saved| saved.floors.clone())
    }

    /// Answers the champion has given.
    pub(super) fn answered(&mut self, answers: usize) {
        if let (Some(saved), Some(serving)) = (&mut self.saved, self.shared.slot.serving()) {
            saved.loading.answered(&serving.champion.digest, answers as u64);
        }
    }

    /// A second of serving more. A model that has proven itself is told of, and its epoch is the lowest from now on.
    pub(super) fn served_a_second(&mut self) {
        let (Some(saved), Some(serving)) = (&mut self.saved, self.shared.slot.serving()) else { return };
        let champion = serving.champion.digest;
        if saved.loading.served(&champion, 1, &self.gatehouse.rules) {
            let epoch = self.gatehouse.champion.map_or(0, |(_, epoch)| epoch);
            saved.floors.epoch = saved.floors.epoch.max(epoch);
            self.books.say("model_good", &json!({"kind": "model_good", "digest": champion, "epoch": epoch}));
            self.changed += 1;
            self.commit();
        }
    }

    /// The champion answered no number: it serves no more.
    pub(super) fn unsound(&mut self, digest: Digest) {
        let Some(saved) = &mut self.saved else { return };
        let (champion, _, factory) = saved.cycle.models();
        if digest != champion || champion == factory || saved.loading.is_denied(&digest) {
            return;
        }
        saved.loading.deny(digest);
        self.changed += 1;
        // It is in memory; what is denied is not taken from there.
        self.shared.slot.swap(self.shared.slot.serving().and_then(|serving| {
            let previous = serving.previous.clone()?;
            Some(Serving { champion: previous, previous: None })
        }));
        self.carry_out();
    }

    /// Books a candidate that the trainer made here, and signs it as this device.
    ///
    /// # Errors
    /// Why the device may not answer for it, in words.
    pub(super) fn answer_for(&mut self, candidate: Digest, parent: Digest) -> Result<(), String> {
        let Some(saved) = &mut self.saved else { return Ok(()) };
        if self.gatehouse.vault.envelope(&candidate).is_ok_and(|envelope| envelope.is_some()) {
            return Ok(());
        }
        self.gatehouse.vault.sign(candidate, parent, &mut saved.floors).map_err(|refused| refused.to_string())
    }

    /// How the champion stands, for the status.
    pub(super) fn loading_view(&self) -> Value {
        let Some(saved) = &self.saved else { return Value::Null };
        let (champion, ..) = saved.cycle.models();
        json!({
            "good": saved.loading.is_good(&champion),
            "tries_left": saved.loading.tries_left(&champion, &self.gatehouse.rules),
            "last_good": saved.loading.last_good(champion),
            "denied": saved.loading.denied().collect::<Vec<_>>(),
            "epoch_floor": saved.floors.epoch,
            "signature_required": self.gatehouse.vault.requires_signature(),
            "device_key": self.gatehouse.vault.device_key(),
        })
    }
}
