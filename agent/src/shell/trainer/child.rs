//! A child of this binary from its start to its end: in a group of its own, its last words kept, ended when it takes too long.
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::limits::Group;

/// Last words of a child that are kept.
const WORDS_BYTES_MAX: u64 = 64 * 1024;

/// A child under way.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    group: Option<Group>,
    words: JoinHandle<Vec<u8>>,
    ended: Sender<()>,
    watch: JoinHandle<bool>,
}

/// How it ended.
#[derive(Debug)]
pub struct End {
    /// What the system says.
    pub status: io::Result<ExitStatus>,
    /// The last it wrote to stderr.
    pub words: Vec<u8>,
    /// Whether it was ended because it took too long.
    pub late: bool,
    /// Whether the kernel ended it for its memory.
    pub killed_for_memory: bool,
}

/// `program` with this argument and pipes.
#[must_use]
pub fn command(program: &Path, argument: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A second arena would hold memory that nobody counts.
    command.env("MALLOC_ARENA_MAX", "1");
    command
}

/// Starts it with at most `memory_bytes`, where the system has groups for that, and for at most `longest`.
///
/// # Errors
/// The system refuses to start it.
///
/// # Panics
/// Never: a child of [`command`] has its pipes.
pub fn start(mut command: Command, memory_bytes: Option<u64>, longest: Duration) -> io::Result<Watched> {
    let mut child = command.spawn()?;
    // In its group before it has anything to allocate; without one its own limits hold.
    let group = memory_bytes.and_then(|bytes| Group::make(Path::new("/"), child.id(), bytes));
    // Drained beside what it answers, or a child that complains at length would wait for us while we wait for it.
    let mut stderr = child.stderr.take().expect("stderr is piped");
    let words = thread::spawn(move || {
        let mut words = Vec::new();
        let _ = (&mut stderr).take(WORDS_BYTES_MAX).read_to_end(&mut words);
        let _ = io::copy(&mut stderr, &mut io::sink());
        words
    });
    let (ended, deadline) = mpsc::channel::<()>();
    let pid = pid_of(&child);
    let watch = thread::spawn(move || {
        let late = deadline.recv_timeout(longest) == Err(RecvTimeoutError::Timeout);
        if let Some(pid) = pid.filter(|_| late) {
            let _ = kill_process(pid, Signal::KILL);
        }
        late
    });
    Ok(Watched { child, group, words, ended, watch })
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

impl Watched {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it reads and what it writes, once.
    ///
    /// # Panics
    /// If they are asked for again.
    pub fn pipes(&mut self) -> (ChildStdin, ChildStdout) {
        (self.child.stdin.take().expect("stdin is piped"), self.child.stdout.take().expect("stdout is piped"))
    }

    /// Nobody listens any more: waits for its end, or brings it about.
    #[must_use]
    pub fn end(mut self, kill: bool) -> End {
        // The watch ends before the child is waited for, so that its number cannot be another process's by then.
        drop(self.ended);
        let late = self.watch.join().unwrap_or(false);
        if let Some(pid) = pid_of(&self.child).filter(|_| kill) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let words = self.words.join().unwrap_or_default();
        let status = self.child.wait();
        End { status, words, late, killed_for_memory: self.group.as_ref().is_some_and(Group::has_killed) }
    }
}
