//! The agent as a service manager meets it: readiness, a watchdog that a hung thread starves, a trainer behind a socket.
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hone_tests::agent::Device;
use hone_tests::world::{self, Law, World};
use hone_tests::{hone, http, until};
use serde_json::{Value, json};

/// Killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The manager's end of sd_notify.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket in a temporary folder");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        Self(socket)
    }

    fn next(&self) -> Option<String> {
        let mut bytes = [0; 1024];
        let length = self.0.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Waits for a message that says this.
    fn until(&self, words: &str) -> String {
        until(words, || self.next().filter(|message| message.contains(words)))
    }

    /// Signs of life within a span.
    fn signs_of_life(&self, span: Duration) -> usize {
        let begun = Instant::now();
        std::iter::from_fn(|| (begun.elapsed() < span).then(|| self.next()))
            .filter(|message| message.as_deref() == Some("WATCHDOG=1"))
            .count()
    }
}

/// The agent under a manager that waits so long for a sign of life.
fn run(device: &Device, manager: &Path, watchdog: Duration) -> Killed {
    let mut command = device.command(&["run"]);
    command.arg("--sensors-root").arg(device.sensors());
    command.arg("--model").arg(world::train(device.path(), "base", 1, false));
    command.env("NOTIFY_SOCKET", manager).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    command.stdout(Stdio::null()).stderr(fs::File::create(device.path().join("log")).expect("a log"));
    Killed(command.spawn().expect("hone can be started"))
}

/// Threads of a process with this name.
fn threads(process: u32, name: &str) -> Vec<String> {
    let all = fs::read_dir(format!("/proc/{process}/task")).expect("a process of ours").flatten();
    let named = |folder: &Path| fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.trim() == name);
    all.filter(|task| named(&task.path())).filter_map(|task| task.file_name().into_string().ok()).collect()
}

/// Holds single threads of another process, by ptrace, until it is dropped; none where the system forbids that.
fn hold(threads: &[String]) -> Option<Killed> {
    let number = if cfg!(target_arch = "aarch64") { 117 } else { 101 };
    let script = format!(
        "$| = 1; for my $t (@ARGV) {{ syscall({number}, 0x4206, $t + 0, 0, 0) == 0 && syscall({number}, 0x4207, $t + 0, 0, 0) == 0 \
         or die \"$t: $!\" }} print \"held\\n\"; sleep 600"
    );
    let mut command = Command::new("perl");
    command.args(["-e", &script]).args(threads).stdout(Stdio::piped());
    let mut holder = Killed(command.spawn().ok()?);
    let mut said = String::new();
    BufReader::new(holder.0.stdout.take().expect("piped")).read_line(&mut said).ok()?;
    (said == "held\n").then_some(holder)
}

#[test]
fn a_hung_ingest_thread_is_never_hidden_from_the_service_manager() {
    let device = Device::new();
    let path = device.path().join("notify");
    let manager = Manager::at(&path);
    let watchdog = Duration::from_secs(4);
    let agent = run(&device, &path, watchdog);
    let ready = manager.until("READY=1");
    assert!(ready.contains("\nSTATUS=listening on "), "{ready}");
    let socket = device.state_dir().join("api.sock");
    let status = http::socket(&socket, "GET", "/v1/status", b"").expect("ready means that it answers");
    assert_eq!(status.status, 200);
    until("it is fed", || (manager.signs_of_life(watchdog) >= 2).then_some(()));

    let serving = threads(agent.0.id(), "serve");
    assert!(!serving.is_empty(), "the threads that answer have a name");
    let Some(holder) = hold(&serving) else {
        assert!(std::env::var_os("CI").is_none(), "CI must be allowed to stop a single thread");
        return eprintln!("skipped: the hang itself, because this machine forbids ptrace, or has no perl");
    };
    manager.until("STATUS=the threads that answer has not moved for");
    assert_eq!(manager.signs_of_life(2 * watchdog), 0, "the manager would have restarted it by now");
    assert!(device.log().contains("the watchdog is not fed"), "{}", device.log());
    assert!(!threads(agent.0.id(), "keeper").is_empty(), "the rest of the process lives on");
    drop(holder);
    manager.until("WATCHDOG=1");
}

#[test]
fn the_end_is_announced_and_an_orderly_one_is_no_early_end() {
    let device = Device::new();
    let path = device.path().join("notify");
    let manager = Manager::at(&path);
    let counted = || fs::read_to_string(device.state_dir().join("starts.json")).unwrap_or_default();
    fs::create_dir(device.state_dir()).expect("a temporary folder can be written");
    for early in 1..=2 {
        let agent = run(&device, &path, Duration::from_secs(30));
        manager.until("READY=1");
        drop(agent);
        assert_eq!(counted(), format!(r#"{{"in_a_row":{early}}}"#), "a kill is an early end");
    }
    let mut agent = run(&device, &path, Duration::from_secs(30));
    manager.until("READY=1");
    let asked = Command::new("kill").args(["-TERM", &agent.0.id().to_string()]).status();
    assert!(asked.is_ok_and(|status| status.success()));
    manager.until("STOPPING=1");
    assert!(until("it ends", || agent.0.try_wait().expect("a child of ours")).success());
    assert_eq!(counted(), r#"{"in_a_row":0}"#);
}

/// What systemd does for a socket with `Accept=yes`: a worker for each connection, which is its input and its output.
fn serve_workers(listener: UnixListener, rounds: usize) -> thread::JoinHandle<Vec<u32>> {
    thread::spawn(move || {
        let mut workers = Vec::new();
        for stream in listener.incoming().take(rounds) {
            let stream = stream.expect("a connection");
            let output = OwnedFd::from(stream.try_clone().expect("a second handle"));
            let mut worker = Command::new(hone());
            worker.arg("train-worker").stdin(OwnedFd::from(stream)).stdout(output);
            let mut worker = worker.spawn().expect("hone can be started");
            workers.push(worker.id());
            drop(worker.wait());
        }
        workers
    })
}

fn retrain(device: &Device, log: &str, unit: &Path) -> Value {
    let mut command = device.command(&["run"]);
    command.arg("--sensors-root").arg(device.sensors());
    command.arg("--model").arg(world::train(device.path(), "base", 1, false));
    command.env("HONE_TRAINER_SOCKET", unit);
    command.stdout(Stdio::null()).stderr(fs::File::create(device.path().join(log)).expect("a log"));
    let _agent = Killed(command.spawn().expect("hone can be started"));
    let socket = device.state_dir().join("api.sock");
    let ask = |method: &str, path: &str, body: &str| http::socket(&socket, method, path, body.as_bytes()).ok();
    until("the agent answers", || ask("GET", "/v1/status", ""));
    let mut world = World::new(9);
    let rows: Vec<_> = (0..200).map(|_| world.row(Law::Old)).collect();
    let body: String = rows.iter().map(|(row, _)| world::sample(*row)).collect();
    let answers = ask("POST", "/v1/samples", &body).expect("answers").lines();
    let label = |(answer, (_, state)): (&Value, &([f64; 3], &str))| {
        format!("{}\n", json!({"record_id": answer["record_id"], "label": state}))
    };
    let labels: String = answers.iter().zip(&rows).map(label).collect();
    assert_eq!(ask("POST", "/v1/labels", &labels).map(|answer| answer.status), Some(200));
    let (code, _, error) = device.ask(&["retrain", "--strategy", "head"]);
    assert_eq!(code, Some(0), "{error}");
    until("the training ended", || {
        let runs = ask("GET", "/v1/runs", "")?.json();
        runs["runs"].as_array()?.iter().find(|run| run["cpu_s"].as_f64() > Some(0.0)).cloned()
    })
}

#[test]
fn a_training_runs_in_the_unit_behind_its_socket_and_in_a_child_without_one() {
    let device = Device::new();
    let unit = device.path().join("trainer.sock");
    let workers = serve_workers(UnixListener::bind(&unit).expect("a socket"), 1);
    let run = retrain(&device, "log", &unit);
    assert!(run["candidate"].is_string(), "{run}");
    let workers = workers.join().expect("the worker ended");
    assert_eq!(workers.len(), 1, "{}", device.log());

    // The socket's listener has gone, as after `systemctl stop hone-trainer.socket`.
    let other = Device::new();
    retrain(&other, "log", &unit);
    assert!(other.log().contains("training runs in a child of the agent"), "{}", other.log());
}
