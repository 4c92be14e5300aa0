//! The device's own key: drawn at its first start, kept in the state directory (0600), signs what was trained here.
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use fleet_protocol::keys::{KeyId, SigningKey};

use crate::shell::disk::{self, Disk};
use crate::shell::store::StoreError;

/// Its file in the state directory.
const FILE: &str = "device.key";

/// The device's key.
#[derive(Clone)]
pub struct DeviceKey {
    key: SigningKey,
    id: KeyId,
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceKey({})", self.id)
    }
}

impl DeviceKey {
    /// Reads the key of `state_dir`, or draws one. A file that holds no key is kept beside the new one.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the disk or the system's source of chance refuses.
    pub fn open(disk: &dyn Disk, state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(FILE);
        match disk.read(&path) {
            Ok(bytes) => match <[u8; 32]>::try_from(bytes.as_slice()) {
                Ok(seed) => return Ok(Self::of(&seed)),
                Err(_) => {
                    let aside = state_dir.join(format!("{FILE}.damaged"));
                    disk.rename(&path, &aside).map_err(|source| StoreError::io("set aside", &path, source))?;
                    tracing::error!(kept = %aside.display(), "the device's key is damaged: a new one is drawn");
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::io("read", &path, source)),
        }
        let mut seed = [0; 32];
        let drawn = File::open("/dev/urandom").and_then(|mut chance| chance.read_exact(&mut seed));
        drawn.map_err(|source| StoreError::io("draw", &path, source))?;
        disk::put(disk, &path, &seed).map_err(|source| StoreError::io("write", &path, source))?;
        Ok(Self::of(&seed))
    }

    fn of(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let id = KeyId::of(&key.verifying_key());
        Self { key, id }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Its public half, 32 bytes.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    pub(super) fn secret(&self) -> &SigningKey {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::shell::disk::RealDisk;

    #[test]
    fn a_key_is_drawn_once_is_nobody_elses_to_read_and_is_replaced_only_if_it_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let open = || DeviceKey::open(&RealDisk, folder.path()).unwrap();
        let (first, path) = (open(), folder.path().join(FILE));
        assert_eq!(open().public(), first.public());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"short").unwrap();
        assert_ne!(open().public(), first.public());
        assert_eq!(fs::read(folder.path().join("device.key.damaged")).unwrap(), b"short");
    }
}
