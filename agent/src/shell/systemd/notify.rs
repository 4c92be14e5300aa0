//! Speaks sd_notify(3): one datagram of `NAME=value` lines to the socket that the service manager names.
use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The way to the service manager, or to nobody.
#[derive(Debug, Default)]
pub struct Notifier {
    to: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// The manager that started this process, by `$NOTIFY_SOCKET` and `$WATCHDOG_USEC`; nobody where it names none.
    #[must_use]
    pub fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        // A watchdog that is meant for another process, as a wrapper's would be, is not ours to feed.
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0).map(Duration::from_micros);
        let to = std::env::var_os("NOTIFY_SOCKET").and_then(|name| open(&name));
        Self { to, watchdog }
    }

    /// A manager at `path`, without a watchdog.
    #[cfg(test)]
    pub(super) fn at(path: &std::path::Path) -> Self {
        Self { to: open(path.as_os_str()), watchdog: None }
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// How long the manager waits for a sign of life, if it does.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.is_heard())
    }

    /// Serving has begun; `status` is what `systemctl status` shows.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// What `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", line(status)));
    }

    /// The start takes this much longer, counted from now.
    pub fn extend(&self, more: Duration, status: &str) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}\nSTATUS={}", more.as_micros(), line(status)));
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// A sign of life.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        if let Some((socket, to)) = &self.to {
            // A manager that does not listen now misses a status line, or will restart us; neither is helped by an error.
            let _ = socket.send_to_addr(message.as_bytes(), to);
        }
    }
}

/// A path, or `@` and an abstract name.
fn open(name: &OsStr) -> Option<(UnixDatagram, SocketAddr)> {
    let to = match name.as_bytes() {
        [b'@', rest @ ..] if !rest.is_empty() => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => return None,
    };
    let socket = UnixDatagram::unbound().ok()?;
    // The thread that feeds the watchdog must never wait for who reads it.
    socket.set_nonblocking(true).ok()?;
    Some((socket, to.ok()?))
}

/// One line of text: a line break would begin another assignment.
fn line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = listener.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn each_message_is_one_datagram_and_a_status_cannot_smuggle_another_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier { to: open(path.as_os_str()), watchdog: None };
        notifier.ready("model 3f9a\nWATCHDOG=1");
        assert_eq!(heard(&listener), "READY=1\nSTATUS=model 3f9a WATCHDOG=1");
        notifier.alive();
        assert_eq!(heard(&listener), "WATCHDOG=1");
        notifier.extend(Duration::from_secs(2), "waiting");
        assert_eq!(heard(&listener), "EXTEND_TIMEOUT_USEC=2000000\nSTATUS=waiting");
    }

    #[test]
    fn an_abstract_name_is_reached_and_nonsense_is_nobody() {
        let name = format!("hone-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = Notifier { to: open(OsStr::new(&format!("@{name}"))), watchdog: Some(Duration::from_secs(1)) };
        notifier.stopping();
        assert_eq!(heard(&listener), "STOPPING=1\nSTATUS=stopping");
        assert_eq!(notifier.watchdog(), Some(Duration::from_secs(1)));
        for nonsense in ["", "@", "relative", "vsock:2:1"] {
            assert!(open(OsStr::new(nonsense)).is_none(), "{nonsense}");
        }
        let nobody = Notifier { to: None, watchdog: Some(Duration::from_secs(1)) };
        nobody.alive();
        assert_eq!(nobody.watchdog(), None, "nobody counts");
    }
}
