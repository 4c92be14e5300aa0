//! Log lines as the journal takes them: one datagram of fields for each, so that `journalctl HONE_KIND=gate` finds what it asks for.
//!
//! Source: systemd's "Native Journal Protocol" (systemd.io/JOURNAL_NATIVE_PROTOCOL). The journal rotates by itself.
use std::fmt::{self, Write as _};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Begins the name of each field of ours: `kind` becomes `HONE_KIND`.
const PREFIX: &str = "HONE_";
/// The journal ignores longer names.
const NAME_BYTES_MAX: usize = 64;
/// A datagram that the kernel does not take whole is sent once more with each value cut at this.
const VALUE_BYTES_MAX: usize = 4_096;

/// The way to the journal, as a layer of the log.
#[derive(Debug)]
pub struct Journal {
    to: UnixDatagram,
    /// Lines that the journal did not take; the next one tells how many.
    lost: AtomicU64,
}

impl Journal {
    /// The journal, if it is what reads standard error: `$JOURNAL_STREAM` names that very stream.
    #[must_use]
    pub fn behind_stderr() -> Option<Self> {
        let named = std::env::var("JOURNAL_STREAM").ok()?;
        let stream = rustix::fs::fstat(io::stderr().as_fd()).ok()?;
        is_stream(&named, stream.st_dev, stream.st_ino).then(|| Self::at(Path::new(SOCKET)).ok())?
    }

    fn at(path: &Path) -> io::Result<Self> {
        let to = UnixDatagram::unbound()?;
        to.connect(path)?;
        // A journal that stands still must not hold up whoever logs.
        to.set_nonblocking(true)?;
        Ok(Self { to, lost: AtomicU64::new(0) })
    }

    fn send(&self, mut line: Line) {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 {
            line.field("lines_lost", lost.to_string());
        }
        let sent = self.to.send(&line.bytes(usize::MAX)).or_else(|_| self.to.send(&line.bytes(VALUE_BYTES_MAX)));
        match sent {
            Ok(_) => self.lost.fetch_sub(lost, Ordering::Relaxed),
            Err(_) => self.lost.fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// Whether `named`, `device:inode`, is this stream.
fn is_stream(named: &str, device: u64, inode: u64) -> bool {
    let numbers = named.split_once(':').and_then(|(one, other)| Some((one.parse().ok()?, other.parse().ok()?)));
    numbers == Some((device, inode))
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let about = event.metadata();
        let priority = match *about.level() {
            Level::ERROR => "3",
            Level::WARN => "4",
            Level::INFO => "6",
            Level::DEBUG | Level::TRACE => "7",
        };
        let mut line = Line::default();
        line.add("PRIORITY", priority.to_owned());
        line.add("SYSLOG_IDENTIFIER", "hone".to_owned());
        line.add("CODE_MODULE", about.target().to_owned());
        event.record(&mut line);
        self.send(line);
    }
}

/// Names and values of one line.
#[derive(Debug, Default)]
struct Line(Vec<(String, String)>);

impl Line {
    fn add(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }

    /// A field of ours, under a name that the journal takes.
    fn field(&mut self, name: &str, value: String) {
        let upper = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
        let name: String = PREFIX.chars().chain(name.chars().map(upper)).take(NAME_BYTES_MAX).collect();
        self.add(&name, value);
    }

    /// The datagram, with each value cut at `most` bytes.
    fn bytes(&self, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in &self.0 {
            let value = &value[..value.floor_char_boundary(most)];
            bytes.extend_from_slice(name.as_bytes());
            // A value with a line break is told with its length, so that it cannot smuggle another field.
            if value.contains('\n') {
                bytes.push(b'\n');
                bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
            } else {
                bytes.push(b'=');
            }
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(b'\n');
        }
        bytes
    }

    fn told(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.add("MESSAGE", value),
            name => self.field(name, value),
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.told(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a text cannot fail.
        let _ = write!(text, "{value:?}");
        self.told(field, text);
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn heard(listener: &UnixDatagram) -> Vec<u8> {
        let mut bytes = vec![0; 300_000];
        let length = listener.recv(&mut bytes).unwrap();
        bytes.truncate(length);
        bytes
    }

    fn logged(log: impl FnOnce()) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixDatagram::bind(folder.path().join("socket")).unwrap();
        let journal = Journal::at(&folder.path().join("socket")).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), log);
        heard(&listener)
    }

    #[test]
    fn each_line_is_a_datagram_of_fields_that_can_be_asked_for() {
        let bytes = logged(|| tracing::warn!(kind = "gate", run = 7, part = ?Some(1), "refused: no gain"));
        let text = String::from_utf8(bytes).unwrap();
        let module = module_path!();
        assert_eq!(
            text,
            format!(
                "PRIORITY=4\nSYSLOG_IDENTIFIER=hone\nCODE_MODULE={module}\nMESSAGE=refused: no gain\nHONE_KIND=gate\nHONE_RUN=7\nHONE_PART=Some(1)\n"
            )
        );
    }

    #[test]
    fn a_value_with_a_line_break_cannot_smuggle_another_field() {
        let bytes = logged(|| tracing::info!("one\n_UID=0"));
        let end = [b"MESSAGE\n".as_slice(), &10_u64.to_le_bytes(), b"one\n_UID=0\n"].concat();
        assert!(bytes.ends_with(&end[..]), "{}", String::from_utf8_lossy(&bytes));
        assert!(bytes.starts_with(b"PRIORITY=6\n"));
    }

    #[test]
    fn a_line_too_long_for_a_datagram_is_cut_and_one_nobody_takes_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixDatagram::bind(folder.path().join("socket")).unwrap();
        let journal = Journal::at(&folder.path().join("socket")).unwrap();
        let line = |text: &str| Line(vec![("MESSAGE".to_owned(), text.to_owned())]);
        journal.send(line(&"ä".repeat(1 << 20)));
        assert_eq!(heard(&listener).len(), "MESSAGE=\n".len() + VALUE_BYTES_MAX);
        drop(listener);
        journal.send(line("lost"));
        journal.send(line("lost too"));
        assert_eq!(journal.lost.load(Ordering::Relaxed), 2);
        std::fs::remove_file(folder.path().join("socket")).unwrap();
        let listener = UnixDatagram::bind(folder.path().join("socket")).unwrap();
        journal.to.connect(folder.path().join("socket")).unwrap();
        journal.send(line("back"));
        assert_eq!(heard(&listener), b"MESSAGE=back\nHONE_LINES_LOST=2\n");
        assert_eq!(journal.lost.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_the_stream_that_is_named_is_the_journal() {
        assert!(is_stream("8:4711", 8, 4711));
        for other in ["8:4712", "9:4711", "", "8", "8:", "a:b"] {
            assert!(!is_stream(other, 8, 4711), "{other}");
        }
    }
}
