//! Vetting: a new model first loads and answers its own rows in a process of its own, with a deadline and a memory limit.
//!
//! A thread would not do: it cannot be ended when it hangs, an abort in it takes the agent along, and its memory is the agent's.
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use trainer_core::bundle;
use trainer_core::model::{Model, Work};

use super::Refused;
use crate::decide::gate::Soundness;
use crate::shell::trainer::child::{self, End};
use crate::shell::trainer::frames::{self, FrameError};
use crate::shell::trainer::limits;
use crate::shell::trainer::system;

/// Niceness of the process that tries a model.
const NICE: i32 = 10;

/// What a model to be vetted may take.
#[derive(Clone, Debug)]
pub struct Vetting {
    program: Option<PathBuf>,
    /// Until its answers are there.
    pub deadline: Duration,
    /// Memory.
    pub memory_bytes: u64,
}

/// What is asked of the process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Question {
    bundle: Vec<u8>,
    memory_bytes: u64,
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// It came to an end: this is what the bundle is worth by itself.
    Examined(Soundness),
    /// It is no bundle at all.
    Refused {
        /// Why.
        reason: String,
    },
}

impl Vetting {
    /// In a process of `program`, or of the running binary; `None` for the path of a binary that is not known.
    ///
    /// # Errors
    /// The system does not know the running binary's path.
    pub fn child(program: Option<PathBuf>, deadline: Duration, memory_bytes: u64) -> io::Result<Self> {
        let program = program.map_or_else(std::env::current_exe, Ok)?;
        Ok(Self { program: Some(program), deadline, memory_bytes })
    }

    /// In this thread: for tests and backtests, whose models are their own.
    #[must_use]
    pub fn in_process() -> Self {
        Self { program: None, deadline: Duration::from_mins(1), memory_bytes: u64::MAX }
    }

    /// Vets the bundle of these bytes, which shall serve.
    ///
    /// # Errors
    /// [`Refused::Vetting`] if it hung, grew, took its process down, or if its numbers are none; nothing is left running.
    pub fn vet(&self, bytes: &[u8]) -> Result<(), Refused> {
        let soundness = self.examine(bytes)?;
        if soundness.is_sound() {
            return Ok(());
        }
        // By the name that reading gives it, if it gives one.
        let reason = bundle::read(bytes).err().map(|error| error.to_string());
        let silent = || format!("it answers no number to {} of its own rows", soundness.rows_not_finite);
        Err(Refused::Vetting(reason.unwrap_or_else(silent)))
    }

    /// Measures in a process of its own what the bundle of these bytes is worth by itself: what the gate judges.
    ///
    /// # Errors
    /// [`Refused::Vetting`] if it hung, grew, took its process down, or is no bundle; nothing is left running.
    pub fn examine(&self, bytes: &[u8]) -> Result<Soundness, Refused> {
        let Some(program) = &self.program else {
            return told(examine(bytes));
        };
        let begun = Instant::now();
        let question = Question { bundle: bytes.to_vec(), memory_bytes: self.memory_bytes };
        let refused = |reason: String| Refused::Vetting(reason);
        let start = |error| Refused::Unvetted(format!("cannot start {}: {error}", program.display()));
        let mut child = child::start(child::command(program, "vet-worker"), Some(self.memory_bytes), self.deadline)
            .map_err(start)?;
        let heard = converse(child.pipes(), &question);
        // Its answer is there, or never will be; what it does after that is nobody's business.
        let End { status, words, late, killed_for_memory } = child.end(true);
        match heard {
            Ok(answer) => told(answer),
            // A slow start of the machine looks the same.
            Err(_) if late => Err(Refused::Unvetted(format!(
                "it had not answered its own rows after {} s",
                begun.elapsed().as_secs()
            ))),
            Err(_) if killed_for_memory || grew(&words) => {
                Err(refused(format!("it took more than {} MiB of memory", self.memory_bytes >> 20)))
            }
            Err(error) => {
                let how = format!("its process ended without an answer ({}; {error})", ending(&status, &words));
                // Somebody's kill, or the machine's for want of memory: its own limit was not hit.
                let killed = status.is_ok_and(|status| status.signal() == Some(9));
                Err(if killed { Refused::Unvetted(how) } else { refused(how) })
            }
        }
    }
}

fn told(answer: Answer) -> Result<Soundness, Refused> {
    match answer {
        Answer::Examined(soundness) => Ok(soundness),
        Answer::Refused { reason } => Err(Refused::Vetting(reason)),
    }
}

fn converse(pipes: (ChildStdin, ChildStdout), question: &Question) -> Result<Answer, FrameError> {
    let (mut stdin, mut stdout) = pipes;
    // Whoever dies while it is asked has said all it will.
    frames::write(&mut stdin, question)?;
    drop(stdin);
    frames::read(&mut stdout)
}

/// Whether an allocation was refused.
fn grew(words: &[u8]) -> bool {
    String::from_utf8_lossy(words).contains("memory allocation of")
}

fn ending(status: &io::Result<ExitStatus>, words: &[u8]) -> String {
    let said = String::from_utf8_lossy(words);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned();
    status.as_ref().map_or_else(ToString::to_string, |status| format!("{status}, last words: {last}"))
}

/// Serves one question; what `hone vet-worker` does.
///
/// # Errors
/// The pipes.
pub fn serve(mut from: impl Read, mut into: impl Write) -> Result<(), FrameError> {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // Nor its processor time: an answer of the agent is worth more than an early verdict.
    let _ = rustix::process::setpriority_process(None, NICE);
    // The kernel shall take this process before the agent.
    let _ = fs::write("/proc/self/oom_score_adj", "900");
    let question: Question = frames::read(&mut from)?;
    limits::limit_data(question.memory_bytes);
    system::limit_heap(question.memory_bytes);
    frames::write(&mut into, &examine(&question.bundle))
}

/// Loads a bundle and lets it answer every row it carries.
fn examine(bytes: &[u8]) -> Answer {
    let (model, numbers) = match bundle::read_to_judge(bytes) {
        Ok(read) => read,
        Err(error) => return Answer::Refused { reason: error.to_string() },
    };
    let mut soundness = Soundness {
        not_finite: numbers.not_finite,
        golden_off: numbers.golden_off,
        golden_most: bundle::GOLDEN_TOLERANCE.into(),
        ..Soundness::default()
    };
    let mut work = Work::default();
    for row in carried(&model) {
        model.embed(row, &mut work);
        soundness.rows += 1;
        soundness.rows_not_finite += u64::from(!work.answer.iter().chain(&work.h).all(|value| value.is_finite()));
    }
    Answer::Examined(soundness)
}

/// Golden rows, anchors, baseline.
fn carried(model: &Model) -> impl Iterator<Item = &[f32]> {
    let width = model.schema().features.len();
    [&model.golden.0, &model.anchors.x, &model.baseline].into_iter().flat_map(move |rows| rows.chunks_exact(width))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A program of its own in place of the worker.
    fn vetted_by(script: &str, memory_bytes: u64) -> String {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("worker");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let vetting = Vetting { program: Some(program), deadline: Duration::from_millis(1_500), memory_bytes };
        vetting.vet(b"bundle").unwrap_err().to_string()
    }

    #[test]
    fn a_process_that_aborts_hangs_or_says_nonsense_is_a_refusal_and_leaves_nothing_running() {
        assert!(vetted_by("kill -ABRT $$", 1 << 30).contains("ended without an answer"));
        let begun = Instant::now();
        assert!(vetted_by("exec sleep 600", 1 << 30).contains("had not answered"));
        assert!(begun.elapsed() < Duration::from_secs(30));
        assert!(vetted_by("cat > /dev/null; echo nonsense", 1 << 30).contains("without an answer"));
        assert!(
            vetted_by("echo 'memory allocation of 99 bytes failed' >&2; kill -ABRT $$", 64 << 20).contains("64 MiB")
        );
    }

    #[test]
    fn what_is_no_bundle_is_refused_by_name() {
        let refused = Vetting::in_process().vet(b"no bundle").unwrap_err().to_string();
        assert!(refused.contains("safetensors"), "{refused}");
    }
}
