//! What agent and trainer say to each other: one length-prefixed postcard frame each way.
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use trainer_core::session::RunChoices;

use super::limits::Limits;

/// Largest frame: a bundle with its luggage; rows do not come in frames.
pub const FRAME_BYTES_MAX: u32 = 128 * 1024 * 1024;
/// First bytes of a frame; another version speaks another word.
const MAGIC: [u8; 4] = *b"hnt3";

/// One training. The bytes of the snapshot follow the frame as they are, so that rows are read once, into their place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The parent's bundle.
    pub parent: Option<Vec<u8>>,
    /// What beside the snapshot decides the candidate's bits.
    pub choices: RunChoices,
    /// What it may take.
    pub limits: Limits,
    /// Where checkpoints go and come from.
    pub checkpoint: Option<Checkpointing>,
}

/// Where checkpoints go, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Checkpointing {
    /// The file; it is replaced as a whole.
    pub path: PathBuf,
    /// CPU seconds between two of them.
    pub every_cpu_s: f64,
    /// Also after so many gradient steps; 0 for never.
    pub every_steps: u64,
}

impl Checkpointing {
    /// Every fifteen CPU seconds: half of what a kill may cost at most.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path, every_cpu_s: 15.0, every_steps: 0 }
    }
}

/// What the supervisor says while a training runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// Leave a checkpoint and end.
    Cancel,
    /// Make no more gradient steps and finish with what there is.
    Finish,
    /// From now on take so many thousandths of one core.
    Share(u16),
}

/// What the trainer says; the last frame is no [`Answer::Progress`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// How far it is.
    Progress(Report),
    /// It ended with a candidate.
    Done(Box<Candidate>),
    /// It stopped on request and can be resumed.
    Stopped(Usage),
    /// It ended without one.
    Refused {
        /// Why, with every cause.
        reason: String,
    },
}

/// How far a training is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Gradient steps done.
    pub steps: u64,
    /// Most gradient steps there will be; early stopping makes fewer.
    pub steps_max: u64,
    /// Seconds left at this pace, at most; none before the first step.
    pub remaining_s: Option<f64>,
    /// What it has taken so far.
    pub usage: Usage,
}

/// What a training has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU seconds of the whole process.
    pub cpu_s: f64,
    /// Seconds since it began.
    pub wall_s: f64,
    /// Highest resident memory, bytes.
    pub peak_bytes: u64,
    /// Highest number of bytes on the heap.
    pub heap_peak_bytes: u64,
    /// What the heap was predicted to take at most; 0 before the snapshot is read.
    pub heap_predicted_bytes: u64,
    /// Bytes of checkpoints written.
    #[serde(default)]
    pub written_bytes: u64,
}

/// A finished training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Bundle bytes.
    pub bundle: Vec<u8>,
    /// Multiply-adds.
    pub work_mac: u64,
    /// What beside the snapshot decided the bundle's bits.
    pub choices: RunChoices,
    /// What it took.
    pub usage: Usage,
}

/// A frame that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The pipe.
    #[error("the pipe failed: {0}")]
    Pipe(#[from] io::Error),
    /// The snapshot that should follow the job.
    #[error("cannot read the snapshot {path}: {source}")]
    Source {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
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
        let checkpoint = Some(Checkpointing::at("/state/x.checkpoint".into()));
        let choices = RunChoices::default();
        let job = Job { parent: Some(vec![1, 2, 3]), choices, limits: Limits::default(), checkpoint };
        let mut bytes = Vec::new();
        write(&mut bytes, &job).unwrap();
        assert_eq!(read::<Job>(&mut bytes.as_slice()).unwrap(), job);
        assert!(matches!(read::<Job>(&mut &bytes[..bytes.len() - 1]), Err(FrameError::Pipe(_))));
        bytes[0] = b'x';
        assert!(matches!(read::<Job>(&mut bytes.as_slice()), Err(FrameError::Magic)));
        let greedy = [MAGIC.as_slice(), &u32::MAX.to_le_bytes()].concat();
        assert!(matches!(read::<Job>(&mut greedy.as_slice()), Err(FrameError::TooLong(_))));
    }
}
