//! The smallest client that can speak to both doors: one request, one connection.
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Longest wait for a connection's bytes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// Body.
    pub text: String,
}

impl Answer {
    /// The body as one JSON value.
    ///
    /// # Panics
    /// It is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    /// A header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// The body as one JSON value per line.
    ///
    /// # Panics
    /// A line is none.
    #[must_use]
    pub fn lines(&self) -> Vec<Value> {
        self.text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
            .collect()
    }
}

/// Sends one request over TCP.
///
/// # Errors
/// The connection fails.
pub fn tcp(address: &str, host: &str, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, host, method, path, "", body)
}

/// Sends one request over TCP with more headers, each ending in `\r\n`.
///
/// # Errors
/// The connection fails.
pub fn tcp_with(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<Answer> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, "localhost", method, path, headers, body)
}

/// Sends one request over the socket.
///
/// # Errors
/// The connection fails.
pub fn socket(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, "localhost", method, path, "", body)
}

fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<Answer> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n{headers}connection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let broken = || io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: {text}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    Ok(Answer { status, head: head.to_owned(), text: body.to_owned() })
}
