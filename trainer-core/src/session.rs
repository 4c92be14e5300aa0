//! A training and its surroundings: when it pauses, what it keeps for a resume, and what it needs to be repeated.
use serde::{Deserialize, Serialize};

use crate::fit::{Ended, Open};
use crate::horizons::Horizons;

/// Rows between two pauses in loops over rows; some milliseconds of work on a gateway.
const ROWS_PER_PAUSE: usize = 16;
/// Layout of checkpoints.
const FORMAT: u32 = 3;

/// What the surroundings answer at a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Continue,
    /// Hand over a checkpoint, then go on.
    Save,
    /// Make no more gradient steps and finish with what there is.
    Finish,
    /// Hand over a checkpoint and end.
    Stop,
}

/// How far a training is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Gradient steps done; 0 for a training without any.
    pub steps: u64,
    /// Most gradient steps there will be; early stopping makes fewer.
    pub steps_max: u64,
}

/// Whoever runs a training: clocks, files and signals are theirs.
pub trait Surroundings {
    /// Called between two pieces of work of some milliseconds each; may block.
    fn pause(&mut self, progress: Progress) -> Wish;

    /// Takes a checkpoint; a later one replaces it.
    fn keep(&mut self, checkpoint: &[u8]);
}

/// Surroundings that never want anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Undisturbed;

impl Surroundings for Undisturbed {
    fn pause(&mut self, _: Progress) -> Wish {
        Wish::Continue
    }

    fn keep(&mut self, _: &[u8]) {}
}

/// What beside the snapshot decides the bits of a candidate; kept in the run record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunChoices {
    /// Rows per forward and backward pass; 0 takes each batch whole.
    pub micro_batch: u64,
    /// The gradient step after which the surroundings wanted it to finish; none if it ran to its own end.
    pub last_step: Option<u64>,
    /// Whether features at the cut are computed anew each time instead of being kept; changes time and memory, no bit.
    #[serde(default)]
    pub recompute: bool,
}

/// The training was told to stop; what it had is in its last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stopped on request")]
pub struct Stopped;

/// A checkpoint that another training made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not readable.
    #[error("the checkpoint is damaged or from another version ({0}): start over without it")]
    Unreadable(String),
    /// Of other rows, settings or choices.
    #[error("the checkpoint belongs to another snapshot or other settings: start over without it")]
    Other,
}

/// Whether `checkpoint` belongs to the training of the snapshot `key` with these choices.
///
/// Fails with [`CheckpointError`], which says why not.
pub fn check(checkpoint: &[u8], key: [u8; 32], choices: RunChoices) -> Result<(), CheckpointError> {
    Session::new(&mut Undisturbed, key, choices, Some(checkpoint)).map(|_| ())
}

/// `choices` with the micro-batch of `checkpoint`, where that is a checkpoint of the snapshot `key` and its parts are no larger: they need
/// no more memory, and what was done with them is not lost.
#[must_use]
pub fn resumed(checkpoint: &[u8], key: [u8; 32], choices: RunChoices) -> RunChoices {
    let Ok(Checkpoint { key: made, choices: found, .. }) = postcard::from_bytes::<Checkpoint<Journal>>(checkpoint)
    else {
        return choices;
    };
    let smaller = found.micro_batch > 0 && (choices.micro_batch == 0 || found.micro_batch < choices.micro_batch);
    if made == key && smaller { RunChoices { micro_batch: found.micro_batch, ..choices } } else { choices }
}

/// Everything that a resume needs beside the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// Fits that are over, in order.
    pub(crate) ended: Vec<Ended>,
    /// The one under way.
    pub(crate) open: Option<Open>,
    /// Gradient steps of all of them.
    pub(crate) steps: u64,
    /// The head that is fitted behind them.
    pub(crate) head: Option<HeadUnderWay>,
}

/// A head under way, as a checkpoint keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeadUnderWay {
    /// Rows it has run through.
    pub(crate) rows: usize,
    /// Sums, heads and weights, whole: rounding in a sum that is made again in another order would change the candidate.
    pub(crate) heads: Horizons,
    /// What the heads said alone, and what was true.
    pub(crate) said_alone: Vec<f32>,
    pub(crate) truths: Vec<f32>,
}

/// A journal to write, without copying what it holds: heads are megabytes.
#[derive(Serialize)]
struct JournalRef<'a> {
    ended: &'a [Ended],
    open: Option<&'a Open>,
    steps: u64,
    head: Option<&'a HeadUnderWay>,
}

#[derive(Serialize, Deserialize)]
struct Checkpoint<J> {
    format: u32,
    version: String,
    key: [u8; 32],
    choices: RunChoices,
    journal: J,
}

/// One training in its surroundings.
pub(crate) struct Session<'a> {
    surroundings: &'a mut dyn Surroundings,
    key: [u8; 32],
    choices: RunChoices,
    /// Fits that have been taken up again or begun so far.
    pub(crate) fits: usize,
    pub(crate) journal: Journal,
    pub(crate) steps_max: u64,
    rows: usize,
}

impl<'a> Session<'a> {
    /// A training of the snapshot `key`, from its beginning or from `checkpoint`.
    ///
    /// Fails with [`CheckpointError`] if the checkpoint is of something else.
    pub(crate) fn new(
        surroundings: &'a mut dyn Surroundings,
        key: [u8; 32],
        choices: RunChoices,
        checkpoint: Option<&[u8]>,
    ) -> Result<Self, CheckpointError> {
        let mut session =
            Self { surroundings, key, choices, fits: 0, journal: Journal::default(), steps_max: 0, rows: 0 };
        if let Some(bytes) = checkpoint {
            let unreadable = |error: postcard::Error| CheckpointError::Unreadable(error.to_string());
            let found: Checkpoint<Journal> = postcard::from_bytes(bytes).map_err(unreadable)?;
            if found.format != FORMAT || found.version != env!("CARGO_PKG_VERSION") {
                return Err(CheckpointError::Unreadable(format!("layout {}", found.format)));
            }
            // Whether an earlier attempt was told to finish is part of its state, not of the settings.
            if found.key != key || found.choices.micro_batch != choices.micro_batch {
                return Err(CheckpointError::Other);
            }
            session.choices.last_step = choices.last_step.or(found.choices.last_step);
            session.journal = found.journal;
        }
        Ok(session)
    }

    /// Rows per forward and backward pass; 0 takes each batch whole.
    pub(crate) fn micro_batch(&self) -> usize {
        usize::try_from(self.choices.micro_batch).unwrap_or(0)
    }

    /// What was chosen beside the snapshot, to be kept with the candidate.
    pub(crate) fn choices(&self) -> RunChoices {
        self.choices
    }

    /// Whether no more gradient steps shall be made.
    pub(crate) fn finishing(&self) -> bool {
        self.choices.last_step.is_some_and(|last| self.journal.steps >= last)
    }

    /// Lets the surroundings have their way between two gradient steps; `open` is what a checkpoint needs.
    pub(crate) fn step_done(&mut self, open: Option<&Open>) -> Result<(), Stopped> {
        match self.ask() {
            Wish::Continue => {}
            Wish::Save => self.save(open),
            Wish::Finish => self.choices.last_step = Some(self.journal.steps),
            Wish::Stop => {
                self.save(open);
                return Err(Stopped);
            }
        }
        Ok(())
    }

    /// Counts one row of a loop over rows and pauses now and then; a checkpoint that is wanted waits for the next step.
    pub(crate) fn row_done(&mut self) -> Result<(), Stopped> {
        self.rows += 1;
        if !self.rows.is_multiple_of(ROWS_PER_PAUSE) {
            return Ok(());
        }
        match self.ask() {
            Wish::Continue | Wish::Save => {}
            Wish::Finish => self.choices.last_step = Some(self.journal.steps),
            Wish::Stop => {
                // What is over already is kept; whoever has a fit under way keeps that behind this.
                self.save(None);
                return Err(Stopped);
            }
        }
        Ok(())
    }

    /// [`Session::row_done`] while a head is fitted; `state` is what a checkpoint needs of it.
    pub(crate) fn head_row_done(&mut self, state: &HeadUnderWay) -> Result<(), Stopped> {
        self.rows += 1;
        if !self.rows.is_multiple_of(ROWS_PER_PAUSE) {
            return Ok(());
        }
        let wish = self.ask();
        match wish {
            Wish::Continue => {}
            Wish::Finish => self.choices.last_step = Some(self.journal.steps),
            Wish::Save | Wish::Stop => self.keep(None, Some(state)),
        }
        if wish == Wish::Stop { Err(Stopped) } else { Ok(()) }
    }

    /// Hands a checkpoint over.
    pub(crate) fn save(&mut self, open: Option<&Open>) {
        self.keep(open, None);
    }

    fn keep(&mut self, open: Option<&Open>, head: Option<&HeadUnderWay>) {
        let Journal { ended, open: waiting, steps, .. } = &self.journal;
        let checkpoint = Checkpoint {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            key: self.key,
            choices: self.choices,
            journal: JournalRef { ended, open: open.or(waiting.as_ref()), steps: *steps, head },
        };
        // Measured first: a vector that grows would need twice the memory.
        let size = postcard::experimental::serialized_size(&checkpoint).expect("a checkpoint is plain data");
        let bytes = postcard::to_extend(&checkpoint, Vec::with_capacity(size)).expect("a checkpoint is plain data");
        self.surroundings.keep(&bytes);
    }

    fn ask(&mut self) -> Wish {
        self.surroundings.pause(Progress { steps: self.journal.steps, steps_max: self.steps_max })
    }
}
