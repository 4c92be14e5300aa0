//! What the agent says to the service manager, and what it is told by it: readiness, watchdog, credentials, starts.
mod notify;
mod pulses;
pub mod starts;
mod watchdog;

use std::path::{Path, PathBuf};

pub use notify::Notifier;
pub use pulses::{Busy, Pulses, Turns};
pub use watchdog::{Watchdog, watch};

/// The folder of secrets that the packaged unit loads (`LoadCredential=hone:…`): only root may read it.
pub const CREDENTIALS: &str = "/etc/hone/credentials";

/// Where a file of the configuration is read: a secret below [`CREDENTIALS`] that the service manager has handed over is read
/// where it was put, so that one configuration serves the unit and a person who tries it as root.
#[must_use]
pub fn credential(path: &Path) -> PathBuf {
    let handed = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    credential_in(handed.as_deref(), path)
}

fn credential_in(handed: Option<&Path>, path: &Path) -> PathBuf {
    let inside = path.strip_prefix(CREDENTIALS).ok().and_then(Path::to_str).filter(|name| !name.contains('/'));
    let found = handed.zip(inside).map(|(folder, name)| folder.join(format!("hone_{name}")));
    found.filter(|found| found.is_file()).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_was_handed_over_is_read_where_it_was_put_and_every_other_file_where_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hone_mqtt.key"), "secret").unwrap();
        let at = |handed: Option<&Path>, path: &str| credential_in(handed, Path::new(path));
        let handed = Some(folder.path());
        assert_eq!(at(handed, "/etc/hone/credentials/mqtt.key"), folder.path().join("hone_mqtt.key"));
        for other in ["/etc/hone/credentials/other.key", "/etc/hone/mqtt.key", "/etc/hone/credentials/a/mqtt.key"] {
            assert_eq!(at(handed, other), Path::new(other));
        }
        assert_eq!(at(None, "/etc/hone/credentials/mqtt.key"), Path::new("/etc/hone/credentials/mqtt.key"));
    }
}
