//! The agent of a demonstration: the real binary in a child process, with a temporary state directory.
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use trainer_core::digest::Digest;

use crate::cli::exit::{Exit, Fail};
use crate::shell::backtest::Stored;
use crate::shell::client::{Client, ClientError};

/// How long the agent may take to answer its first request.
const START: Duration = Duration::from_secs(20);
/// From one look at the agent to the next while waiting for it.
const LOOK: Duration = Duration::from_millis(20);

/// A running agent; ends with this value.
pub(super) struct Agent {
    child: Child,
    directory: TempDir,
    client: Client,
    /// Position of the last report that was told.
    told: Cell<i64>,
}

impl Agent {
    pub(super) fn start(base: &Stored, seed: u64) -> Result<Self> {
        let disk = |error: std::io::Error| {
            let code = if crate::cli::exit::is_disk(&error) { Exit::Disk } else { Exit::Internal };
            Fail::new(code, "cannot use the temporary directory").because(error).hint("set TMPDIR to a writable place")
        };
        let directory = tempfile::Builder::new().prefix("hone-demo-").tempdir().map_err(disk)?;
        let (config, model, socket) =
            (place(&directory, "hone.toml"), place(&directory, "base.safetensors"), place(&directory, "api.sock"));
        let state = place(&directory, "state");
        let text = format!(
            "[agent]\nstate_dir = {:?}\nsocket = {:?}\nlisten = \"off\"\n\n[cycle]\npolicy = \"trigger:any\"\nseed = {seed}\n\n\
             [budget]\ncpu_share = 1.0\n\n[rollout]\nmode = \"gate\"\n",
            state.display().to_string(),
            socket.display().to_string(),
        );
        std::fs::write(&config, text).map_err(disk)?;
        std::fs::write(&model, &*base.bytes).map_err(disk)?;
        let log = std::fs::File::create(place(&directory, "agent.log")).map_err(disk)?;
        let program = std::env::current_exe().map_err(disk)?;
        let child = Command::new(program)
            .args(["run", "--with-parent"])
            // A warm or busy workstation must not hold up a demonstration: it shows a gateway without sensors.
            .arg("--sensors-root")
            .arg(place(&directory, "sensors"))
            .arg("--config")
            .arg(&config)
            .arg("--model")
            .arg(&model)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(disk)?;
        let mut agent = Self { child, directory, client: Client::new(&socket), told: Cell::new(0) };
        agent.until_ready()?;
        Ok(agent)
    }

    fn until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while self.client.get("/v2/health/ready").is_err() {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || start.elapsed() > START {
                let log = std::fs::read_to_string(place(&self.directory, "agent.log")).unwrap_or_default();
                let how = ended.map_or("does not answer".to_owned(), |status| format!("ended with {status}"));
                return Err(
                    Fail::new(Exit::Internal, format!("the agent {how}; its last words: {}", log.trim())).into()
                );
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// The configuration file, by which other commands find this agent.
    pub(super) fn config(&self) -> PathBuf {
        place(&self.directory, "hone.toml")
    }

    pub(super) fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.get(path).map_err(lost)?)
    }

    pub(super) fn post_lines(&self, path: &str, lines: String) -> Result<Vec<Value>> {
        Ok(self.client.post_lines(path, lines.into_bytes()).map_err(lost)?)
    }

    /// Reports since the last call, oldest first.
    pub(super) fn news(&self) -> Result<Vec<Value>> {
        let answer = self.get("/v1/reports?limit=100")?;
        let mut news: Vec<Value> = answer["reports"].as_array().cloned().unwrap_or_default();
        news.retain(|report| report["position"].as_i64().is_some_and(|position| position > self.told.get()));
        news.sort_by_key(|report| report["position"].as_i64());
        if let Some(last) = news.last().and_then(|report| report["position"].as_i64()) {
            self.told.set(last);
        }
        Ok(news)
    }

    /// Waits until no training or comparison is under way.
    pub(super) fn until_idle(&self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        while !self.get("/v1/status")?["work"].is_null() && start.elapsed() < patience {
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    pub(super) fn champion(&self) -> Result<Digest> {
        let status = self.get("/v1/status")?;
        let digest = status["champion"].as_str().and_then(|text| text.parse().ok());
        Ok(digest.ok_or_else(|| Fail::new(Exit::Internal, "the agent names no champion"))?)
    }

    /// A model's bundle, as the agent keeps it.
    pub(super) fn bundle(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.directory.path().join("state/models").join(format!("{digest}.safetensors"));
        Ok(std::fs::read(&path)
            .map_err(|error| Fail::new(Exit::Disk, "cannot read the champion's bundle").because(error))?)
    }

    /// Offers a bundle and returns the gate's report.
    pub(super) fn offer(&self, bundle: Vec<u8>) -> Result<Value> {
        self.until_idle(START)?;
        // The stream has ended: whoever is still being tried will not be decided any more. Refused if there is nobody.
        let reject = json!({"command": "reject", "by": "the demonstration", "reason": "the stream has ended"});
        let _ = self.client.post("/v1/commands", reject.to_string().into_bytes());
        let run = self.client.post("/v1/models", bundle).map_err(lost)?["run"].clone();
        let start = Instant::now();
        while start.elapsed() < START {
            let reports = self.get("/v1/reports?limit=20")?;
            let gate = reports["reports"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|entry| entry["kind"] == "gate" && entry["report"]["run"] == run);
            if let Some(gate) = gate {
                return Ok(gate["report"].clone());
            }
            std::thread::sleep(LOOK);
        }
        Err(Fail::new(Exit::Internal, "the gate has not spoken in time").into())
    }

    /// Stops the agent as a service manager would, and waits for it.
    pub(super) fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
        let status = self.child.wait()?;
        if status.success() {
            return Ok(());
        }
        Err(Fail::new(Exit::Internal, format!("the agent ended with {status}")).into())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn place(directory: &TempDir, name: &str) -> PathBuf {
    Path::join(directory.path(), name)
}

fn lost(error: ClientError) -> Fail {
    Fail::new(Exit::Unreachable, "the agent of this demonstration does not answer").because(error)
}
