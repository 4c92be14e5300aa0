//! The steps durable files are made of, behind one seam: a test hands in a disk that is cut between any two of them.
use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::files::{TEMPORARY_PREFIX, folder_of};

/// A disk. What a step has done is lost in a power cut until it is synced: bytes by [`Disk::sync`], names by
/// [`Disk::sync_folder`].
pub trait Disk: Debug + Send + Sync {
    /// The bytes of a file.
    ///
    /// # Errors
    /// As the system answers; so do all others here.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// How long a file is, without reading it.
    fn length(&self, path: &Path) -> io::Result<u64>;
    /// Names in a folder, in no order.
    fn names(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Makes a new file of this user alone (0600) with these bytes.
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Makes the bytes of a file durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Gives a file another name in its folder, in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// The disk of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// To be handed on.
    #[must_use]
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(Self)
    }
}

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

/// Writes `bytes` to `path`, replacing what was there: a new file beside it, its bytes synced, renamed, the folder synced.
///
/// # Errors
/// Any failed step; `path` is then untouched, unless only the last one failed.
pub fn put(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished_beside(path);
    let written = disk.create(&unfinished, bytes).and_then(|()| disk.sync(&unfinished));
    if let Err(error) = written.and_then(|()| disk.rename(&unfinished, path)) {
        // Left behind, it is removed at the next start.
        let _ = disk.remove(&unfinished);
        return Err(error);
    }
    disk.sync_folder(folder_of(path))
}

/// [`put`] that keeps what was there as `older`: at any moment one of the two is whole.
///
/// # Errors
/// As [`put`].
pub fn put_keeping(disk: &dyn Disk, path: &Path, older: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished_beside(path);
    disk.create(&unfinished, bytes)?;
    disk.sync(&unfinished)?;
    match disk.rename(path, older) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The older name is durable before the newer one takes its place.
    disk.sync_folder(folder_of(path))?;
    disk.rename(&unfinished, path)?;
    disk.sync_folder(folder_of(path))
}

/// Removes `path` for good; a file that is not there is removed already.
///
/// # Errors
/// The failed removal or sync.
pub fn discard(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => disk.sync_folder(folder_of(path)),
    }
}

/// A name of its own for what is not finished: one agent owns a folder, and counts.
fn unfinished_beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    folder_of(path).join(format!("{TEMPORARY_PREFIX}{}-{number}", std::process::id()))
}

#[cfg(test)]
pub(crate) mod cut;
