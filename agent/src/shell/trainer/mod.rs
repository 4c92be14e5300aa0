//! Where training runs: in a child process, so that a retrain can never take the agent down, or in this one.
pub mod blocks;
pub mod child;
pub mod duty;
pub mod frames;
pub mod limits;
pub mod runs;
mod supervisor;
pub mod system;
mod unit;
pub mod worker;

use std::io;
use std::path::PathBuf;

use trainer_core::digest::Digest;
use trainer_core::session::{RunChoices, Undisturbed};
use trainer_core::snapshot::{self, Snapshot};

use frames::{Answer, Candidate, Checkpointing, FrameError, Job, Report, Usage};
use limits::Limits;

/// Who trains.
#[derive(Clone, Debug)]
pub enum Trainer {
    /// A child process of this binary, `hone train-worker`.
    Child {
        /// The binary.
        program: PathBuf,
    },
    /// The trainer's own unit where its socket answers, else a child.
    Unit {
        /// The unit's socket.
        socket: PathBuf,
        /// The binary.
        program: PathBuf,
    },
    /// This thread; limits and checkpoints are for children.
    InProcess,
}

/// Where the bytes of a snapshot are.
#[derive(Clone, Debug)]
pub enum Source {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file, from which they are handed on without being held.
    File(PathBuf),
}

/// One training, and what it may take.
#[derive(Clone, Debug)]
pub struct Task {
    /// What it is a function of.
    pub snapshot: Source,
    /// The parent's bundle, if the snapshot has one.
    pub parent: Option<Vec<u8>>,
    /// What beside the snapshot decides the candidate's bits; the default for a first run.
    pub choices: RunChoices,
    /// What it may take.
    pub limits: Limits,
    /// Where its checkpoints go and come from.
    pub checkpoint: Option<Checkpointing>,
}

/// What is said to a training that reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// Nothing.
    GoOn,
    /// Make no more gradient steps and finish with what there is.
    Finish,
    /// Leave a checkpoint and end.
    Cancel,
    /// From now on take so many thousandths of one core, 1 to 1000.
    Share(u16),
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
    /// What beside the snapshot decided the bundle's bits.
    pub choices: RunChoices,
    /// Everything it took; a retry's only.
    pub usage: Usage,
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
    /// The child ended over its memory budget, also with half the micro-batch.
    #[error("the trainer ran over its memory budget ({words}): order fewer rows, or raise the budget")]
    Memory {
        /// Its last words.
        words: String,
    },
    /// It was told to stop, and left a checkpoint where it was given a place for one.
    #[error("the training was stopped and can be resumed")]
    Stopped(Usage),
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
        Ok(Self::Child { program: supervisor::own_program()? })
    }

    /// The trainer that the packaged units name in `$HONE_TRAINER_SOCKET`; without it a child.
    ///
    /// Fails as [`Trainer::child`].
    pub fn of_agent() -> io::Result<Self> {
        let program = supervisor::own_program()?;
        let socket = std::env::var_os("HONE_TRAINER_SOCKET").map(PathBuf::from);
        Ok(socket.map_or_else(
            || Self::Child { program: program.clone() },
            |socket| Self::Unit { socket, program: program.clone() },
        ))
    }

    /// Runs one training to its end without limits; `parent` is the parent's bundle, if the snapshot has one.
    ///
    /// Fails with a [`TrainerError`]; nothing is left running.
    pub fn train(&self, snapshot: Vec<u8>, parent: Option<Vec<u8>>) -> Result<Finished, TrainerError> {
        let choices = RunChoices::default();
        let task =
            Task { snapshot: Source::Bytes(snapshot), parent, choices, limits: Limits::default(), checkpoint: None };
        self.run(task, &mut |_, _| Say::GoOn)
    }

    /// Runs one training to its end; `listen` hears several times a second which process it is and how far it has come.
    ///
    /// A child that runs over its memory gets a second try with half the micro-batch. One that is stopped leaves a
    /// checkpoint, from which the same task goes on; one that finishes removes it. Fails with a [`TrainerError`]; nothing is
    /// left running.
    pub fn run(&self, mut task: Task, listen: &mut dyn FnMut(u32, &Report) -> Say) -> Result<Finished, TrainerError> {
        let (socket, program) = match self {
            Self::InProcess => return in_process(&task),
            Self::Child { program } => (None, program),
            Self::Unit { socket, program } => (Some(socket), program),
        };
        let ask = |job: &Job, snapshot: &Source, listen: &mut dyn FnMut(u32, &Report) -> Say| match socket
            .and_then(|socket| unit::connect(socket))
        {
            Some(unit) => unit.ask(job, snapshot, listen),
            None => supervisor::ask(program, job, snapshot, listen),
        };
        let job = |task: &mut Task| Job {
            parent: task.parent.take(),
            choices: task.choices,
            limits: task.limits,
            checkpoint: task.checkpoint.clone(),
        };
        let mut job = job(&mut task);
        let answer = match ask(&job, &task.snapshot, listen) {
            Err(TrainerError::Memory { words }) => {
                job.choices.micro_batch =
                    halved(job.choices.micro_batch, &task.snapshot).ok_or(TrainerError::Memory { words })?;
                ask(&job, &task.snapshot, listen)?
            }
            answer => answer?,
        };
        if let (Answer::Done(_) | Answer::Refused { .. }, Some(at)) = (&answer, &task.checkpoint) {
            // One that stays behind is refused by every other training, and swept with its snapshot.
            let _ = std::fs::remove_file(&at.path);
        }
        match answer {
            Answer::Done(candidate) => Ok(finished(*candidate)),
            Answer::Stopped(usage) => Err(TrainerError::Stopped(usage)),
            Answer::Refused { reason } => Err(TrainerError::Refused(reason)),
            Answer::Progress(_) => unreachable!("the supervisor hears these out"),
        }
    }
}

/// Half the micro-batch; none if it cannot be halved.
fn halved(micro_batch: u64, snapshot: &Source) -> Option<u64> {
    let part = if micro_batch == 0 {
        let outline = Snapshot::outline(&mut snapshot.open().ok()?).ok()?;
        outline.settings.fit.batch as u64
    } else {
        micro_batch
    };
    (part > 1).then_some(part / 2)
}

fn finished(candidate: Candidate) -> Finished {
    let Candidate { bundle, work_mac, choices, usage } = candidate;
    let digest = Digest::of(&bundle);
    Finished { bundle, digest, work_mac, cpu_s: usage.cpu_s, peak_bytes: usage.peak_bytes, choices, usage }
}

fn in_process(task: &Task) -> Result<Finished, TrainerError> {
    let meter = worker::Meter::thread();
    let mut from = task.snapshot.open()?;
    let outcome = snapshot::run_in(&mut from, task.parent.as_deref(), task.choices, None, &mut Undisturbed)
        .map_err(|error| TrainerError::Refused(worker::chain(&error)))?;
    let usage = Usage { cpu_s: meter.cpu_s(), peak_bytes: worker::peak_bytes(), ..Usage::default() };
    let work_mac = outcome.trained.work_mac;
    Ok(finished(Candidate { bundle: outcome.bundle, work_mac, choices: outcome.choices, usage }))
}

#[cfg(test)]
mod tests {
    use trainer_core::model::Strategy;
    use trainer_core::schema::Rows;
    use trainer_core::train::TrainSettings;

    use super::*;

    #[test]
    fn after_a_hit_the_parts_it_began_with_are_halved_until_there_is_one_row() {
        let mut rows = Rows::empty(1, 1);
        rows.push(&[1.0], &[0.0]);
        let settings = TrainSettings::default();
        let batch = settings.fit.batch as u64;
        let snapshot = Snapshot::adapt(Digest::of(b"parent"), Strategy::Full, rows, settings, 1).to_bytes();
        let snapshot = Source::Bytes(snapshot);
        let after = |parts| halved(parts, &snapshot);
        assert_eq!((after(0), after(16), after(3), after(1)), (Some(batch / 2), Some(8), Some(1), None));
        assert_eq!(halved(0, &Source::Bytes(b"nothing".to_vec())), None);
    }
}
