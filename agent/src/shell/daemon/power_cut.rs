//! The whole loop in memory with the power cut after every write, sync, rename and removal of a file, and at every page of every
//! commit: drift → promotion, rollback, a signed install. What is covered, and how, is told in `docs/decisions`.
mod continual;
mod kept;
mod orders;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::model::Model;
use trainer_core::schema::{Feature, FeatureKind, Rows, Schema, Task};
use trainer_core::spec::Spec;
use trainer_core::train::{TrainSettings, base};
use ulid::Ulid;

use super::trial::Batch;
use super::*;
use crate::decide::rollout::Mode;
use crate::decide::time::Timestamp;
use crate::shell::disk::cut::{CutDisk, FATES, Fate, Memory, lay_out};
use crate::shell::models::{Door, ModelStore};
use crate::shell::store::control::power::{self, Moment};
use crate::shell::store::{Control, LabelOutcome, NewLabel, SetAside};

/// Bytes of a frame of the write-ahead log, and of its header: the SQLite file format, section 4.
const FRAME_BYTES: usize = 24 + 4_096;
const LOG_HEADER_BYTES: usize = 32;

/// `control.db` and its log as they are on the disk.
#[derive(Clone, Default, PartialEq)]
struct Database {
    main: Vec<u8>,
    log: Vec<u8>,
}

impl Database {
    fn of(state_dir: &Path) -> Self {
        let read = |name: &str| fs::read(state_dir.join(name)).unwrap_or_default();
        Self { main: read("control.db"), log: read("control.db-wal") }
    }

    /// What the disk may hold while a commit leads from `self` to `after`: the log page by page and torn inside a page, then, where
    /// the log was written home, the database page by page.
    fn until(&self, after: &Self) -> Vec<Self> {
        let mixed = |old: &[u8], new: &[u8], cut: usize| {
            let tail = old.get(cut..).unwrap_or_default();
            [&new[..cut.min(new.len())], tail].concat()
        };
        let mut states = vec![self.clone()];
        let same = self.log.iter().zip(&after.log).take_while(|(old, new)| old == new).count();
        let ends = (LOG_HEADER_BYTES..=after.log.len()).step_by(FRAME_BYTES).chain([0, 16, LOG_HEADER_BYTES + 1_000]);
        for end in ends.filter(|end| *end >= same && *end <= after.log.len()) {
            for torn in [end, end + 24 + 2_048] {
                states.push(Self {
                    main: self.main.clone(),
                    log: mixed(&self.log, &after.log, torn.min(after.log.len())),
                });
            }
        }
        if self.main != after.main {
            for page in 0..after.main.len() / 4_096 {
                states.push(Self { main: mixed(&self.main, &after.main, page * 4_096), log: after.log.clone() });
            }
        }
        states.push(after.clone());
        states
    }
}

/// What must be found again.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    reports: Vec<(Ulid, String)>,
    champion: Option<Digest>,
}

impl Known {
    fn of(control: &Control) -> Self {
        let reports = control.reports_after(0, 10_000).unwrap().into_iter();
        let saved = control.cycle().unwrap().map(|row| saved::decode(&row.state).unwrap());
        Self {
            reports: reports.map(|stored| (stored.report.id, stored.report.json)).collect(),
            champion: saved.map(|saved| saved.cycle.models().0),
        }
    }

    fn stored(database: &Database) -> Self {
        let folder = scratch();
        database.lay_out(folder.path());
        Self::of(&Control::open(&folder.path().join("control.db")).unwrap().0)
    }
}

impl Database {
    fn lay_out(&self, to: &Path) {
        if !self.main.is_empty() {
            fs::write(to.join("control.db"), &self.main).unwrap();
        }
        if !self.log.is_empty() {
            fs::write(to.join("control.db-wal"), &self.log).unwrap();
        }
    }
}

/// In memory where the system has such a folder: nothing of it need survive.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// One moment at which the power may go.
enum Cut {
    /// Before a step on a file.
    File { step: String, database: Arc<Database>, memory: Memory },
    /// During a commit.
    Commit { before: Arc<Database>, after: Arc<Database>, memory: Memory },
}

/// Collects the moments of a run.
struct Witness {
    cuts: Arc<Mutex<Vec<Cut>>>,
    database: Arc<Mutex<Arc<Database>>>,
}

impl Witness {
    fn watch(disk: &Arc<CutDisk>, state_dir: &Path) -> Self {
        let database = Arc::new(Mutex::new(Arc::new(Database::of(state_dir))));
        let cuts = Arc::new(Mutex::new(Vec::new()));
        let (now, kept) = (Arc::clone(&database), Arc::clone(&cuts));
        disk.listen(move |step, memory| {
            let database = Arc::clone(&now.lock().unwrap());
            kept.lock().unwrap().push(Cut::File { step: step.to_owned(), database, memory: memory.clone() });
        });
        let (now, kept, disk, state_dir) =
            (Arc::clone(&database), Arc::clone(&cuts), Arc::clone(disk), state_dir.to_owned());
        power::listen(Some(Box::new(move |moment| {
            let found = Arc::new(Database::of(&state_dir));
            let before = std::mem::replace(&mut *now.lock().unwrap(), Arc::clone(&found));
            if moment == Moment::After {
                kept.lock().unwrap().push(Cut::Commit { before, after: found, memory: disk.memory() });
            }
        })));
        Self { cuts, database }
    }

    fn end(self) -> Vec<Cut> {
        power::listen(None);
        drop(self.database);
        std::mem::take(&mut *self.cuts.lock().unwrap())
    }
}

/// Alarms, candidates and promotions: heads that learn from every label promote nobody in this story.
const ALARMS: &str = "trigger:any";

fn config(policy: &str) -> Config {
    let mut config = Config::default();
    config.agent.listen = "off".to_owned();
    config.cycle.policy = policy.parse().unwrap();
    config.cycle.watch.run_length_rows = 1_000.0;
    config.cycle.trigger.rows_first = 60;
    config.cycle.trigger.rows_max = 480;
    config.rollout.mode = Mode::Gate;
    config.models.good_answers = 50;
    config.models.good_s = 1;
    config
}

#[expect(clippy::cast_possible_truncation, reason = "four digits are plenty")]
fn row(number: u32) -> [f32; 2] {
    // Two sequences that never meet, spread over (-2, 2).
    let part = |step: f64| ((f64::from(number) * step).fract() * 4.0 - 2.0) as f32;
    [part(0.618_033_988_75), part(0.414_213_562_37)]
}

fn truth([x, y]: [f32; 2], flipped: bool) -> f32 {
    f32::from(u8::from((x + 0.3 * y > 0.0) != flipped))
}

fn factory() -> (Vec<u8>, Digest) {
    let feature = |name: &str| Feature { name: name.to_owned(), unit: None, kind: FeatureKind::Number, range: None };
    let task = Task::Classification { classes: vec!["low".to_owned(), "high".to_owned()] };
    let schema = Schema { features: vec![feature("x"), feature("y")], task };
    let mut rows = Rows::empty(2, 1);
    (0..200).for_each(|number| rows.push(&row(number), &[truth(row(number), false)]));
    let mut model: Model = base(&schema, &Spec::default(), &rows, &TrainSettings::default(), 1).unwrap().model;
    bundle::write(&mut model)
}

/// A device in this process.
struct Device {
    parts: Parts,
    events: mpsc::Receiver<Event>,
    sent: u32,
}

impl Device {
    fn start(path: &Path, disk: Option<Arc<CutDisk>>, policy: &str) -> Result<(Self, Vec<SetAside>), DaemonError> {
        let config = config(policy);
        let mut state = StateDir::open_with(path, config.records.files)?;
        if let Some(disk) = disk {
            state.models = ModelStore::open_on(disk, &path.join("models"), "safetensors")?;
        }
        let set_aside = state.set_aside.clone();
        let nowhere = path.join("sensors");
        let (mut parts, events) =
            assemble(state, &config, Place::default(), None, &nowhere, None, Vetting::in_process())?;
        parts.keeper.trainer = Trainer::InProcess;
        Ok((Self { parts, events, sent: 0 }, set_aside))
    }

    fn serving(&self) -> Option<Digest> {
        self.parts.shared.slot.serving().map(|serving| serving.champion.digest)
    }

    /// Handles what waits, and a training to its end.
    fn settle(&mut self) {
        loop {
            let event = if self.parts.keeper.working.is_some() {
                self.events.blocking_recv()
            } else {
                self.events.try_recv().ok()
            };
            match event {
                None => return,
                Some(Event::Samples { rows, answers, at, ids, by, source }) => {
                    self.parts.keeper.samples(&Batch { rows: &rows, answers: &answers, at, ids: &ids, by, source });
                    self.parts.keeper.heads.sampled(&rows, &ids);
                }
                Some(Event::Worked(worked)) => self.parts.keeper.worked(*worked),
                Some(_) => {}
            }
        }
    }

    /// Labelled rows, one by one.
    fn live(&mut self, count: u32, flipped: bool) {
        for _ in 0..count {
            let row = row(1_000 + self.sent);
            self.sent += 1;
            let at = Timestamp(i64::from(self.sent) * 1_000_000);
            let serving = self.parts.shared.slot.serving().expect("a model serves");
            let origin = Origin { source: "press", segment: None, event_at: Some(at), arrived_at: at };
            let answered = self.parts.shared.answer(&serving, None, row.to_vec(), origin).unwrap();
            self.settle();
            let truth = vec![truth(row, flipped)];
            let label = NewLabel { id: answered.ids[0], truth: truth.clone(), source: "test".to_owned(), at };
            let told = self.parts.shared.recorder.label(label).unwrap().blocking_recv().unwrap();
            if let LabelOutcome::Stored { ordinal, record } = told {
                self.parts.keeper.label(ordinal, &record, &truth);
            }
            self.settle();
        }
    }

    fn command(&mut self, command: Command) -> serde_json::Value {
        let answer = self.parts.keeper.command(command).unwrap();
        self.settle();
        answer
    }
}

/// Starts on what a cut left and says what is wrong with it.
fn wrong(
    files: &BTreeMap<PathBuf, Vec<u8>>,
    from: &Path,
    database: &Database,
    allowed: &[Known],
    policy: &str,
) -> Option<String> {
    let folder = scratch();
    lay_out(files, from, folder.path());
    database.lay_out(folder.path());
    let (mut device, set_aside) = match Device::start(folder.path(), None, policy) {
        Ok(started) => started,
        Err(error) => return Some(format!("it does not start: {error}")),
    };
    if !set_aside.is_empty() {
        return Some(format!("corrupt: {set_aside:?}"));
    }
    let found = Known::of(device.parts.keeper.books.control());
    if !allowed.contains(&found) {
        let counts: Vec<_> = allowed.iter().map(|known| (known.reports.len(), known.champion)).collect();
        return Some(format!("{} reports, champion {:?}; allowed {counts:?}", found.reports.len(), found.champion));
    }
    // Work that is ordered is not begun here: its outcome is the next cut's matter.
    device.parts.keeper.is_stopping = true;
    device.parts.keeper.begin();
    if device.serving() != found.champion {
        return Some(format!("{:?} serves in place of {:?}", device.serving(), found.champion));
    }
    let told = Known::of(device.parts.keeper.books.control()).reports;
    if !told.starts_with(&found.reports) {
        return Some("a report was lost or changed by the start".to_owned());
    }
    drop(device.events);
    let _ = device.parts.recorder.stop();
    None
}

/// Every cut of a run, each with every fate; how many those were.
fn check(cuts: &[Cut], from: &Path, every_page: bool, policy: &str) -> (usize, usize) {
    let (mut count, mut failures) = (0, Vec::new());
    let mut known: Option<(Arc<Database>, Known)> = None;
    let mut known_of = |database: &Arc<Database>| match &known {
        Some((last, known)) if Arc::ptr_eq(last, database) => known.clone(),
        _ => {
            let found = if database.main.is_empty() { Known::default() } else { Known::stored(database) };
            known = Some((Arc::clone(database), found.clone()));
            found
        }
    };
    for cut in cuts {
        match cut {
            Cut::File { step, database, memory } => {
                let allowed = [known_of(database)];
                for fate in FATES {
                    count += 1;
                    let wrong = wrong(&memory.after(fate), from, database, &allowed, policy);
                    failures.extend(wrong.map(|wrong| format!("before {step}, {fate:?}: {wrong}")));
                }
            }
            Cut::Commit { before, after, memory } => {
                let allowed = [known_of(before), known_of(after)];
                // What a commit refers to is durable before it: the harshest fate has to do.
                let files = memory.after(Fate::Lost);
                let states = before.until(after);
                let step = if every_page { 1 } else { 1 + states.len() / 12 };
                for (number, state) in states.iter().enumerate().filter(|(number, _)| number % step == 0) {
                    count += 1;
                    let wrong = wrong(&files, from, state, &allowed, policy);
                    failures.extend(wrong.map(|wrong| format!("commit, state {number}: {wrong}")));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{} of {count}: {:#?}", failures.len(), &failures[..failures.len().min(10)]);
    (count, cuts.len())
}

/// Factory model → drift → retrain, or heads that are frozen → promotion → rollback, watched.
fn run(policy: &str) -> (tempfile::TempDir, Vec<Cut>) {
    let folder = scratch();
    let disk = Arc::new(CutDisk::new());
    let (mut device, _) = Device::start(folder.path(), Some(Arc::clone(&disk)), policy).unwrap();
    device.parts.keeper.begin();
    let witness = Witness::watch(&disk, folder.path());
    let (bytes, factory) = factory();
    device.command(Command::Install { bytes, envelope: None, door: Door::Local });
    assert_eq!(device.serving(), Some(factory));
    device.live(120, false);
    device.parts.keeper.tick();
    for _ in 0..12 {
        if device.serving() == Some(factory) {
            device.live(60, true);
        }
    }
    let promoted = device.serving();
    assert!(promoted.is_some() && promoted != Some(factory), "the drift has led to another model");
    device.live(60, true);
    device.command(Command::RollBack);
    assert_eq!(device.serving(), Some(factory));
    device.live(20, true);
    device.parts.keeper.tick();
    (folder, witness.end())
}

#[test]
fn a_cut_at_any_step_of_the_loop_corrupts_nothing_and_a_model_serves() {
    let (folder, cuts) = run(ALARMS);
    let commits = cuts.iter().filter(|cut| matches!(cut, Cut::Commit { .. })).count();
    let (count, moments) = check(&cuts, folder.path(), false, ALARMS);
    println!("{count} cuts at {moments} moments, {commits} of them commits");
    assert!(commits >= 6 && moments > 3 * commits, "{moments} moments, {commits} commits");
}

#[test]
#[ignore = "long: every page of every commit is a cut; run by .ci/nightly"]
fn a_cut_at_any_page_of_any_commit_corrupts_nothing_and_a_model_serves() {
    let (folder, cuts) = run(ALARMS);
    let (count, moments) = check(&cuts, folder.path(), true, ALARMS);
    println!("{count} cuts at {moments} moments");
}
