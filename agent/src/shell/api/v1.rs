//! hone's own calls: samples and labels as NDJSON, state, commands.
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;
use trainer_core::bundle;
use trainer_core::schema::{Schema, Task};

use super::problem::Problem;
use super::{App, Door};
use crate::shell::clock::{self, shown};
use crate::shell::daemon::{self, Command, Event, Origin, Question};
use crate::shell::inference::Loaded;
use crate::shell::ingest::samples::{Label, LineError, Sample, parse_labels, parse_samples};
use crate::shell::recorder::NotQueued;
use crate::shell::store::{LabelOutcome, NewLabel, Record};

/// Records, reports and runs in one answer, at most.
const LIMIT_MAX: usize = 1_000;
/// Records, reports and runs if no limit is asked for.
const LIMIT: usize = 20;
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
    body.split(|byte| *byte == b'\n')
        .enumerate()
        .filter(move |(_, line)| !blank(line))
        .map(|(index, _)| index + 1)
}

pub(super) async fn samples(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| Problem::body(&rejection, &app))?;
    let serving = app
        .shared
        .slot
        .serving()
        .ok_or_else(|| Problem::no_model().counted(&app))?;
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
    Ok(lines(
        if accepted > 0 {
            StatusCode::OK
        } else {
            StatusCode::BAD_REQUEST
        },
        &answers,
    ))
}

fn empty(app: &App) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "malformed",
        "the body has no lines: send one JSON object per line",
    )
    .counted(app)
}

fn answer(app: &App, loaded: &Loaded, sample: Sample, line: usize) -> Value {
    app.shared.counters.accept(&sample.counts);
    let origin = Origin {
        source: &sample.source,
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
        object.insert("stored".to_owned(), json!(answered.stored));
    }
    object
}

/// One answer in words: the class with all probabilities, or each target by name.
fn output(schema: &Schema, answer: &[f32]) -> Value {
    let named = |names: &[String]| {
        names
            .iter()
            .cloned()
            .zip(answer.iter().map(|value| json!(value)))
            .collect::<Map<_, _>>()
    };
    match &schema.task {
        Task::Classification { classes } => {
            let largest =
                (0..answer.len()).fold(0, |best, index| if answer[index] > answer[best] { index } else { best });
            json!({"label": classes.get(largest), "probabilities": named(classes)})
        }
        Task::Regression { targets } => json!({"targets": named(targets)}),
    }
}

pub(super) async fn labels(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| Problem::body(&rejection, &app))?;
    let serving = app
        .shared
        .slot
        .serving()
        .ok_or_else(|| Problem::no_model().counted(&app))?;
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
        answers.iter().all(|answer| {
            answer
                .get(key)
                .is_some_and(|found| value.is_none() || found.as_str() == value)
        })
    };
    let status = if all("code", None) {
        StatusCode::BAD_REQUEST
    } else if all("outcome", Some("not_stored")) {
        StatusCode::SERVICE_UNAVAILABLE
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
                    let new = NewLabel {
                        id: label.record_id,
                        truth: truth.clone(),
                        source,
                        at: clock::now(),
                    };
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
    LabelOutcome::NotStored {
        reason: reason.to_string(),
    }
}

fn outcome_of(outcome: &LabelOutcome, schema: &Schema) -> Value {
    match outcome {
        LabelOutcome::Stored { .. } => json!({"outcome": "stored"}),
        LabelOutcome::Duplicate { .. } => json!({"outcome": "duplicate"}),
        LabelOutcome::Conflict { kept, .. } => json!({"outcome": "conflict", "kept": truth(schema, kept)}),
        LabelOutcome::Unknown => {
            json!({"outcome": "unknown", "error": "no record of this id is stored, or not any more"})
        }
        LabelOutcome::NotStored { reason } => json!({"outcome": "not_stored", "error": reason}),
    }
}

fn truth(schema: &Schema, truth: &[f32]) -> Value {
    match &schema.task {
        Task::Classification { classes } => {
            json!(
                truth
                    .first()
                    .and_then(|class| classes.get(trainer_core::evaluate::class_of(*class)))
            )
        }
        Task::Regression { .. } => json!(truth),
    }
}

pub(super) async fn status(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let mut status = app.shared.ask(Question::Status).await.ok_or_else(Problem::stopping)?;
    let reader = app.shared.reader.clone();
    let counts = spawn_blocking(move || reader.counts())
        .await
        .map_err(|_| Problem::stopping())?;
    let place = &app.shared.place;
    let now = clock::now();
    status["version"] = json!(env!("CARGO_PKG_VERSION"));
    status["model_name"] = json!(app.shared.name);
    status["process"] = json!(std::process::id());
    status["started_at"] = json!(shown(place.started_at));
    status["uptime_s"] = json!((now.0 - place.started_at.0).max(0) / 1_000_000);
    status["state_dir"] = json!(place.state_dir);
    status["socket"] = json!(place.socket);
    status["listen"] = json!(place.listen);
    status["records"] = match counts {
        Ok(counts) => {
            json!({"records": counts.records, "labels": counts.labels, "partitions": counts.partitions, "bytes": counts.bytes})
        }
        Err(error) => json!({"error": error.chain()}),
    };
    status["recorder"] = json!(app.shared.recorder.status());
    status["requests"] = app.shared.counters.view();
    Ok(Json(status))
}

pub(super) async fn drift(State(app): State<App>) -> Result<Json<Value>, Problem> {
    app.shared
        .ask(Question::Drift)
        .await
        .map(Json)
        .ok_or_else(Problem::stopping)
}

pub(super) async fn models(State(app): State<App>) -> Result<Json<Value>, Problem> {
    app.shared
        .ask(Question::Models)
        .await
        .map(Json)
        .ok_or_else(Problem::stopping)
}

/// How much is wanted, and from where.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    limit: Option<usize>,
    /// Only records below this number.
    before: Option<i64>,
}

impl Page {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX)
    }
}

fn page(query: Result<Query<Page>, QueryRejection>) -> Result<Page, Problem> {
    query
        .map(|Query(page)| page)
        .map_err(|rejection| Problem::new(StatusCode::BAD_REQUEST, "malformed", rejection.body_text()))
}

pub(super) async fn reports(
    State(app): State<App>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let limit = page(query)?.limit();
    app.shared
        .ask(Question::Reports(limit))
        .await
        .map(Json)
        .ok_or_else(Problem::stopping)
}

pub(super) async fn runs(
    State(app): State<App>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let limit = page(query)?.limit();
    app.shared
        .ask(Question::Runs(limit))
        .await
        .map(Json)
        .ok_or_else(Problem::stopping)
}

pub(super) async fn records(
    State(app): State<App>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let page = page(query)?;
    let (reader, recorder, limit) = (app.shared.reader.clone(), app.shared.recorder.clone(), page.limit());
    let look = move || {
        // What was answered a moment ago is wanted too; a disk that refuses is told of in the status.
        let _ = recorder.flush();
        reader.recent(limit, page.before)
    };
    let found = spawn_blocking(look).await.map_err(|_| Problem::stopping())?;
    let found = found.map_err(|error| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "disk", error.chain()))?;
    let serving = app.shared.slot.serving();
    let schema = serving.as_ref().map(|serving| serving.champion.model.schema());
    Ok(Json(
        json!({"records": found.iter().map(|record| shown_record(record, schema)).collect::<Vec<_>>()}),
    ))
}

fn shown_record(record: &Record, schema: Option<&Schema>) -> Value {
    let Record { seq, record } = record;
    let schema = schema
        .filter(|schema| schema.features.len() == record.features.len() && schema.outputs() == record.output.len());
    let features = schema.map_or_else(
        || json!(record.features),
        |schema| {
            Value::Object(
                schema
                    .features
                    .iter()
                    .map(|feature| feature.name.clone())
                    .zip(record.features.iter().map(|value| json!(value)))
                    .collect(),
            )
        },
    );
    json!({
        "seq": seq,
        "record_id": record.id.to_string(),
        "time": shown(record.event_at),
        "arrived_at": shown(record.arrived_at),
        "source": record.source,
        "digest": record.model,
        "features": features,
        "output": schema.map_or_else(|| json!(record.output), |schema| output(schema, &record.output)),
        "missing": record.missing,
    })
}

/// A command as it is sent.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
enum Wire {
    Retrain { strategy: Option<String> },
    Rollback {},
}

pub(super) async fn command(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let body = commanded(&app, body)?;
    let malformed = |reason: String| Problem::new(StatusCode::BAD_REQUEST, "malformed", reason);
    let command = match serde_json::from_slice(&body).map_err(|error| malformed(format!("not a command: {error}")))? {
        Wire::Retrain { strategy } => {
            Command::Retrain(daemon::strategy(strategy.as_deref().unwrap_or("head")).map_err(malformed)?)
        }
        Wire::Rollback {} => Command::RollBack,
    };
    Ok(Json(app.shared.command(command).await?))
}

pub(super) async fn offer(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Json<Value>, Problem> {
    let bytes = commanded(&app, body)?.to_vec();
    let read = spawn_blocking(move || bundle::read(&bytes).map(|model| (bytes, model)));
    let read = read.await.map_err(|_| Problem::stopping())?;
    let (bytes, model) =
        read.map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bundle", error.to_string()))?;
    Ok(Json(
        app.shared
            .command(Command::Offer {
                bytes,
                model: Box::new(model),
            })
            .await?,
    ))
}

fn commanded(app: &App, body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    if app.door == Door::Tcp {
        return Err(Problem::socket_only(&app.shared.place.socket));
    }
    body.map_err(|rejection| Problem::body(&rejection, app))
}
