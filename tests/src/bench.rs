//! A folder in which the built binary runs as a person would run it, and small recordings to run it on.
#![expect(
    clippy::must_use_candidate,
    clippy::new_without_default,
    reason = "a folder is not made by default, and most answers may be ignored"
)]
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::hone;

/// A folder in which commands are run, and what lies in it.
#[derive(Debug)]
pub struct Bench {
    folder: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Bench {
    /// An empty one.
    ///
    /// # Panics
    /// There is no temporary folder.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// With `press.csv`: 300 rows of a stream whose rule turns round after 200.
    pub fn with_press() -> Self {
        let bench = Self::new();
        bench.write("press.csv", press(300, 200));
        bench
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in it.
    ///
    /// # Panics
    /// The folder cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("a temporary folder can be written");
    }

    /// Reads a file in it.
    ///
    /// # Panics
    /// There is no such file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Every file and folder below, hidden ones too.
    ///
    /// # Panics
    /// The folder cannot be read.
    pub fn names(&self) -> BTreeSet<PathBuf> {
        fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
            for entry in fs::read_dir(folder).expect("a folder of ours") {
                let path = entry.expect("a folder of ours").path();
                if path.is_dir() {
                    walk(&path, found);
                }
                found.insert(path);
            }
        }
        let mut found = BTreeSet::new();
        walk(self.folder.path(), &mut found);
        found
    }

    /// A command that runs in this folder and finds nothing of the machine's own settings.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        for name in ["STATE_DIRECTORY", "RUNTIME_DIRECTORY", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs `hone` with these arguments to its end.
    ///
    /// # Panics
    /// The binary cannot be started, or panics.
    pub fn hone(&self, arguments: &[&str]) -> Ended {
        let output = self.command(hone()).args(arguments).output();
        Ended::new(output.expect("hone can be started"))
    }

    /// Runs a command that must do what it is asked; returns what it printed.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn does(&self, arguments: &[&str]) -> String {
        let ended = self.hone(arguments);
        assert_eq!(ended.code, Some(0), "hone {arguments:?}: {}", ended.err);
        ended.out
    }

    /// The same with `--json`; returns the last line, parsed.
    ///
    /// # Panics
    /// It fails, or prints no JSON.
    #[track_caller]
    pub fn facts(&self, arguments: &[&str]) -> Value {
        let printed = self.does(&[arguments, &["--json"]].concat());
        lines(&printed).pop().expect("a line of JSON")
    }

    /// Runs a command that must be refused with `code`, saying all of `says`, and must leave no file behind.
    ///
    /// # Panics
    /// It is not refused so.
    #[track_caller]
    pub fn refuses(&self, arguments: &[&str], code: i32, says: &[&str]) {
        let before = self.names();
        self.hone(arguments).refused(code, says);
        assert_eq!(self.names(), before, "hone {arguments:?} left something behind");
    }
}

impl Ended {
    /// Of what a command printed.
    ///
    /// # Panics
    /// It printed no UTF-8, or it panicked.
    #[must_use]
    pub fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("hone prints UTF-8");
        let ended = Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        ended
    }

    /// Holds that it was refused with `code`, saying all of `says`.
    ///
    /// # Panics
    /// It was not.
    #[track_caller]
    pub fn refused(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.err.starts_with("error: "), "{self:?}");
        for part in says {
            assert!(self.err.contains(part), "`{part}` is missing in: {}", self.err);
        }
    }
}

/// Every printed line, each of which must be JSON.
///
/// # Panics
/// A line is none.
#[must_use]
pub fn lines(printed: &str) -> Vec<Value> {
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
    printed.lines().map(parse).collect()
}

/// Numbers in [0, 1), the same in every run.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// The next one.
    pub fn draw(&mut self) -> f64 {
        // SplitMix64 (Steele, Lea and Flood, 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A press with two sensors that say whether it is `on`, and one that says nothing; from row `change` on the opposite holds.
///
/// # Panics
/// Never: a text takes any text.
#[must_use]
pub fn press(rows: usize, change: usize) -> String {
    let mut chance = Chance(1);
    let mut text = String::from("temp,load,noise,state\n");
    for row in 0..rows {
        let [temp, load, noise] = [(); 3].map(|()| chance.draw());
        let on = (temp + load > 1.0) != (row >= change);
        let state = if on { "on" } else { "off" };
        writeln!(text, "{temp:.4},{load:.4},{noise:.4},{state}").expect("writing to a text");
    }
    text
}

/// Two sensors and a flow that depends on them otherwise from row `change` on.
///
/// # Panics
/// Never: a text takes any text.
#[must_use]
pub fn flow(rows: usize, change: usize) -> String {
    let mut chance = Chance(2);
    let mut text = String::from("valve,pressure,flow\n");
    for row in 0..rows {
        let [valve, pressure, noise] = [(); 3].map(|()| chance.draw());
        let slope = if row < change { 3.0 } else { 5.0 };
        let flow = slope * valve - 2.0 * pressure + 0.1 * (noise - 0.5);
        writeln!(text, "{valve:.4},{pressure:.4},{flow:.4}").expect("writing to a text");
    }
    text
}
