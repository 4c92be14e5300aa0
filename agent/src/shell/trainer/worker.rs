//! The trainer itself: reads one job and its rows, trains within its limits, says how far it is, writes one answer.
use std::fs;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use rustix::time::ClockId;
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::memory::Shape;
use trainer_core::model::Strategy;
use trainer_core::network::Network;
use trainer_core::session::{self, Progress, Surroundings, Wish};
use trainer_core::snapshot::{self, Outcome, Snapshot, SnapshotError};
use trainer_core::train::TrainError;

use super::duty::{Clock as _, Duty, RealClock, read_s};
use super::frames::{self, Answer, Candidate, Checkpointing, FrameError, Job, Report, Usage, Word};
use super::{limits, system};
use crate::shell::files::{remove_durable, write_durable};

/// Seconds between two reports.
const REPORT_EVERY_S: f64 = 0.2;
/// Stack of the thread that hears the supervisor; it decodes a byte at a time.
const EAR_STACK_BYTES: usize = 128 * 1024;

/// What the supervisor has said; 0 for nothing yet.
static SAID: AtomicU8 = AtomicU8::new(0);
const CANCEL: u8 = 1;
const FINISH: u8 = 2;
/// The share of one core that the supervisor has said last, in thousandths; 0 for that of the job.
static SHARE: AtomicU16 = AtomicU16::new(0);

/// How a worker's service ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// With an answer.
    Answered,
    /// Stopped on request; another worker can go on.
    Stopped,
}

/// Measures the CPU time of a training.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    clock: ClockId,
    start_s: f64,
}

impl Meter {
    /// Counts this thread from now on.
    #[must_use]
    pub fn thread() -> Self {
        Self { clock: ClockId::ThreadCPUTime, start_s: read_s(ClockId::ThreadCPUTime) }
    }

    /// CPU seconds so far.
    #[must_use]
    pub fn cpu_s(&self) -> f64 {
        read_s(self.clock) - self.start_s
    }
}

/// Serves one job over a pair of pipes; what `hone train-worker` does.
///
/// Fails only if the pipes do; a training that cannot be done is an answer.
pub fn serve(mut from: impl Read + Send + 'static, mut into: impl Write) -> Result<Served, FrameError> {
    stand_back();
    let job: Job = frames::read(&mut from)?;
    if let Some(bytes) = job.limits.memory_bytes {
        limits::limit_data(bytes);
        system::limit_heap(bytes);
    }
    let answer = match Snapshot::read(&mut from) {
        Ok((snapshot, name)) => {
            let ear = std::thread::Builder::new().stack_size(EAR_STACK_BYTES);
            ear.spawn(move || listen(from)).map_err(FrameError::Pipe)?;
            train(&job, snapshot, name, &mut into)
        }
        Err(error) => Answer::Refused { reason: chain(&error) },
    };
    frames::write(&mut into, &answer)?;
    Ok(if matches!(answer, Answer::Stopped(_)) { Served::Stopped } else { Served::Answered })
}

/// Makes this process the one that yields, ends and dies first.
fn stand_back() {
    // An agent that was killed wants no candidate any more; where the system cannot do this, the closed pipe ends us later.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    system::hear_end();
    let (scheduled, queued) = system::step_back();
    let _ = rustix::process::setpriority_process(None, 19);
    if !scheduled || !queued {
        eprintln!("idle class refused (CPU {scheduled}, disk {queued}); running at the lowest ordinary priority");
    }
    // The kernel shall take the trainer before the agent.
    let _ = fs::write("/proc/self/oom_score_adj", "800");
}

fn listen(mut from: impl Read) {
    loop {
        match frames::read(&mut from) {
            Ok(Word::Finish) => _ = SAID.compare_exchange(0, FINISH, Ordering::Relaxed, Ordering::Relaxed),
            Ok(Word::Share(thousandths)) => SHARE.store(thousandths.min(1_000), Ordering::Relaxed),
            // Whoever has gone wants what a cancel wants.
            Ok(Word::Cancel) | Err(_) => return SAID.store(CANCEL, Ordering::Relaxed),
        }
    }
}

fn train(job: &Job, snapshot: Snapshot, name: Digest, into: &mut impl Write) -> Answer {
    let parent = job.parent.as_deref();
    let mut choices = job.choices;
    let shape = match shape(&snapshot, parent, choices.micro_batch) {
        Ok(shape) => Shape { checkpoint: job.checkpoint.is_some(), ..shape },
        Err(error) => return Answer::Refused { reason: chain(&error) },
    };
    let predicted = match job.limits.memory_bytes {
        Some(limit) => match fitting(shape, limit) {
            Ok(shape) => {
                (choices.micro_batch, choices.recompute) = (shape.micro_batch, shape.recompute);
                shape.peak_bytes()
            }
            Err(least) => return Answer::Refused { reason: too_large(least, limit) },
        },
        None => shape.peak_bytes(),
    };
    let checkpoint = job.checkpoint.as_ref().and_then(|at| {
        let bytes = fs::read(&at.path).ok()?;
        choices = session::resumed(&bytes, *name.as_bytes(), choices);
        let fits = session::check(&bytes, *name.as_bytes(), choices);
        if let Err(error) = &fits {
            eprintln!("{error}");
            let _ = remove_durable(&at.path);
        }
        fits.ok().map(|()| bytes)
    });
    let mut desk = Desk::new(job, predicted, into);
    let outcome = snapshot::run_read(snapshot, name, parent, choices, checkpoint.as_deref(), &mut desk);
    let usage = desk.usage();
    match outcome {
        Ok(outcome) => done(outcome, usage),
        Err(SnapshotError::Train(TrainError::Stopped(_))) => Answer::Stopped(usage),
        Err(error) => Answer::Refused { reason: chain(&error) },
    }
}

fn done(outcome: Outcome, usage: Usage) -> Answer {
    let Outcome { bundle, trained, choices, .. } = outcome;
    Answer::Done(Box::new(Candidate { bundle, work_mac: trained.work_mac, choices, usage }))
}

/// What the training will hold in memory, from the snapshot and its parent.
fn shape(snapshot: &Snapshot, parent: Option<&[u8]>, micro_batch: u64) -> Result<Shape, SnapshotError> {
    let (rows, settings) = (snapshot.rows.len(), &snapshot.settings);
    if let Some((schema, spec)) = snapshot.base_of()? {
        let network = Network::new(&spec, schema.encoded(), spec.outputs(schema.encoded(), schema.outputs()), 0)
            .map_err(TrainError::from)?;
        return Ok(Shape::base(&network, &schema, rows, settings, micro_batch));
    }
    let model = bundle::read(parent.unwrap_or_default())?;
    Ok(Shape::adapt(&model, snapshot.strategy(), rows, settings, micro_batch))
}

/// The shape that fits the limit: first without kept features, which changes no bit, then with the largest micro-batch that
/// does; or the least number of bytes it could do with.
fn fitting(mut shape: Shape, limit: u64) -> Result<Shape, u64> {
    while shape.peak_bytes() > limit {
        if shape.strategy == Strategy::Tail && !shape.quantised && !shape.recompute {
            shape.recompute = true;
            continue;
        }
        let part = if shape.micro_batch == 0 { shape.batch } else { shape.micro_batch };
        if part <= 1 {
            return Err(shape.peak_bytes());
        }
        shape.micro_batch = part / 2;
    }
    Ok(shape)
}

fn too_large(least: u64, limit: u64) -> String {
    format!(
        "the training would take {least} bytes of memory and may take {limit}: order fewer rows, raise the memory budget, or \
         choose a smaller network"
    )
}

/// Where the training's pauses are spent: clocks, the checkpoint file, the pipe.
struct Desk<'a, W> {
    clock: RealClock,
    duty: Duty,
    deadline_s: f64,
    began_s: f64,
    reported_s: f64,
    first_step: Option<(u64, f64)>,
    saved_cpu_s: f64,
    saved_steps: u64,
    checkpoint: Option<&'a Checkpointing>,
    written_bytes: u64,
    predicted: u64,
    into: &'a mut W,
}

impl<'a, W: Write> Desk<'a, W> {
    fn new(job: &'a Job, predicted: u64, into: &'a mut W) -> Self {
        let clock = RealClock;
        Self {
            duty: Duty::new(job.limits.cpu_share.unwrap_or(1.0).clamp(0.001, 1.0), &clock),
            deadline_s: job.limits.deadline_s.unwrap_or(f64::INFINITY),
            began_s: clock.wall_s(),
            reported_s: 0.0,
            first_step: None,
            saved_cpu_s: clock.cpu_s(),
            saved_steps: 0,
            checkpoint: job.checkpoint.as_ref(),
            written_bytes: 0,
            predicted,
            into,
            clock,
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            cpu_s: self.clock.cpu_s(),
            wall_s: self.clock.wall_s() - self.began_s,
            peak_bytes: peak_bytes(),
            heap_peak_bytes: system::heap_bytes().1,
            heap_predicted_bytes: self.predicted,
            written_bytes: self.written_bytes,
        }
    }

    fn report(&mut self, progress: Progress, now_s: f64) {
        let (first, since_s) = *self.first_step.get_or_insert((progress.steps, now_s));
        let done = progress.steps - first;
        let each_s = (now_s - since_s) / done.max(1) as f64;
        let left = progress.steps_max.saturating_sub(progress.steps);
        let report = Report {
            steps: progress.steps,
            steps_max: progress.steps_max,
            remaining_s: (done > 0).then_some(each_s * left as f64),
            usage: self.usage(),
        };
        // A supervisor that has gone is noticed by the thread that listens to it.
        let _ = frames::write(self.into, &Answer::Progress(report));
        self.reported_s = now_s;
    }
}

fn wants_end() -> bool {
    system::asked_to_end() || SAID.load(Ordering::Relaxed) == CANCEL
}

impl<W: Write> Surroundings for Desk<'_, W> {
    fn pause(&mut self, progress: Progress) -> Wish {
        let said = SHARE.load(Ordering::Relaxed);
        if said > 0 {
            self.duty = self.duty.at(f64::from(said) / 1_000.0, &self.clock);
        }
        self.duty.rest(&mut self.clock, wants_end);
        if wants_end() {
            return Wish::Stop;
        }
        let now_s = self.clock.wall_s();
        if now_s - self.reported_s >= REPORT_EVERY_S {
            self.report(progress, now_s);
        }
        let late = now_s - self.began_s >= self.deadline_s || SAID.load(Ordering::Relaxed) == FINISH;
        if late && progress.steps > 0 {
            return Wish::Finish;
        }
        let due = self.checkpoint.is_some_and(|at| {
            self.clock.cpu_s() - self.saved_cpu_s >= at.every_cpu_s
                || at.every_steps > 0 && progress.steps >= self.saved_steps + at.every_steps
        });
        if due {
            self.saved_steps = progress.steps;
            return Wish::Save;
        }
        Wish::Continue
    }

    fn keep(&mut self, checkpoint: &[u8]) {
        self.saved_cpu_s = self.clock.cpu_s();
        self.written_bytes += self.checkpoint.map_or(0, |_| checkpoint.len() as u64);
        if let Some(at) = self.checkpoint
            && let Err(error) = write_durable(&at.path, checkpoint)
        {
            // The training is worth more than its checkpoint: a kill then costs more, and that is all.
            eprintln!("cannot write the checkpoint {}: {error}", at.path.display());
        }
    }
}

/// Highest resident memory of this process without the pages of files it maps, which are those of the binary: it shares them with the
/// agent, and the system may drop them; 0 where `/proc` does not tell.
pub(super) fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    kilobytes("VmHWM:").saturating_sub(kilobytes("RssFile:")) * 1024
}

/// An error with every cause, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}
