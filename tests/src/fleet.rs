//! What tests of the fleet share: a device that has joined, signed orders, what came of them, and the console.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use fleet_protocol::Extra;
use fleet_protocol::command::Command;
use fleet_protocol::envelope::Payload as _;
use fleet_protocol::names::{DeviceId, Micros};
use fleet_protocol::order::{BundleStatement, Notice, NoticeBody, Order};
use serde_json::{Value, json};
use ulid::Ulid;

use crate::agent::{Agent, Device};
use crate::broker::{Broker, Peer};
use crate::{until, world};

/// The device of most tests.
pub const DEVICE: &str = "press-07";

/// The signing key of a number: 1 is the operator's, 2 the observer's, 4 the admin's, others nobody's.
#[must_use]
pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// The public half of [`key`], base64.
#[must_use]
pub fn public(seed: u8) -> String {
    STANDARD.encode(key(seed).verifying_key().as_bytes())
}

/// A device with a link to the broker on `port`, group `hall-3`, and `more` settings.
///
/// # Panics
/// Its folder cannot be written.
#[must_use]
pub fn joined(port: u16, more: &str) -> Device {
    named(DEVICE, port, more)
}

/// The same under a name.
///
/// # Panics
/// Its folder cannot be written.
#[must_use]
pub fn named(name: &str, port: u16, more: &str) -> Device {
    let device = Device::new();
    let text = format!(
        "[mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\ndevice = \"{name}\"\ngroups = [\"hall-3\"]\nwill_delay_s = 0\n\
         retry_max_s = 1\nreport_s = 1\ntrust = [{{ public = \"{}\", roles = [\"operator\"] }}, \
         {{ public = \"{}\", roles = [\"observer\"] }}, {{ public = \"{}\", roles = [\"admin\"] }}]\n{more}",
        public(1),
        public(2),
        public(4)
    );
    fs::create_dir(device.path().join("conf.d")).expect("a temporary folder can be written");
    fs::write(device.path().join("conf.d/fleet.toml"), text).expect("a temporary folder can be written");
    device
}

/// A device that is online at a broker of its own, and a peer that hears everything. Dropped in this order.
#[derive(Debug)]
pub struct Site {
    /// The agent, which the test may kill.
    pub agent: Agent,
    /// Its device.
    pub device: Device,
    /// Who hears and publishes.
    pub peer: Peer,
    /// The broker.
    pub broker: Broker,
}

impl Site {
    /// Starts a broker, a peer and an agent with `more` settings behind those of `[mqtt]`; none without mosquitto.
    #[must_use]
    pub fn start(more: &str) -> Option<Self> {
        Self::start_with(more, "", |_| {})
    }

    /// The same with settings of the device's own file, and with what else is to be done before the agent starts.
    #[must_use]
    pub fn start_with(more: &str, own: &str, prepare: impl FnOnce(&Device)) -> Option<Self> {
        let broker = Broker::start("")?;
        let peer = Peer::new(broker.port);
        let device = joined(broker.port, more);
        if !own.is_empty() {
            device.set(own);
        }
        prepare(&device);
        let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
        until("the link is up", || online(&peer));
        Some(Self { agent, device, peer, broker })
    }

    /// Kills the agent and starts the next one; returns when that is online.
    pub fn kill(&mut self) {
        let boot = online(&self.peer).map_or(0, |state| state["boot"].as_u64().unwrap_or(0));
        let agent = self.device.restart_after_kill(&mut self.agent);
        self.agent = agent;
        until("it is online again", || online(&self.peer).filter(|state| state["boot"].as_u64() > Some(boot)));
    }

    /// Ends the agent in order and starts the next one; returns when that is online.
    ///
    /// # Panics
    /// It does not end.
    pub fn restart(&mut self) {
        let kill = Process::new("kill").args(["-TERM", &self.agent.pid().to_string()]).status();
        assert!(kill.expect("kill can be started").success());
        until("the agent ends", || self.agent.has_ended().then_some(()));
        self.kill();
    }

    /// Signs with the key of `seed` and publishes; the counter is the time.
    #[must_use]
    pub fn order(&self, seed: u8, command: &Value) -> Ulid {
        send(&self.peer, signed(seed, DEVICE, now().unsigned_abs(), 600, command))
    }

    /// Tells `group` something, signed with the key of `seed`.
    ///
    /// # Panics
    /// `group` is no name.
    pub fn notify(&self, seed: u8, group: &str, ctr: u64, notice: NoticeBody) {
        let topic = format!("g/{group}/down/notice/{}", notice.name());
        let group = group.parse().expect("a name");
        let notice = Notice { v: 1, id: Ulid::generate(), group, iat: Micros(1), ctr, notice, extra: Extra::new() };
        self.peer.publish(&topic, notice.sign(&[&key(seed)]).to_json());
    }

    /// How a command stands, once it stands as `wanted`.
    #[expect(clippy::must_use_candidate, reason = "a test may only wait for it")]
    pub fn stands(&self, id: Ulid, wanted: &str) -> Value {
        until(wanted, || self.peer.last(&up(&format!("cmd/{id}"))).filter(|status| status["status"] == wanted))
    }

    /// Every status that was told of a command, in order, each once.
    #[must_use]
    pub fn told(&self, id: Ulid) -> Vec<String> {
        let topic = format!("hone/v1/{}", up(&format!("cmd/{id}")));
        let came = self.peer.came().into_iter().filter(|came| came.topic == topic && !came.payload.is_null());
        let mut words: Vec<_> = came.map(|came| came.payload["status"].as_str().unwrap_or("?").to_owned()).collect();
        words.dedup();
        words
    }
}

/// A topic of the device, below the root.
#[must_use]
pub fn up(topic: &str) -> String {
    format!("d/{DEVICE}/up/{topic}")
}

/// Its presence, if that is `online`.
#[must_use]
pub fn online(peer: &Peer) -> Option<Value> {
    peer.last(&up("state")).filter(|state| state["state"] == "online")
}

/// Wall time.
///
/// # Panics
/// Before 1970.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("not yet")
}

/// Ids of all stored reports, in the order of their commits.
///
/// # Panics
/// The agent does not answer.
#[must_use]
pub fn stored(agent: &Agent) -> Vec<String> {
    let reports = agent.socket("GET", "/v1/reports?limit=1000", "").json();
    let reports = reports["reports"].as_array().expect("a list");
    let mut ids: Vec<_> = reports.iter().map(|report| report["id"].as_str().expect("an id").to_owned()).collect();
    ids.reverse();
    ids
}

/// Ids of all events that came, each where it came first.
///
/// # Panics
/// An event has no id.
#[must_use]
pub fn recorded(peer: &Peer) -> Vec<String> {
    let mut known = BTreeSet::new();
    let events = peer.came().into_iter().filter(|came| came.topic.contains("/up/evt/"));
    let ids = events.map(|came| came.payload["id"].as_str().expect("an id").to_owned());
    ids.filter(|id| known.insert(id.clone())).collect()
}

/// Commits one report.
///
/// # Panics
/// It is refused.
pub fn report(agent: &Agent) {
    let answer = agent.socket("POST", "/v1/rebaseline", "{}");
    assert_eq!(answer.status, 200, "{}", answer.text);
}

/// An order for `device`, signed by the key of `seed`.
///
/// # Panics
/// `command` is none.
#[must_use]
pub fn signed(seed: u8, device: &str, counter: u64, expires_s: i64, command: &Value) -> (Ulid, Vec<u8>) {
    let id = Ulid::generate();
    let device: DeviceId = device.parse().expect("a device id");
    let command: Command = serde_json::from_value(command.clone()).expect("a command");
    let order = Order::new(id, device, Micros(now()), Micros(now() + expires_s * 1_000_000), counter, &command);
    (id, order.sign(&[&key(seed)]).to_json())
}

/// The signature of a bundle, as `role`, by the key of `seed`.
///
/// # Panics
/// `digest` or `role` is none.
#[must_use]
pub fn vouched(seed: u8, role: &str, digest: &str, sequence: u64) -> Vec<u8> {
    let statement = json!({
        "v": 1, "digest": digest, "sequence": sequence, "parent": null, "epoch": 0, "role": role, "device": null,
    });
    let statement: BundleStatement = serde_json::from_value(statement).expect("a statement");
    statement.sign(&[&key(seed)]).to_json()
}

/// Publishes an order for the device.
#[expect(clippy::must_use_candidate, reason = "a test may not care what becomes of it")]
pub fn send(peer: &Peer, (id, payload): (Ulid, Vec<u8>)) -> Ulid {
    peer.publish(&format!("d/{DEVICE}/down/cmd/{id}"), payload);
    id
}

/// Waits for the end of a command.
#[must_use]
pub fn ended(peer: &Peer, id: Ulid) -> Value {
    let done = |status: &Value| status["status"] == "successful" || status["status"] == "failed";
    until("the command has ended", || peer.last(&up(&format!("cmd/{id}"))).filter(done))
}

/// Every key of `line` is named by the sentence about JSON keys in `help`.
///
/// # Panics
/// One is not.
pub fn keys_are_promised(command: &str, line: &Value, help: &str) {
    let (_, promised) = help.split_once("JSON").unwrap_or_else(|| panic!("{command} --help does not speak of JSON"));
    let promised: Vec<_> = promised.split(|letter: char| !(letter.is_alphanumeric() || letter == '_')).collect();
    for key in line.as_object().expect("an object").keys() {
        assert!(promised.contains(&key.as_str()), "{command} prints `{key}`, which its --help does not name");
    }
}

/// `hone-fleet` in a folder, with its broker.
#[derive(Debug)]
pub struct Console {
    folder: PathBuf,
    broker: Vec<String>,
}

impl Console {
    /// Commands run in `folder` and speak to the broker that `broker` names: `["--broker", URL, …]`.
    #[must_use]
    pub fn new(folder: &Path, broker: &[&str]) -> Self {
        Self { folder: folder.to_owned(), broker: broker.iter().map(|&word| word.to_owned()).collect() }
    }

    /// The process of a command, not started yet.
    #[must_use]
    pub fn process(&self, arguments: &[&str]) -> Process {
        let mut process = Process::new(crate::hone_fleet());
        process.current_dir(&self.folder).args(arguments).args(&self.broker).stdin(Stdio::null());
        process
    }

    /// Runs a command to its end and returns exit code, standard output and standard error.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn ask(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.process(arguments).output().expect("hone-fleet can be started");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// The JSON of a command that must end well.
    ///
    /// # Panics
    /// It does not.
    #[must_use]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let (code, out, err) = self.ask(&[arguments, &["--json"]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out}"))
    }

    /// JSON lines of a command that must end with one of `codes`; their keys are those that its `--help` promises.
    ///
    /// # Panics
    /// They are not.
    #[must_use]
    pub fn promised(&self, command: &str, arguments: &[&str], codes: &[i32]) -> Vec<Value> {
        let words: Vec<_> = command.split(' ').collect();
        let (_, help, _) = self.ask(&[&words[..], &["--help"]].concat());
        let (code, out, err) = self.ask(&[&words[..], arguments, &["--json"]].concat());
        assert!(code.is_some_and(|code| codes.contains(&code)), "{command}: {code:?} {out}{err}");
        let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{command}: {error} in {line}"));
        let lines: Vec<Value> = out.lines().map(read).collect();
        assert!(!lines.is_empty(), "{command} prints nothing");
        lines.iter().for_each(|line| keys_are_promised(command, line, &help));
        lines
    }

    /// Makes a key in its folder and returns its public half.
    ///
    /// # Panics
    /// It is there already.
    #[must_use]
    pub fn keygen(&self, file: &str) -> String {
        self.json(&["keygen", file])["public"].as_str().expect("a key").to_owned()
    }
}
