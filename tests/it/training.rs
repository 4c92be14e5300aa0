//! Promises of the trainer: its memory, its share of the CPU, its checkpoints, and candidates that can be made again.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hone_agent::shell::models::ModelStore;
use hone_agent::shell::trainer::frames::{Checkpointing, Report};
use hone_agent::shell::trainer::limits::Limits;
use hone_agent::shell::trainer::{Finished, Say, Source, Task, Trainer, TrainerError, runs};
use hone_tests::hone;
use trainer_core::bundle;
use trainer_core::chance::{Chance, Purpose};
use trainer_core::digest::Digest;
use trainer_core::model::Strategy;
use trainer_core::schema::{Feature, FeatureKind, Rows, Schema};
use trainer_core::session::RunChoices;
use trainer_core::snapshot::Snapshot;
use trainer_core::spec::{Layer, Spec};
use trainer_core::train::{self, TrainSettings};

const MEGABYTE: u64 = 1024 * 1024;

/// Rows of `classes` classes, each with a centre of its own.
pub(crate) fn rows(count: usize, features: usize, classes: usize, seed: u64) -> Rows {
    let mut centres = Chance::new(7, Purpose::Sample, 0);
    let centres: Vec<f32> = (0..classes * features).map(|_| centres.normal() * 0.6).collect();
    let mut chance = Chance::new(seed, Purpose::Sample, 1);
    let mut rows = Rows::empty(features, 1);
    for _ in 0..count {
        let class = chance.below(classes);
        let x: Vec<f32> = centres[class * features..][..features].iter().map(|c| c + chance.normal()).collect();
        rows.push(&x, &[class as f32]);
    }
    rows
}

pub(crate) fn schema(features: usize, classes: usize) -> Schema {
    let feature = |index| Feature { name: format!("f{index}"), unit: None, kind: FeatureKind::Number, range: None };
    let classes = (0..classes).map(|class| format!("c{class}")).collect();
    let task = trainer_core::schema::Task::Classification { classes };
    Schema { features: (0..features).map(feature).collect(), task }
}

fn spec(widths: &[usize]) -> Spec {
    let layers = widths.iter().flat_map(|&outputs| [Layer::Linear { outputs }, Layer::Relu]).collect();
    Spec { cut: 2, layers, reconstruct: false }
}

/// A bundle of this shape, hardly trained.
pub(crate) fn parent(features: usize, classes: usize, widths: &[usize]) -> Vec<u8> {
    let mut settings = TrainSettings::default();
    (settings.fit.epochs, settings.fit.refit) = (1, false);
    let rows = rows(300, features, classes, 1);
    let mut trained = train::base(&schema(features, classes), &spec(widths), &rows, &settings, 0).unwrap();
    bundle::write(&mut trained.model).0
}

/// A retraining of `parent` and its settings.
pub(crate) fn task(parent: &[u8], strategy: Strategy, rows: Rows, epochs: usize) -> Task {
    let mut settings = TrainSettings::default();
    (settings.full.epochs, settings.tail.epochs, settings.fit.patience) = (epochs, epochs, epochs);
    let snapshot = Snapshot::adapt(Digest::of(parent), strategy, rows, settings, 5).to_bytes();
    Task {
        snapshot: Source::Bytes(snapshot),
        parent: Some(parent.to_vec()),
        choices: RunChoices::default(),
        limits: Limits::default(),
        checkpoint: None,
    }
}

pub(crate) fn trainer() -> Trainer {
    Trainer::Child { program: hone().clone() }
}

fn run(task: Task) -> Finished {
    trainer().run(task, &mut |_, _| Say::GoOn).unwrap()
}

#[test]
fn the_predicted_peak_is_never_too_low_and_at_most_thirty_per_cent_and_burns_own_memory_too_high() {
    let shapes: [(usize, usize, &[usize], Strategy, usize); 17] = [
        (20_000, 128, &[256, 192, 96], Strategy::Head, 1),
        (2_000, 8, &[64, 32], Strategy::Head, 1),
        (5_000, 32, &[128, 64], Strategy::Tail, 1),
        (20_000, 128, &[256, 192], Strategy::Full, 1),
        (1_000, 16, &[512, 512], Strategy::Full, 1),
        (10_000, 64, &[64, 32], Strategy::Head, 1),
        (8_000, 64, &[256, 256], Strategy::Tail, 1),
        // Held out at first; the third was predicted 11 % too low, for what burn goes on holding was not counted.
        (3_000, 200, &[96, 48], Strategy::Head, 1),
        (1_200, 12, &[300, 40, 24], Strategy::Tail, 2),
        (12_000, 20, &[40, 40, 40], Strategy::Full, 1),
        (600, 96, &[700, 150], Strategy::Full, 2),
        (15_000, 48, &[80, 320], Strategy::Tail, 1),
        // Held out: the formula was not made with these in sight.
        (9_000, 30, &[60, 50], Strategy::Full, 1),
        (2_500, 6, &[24, 24], Strategy::Full, 1),
        (4_000, 100, &[64, 200, 30], Strategy::Tail, 1),
        (700, 40, &[128, 128, 64], Strategy::Head, 1),
        (6_000, 10, &[90, 20], Strategy::Tail, 1),
    ];
    let mut wrong = Vec::new();
    for (count, features, widths, strategy, epochs) in shapes {
        let parent = parent(features, 6, widths);
        let usage = run(task(&parent, strategy, rows(count, features, 6, 2), epochs)).usage;
        let ratio = usage.heap_predicted_bytes as f64 / usage.heap_peak_bytes as f64;
        println!(
            "{strategy:?} {count} x {features} {widths:?}: predicted {}, measured {}, ratio {ratio:.3}, resident {}",
            usage.heap_predicted_bytes, usage.heap_peak_bytes, usage.peak_bytes
        );
        // Burn takes its 2.25 MB of working memory for some widths of layers and not for others, and which is not known beforehand: a
        // small training may be predicted higher by these.
        let without = (usage.heap_predicted_bytes.saturating_sub(2_250_000)) as f64 / usage.heap_peak_bytes as f64;
        if ratio < 1.0 || ratio > 1.3 && without > 1.3 {
            wrong.push((strategy, count, features, ratio));
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_hundred_thousand_weights_and_twenty_thousand_rows_fit_into_32_megabytes() {
    let widths = [256, 192, 96];
    let parent = parent(128, 6, &widths);
    let weights = bundle::read(&parent).unwrap().network.work_mac(0);
    assert!(weights > 100_000, "{weights}");
    for strategy in [Strategy::Head, Strategy::Tail, Strategy::Full] {
        let mut task = task(&parent, strategy, rows(20_000, 128, 6, 2), 1);
        task.limits.memory_bytes = Some(32 * MEGABYTE);
        let finished = run(task);
        println!("{strategy:?}: heap {}, resident {}", finished.usage.heap_peak_bytes, finished.peak_bytes);
        assert!(finished.usage.heap_peak_bytes <= 32 * MEGABYTE && finished.peak_bytes <= 32 * MEGABYTE);
    }
}

#[test]
fn a_training_that_cannot_fit_is_refused_with_both_numbers_and_one_that_can_gets_smaller_parts() {
    let parent = parent(64, 6, &[512, 512]);
    let mut tight = task(&parent, Strategy::Full, rows(500, 64, 6, 2), 1);
    tight.limits.memory_bytes = Some(2 * MEGABYTE);
    let refused = trainer().run(tight, &mut |_, _| Say::GoOn).unwrap_err();
    // The bundle alone may already break the limit: then the heap refused, else the prediction did.
    let text = refused.to_string();
    assert!(matches!(refused, TrainerError::Memory { .. }) || text.contains("2097152"), "{text}");
}

#[test]
fn a_quarter_of_a_core_stays_below_28_per_cent_of_any_ten_seconds() {
    let parent = parent(64, 6, &[256, 256]);
    let mut task = task(&parent, Strategy::Full, rows(4_000, 64, 6, 2), 1_000);
    task.limits.cpu_share = Some(0.25);
    let mut seen: Vec<(f64, f64)> = Vec::new();
    let mut listen = |_, report: &Report| {
        seen.push((report.usage.wall_s, report.usage.cpu_s));
        if report.usage.wall_s > 14.0 { Say::Cancel } else { Say::GoOn }
    };
    let stopped = trainer().run(task, &mut listen);
    assert!(matches!(stopped, Err(TrainerError::Stopped(_))), "{stopped:?}");
    let mut highest = 0.0_f64;
    for (index, (begin, before)) in seen.iter().enumerate() {
        if let Some((end, after)) = seen[index..].iter().find(|(end, _)| end - begin >= 10.0) {
            highest = highest.max((after - before) / (end - begin));
        }
    }
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    println!("highest {highest:.4}, mean {:.4}", (last.1 - first.1) / (last.0 - first.0));
    assert!(highest > 0.0 && highest <= 0.28, "{highest}");
}

/// A training of a few seconds with a checkpoint file.
fn resumable(folder: &Path, every_steps: u64) -> (Task, PathBuf) {
    let parent = parent(16, 4, &[48, 32]);
    let mut task = task(&parent, Strategy::Full, rows(1_500, 16, 4, 2), 12);
    let path = folder.join("one.checkpoint");
    task.checkpoint = Some(Checkpointing { every_steps, ..Checkpointing::at(path.clone()) });
    (task, path)
}

pub(crate) fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn a_worker_killed_again_and_again_ends_with_the_candidate_of_one_that_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let (task, path) = resumable(folder.path(), 25);
    let whole = run(Task { checkpoint: None, ..task.clone() });
    for round in 0..5_u64 {
        let mut chance = Chance::new(round, Purpose::Sample, 3);
        let mut kills = 0;
        let finished = loop {
            let after = if kills < 3 { chance.below(4) } else { usize::MAX };
            let mut reports = 0;
            let mut listen = |pid, _: &Report| {
                if reports == after {
                    signal("-KILL", pid);
                }
                reports += 1;
                Say::GoOn
            };
            match trainer().run(task.clone(), &mut listen) {
                Ok(finished) => break finished,
                Err(TrainerError::Ended { how }) => assert!(how.contains("killed"), "{how}"),
                Err(error) => panic!("{error}"),
            }
            kills += 1;
        };
        assert_eq!(finished.digest, whole.digest, "round {round}, {kills} kills");
        assert!(!path.exists(), "a checkpoint outlives its training");
    }
}

#[test]
fn a_request_to_end_is_heard_within_a_second_and_the_next_worker_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (mut task, path) = resumable(folder.path(), 0);
    let whole = run(Task { checkpoint: None, ..task.clone() });
    // Slow, so that it is asked to end while it sleeps.
    task.limits.cpu_share = Some(0.05);
    let mut asked = None;
    let mut listen = |pid, report: &Report| {
        if asked.is_none() && report.steps > 20 {
            asked = Some(Instant::now());
            signal("-TERM", pid);
        }
        Say::GoOn
    };
    let stopped = trainer().run(task.clone(), &mut listen);
    let took = asked.expect("it reported").elapsed();
    assert!(matches!(stopped, Err(TrainerError::Stopped(_))), "{stopped:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(path.is_file());
    task.limits = Limits::default();
    let mut first_step = None;
    let finished = trainer().run(task, &mut |_, report| {
        first_step.get_or_insert(report.steps);
        Say::GoOn
    });
    assert_eq!(finished.unwrap().digest, whole.digest);
    assert!(first_step.is_some_and(|step| step > 0), "it must not start over");
}

#[test]
fn a_checkpoint_of_another_training_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let (task, path) = resumable(folder.path(), 0);
    let whole = run(Task { checkpoint: None, ..task.clone() });
    std::fs::write(&path, b"something else").unwrap();
    assert_eq!(run(task).digest, whole.digest);
}

#[test]
fn a_training_in_small_parts_goes_on_in_them_although_larger_ones_would_fit_by_now() {
    let folder = tempfile::tempdir().unwrap();
    let (mut task, path) = resumable(folder.path(), 0);
    task.choices.micro_batch = 8;
    let whole = run(Task { checkpoint: None, ..task.clone() });
    let mut listen = |_, report: &Report| if report.steps > 20 { Say::Cancel } else { Say::GoOn };
    let stopped = trainer().run(task.clone(), &mut listen);
    assert!(matches!(stopped, Err(TrainerError::Stopped(_))) && path.is_file(), "{stopped:?}");
    task.choices.micro_batch = 0;
    let mut first_step = None;
    let finished = trainer().run(task, &mut |_, report| {
        first_step.get_or_insert(report.steps);
        Say::GoOn
    });
    let finished = finished.unwrap();
    assert!(first_step.is_some_and(|step| step > 0), "it must not start over");
    assert_eq!((finished.digest, finished.choices.micro_batch), (whole.digest, 8));
}

#[test]
fn a_run_is_made_again_from_its_record_also_where_it_was_told_to_finish() {
    let folder = tempfile::tempdir().unwrap();
    let snapshots = ModelStore::open(&folder.path().join("snapshots"), "snapshot").unwrap();
    let models = ModelStore::open(&folder.path().join("models"), "safetensors").unwrap();
    let (mut task, _) = resumable(folder.path(), 0);
    let Source::Bytes(bytes) = &task.snapshot else { unreachable!("made so") };
    let snapshot = snapshots.put(bytes).unwrap();
    let parent = models.put(task.parent.as_ref().unwrap()).unwrap();
    task.snapshot = Source::File(snapshots.path(&snapshot));
    task.choices.micro_batch = 8;
    task.limits.cpu_share = Some(0.3);
    let finished = trainer().run(task, &mut |_, report| if report.steps > 50 { Say::Finish } else { Say::GoOn });
    let finished = finished.unwrap();
    assert!(finished.choices.last_step.is_some_and(|step| step > 50) && finished.choices.micro_batch == 8);
    runs::record(&snapshots, snapshot, Some(parent), Some(3), &finished).unwrap();
    let hone = |arguments: &[&str]| {
        let mut command = Command::new(hone());
        command.args(arguments).arg("--state-dir").arg(folder.path()).arg("--json");
        let output = command.output().unwrap();
        let facts = serde_json::from_slice::<serde_json::Value>(&output.stdout);
        (output.status.code(), facts.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
    };
    for _ in 0..20 {
        let (code, facts) = hone(&["reproduce", "3"]);
        assert_eq!((code, &facts["equal"], &facts["run"]), (Some(0), &true.into(), &3.into()), "{facts}");
    }
    let (code, facts) = hone(&["snapshot", "list"]);
    assert_eq!((code, &facts["snapshots"][0]["rows"]), (Some(0), &1_500.into()));
    assert_eq!(hone(&["snapshot", "verify"]).0, Some(0));
    let mut damaged = std::fs::read(snapshots.path(&snapshot)).unwrap();
    let last = damaged.len() - 3;
    damaged[last] ^= 1;
    std::fs::write(snapshots.path(&snapshot), damaged).unwrap();
    assert_eq!(hone(&["snapshot", "verify"]).0, Some(4));
}
