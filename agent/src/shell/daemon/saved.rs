//! The loop's state as bytes: CBOR, which holds every number as it is, those that are none included. JSON would turn those into
//! nothing, and took twice the room on the card.
use std::io;

use serde::{Deserialize, Deserializer, de};

use super::keeper::Saved;

/// The bytes of `saved`; `about` is how many there were the last time.
pub(super) fn encode(saved: &Saved, about: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(about + about / 16);
    ciborium::into_writer(saved, &mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// The state in `bytes`; agents up to the third layout of the database wrote JSON.
///
/// Fails with the reason if they are the state of another program.
pub(super) fn decode(bytes: &[u8]) -> Result<Saved, String> {
    // In CBOR this byte begins a text, never a state.
    let read = if bytes.first() == Some(&b'{') {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    } else {
        ciborium::from_reader(bytes).map_err(|error| error.to_string())
    };
    read.map(|Once(saved)| saved)
}

/// The state, read through a table of functions: code for each format and each of its two hundred types would be a megabyte.
struct Once(Saved);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut format = <dyn erased_serde::Deserializer>::erase(deserializer);
        erased_serde::deserialize(&mut format).map(Self).map_err(de::Error::custom)
    }
}
