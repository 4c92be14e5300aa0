//! Run records beside their snapshots: what is needed to make a candidate again, and to see that it is the same one.
//!
//! ```text
//! snapshots/<sha256>.snapshot     what the training was a function of
//! snapshots/<sha256>.run          what was chosen while it ran, and what came of it; JSON
//! snapshots/<sha256>.checkpoint   while it runs or waits to be resumed
//! ```
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use trainer_core::digest::Digest;
use trainer_core::model::Strategy;
use trainer_core::session::RunChoices;
use trainer_core::snapshot::{Outline, Snapshot, SnapshotError};
use trainer_core::train::TrainSettings;

use super::frames::Usage;
use super::limits::Limits;
use super::{Finished, Say, Source, Task, Trainer, TrainerError};
use crate::decide::retention::{self, Held};
use crate::shell::files::{remove_durable, write_durable};
use crate::shell::models::ModelStore;
use crate::shell::paths::Places;
use crate::shell::store::StoreError;

/// One finished training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Number in the ledger; none for a training that no order asked for.
    pub run: Option<u64>,
    /// What it was a function of.
    pub snapshot: Digest,
    /// The model it started from.
    pub parent: Option<Digest>,
    /// The model it made.
    pub candidate: Digest,
    /// What beside the snapshot decided its bits.
    pub choices: RunChoices,
    /// What it took.
    pub usage: Usage,
    /// Version and architecture it ran on: others may round differently.
    pub build: String,
}

/// Snapshots, run records and models of one state directory, for reading; takes no lock.
#[derive(Clone, Debug)]
pub struct Shelf {
    snapshots: PathBuf,
    models: PathBuf,
}

/// A snapshot on the shelf.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its name.
    pub digest: Digest,
    /// Bytes of its file.
    pub bytes: u64,
    /// What it says of itself; or why it cannot be read.
    pub outline: Result<Outline, String>,
    /// What came of it, once there is something.
    pub record: Option<RunRecord>,
}

/// A repetition of a run.
#[derive(Clone, Debug)]
pub struct Repeated {
    /// What was recorded.
    pub record: RunRecord,
    /// The candidate's name this time.
    pub found: Digest,
    /// What it took this time.
    pub usage: Usage,
}

/// A run that cannot be repeated, or a snapshot that cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum ShelfError {
    /// Nothing of this name.
    #[error("there is no {what} `{name}`: `hone snapshot list` shows what is kept")]
    Unknown {
        /// `run` or `snapshot`.
        what: &'static str,
        /// As it was asked for.
        name: String,
    },
    /// More than one begins so.
    #[error("`{0}` begins the names of several snapshots: give more digits")]
    Ambiguous(String),
    /// The snapshot's training never ended with a candidate.
    #[error("snapshot {} has no run record: its training has not finished", .0.short())]
    Unfinished(Digest),
    /// The folder or a file in it.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A stored file is damaged or gone.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Not a snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The training.
    #[error("the run cannot be repeated")]
    Trainer(#[from] TrainerError),
}

/// Version and architecture of this build.
#[must_use]
pub fn build() -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH)
}

/// Where the checkpoint of the training of `snapshot` lies.
#[must_use]
pub fn checkpoint_path(snapshots: &ModelStore, snapshot: &Digest) -> PathBuf {
    snapshots.path(snapshot).with_extension("checkpoint")
}

/// Writes the run record of a finished training beside its snapshot.
///
/// # Errors
/// [`StoreError::Io`] if the disk refuses.
///
/// # Panics
/// Never: a run record is plain data.
pub fn record(
    snapshots: &ModelStore,
    snapshot: Digest,
    parent: Option<Digest>,
    run: Option<u64>,
    finished: &Finished,
) -> Result<(), StoreError> {
    let Finished { digest: candidate, choices, usage, .. } = finished;
    let record =
        RunRecord { run, snapshot, parent, candidate: *candidate, choices: *choices, usage: *usage, build: build() };
    let path = snapshots.path(&snapshot).with_extension("run");
    let text = serde_json::to_vec_pretty(&record).expect("a run record is plain data");
    write_durable(&path, &text).map_err(|source| StoreError::io("write", &path, source))
}

/// The snapshot of a training with this parent, strategy, seed and settings that has left a checkpoint, and its number of rows.
///
/// A folder that cannot be read has none: the training then starts over.
#[must_use]
pub fn unfinished(
    snapshots: &ModelStore,
    parent: Digest,
    strategy: Strategy,
    seed: u64,
    settings: &TrainSettings,
) -> Option<(Digest, u64)> {
    snapshots.list().ok()?.into_iter().find_map(|digest| {
        if !checkpoint_path(snapshots, &digest).is_file() {
            return None;
        }
        let file = fs::File::open(snapshots.path(&digest)).ok()?;
        let outline = Snapshot::outline(&mut io::BufReader::new(file)).ok()?;
        let same = (outline.parent, outline.strategy, outline.seed) == (Some(parent), strategy, seed);
        (same && outline.settings == *settings).then_some((digest, outline.rows))
    })
}

/// The models that the trainings on record began from: without them none can be made again.
#[must_use]
pub fn parents(snapshots: &ModelStore) -> Vec<Digest> {
    let recorded = |digest: Digest| -> Option<RunRecord> {
        let text = fs::read(snapshots.path(&digest).with_extension("run")).ok()?;
        serde_json::from_slice(&text).ok()
    };
    let known = snapshots.list().unwrap_or_default().into_iter();
    let mut parents: Vec<_> = known.filter_map(|digest| recorded(digest)?.parent).collect();
    parents.sort_unstable();
    parents.dedup();
    parents
}

/// Removes snapshots beyond `bytes_max`, oldest first, and what lies beside snapshots that are gone; `kept` always stay, as does
/// the newest. Returns how many snapshots went.
///
/// # Errors
/// [`StoreError::Io`] if the disk refuses.
pub fn sweep(folder: &Path, kept: &[Digest], bytes_max: u64) -> Result<usize, StoreError> {
    let failed = |source| StoreError::io("list", folder, source);
    let (mut held, mut beside) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let digest = path.file_stem().and_then(|stem| stem.to_str()?.parse::<Digest>().ok());
        let (Some(digest), Some(extension)) = (digest, path.extension()) else {
            continue;
        };
        if extension == "snapshot" {
            let facts = fs::metadata(&path).map_err(failed)?;
            let age = facts.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            let written_us = age.map_or(0, |age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
            held.push(Held { digest, bytes: facts.len(), written_us, pinned: kept.contains(&digest) });
        } else if extension == "run" || extension == "checkpoint" {
            beside.push((digest, path));
        }
    }
    let gone = retention::surplus(&held, bytes_max);
    for digest in &gone {
        let path = folder.join(format!("{digest}.snapshot"));
        remove_durable(&path).map_err(|source| StoreError::io("remove", &path, source))?;
    }
    let stays = |digest: &Digest| held.iter().any(|held| held.digest == *digest) && !gone.contains(digest);
    for (_, path) in beside.iter().filter(|(digest, _)| !stays(digest)) {
        remove_durable(path).map_err(|source| StoreError::io("remove", path, source))?;
    }
    Ok(gone.len())
}

impl Shelf {
    /// The shelf of the state directory of `places`.
    #[must_use]
    pub fn of(places: &Places) -> Self {
        Self { snapshots: places.state_dir.join("snapshots"), models: places.state_dir.join("models") }
    }

    /// Everything on it, newest runs last.
    ///
    /// # Errors
    /// [`ShelfError::Read`] if the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<Kept>, ShelfError> {
        let failed = |source| ShelfError::Read { path: self.snapshots.clone(), source };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.snapshots).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "snapshot") {
                continue;
            }
            let Some(digest) = path.file_stem().and_then(|stem| stem.to_str()?.parse::<Digest>().ok()) else {
                continue;
            };
            let read = |source| ShelfError::Read { path: path.clone(), source };
            let file = fs::File::open(&path).map_err(read)?;
            let bytes = file.metadata().map_err(read)?.len();
            let outline = Snapshot::outline(&mut io::BufReader::new(file)).map_err(|error| error.to_string());
            let text = fs::read(path.with_extension("run")).ok();
            let record = text.and_then(|text| serde_json::from_slice(&text).ok());
            found.push(Kept { digest, bytes, outline, record });
        }
        found.sort_by_key(|kept| (kept.record.as_ref().and_then(|record| record.run), kept.digest));
        Ok(found)
    }

    /// The snapshot of a run's number, or whose name begins with `name`.
    ///
    /// # Errors
    /// [`ShelfError::Unknown`], [`ShelfError::Ambiguous`] or [`ShelfError::Read`].
    pub fn find(&self, name: &str) -> Result<Kept, ShelfError> {
        let number = name.parse::<u64>().ok().filter(|_| name.len() < 8);
        let of_run = |kept: &Kept| kept.record.as_ref().and_then(|record| record.run) == number;
        // A run that passed its gate trained twice; the refit, on more rows, made the model that serves.
        let rows = |kept: &Kept| kept.outline.as_ref().map_or(0, |outline| outline.rows);
        let all = self.list()?;
        if number.is_some()
            && let Some(kept) = all.iter().filter(|kept| of_run(kept)).max_by_key(|kept| rows(kept))
        {
            return Ok(kept.clone());
        }
        let mut fitting = all.into_iter().filter(|kept| name.len() >= 4 && kept.digest.to_string().starts_with(name));
        let what = if number.is_some() { "run" } else { "snapshot" };
        let first = fitting.next().ok_or_else(|| ShelfError::Unknown { what, name: name.to_owned() })?;
        if fitting.next().is_some() { Err(ShelfError::Ambiguous(name.to_owned())) } else { Ok(first) }
    }

    /// Where the file of a snapshot is.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.snapshots.join(format!("{digest}.snapshot"))
    }

    /// Reads a snapshot whole and compares its bytes with its name.
    ///
    /// # Errors
    /// [`ShelfError::Read`] or [`ShelfError::Snapshot`]; whether the name is right is the value.
    pub fn verify(&self, digest: &Digest) -> Result<bool, ShelfError> {
        let (_, found) = self.read(digest)?;
        Ok(found == *digest)
    }

    /// A snapshot, and the digest of its bytes.
    ///
    /// # Errors
    /// [`ShelfError::Read`] or [`ShelfError::Snapshot`].
    pub fn read(&self, digest: &Digest) -> Result<(Snapshot, Digest), ShelfError> {
        let path = self.path(digest);
        let file = fs::File::open(&path).map_err(|source| ShelfError::Read { path, source })?;
        Ok(Snapshot::read(&mut io::BufReader::new(file))?)
    }

    /// Trains once more what the run `name` trained, with the same choices.
    ///
    /// # Errors
    /// [`ShelfError`]; another digest is no error but the value.
    pub fn reproduce(&self, name: &str, trainer: &Trainer) -> Result<Repeated, ShelfError> {
        let kept = self.find(name)?;
        let record = kept.record.ok_or(ShelfError::Unfinished(kept.digest))?;
        let parent = match &record.parent {
            Some(parent) => {
                let path = self.models.join(format!("{parent}.safetensors"));
                Some(fs::read(&path).map_err(|source| ShelfError::Read { path, source })?)
            }
            None => None,
        };
        let snapshot = Source::File(self.path(&kept.digest));
        let task = Task { snapshot, parent, choices: record.choices, limits: Limits::default(), checkpoint: None };
        let finished = trainer.run(task, &mut |_, _| Say::GoOn)?;
        Ok(Repeated { record, found: finished.digest, usage: finished.usage })
    }
}

#[cfg(test)]
mod tests {
    use trainer_core::schema::Rows;

    use super::*;

    #[test]
    fn a_sweep_takes_the_oldest_snapshots_with_what_lies_beside_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::open(folder.path(), "snapshot").unwrap();
        let names: Vec<Digest> = (0..4_u8).map(|name| store.put(&[name; 100]).unwrap()).collect();
        for (age, name) in names.iter().enumerate() {
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000 + age as u64);
            fs::File::open(store.path(name)).unwrap().set_modified(at).unwrap();
            fs::write(store.path(name).with_extension("run"), "{}").unwrap();
        }
        let orphan = store.path(&Digest::of(b"gone")).with_extension("checkpoint");
        fs::write(&orphan, "").unwrap();
        assert_eq!(sweep(folder.path(), &names[..1], 250).unwrap(), 2);
        let mut kept = [names[0], names[3]];
        kept.sort_unstable();
        assert_eq!(store.list().unwrap(), kept);
        assert!(!store.path(&names[1]).with_extension("run").exists() && !orphan.exists());
        assert!(store.path(&names[0]).with_extension("run").exists());
    }

    #[test]
    fn an_unfinished_training_is_found_again_by_what_it_was_ordered_as() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::open(folder.path(), "snapshot").unwrap();
        let (parent, settings) = (Digest::of(b"parent"), TrainSettings::default());
        let mut rows = Rows::empty(1, 1);
        rows.push(&[1.0], &[0.0]);
        let of = |seed| Snapshot::adapt(parent, Strategy::Tail, rows.clone(), settings.clone(), seed).to_bytes();
        let (done, open) = (store.put(&of(1)).unwrap(), store.put(&of(2)).unwrap());
        fs::write(checkpoint_path(&store, &open), "").unwrap();
        let find = |parent, strategy, seed| unfinished(&store, parent, strategy, seed, &settings);
        assert_eq!(find(parent, Strategy::Tail, 2), Some((open, 1)));
        assert_eq!(find(parent, Strategy::Tail, 1), None, "{done} has no checkpoint");
        assert_eq!(find(parent, Strategy::Head, 2), None);
        assert_eq!(find(Digest::of(b"other"), Strategy::Tail, 2), None);
        let mut other = settings.clone();
        other.tail.epochs += 1;
        assert_eq!(unfinished(&store, parent, Strategy::Tail, 2, &other), None);
    }

    #[test]
    fn the_parents_of_recorded_trainings_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let store = ModelStore::open(folder.path(), "snapshot").unwrap();
        let parent = Digest::of(b"parent");
        let finished = Finished {
            bundle: Vec::new(),
            digest: Digest::of(b"candidate"),
            work_mac: 0,
            cpu_s: 0.0,
            peak_bytes: 0,
            choices: RunChoices::default(),
            usage: Usage::default(),
        };
        for name in [b"one", b"two"] {
            let snapshot = store.put(name).unwrap();
            record(&store, snapshot, Some(parent), Some(1), &finished).unwrap();
        }
        assert_eq!(parents(&store), [parent]);
    }
}
