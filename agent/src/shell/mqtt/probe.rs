//! One short connection beside the agent's own, to learn whether the broker answers and what it lets this device do.
use std::time::Duration;

use fleet_protocol::names::{DeviceId, Micros};
use fleet_protocol::topics::{Delivery, Topic, command_filter};
use serde_json::json;

use super::connection::{Connection, Dial, Heard};
use super::payload::message;
use super::settings::MqttSettings;
use super::{FleetError, TlsError};
use crate::shell::clock;

/// Longest wait for one answer.
const WITHIN: Duration = Duration::from_secs(10);

/// What a broker does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// To hear this device's commands.
    Subscribe,
    /// To report; the MQTT 5 reason code.
    Publish(u8),
}

/// Why nothing could be learnt.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A setting or a file of the link.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The system gives no event loop.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// No connection.
    #[error("{0}")]
    Unreachable(String),
}

impl From<TlsError> for ProbeError {
    fn from(error: TlsError) -> Self {
        Self::Fleet(error.into())
    }
}

/// Connects as `<device>-doctor`, subscribes to the device's commands, reports one empty set of metrics, says goodbye; returns
/// what was denied.
///
/// # Errors
/// [`ProbeError`].
pub fn probe(settings: &MqttSettings) -> Result<Vec<Denied>, ProbeError> {
    let broker = settings.broker.parse().map_err(|_| FleetError::Setting("broker"))?;
    let device: DeviceId = settings.device.parse().map_err(|_| FleetError::Setting("device"))?;
    let mut dial = Dial::new(broker, settings)?;
    // Another name, or the broker would end the agent's own connection.
    dial.client_id += "-doctor";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(&dial, &device))
}

async fn ask(dial: &Dial, device: &DeviceId) -> Result<Vec<Denied>, ProbeError> {
    let metrics = Topic::Metrics { device: device.clone() };
    let mut report = message(&metrics, &json!({"ts": Micros(clock::now().0)}));
    // With an acknowledgement, which carries the refusal.
    report.delivery = Delivery::AtLeastOnce;
    let mut connection = Connection::open(dial, &report);
    let mut denied = Vec::new();
    let lost = || ProbeError::Unreachable("the client takes no request".to_owned());
    hear(&mut connection, |heard| matches!(heard, Heard::Accepted { .. })).await?;
    if !connection.subscribe(command_filter(device)) {
        return Err(lost());
    }
    if let Heard::Subscribed { granted: false } =
        hear(&mut connection, |heard| matches!(heard, Heard::Subscribed { .. })).await?
    {
        denied.push(Denied::Subscribe);
    }
    if !connection.publish(1, &report) {
        return Err(lost());
    }
    if let Heard::Refused(_, refused) =
        hear(&mut connection, |heard| matches!(heard, Heard::Taken(_) | Heard::Refused(..))).await?
    {
        denied.push(Denied::Publish(refused.code));
    }
    connection.goodbye();
    // The will is called off once the goodbye has left.
    let _ = hear(&mut connection, |heard| matches!(heard, Heard::Lost(_))).await;
    Ok(denied)
}

/// The next event that is `wanted`.
async fn hear(connection: &mut Connection, wanted: impl Fn(&Heard) -> bool) -> Result<Heard, ProbeError> {
    let listening = async {
        loop {
            let heard = connection.next().await;
            match heard {
                heard if wanted(&heard) => return Ok(heard),
                Heard::Lost(reason) => return Err(ProbeError::Unreachable(reason)),
                _ => {}
            }
        }
    };
    let late = || ProbeError::Unreachable(format!("no answer within {} s", WITHIN.as_secs()));
    tokio::time::timeout(WITHIN, listening).await.map_err(|_| late())?
}
