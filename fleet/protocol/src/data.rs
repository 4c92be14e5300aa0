//! Records on their way out: `up/data/<stream>`, in CBOR because numbers in JSON take three times the room.
use serde::{Deserialize, Serialize};

use crate::Extra;
use crate::names::{Digest, Micros};

/// Most rows of one batch; at 128 features it stays below the chunk of a bundle.
pub const BATCH_ROWS_MAX: usize = 200;

/// Some records in the order they were made. `from` and `to` name them: a batch that comes twice is told by these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Version of this payload: [`API`](crate::API).
    pub v: u32,
    /// The command that asked for it.
    pub cmd: ulid::Ulid,
    /// Number of the first row, in the order the device made them.
    pub from: i64,
    /// Number of the last row.
    pub to: i64,
    /// The rows.
    pub rows: Vec<Row>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub extra: Extra,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its id.
    pub id: ulid::Ulid,
    /// When it was measured.
    pub ts: Micros,
    /// Who measured.
    pub source: String,
    /// Its segment, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Who answered.
    pub model: Digest,
    /// What was measured, in the order of the model's features; not a number where a value was missing.
    pub features: Vec<f32>,
    /// What was answered.
    pub output: Vec<f32>,
}

/// Bytes that are no batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Larger than a message.
    #[error("a batch of {bytes} bytes is refused, {} are allowed", crate::PACKET_BYTES_MAX)]
    TooLarge {
        /// Found.
        bytes: usize,
    },
    /// Not CBOR, or of another shape.
    #[error("not a batch of records: {0}")]
    NotABatch(String),
}

impl Batch {
    /// The batch as CBOR (RFC 8949).
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if it does not fit into a packet.
    pub fn to_cbor(&self) -> Result<Vec<u8>, BatchError> {
        let mut bytes = Vec::new();
        ciborium::into_writer(self, &mut bytes).map_err(|error| BatchError::NotABatch(error.to_string()))?;
        if bytes.len() > crate::PACKET_BYTES_MAX {
            return Err(BatchError::TooLarge { bytes: bytes.len() });
        }
        Ok(bytes)
    }

    /// Reads a batch.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() > crate::PACKET_BYTES_MAX {
            return Err(BatchError::TooLarge { bytes: bytes.len() });
        }
        // The depth is bounded by the reader's own limit; the length by ours.
        ciborium::from_reader(bytes).map_err(|error| BatchError::NotABatch(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn batch() -> Batch {
        let row = Row {
            id: ulid::Ulid::from(7),
            ts: Micros(50),
            source: "press-1".to_owned(),
            segment: None,
            model: Digest::of(b"champion"),
            features: vec![1.5, -2.0],
            output: vec![0.25],
        };
        Batch { v: 1, cmd: ulid::Ulid::from(9), from: 3, to: 3, rows: vec![row], extra: Extra::new() }
    }

    #[test]
    fn a_batch_has_one_spelling_in_cbor_and_reads_back() {
        let bytes = batch().to_cbor().unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        expect!["bf6176016363"].assert_eq(&hex[..12]);
        assert_eq!(Batch::from_cbor(&bytes).unwrap(), batch());
    }

    #[test]
    fn a_missing_value_stays_missing() {
        let mut holed = batch();
        holed.rows[0].features[0] = f32::NAN;
        let back = Batch::from_cbor(&holed.to_cbor().unwrap()).unwrap();
        assert!(back.rows[0].features[0].is_nan());
    }

    #[test]
    fn other_bytes_are_refused() {
        for bad in [&b""[..], b"\xff", b"{}", &[0x81; 4_000]] {
            assert!(matches!(Batch::from_cbor(bad), Err(BatchError::NotABatch(_))));
        }
        let huge = vec![0; crate::PACKET_BYTES_MAX + 1];
        assert!(matches!(Batch::from_cbor(&huge), Err(BatchError::TooLarge { .. })));
    }
}
