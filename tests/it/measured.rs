//! Figures that need a calm machine and a minute each: `cargo test --workspace --test it -- --ignored --nocapture measured`.
//!
//! Each prints what it measured and how busy the machine was; `BUDGETS.md` holds the results. What has to be alone in its process, or of
//! the idle class, is this test binary started once more with one of its own tests.
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hone_agent::decide::sample::{Label, Sample};
use hone_agent::decide::time::Timestamp;
use hone_agent::decide::watch::{Watch, WatchSettings};
use hone_agent::shell::models::ModelStore;
use hone_agent::shell::trainer::duty::{Clock as _, RealClock};
use hone_agent::shell::trainer::frames::{Checkpointing, Report};
use hone_agent::shell::trainer::{Say, Source, TrainerError, runs, system};
use hone_tests::agent::Device;
use hone_tests::world::{self, Law, World, request};
use hone_tests::{hone, until};
use serde_json::Value;
use trainer_core::bundle;
use trainer_core::chance::{Chance, Purpose};
use trainer_core::digest::Digest;
use trainer_core::model::{Model, Strategy, Work};

use crate::training;

/// Seconds that [`a_spinner_of_the_idle_class`] shall spin.
const SPIN_S: &str = "HONE_TEST_SPIN_S";
/// Features of the watch that [`a_watch_alone_in_its_process`] shall weigh.
const FEATURES: &str = "HONE_TEST_FEATURES";

/// This binary again, for one of its tests, with one word of instruction.
fn again(test: &str, instruction: (&str, &str)) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test knows its own file"));
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(instruction.0, instruction.1);
    command
}

/// What a test that was started again printed behind `word`.
fn said(output: &str, word: &str) -> f64 {
    let rest = output.split_once(word).unwrap_or_else(|| panic!("no {word} in {output}")).1;
    rest.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{rest}"))
}

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("load {} on {cores} cores", load.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}

/// A spinner that is killed when it is dropped.
struct Spinner(Child);

impl Drop for Spinner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Spinner {
    /// Starts it and waits until it spins.
    fn start(seconds: f64) -> Self {
        let mut command = again("measured::a_spinner_of_the_idle_class", (SPIN_S, &seconds.to_string()));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("this file can be started");
        let mut spinner = Self(child);
        let mut output = BufReader::new(spinner.0.stdout.as_mut().expect("it is piped"));
        let mut line = String::new();
        while !line.contains("spinning") {
            line.clear();
            assert!(output.read_line(&mut line).expect("it speaks") > 0, "it ended");
        }
        spinner
    }

    /// The share of a core it got.
    fn share(mut self) -> f64 {
        let mut text = String::new();
        self.0.stdout.as_mut().expect("it is piped").read_to_string(&mut text).expect("it speaks");
        said(&text, "share")
    }
}

#[test]
#[ignore = "long: no test of its own, the others start it; run by .ci/nightly"]
fn a_spinner_of_the_idle_class() {
    let Some(seconds) = std::env::var(SPIN_S).ok().and_then(|seconds| seconds.parse::<f64>().ok()) else {
        return;
    };
    let _ = system::step_back();
    println!("spinning");
    let clock = RealClock;
    let (begin, before) = (clock.wall_s(), clock.cpu_s());
    while clock.wall_s() - begin < seconds {
        for step in 0..100_000 {
            std::hint::black_box(step);
        }
    }
    println!("share {}", (clock.cpu_s() - before) / (clock.wall_s() - begin));
}

#[test]
#[ignore = "long: CPU share of a training, a minute; run by .ci/nightly"]
fn a_quarter_of_a_core_is_neither_exceeded_nor_missed_where_a_control_spinner_gets_nine_tenths() {
    let parent = training::parent(64, 6, &[256, 256]);
    for attempt in 0..5 {
        let mut task = training::task(&parent, Strategy::Full, training::rows(4_000, 64, 6, 2), 1_000);
        task.limits.cpu_share = Some(0.25);
        let spinner = Spinner::start(17.0);
        let mut seen: Vec<(f64, f64)> = Vec::new();
        let mut listen = |_, report: &Report| {
            seen.push((report.usage.wall_s, report.usage.cpu_s));
            if report.usage.wall_s > 15.0 { Say::Cancel } else { Say::GoOn }
        };
        let stopped = training::trainer().run(task, &mut listen);
        assert!(matches!(stopped, Err(TrainerError::Stopped(_))), "{stopped:?}");
        let control = spinner.share();
        let (mut highest, mut lowest) = (0.0_f64, 1.0_f64);
        for (index, (begin, before)) in seen.iter().enumerate() {
            if let Some((end, after)) = seen[index..].iter().find(|(end, _)| end - begin >= 10.0) {
                let share = (after - before) / (end - begin);
                (highest, lowest) = (highest.max(share), lowest.min(share));
            }
        }
        println!("any 10 s: {lowest:.4} to {highest:.4} of a core, control spinner {control:.3}; {}", load());
        assert!(highest > 0.0 && highest <= 0.28, "{highest}");
        if lowest >= 0.22 {
            return;
        }
        assert!(control < 0.9, "{lowest}");
        println!("attempt {attempt}: too busy a machine to judge the lower bound");
    }
    panic!("the control spinner never got 0.9 of a core: the lower bound was not judged");
}

/// A connection that stays open.
struct Client {
    stream: BufReader<TcpStream>,
    host: String,
}

impl Client {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the agent listens");
        stream.set_nodelay(true).expect("a TCP stream");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a TCP stream");
        Self { stream: BufReader::new(stream), host: address.to_owned() }
    }

    /// Seconds from a request to the end of its answer, and its status.
    fn infer(&mut self, body: &str) -> (f64, u16) {
        let request = format!(
            "POST /v2/models/main/infer HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            body.len()
        );
        let begun = Instant::now();
        self.stream.get_mut().write_all(request.as_bytes()).expect("the agent reads");
        let (mut status, mut bytes, mut line) = (0, 0, String::new());
        while line != "\r\n" {
            line.clear();
            assert!(self.stream.read_line(&mut line).expect("the agent answers") > 0, "the connection was closed");
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
            }
            if let Some(rest) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                bytes = rest.trim().parse().expect("a length");
            }
        }
        self.stream.read_exact(&mut vec![0; bytes]).expect("the body");
        (begun.elapsed().as_secs_f64(), status)
    }

    /// The 99th percentile of `seconds` of requests every 4 milliseconds, in milliseconds.
    fn p99_ms(&mut self, world: &mut World, seconds: u64) -> f64 {
        let mut took = Vec::new();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(seconds) {
            let (seconds, status) = self.infer(&request(world.row(Law::Old).0).to_string());
            assert_eq!(status, 200, "no request fails while a training runs");
            took.push(seconds);
            std::thread::sleep(Duration::from_millis(4));
        }
        took.sort_by(f64::total_cmp);
        took[(took.len() * 99).div_ceil(100) - 1] * 1e3
    }
}

/// The number of the trainer that runs below process `agent`, if one does.
fn trainer_of(agent: u32) -> Option<u32> {
    let is_trainer = |pid: &u32| {
        let text = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let parent = text("stat").rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parent == Some(agent) && text("cmdline").contains("train-worker")
    };
    let folders = fs::read_dir("/proc").expect("Linux").flatten();
    folders.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_trainer)
}

#[test]
#[ignore = "long: inference beside a training, two minutes; run by .ci/nightly"]
fn inference_while_the_agent_trains_is_as_fast_as_beside_a_spinner_of_the_idle_class() {
    let device = Device::new();
    let endless = "
[training.full]
epochs = 100000
[training.fit]
patience = 100000
[budget]
energy_j_stored = 1e6
energy_j_per_retrain = 1e6
";
    let settings = hone_tests::agent::QUICK.replace("trigger:any", "static");
    fs::write(device.path().join("hone.toml"), settings + endless).expect("a temporary folder can be written");
    let agent = device.start(Some(&world::train(device.path(), "base", 1, false)));
    let mut world = World::new(5);
    agent.live(&mut world, Law::Old, 1_000);
    let (code, said, error) = device.ask(&["retrain", "--strategy", "full"]);
    assert_eq!(code, Some(0), "{said}{error}");
    let trainer = until("the training runs", || trainer_of(agent.pid()));
    std::thread::sleep(Duration::from_secs(2));
    let mut client = Client::open(&agent.address);
    client.p99_ms(&mut world, 2);
    let mut ratios = Vec::new();
    for pair in 0..10 {
        training::signal("-CONT", trainer);
        let training = client.p99_ms(&mut world, 5);
        training::signal("-STOP", trainer);
        let spinner = Spinner::start(60.0);
        let spinning = client.p99_ms(&mut world, 5);
        drop(spinner);
        let alone = client.p99_ms(&mut world, 2);
        println!(
            "pair {pair}: p99 {training:.3} ms training, {spinning:.3} ms beside the spinner, {alone:.3} ms alone; {}",
            load()
        );
        ratios.push(training / spinning);
        assert_eq!(trainer_of(agent.pid()), Some(trainer), "the training went on all the time");
    }
    let ratio = median(&mut ratios);
    println!("median ratio {ratio:.3}, {:.3} to {:.3}", ratios[0], ratios[9]);
    assert!(ratio <= 2.0, "{ratio}");
}

/// 100,000 rows, a minute apart, that move every test: a daily season, rare gaps and impossible values, late labels of ten segments.
fn watched(model: &Model, width: usize) -> Watch {
    let mut watch = Watch::new(model, &WatchSettings::default());
    let (mut chance, mut work) = (Chance::new(3, Purpose::Sample, 4), Work::default());
    let answered_by = Digest::of(b"the model");
    for index in 0..100_000_u64 {
        let season = (index as f32 / 1_440.0 * std::f32::consts::TAU).sin();
        let value = |chance: &mut Chance| match chance.below(1_000) {
            0 => f32::NAN,
            1 => f32::INFINITY,
            _ => chance.normal() + season,
        };
        let row: Vec<f32> = (0..width).map(|_| value(&mut chance)).collect();
        // The answer of one row for all: what counts is that there is one.
        if index % 100 == 0 {
            model.embed(&row, &mut work);
        }
        let at = Some(Timestamp(i64::try_from(index).expect("small") * 60_000_000));
        watch.sample(&Sample { row: &row, answer: &work.answer, embedding: &work.h, at });
        let loss = f64::from(u8::from(chance.below(10) == 0));
        let segment = format!("machine {}", index % 10);
        let (answer, segment) = (work.answer.as_slice(), Some(segment.as_str()));
        watch.label(&Label { sample: index, loss, answer, truth: &[0.0], segment, answered_by }, index);
    }
    watch
}

#[test]
#[ignore = "long: no test of its own, another starts it; run by .ci/nightly"]
fn a_watch_alone_in_its_process() {
    let Some(width) = std::env::var(FEATURES).ok().and_then(|features| features.parse().ok()) else {
        return;
    };
    let model = bundle::read(&training::parent(width, 2, &[16])).expect("a bundle");
    let watch = watched(&model, width);
    let json = serde_json::to_vec(&watch).expect("plain data").len();
    let before = system::heap_bytes().0;
    drop(watch);
    println!("heap {} json {json}", before - system::heap_bytes().0 + size_of::<Watch>() as u64);
}

#[test]
#[ignore = "long: memory of a watch, half a minute; run by .ci/nightly"]
fn a_feature_holds_at_most_four_kilobytes_and_a_watch_of_128_a_megabyte_in_memory_and_on_disk() {
    let weigh = |features: &str| {
        let output = again("measured::a_watch_alone_in_its_process", (FEATURES, features)).output();
        let text = String::from_utf8(output.expect("this file can be started").stdout).expect("text");
        (said(&text, "heap"), said(&text, "json"))
    };
    let ((one, one_json), (all, all_json)) = (weigh("1"), weigh("128"));
    let each = (all - one) / 127.0;
    println!("watch of 1 feature: {one} bytes on the heap, {one_json} as JSON; of 128: {all} and {all_json}");
    println!("each further feature: {each:.0} bytes on the heap, {:.0} as JSON", (all_json - one_json) / 127.0);
    let megabyte = 1024.0 * 1024.0;
    assert!(each <= 4_096.0 && all <= megabyte && all_json <= megabyte);
}

/// Trains until the end, killed up to twice on the way; returns what came of it and the kills.
fn killed_on_the_way(
    task: &hone_agent::shell::trainer::Task,
    round: u64,
) -> (hone_agent::shell::trainer::Finished, u32) {
    let mut chance = Chance::new(round, Purpose::Sample, 3);
    let mut kills = 0;
    loop {
        // The first at once: a fast machine has few reports to be killed at.
        let after = [0, chance.below(3)].get(kills as usize).copied().unwrap_or(usize::MAX);
        let mut reports = 0;
        let mut listen = |pid, _: &Report| {
            if reports == after {
                training::signal("-KILL", pid);
            }
            reports += 1;
            Say::GoOn
        };
        match training::trainer().run(task.clone(), &mut listen) {
            Ok(finished) => return (finished, kills),
            Err(TrainerError::Ended { how }) => assert!(how.contains("killed"), "{how}"),
            Err(error) => panic!("{error}"),
        }
        kills += 1;
    }
}

#[test]
#[ignore = "long: 20 trainings that are killed and resumed, five minutes; run by .ci/nightly"]
fn twenty_of_twenty_runs_that_were_killed_and_resumed_are_reproduced() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = |name: &str, kind| ModelStore::open(&folder.path().join(name), kind).expect("a store");
    let (snapshots, models) = (store("snapshots", "snapshot"), store("models", "safetensors"));
    let bundle = training::parent(16, 4, &[48, 32]);
    let parent = models.put(&bundle).expect("room");
    let mut equal = 0;
    for round in 0..20_u64 {
        let strategy = if round % 2 == 0 { Strategy::Full } else { Strategy::Tail };
        let mut task = training::task(&bundle, strategy, training::rows(3_000, 16, 4, 100 + round), 24);
        let Source::Bytes(bytes) = &task.snapshot else { unreachable!("made so") };
        let snapshot = snapshots.put(bytes).expect("room");
        let path = runs::checkpoint_path(&snapshots, &snapshot);
        task.checkpoint = Some(Checkpointing { every_steps: 25, ..Checkpointing::at(path) });
        let (finished, kills) = killed_on_the_way(&task, round);
        runs::record(&snapshots, snapshot, Some(parent), Some(round + 1), &finished).expect("room");
        let facts = reproduce(folder.path(), round + 1);
        println!("round {round}, {strategy:?}, {kills} kills: {}", facts["equal"]);
        equal += u32::from(kills > 0 && facts["equal"] == true);
    }
    println!("{equal} of 20 equal");
    assert_eq!(equal, 20);
}

fn reproduce(folder: &Path, run: u64) -> Value {
    let mut command = Command::new(hone());
    command.args(["reproduce", &run.to_string(), "--json", "--state-dir"]).arg(folder);
    let output = command.output().expect("hone can be started");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}
