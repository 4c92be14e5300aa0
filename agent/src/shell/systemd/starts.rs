//! Counts starts that ended early in a file of the state directory, and waits out the pause they have earned.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Notifier;
use crate::decide::starts::Starts;
use crate::shell::files::write_durable;

/// Name of the file.
const FILE: &str = "starts.json";
/// What the manager is given beyond the pause, for the start itself.
const START_MAX: Duration = Duration::from_mins(2);

/// The count on the disk, to be cleared once this start has held or ended in order.
#[derive(Clone, Debug)]
pub struct Held {
    path: PathBuf,
}

/// Counts this start and says how long it must wait; under no service manager a person waits for it, so it does not wait.
#[must_use]
pub fn begin(state_dir: &Path, notifier: &Notifier) -> (Held, Duration) {
    let path = state_dir.join(FILE);
    if !notifier.is_heard() {
        return (Held { path }, Duration::ZERO);
    }
    // A file that cannot be read counts as none: waiting without need is the worse mistake.
    let before: Starts = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let starts = before.begin();
    write(&path, starts);
    let pause = starts.pause();
    if !pause.is_zero() {
        let status =
            format!("{} starts in a row ended early; the next try is in {} s", before.in_a_row, pause.as_secs());
        tracing::warn!("{status}");
        notifier.extend(pause + START_MAX, &status);
    }
    (Held { path }, pause)
}

impl Held {
    /// This start was no failure.
    pub fn note(&self) {
        if self.path.exists() {
            write(&self.path, Starts::default());
        }
    }
}

fn write(path: &Path, starts: Starts) {
    let bytes = serde_json::to_vec(&starts).expect("a number is always JSON");
    if let Err(error) = write_durable(path, &bytes) {
        tracing::warn!(file = %path.display(), %error, "starts are not counted");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::decide::starts::FREE;

    #[test]
    fn early_ends_are_counted_on_the_disk_and_one_start_that_held_clears_them() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let notifier = Notifier::at(&folder.path().join("notify"));
        for _ in 0..FREE {
            assert_eq!(begin(folder.path(), &notifier).1, Duration::ZERO);
        }
        let (held, pause) = begin(folder.path(), &notifier);
        assert_eq!(pause, Duration::from_secs(10));
        let mut said = [0; 256];
        let length = listener.recv(&mut said).unwrap();
        let said = String::from_utf8_lossy(&said[..length]);
        assert!(said.starts_with("EXTEND_TIMEOUT_USEC=130000000\nSTATUS=9 starts in a row"), "{said}");
        held.note();
        assert_eq!(begin(folder.path(), &notifier).1, Duration::ZERO);
    }

    #[test]
    fn a_person_who_starts_it_never_waits_and_a_damaged_count_is_none() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), r#"{"in_a_row":50}"#).unwrap();
        assert_eq!(begin(folder.path(), &Notifier::default()).1, Duration::ZERO);
        let _listener = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let notifier = Notifier::at(&folder.path().join("notify"));
        assert_eq!(begin(folder.path(), &notifier).1, Duration::from_mins(5));
        fs::write(folder.path().join(FILE), "{half").unwrap();
        assert_eq!(begin(folder.path(), &notifier).1, Duration::ZERO);
    }
}
