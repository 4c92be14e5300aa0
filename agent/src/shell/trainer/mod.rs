//! Where training runs: in a child process, so that a retrain can never take the agent down, or in this one.
pub mod frames;
pub mod worker;

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use trainer_core::digest::Digest;

use frames::{Answer, FrameError, Job};

/// A training that has not ended by then is ended: the largest one a gateway is asked for takes minutes.
const TRAINING_MAX: Duration = Duration::from_hours(1);
/// Last words of a child that are kept.
const WORDS_BYTES_MAX: u64 = 64 * 1024;

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
    // Drained beside the frames, or a child that complains at length would wait for us while we wait for it.
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let words = std::thread::spawn(move || {
        let mut words = Vec::new();
        let _ = (&mut stderr).take(WORDS_BYTES_MAX).read_to_end(&mut words);
        let _ = io::copy(&mut stderr, &mut io::sink());
        words
    });
    let (ended, deadline) = mpsc::channel::<()>();
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let watch = std::thread::spawn(move || {
        let late = deadline.recv_timeout(TRAINING_MAX) == Err(mpsc::RecvTimeoutError::Timeout);
        if let Some(pid) = pid.filter(|_| late) {
            let _ = kill_process(pid, Signal::KILL);
        }
    });
    // The worker reads the whole job before it writes, so writing first cannot lock the two up. If it dies while reading,
    // the write fails and its exit status tells more than the write's error.
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let written = frames::write(&mut stdin, job);
    drop(stdin);
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let answer = frames::read(&mut stdout);
    // Its watch ends before it is waited for, so that its number cannot be another process's by then.
    drop(stdout);
    drop(ended);
    let _ = watch.join();
    let words = words.join().unwrap_or_default();
    let status = child.wait().map_err(start)?;
    match answer {
        Ok(answer) if written.is_ok() => Ok(answer),
        _ if !status.success() => Err(TrainerError::Ended { how: meaning(status, &words) }),
        Ok(_) => Err(TrainerError::Ended { how: "it answered before it had read the job".to_owned() }),
        Err(error) => Err(error.into()),
    }
}

/// What a child's end means: signals 9 and 6 are how the kernel and the allocator say "out of memory".
fn meaning(status: ExitStatus, words: &[u8]) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    let said = String::from_utf8_lossy(words);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    match status.signal() {
        Some(9) => format!("killed: out of memory, or an hour without an end; last words: {last}"),
        Some(6) => format!("aborted, out of memory or a bug of ours; last words: {last}"),
        _ => format!("{status}; last words: {last}"),
    }
}
