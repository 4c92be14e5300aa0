//! A training in the trainer's own confined unit: reached by its socket, which starts it, and watched by its control group.
//!
//! The unit gives what a child cannot: no network, a memory limit of the kernel, no other rights. It speaks the same frames;
//! its end is a closed stream, so what a child's exit status tells is read from the group.
use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::frames::{Answer, Job, Report};
use super::supervisor::{TRAINING_MAX, converse};
use super::{Say, Source, TrainerError};

/// Control group of the trainer's slice; the slice outlives its services, and its counts include theirs.
const GROUP: &str = "/sys/fs/cgroup/hone.slice/hone-trainer.slice";

/// A started unit.
#[derive(Debug)]
pub(super) struct Unit {
    stream: UnixStream,
    group: PathBuf,
}

/// Starts the unit by connecting to its socket; none where nothing listens.
pub(super) fn connect(socket: &Path) -> Option<Unit> {
    match UnixStream::connect(socket) {
        Ok(stream) => Some(Unit { stream, group: PathBuf::from(GROUP) }),
        Err(error) => {
            tracing::warn!(
                socket = %socket.display(), %error,
                "the trainer's unit does not answer: training runs in a child of the agent (`systemctl status hone-trainer.socket`)"
            );
            None
        }
    }
}

impl Unit {
    /// Hands it the job and the snapshot and hears it out.
    ///
    /// Fails with [`TrainerError::Memory`] where the kernel killed it for its memory, with another [`TrainerError`] where it
    /// ended otherwise.
    pub(super) fn ask(
        self,
        job: &Job,
        snapshot: &Source,
        listen: &mut dyn FnMut(u32, &Report) -> Say,
    ) -> Result<Answer, TrainerError> {
        let killed_before = killed(&self.group).unwrap_or(0);
        let lost = |error: std::io::Error| TrainerError::Ended { how: format!("its socket failed: {error}") };
        let (mut into, mut from) = (self.stream.try_clone().map_err(lost)?, self.stream.try_clone().map_err(lost)?);
        let longest = TRAINING_MAX.div_f64(job.limits.cpu_share.unwrap_or(1.0).clamp(0.01, 1.0));
        let (ended, deadline) = mpsc::channel::<()>();
        let late = self.stream;
        // A worker whose supervisor has gone ends by itself; one that does not even notice ends with its unit's time.
        let watch = std::thread::spawn(move || {
            if deadline.recv_timeout(longest) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = late.shutdown(Shutdown::Both);
            }
        });
        let heard = converse(|| process(&self.group), &mut into, &mut from, job, snapshot, listen);
        drop(ended);
        let _ = watch.join();
        heard.map_err(|error| match killed(&self.group) {
            Some(now) if now > killed_before => TrainerError::Memory {
                words: "the kernel killed it at the memory limit of hone-trainer@.service".to_owned(),
            },
            _ => match error {
                TrainerError::Frame(frame) => {
                    let how = format!(
                        "its unit closed the stream ({frame}); `journalctl -u 'hone-trainer@*'` has its last words"
                    );
                    TrainerError::Ended { how }
                }
                other => other,
            },
        })
    }
}

/// How many processes of the group and its children the kernel has killed for their memory; none where nobody counts.
fn killed(group: &Path) -> Option<u64> {
    let text = fs::read_to_string(group.join("memory.events")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// The worker's process, the only one in the slice; 0 where it cannot be told.
fn process(group: &Path) -> u32 {
    let services = fs::read_dir(group).into_iter().flatten().flatten();
    let first = |folder: PathBuf| fs::read_to_string(folder.join("cgroup.procs")).ok()?.lines().next()?.parse().ok();
    services.filter_map(|service| first(service.path())).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use trainer_core::session::RunChoices;

    use super::*;
    use crate::shell::trainer::frames::{self, Usage};
    use crate::shell::trainer::limits::Limits;

    fn job() -> Job {
        Job { parent: None, choices: RunChoices::default(), limits: Limits::default(), checkpoint: None }
    }

    /// A unit whose worker does `work` with its end of the stream.
    fn ask(group: &Path, work: impl FnOnce(UnixStream) + Send + 'static) -> (Result<Answer, TrainerError>, Vec<u32>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let worker = std::thread::spawn(move || work(theirs));
        let mut processes = Vec::new();
        let unit = Unit { stream: ours, group: group.to_owned() };
        let answer = unit.ask(&job(), &Source::Bytes(vec![7; 10]), &mut |process, _| {
            processes.push(process);
            Say::Finish
        });
        worker.join().unwrap();
        (answer, processes)
    }

    #[test]
    fn a_unit_is_told_the_job_and_heard_out_and_its_process_is_found() {
        let group = tempfile::tempdir().unwrap();
        let service = group.path().join("hone-trainer@3.service");
        fs::create_dir(&service).unwrap();
        fs::write(service.join("cgroup.procs"), "4711\n").unwrap();
        let (answer, processes) = ask(group.path(), |mut stream| {
            assert_eq!(frames::read::<Job>(&mut stream).unwrap(), job());
            let mut snapshot = [0; 10];
            stream.read_exact(&mut snapshot).unwrap();
            frames::write(&mut stream, &Answer::Progress(Report::default())).unwrap();
            assert_eq!(frames::read::<frames::Word>(&mut stream).unwrap(), frames::Word::Finish);
            frames::write(&mut stream, &Answer::Stopped(Usage::default())).unwrap();
        });
        assert_eq!(answer.unwrap(), Answer::Stopped(Usage::default()));
        assert_eq!(processes, [4711]);
    }

    #[test]
    fn a_stream_that_closes_is_blamed_on_memory_only_if_the_kernel_counted_a_kill() {
        let group = tempfile::tempdir().unwrap();
        let events = group.path().join("memory.events");
        let hang_up = |stream: UnixStream| drop(stream);
        let (answer, _) = ask(group.path(), hang_up);
        assert!(matches!(answer, Err(TrainerError::Ended { .. })), "nobody counts");
        fs::write(&events, "oom 3\noom_kill 2\n").unwrap();
        let (answer, _) = ask(group.path(), hang_up);
        assert!(matches!(answer, Err(TrainerError::Ended { .. })), "those were others");
        let (answer, _) = ask(group.path(), move |mut stream| {
            frames::read::<Job>(&mut stream).unwrap();
            fs::write(&events, "oom 4\noom_kill 3\n").unwrap();
        });
        assert!(matches!(answer, Err(TrainerError::Memory { .. })), "{answer:?}");
    }
}
