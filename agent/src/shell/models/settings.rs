//! Settings of the model store: whose models may serve, and how a new one proves itself.
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fleet_protocol::keys::{KeySet, Role};
use serde::{Deserialize, Serialize};

use crate::decide::loading::LoadingRules;

/// The model store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Public keys of the vendor, standard base64 of 32 bytes; keys of `mqtt.trust` with the role `vendor` count too.
    pub vendor_keys: Vec<String>,
    /// Whether a model needs the vendor's signature, or descends from one that has it. Default `auto`: as soon as a vendor
    /// key is set. Unsigned models are taken from the owner of this device alone, never from the network, and called so.
    pub require_signature: Require,
    /// Starts a model gets that has not proven itself, and ends in disorder of one that has, before an older one serves.
    /// Range 1 to 100, default 3.
    pub tries: u32,
    /// Answers after which a model has proven itself. Range 1 to 1,000,000, default 100.
    pub good_answers: u64,
    /// Seconds it must have served, too. Range 1 to 86,400, default 300.
    pub good_s: u64,
    /// Seconds a new model may take to load and to answer its own rows, in a process of its own. Range 1 to 600, default 20.
    pub vetting_s: u64,
    /// Bytes of memory it may take doing so. Range 16 MiB to 16 GiB, default 384 MiB: six times the largest bundle.
    pub vetting_bytes: u64,
}

/// When a signature is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Require {
    /// As soon as a vendor key is set.
    #[default]
    Auto,
    /// For every model.
    Always,
    /// For models from the network alone.
    Never,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            vendor_keys: Vec::new(),
            require_signature: Require::default(),
            tries: 3,
            good_answers: 100,
            good_s: 300,
            vetting_s: 20,
            vetting_bytes: 384 << 20,
        }
    }
}

impl ModelSettings {
    /// The vendor's keys, added to `keys`.
    ///
    /// # Errors
    /// The entry that is no key, in words.
    pub fn trust(&self, keys: &mut KeySet) -> Result<(), String> {
        for entry in &self.vendor_keys {
            let bytes = STANDARD.decode(entry).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let bytes = bytes.ok_or_else(|| format!("`{entry}` is not 32 bytes in base64"))?;
            keys.trust(&bytes, &[Role::Vendor]).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Whether an unsigned model of the owner is refused, given whose keys are known.
    #[must_use]
    pub fn requires(&self, keys: &KeySet) -> bool {
        match self.require_signature {
            Require::Always => true,
            Require::Never => false,
            Require::Auto => keys.iter().any(|(_, roles)| roles.contains(&Role::Vendor)),
        }
    }

    /// How a model proves itself.
    #[must_use]
    pub fn rules(&self) -> LoadingRules {
        LoadingRules { tries: self.tries, good_answers: self.good_answers, good_s: self.good_s }
    }

    /// How long vetting may take.
    #[must_use]
    pub fn vetting(&self) -> Duration {
        Duration::from_secs(self.vetting_s)
    }

    /// The first setting that cannot be used: key, value, range.
    #[must_use]
    pub fn problem(&self) -> Option<(&'static str, String, String)> {
        let within = |key, value: u64, least: u64, most: u64| {
            (!(least..=most).contains(&value)).then(|| (key, value.to_string(), format!("{least} to {most}")))
        };
        within("tries", self.tries.into(), 1, 100)
            .or_else(|| within("good_answers", self.good_answers, 1, 1_000_000))
            .or_else(|| within("good_s", self.good_s, 1, 86_400))
            .or_else(|| within("vetting_s", self.vetting_s, 1, 25))
            .or_else(|| within("vetting_bytes", self.vetting_bytes, 16 << 20, 16 << 30))
            .or_else(|| {
                let wrong = self.trust(&mut KeySet::default()).err()?;
                Some(("vendor_keys", wrong, "public keys as `hone-fleet keygen` prints them".to_owned()))
            })
    }
}
