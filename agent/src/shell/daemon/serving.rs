//! Who answers: counted on disk, checked, vetted where it has not proven itself, then swapped in; else the next of the chain.
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use fleet_protocol::keys::KeySet;
use serde_json::{Value, json};
use trainer_core::bundle;
use trainer_core::digest::Digest;

use super::keeper::Keeper;
use super::{DaemonError, first};
use crate::config::Config;
use crate::decide::cycle;
use crate::decide::floors::Floors;
use crate::decide::loading::{Admission, LoadingRules};
use crate::decide::rollout;
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
    /// What the vault answers for under these floors: to read and verify whole files at each swap would take its time.
    answered_for: RefCell<(Floors, BTreeSet<Digest>)>,
    /// Who answers for the champion, and its epoch.
    pub(super) champion: Option<(Standing, u32)>,
}

impl Gatehouse {
    /// Whether the vault answers for a model under these floors.
    fn answers_for(&self, digest: Digest, floors: &Floors) -> bool {
        let mut known = self.answered_for.borrow_mut();
        if known.0 != *floors {
            *known = (floors.clone(), BTreeSet::new());
        }
        known.1.contains(&digest) || (self.vault.bytes(&digest, floors).is_ok() && known.1.insert(digest))
    }

    /// Opens what the state directory holds of it and clears what an interruption left. `believed` are the keys that count for
    /// bundles that come in, where they are fewer than those of the settings.
    ///
    /// # Errors
    /// The disk refuses, or a key of the settings is none.
    pub(super) fn open(
        state_dir: &Path,
        models: &ModelStore,
        config: &Config,
        believed: Option<KeySet>,
        vetting: Vetting,
    ) -> Result<Self, DaemonError> {
        let wrong = |_| DaemonError::System(io::Error::other("a trusted key is none"));
        let mut keys = config.mqtt.keys().map_err(wrong)?;
        config.models.trust(&mut keys).map_err(wrong)?;
        let required = config.models.requires(&keys);
        let own = DeviceKey::open(&**models.disk(), state_dir)?;
        let device = config.mqtt.device.parse().ok();
        let vault = Vault::new(models.clone(), own, keys, device, required);
        let vault = vault.and_then(|vault| match believed {
            Some(keys) => vault.believing(keys),
            None => Ok(vault),
        });
        let vault = vault.map_err(|error| DaemonError::System(io::Error::other(error)))?;
        first::clear(state_dir, &vault)?;
        let (floors_file, damaged) = FloorsFile::open(Arc::clone(models.disk()), state_dir)?;
        for path in damaged {
            tracing::error!(file = %path.display(), "a generation of the floors is damaged; the other one counts");
        }
        let rules = config.models.rules();
        Ok(Self {
            vault,
            vetting,
            floors_file,
            rules,
            vetted: BTreeSet::new(),
            answered_for: RefCell::default(),
            champion: None,
        })
    }
}

impl Keeper {
    /// Lets the ordered models answer. A champion that cannot be served gives way to the last good model, the previous one, the
    /// factory's, and at last to no model, with which everything but answering goes on.
    pub(super) fn serve(&mut self) {
        loop {
            let Some(saved) = &self.saved else { return };
            let (champion, previous, factory) = saved.cycle.models();
            let trial = saved.cycle.orders().trial;
            let serving = self.shared.slot.serving();
            let serves = serving.as_ref().map(|serving| {
                let digest = |loaded: &Option<Loaded>| loaded.as_ref().map(|loaded| loaded.digest);
                (serving.champion.digest, digest(&serving.previous), digest(&serving.rival), serving.route)
            });
            // A candidate that is rejected is not to be had by its name any more, even if nothing else changes.
            let keeps = serving.as_ref().is_some_and(|serving| serving.kept == self.kept(champion, previous));
            if keeps && serves == Some((champion, previous, trial.compare, trial.route)) {
                return;
            }
            // The challenger was admitted when its trial began.
            let begun = serving.iter().flat_map(|serving| std::iter::once(&serving.champion).chain(&serving.rival));
            let known = begun.into_iter().find(|loaded| loaded.digest == champion).cloned();
            let reason = match known.map_or_else(|| self.admit(champion, champion == factory), Ok) {
                Ok(loaded) => {
                    let broken = self.swap(loaded, previous, &trial);
                    if broken.is_some_and(|reason| self.drop_rival(reason)) {
                        continue;
                    }
                    return;
                }
                Err(reason) => reason,
            };
            return self.fall_back(champion, previous, factory, &reason);
        }
    }

    fn fall_back(&mut self, champion: Digest, previous: Option<Digest>, factory: Digest, reason: &str) {
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
        let (previous, trial) = (saved.cycle.models().1, saved.cycle.orders().trial);
        self.books.note(&reports, &saved.cycle);
        // A device that cannot write still answers: the older model serves, its report waits for the disk.
        self.commit();
        // A fall back ends the trial; there is no rival that could be broken.
        let _ = self.swap(loaded, previous, &trial);
    }

    /// Swaps in a champion with the models beside it; what is wrong with the one it is to be compared with, if anything is.
    fn swap(&mut self, champion: Loaded, previous: Option<Digest>, trial: &rollout::Orders) -> Option<String> {
        let rival = trial.compare.map(|digest| self.admit_rival(digest));
        let broken = rival.as_ref().and_then(|rival| rival.as_ref().err()).cloned();
        let rival = rival.and_then(Result::ok);
        let kept = self.kept(champion.digest, previous);
        let spare = self.spare(champion.digest, previous);
        let previous = previous.and_then(|digest| self.load(&digest).ok());
        let before = self.shared.slot.serving();
        let after = champion.digest;
        let shares_features = rival.as_ref().is_some_and(|rival| champion.model.shares_features(&rival.model));
        let compared = rival.as_ref().map(|rival| rival.digest);
        let serving = Serving { champion, previous, spare, rival, shares_features, route: trial.route, kept };
        self.shared.slot.swap(Some(serving));
        let parted = before
            .iter()
            .flat_map(|before| [Some(before.champion.digest), before.rival.as_ref().map(|rival| rival.digest)]);
        for digest in parted.flatten().filter(|digest| *digest != after && Some(*digest) != compared) {
            if let Some(saved) = &mut self.saved {
                saved.loading.left(&digest);
                self.changed += 1;
            }
        }
        if before.as_ref().is_none_or(|before| before.champion.digest != after) {
            tracing::info!(model = %after.short(), "serving");
            let floors = self.floors();
            self.gatehouse.champion = self.gatehouse.vault.standing(&after, &floors).ok();
        }
        broken
    }

    /// The next of the chain that can be loaded: it answers what the champion has no number for.
    fn spare(&self, champion: Digest, previous: Option<Digest>) -> Option<Loaded> {
        let saved = self.saved.as_ref()?;
        let chain = saved.loading.chain(champion, previous, saved.cycle.models().2);
        chain.into_iter().filter(|digest| *digest != champion).find_map(|digest| self.load(&digest).ok())
    }

    /// Versions that are served when they are asked for by name, the champion first.
    fn kept(&self, champion: Digest, previous: Option<Digest>) -> Vec<Digest> {
        let saved = self.saved.as_ref();
        let candidate = saved.and_then(|saved| saved.cycle.rollout().candidate().map(|candidate| candidate.digest));
        let mut kept = vec![champion];
        for digest in [previous, candidate, saved.map(|saved| saved.cycle.models().2)].into_iter().flatten() {
            // Whoever asks by name gets no model that would not be loaded otherwise.
            let denied = saved.is_some_and(|saved| saved.loading.is_denied(&digest));
            if !kept.contains(&digest) && !denied && self.gatehouse.answers_for(digest, &self.floors()) {
                kept.push(digest);
            }
        }
        kept
    }

    /// Loads the model that is compared with the champion, counted like one that serves. It has a try less: a challenger that takes
    /// the agent down is out of tries before the champion beside it is.
    fn admit_rival(&mut self, digest: Digest) -> Result<Loaded, String> {
        match self.in_memory(&digest) {
            Some(loaded) => Ok(loaded),
            None => {
                let rules = self.gatehouse.rules;
                self.admit_by(digest, false, LoadingRules { tries: rules.tries.saturating_sub(1).max(1), ..rules })
            }
        }
    }

    /// Loads a model that shall serve: its start is counted and stored first, so that one that takes the agent down runs out of
    /// tries; then signature, bytes and, unless it has proven itself, vetting. `last`: nothing is left to fall back to.
    ///
    /// # Errors
    /// Why it may not, in words.
    pub(super) fn admit(&mut self, digest: Digest, last: bool) -> Result<Loaded, String> {
        self.admit_by(digest, last, self.gatehouse.rules)
    }

    fn admit_by(&mut self, digest: Digest, last: bool, rules: LoadingRules) -> Result<Loaded, String> {
        let Some(saved) = &mut self.saved else { return Err("there is no state yet".to_owned()) };
        let Admission::Granted { vet } = saved.loading.begin(digest, last, &rules) else {
            return Err(Refused::Denied(digest).to_string());
        };
        // A device that cannot write still answers.
        self.commit();
        let loaded = self.load_after(digest, vet);
        if let (Err(refused), Some(saved)) = (&loaded, &mut self.saved) {
            // A damaged file may be repaired and a busy machine be idle; what aborts or answers no number does so again.
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
            match self.gatehouse.vetting.vet(&bytes) {
                // Its bytes are those that have proven themselves, and its tries are counted: better than an older model.
                Err(Refused::Unvetted(reason)) if self.is_good(&digest) => {
                    tracing::warn!(
                        model = digest.short(),
                        reason,
                        "a proven model is loaded without being vetted anew"
                    );
                }
                vetted => {
                    vetted?;
                    self.gatehouse.vetted.insert(digest);
                }
            }
        }
        Ok(Loaded { model: Arc::new(bundle::read(&bytes)?), digest })
    }

    fn is_good(&self, digest: &Digest) -> bool {
        self.saved.as_ref().is_some_and(|saved| saved.loading.is_good(digest))
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

    /// The champion had no number for what an older model has one: it serves no more.
    pub(super) fn unsound(&mut self, digest: Digest) {
        let Some(saved) = &mut self.saved else { return };
        let (champion, _, factory) = saved.cycle.models();
        if digest != champion || champion == factory || saved.loading.is_denied(&digest) {
            return;
        }
        saved.loading.deny(digest);
        self.changed += 1;
        // It is in memory; what is denied is not taken from there.
        self.shared.slot.swap(self.shared.slot.serving().and_then(|serving| serving.spare.clone().map(Serving::of)));
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
            "epoch_forced": saved.floors.forced,
            "signature_required": self.gatehouse.vault.requires_signature(),
            "device_key": self.gatehouse.vault.device_key(),
        })
    }
}
