//! The last words of a broker as a person reads them, and what it means if it hangs up without one.
//!
//! Two clients of one name throw each other out. MQTT 5 has a word for it (reason 0x8E), which mosquitto sends in its shortest
//! form: the client takes that for half a packet and reports a connection that was closed. So it is also told by its rhythm.
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::DisconnectReasonCode;
use rumqttc::v5::{ConnectionError, StateError};

/// A connection that stood for less has been ended soon.
const SOON: Duration = Duration::from_secs(30);
/// So many connections in a row that were ended soon are no accident.
const HANG_UPS: u32 = 3;
/// What is told of a rival says this.
const RIVAL: &str = "two of one name throw each other out";

/// Whether the broker has given our name to another client.
pub(super) fn is_taken_over(error: &ConnectionError) -> bool {
    let ConnectionError::MqttState(StateError::ServerDisconnect { reason_code, .. }) = error else { return false };
    *reason_code == DisconnectReasonCode::SessionTakenOver
}

/// What happened to the client `name`, and what to do: `setting` is where the name comes from.
pub(super) fn taken_over(name: &str, setting: &str) -> String {
    format!(
        "another client has connected as `{name}` and the broker has ended this connection: {RIVAL}, give each its own {setting}"
    )
}

/// What to look at if a broker ends each connection of the client `name` soon after it has accepted it.
pub(super) fn hangs_up(name: &str, setting: &str, reason: &str) -> String {
    format!(
        "the broker accepts `{name}` and ends each connection soon after ({reason}). Most often another client has connected as \
         `{name}`: {RIVAL}, give each its own {setting}"
    )
}

/// Whether `words` are about a rival.
pub(super) fn is_about_rival(words: &str) -> bool {
    words.contains(RIVAL)
}

/// Counts connections in a row that the broker has accepted and ended soon.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HangUps(u32);

impl HangUps {
    /// A connection, or an attempt, was ended by the other side; `stood` is for how long it had been accepted. Returns whether
    /// that has happened too often to be an accident.
    pub(super) fn ended(&mut self, stood: Option<Duration>) -> bool {
        // A broker that is not there is no rival.
        self.0 = if stood.is_some_and(|stood| stood < SOON) { self.0.saturating_add(1) } else { 0 };
        self.0 >= HANG_UPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_hangs_up_three_times_is_suspected_and_one_that_is_away_or_held_is_not() {
        let ended = |stood: &[Option<u64>]| {
            let mut hang_ups = HangUps::default();
            stood.iter().map(|stood| hang_ups.ended(stood.map(Duration::from_secs))).collect::<Vec<_>>()
        };
        assert_eq!(ended(&[Some(1), Some(2), Some(29), Some(4)]), [false, false, true, true]);
        assert_eq!(ended(&[Some(1), Some(1), None, Some(1)]), [false; 4], "it could not be reached meanwhile");
        assert_eq!(ended(&[Some(1), Some(1), Some(30), Some(1)]), [false; 4], "it held");
    }

    #[test]
    fn what_is_told_of_a_rival_names_the_client_and_the_setting() {
        for words in [taken_over("press-07", "`mqtt.device`"), hangs_up("press-07", "`mqtt.device`", "closed")] {
            assert!(
                is_about_rival(&words) && words.contains("`press-07`") && words.contains("`mqtt.device`"),
                "{words}"
            );
        }
    }
}
