//! Atomic, durable files: after a power cut a file is there whole, or as it was before.
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// How names of unfinished files begin; whoever owns a folder may delete these at its start.
pub const TEMPORARY_PREFIX: &str = ".unfinished-";

/// Writes `bytes` to `path`, replacing what was there: a new file in the same folder, fsync, rename, fsync of the folder.
///
/// # Errors
/// Any failed step; `path` is then untouched, unless only the last fsync failed.
pub fn write_durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = folder_of(path);
    let mut file = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|refused| refused.error)?;
    sync_folder(folder)
}

/// Renames within one folder and makes the new name durable.
///
/// # Errors
/// The failed rename or fsync.
pub fn rename_durable(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder(folder_of(to))
}

/// Removes `path` and makes that durable; a file that is not there is removed already.
///
/// # Errors
/// The failed removal or fsync.
pub fn remove_durable(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_folder(folder_of(path)),
    }
}

/// Creates `path` and its missing parents for this user alone (0700); one that exists keeps its mode.
///
/// # Errors
/// The failed creation or fsync of the parent.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    sync_folder(folder_of(path))
}

/// Deletes what an interrupted [`write_durable`] left in `folder` and returns how many files that were.
///
/// # Errors
/// The folder cannot be listed, or a file in it not be removed.
pub fn remove_unfinished(folder: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
            fs::remove_file(entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Moves `path` out of the way without overwriting anything: to `<path>.damaged-<n>` with the first free `n` from 1.
///
/// # Errors
/// The failed rename or fsync.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut number = 1_u32;
    let mut aside = suffixed(path, ".damaged-1");
    while aside.exists() {
        number += 1;
        aside = suffixed(path, &format!(".damaged-{number}"));
    }
    rename_durable(path, &aside)?;
    Ok(aside)
}

/// `path` with `suffix` behind its last character.
#[must_use]
pub fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the names in `folder` durable: a new or changed name is so only once its folder is.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder `path` is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_written_file_replaces_the_old_one_whole_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_durable(&path, b"first and longer").unwrap();
        write_durable(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_cannot_be_put_in_place_leaves_the_old_content_and_no_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir_all(path.join("in the way")).unwrap();
        assert!(write_durable(&path, b"bytes").is_err());
        assert!(path.join("in the way").is_dir());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn whoever_reads_meanwhile_finds_the_old_bytes_or_the_new_ones_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        write_durable(&path, &[0; 10_000]).unwrap();
        std::thread::scope(|scope| {
            let writer =
                scope.spawn(|| (1..=100).for_each(|version| write_durable(&path, &[version; 10_000]).unwrap()));
            while !writer.is_finished() {
                let bytes = fs::read(&path).unwrap();
                assert!(bytes.len() == 10_000 && bytes.iter().all(|byte| *byte == bytes[0]));
            }
        });
    }

    #[test]
    fn leftovers_of_a_power_cut_are_removed_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".unfinished-abc"), b"half").unwrap();
        fs::write(folder.path().join("whole"), b"whole").unwrap();
        assert_eq!(remove_unfinished(folder.path()).unwrap(), 1);
        assert!(folder.path().join("whole").exists());
    }

    #[test]
    fn what_is_set_aside_never_overwrites_what_was_set_aside_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.db");
        for expected in ["control.db.damaged-1", "control.db.damaged-2"] {
            fs::write(&path, expected).unwrap();
            let aside = set_aside(&path).unwrap();
            assert_eq!(aside, folder.path().join(expected));
            assert_eq!(fs::read_to_string(aside).unwrap(), expected);
        }
        assert!(!path.exists());
    }

    #[test]
    fn a_created_folder_is_private_and_removal_may_be_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("state/records");
        create_private_folder(&inner).unwrap();
        create_private_folder(&inner).unwrap();
        assert_eq!(fs::metadata(&inner).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(inner.join("file"), b"").unwrap();
        remove_durable(&inner.join("file")).unwrap();
        remove_durable(&inner.join("file")).unwrap();
    }
}
