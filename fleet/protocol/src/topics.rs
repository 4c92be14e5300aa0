//! Every MQTT topic of the fleet, built and parsed in this one place.
//!
//! The tree is split by direction (`up`, `down`, `ctl`), so that a broker needs one access rule for each.
use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

use crate::names::{DeviceId, Digest, Name, NameError};

/// Root of the tree; a breaking change is another root beside it.
pub const ROOT: &str = "hone/v1";

/// Longest topic this crate builds; anything longer is refused before it is split.
pub const TOPIC_BYTES_MAX: usize = 256;

/// One topic, with what its levels say.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Presence of a device, also its last will.
    State { device: DeviceId },
    /// What a device is and can do.
    Birth { device: DeviceId },
    /// Which settings a device runs with.
    Reported { device: DeviceId },
    /// Which model serves a slot, and how a trial goes.
    Model { device: DeviceId, slot: Name },
    /// Drift of a slot, feature by feature.
    Drift { device: DeviceId, slot: Name },
    /// Numbers at a steady pace; the only topic that may lose messages.
    Metrics { device: DeviceId },
    /// A fact that happened once; `kind` is one of [`crate::event::KINDS`] or of a newer version.
    Event { device: DeviceId, kind: Name },
    /// Records on their way out.
    Data { device: DeviceId, stream: Name },
    /// How a command fares.
    CommandStatus { device: DeviceId, id: Ulid },
    /// A signed command.
    Command { device: DeviceId, id: Ulid },
    /// Signed settings.
    Desired { device: DeviceId },
    /// One piece of a bundle named by a signed command.
    Chunk { device: DeviceId, digest: Digest, index: u32 },
    /// A signed notice to a group; `name` is that of its body, so that one never takes the place of another.
    Notice { group: Name, name: Name },
    /// Presence of a controller, also its last will.
    ControllerState { controller: Name },
    /// A wave: its signed commands and its progress.
    Wave { controller: Name, id: Name },
    /// What a person wants of a wave that runs: go on, pause, stop.
    WaveWish { controller: Name, id: Name },
}

/// Who publishes a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A device, to whoever reads.
    Up,
    /// A controller, to a device or a group.
    Down,
    /// A controller, about itself.
    Controller,
}

/// How a topic is published. Quality of service 2 is never used: not every broker has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Quality of service 0, not retained.
    AtMostOnce,
    /// Quality of service 1, not retained.
    AtLeastOnce,
    /// Quality of service 1, and the broker keeps the last message.
    Retained,
}

/// A topic that is not ours, with the level that says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Longer than anything this crate builds.
    #[error("a topic of {bytes} bytes is refused, {TOPIC_BYTES_MAX} are allowed")]
    TooLong { bytes: usize },
    /// No topic of this tree has this shape.
    #[error("`{0}` is not a topic of {ROOT}: check the sender's version and the subscription")]
    Unknown(String),
    /// A level is not a device id, name or digest.
    #[error("in topic `{topic}`")]
    Level { topic: String, source: NameError },
    /// A level is not a ULID in its canonical spelling.
    #[error("in topic `{topic}`: `{level}` is not a command id, a ULID in upper case is expected")]
    CommandId { topic: String, level: String },
    /// A level is not a chunk's number.
    #[error("in topic `{topic}`: `{level}` is not a chunk number, digits without a leading zero are expected")]
    Chunk { topic: String, level: String },
}

impl Topic {
    /// Who publishes it.
    #[must_use]
    pub fn direction(&self) -> Direction {
        match self {
            Self::Command { .. } | Self::Desired { .. } | Self::Chunk { .. } | Self::Notice { .. } => Direction::Down,
            Self::ControllerState { .. } | Self::Wave { .. } | Self::WaveWish { .. } => Direction::Controller,
            Self::State { .. }
            | Self::Birth { .. }
            | Self::Reported { .. }
            | Self::Model { .. }
            | Self::Drift { .. }
            | Self::Metrics { .. }
            | Self::Event { .. }
            | Self::Data { .. }
            | Self::CommandStatus { .. } => Direction::Up,
        }
    }

    /// How it is published. What is retained is state: a late reader needs the last message and no other.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        match self {
            Self::Metrics { .. } => Delivery::AtMostOnce,
            Self::Event { .. } | Self::Data { .. } | Self::Chunk { .. } => Delivery::AtLeastOnce,
            Self::State { .. }
            | Self::Birth { .. }
            | Self::Reported { .. }
            | Self::Model { .. }
            | Self::Drift { .. }
            | Self::CommandStatus { .. }
            | Self::Command { .. }
            | Self::Desired { .. }
            | Self::Notice { .. }
            | Self::ControllerState { .. }
            | Self::Wave { .. }
            | Self::WaveWish { .. } => Delivery::Retained,
        }
    }

    /// The schema name for the MQTT user property `schema`.
    #[must_use]
    pub fn schema(&self) -> &'static str {
        match self {
            Self::State { .. } | Self::ControllerState { .. } => "state.v1",
            Self::Birth { .. } => "birth.v1",
            Self::Reported { .. } => "reported.v1",
            Self::Model { .. } => "model.v1",
            Self::Drift { .. } => "drift.v1",
            Self::Metrics { .. } => "metrics.v1",
            Self::Event { .. } => "evt.v1",
            Self::Data { .. } => "data.v1",
            Self::CommandStatus { .. } => "status.v1",
            Self::Command { .. } => "cmd.v1",
            Self::Desired { .. } => "desired.v1",
            Self::Chunk { .. } => "chunk.v1",
            Self::Notice { .. } => "notice.v1",
            Self::Wave { .. } => "wave.v1",
            Self::WaveWish { .. } => "wish.v1",
        }
    }
}

/// The group to which every device belongs.
///
/// # Panics
/// Never.
#[must_use]
pub fn everybody() -> Name {
    "all".parse().expect("a name")
}

/// What a device subscribes to, after every CONNACK: its own `down` tree and the notices of its groups.
#[must_use]
pub fn device_filters(device: &DeviceId, groups: &[Name]) -> Vec<String> {
    let notices = groups.iter().map(|group| format!("{ROOT}/g/{group}/down/notice/+"));
    std::iter::once(format!("{ROOT}/d/{device}/down/#")).chain(notices).collect()
}

/// What a device subscribes to that takes signed commands and nothing else.
#[must_use]
pub fn command_filter(device: &DeviceId) -> String {
    format!("{ROOT}/d/{device}/down/cmd/+")
}

/// What a controller subscribes to: everything devices say, and every controller's presence and waves.
#[must_use]
pub fn controller_filters() -> [String; 2] {
    [format!("{ROOT}/d/+/up/#"), format!("{ROOT}/ctl/+/#")]
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State { device } => write!(f, "{ROOT}/d/{device}/up/state"),
            Self::Birth { device } => write!(f, "{ROOT}/d/{device}/up/birth"),
            Self::Reported { device } => write!(f, "{ROOT}/d/{device}/up/reported"),
            Self::Model { device, slot } => write!(f, "{ROOT}/d/{device}/up/model/{slot}"),
            Self::Drift { device, slot } => write!(f, "{ROOT}/d/{device}/up/drift/{slot}"),
            Self::Metrics { device } => write!(f, "{ROOT}/d/{device}/up/metrics"),
            Self::Event { device, kind } => write!(f, "{ROOT}/d/{device}/up/evt/{kind}"),
            Self::Data { device, stream } => write!(f, "{ROOT}/d/{device}/up/data/{stream}"),
            Self::CommandStatus { device, id } => write!(f, "{ROOT}/d/{device}/up/cmd/{id}"),
            Self::Command { device, id } => write!(f, "{ROOT}/d/{device}/down/cmd/{id}"),
            Self::Desired { device } => write!(f, "{ROOT}/d/{device}/down/desired"),
            Self::Chunk { device, digest, index } => write!(f, "{ROOT}/d/{device}/down/blob/{digest}/{index}"),
            Self::Notice { group, name } => write!(f, "{ROOT}/g/{group}/down/notice/{name}"),
            Self::ControllerState { controller } => write!(f, "{ROOT}/ctl/{controller}/state"),
            Self::Wave { controller, id } => write!(f, "{ROOT}/ctl/{controller}/rollout/{id}"),
            Self::WaveWish { controller, id } => write!(f, "{ROOT}/ctl/{controller}/rollout/{id}/wish"),
        }
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(topic: &str) -> Result<Self, TopicError> {
        if topic.len() > TOPIC_BYTES_MAX {
            return Err(TopicError::TooLong { bytes: topic.len() });
        }
        let level = |source| TopicError::Level { topic: topic.to_owned(), source };
        let device = |text: &str| text.parse::<DeviceId>().map_err(level);
        let name = |text: &str| text.parse::<Name>().map_err(level);
        let id = |text: &str| {
            let refuse = || TopicError::CommandId { topic: topic.to_owned(), level: text.to_owned() };
            // The decoder also takes lower case and overlong values; a second spelling would be a second topic.
            Ulid::from_string(text).ok().filter(|id| id.to_string() == text).ok_or_else(refuse)
        };
        let index = |text: &str| {
            let refuse = || TopicError::Chunk { topic: topic.to_owned(), level: text.to_owned() };
            text.parse::<u32>().ok().filter(|index| index.to_string() == text).ok_or_else(refuse)
        };
        let unknown = || TopicError::Unknown(topic.to_owned());
        let path = topic.strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/')).ok_or_else(unknown)?;
        let levels: Vec<&str> = path.split('/').collect();
        Ok(match levels[..] {
            ["d", dev, "up", "state"] => Self::State { device: device(dev)? },
            ["d", dev, "up", "birth"] => Self::Birth { device: device(dev)? },
            ["d", dev, "up", "reported"] => Self::Reported { device: device(dev)? },
            ["d", dev, "up", "model", slot] => Self::Model { device: device(dev)?, slot: name(slot)? },
            ["d", dev, "up", "drift", slot] => Self::Drift { device: device(dev)?, slot: name(slot)? },
            ["d", dev, "up", "metrics"] => Self::Metrics { device: device(dev)? },
            ["d", dev, "up", "evt", kind] => Self::Event { device: device(dev)?, kind: name(kind)? },
            ["d", dev, "up", "data", stream] => Self::Data { device: device(dev)?, stream: name(stream)? },
            ["d", dev, "up", "cmd", command] => Self::CommandStatus { device: device(dev)?, id: id(command)? },
            ["d", dev, "down", "cmd", command] => Self::Command { device: device(dev)?, id: id(command)? },
            ["d", dev, "down", "desired"] => Self::Desired { device: device(dev)? },
            ["d", dev, "down", "blob", digest, number] => {
                let digest = digest.parse().map_err(level)?;
                Self::Chunk { device: device(dev)?, digest, index: index(number)? }
            }
            ["g", group, "down", "notice", body] => Self::Notice { group: name(group)?, name: name(body)? },
            ["ctl", controller, "state"] => Self::ControllerState { controller: name(controller)? },
            ["ctl", controller, "rollout", id] => Self::Wave { controller: name(controller)?, id: name(id)? },
            ["ctl", controller, "rollout", id, "wish"] => {
                Self::WaveWish { controller: name(controller)?, id: name(id)? }
            }
            _ => return Err(unknown()),
        })
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn every_topic() -> Vec<Topic> {
        let device: DeviceId = "press-07".parse().unwrap();
        let slot = Name::main_slot();
        let id = Ulid::from_string("01JD4V3Q8N7Y5ZK2M6T9W0XABC").unwrap();
        let controller: Name = "ctl1".parse().unwrap();
        vec![
            Topic::State { device: device.clone() },
            Topic::Birth { device: device.clone() },
            Topic::Reported { device: device.clone() },
            Topic::Model { device: device.clone(), slot: slot.clone() },
            Topic::Drift { device: device.clone(), slot },
            Topic::Metrics { device: device.clone() },
            Topic::Event { device: device.clone(), kind: "drift_raised".parse().unwrap() },
            Topic::Data { device: device.clone(), stream: "records".parse().unwrap() },
            Topic::CommandStatus { device: device.clone(), id },
            Topic::Command { device: device.clone(), id },
            Topic::Desired { device: device.clone() },
            Topic::Chunk { device, digest: Digest::of(b"abc"), index: 10 },
            Topic::Notice { group: "hall-3".parse().unwrap(), name: "freeze".parse().unwrap() },
            Topic::ControllerState { controller: controller.clone() },
            Topic::Wave { controller: controller.clone(), id: "autumn".parse().unwrap() },
            Topic::WaveWish { controller, id: "autumn".parse().unwrap() },
        ]
    }

    #[test]
    fn every_topic_survives_its_own_text() {
        let line = |topic: &Topic| {
            assert_eq!(topic.to_string().parse().as_ref(), Ok(topic));
            format!("{:?} {:?} {} {topic}\n", topic.direction(), topic.delivery(), topic.schema())
        };
        let story: Vec<String> = every_topic().iter().map(line).collect();
        expect![[r"
            Up Retained state.v1 hone/v1/d/press-07/up/state
            Up Retained birth.v1 hone/v1/d/press-07/up/birth
            Up Retained reported.v1 hone/v1/d/press-07/up/reported
            Up Retained model.v1 hone/v1/d/press-07/up/model/main
            Up Retained drift.v1 hone/v1/d/press-07/up/drift/main
            Up AtMostOnce metrics.v1 hone/v1/d/press-07/up/metrics
            Up AtLeastOnce evt.v1 hone/v1/d/press-07/up/evt/drift_raised
            Up AtLeastOnce data.v1 hone/v1/d/press-07/up/data/records
            Up Retained status.v1 hone/v1/d/press-07/up/cmd/01JD4V3Q8N7Y5ZK2M6T9W0XABC
            Down Retained cmd.v1 hone/v1/d/press-07/down/cmd/01JD4V3Q8N7Y5ZK2M6T9W0XABC
            Down Retained desired.v1 hone/v1/d/press-07/down/desired
            Down AtLeastOnce chunk.v1 hone/v1/d/press-07/down/blob/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/10
            Down Retained notice.v1 hone/v1/g/hall-3/down/notice/freeze
            Controller Retained state.v1 hone/v1/ctl/ctl1/state
            Controller Retained wave.v1 hone/v1/ctl/ctl1/rollout/autumn
            Controller Retained wish.v1 hone/v1/ctl/ctl1/rollout/autumn/wish
        "]]
        .assert_eq(&story.concat());
    }

    #[test]
    fn a_foreign_or_malformed_topic_names_the_level_that_is_wrong() {
        let story: Vec<String> = [
            "hone/v2/d/a/up/state",
            "hone/v1",
            "hone/v1/d/a/up/state/",
            "hone/v1/d//up/state",
            "hone/v1/d/+/up/state",
            "hone/v1/d/A/up/state",
            "hone/v1/d/a/up/evt/Drift",
            "hone/v1/d/a/down/cmd/01jd4v3q8n7y5zk2m6t9w0xabc",
            "hone/v1/d/a/down/cmd/ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "hone/v1/d/a/down/blob/ff/0",
            "hone/v1/d/a/down/blob/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/007",
        ]
        .iter()
        .map(|text| {
            let error = text.parse::<Topic>().unwrap_err();
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            format!("{error}{}\n", cause.unwrap_or_default())
        })
        .collect();
        expect![[r"
            `hone/v2/d/a/up/state` is not a topic of hone/v1: check the sender's version and the subscription
            `hone/v1` is not a topic of hone/v1: check the sender's version and the subscription
            `hone/v1/d/a/up/state/` is not a topic of hone/v1: check the sender's version and the subscription
            in topic `hone/v1/d//up/state`: `` is not a device id: 1 to 64 of a-z, 0-9 and `-` are expected, as in the certificate's CN
            in topic `hone/v1/d/+/up/state`: `+` is not a device id: 1 to 64 of a-z, 0-9 and `-` are expected, as in the certificate's CN
            in topic `hone/v1/d/A/up/state`: `A` is not a device id: 1 to 64 of a-z, 0-9 and `-` are expected, as in the certificate's CN
            in topic `hone/v1/d/a/up/evt/Drift`: `Drift` is not a name: 1 to 64 of a-z, 0-9, `_` and `-` are expected
            in topic `hone/v1/d/a/down/cmd/01jd4v3q8n7y5zk2m6t9w0xabc`: `01jd4v3q8n7y5zk2m6t9w0xabc` is not a command id, a ULID in upper case is expected
            in topic `hone/v1/d/a/down/cmd/ZZZZZZZZZZZZZZZZZZZZZZZZZZ`: `ZZZZZZZZZZZZZZZZZZZZZZZZZZ` is not a command id, a ULID in upper case is expected
            in topic `hone/v1/d/a/down/blob/ff/0`: `ff` is not a digest: 64 lower-case hex digits are expected
            in topic `hone/v1/d/a/down/blob/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/007`: `007` is not a chunk number, digits without a leading zero are expected
        "]]
        .assert_eq(&story.concat());
        assert_eq!("x".repeat(300).parse::<Topic>(), Err(TopicError::TooLong { bytes: 300 }));
    }

    #[test]
    fn a_device_hears_only_its_own_tree_and_its_groups() {
        let filters = device_filters(&"press-07".parse().unwrap(), &["hall-3".parse().unwrap()]);
        assert_eq!(filters, ["hone/v1/d/press-07/down/#", "hone/v1/g/hall-3/down/notice/+"]);
    }
}
