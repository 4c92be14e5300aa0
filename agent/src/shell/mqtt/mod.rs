//! The link to the fleet: presence, reports and command status up, signed commands down, over MQTT 5.
//!
//! ```text
//!  keeper ◄── asks ──┐
//!                    ├─ link (task): state machine, outbox, retained reports
//!  shell::mqtt ──────┘        │ try_publish            ▲ heard (bounded)
//!                             ▼                        │
//!                      connection: rumqttc's loop in a task that does nothing but poll
//! ```
//! The broker is trusted with delivery alone, and not even with that: what must arrive lies in `control.db` until the broker
//! has acknowledged it, and every connection is a new session with a new loop, so that nothing of an old one can be lost,
//! repeated in another order or stuck.
mod connection;
mod events;
mod export;
mod fleet;
mod inbox;
mod incoming;
mod link;
mod neighbours;
mod orders;
mod payload;
mod probe;
mod reports;
mod settings;
mod sparkplug;
mod standing;
mod tasks;
mod view;

pub use connection::TlsError;
pub use fleet::{Fleet, FleetError};
pub(crate) use incoming::{installed, reason_code, signature as brought_signature};
pub use orders::Signed;
pub use probe::{Denied, ProbeError, probe};
pub use settings::{MqttSettings, SparkplugSettings, TrustSettings};
pub use standing::Standing;
