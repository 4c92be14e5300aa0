//! A training as one immutable value: rows, parent, settings and seed. Training is a function of it alone.
use serde::{Deserialize, Serialize};

use crate::bundle::{self, BundleError};
use crate::digest::Digest;
use crate::model::{Model, Strategy};
use crate::schema::{Rows, Schema};
use crate::spec::Spec;
use crate::train::{self, TrainError, TrainSettings, Trained};

/// Snapshot layout that this build writes and reads.
const FORMAT: u32 = 2;

/// Everything a training depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Layout; another one is refused.
    pub format: u32,
    /// What to train, and from what.
    pub task: SnapshotTask,
    /// Rows in time order.
    pub rows: Rows,
    /// How to train.
    pub settings: TrainSettings,
    /// Seed of every random choice.
    pub seed: u64,
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
        /// Seconds since 1970 at which each row was taken; empty if that is not known.
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
}

impl Snapshot {
    /// A snapshot of a base training.
    ///
    /// # Panics
    /// Never: schema and spec are plain data.
    #[must_use]
    pub fn base(schema: &Schema, spec: &Spec, rows: Rows, at: Vec<i64>, settings: TrainSettings, seed: u64) -> Self {
        let schema = SnapshotSchema(serde_json::to_string(schema).expect("a schema is plain data"));
        let spec = SnapshotSpec(serde_json::to_string(spec).expect("a spec is plain data"));
        Self { format: FORMAT, task: SnapshotTask::Base { schema, spec, at }, rows, settings, seed }
    }

    /// A snapshot of a retraining from the bundle `parent`.
    #[must_use]
    pub fn adapt(parent: Digest, strategy: Strategy, rows: Rows, settings: TrainSettings, seed: u64) -> Self {
        let task = SnapshotTask::Adapt { parent: *parent.as_bytes(), strategy };
        Self { format: FORMAT, task, rows, settings, seed }
    }

    /// The bytes on disk; equal snapshots give equal bytes.
    ///
    /// # Panics
    /// Never: a snapshot is plain data.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a snapshot is plain data")
    }

    /// Reads bytes of [`Snapshot::to_bytes`]; fails with [`SnapshotError::Unreadable`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let snapshot: Self =
            postcard::from_bytes(bytes).map_err(|error| SnapshotError::Unreadable(error.to_string()))?;
        let Rows { features, truths, x, y } = &snapshot.rows;
        let whole = *features > 0 && *truths > 0 && y.len() % truths == 0 && x.len() / features == y.len() / truths;
        if snapshot.format != FORMAT || !whole || x.len() % features != 0 {
            return Err(SnapshotError::Unreadable(format!("layout {}", snapshot.format)));
        }
        Ok(snapshot)
    }
}

/// Runs the training that `bytes` describe, from the bundle `parent` where one is needed.
///
/// Fails with the [`SnapshotError`] that says which part is at fault.
pub fn run(bytes: &[u8], parent: Option<&[u8]>) -> Result<Outcome, SnapshotError> {
    let snapshot = Snapshot::from_bytes(bytes)?;
    let text = |error: serde_json::Error| SnapshotError::Unreadable(error.to_string());
    let (mut trained, parent) = match &snapshot.task {
        SnapshotTask::Base { schema, spec, at } => {
            let schema: Schema = serde_json::from_str(&schema.0).map_err(text)?;
            let spec: Spec = serde_json::from_str(&spec.0).map_err(text)?;
            (train::base(&schema, &spec, &snapshot.rows, at, &snapshot.settings, snapshot.seed)?, None)
        }
        SnapshotTask::Adapt { parent: expected, strategy } => {
            let given = parent.unwrap_or_default();
            let found = Digest::of(given);
            if found.as_bytes() != expected {
                let expected = expected.iter().map(|byte| format!("{byte:02x}")).collect();
                return Err(SnapshotError::Parent { expected, found: found.to_string() });
            }
            let model: Model = bundle::read(given)?;
            if model.schema().features.len() != snapshot.rows.features
                || model.schema().truths() != snapshot.rows.truths
            {
                return Err(SnapshotError::Unreadable("rows do not fit the parent's schema".to_owned()));
            }
            (train::adapt(&model, *strategy, &snapshot.rows, &snapshot.settings, snapshot.seed)?, Some(found))
        }
    };
    trained.model.manifest.parent = parent;
    trained.model.manifest.provenance.snapshot = Some(Digest::of(bytes));
    let (bundle, digest) = bundle::write(&mut trained.model);
    Ok(Outcome { bundle, digest, trained })
}
