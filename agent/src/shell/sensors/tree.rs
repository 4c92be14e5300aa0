//! Reads small files below a root, with limits: no file is trusted to be short, a number, or there.
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

/// A file of `/sys` or `/proc` that is longer is none of those read here; `/proc/stat` of 256 cores has 40 KB.
const FILE_BYTES_MAX: u64 = 128 << 10;
/// Names of one folder that are looked at.
const NAMES_MAX: usize = 512;
/// Longest piece of a bad file that is quoted.
const QUOTED_MAX: usize = 40;
/// What is missing is listed up to here.
const MISSING_MAX: usize = 64;

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// What: a file, or a kind of sensor.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// Why a file gives nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It is not there, which is no fault.
    Absent,
    /// It is there, and is no use.
    Useless(String),
}

#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The text of a file, without the white space around it.
    pub(super) fn text(&self, path: &str) -> Result<String, Bad> {
        let full = self.root.join(path);
        let useless = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Bad::Absent,
            _ => Bad::Useless(error.to_string()),
        };
        // Asked first, as opening a pipe would wait for its other end.
        if !fs::metadata(&full).map_err(useless)?.is_file() {
            return Err(Bad::Useless("it is no file".to_owned()));
        }
        let mut bytes = Vec::new();
        let file = File::open(&full).map_err(useless)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(useless)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(Bad::Useless(format!("it is longer than {FILE_BYTES_MAX} bytes")));
        }
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The one number in a file.
    pub(super) fn number(&self, path: &str) -> Result<i64, Bad> {
        let text = self.text(path)?;
        text.parse().map_err(|_| Bad::Useless(format!("`{}` is no number", quoted(&text))))
    }

    /// The one number in a file; a file that is there and no use is named.
    pub(super) fn named(&self, path: &str, missing: &mut Vec<Missing>) -> Option<i64> {
        note(self.number(path), path, missing)
    }

    /// The text of a file; a file that is there and no use is named.
    pub(super) fn named_text(&self, path: &str, missing: &mut Vec<Missing>) -> Option<String> {
        note(self.text(path), path, missing)
    }

    /// Names in a folder that begin with `prefix`, sorted; none if it cannot be listed.
    pub(super) fn names(&self, folder: &str, prefix: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(folder)) else { return Vec::new() };
        let names = entries.take(NAMES_MAX).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort_by_key(|name| (name.len(), name.clone()));
        names
    }
}

/// A bad file is named, an absent one is not: most gateways lack most sensors.
fn note<T>(value: Result<T, Bad>, path: &str, missing: &mut Vec<Missing>) -> Option<T> {
    match value {
        Ok(value) => Some(value),
        Err(Bad::Absent) => None,
        Err(Bad::Useless(reason)) => {
            miss(missing, path, &reason);
            None
        }
    }
}

/// Names something that cannot be had.
pub(super) fn miss(missing: &mut Vec<Missing>, what: &str, reason: &str) {
    if missing.len() < MISSING_MAX {
        missing.push(Missing { what: what.to_owned(), reason: reason.to_owned() });
    }
}

/// The beginning of a text, on one line.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
