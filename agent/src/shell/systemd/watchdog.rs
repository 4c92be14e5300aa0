//! The thread that looks whether every part moves, and tells the service manager only while it does.
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use super::Notifier;
use super::starts::Held;
use crate::decide::liveness::Liveness;
use crate::decide::starts::HELD;
use crate::decide::time::Uptime;
use crate::shell::clock::Running;
use crate::shell::daemon::Shared;

/// Between two looks, and so between two signs of life; a shorter watchdog is looked at four times.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Patience where no manager says how long it waits: what is logged then.
const PATIENCE: Duration = Duration::from_secs(30);

/// The running thread; ends when it is stopped.
pub struct Watchdog {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Notifier>,
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog").finish_non_exhaustive()
    }
}

/// Begins to look; `held` hears that this start ran long enough.
///
/// # Errors
/// The system gives no thread.
pub fn watch(notifier: Notifier, shared: Arc<Shared>, linked: bool, held: Held) -> io::Result<Watchdog> {
    let (stop, stopped) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(move || look_on(notifier, &shared, linked, held, &stopped))?;
    Ok(Watchdog { stop, thread })
}

impl Watchdog {
    /// Ends the thread and says that the agent stops.
    pub fn stop(self) {
        drop(self.stop);
        if let Ok(notifier) = self.thread.join() {
            notifier.stopping();
        }
    }
}

fn look_on(notifier: Notifier, shared: &Shared, linked: bool, held: Held, stopped: &mpsc::Receiver<()>) -> Notifier {
    let clock = Running::after(Uptime::default());
    // Half of the manager's patience is ours: the other half lets one late look, or a busy machine, pass.
    let patience = notifier.watchdog().map_or(PATIENCE, |watchdog| watchdog / 2);
    let every = LOOK_EVERY.min(patience / 2);
    let (mut liveness, mut was_hung, mut held) = (Liveness::default(), false, Some(held));
    loop {
        let hung;
        (liveness, hung) = liveness.step(&shared.pulses.look(&shared.recorder, linked), clock.now(), patience);
        match &hung {
            None => notifier.alive(),
            Some(hung) if !was_hung => {
                tracing::error!(part = ?hung.part, "{hung}: the watchdog is not fed, the service manager restarts the agent");
                notifier.status(&hung.to_string());
            }
            Some(_) => {}
        }
        if was_hung && hung.is_none() {
            tracing::warn!("every part moves again");
            notifier.status("every part moves again");
        }
        was_hung = hung.is_some();
        if clock.now().0 >= HELD
            && let Some(held) = held.take()
        {
            held.note();
        }
        match stopped.recv_timeout(every) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return notifier,
        }
    }
}
