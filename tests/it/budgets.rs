//! Budgets as the operator meets them: what waits says why, what trains yields, and the ledger says what it took.
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use hone_tests::agent::{Agent, Device};
use hone_tests::until;
use hone_tests::world::{self, Law, World};
use serde_json::{Value, json};

/// A gradient training of some seconds at full speed, so that there is something to suspend.
const LONG: &str = r"
[training.fit]
patience = 100000

[training.full]
epochs = 1500
";

fn battery(device: &Device, status: &str, percent: u8) {
    let folder = "sys/class/power_supply/BAT0";
    device.sense(&format!("{folder}/type"), "Battery\n");
    device.sense(&format!("{folder}/capacity"), &format!("{percent}\n"));
    device.sense(&format!("{folder}/status"), &format!("{status}\n"));
}

fn heat(device: &Device, celsius: u32) {
    device.sense("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
    device.sense("sys/class/thermal/thermal_zone0/temp", &format!("{}\n", celsius * 1_000));
}

/// A running agent that has seen enough labels to be retrained.
fn living(device: &Device) -> Agent {
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    agent.live(&mut World::new(9), Law::Old, 300);
    agent
}

fn order(device: &Device, strategy: &str) {
    let (code, _, error) = device.ask(&["retrain", "--strategy", strategy]);
    assert_eq!(code, Some(0), "{error}");
}

fn waiting(agent: &Agent) -> Value {
    until("the order waits", || Some(agent.status()["waiting_budget"].clone()).filter(Value::is_object))
}

fn training(agent: &Agent) -> Value {
    until("it makes steps", || {
        Some(agent.status()["training"].clone()).filter(|training| training["steps"].as_u64() > Some(5))
    })
}

fn idle(agent: &Agent) {
    until("nothing is under way", || agent.status()["work"].is_null().then_some(()));
}

fn run(agent: &Agent, number: u64) -> Value {
    let energy = agent.socket("GET", "/v1/energy", "").json();
    let runs = energy["runs"].as_array().cloned().unwrap_or_default();
    runs.into_iter().find(|run| run["run"] == number).unwrap_or_else(|| panic!("{energy}"))
}

fn checkpoints(agent: &Agent) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(agent.state_dir().join("snapshots")).expect("a folder");
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "checkpoint")).collect()
}

#[test]
fn an_empty_battery_makes_a_retrain_wait_and_starve_and_a_charged_one_lets_it_be_made_and_booked() {
    let device = Device::new();
    device.set("[budget]\nstarved_after_s = 1\n");
    battery(&device, "Discharging", 20);
    let agent = living(&device);
    order(&device, "head");
    let refusal = waiting(&agent);
    assert_eq!((&refusal["code"], &refusal["run"]), (&json!("battery"), &json!(1)));
    let sentence = refusal["sentence"].as_str().unwrap_or_default();
    assert!(sentence.contains("20 %") && sentence.contains("60 %"), "both numbers: {refusal}");
    assert!(refusal["try_again"]["in_s"].as_u64() <= Some(60), "{refusal}");
    let starved = until("it is reported as starved", || agent.reports("starved").pop());
    assert!(starved["waited_s"].as_u64() >= Some(1) && starved["code"] == "battery", "{starved}");
    let (code, said, _) = device.ask(&["status"]);
    assert!(code == Some(0) && said.contains("STARVED") && said.contains("runs on battery"), "{said}");
    assert_eq!(run(&agent, 1)["state"], "waiting_budget");
    assert_eq!(agent.reports("waiting_budget").len(), 1, "it is told once, not every two seconds");

    // Killed while it waits: the order waits on, and waiting has cost no attempt.
    agent.kill();
    let agent = device.start(None);
    assert_eq!(waiting(&agent)["code"], "battery");
    battery(&device, "Charging", 21);
    idle(&agent);
    let booked = run(&agent, 1);
    assert!(["promoted", "refused"].contains(&booked["state"].as_str().unwrap_or_default()), "{booked}");
    assert!(agent.status()["waiting_budget"].is_null());
    for key in ["cpu_s", "wall_s", "joules", "joules_error", "bytes_written"] {
        assert!(booked[key].as_f64() > Some(0.0), "{key}: {booked}");
    }
    assert_eq!((&booked["joules_source"], &booked["joules_measured"]), (&json!("model"), &json!(false)));
    let trained = agent.reports("trained");
    assert!(trained.iter().all(|report| report["joules_source"] == "model" && report["wall_s"].as_f64() > Some(0.0)));
}

#[test]
fn a_training_that_a_battery_suspends_goes_on_from_its_checkpoint_and_can_be_made_again() {
    let device = Device::new();
    device.set(&format!("[budget]\ncpu_share = 0.5\nenergy_j_stored = 1e6\nenergy_j_per_retrain = 1e6\n{LONG}"));
    battery(&device, "Full", 100);
    let agent = living(&device);
    order(&device, "full");
    let before = training(&agent);
    assert_eq!(before["share"], 0.5);
    battery(&device, "Discharging", 30);
    let suspended = until("it is suspended", || agent.reports("suspended").pop());
    assert_eq!(suspended["code"], "battery");
    assert_eq!((waiting(&agent)["code"].clone(), checkpoints(&agent).len()), (json!("battery"), 1));
    let cost = run(&agent, 1);
    assert!(cost["cpu_s"].as_f64() > Some(0.0) && cost["joules"].as_f64() > Some(0.0), "booked so far: {cost}");
    // More labels come meanwhile; the checkpoint belongs to the rows it was begun with.
    agent.live(&mut World::new(10), Law::Old, 30);
    battery(&device, "Charging", 31);
    let first = until("it goes on", || {
        Some(agent.status()["training"].clone()).filter(|training| training["steps"].as_u64() > Some(0))
    });
    assert!(first["steps"].as_u64() >= before["steps"].as_u64(), "it must not start over: {before} {first}");
    until("it has been judged", || agent.reports("gate").pop());
    until("nothing is under way", || {
        // The refit, if there is one, takes as long again.
        let _ = agent.status();
        agent.status()["work"].is_null().then_some(())
    });
    assert!(checkpoints(&agent).is_empty());
    assert!(agent.reports("failed").is_empty(), "to be suspended is no failure");
    let (code, said, error) = device.ask(&["reproduce", "1", "--json"]);
    assert_eq!(code, Some(0), "{said}{error}");
}

#[test]
fn a_hot_gateway_suspends_a_training_and_a_person_can_cancel_it() {
    let device = Device::new();
    device.set(&format!("[budget]\nenergy_j_stored = 1e6\nenergy_j_per_retrain = 1e6\n{LONG}"));
    heat(&device, 50);
    let agent = living(&device);
    let champion = agent.champion();
    assert_eq!(device.ask(&["retrain", "--cancel"]).0, Some(9), "there is nothing to cancel");
    order(&device, "full");
    assert_eq!(training(&agent)["share"], 0.25);
    heat(&device, 76);
    until("it slows down", || (agent.status()["training"]["share"].as_f64() <= Some(0.125)).then_some(()));
    heat(&device, 80);
    until("it is suspended", || agent.reports("suspended").pop());
    let refusal = waiting(&agent);
    let sentence = refusal["sentence"].as_str().unwrap_or_default();
    assert!(refusal["code"] == "heat" && sentence.contains("80.0 °C"), "{refusal}");
    assert_eq!(checkpoints(&agent).len(), 1);
    let (code, said, error) = device.ask(&["retrain", "--cancel"]);
    assert!(code == Some(0) && said.contains("run 1 is cancelled"), "{said}{error}");
    assert!(checkpoints(&agent).is_empty(), "nobody goes on with it");
    let status = agent.status();
    assert!(status["work"].is_null() && status["waiting_budget"].is_null(), "{status}");
    until("it is booked", || (run(&agent, 1)["state"] == "cancelled").then_some(()));
    assert_eq!(agent.champion(), champion);

    heat(&device, 50);
    agent.kill();
    device.set(LONG);
    // A gateway without its hot sensor, and with full stocks only for what is small: cancelled while it runs.
    std::fs::remove_dir_all(device.sensors()).expect("a folder of ours");
    let agent = device.start(None);
    order(&device, "head");
    let _ = device.ask(&["retrain", "--cancel"]);
    idle(&agent);
}

#[test]
fn too_little_memory_is_refused_with_both_numbers_and_the_dry_run_says_so_before() {
    let device = Device::new();
    device.sense("proc/meminfo", "MemTotal: 64000 kB\nMemAvailable: 33500 kB\n");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let (code, plan, error) = device.ask(&["retrain", "--dry-run", "--json"]);
    let plan: Value = serde_json::from_str(&plan).unwrap_or_else(|_| panic!("{error}"));
    assert_eq!((code, &plan["possible"], &plan["missing"]), (Some(0), &json!(false), &json!(40)), "{plan}");
    let (_, said, _) = device.ask(&["retrain", "--dry-run"]);
    assert!(said.contains("40 more labels are needed"), "{said}");

    agent.live(&mut World::new(9), Law::Old, 300);
    let (code, plan, error) = device.ask(&["retrain", "--dry-run", "--strategy", "full", "--json"]);
    let plan: Value = serde_json::from_str(&plan).unwrap_or_else(|_| panic!("{error}"));
    assert_eq!((code, &plan["possible"], &plan["rows"]["held_out"]), (Some(0), &json!(true), &json!(60)), "{plan}");
    assert_eq!((&plan["rows"]["new"], &plan["rows"]["train"]), (&json!(240), &json!(240)));
    assert!(plan["rows"]["anchors"].as_u64() > Some(0) && plan["expected"]["cpu_s"].as_f64() > Some(0.0), "{plan}");
    assert_eq!((&plan["budget"]["allowed"], &plan["budget"]["code"]), (&json!(false), &json!("memory")));
    assert!(plan["reasons"].as_array().is_some_and(|reasons| reasons.len() >= 6), "{plan}");
    assert!(agent.status()["work"].is_null() && agent.reports("retrain").is_empty(), "nothing is ordered by it");

    order(&device, "full");
    let refusal = waiting(&agent);
    let sentence = refusal["sentence"].as_str().unwrap_or_default();
    // 33,500 kB less the 32 MiB that stay for everything else.
    assert!(refusal["code"] == "memory" && sentence.contains("the machine leaves 0.7 MB"), "{refusal}");
    assert!(sentence.contains("needs at least"), "{refusal}");
    let trains = until("there is memory again", || {
        device.sense("proc/meminfo", "MemTotal: 640000 kB\nMemAvailable: 600000 kB\n");
        agent.reports("trained").pop()
    });
    assert_eq!(trains["run"], 1);
}

#[test]
fn a_retrain_waits_for_its_hours() {
    let device = Device::new();
    let hour = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 3_600 % 24);
    let (from, to) = ((hour + 11) % 24, (hour + 12) % 24);
    device.set(&format!("[budget]\nhours = \"{from:02}:00-{to:02}:00\"\n"));
    let agent = living(&device);
    order(&device, "head");
    let refusal = waiting(&agent);
    assert_eq!(refusal["code"], "hours");
    let wait = refusal["try_again"]["in_s"].as_u64();
    assert!(wait > Some(9 * 3_600) && wait <= Some(11 * 3_600), "{refusal}");
    assert!(agent.terminate().success());
    device.set("");
    let agent = device.start(None);
    idle(&agent);
    assert!(run(&agent, 1)["joules"].as_f64() > Some(0.0));
}
