//! Samples and labels as NDJSON: one answer per line, a bad line is refused alone.
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use trainer_core::schema::{Schema, Task};

use super::App;
use super::problem::Problem;
use super::v1::output;
use crate::shell::clock;
use crate::shell::daemon::{Event, Origin};
use crate::shell::inference::Loaded;
use crate::shell::ingest::samples::{Label, LineError, Sample, parse_labels, parse_samples};
use crate::shell::recorder::NotQueued;
use crate::shell::store::{LabelOutcome, NewLabel};

/// Samples or labels of one batch that are handed over at once; a longer batch waits for the recorder in between.
const PORTION: usize = 256;
/// Source of labels that name none.
const SOURCE: &str = "http";

/// Lines as they are answered, one JSON object each.
fn lines(status: StatusCode, answers: &[Value]) -> Response {
    let body: String = answers.iter().map(|answer| format!("{answer}\n")).collect();
    (status, [(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn refused(app: &App, error: &LineError) -> Value {
    app.shared.counters.refuse(error.error.code());
    json!(error.error.refusal(Some(error.line)))
}

/// Where each parsed line stood: refusals know their line, the others follow in order past blank lines.
fn numbered(body: &[u8]) -> impl Iterator<Item = usize> + '_ {
    let blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);
    body.split(|byte| *byte == b'\n').enumerate().filter(move |(_, line)| !blank(line)).map(|(index, _)| index + 1)
}

pub(super) async fn samples(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| Problem::body(&rejection, &app))?;
    let serving = app.shared.slot.serving().ok_or_else(|| Problem::no_model().counted(&app))?;
    let parsed = parse_samples(&body, serving.champion.model.schema());
    if parsed.is_empty() {
        return Err(empty(&app));
    }
    let mut answers = Vec::with_capacity(parsed.len());
    let mut accepted = 0_usize;
    for (line, sample) in numbered(&body).zip(parsed) {
        match sample {
            Ok(sample) => {
                accepted += 1;
                answers.push(answer(&app, &serving.champion, sample, line));
                if accepted.is_multiple_of(PORTION) {
                    // The batch waits for the disk, so that its own size never fills the queue.
                    let recorder = app.shared.recorder.clone();
                    let _ = spawn_blocking(move || recorder.flush()).await;
                }
            }
            Err(error) => answers.push(refused(&app, &error)),
        }
    }
    Ok(lines(if accepted > 0 { StatusCode::OK } else { StatusCode::BAD_REQUEST }, &answers))
}

fn empty(app: &App) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed", "the body has no lines: send one JSON object per line")
        .counted(app)
}

fn answer(app: &App, loaded: &Loaded, sample: Sample, line: usize) -> Value {
    app.shared.counters.accept(&sample.counts);
    let origin = Origin {
        source: &sample.source,
        segment: sample.segment.as_deref(),
        event_at: sample.time,
        arrived_at: clock::now(),
    };
    let answered = app.shared.answer(loaded, true, sample.features, origin);
    let id = answered.ids.first().map(ToString::to_string);
    let mut object = json!({"line": line, "record_id": id});
    let said = output(loaded.model.schema(), &answered.answers);
    if let (Value::Object(object), Value::Object(said)) = (&mut object, said) {
        object.extend(said);
        object.insert("served_by".to_owned(), json!("champion"));
        object.insert("digest".to_owned(), json!(loaded.digest));
        if answered.adaptation > 0 {
            object.insert("adaptation".to_owned(), json!(answered.adaptation));
        }
        object.insert("stored".to_owned(), json!(answered.stored));
    }
    object
}

pub(super) async fn labels(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| Problem::body(&rejection, &app))?;
    let serving = app.shared.slot.serving().ok_or_else(|| Problem::no_model().counted(&app))?;
    let parsed = parse_labels(&body);
    if parsed.is_empty() {
        return Err(empty(&app));
    }
    let numbered: Vec<_> = numbered(&body).zip(parsed).collect();
    let schema = serving.champion.model.schema().clone();
    // A task of its own: a stored label reaches the loop also if whoever sent it hangs up.
    let answers = tokio::spawn(async move {
        let mut answers = Vec::with_capacity(numbered.len());
        for portion in numbered.chunks(PORTION) {
            store(&app, &schema, portion, &mut answers).await;
        }
        answers
    });
    let answers = answers.await.map_err(|_| Problem::stopping())?;
    let all = |key: &str, value: Option<&str>| {
        answers.iter().all(|answer| answer.get(key).is_some_and(|found| value.is_none() || found.as_str() == value))
    };
    let status = if all("outcome", Some("not_stored")) {
        StatusCode::SERVICE_UNAVAILABLE
    } else if all("code", None) {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::OK
    };
    Ok(lines(status, &answers))
}

async fn store(app: &App, schema: &Schema, portion: &[(usize, Result<Label, LineError>)], answers: &mut Vec<Value>) {
    let mut waiting = Vec::with_capacity(portion.len());
    for (line, label) in portion {
        waiting.push(match label {
            Err(error) => Err(refused(app, error)),
            Ok(label) => match label.label.truth(schema) {
                Err(error) => Err(refused(app, &LineError { line: *line, error })),
                Ok(truth) => {
                    let source = label.source.clone().unwrap_or_else(|| SOURCE.to_owned());
                    let new = NewLabel { id: label.record_id, truth: truth.clone(), source, at: clock::now() };
                    Ok((*line, label.record_id, truth, queue(app, new).await))
                }
            },
        });
    }
    for entry in waiting {
        answers.push(match entry {
            Err(refusal) => refusal,
            Ok((line, id, truth, receiver)) => {
                let outcome = match receiver {
                    Ok(receiver) => receiver.await.unwrap_or_else(|_| not_stored(NotQueued::Stopped)),
                    Err(error) => not_stored(error),
                };
                let shown = outcome_of(&outcome, schema);
                if let LabelOutcome::Stored { ordinal, record } = outcome {
                    // The loop ends before its queue only when the agent stops; it counts the label at its next start.
                    let _ = app.shared.events.send(Event::Label { ordinal, record, truth }).await;
                }
                let mut object = json!({"line": line, "record_id": id.to_string()});
                if let (Value::Object(object), Value::Object(shown)) = (&mut object, shown) {
                    object.extend(shown);
                }
                object
            }
        });
    }
}

type Outcome = tokio::sync::oneshot::Receiver<LabelOutcome>;

/// Queues a label; a full queue is emptied once before giving up.
async fn queue(app: &App, label: NewLabel) -> Result<Outcome, NotQueued> {
    match app.shared.recorder.label(label.clone()) {
        Err(NotQueued::Full) => {
            let recorder = app.shared.recorder.clone();
            let _ = spawn_blocking(move || recorder.flush()).await;
            app.shared.recorder.label(label)
        }
        queued => queued,
    }
}

fn not_stored(reason: NotQueued) -> LabelOutcome {
    LabelOutcome::NotStored { reason: reason.to_string() }
}

fn outcome_of(outcome: &LabelOutcome, schema: &Schema) -> Value {
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
