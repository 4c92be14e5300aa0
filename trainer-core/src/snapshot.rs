//! A training as one immutable value: rows, parent, settings and seed. Training is a function of it and the run's choices.
//!
//! ```text
//! "hone.snapshot.2\n" ‖ length of the head, u32 ‖ head (postcard) ‖ x, f32 little-endian ‖ y, f32 little-endian
//! ```
//! The rows lie open behind a small head, so that a trainer reads them once into the place they are trained from.
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::bundle::{self, BundleError};
use crate::dataset::{BASELINE_ROWS, stride};
use crate::digest::{Digest, Hasher};
use crate::model::{Model, Strategy};
use crate::schema::{Rows, Schema};
use crate::session::{CheckpointError, RunChoices, Session, Surroundings, Undisturbed};
use crate::spec::Spec;
use crate::train::{self, TrainError, TrainSettings, Trained};

/// First bytes of the layout that this build writes and reads.
const MAGIC: [u8; 16] = *b"hone.snapshot.2\n";
/// Longest head; schema and settings are far shorter.
const HEAD_BYTES_MAX: u32 = 4 * 1024 * 1024;
/// Most bytes of rows; a gateway trains on a hundredth of it.
const ROWS_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Numbers read at a time.
const CHUNK: usize = 4_096;

/// Everything a training depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// What to train, and from what.
    pub task: SnapshotTask,
    /// Rows in time order.
    pub rows: Rows,
    /// How to train.
    pub settings: TrainSettings,
    /// Seed of every random choice.
    pub seed: u64,
}

/// What a snapshot says of itself before its rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Outline {
    /// What is trained.
    pub strategy: Strategy,
    /// The model it starts from; none for a base model.
    pub parent: Option<Digest>,
    /// How it is trained.
    pub settings: TrainSettings,
    /// Seed of every random choice.
    pub seed: u64,
    /// Features of a row.
    pub features: u32,
    /// Numbers in a truth.
    pub truths: u32,
    /// Rows.
    pub rows: u64,
}

/// What stands before the rows, as it is stored.
#[derive(Serialize, Deserialize)]
struct Head {
    task: SnapshotTask,
    settings: TrainSettings,
    seed: u64,
    features: u32,
    truths: u32,
    rows: u64,
}

/// What a snapshot trains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SnapshotTask {
    /// A base model from nothing.
    Base {
        /// Features and task.
        schema: SnapshotSchema,
        /// Hidden layers.
        spec: SnapshotSpec,
        /// Seconds since 1970 at which the rows of the drift baseline were taken; empty if that is not known.
        at: Vec<i64>,
    },
    /// A candidate from a parent.
    Adapt {
        /// The parent bundle.
        parent: [u8; 32],
        /// Which part.
        strategy: Strategy,
    },
}

/// A schema as JSON text: its serde form is self-describing, the snapshot's is not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotSchema(String);

/// A spec as JSON text, for the same reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotSpec(String);

/// A snapshot that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The bytes are no snapshot of this layout.
    #[error("not a snapshot this hone can read ({0}): it is damaged or from another version")]
    Unreadable(String),
    /// The parent given is not the one that the snapshot names.
    #[error("the snapshot was made from model {expected}, not from {found}")]
    Parent {
        /// Named in the snapshot.
        expected: String,
        /// Given.
        found: String,
    },
    /// The parent bundle is refused.
    #[error("the parent bundle is refused")]
    Bundle(#[from] BundleError),
    /// Training failed.
    #[error("training failed")]
    Train(#[from] TrainError),
    /// The checkpoint is of something else.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The bytes stopped coming.
    #[error("the snapshot cannot be read to its end")]
    Read(#[from] io::Error),
}

/// A finished training: the bundle and what it took.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Bundle bytes.
    pub bundle: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
    /// The model in memory, and the work.
    pub trained: Trained,
    /// What beside the snapshot decided the bundle's bits.
    pub choices: RunChoices,
}

impl Snapshot {
    /// A snapshot of a base training on `rows`, taken `at` so many seconds since 1970 (empty if that is not known).
    ///
    /// # Panics
    /// Never: schema and spec are plain data.
    #[must_use]
    pub fn base(schema: &Schema, spec: &Spec, rows: Rows, at: &[i64], settings: TrainSettings, seed: u64) -> Self {
        let schema = SnapshotSchema(serde_json::to_string(schema).expect("a schema is plain data"));
        let spec = SnapshotSpec(serde_json::to_string(spec).expect("a spec is plain data"));
        let at = stride(&rows, BASELINE_ROWS).filter_map(|row| at.get(row).copied()).collect();
        Self { task: SnapshotTask::Base { schema, spec, at }, rows, settings, seed }
    }

    /// A snapshot of a retraining from the bundle `parent`.
    #[must_use]
    pub fn adapt(parent: Digest, strategy: Strategy, rows: Rows, settings: TrainSettings, seed: u64) -> Self {
        let task = SnapshotTask::Adapt { parent: *parent.as_bytes(), strategy };
        Self { task, rows, settings, seed }
    }

    /// The bytes on disk; equal snapshots give equal bytes.
    ///
    /// # Panics
    /// Never: a snapshot is plain data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = |number: usize| u32::try_from(number).expect("a row has fewer columns than 2^32");
        let (features, truths) = (count(self.rows.features), count(self.rows.truths));
        let rows = self.rows.len() as u64;
        let head =
            Head { task: self.task.clone(), settings: self.settings.clone(), seed: self.seed, features, truths, rows };
        let head = postcard::to_stdvec(&head).expect("a snapshot is plain data");
        let mut bytes = Vec::with_capacity(20 + head.len() + 4 * (self.rows.x.len() + self.rows.y.len()));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&count(head.len()).to_le_bytes());
        bytes.extend_from_slice(&head);
        for numbers in [&self.rows.x, &self.rows.y] {
            numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        }
        bytes
    }

    /// Reads bytes of [`Snapshot::to_bytes`]; fails with [`SnapshotError::Unreadable`] or [`SnapshotError::Read`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut rest = bytes;
        let (snapshot, _) = Self::read(&mut rest)?;
        if rest.is_empty() { Ok(snapshot) } else { Err(unreadable("bytes behind its end")) }
    }

    /// What is trained.
    #[must_use]
    pub fn strategy(&self) -> Strategy {
        match self.task {
            SnapshotTask::Base { .. } => Strategy::Base,
            SnapshotTask::Adapt { strategy, .. } => strategy,
        }
    }

    /// Schema and layers of a base training, none of a retraining; fails with [`SnapshotError::Unreadable`].
    pub fn base_of(&self) -> Result<Option<(Schema, Spec)>, SnapshotError> {
        let text = |error: serde_json::Error| SnapshotError::Unreadable(error.to_string());
        let SnapshotTask::Base { schema, spec, .. } = &self.task else {
            return Ok(None);
        };
        let schema: Schema = serde_json::from_str(&schema.0).map_err(text)?;
        if schema.features.len() != self.rows.features || schema.truths() != self.rows.truths {
            return Err(unreadable("rows do not fit the schema"));
        }
        Ok(Some((schema, serde_json::from_str(&spec.0).map_err(text)?)))
    }

    /// Reads what stands before the rows; fails as [`Snapshot::read`] does.
    pub fn outline(from: &mut impl Read) -> Result<Outline, SnapshotError> {
        let head = Head::read(&mut Hashing { from, hasher: Hasher::default() })?;
        let (strategy, parent) = match head.task {
            SnapshotTask::Base { .. } => (Strategy::Base, None),
            SnapshotTask::Adapt { parent, strategy } => (strategy, Some(Digest::from(parent))),
        };
        let Head { settings, seed, features, truths, rows, .. } = head;
        Ok(Outline { strategy, parent, settings, seed, features, truths, rows })
    }

    /// Reads one snapshot from a stream, and the digest of its bytes; the rows are read once, into their place.
    ///
    /// Fails with [`SnapshotError::Unreadable`] if the bytes are no snapshot of this layout, or with [`SnapshotError::Read`].
    pub fn read(from: &mut impl Read) -> Result<(Self, Digest), SnapshotError> {
        let mut from = Hashing { from, hasher: Hasher::default() };
        let head = Head::read(&mut from)?;
        let (features, truths) = (head.features as usize, head.truths as usize);
        let rows = usize::try_from(head.rows).map_err(|_| unreadable("too many rows"))?;
        let rows = Rows { features, truths, x: from.numbers(rows * features)?, y: from.numbers(rows * truths)? };
        Ok((Self { task: head.task, rows, settings: head.settings, seed: head.seed }, from.hasher.finish()))
    }
}

impl Head {
    fn read<R: Read>(from: &mut Hashing<'_, R>) -> Result<Self, SnapshotError> {
        let (mut magic, mut length) = ([0; 16], [0; 4]);
        from.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(unreadable("another layout"));
        }
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        if length > HEAD_BYTES_MAX {
            return Err(unreadable("its head is too long"));
        }
        let mut head = vec![0; length as usize];
        from.read_exact(&mut head)?;
        let head: Self = postcard::from_bytes(&head).map_err(|error| unreadable(&error.to_string()))?;
        let bytes = head.rows.checked_mul(4 * (u64::from(head.features) + u64::from(head.truths)));
        if head.features == 0 || head.truths == 0 || bytes.is_none_or(|bytes| bytes > ROWS_BYTES_MAX) {
            return Err(unreadable("rows of no width, or too many of them"));
        }
        Ok(head)
    }
}

fn unreadable(why: &str) -> SnapshotError {
    SnapshotError::Unreadable(why.to_owned())
}

/// Hashes what is read through it.
struct Hashing<'a, R> {
    from: &'a mut R,
    hasher: Hasher,
}

impl<R: Read> Hashing<'_, R> {
    fn read_exact(&mut self, into: &mut [u8]) -> io::Result<()> {
        self.from.read_exact(into)?;
        self.hasher.update(into);
        Ok(())
    }

    /// So many numbers; memory is taken as they come, at most twice what has come.
    fn numbers(&mut self, count: usize) -> Result<Vec<f32>, SnapshotError> {
        let mut numbers = Vec::new();
        let mut bytes = [0; 4 * CHUNK];
        while numbers.len() < count {
            let take = (count - numbers.len()).min(CHUNK);
            let bytes = &mut bytes[..4 * take];
            self.read_exact(bytes)?;
            if numbers.len() + take > numbers.capacity() {
                // Doubling, but never past the end: the last growth is exact.
                numbers.reserve_exact((2 * numbers.len()).max(CHUNK).min(count) - numbers.len());
            }
            let (words, _) = bytes.as_chunks::<4>();
            numbers.extend(words.iter().map(|word| f32::from_le_bytes(*word)));
        }
        Ok(numbers)
    }
}

/// Runs the training that `bytes` describe, from the bundle `parent` where one is needed.
///
/// Fails with the [`SnapshotError`] that says which part is at fault.
pub fn run(bytes: &[u8], parent: Option<&[u8]>) -> Result<Outcome, SnapshotError> {
    run_in(&mut &*bytes, parent, RunChoices::default(), None, &mut Undisturbed)
}

/// Runs the training of the snapshot that is read `from` a stream, with `choices` and from `checkpoint` if there is one.
///
/// The same snapshot and choices give the same bundle, however often it was stopped and resumed on its way. Fails as [`run`]
/// does, with [`TrainError::Stopped`] inside where the surroundings want it to stop.
pub fn run_in(
    from: &mut impl Read,
    parent: Option<&[u8]>,
    choices: RunChoices,
    checkpoint: Option<&[u8]>,
    surroundings: &mut dyn Surroundings,
) -> Result<Outcome, SnapshotError> {
    let (snapshot, name) = Snapshot::read(from)?;
    run_read(snapshot, name, parent, choices, checkpoint, surroundings)
}

/// [`run_in`] of a snapshot that has been read; `name` is the digest of its bytes.
///
/// # Panics
/// Never: a base training has a schema and a spec.
pub fn run_read(
    snapshot: Snapshot,
    name: Digest,
    parent: Option<&[u8]>,
    choices: RunChoices,
    checkpoint: Option<&[u8]>,
    surroundings: &mut dyn Surroundings,
) -> Result<Outcome, SnapshotError> {
    let mut session = Session::new(surroundings, *name.as_bytes(), choices, checkpoint)?;
    let (mut trained, parent) = match &snapshot.task {
        SnapshotTask::Base { at, .. } => {
            let (schema, spec) = snapshot.base_of()?.expect("a base training has them");
            let Snapshot { rows, settings, seed, .. } = &snapshot;
            let mut trained = train::base_in(&mut session, &schema, &spec, rows, settings, *seed)?;
            trained.model.baseline_at.clone_from(at);
            (trained, None)
        }
        SnapshotTask::Adapt { parent: expected, strategy } => {
            let given = parent.unwrap_or_default();
            let found = Digest::of(given);
            if found.as_bytes() != expected {
                let expected = expected.iter().map(|byte| format!("{byte:02x}")).collect();
                return Err(SnapshotError::Parent { expected, found: found.to_string() });
            }
            let model: Model = bundle::read(given)?;
            let Snapshot { rows, settings, seed, .. } = &snapshot;
            if model.schema().features.len() != rows.features || model.schema().truths() != rows.truths {
                return Err(unreadable("rows do not fit the parent's schema"));
            }
            (train::adapt_in(&mut session, &model, *strategy, rows, settings, *seed)?, Some(found))
        }
    };
    let choices = session.choices();
    drop(snapshot);
    trained.model.manifest.parent = parent;
    trained.model.manifest.provenance.snapshot = Some(name);
    let (bundle, digest) = bundle::write(&mut trained.model);
    Ok(Outcome { bundle, digest, trained, choices })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Feature, FeatureKind, Task};

    fn snapshot() -> Snapshot {
        let mut rows = Rows::empty(2, 1);
        let mut chance = crate::chance::Chance::new(1, crate::chance::Purpose::Sample, 0);
        for _ in 0..9_000 {
            let x = [chance.normal(), chance.normal()];
            rows.push(&x, &[f32::from(u8::from(x[0] > x[1]))]);
        }
        let feature = |name: &str| Feature { name: name.into(), unit: None, kind: FeatureKind::Number, range: None };
        let task = Task::Classification { classes: ["a", "b"].map(String::from).to_vec() };
        let schema = Schema { features: ["p", "q"].map(feature).to_vec(), task };
        Snapshot::base(&schema, &Spec::default(), rows, &[], TrainSettings::default(), 7)
    }

    #[test]
    fn a_snapshot_comes_back_from_its_bytes_with_their_digest() {
        let snapshot = snapshot();
        let bytes = snapshot.to_bytes();
        let (found, digest) = Snapshot::read(&mut bytes.as_slice()).unwrap();
        assert_eq!((&found, digest), (&snapshot, Digest::of(&bytes)));
        assert_eq!(found.rows.x.capacity(), found.rows.x.len(), "rows take no more memory than they need");
    }

    #[test]
    fn cut_longer_and_foreign_bytes_are_refused_and_a_lie_about_lengths_takes_no_memory() {
        let bytes = snapshot().to_bytes();
        assert!(matches!(Snapshot::from_bytes(&bytes[..bytes.len() - 1]), Err(SnapshotError::Read(_))));
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(matches!(Snapshot::from_bytes(&longer), Err(SnapshotError::Unreadable(_))));
        let mut other = bytes.clone();
        other[14] = b'1';
        assert!(matches!(Snapshot::from_bytes(&other), Err(SnapshotError::Unreadable(_))));
        other = bytes;
        other[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Snapshot::from_bytes(&other), Err(SnapshotError::Unreadable(_))));
    }
}
