//! The trainer itself: reads one job, trains, writes one answer.
use std::io::{Read, Write};

use rustix::time::{ClockId, clock_gettime};
use trainer_core::snapshot;

use super::frames::{self, Answer, FrameError, Job};

/// Measures the CPU time of a training.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    clock: ClockId,
    start_s: f64,
}

impl Meter {
    /// Counts this thread.
    #[must_use]
    pub fn thread() -> Self {
        Self::new(ClockId::ThreadCPUTime)
    }

    /// Counts the whole process.
    #[must_use]
    pub fn process() -> Self {
        Self { start_s: 0.0, ..Self::new(ClockId::ProcessCPUTime) }
    }

    fn new(clock: ClockId) -> Self {
        Self { clock, start_s: read_s(clock) }
    }

    /// CPU seconds so far.
    #[must_use]
    pub fn cpu_s(&self) -> f64 {
        read_s(self.clock) - self.start_s
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds of CPU time fit an f64")]
fn read_s(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Serves one job over a pair of pipes; what `hone train-worker` does.
///
/// Fails only if the pipes do; a training that cannot be done is an answer.
pub fn serve(mut from: impl Read, mut into: impl Write) -> Result<(), FrameError> {
    // An agent that was killed wants no candidate any more; where the system cannot do this, the closed pipe ends us later.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let job: Job = frames::read(&mut from)?;
    frames::write(&mut into, &run(&job, Meter::process()))
}

/// Trains.
#[must_use]
pub fn run(job: &Job, meter: Meter) -> Answer {
    match snapshot::run(&job.snapshot, job.parent.as_deref()) {
        Ok(outcome) => Answer::Done {
            bundle: outcome.bundle,
            work_mac: outcome.trained.work_mac,
            cpu_s: meter.cpu_s(),
            peak_bytes: peak_bytes(),
        },
        Err(error) => Answer::Refused { reason: chain(&error) },
    }
}

/// Highest resident memory of this process; 0 where `/proc` does not tell.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
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
