//! hone's own calls: state, records, reports, commands.
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use trainer_core::bundle;
use trainer_core::schema::Schema;

use super::problem::Problem;
use super::{App, Door};
use crate::decide::rollout;
use crate::decide::time::Timestamp;
use crate::shell::clock::{self, shown};
use crate::shell::daemon::{self, Command, Question, REBASELINE_ROWS_MAX, Retraining};
use crate::shell::ingest::answers::output;
use crate::shell::models;
use crate::shell::store::Record;

/// Records, reports and runs in one answer, at most.
const LIMIT_MAX: usize = 1_000;
/// Records, reports and runs if no limit is asked for.
const LIMIT: usize = 20;
pub(super) async fn status(State(app): State<App>) -> Result<Json<Value>, Problem> {
    let mut status = app.shared.ask(Question::Status).await.ok_or_else(Problem::stopping)?;
    let reader = app.shared.reader.clone();
    let counts = spawn_blocking(move || reader.counts()).await.map_err(|_| Problem::stopping())?;
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
    status["link"] = app.shared.link.borrow().clone();
    status["input"] = json!({"window": app.shared.intake.view(), "mqtt": app.shared.input.borrow().clone()});
    status["requests"] = app.shared.counters.view();
    Ok(Json(status))
}

pub(super) async fn drift(State(app): State<App>) -> Result<Json<Value>, Problem> {
    app.shared.ask(Question::Drift).await.map(Json).ok_or_else(Problem::stopping)
}

pub(super) async fn models(State(app): State<App>) -> Result<Json<Value>, Problem> {
    app.shared.ask(Question::Models).await.map(Json).ok_or_else(Problem::stopping)
}

pub(super) async fn energy(State(app): State<App>) -> Result<Json<Value>, Problem> {
    app.shared.ask(Question::Energy).await.map(Json).ok_or_else(Problem::stopping)
}

pub(super) async fn lineage(State(app): State<App>) -> Result<Json<Value>, Problem> {
    app.shared.ask(Question::Lineage).await.map(Json).ok_or_else(Problem::stopping)
}

/// What would be trained.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    strategy: Option<String>,
}

pub(super) async fn plan(
    State(app): State<App>,
    query: Result<Query<Wish>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let malformed = |reason: String| Problem::new(StatusCode::BAD_REQUEST, "malformed", reason);
    let Query(Wish { strategy }) = query.map_err(|rejection| malformed(rejection.body_text()))?;
    let strategy = daemon::strategy(strategy.as_deref().unwrap_or("head")).map_err(malformed)?;
    app.shared.ask(Question::Plan(strategy)).await.map(Json).ok_or_else(Problem::stopping)
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
    app.shared.ask(Question::Reports(limit)).await.map(Json).ok_or_else(Problem::stopping)
}

pub(super) async fn runs(
    State(app): State<App>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let limit = page(query)?.limit();
    app.shared.ask(Question::Runs(limit)).await.map(Json).ok_or_else(Problem::stopping)
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
    Ok(Json(json!({"records": found.iter().map(|record| shown_record(record, schema)).collect::<Vec<_>>()})))
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
    let mut view = json!({
        "seq": seq,
        "record_id": record.id.to_string(),
        "time": shown(record.event_at),
        "arrived_at": shown(record.arrived_at),
        "source": record.source,
        "digest": record.model,
        "features": features,
        "output": schema.map_or_else(|| json!(record.output), |schema| output(schema, &record.output)),
        "missing": record.missing,
    });
    if record.adaptation > 0 {
        view["adaptation"] = json!(record.adaptation);
    }
    view
}

/// A command as it is sent.
#[derive(Debug, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
enum Wire {
    Retrain { strategy: Option<String> },
    Cancel {},
    Rollback {},
    Approve { by: Option<String> },
    Reject { by: Option<String>, reason: Option<String> },
    Promote { by: Option<String> },
    CanaryHold { by: Option<String> },
    CanaryResume { by: Option<String> },
    CanaryAbort { by: Option<String>, reason: Option<String> },
}

/// Who commands, as far as the socket tells.
const SOMEBODY: &str = "somebody at the socket";

pub(super) async fn command(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let body = commanded(&app, body)?;
    let malformed = |reason: String| Problem::new(StatusCode::BAD_REQUEST, "malformed", reason);
    let command = match serde_json::from_slice(&body).map_err(|error| malformed(format!("not a command: {error}")))? {
        Wire::Retrain { strategy } => {
            match daemon::strategy(strategy.as_deref().unwrap_or("head")).map_err(malformed)? {
                Retraining::Train(strategy) => Command::Retrain(strategy),
                Retraining::Continual => Command::Consolidate,
            }
        }
        Wire::Cancel {} => Command::Cancel,
        Wire::Rollback {} => Command::RollBack,
        Wire::Approve { by } => trial(by.as_deref(), rollout::Event::Approve),
        Wire::Promote { by } => trial(by.as_deref(), rollout::Event::Promote),
        Wire::CanaryHold { by } => trial(by.as_deref(), rollout::Event::Hold),
        Wire::CanaryResume { by } => trial(by.as_deref(), rollout::Event::Resume),
        Wire::Reject { by, reason } | Wire::CanaryAbort { by, reason } => {
            trial(by.as_deref(), |answer| rollout::Event::Reject(answer, reason.unwrap_or_default()))
        }
    };
    Ok(Json(app.shared.command(command).await?))
}

fn trial(by: Option<&str>, event: impl FnOnce(rollout::Answer) -> rollout::Event) -> Command {
    Command::Trial(event(rollout::Answer::new(by.unwrap_or(SOMEBODY), clock::now())))
}

/// Records whose labels would decide a trial.
pub(super) async fn label_requests(
    State(app): State<App>,
    query: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let limit = page(query)?.limit();
    app.shared.ask(Question::LabelRequests(limit)).await.map(Json).ok_or_else(Problem::stopping)
}

/// Which model is to be explained.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// The beginning of its digest; the champion if there is none.
    model: Option<String>,
}

pub(super) async fn explain(
    State(app): State<App>,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let malformed = |reason: String| Problem::new(StatusCode::BAD_REQUEST, "malformed", reason);
    let Query(Which { model }) = query.map_err(|rejection| malformed(rejection.body_text()))?;
    let answer = app.shared.ask(Question::Explain(model)).await.ok_or_else(Problem::stopping)?;
    match answer["error"].as_str() {
        Some(error) => Err(Problem::new(StatusCode::NOT_FOUND, "unknown_model", error.to_owned())),
        None => Ok(Json(answer)),
    }
}

/// Which rows are the new baseline.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Baseline {
    /// The newest so many.
    rows: Option<usize>,
    /// Those from this moment on, RFC 3339.
    since: Option<String>,
}

pub(super) async fn rebaseline(
    State(app): State<App>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let body = commanded(&app, body)?;
    let malformed = |reason: String| Problem::new(StatusCode::BAD_REQUEST, "malformed", reason);
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    let Baseline { rows, since } =
        serde_json::from_slice(body).map_err(|error| malformed(format!("not a baseline: {error}")))?;
    if rows.is_some_and(|rows| rows > REBASELINE_ROWS_MAX) {
        return Err(malformed(format!("`rows` is at most {REBASELINE_ROWS_MAX}")));
    }
    let since = since.map(|text| moment("since", &text)).transpose()?;
    let recorder = app.shared.recorder.clone();
    // What was answered a moment ago counts too; a disk that refuses is told of in the status.
    let flush = move || drop(recorder.flush());
    spawn_blocking(flush).await.map_err(|_| Problem::stopping())?;
    Ok(Json(app.shared.command(Command::Rebaseline { rows, since }).await?))
}

/// A moment of a request.
pub(super) fn moment(name: &str, text: &str) -> Result<Timestamp, Problem> {
    clock::moment(text).ok_or_else(|| {
        let reason = format!("`{text}` is no moment: write `{name}` like 2026-11-21T00:40:00Z");
        Problem::new(StatusCode::BAD_REQUEST, "malformed", reason)
    })
}

/// The signature of an offered bundle.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Signature {
    /// DSSE envelope, its JSON in base64 for addresses.
    signature: Option<String>,
}

pub(super) async fn offer(
    State(app): State<App>,
    query: Result<Query<Signature>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    let bytes = commanded(&app, body)?.to_vec();
    let malformed = |reason: String| Problem::new(StatusCode::BAD_REQUEST, "malformed", reason);
    let Query(Signature { signature }) = query.map_err(|rejection| malformed(rejection.body_text()))?;
    let envelope = signature.map(|text| URL_SAFE_NO_PAD.decode(text)).transpose();
    let envelope = envelope.map_err(|_| malformed("`signature` is not base64 for addresses".to_owned()))?;
    // Refused here, so that the loop does not lose its time with what is no bundle.
    let read = spawn_blocking(move || bundle::read_to_judge(&bytes).map(|_| bytes));
    let read = read.await.map_err(|_| Problem::stopping())?;
    let bytes = read.map_err(|error| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "bundle", error.to_string()))?;
    let door = models::Door::Local;
    Ok(Json(app.shared.command(Command::Install { bytes, envelope, door }).await?))
}

/// Whether to collect, or only to say what would go.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Collect {
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn collect(
    State(app): State<App>,
    query: Result<Query<Collect>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Problem> {
    commanded(&app, body)?;
    let malformed =
        |rejection: QueryRejection| Problem::new(StatusCode::BAD_REQUEST, "malformed", rejection.body_text());
    let Query(Collect { dry_run }) = query.map_err(malformed)?;
    Ok(Json(app.shared.command(Command::Collect { dry: dry_run }).await?))
}

pub(super) fn commanded(app: &App, body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    if app.door == Door::Tcp {
        return Err(Problem::socket_only(&app.shared.place.socket));
    }
    body.map_err(|rejection| Problem::body(&rejection, app))
}
