//! How a command can end: part of the interface, so scripts may rely on it; the same numbers as those of `hone`.
use std::fmt;
use std::process::ExitCode;

/// Exit codes of every `hone-fleet` command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// A bug of ours.
    Internal = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// A key, an envelope or an argument cannot be used.
    Input = 4,
    /// Nothing can be written.
    Disk = 7,
    /// The broker, or the device, does not answer.
    Unreachable = 8,
    /// The device says no.
    Refused = 9,
    /// It has not ended in time; ask again.
    Resumable = 75,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with its exit code and what to do next.
#[derive(Debug)]
pub(crate) struct Fail {
    code: Exit,
    message: String,
    hint: Option<String>,
}

impl Fail {
    /// An error that ends the command with `code`.
    pub(crate) fn new(code: Exit, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), hint: None }
    }

    /// Whether the broker was the reason, which may come back.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.code == Exit::Unreachable
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fail {}

/// Prints an error with its causes and hint to stderr and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> Exit {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    let fail = error.chain().find_map(|cause| cause.downcast_ref::<Fail>());
    if let Some(hint) = fail.and_then(|fail| fail.hint.as_ref()) {
        eprintln!("hint: {hint}");
    }
    fail.map_or(Exit::Internal, |fail| fail.code)
}
