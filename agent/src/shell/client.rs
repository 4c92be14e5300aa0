//! Asks the running agent over its socket; one connection per request, for the command line.
use std::io;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// The running agent, by its socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// A request that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no agent answers on {socket}: {source}")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the agent on {socket} did not answer: {reason}")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        reason: String,
    },
    /// The agent refused.
    #[error("{error}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Short reason.
        code: String,
        /// In words.
        error: String,
    },
}

impl Client {
    /// A client of the agent behind `socket`; connects at each request.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The answer to `GET path`.
    ///
    /// # Errors
    /// [`ClientError`]; a status of 400 and above is [`ClientError::Refused`].
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::GET, path, Bytes::new()).and_then(|text| self.one(&text))
    }

    /// The answer to `POST path` with `body`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str, body: Vec<u8>) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, body.into()).and_then(|text| self.one(&text))
    }

    /// The lines answered to `POST path` with lines of JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post_lines(&self, path: &str, body: Vec<u8>) -> Result<Vec<Value>, ClientError> {
        let text = self.ask(Method::POST, path, body.into())?;
        text.lines().map(|line| self.one(line)).collect()
    }

    /// As [`Client::post_lines`], but lines that are refused, even all of them, are answers too.
    ///
    /// # Errors
    /// As [`Client::get`], if the request as a whole is refused.
    pub fn post_lines_whatever(&self, path: &str, body: Vec<u8>) -> Result<Vec<Value>, ClientError> {
        let (status, text) = self.send(Method::POST, path, body.into())?;
        let lines: Vec<Value> = text.lines().map(|line| self.one(line)).collect::<Result<_, _>>()?;
        if status >= 400 && lines.iter().any(|line| line.get("line").is_none()) {
            return Err(refused(status, &text));
        }
        Ok(lines)
    }

    fn one(&self, text: &str) -> Result<Value, ClientError> {
        serde_json::from_str(text).map_err(|error| self.broken(&error))
    }

    fn broken(&self, reason: &impl ToString) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }

    fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<String, ClientError> {
        let (status, text) = self.send(method, path, body)?;
        if status < 400 { Ok(text) } else { Err(refused(status, &text)) }
    }

    fn send(&self, method: Method, path: &str, body: Bytes) -> Result<(u16, String), ClientError> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| self.broken(&error))?;
        runtime.block_on(self.exchange(method, path, body))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(u16, String), ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        // Its end shows in the response as well.
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "localhost").body(Full::new(body));
        let request = request.map_err(|error| self.broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(|error| self.broken(&error))?.to_bytes();
        drop(sender);
        connection.abort();
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn refused(status: u16, text: &str) -> ClientError {
    let refusal: Value = serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap_or_default();
    let part = |key: &str| refusal.get(key).and_then(Value::as_str).map(str::to_owned);
    let error = part("error").unwrap_or_else(|| format!("the agent answered with status {status}"));
    ClientError::Refused { status, code: part("code").unwrap_or_default(), error }
}
