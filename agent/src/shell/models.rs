//! Content-addressed files: the name of a model or a snapshot is the sha-256 of its bytes.
mod floors;
mod keys;
mod refused;
mod settings;
mod signed;
mod vault;
pub mod vetting;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use trainer_core::digest::Digest;

use super::disk::{self, Disk, RealDisk};
use super::files::{create_private_folder, remove_unfinished, set_aside};
use super::store::StoreError;
pub use floors::FloorsFile;
pub use keys::DeviceKey;
pub use refused::Refused;
pub use settings::{ModelSettings, Require};
pub use signed::Standing;
pub use signed::{FLOOR, read_signature, to_wire as wire_digest};
pub use vault::{Door, Installed, Vault, envelope_path, read_limited};

/// A folder of immutable files `<sha256>.<extension>`.
///
/// Which of them are in use is not known here: the rows in `control.db` say so, and whoever collects garbage reads them.
#[derive(Clone, Debug)]
pub struct ModelStore {
    folder: PathBuf,
    extension: &'static str,
    disk: Arc<dyn Disk>,
}

impl ModelStore {
    /// Opens or creates `folder` and deletes what an interrupted write left there.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be made, listed or cleaned.
    pub fn open(folder: &Path, extension: &'static str) -> Result<Self, StoreError> {
        Self::open_on(RealDisk::shared(), folder, extension)
    }

    /// [`ModelStore::open`] on another disk.
    ///
    /// # Errors
    /// As [`ModelStore::open`].
    pub fn open_on(disk: Arc<dyn Disk>, folder: &Path, extension: &'static str) -> Result<Self, StoreError> {
        create_private_folder(folder).map_err(|source| StoreError::io("create", folder, source))?;
        remove_unfinished(folder).map_err(|source| StoreError::io("clean", folder, source))?;
        Ok(Self { folder: folder.to_owned(), extension, disk })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Stores `bytes` so that they survive a power cut, and returns their name. The same bytes again are a success; a
    /// damaged file of that name is set aside and replaced.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk refuses.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        match self.get(&digest) {
            Ok(_) => return Ok(digest),
            Err(StoreError::Missing { .. } | StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        let path = self.path(&digest);
        disk::put(&*self.disk, &path, bytes).map_err(|source| StoreError::io("write", &path, source))?;
        Ok(digest)
    }

    /// The bytes named `digest`, hashed after reading: what is returned is what was checked, nothing is read twice.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is no such file; [`StoreError::Damaged`] if its bytes have another digest, with
    /// the place where it was set aside so that nothing opens it again; [`StoreError::Io`] if the disk refuses.
    pub fn get(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let bytes = match self.disk.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::Missing { path, digest: *digest });
            }
            Err(source) => return Err(StoreError::io("read", &path, source)),
        };
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        // A read-only disk keeps the name; the answer stays `Damaged`, as nothing may be served from it.
        let path = set_aside(&path).unwrap_or(path);
        Err(StoreError::Damaged { path, digest: *digest })
    }

    /// Removes the file named `digest`, if it is there.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk refuses.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        disk::discard(&*self.disk, &path).map_err(|source| StoreError::io("remove", &path, source))
    }

    /// The digests of all files here, sorted; files of other names (signatures, damaged ones) are not listed.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        let failed = |source| StoreError::io("list", &self.folder, source);
        let mut digests = Vec::new();
        for name in self.disk.names(&self.folder).map_err(failed)? {
            let stem = name.strip_suffix(self.extension).and_then(|stem| stem.strip_suffix('.'));
            digests
                .extend(stem.and_then(|stem| stem.parse::<Digest>().ok()).filter(|digest| self.path(digest).is_file()));
        }
        digests.sort_unstable();
        Ok(digests)
    }

    /// What its files are on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Where the file named `digest` is or would be.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}.{}", self.extension))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn store(folder: &Path) -> ModelStore {
        ModelStore::open(&folder.join("models"), "safetensors").unwrap()
    }

    #[test]
    fn a_stored_file_reads_back_is_listed_and_can_be_stored_again_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let digest = store.put(b"weights").unwrap();
        assert_eq!(store.put(b"weights").unwrap(), digest);
        assert_eq!(store.get(&digest).unwrap(), b"weights");
        fs::write(store.path(&digest).with_extension("dsse"), b"signature").unwrap();
        assert_eq!(store.list().unwrap(), [digest]);
        store.remove(&digest).unwrap();
        store.remove(&digest).unwrap();
        assert!(matches!(store.get(&digest), Err(StoreError::Missing { .. })));
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn one_flipped_bit_anywhere_is_refused_set_aside_and_never_served_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let digest = store.put(b"weights").unwrap();
        for place in 0..b"weights".len() {
            let mut flipped = b"weights".to_vec();
            flipped[place] ^= 1 << (place % 8);
            fs::write(store.path(&digest), &flipped).unwrap();
            let refused = store.get(&digest).unwrap_err();
            let StoreError::Damaged { path, digest: named } = &refused else { panic!("{refused}") };
            assert_eq!((fs::read(path).unwrap(), *named), (flipped, digest));
            assert_eq!(refused.exit_code(), 5);
            assert!(matches!(store.get(&digest), Err(StoreError::Missing { .. })));
        }
    }

    #[test]
    fn storing_the_right_bytes_over_a_damaged_file_repairs_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let digest = store.put(b"weights").unwrap();
        fs::write(store.path(&digest), b"weighty").unwrap();
        store.put(b"weights").unwrap();
        assert_eq!(store.get(&digest).unwrap(), b"weights");
    }

    #[test]
    fn a_half_written_file_of_a_power_cut_is_gone_after_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let digest = store(folder.path()).put(b"weights").unwrap();
        let leftover = folder.path().join("models/.unfinished-1a2b");
        fs::write(&leftover, b"wei").unwrap();
        assert_eq!(store(folder.path()).list().unwrap(), [digest]);
        assert!(!leftover.exists());
    }
}
