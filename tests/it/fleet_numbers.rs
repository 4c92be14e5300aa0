//! The link's numbers: how fast a full outbox drains, what it costs in memory, and how quickly a fleet's presence is right.
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hone_agent::decide::time::Timestamp;
use hone_agent::shell::store::{CycleRow, ReportRow, StateDir};
use hone_tests::agent::Agent;
use hone_tests::broker::{Broker, Wire};
use hone_tests::fleet::{Console, joined};
use hone_tests::{until, world};
use serde_json::{Value, json};
use ulid::Ulid;

/// Resident bytes of a process.
fn resident(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a process that lives");
    let line = text.lines().find(|line| line.starts_with("VmRSS")).expect("a size");
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number") * 1_024
}

/// Puts so many reports into the outbox of an agent that does not run.
fn fill(state_dir: &Path, count: u64) {
    let mut state = StateDir::open(state_dir).expect("a state");
    let cycle = state.control.cycle().expect("a state").expect("a cycle");
    for (chunk, generation) in (0..count).step_by(1_000).zip(cycle.generation + 1..) {
        let row = |number: u64| ReportRow {
            id: Ulid::from(u128::from(number) + (1 << 64)),
            kind: "waiting".to_owned(),
            json: json!({"kind": "waiting", "number": number}).to_string(),
            at: Timestamp(i64::try_from(number).expect("small")),
        };
        let rows: Vec<_> = (chunk..count.min(chunk + 1_000)).map(row).collect();
        let cycle = CycleRow { generation, state: cycle.state.clone() };
        state.control.commit(&cycle, &rows, &[], &[]).expect("room");
    }
}

/// Drains `count` events and returns events per second and the growth of resident memory.
fn drain(count: u64) -> (f64, i64) {
    let Some(broker) = Broker::start("") else { return (f64::INFINITY, 0) };
    let wire = Wire::to(broker.port);
    let device = joined(wire.port, "outbox_bytes_max = 1_000_000_000\nmetrics_s = 0\n");
    let model = world::train(device.path(), "base", 1, false);
    assert!(device.start(Some(&model)).terminate().success());
    fill(&device.state_dir(), count);
    wire.cut();
    let agent = device.start(None);
    let waiting = |agent: &Agent| agent.status()["link"]["waiting_reports"].as_u64().unwrap_or(0);
    until("the outbox is full", || (waiting(&agent) >= count).then_some(()));
    let before = resident(agent.pid());
    wire.mend();
    until("the link is up", || (agent.status()["link"]["state"] == "online").then_some(()));
    let (begun, mut most) = (Instant::now(), before);
    let delivered = || agent.status()["link"]["delivered"].as_u64().unwrap_or(0);
    let first = delivered();
    let patience = Duration::from_secs(count / 500 + 30);
    while delivered() < count {
        most = most.max(resident(agent.pid()));
        assert!(begun.elapsed() < patience, "{} of {count}", delivered());
        std::thread::sleep(Duration::from_millis(50));
    }
    let rate = (count - first) as f64 / begun.elapsed().as_secs_f64();
    let growth = i64::try_from(most).expect("small") - i64::try_from(before).expect("small");
    eprintln!("drained {count}: {rate:.0} events per second, resident {before} before, grown by {growth} at most");
    (rate, growth)
}

#[test]
fn a_full_outbox_drains_within_little_memory() {
    let (rate, growth) = drain(5_000);
    // Shared machines are slow; the promise itself is held by the long test.
    assert!(rate > 500.0, "{rate} per second");
    assert!(growth <= 2 << 20, "{growth} bytes");
}

#[test]
#[ignore = "long: 100,000 queued events; run by .ci/nightly"]
fn a_hundred_thousand_events_drain_at_two_thousand_a_second_within_two_megabytes() {
    let (rate, growth) = drain(100_000);
    assert!(rate >= 2_000.0 && growth <= 2 << 20, "{rate} per second, {growth} bytes");
}

#[test]
fn the_link_adds_at_most_four_megabytes() {
    let Some(broker) = Broker::start("") else { return };
    let device = joined(broker.port, "");
    let model = world::train(device.path(), "base", 1, false);
    let with = device.start(Some(&model));
    until("the link is up", || (with.status()["link"]["state"] == "online").then_some(()));
    until("the outbox is empty", || (with.status()["link"]["delivered"].as_u64() > Some(0)).then_some(()));
    let with = resident(with.pid());
    let alone = hone_tests::agent::Device::new();
    let without = alone.start(Some(&model));
    let _ = without.status();
    let without = resident(without.pid());
    let added = i64::try_from(with).expect("small") - i64::try_from(without).expect("small");
    eprintln!("resident with the link {with}, without {without}: it adds {added} bytes");
    assert!(added <= 4 << 20, "{added} bytes");
}

/// A simulation that ends with the test.
struct Sim {
    child: Child,
    agents: Vec<Value>,
}

impl Drop for Sim {
    fn drop(&mut self) {
        // In order, so that its agents end with it.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

impl Sim {
    fn start(console: &Console, count: u64, settings: &str) -> Self {
        let count_text = count.to_string();
        let mut process = console.process(&[
            "sim",
            &count_text,
            "--folder",
            "sim",
            "--settings",
            settings,
            "--every",
            "30",
            "--json",
        ]);
        let mut child = process.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let count = usize::try_from(count).expect("few");
        let agents =
            lines.map_while(Result::ok).map(|line| serde_json::from_str(&line).expect("JSON")).take(count).collect();
        Self { child, agents }
    }
}

fn signal(process: &Value, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(status.expect("kill can be started").success());
}

/// Starts a fleet, and has devices die, return and be cut off.
fn fleet(count: u64) {
    let Some(broker) = Broker::start("") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let wire = Wire::to(broker.port);
    let _ = hone_tests::hone();
    let (near, far) = (format!("mqtt://127.0.0.1:{}", broker.port), format!("mqtt://127.0.0.1:{}", wire.port));
    std::fs::write(folder.path().join("more.toml"), "[mqtt]\nkeep_alive_s = 15\nretry_max_s = 2\n")
        .expect("a temporary folder");
    let console = Console::new(folder.path(), &["--broker", &near]);
    let begun = Instant::now();
    let through = Console::new(folder.path(), &["--broker", &far]);
    let sim = Sim::start(&through, count, "more.toml");
    assert_eq!(sim.agents.len() as u64, count);
    let presence = || {
        let list = console.json(&["devices"])["devices"].as_array().cloned().unwrap_or_default();
        list.into_iter()
            .map(|device| (device["device"].as_str().unwrap_or_default().to_owned(), device["presence"] == "online"))
            .collect::<Vec<_>>()
    };
    let patience = Duration::from_secs(60 + count);
    while presence().iter().filter(|(_, online)| *online).count() as u64 != count {
        assert!(
            begun.elapsed() < patience,
            "{} of {count} are online",
            presence().iter().filter(|(_, online)| *online).count()
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    eprintln!("{count} devices online after {:.1} s", begun.elapsed().as_secs_f64());
    let online = |device: &str| presence().iter().find(|(name, _)| name == device).is_some_and(|(_, online)| *online);
    let victim = &sim.agents[usize::try_from(count / 2).expect("few")];
    let name = victim["device"].as_str().expect("a name");
    // SIGKILL: the will comes after its delay of 2 s.
    signal(&victim["process"], "KILL");
    let killed = Instant::now();
    until("it is known to be gone", || (!online(name)).then_some(()));
    let gone = killed.elapsed();
    assert!(gone < Duration::from_secs(5), "{gone:?}");
    assert_eq!(presence().iter().filter(|(_, online)| *online).count() as u64, count - 1, "and nobody else");
    // It returns.
    let state = folder.path().join("sim").join(name);
    let mut back = Command::new(hone_tests::hone());
    back.args(["run", "--config"]).arg(state.join("hone.toml")).arg("--state-dir").arg(state.join("state"));
    back.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let returned = Instant::now();
    let mut back = back.spawn().expect("hone can be started");
    until("it is known to be back", || online(name).then_some(()));
    let back_after = returned.elapsed();
    assert!(back_after < Duration::from_secs(5), "{back_after:?}");
    // The network is cut for all: known within 1.5 keep-alives, the will's delay of 2 s and the broker's looks included.
    wire.swallow();
    let cut = Instant::now();
    until("all are known to be gone", || presence().iter().all(|(_, online)| !online).then_some(()));
    let lost = cut.elapsed();
    eprintln!("{count} devices: killed known after {gone:?}, back after {back_after:?}, cut known after {lost:?}");
    assert!(lost < Duration::from_millis(22_500), "1.5 keep-alives of 15 s: {lost:?}");
    wire.mend();
    until("all are back", || presence().iter().all(|(_, online)| *online).then_some(()));
    let _ = back.kill();
    let _ = back.wait();
}

#[test]
fn a_small_fleet_is_listed_and_its_presence_is_right() {
    fleet(6);
}

#[test]
#[ignore = "long: 200 agents on one machine; run by .ci/nightly"]
fn two_hundred_devices_are_listed_and_their_presence_is_right() {
    fleet(200);
}
