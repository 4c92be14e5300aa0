//! Labels on their way to the recorder and to the loop, whichever way they came in.
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use trainer_core::schema::{Schema, Task};
use ulid::Ulid;

use super::samples::{Label, SampleError};
use crate::shell::clock;
use crate::shell::daemon::{Event, Shared};
use crate::shell::recorder::NotQueued;
use crate::shell::store::{LabelOutcome, NewLabel};

/// A label that was handed to the recorder.
#[derive(Debug)]
pub struct Queued {
    id: Ulid,
    truth: Vec<f32>,
    receiver: Result<oneshot::Receiver<LabelOutcome>, NotQueued>,
}

/// Checks a label against the model and hands it to the recorder; `source` is named if the label names none.
///
/// # Errors
/// [`SampleError`] if the truth means nothing to the model.
pub async fn queue(shared: &Shared, schema: &Schema, label: &Label, source: &str) -> Result<Queued, SampleError> {
    let truth = label.label.truth(schema)?;
    let source = label.source.clone().unwrap_or_else(|| source.to_owned());
    let new = NewLabel { id: label.record_id, truth: truth.clone(), source, at: clock::now() };
    let receiver = match shared.recorder.label(new.clone()) {
        Err(NotQueued::Full) => {
            // A full queue is emptied once before giving up.
            let recorder = shared.recorder.clone();
            let _ = spawn_blocking(move || recorder.flush()).await;
            shared.recorder.label(new)
        }
        queued => queued,
    };
    Ok(Queued { id: label.record_id, truth, receiver })
}

/// Waits until a label is durable, tells the loop, and says what became of it.
pub async fn settle(shared: &Arc<Shared>, schema: &Schema, queued: Queued) -> (LabelOutcome, Value) {
    let Queued { id, truth, receiver } = queued;
    let not_stored = |reason: NotQueued| LabelOutcome::NotStored { reason: reason.to_string() };
    let outcome = match receiver {
        Ok(receiver) => receiver.await.unwrap_or_else(|_| not_stored(NotQueued::Stopped)),
        Err(error) => not_stored(error),
    };
    let mut object = shown(&outcome, schema);
    object["record_id"] = json!(id.to_string());
    if let LabelOutcome::Stored { ordinal, record } = &outcome {
        // The loop ends before its queue only when the agent stops; it counts the label at its next start.
        let _ = shared.events.send(Event::Label { ordinal: *ordinal, record: record.clone(), truth }).await;
    }
    (outcome, object)
}

fn shown(outcome: &LabelOutcome, schema: &Schema) -> Value {
    match outcome {
        LabelOutcome::Stored { .. } => json!({"outcome": "stored"}),
        LabelOutcome::Duplicate { .. } => json!({"outcome": "duplicate"}),
        LabelOutcome::Conflict { kept, .. } => json!({"outcome": "conflict", "kept": truth(schema, kept)}),
        LabelOutcome::Unknown => {
            json!({"outcome": "unknown", "error": "no record of this id is stored, or not any more"})
        }
        LabelOutcome::NotStored { reason } => json!({"outcome": "not_stored", "code": "disk", "error": reason}),
    }
}

fn truth(schema: &Schema, truth: &[f32]) -> Value {
    match &schema.task {
        Task::Classification { classes } => {
            json!(truth.first().and_then(|class| classes.get(trainer_core::evaluate::class_of(*class))))
        }
        Task::Regression { .. } => json!(truth),
    }
}
