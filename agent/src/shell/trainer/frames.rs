//! What agent and trainer say to each other: one length-prefixed postcard frame each way.
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Largest frame; rows of a gateway's training are a tenth of it.
pub const FRAME_BYTES_MAX: u32 = 512 * 1024 * 1024;
/// First bytes of a frame; another version speaks another word.
const MAGIC: [u8; 4] = *b"hnt1";

/// One training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Bytes of a [`trainer_core::snapshot::Snapshot`].
    pub snapshot: Vec<u8>,
    /// The parent's bundle.
    pub parent: Option<Vec<u8>>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// With a candidate.
    Done {
        /// Bundle bytes.
        bundle: Vec<u8>,
        /// Multiply-adds.
        work_mac: u64,
        /// CPU seconds of the training.
        cpu_s: f64,
        /// Highest resident memory, bytes.
        peak_bytes: u64,
    },
    /// Without one.
    Refused {
        /// Why, with every cause.
        reason: String,
    },
}

/// A frame that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The pipe.
    #[error("the pipe failed: {0}")]
    Pipe(#[from] io::Error),
    /// Not a frame of this version.
    #[error("these bytes are not a frame of this version")]
    Magic,
    /// Too long.
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong(u64),
    /// The contents.
    #[error("the frame's contents make no sense: {0}")]
    Contents(#[from] postcard::Error),
}

/// Writes one frame and flushes.
///
/// Fails if it is longer than [`FRAME_BYTES_MAX`] or the pipe is closed.
pub fn write(into: &mut impl Write, message: &impl Serialize) -> Result<(), FrameError> {
    let bytes = postcard::to_stdvec(message)?;
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or(FrameError::TooLong(bytes.len() as u64))?;
    into.write_all(&MAGIC)?;
    into.write_all(&length.to_le_bytes())?;
    into.write_all(&bytes)?;
    Ok(into.flush()?)
}

/// Reads one frame; memory grows with the bytes that come, not with the length that is claimed.
///
/// Fails if the stream ends early or holds something else.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, FrameError> {
    let (mut magic, mut length) = ([0; 4], [0; 4]);
    from.read_exact(&mut magic)?;
    if magic != MAGIC {
        return Err(FrameError::Magic);
    }
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(u64::from(length)));
    }
    let mut bytes = Vec::new();
    from.take(u64::from(length)).read_to_end(&mut bytes)?;
    if bytes.len() != length as usize {
        return Err(FrameError::Pipe(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(postcard::from_bytes(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_a_broken_one_is_refused() {
        let job = Job { snapshot: vec![1, 2, 3], parent: None };
        let mut bytes = Vec::new();
        write(&mut bytes, &job).unwrap();
        assert_eq!(read::<Job>(&mut bytes.as_slice()).unwrap(), job);
        assert!(matches!(read::<Job>(&mut &bytes[..bytes.len() - 1]), Err(FrameError::Pipe(_))));
        bytes[0] = b'x';
        assert!(matches!(read::<Job>(&mut bytes.as_slice()), Err(FrameError::Magic)));
        let greedy = [b"hnt1".as_slice(), &u32::MAX.to_le_bytes()].concat();
        assert!(matches!(read::<Job>(&mut greedy.as_slice()), Err(FrameError::TooLong(_))));
    }
}
