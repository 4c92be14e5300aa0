//! Commands that the daemon loop cannot carry out in one step: labels, and the self-test.
use std::sync::Arc;

use fleet_protocol::command::Label;
use fleet_protocol::status::ReasonCode;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use trainer_core::bundle;
use trainer_core::digest::Digest;
use trainer_core::schema::Schema;
use ulid::Ulid;

use crate::shell::clock;
use crate::shell::daemon::{Event, LinkAsk, Question, Shared, Task, TaskKind};
use crate::shell::ingest::samples::LabelValue;
use crate::shell::models::ModelStore;
use crate::shell::store::{LabelOutcome, NewLabel};

/// Labels that wait for the disk together.
const PORTION: usize = 256;

/// How a task ended.
type Outcome = Result<Value, (ReasonCode, String)>;

/// Carries a task out beside everything else and tells the loop how it ended.
pub(super) fn start(shared: &Arc<Shared>, models: &ModelStore, task: Task) {
    let (shared, models) = (Arc::clone(shared), models.clone());
    tokio::spawn(async move {
        let Task { id, kind } = task;
        let outcome = match kind {
            TaskKind::Labels(labels) => push(&shared, labels).await,
            TaskKind::Selftest => selftest(&shared, models).await,
            TaskKind::Purge { since, until, snapshots, by } => {
                shared.purge(since, until, snapshots, &by).await.map_err(|reason| (ReasonCode::Internal, reason))
            }
            // These are the link's own.
            TaskKind::Install { .. } | TaskKind::Export { .. } | TaskKind::Restart => return,
        };
        // The loop ends before its queue only when the agent stops; the task is begun again at the next start.
        let _ = shared.events.send(Event::Link(Box::new(LinkAsk::Ended { id, outcome }))).await;
    });
}

/// Stores labels as the local API does: the first truth of a record is kept, so that a repetition changes nothing.
async fn push(shared: &Arc<Shared>, labels: Vec<Label>) -> Outcome {
    let serving = shared.slot.serving();
    let serving =
        serving.ok_or_else(|| (ReasonCode::Other("no_model".to_owned()), "no model serves yet".to_owned()))?;
    let schema = serving.champion.model.schema();
    let truths: Vec<(Ulid, Vec<f32>, String)> =
        labels.iter().map(|label| truth(label, schema)).collect::<Result<_, _>>()?;
    let [mut stored, mut repeated, mut unknown] = [0_u64; 3];
    for portion in truths.chunks(PORTION) {
        let mut waiting = Vec::with_capacity(portion.len());
        for (id, truth, source) in portion {
            let label = NewLabel { id: *id, truth: truth.clone(), source: source.clone(), at: clock::now() };
            let queued = shared.recorder.label(label).map_err(|error| (ReasonCode::Internal, error.to_string()))?;
            waiting.push((truth, queued));
        }
        for (truth, queued) in waiting {
            match queued.await {
                Ok(LabelOutcome::Stored { ordinal, record }) => {
                    stored += 1;
                    let _ = shared.events.send(Event::Label { ordinal, record, truth: truth.clone() }).await;
                }
                Ok(LabelOutcome::Duplicate { .. } | LabelOutcome::Conflict { .. }) => repeated += 1,
                Ok(LabelOutcome::Unknown) => unknown += 1,
                Ok(LabelOutcome::NotStored { reason }) => return Err((ReasonCode::Internal, reason)),
                Err(_) => return Err((ReasonCode::Internal, "the recorder has stopped".to_owned())),
            }
        }
    }
    Ok(json!({"accepted": stored, "repeated": repeated, "unknown": unknown}))
}

fn truth(label: &Label, schema: &Schema) -> Result<(Ulid, Vec<f32>, String), (ReasonCode, String)> {
    let refused = |reason: String| {
        (
            ReasonCode::Unsupported,
            format!("label of record {}: {reason}; none of the labels was stored", label.record_id),
        )
    };
    let value = match &label.label {
        Value::String(text) => LabelValue::Text(text.clone()),
        Value::Bool(value) => LabelValue::Text(value.to_string()),
        Value::Number(number) => LabelValue::Number(number.as_f64().unwrap_or(f64::NAN)),
        Value::Array(values) => {
            let numbers = values.iter().map(Value::as_f64).collect::<Option<_>>();
            LabelValue::Numbers(numbers.ok_or_else(|| refused("a number is expected for each target".to_owned()))?)
        }
        Value::Null | Value::Object(_) => return Err(refused("a class, a number or an array is expected".to_owned())),
    };
    let truth = value.truth(schema).map_err(|error| refused(error.to_string()))?;
    Ok((label.record_id, truth, label.source.to_string()))
}

/// Reads back what must not be damaged: the champion's file against its digest and its own golden outputs, the records, the
/// state.
async fn selftest(shared: &Arc<Shared>, models: ModelStore) -> Outcome {
    let champion = shared.slot.serving().map(|serving| serving.champion.digest);
    let reader = shared.reader.clone();
    let disk = spawn_blocking(move || {
        let model = champion.map_or_else(|| Err("no model serves".to_owned()), |digest| read(&models, &digest));
        let records = reader.counts().map(|counts| counts.records).map_err(|error| error.chain());
        (model, records)
    });
    let (model, records) = disk.await.map_err(|_| (ReasonCode::Internal, "the agent is stopping".to_owned()))?;
    let status = shared.ask(Question::Status).await.unwrap_or_default();
    let recorder = json!(shared.recorder.status());
    let control = &status["control"];
    let fine =
        model.is_ok() && records.is_ok() && control["state"] == "ok" && recorder["state"]["state"] == "recording";
    let said =
        |result: Result<String, String>| result.map_or_else(|reason| json!({"failed": reason}), |text| json!(text));
    let result = json!({
        "model": said(model), "records": said(records.map(|count| format!("{count} readable"))),
        "control": control, "recorder": recorder["state"],
    });
    if fine { Ok(result) } else { Err((ReasonCode::Internal, format!("the self-test found: {result}"))) }
}

fn read(models: &ModelStore, digest: &Digest) -> Result<String, String> {
    let bytes = models.get(digest).map_err(|error| error.chain())?;
    bundle::read(&bytes).map_err(|error| error.to_string())?;
    Ok(format!("{} as it was stored", digest.short()))
}
