//! The small words of the protocol: device ids, names, digests, wall time.
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Longest device id or name; a topic of five of them stays far below MQTT's 65,535 bytes.
pub const NAME_CHARS_MAX: usize = 64;

/// A text that may not stand in a topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `[a-z0-9-]{1,64}`.
    #[error("`{0}` is not a device id: 1 to 64 of a-z, 0-9 and `-` are expected, as in the certificate's CN")]
    Device(String),
    /// Not `[a-z0-9_-]{1,64}`.
    #[error("`{0}` is not a name: 1 to 64 of a-z, 0-9, `_` and `-` are expected")]
    Name(String),
    /// Not 64 lower-case hex digits.
    #[error("`{0}` is not a digest: 64 lower-case hex digits are expected")]
    Digest(String),
}

/// The start of a refused text: enough to recognise it, too short to flood a log.
fn shown(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX + 1).collect()
}

fn is_word(text: &str, also: &[u8]) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || also.contains(&byte);
    (1..=NAME_CHARS_MAX).contains(&text.len()) && text.bytes().all(fits)
}

/// A device: the CN of its certificate, its user name and its level in every topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

/// A group, controller, slot, stream, event kind or wave.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The only model slot of v1.
    #[must_use]
    pub fn main_slot() -> Self {
        Self("main".to_owned())
    }
}

impl TryFrom<String> for DeviceId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        if is_word(&text, b"-") { Ok(Self(text)) } else { Err(NameError::Device(shown(&text))) }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        if is_word(&text, b"-_") { Ok(Self(text)) } else { Err(NameError::Name(shown(&text))) }
    }
}

/// What every checked text can do; the check itself is its `TryFrom<String>`.
macro_rules! checked_text {
    ($type:ty) => {
        impl $type {
            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                text.to_owned().try_into()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }
    };
}

checked_text!(DeviceId);
checked_text!(Name);

/// The sha-256 of a bundle or a snapshot; 64 lower-case hex digits on the wire.
///
/// The learning crate has one of its own: this crate may not import it. Both speak the same text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The raw 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = NameError;

    /// Reads lower-case digits only: a second spelling would be a second topic for the same bundle.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let refuse = || NameError::Digest(shown(text));
        if text.len() != 64 {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let (high, low) = (digit(pair[0]).ok_or_else(refuse)?, digit(pair[1]).ok_or_else(refuse)?);
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Wall time on the wire: microseconds since 1970-01-01T00:00:00Z, as good as the sender's [`Clock`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

/// How far a sender's wall time can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// Disciplined by a time server.
    Ntp,
    /// From a battery-backed clock, not yet confirmed.
    Rtc,
    /// A guess: the gateway may believe that it is 1970.
    Unsynced,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_that_could_leave_its_topic_level_is_refused() {
        assert_eq!("press-07".parse::<DeviceId>().map(String::from), Ok("press-07".to_owned()));
        for bad in ["", "Press-07", "a/b", "+", "#", "a b", "é", "a_b", "a\0", &"a".repeat(65)] {
            assert!(matches!(bad.parse::<DeviceId>(), Err(NameError::Device(_))), "{bad}");
        }
        assert!(serde_json::from_str::<DeviceId>(r#""../up""#).is_err());
    }

    #[test]
    fn a_refused_text_is_shown_shortened() {
        let error = "X".repeat(10_000).parse::<Name>().unwrap_err();
        assert!(error.to_string().len() < 200);
    }

    #[test]
    fn a_digest_has_one_spelling() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let text = digest.to_string();
        for bad in [text.to_uppercase(), text[1..].to_owned(), format!("+{}", &text[1..]), "é".repeat(32)] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
