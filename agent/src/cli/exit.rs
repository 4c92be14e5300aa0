//! How a command can end: part of the interface, so scripts may rely on it.
use std::error::Error;
use std::fmt;
use std::path::Path;

/// Exit codes of every `hone` command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked.
    Ok = 0,
    /// A bug of ours.
    Internal = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The configuration makes no sense.
    Config = 3,
    /// The input data cannot be used.
    Input = 4,
    /// A bundle is refused.
    Bundle = 5,
    /// Another agent uses the state directory.
    InUse = 6,
    /// Nothing can be written: the disk is full, read-only or failing, or a folder is missing or not ours.
    Disk = 7,
    /// No agent answers.
    Unreachable = 8,
    /// The agent, or the gate, says no.
    Refused = 9,
    /// Stopped half-way; run it again to go on.
    Resumable = 75,
}

/// An error with its exit code and what to do next.
#[derive(Debug)]
pub struct Fail {
    code: Exit,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Fail {
    /// An error that ends the command with `code`.
    pub fn new(code: Exit, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string(), hint: None, source: None }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl Error for Fail {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

/// Lets `hone … | head` end like any tool when its reader has gone: printing to a closed pipe is no panic of ours.
pub fn quiet_on_closed_pipe() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(i32::from(Exit::Ok as u8));
        }
        usual(info);
    }));
}

/// Prints an error with its causes and hint to stderr and returns the exit code.
#[must_use]
pub fn report(error: &anyhow::Error) -> Exit {
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

/// The end of a command that could not write its output at `path`; `option` names another place.
#[must_use]
pub fn unwritable(path: &Path, option: &str, error: std::io::Error) -> Fail {
    use std::io::ErrorKind::{NotFound, QuotaExceeded, StorageFull};
    let hint = match error.kind() {
        NotFound => format!("make its folder first, or name another file with {option}"),
        StorageFull | QuotaExceeded => format!("free some space, or name a file on another disk with {option}"),
        _ => format!("name a file in a folder you may write to with {option}"),
    };
    Fail::new(Exit::Disk, format!("cannot write {}", path.display())).because(error).hint(hint)
}

/// Whether an I/O error means the disk itself: full, read-only, over quota or failing.
#[must_use]
pub fn is_disk(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | ReadOnlyFilesystem | QuotaExceeded) || error.raw_os_error() == Some(5)
}
