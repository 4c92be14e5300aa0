//! The two doors: a Unix socket of mode 0660 and a loopback address.
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::shell::daemon::DaemonError;
use crate::shell::files::create_private_folder;

/// Open doors, not yet served.
#[derive(Debug)]
pub struct Doors {
    pub(super) socket: UnixListener,
    pub(super) tcp: Option<TcpListener>,
}

impl Doors {
    /// Opens both; a socket that an agent left behind when it was killed is replaced.
    ///
    /// # Errors
    /// [`DaemonError::SocketInUse`] if an agent answers on the socket; [`DaemonError::Listen`] names the place.
    pub async fn open(socket: &Path, address: Option<SocketAddr>) -> Result<Self, DaemonError> {
        let failed = |source: io::Error| DaemonError::Listen { place: socket.display().to_string(), source };
        if UnixStream::connect(socket).await.is_ok() {
            return Err(DaemonError::SocketInUse(socket.to_owned()));
        }
        if let Some(folder) = socket.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            create_private_folder(folder).map_err(failed)?;
        }
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(socket).map_err(failed)?;
        // Whatever the umask: the owner and the group may speak to the agent, nobody else.
        fs::set_permissions(socket, fs::Permissions::from_mode(0o660)).map_err(failed)?;
        let tcp = match address {
            None => None,
            Some(address) => {
                let failed = |source| DaemonError::Listen { place: format!("{address} (`agent.listen`)"), source };
                Some(TcpListener::bind(address).await.map_err(failed)?)
            }
        };
        Ok(Self { socket: listener, tcp })
    }

    /// The loopback address with the port that was taken.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }
}

/// Whether a host header names this machine, with or without a port.
pub(super) fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => {
            return rest.split_once(']').is_some_and(|(name, port)| name == "::1" && is_port(port));
        }
        None => host.split_once(':').map_or((host, ""), |(name, _)| (name, &host[name.len()..])),
    };
    matches!(name.0.to_ascii_lowercase().as_str(), "localhost" | "127.0.0.1") && is_port(name.1)
}

fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for host in ["localhost", "localhost:8600", "127.0.0.1:1", "[::1]", "[::1]:8600", "LOCALHOST:80"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:8600",
            "127.0.0.1.evil.example",
            "localhost:x",
            "[::2]:80",
            "10.0.0.1",
            "localhost:99999",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_one_that_answers_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/api.sock");
        drop(Doors::open(&path, None).await.unwrap());
        assert!(path.exists(), "a dropped listener leaves its file, as a killed agent does");
        let doors = Doors::open(&path, Some("127.0.0.1:0".parse().unwrap())).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_ne!(doors.address().unwrap().port(), 0);
        assert!(matches!(Doors::open(&path, None).await, Err(DaemonError::SocketInUse(_))));
    }
}
