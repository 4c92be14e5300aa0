//! The loop's state as bytes: CBOR, which holds every number as it is, those that are none included. JSON would turn those into
//! nothing, and took twice the room on the card.
use std::io;

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
    if bytes.first() == Some(&b'{') {
        // By way of CBOR: code that reads the whole state from JSON as well would be a megabyte.
        let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        ciborium::into_writer(&json, &mut bytes).map_err(|error| error.to_string())?;
        return ciborium::from_reader(bytes.as_slice()).map_err(|error| error.to_string());
    }
    ciborium::from_reader(bytes).map_err(|error| error.to_string())
}
