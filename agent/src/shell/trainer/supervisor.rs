//! Watches one worker process from its start to its end, and knows what each end means.
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::child::{self, End};
use super::frames::{self, Answer, FrameError, Job, Report, Word};
use super::limits::Limits;
use super::{Say, Source, TrainerError};

/// A training that has not ended by then at full speed is ended: the largest one a gateway is asked for takes minutes.
const TRAINING_MAX: Duration = Duration::from_hours(1);
/// What a worker gets to end by itself, behind its own deadline.
const BEHIND_DEADLINE: Duration = Duration::from_mins(1);

/// When a worker is taken for hung: never before its own deadline, at which it leaves what it has.
pub(super) fn longest(limits: &Limits) -> Duration {
    let own = limits.deadline_s.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let own = own.map_or(Duration::ZERO, |own| own.saturating_add(BEHIND_DEADLINE));
    TRAINING_MAX.div_f64(limits.cpu_share.unwrap_or(1.0).clamp(0.01, 1.0)).max(own)
}

/// Exit codes by which a shell or a unit reports an abort and a kill.
const ABORTED: i32 = 134;
const KILLED: i32 = 137;

/// Starts a worker on `job`, hands it the snapshot and hears it out.
///
/// Fails with [`TrainerError::Memory`] where it ended over its budget, with another [`TrainerError`] where it ended otherwise.
pub(super) fn ask(
    program: &Path,
    job: &Job,
    snapshot: &Source,
    listen: &mut dyn FnMut(u32, &Report) -> Say,
) -> Result<Answer, TrainerError> {
    let start = |source| TrainerError::Start { program: program.to_owned(), source };
    let mut worker = child::start(command(program), job.limits.memory_bytes, longest(&job.limits)).map_err(start)?;
    let number = worker.id();
    let (mut stdin, mut stdout) = worker.pipes();
    let heard = converse(|| number, &mut stdin, &mut stdout, job, snapshot, listen);
    // A worker that is still there must not wait for more.
    drop((stdin, stdout));
    let End { status, words, killed_for_memory, .. } = worker.end(false);
    let status = status.map_err(start)?;
    match heard {
        Ok(answer) => Ok(answer),
        Err(_) if over_memory(status, &words, killed_for_memory) => {
            Err(TrainerError::Memory { words: last_line(&words) })
        }
        Err(_) if !status.success() => Err(TrainerError::Ended { how: meaning(status, &words) }),
        Err(error) => Err(error),
    }
}

fn command(program: &Path) -> Command {
    let mut command = child::command(program, "train-worker");
    // Tensors of a megabyte must not be mapped anew at every step; glibc only, harmless elsewhere.
    command.env("MALLOC_MMAP_THRESHOLD_", "33554432").env("MALLOC_TRIM_THRESHOLD_", "268435456");
    command
}

/// Writes the job and its rows, then reads until the last frame.
pub(super) fn converse(
    process: impl Fn() -> u32,
    stdin: &mut impl io::Write,
    stdout: &mut impl io::Read,
    job: &Job,
    snapshot: &Source,
    listen: &mut dyn FnMut(u32, &Report) -> Say,
) -> Result<Answer, TrainerError> {
    // The worker reads all rows before it writes, so writing first cannot lock the two up. If it dies or refuses while
    // reading, the write fails, and what it says or how it ended tells more than the write's error.
    let written = frames::write(stdin, job).and_then(|()| snapshot.copy_into(stdin));
    loop {
        match frames::read(stdout) {
            Ok(Answer::Progress(report)) => {
                let word = match listen(process(), &report) {
                    Say::GoOn => continue,
                    Say::Finish => Word::Finish,
                    Say::Cancel => Word::Cancel,
                    Say::Share(thousandths) => Word::Share(thousandths),
                };
                // One that has just ended hears nothing any more; its last frame is on its way.
                let _ = frames::write(stdin, &word);
            }
            Ok(answer) => return Ok(answer),
            Err(_) if matches!(written, Err(FrameError::Source { .. })) => return Err(written.unwrap_err().into()),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Source {
    fn copy_into(&self, into: &mut impl io::Write) -> Result<(), FrameError> {
        match self {
            Self::Bytes(bytes) => into.write_all(bytes)?,
            Self::File(path) => {
                let unreadable = |source| FrameError::Source { path: path.clone(), source };
                let mut file = File::open(path).map_err(unreadable)?;
                let _ = io::copy(&mut file, into)?;
            }
        }
        Ok(into.flush()?)
    }

    /// A reader of its bytes.
    pub(super) fn open(&self) -> Result<Box<dyn io::Read + '_>, TrainerError> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(bytes.as_slice()),
            Self::File(path) => {
                let unreadable = |source| FrameError::Source { path: path.clone(), source };
                Box::new(io::BufReader::new(File::open(path).map_err(unreadable)?))
            }
        })
    }
}

/// Whether an end means that memory ran out: the kernel's kill inside the group, or an allocation that was refused.
fn over_memory(status: ExitStatus, words: &[u8], killed_for_memory: bool) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    let refused = String::from_utf8_lossy(words).contains("memory allocation of");
    match (status.signal(), status.code()) {
        (Some(9), _) | (_, Some(KILLED)) => killed_for_memory,
        (Some(6), _) | (_, Some(ABORTED)) => refused || killed_for_memory,
        _ => false,
    }
}

fn last_line(words: &[u8]) -> String {
    let said = String::from_utf8_lossy(words);
    said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
}

/// What a child's end means where memory is not known to be the cause.
fn meaning(status: ExitStatus, words: &[u8]) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    let last = last_line(words);
    match (status.signal(), status.code()) {
        (Some(9), _) | (_, Some(KILLED)) => {
            format!("killed: by someone, out of the machine's memory, or much too late; last words: {last}")
        }
        (Some(6), _) | (_, Some(ABORTED)) => format!("aborted, a bug of ours; last words: {last}"),
        _ => format!("{status}; last words: {last}"),
    }
}

/// The program of a child.
pub(super) fn own_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_worker_is_not_taken_for_hung_before_its_own_deadline() {
        let after = |cpu_share, deadline_s| longest(&Limits { cpu_share, deadline_s, ..Limits::default() });
        assert_eq!(after(None, None), TRAINING_MAX);
        assert_eq!(after(Some(0.25), Some(600.0)), 4 * TRAINING_MAX);
        assert_eq!(after(Some(1.0), Some(7_200.0)), Duration::from_mins(121));
    }

    #[test]
    fn an_end_is_blamed_on_memory_only_with_evidence() {
        let words = b"memory allocation of 4096 bytes failed";
        for status in [ExitStatus::from_raw(6), ExitStatus::from_raw(ABORTED << 8)] {
            assert!(over_memory(status, words, false));
            assert!(!over_memory(status, b"panicked at", false), "a panic aborts too");
        }
        for status in [ExitStatus::from_raw(9), ExitStatus::from_raw(KILLED << 8)] {
            assert!(over_memory(status, b"", true));
            assert!(!over_memory(status, words, false), "anybody can kill");
        }
        assert!(!over_memory(ExitStatus::from_raw(75 << 8), words, false));
    }
}
