//! Where training runs: in a child process, so that a retrain can never take the agent down, or in this one.
pub mod frames;
pub mod worker;

use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use trainer_core::digest::Digest;

use frames::{Answer, FrameError, Job};

/// Who trains.
#[derive(Clone, Debug)]
pub enum Trainer {
    /// A child process of this binary, `hone train-worker`.
    Child {
        /// The binary.
        program: PathBuf,
    },
    /// This thread.
    InProcess,
}

/// A finished training.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Bundle bytes.
    pub bundle: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// Multiply-adds.
    pub work_mac: u64,
    /// CPU seconds, measured.
    pub cpu_s: f64,
    /// Highest resident memory of the trainer, bytes; the agent's own when it trained in-process.
    pub peak_bytes: u64,
}

/// A training that did not finish.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The child could not be started.
    #[error("cannot start the trainer `{program}`: is it still installed? ({source})")]
    Start {
        /// Binary.
        program: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The child ended without an answer.
    #[error("the trainer ended without an answer ({how}); the champion goes on serving")]
    Ended {
        /// Exit status, and what it means.
        how: String,
    },
    /// The frames do not make sense.
    #[error("the trainer does not speak this version's frames")]
    Frame(#[from] FrameError),
    /// The trainer refused the work.
    #[error("{0}")]
    Refused(String),
}

impl Trainer {
    /// A trainer in a child process of the running binary.
    ///
    /// Fails where the system does not know the running binary's path.
    pub fn child() -> io::Result<Self> {
        Ok(Self::Child { program: std::env::current_exe()? })
    }

    /// Runs one training to its end; `parent` is the parent's bundle, if the snapshot has one.
    ///
    /// Fails with a [`TrainerError`]; nothing is left running.
    pub fn train(&self, snapshot: Vec<u8>, parent: Option<Vec<u8>>) -> Result<Finished, TrainerError> {
        let job = Job { snapshot, parent };
        let answer = match self {
            Self::InProcess => worker::run(&job, worker::Meter::thread()),
            Self::Child { program } => ask_child(program, &job)?,
        };
        match answer {
            Answer::Done { bundle, work_mac, cpu_s, peak_bytes } => {
                let digest = Digest::of(&bundle);
                Ok(Finished { bundle, digest, work_mac, cpu_s, peak_bytes })
            }
            Answer::Refused { reason } => Err(TrainerError::Refused(reason)),
        }
    }
}

fn ask_child(program: &PathBuf, job: &Job) -> Result<Answer, TrainerError> {
    let start = |source| TrainerError::Start { program: program.clone(), source };
    let mut child = Command::new(program)
        .arg("train-worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Tensors of a megabyte must not be mapped anew at every step; glibc only, harmless elsewhere.
        .env("MALLOC_MMAP_THRESHOLD_", "33554432")
        .env("MALLOC_TRIM_THRESHOLD_", "268435456")
        .spawn()
        .map_err(start)?;
    // The worker reads the whole job before it writes, so writing first cannot lock the two up. If it dies while reading,
    // the write fails and its exit status tells more than the write's error.
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let written = frames::write(&mut stdin, job);
    drop(stdin);
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let answer = frames::read(&mut stdout);
    let output = child.wait_with_output().map_err(start)?;
    match answer {
        Ok(answer) if written.is_ok() => Ok(answer),
        _ if !output.status.success() => Err(TrainerError::Ended { how: meaning(&output) }),
        Ok(_) => Err(TrainerError::Ended { how: "it answered before it had read the job".to_owned() }),
        Err(error) => Err(error.into()),
    }
}

/// What a child's end means: signals 9 and 6 are how the kernel and the allocator say "out of memory".
fn meaning(output: &std::process::Output) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    match output.status.signal() {
        Some(9) => format!("killed, most likely out of memory; last words: {last}"),
        Some(6) => format!("aborted, out of memory or a bug of ours; last words: {last}"),
        _ => format!("{}; last words: {last}", output.status),
    }
}
