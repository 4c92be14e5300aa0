//! Kills and swaps under load: nothing corrupt, nothing lost, no request refused.
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hone_tests::agent::{Agent, Device};
use hone_tests::http;
use hone_tests::world::{self, Law, World, request};
use serde_json::{Value, json};
use trainer_core::bundle;

const INFER: &str = "/v2/models/main/infer";

/// `base` once more under another name: the same answers, another seed on record.
pub(crate) fn twin(folder: &Path, base: &Path, number: u64) -> PathBuf {
    let mut model = bundle::read(&fs::read(base).expect("it is there")).expect("a bundle");
    model.manifest.provenance.seed = 1_000 + number;
    let path = folder.join(format!("twin-{number}.safetensors"));
    fs::write(&path, bundle::write(&mut model).0).expect("a temporary folder can be written");
    path
}

/// xorshift, so that a run can be repeated.
fn drawn(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % below
}

/// Reports by their id, as they are on record.
fn reports(agent: &Agent) -> BTreeMap<String, String> {
    let all = agent.socket("GET", "/v1/reports?limit=1000", "").json();
    let all = all["reports"].as_array().cloned().unwrap_or_default();
    all.iter().map(|entry| (entry["id"].to_string(), entry["report"].to_string())).collect()
}

/// Kills the agent at random moments of answering, labelling, promoting and rolling back.
fn killed(kills: u64) {
    let device = Device::new();
    device.set("[cycle]\npolicy = \"static\"\n");
    let base = world::train(device.path(), "base", 1, false);
    let (mut chance, mut world) = (0x9E37_79B9_7F4A_7C15_u64, World::new(3));
    let mut told: BTreeMap<String, String> = BTreeMap::new();
    let mut agent = device.start(Some(&base));
    agent.live(&mut world, Law::Old, 150);
    for kill in 0..kills {
        let stop = AtomicBool::new(false);
        told.extend(reports(&agent));
        let offer = fs::read(twin(device.path(), &base, kill)).expect("it is there");
        let (address, socket, after) =
            (agent.address.clone(), agent.state_dir().join("api.sock"), drawn(&mut chance, 500));
        let rolls_back = drawn(&mut chance, 3) == 0;
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        // Once it is killed, nobody answers.
                        let _ = http::tcp(
                            &address,
                            &address,
                            "POST",
                            INFER,
                            request([0.5, 1.0, 0.0]).to_string().as_bytes(),
                        );
                    }
                });
            }
            scope.spawn(|| {
                let _ = http::socket(&socket, "POST", "/v1/models", &offer);
                if rolls_back {
                    let _ = http::socket(&socket, "POST", "/v1/commands", br#"{"command":"rollback"}"#);
                }
            });
            thread::sleep(Duration::from_millis(after));
            agent.kill();
            stop.store(true, Ordering::Relaxed);
        });
        agent = device.start(None);
        let status = agent.status();
        assert_eq!(status["state"], "serving", "kill {kill}: {}", device.log());
        let answer = agent.tcp("POST", INFER, &request([1.5, 1.0, 0.0]).to_string());
        assert_eq!((answer.status, &answer.json()["model_version"]), (200, &status["champion"]), "kill {kill}");
        let found = reports(&agent);
        for (id, report) in &told {
            assert_eq!(found.get(id), Some(report), "kill {kill}: a report was lost or changed");
        }
        let files = [agent.state_dir().to_owned(), agent.state_dir().join("models"), agent.state_dir().join("records")];
        for folder in files {
            let names = fs::read_dir(folder).expect("ours").map(|entry| entry.expect("ours").file_name());
            let damaged: Vec<_> = names.filter(|name| name.to_string_lossy().contains("damaged")).collect();
            assert!(damaged.is_empty(), "kill {kill}: {damaged:?}");
        }
        if kill % 5 == 4 {
            agent.live(&mut world, Law::Old, 110);
        }
    }
    println!("{kills} kills, {} reports on record, champion {}", told.len(), agent.champion());
}

#[test]
fn an_agent_killed_at_random_moments_under_load_corrupts_nothing_serves_and_keeps_its_reports() {
    killed(25);
}

#[test]
#[ignore = "long: 500 kills of the agent under load; run by .ci/nightly"]
fn an_agent_killed_five_hundred_times_corrupts_nothing_serves_and_keeps_its_reports() {
    killed(500);
}

/// Answers of a client before and after each change of the model that belong to the swap.
const AROUND: usize = 5;

/// Microseconds of a client's answers without and during swaps: during is where another model answers than before, and around it.
fn parted(answers: &[(u64, String)]) -> (Vec<u64>, Vec<u64>) {
    let changes: Vec<_> = (1..answers.len()).filter(|at| answers[*at].1 != answers[at - 1].1).collect();
    let near = |at: usize| {
        let next = changes.partition_point(|change| change + AROUND <= at);
        changes.get(next).is_some_and(|change| at + AROUND >= *change)
    };
    let (during, calm): (Vec<_>, Vec<_>) = (0..answers.len()).partition(|at| near(*at));
    let took = |places: Vec<usize>| places.into_iter().map(|at| answers[at].0).collect();
    (took(calm), took(during))
}

fn p99(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    let at = values.len() * 99 / 100;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// Promotes and rolls back under two clients for `span`, each pair of swaps in its time; returns p99 without and during swaps, in
/// microseconds, with the numbers of answers and of those during swaps.
fn swapped(pairs: u64, span: Duration) -> (u64, u64, usize, usize) {
    let device = Device::new();
    device.set("[cycle]\npolicy = \"static\"\n");
    let base = world::train(device.path(), "base", 1, false);
    let agent = device.start(Some(&base));
    let first = agent.champion();
    let stop = AtomicBool::new(false);
    let (failed, seen) = (AtomicU64::new(0), Mutex::new((Vec::new(), Vec::new())));
    let body = request([0.5, 1.0, 0.0]).to_string();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = Instant::now();
                    let answer = http::tcp(&agent.address, &agent.address, "POST", INFER, body.as_bytes());
                    let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    match answer {
                        Ok(answer) if answer.status == 200 => {
                            answers.push((took, answer.json()["model_version"].as_str().unwrap_or("").to_owned()));
                        }
                        _ => {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                let (calm, during) = parted(&answers);
                let mut seen = seen.lock().expect("no client panics");
                seen.0.extend(calm);
                seen.1.extend(during);
            });
        }
        let (mut world, begun) = (World::new(3), Instant::now());
        for pair in 0..pairs {
            agent.live(&mut world, Law::Old, 110);
            let offer = twin(device.path(), &base, pair);
            let (code, _, said) = device.ask(&["promote", &offer.display().to_string()]);
            assert_eq!(code, Some(0), "{said}");
            assert_ne!(agent.champion(), first);
            let answer = agent.socket("POST", "/v1/commands", r#"{"command":"rollback"}"#);
            assert_eq!((answer.status, &answer.json()["champion"]), (200, &json!(first)), "{}", answer.text);
            let due = span.mul_f64((pair + 1) as f64 / pairs as f64);
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(failed.load(Ordering::Relaxed), 0, "requests failed");
    let (mut calm, mut during) = seen.into_inner().expect("no client panics");
    (p99(&mut calm), p99(&mut during), calm.len() + during.len(), during.len())
}

#[test]
fn swaps_under_load_refuse_no_request() {
    let (_, _, answers, during) = swapped(3, Duration::from_secs(1));
    assert!(answers > 100 && during > 0, "{answers} answers, {during} during swaps");
}

#[test]
#[ignore = "long: 200 swaps under two clients, alone on the machine; run by .ci/nightly"]
fn two_hundred_swaps_refuse_no_request_and_slow_none_beyond_twice() {
    let begun = Instant::now();
    let (calm, swapping, answers, during) = swapped(100, Duration::from_mins(1));
    let load: Value = json!(fs::read_to_string("/proc/loadavg").unwrap_or_default());
    println!(
        "200 swaps in {} s, {answers} answers, {during} of them during swaps; p99 {calm} us, during swaps {swapping} us, load {load}",
        begun.elapsed().as_secs()
    );
    assert!(swapping <= 2 * calm, "p99 {swapping} us during swaps, {calm} us without");
}
