//! The fleet as its retained messages draw it. Pure: messages in, devices out.
use std::collections::BTreeMap;
use std::fmt::Write as _;

use fleet_protocol::names::DeviceId;
use fleet_protocol::report::{Birth, DriftReport, DriftState, ModelReport, Presence, State};
use fleet_protocol::status::CommandStatus;
use fleet_protocol::topics::Topic;
use serde::Serialize;
use serde_json::Value;
use ulid::Ulid;

use crate::session::Came;

/// What is known of one device.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct DeviceView {
    pub(crate) state: Option<State>,
    pub(crate) birth: Option<Birth>,
    pub(crate) model: Option<ModelReport>,
    pub(crate) drift: Option<DriftReport>,
    /// Settings in force, as they came.
    pub(crate) reported: Option<Value>,
    pub(crate) metrics: Option<Value>,
    pub(crate) commands: BTreeMap<Ulid, CommandStatus>,
}

/// Every device that has said something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub(crate) devices: BTreeMap<DeviceId, DeviceView>,
    /// Messages that make no sense: of a newer version, or not ours.
    pub(crate) strange: usize,
}

impl Picture {
    /// Draws what a message says; the message of a stranger or of a newer version is counted and passed over.
    pub(crate) fn add(&mut self, came: &Came) {
        if came.payload.is_empty() {
            return;
        }
        if self.draw(came).is_none() {
            self.strange += 1;
        }
    }

    fn draw(&mut self, came: &Came) -> Option<()> {
        fn parse<T: serde::de::DeserializeOwned>(came: &Came) -> Option<T> {
            serde_json::from_slice(&came.payload).ok()
        }
        let devices = &mut self.devices;
        match came.topic.parse().ok()? {
            Topic::State { device } => {
                let next: State = parse(came)?;
                let view = devices.entry(device).or_default();
                view.state = Some(match view.state.take() {
                    Some(state) => state.followed_by(next),
                    None => next,
                });
            }
            Topic::Birth { device } => devices.entry(device).or_default().birth = Some(parse(came)?),
            Topic::Model { device, .. } => devices.entry(device).or_default().model = Some(parse(came)?),
            Topic::Drift { device, .. } => devices.entry(device).or_default().drift = Some(parse(came)?),
            Topic::Reported { device } => devices.entry(device).or_default().reported = Some(parse(came)?),
            Topic::Metrics { device } => devices.entry(device).or_default().metrics = Some(parse(came)?),
            Topic::CommandStatus { device, id } => {
                let status = parse(came)?;
                devices.entry(device).or_default().commands.insert(id, status);
            }
            // What happened once, what is sent down and what controllers say of themselves is no state of a device.
            _ => {}
        }
        Some(())
    }
}

impl DeviceView {
    /// Presence in a word.
    pub(crate) fn presence(&self) -> &'static str {
        match self.state.as_ref().map(|state| state.state) {
            Some(Presence::Online) => "online",
            Some(Presence::Offline) => "offline",
            Some(Presence::Sleep) => "sleeps",
            None => "unknown",
        }
    }

    /// The first eight digits of the champion's digest.
    pub(crate) fn champion(&self) -> String {
        let champion = self.model.as_ref().and_then(|model| model.champion.as_ref());
        champion.map_or_else(|| "none".to_owned(), |model| model.digest.to_string()[..8].to_owned())
    }

    /// Phase in the protocol's word, with the share of a canary, and whether it is frozen.
    pub(crate) fn phase(&self) -> String {
        let phase = self.model.as_ref().and_then(|model| serde_json::to_value(&model.phase).ok());
        let mut word =
            phase.and_then(|phase| phase.as_str().map(str::to_owned)).unwrap_or_else(|| "unknown".to_owned());
        let Some(model) = &self.model else { return word };
        if model.canary_percent > 0 {
            let _ = write!(word, " {} %", model.canary_percent);
        }
        if model.frozen_until.is_some() {
            word += ", frozen";
        }
        word
    }

    /// Measures in alarm, and all measures.
    pub(crate) fn drifted(&self) -> Option<(usize, usize)> {
        let measures = &self.drift.as_ref()?.measures;
        Some((measures.values().filter(|measure| measure.state == DriftState::Drift).count(), measures.len()))
    }
}

#[cfg(test)]
mod tests {
    use fleet_protocol::Extra;
    use fleet_protocol::names::Micros;

    use super::*;

    fn came(topic: &str, payload: impl Into<Vec<u8>>) -> Came {
        Came { topic: topic.to_owned(), payload: payload.into(), retained: true }
    }

    fn state(state: Presence, session: u128) -> Vec<u8> {
        let state = State { state, session: Ulid::from(session), boot: 1, ts: Micros(5), extra: Extra::new() };
        serde_json::to_vec(&state).unwrap()
    }

    #[test]
    fn a_late_will_of_an_earlier_connection_does_not_make_a_device_look_gone() {
        let mut picture = Picture::default();
        let topic = "hone/v1/d/press-07/up/state";
        picture.add(&came(topic, state(Presence::Online, 2)));
        picture.add(&came(topic, state(Presence::Offline, 1)));
        let device = "press-07".parse().unwrap();
        assert_eq!(picture.devices[&device].presence(), "online");
        picture.add(&came(topic, state(Presence::Offline, 2)));
        assert_eq!(picture.devices[&device].presence(), "offline");
    }

    #[test]
    fn strange_messages_are_counted_and_change_nothing() {
        let mut picture = Picture::default();
        picture.add(&came("hone/v1/d/Press/up/state", state(Presence::Online, 2)));
        picture.add(&came("hone/v1/d/press-07/up/birth", "{"));
        picture.add(&came("te/device/main", "1"));
        picture.add(&came("hone/v1/d/press-07/up/state", ""));
        assert_eq!((picture.strange, picture.devices.len()), (3, 0));
    }
}
