//! One agent per state directory: an exclusive lock that the kernel releases however the agent ends.
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::store::StoreError;

/// The right to write in a state directory, held until it is dropped.
///
/// The file stays behind: removing it would let two agents lock two files of the same name.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock in the file `path` of the state directory `directory` and writes this process's number into it.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process holds it; [`StoreError::Io`] if the file cannot be opened or written.
    pub fn take(directory: &Path, path: &Path) -> Result<Self, StoreError> {
        let failed = |source: io::Error| StoreError::io("lock", path, source);
        // The content belongs to whoever holds the lock, so it is truncated only after taking it.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(StoreError::InUse { path: directory.to_owned(), pid: holder(&mut file) });
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// The number the holder wrote; none in the moment between its lock and its write.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_holds_the_directory_and_may_enter_after_it_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        std::fs::write(&path, "99999999 and the rest of an older, longer text").unwrap();
        let first = Lock::take(folder.path(), &path).unwrap();
        let refused = Lock::take(folder.path(), &path).unwrap_err();
        assert!(matches!(&refused, StoreError::InUse { pid: Some(pid), .. } if *pid == std::process::id()));
        assert_eq!(refused.exit_code(), 6);
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        Lock::take(folder.path(), &path).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_a_disk_problem() {
        let missing = Path::new("/nonexistent-state");
        let refused = Lock::take(missing, &missing.join("lock")).unwrap_err();
        assert!(refused.is_disk());
        assert_eq!(refused.exit_code(), 7);
    }
}
