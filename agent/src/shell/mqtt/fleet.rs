//! The link before it begins: settings, keys and certificates, read once.
use std::sync::Arc;
use std::time::Duration;

use fleet_protocol::keys::KeySet;
use fleet_protocol::names::DeviceId;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use ulid::Ulid;

use super::connection::{Dial, TlsError};
use super::link::Running;
use super::reports::Reports;
use super::settings::MqttSettings;
use super::sparkplug::Sparkplug;
use super::standing::Standing;
use crate::decide::command::Freeze;
use crate::decide::link::LinkRules;
use crate::shell::daemon::{Event, LinkAsk, Shared};
use crate::shell::models::{ModelStore, Vault};

/// Why the link cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A setting the configuration should have refused.
    #[error("`mqtt.{0}` cannot be used")]
    Setting(&'static str),
    /// A file of the encrypted link.
    #[error("the link to the fleet: {0}")]
    Tls(#[from] TlsError),
}

/// The link, ready to begin.
pub struct Fleet {
    pub(super) dial: Dial,
    pub(super) device: DeviceId,
    pub(super) keys: KeySet,
    pub(super) settings: MqttSettings,
    pub(super) rules: LinkRules,
    pub(super) reports: Reports,
    pub(super) standing: Standing,
    sparkplug: Option<Sparkplug>,
}

impl Fleet {
    /// Reads keys and certificates; none if no link is wanted.
    ///
    /// # Errors
    /// [`FleetError`].
    pub fn new(standing: Standing) -> Result<Option<Self>, FleetError> {
        let settings = standing.config().mqtt.clone();
        if !settings.is_on() {
            return Ok(None);
        }
        let broker = settings.broker.parse().map_err(|_| FleetError::Setting("broker"))?;
        let device: DeviceId = settings.device.parse().map_err(|_| FleetError::Setting("device"))?;
        let keys = standing.keys().map_err(|_| FleetError::Setting("trust"))?;
        let rules = LinkRules {
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(settings.retry_max_s),
            steady: Duration::from_secs(30),
            connect_within: Duration::from_secs(15),
            silence_max: 2 * settings.sign_of_life(),
            // Chance: devices of one image must not return together.
            seed: u64::try_from(Ulid::generate().random() & u128::from(u64::MAX)).unwrap_or_default(),
        };
        let dial = Dial::new(broker, &settings)?;
        let reports = Reports::new(device.clone(), &standing, &keys);
        let sparkplug = Sparkplug::new(&settings, &device, &rules)?;
        Ok(Some(Self { dial, device, keys, settings, rules, reports, standing, sparkplug }))
    }

    /// Who this device is to the fleet.
    #[must_use]
    pub fn device(&self) -> &DeviceId {
        &self.device
    }

    /// Whom it believes about bundles that come in.
    #[must_use]
    pub fn bundle_keys(&self) -> Option<KeySet> {
        self.standing.bundle_keys().ok()
    }

    /// What the fleet has frozen.
    #[must_use]
    pub fn freezes(&self) -> Vec<Freeze> {
        self.standing.freezes()
    }

    /// Begins; ends soon after `stop` says so.
    #[must_use]
    pub fn start(
        mut self,
        shared: Arc<Shared>,
        models: ModelStore,
        vault: Vault,
        stop: watch::Receiver<bool>,
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            let (reply, begun) = oneshot::channel();
            if shared.events.send(Event::Link(Box::new(LinkAsk::Begin(reply)))).await.is_err() {
                return;
            }
            let Ok((row, unfinished)) = begun.await else { return };
            let sparkplug = self.sparkplug.take().map(|output| output.start(Arc::clone(&shared), stop.clone()));
            Box::pin(Running::new(self, shared, models, vault, row).run(unfinished, stop)).await;
            if let Some(sparkplug) = sparkplug {
                let _ = sparkplug.await;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_settings_say_how_patient_the_link_is_and_no_two_devices_wait_alike() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        (config.mqtt.broker, config.mqtt.device) = ("mqtt://b".to_owned(), "press-07".to_owned());
        (config.mqtt.retry_max_s, config.mqtt.keep_alive_s) = (77, 60);
        let rules = || Fleet::new(Standing::open(folder.path(), config.clone())).unwrap().unwrap().rules;
        let (one, other) = (rules(), rules());
        assert_eq!((one.retry_max, one.silence_max), (Duration::from_secs(77), 2 * config.mqtt.sign_of_life()));
        // A broker that hangs up at once must not be asked each second for ever.
        assert!(one.steady >= Duration::from_secs(10), "{one:?}");
        assert_ne!(one.seed, other.seed, "devices of one image");
    }
}
