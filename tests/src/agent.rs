//! One running agent: the real binary on a state directory of its own, killed when it is dropped.
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

use crate::http::{self, Answer};
use crate::world::{Law, World, sample};
use crate::{hone, until};

/// Settings that let a short test see what takes days in the field.
pub const QUICK: &str =
    concat!("[agent]\nlisten = \"127.0.0.1:0\"\ncommit_s = 1\n", include_str!("../../deploy/vm/quick.toml"));

/// The policy of [`QUICK`], left out where a test has its own.
const POLICY: &str = "[cycle]\npolicy = \"trigger:any\"\n";

/// A device: its folder outlives its agents.
#[derive(Debug)]
pub struct Device {
    folder: tempfile::TempDir,
}

/// An agent that runs on a device.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    socket: PathBuf,
    state_dir: PathBuf,
    /// Loopback address.
    pub address: String,
}

impl Default for Device {
    fn default() -> Self {
        Self::new()
    }
}

impl Device {
    /// A new device with [`QUICK`] settings, on which the gate promotes.
    ///
    /// # Panics
    /// The system gives no temporary folder.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let device = Self { folder };
        device.set("");
        device
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where its agent keeps everything.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Where its agent looks for `/sys` and `/proc`; nothing is there at first.
    #[must_use]
    pub fn sensors(&self) -> PathBuf {
        self.path().join("sensors")
    }

    /// Makes a sensor say something: a file below [`Device::sensors`].
    ///
    /// # Panics
    /// It cannot be written.
    pub fn sense(&self, file: &str, text: &str) {
        let path = self.sensors().join(file);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a temporary folder can be written");
        // Whole at once, as the agent may look at any moment.
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path)).expect("a sensor can be written");
    }

    /// Adds to its settings, for agents that start from now on. Unless they speak of the rollout, the gate promotes.
    ///
    /// # Panics
    /// They cannot be written.
    pub fn set(&self, text: &str) {
        let gate = if text.contains("[rollout]") { "" } else { "\n[rollout]\nmode = \"gate\"\n" };
        // A section is written once.
        let quick = if text.contains("[cycle]\n") { QUICK.replace(POLICY, "") } else { QUICK.to_owned() };
        let text = format!("{quick}{gate}{text}");
        fs::write(self.path().join("hone.toml"), text).expect("a temporary folder can be written");
    }

    /// What its newest agent has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// A command of `hone` for this device.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(hone());
        command
            .args(arguments)
            .arg("--config")
            .arg(self.path().join("hone.toml"))
            .arg("--state-dir")
            .arg(self.state_dir());
        command.stdin(Stdio::null());
        command
    }

    /// Runs a command to its end and returns exit code, standard output and standard error.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn ask(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.command(arguments).output().expect("hone can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// Starts the agent and waits until it answers.
    ///
    /// # Panics
    /// It ends instead; its log is in the message.
    #[must_use]
    pub fn start(&self, model: Option<&Path>) -> Agent {
        self.start_with(model, &[], &[])
    }

    /// Kills `agent` and starts the next one on the same state.
    ///
    /// # Panics
    /// As [`Device::start`].
    #[must_use]
    pub fn restart_after_kill(&self, agent: &mut Agent) -> Agent {
        self.start_over(agent, |_| {})
    }

    /// Kills `agent`, changes what it has left in its state directory, and starts the next one.
    ///
    /// # Panics
    /// As [`Device::start`].
    #[must_use]
    pub fn start_over(&self, agent: &mut Agent, change: impl FnOnce(&Path)) -> Agent {
        // It may have ended already.
        let _ = agent.child.kill();
        let _ = agent.child.wait();
        change(&self.state_dir());
        self.start(None)
    }

    /// [`Device::start`] with further arguments and more in its environment.
    ///
    /// # Panics
    /// As [`Device::start`].
    #[must_use]
    pub fn start_with(&self, model: Option<&Path>, further: &[&str], environment: &[(&str, &str)]) -> Agent {
        let log = self.path().join("log");
        let mut command = self.command(&["run"]);
        command.envs(environment.iter().copied());
        // A device without sensors, until a test makes some: what else this machine does is not the test's business.
        command.arg("--sensors-root").arg(self.sensors());
        if let Some(model) = model {
            command.arg("--model").arg(model);
        }
        command.args(further);
        command.stderr(File::create(&log).expect("a log")).stdout(Stdio::null());
        let mut child = command.spawn().expect("hone can be started");
        let socket = self.state_dir().join("api.sock");
        let status = until("the agent answers", || {
            if let Some(status) = child.try_wait().expect("a child of ours") {
                panic!("{status}: {}", self.log());
            }
            http::socket(&socket, "GET", "/v1/status", b"").ok().filter(|answer| answer.status == 200)
        });
        let address = status.json()["listen"].as_str().expect("an address").to_owned();
        Agent { child, socket, state_dir: self.state_dir(), address }
    }
}

impl Agent {
    /// One request over the socket.
    ///
    /// # Panics
    /// There is no answer.
    #[must_use]
    pub fn socket(&self, method: &str, path: &str, body: &str) -> Answer {
        http::socket(&self.socket, method, path, body.as_bytes())
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// One request over TCP.
    ///
    /// # Panics
    /// There is no answer.
    #[must_use]
    pub fn tcp(&self, method: &str, path: &str, body: &str) -> Answer {
        http::tcp(&self.address, &self.address, method, path, body.as_bytes())
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// What it says of itself.
    #[must_use]
    pub fn status(&self) -> Value {
        self.socket("GET", "/v1/status", "").json()
    }

    /// The digest that serves.
    #[must_use]
    pub fn champion(&self) -> String {
        self.status()["champion"].as_str().unwrap_or("none").to_owned()
    }

    /// Reports of one kind, newest first.
    #[must_use]
    pub fn reports(&self, kind: &str) -> Vec<Value> {
        let all = self.socket("GET", "/v1/reports?limit=500", "").json();
        let all = all["reports"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|report| report["kind"] == kind).map(|report| report["report"].clone()).collect()
    }

    /// Sends `count` rows of `law` with their labels right behind; returns how many answers were right.
    ///
    /// # Panics
    /// An answer is refused or a label not stored.
    pub fn live(&self, world: &mut World, law: Law, count: usize) -> usize {
        let rows: Vec<_> = (0..count).map(|_| world.row(law)).collect();
        let body: String = rows.iter().map(|(row, _)| sample(*row)).collect();
        let answers = self.socket("POST", "/v1/samples", &body);
        assert_eq!(answers.status, 200, "{}", answers.text);
        let answers = answers.lines();
        let label = |(answer, (_, state)): (&Value, &([f64; 3], &str))| {
            format!("{}\n", serde_json::json!({"record_id": answer["record_id"], "label": state}))
        };
        let labels: String = answers.iter().zip(&rows).map(label).collect();
        let stored = self.socket("POST", "/v1/labels", &labels);
        assert!(stored.lines().iter().all(|line| line["outcome"] == "stored"), "{}", stored.text);
        answers.iter().zip(&rows).filter(|(answer, (_, state))| answer["label"] == *state).count()
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its state is.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Asks it to end and waits for that.
    ///
    /// # Panics
    /// It does not end.
    #[must_use]
    pub fn terminate(mut self) -> ExitStatus {
        let kill = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(kill.expect("kill can be started").success());
        until("the agent ends", || self.child.try_wait().expect("a child of ours"))
    }

    /// Whether its process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    }

    /// Kills it, as a power cut of the process would.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
