//! The Open Inference Protocol v2 over HTTP.
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tokio::task::spawn_blocking;
use trainer_core::digest::Digest;

use super::App;
use super::oip::{self, Health, InferRequest, InferResponse, ModelMetadata, ModelReady, Served, ServerMetadata};
use super::problem::Problem;
use crate::shell::clock;
use crate::shell::daemon::{NoNumber, Origin};
use crate::shell::inference::{Loaded, Role, Serving};
use crate::shell::ingest::window::{Layout, Pushed};

/// Source of samples whose request names none.
const SOURCE: &str = "http";

pub(super) async fn server() -> Json<ServerMetadata> {
    Json(oip::server_metadata(env!("CARGO_PKG_VERSION")))
}

pub(super) async fn live() -> Json<Health> {
    Json(Health { live: true })
}

pub(super) async fn ready(State(app): State<App>) -> Response {
    let live = app.shared.slot.serving().is_some();
    let status = if live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Health { live })).into_response()
}

pub(super) async fn metadata(
    State(app): State<App>,
    Path(model): Path<String>,
) -> Result<Json<ModelMetadata>, Problem> {
    describe(&app, &model, None)
}

pub(super) async fn metadata_of(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Json<ModelMetadata>, Problem> {
    fetch(&app, &version).await;
    describe(&app, &model, Some(&version))
}

fn describe(app: &App, model: &str, version: Option<&str>) -> Result<Json<ModelMetadata>, Problem> {
    let (serving, pinned) = find(app, model, version)?;
    let (loaded, versions) = (pinned.as_ref().unwrap_or(&serving.champion), serving.versions());
    Ok(Json(oip::model_metadata(&app.shared.name, versions, loaded.model.schema())))
}

pub(super) async fn model_ready(State(app): State<App>, Path(model): Path<String>) -> Result<Response, Problem> {
    is_ready(&app, &model, None)
}

pub(super) async fn model_ready_of(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
) -> Result<Response, Problem> {
    fetch(&app, &version).await;
    is_ready(&app, &model, Some(&version))
}

fn is_ready(app: &App, model: &str, version: Option<&str>) -> Result<Response, Problem> {
    if app.shared.slot.serving().is_none() && model == app.shared.name {
        let body = Json(ModelReady { name: model.to_owned(), ready: false });
        return Ok((StatusCode::SERVICE_UNAVAILABLE, body).into_response());
    }
    find(app, model, version)?;
    Ok(Json(ModelReady { name: model.to_owned(), ready: true }).into_response())
}

pub(super) async fn infer(
    State(app): State<App>,
    Path(model): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<InferResponse>, Problem> {
    respond(&app, &model, None, body)
}

pub(super) async fn infer_of(
    State(app): State<App>,
    Path((model, version)): Path<(String, String)>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<InferResponse>, Problem> {
    fetch(&app, &version).await;
    respond(&app, &model, Some(&version), body)
}

/// Loads a kept version that is not in memory; the disk is read on a thread of its own.
async fn fetch(app: &App, version: &str) {
    let Ok(digest) = version.parse() else { return };
    let (slot, shared) = (&app.shared.slot, Arc::clone(&app.shared));
    let loaded =
        slot.serving().is_some_and(|serving| serving.version(&digest).is_some()) || slot.pinned(&digest).is_some();
    if !loaded {
        // A version that cannot be loaded is answered as one that is not kept.
        let _ = spawn_blocking(move || shared.load_pinned(&digest)).await;
    }
}

/// Answers in this thread: an answer takes microseconds, handing it over would take longer.
fn respond(
    app: &App,
    model: &str,
    version: Option<&str>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<InferResponse>, Problem> {
    let body = body.map_err(|rejection| Problem::body(&rejection, app))?;
    let (serving, pinned) = find(app, model, version)?;
    let schema = serving.champion.model.schema();
    let layout = app.shared.intake.layout(schema);
    let parsed = InferRequest::parse(&body, schema, &layout.readings);
    let mut request = parsed.map_err(|error| Problem::from(error).counted(app))?;
    app.shared.counters.accept(&request.counts);
    let (rows, told) = rows(app, &layout, &mut request);
    let origin = Origin {
        source: request.source.as_deref().unwrap_or(SOURCE),
        segment: request.segment.as_deref(),
        event_at: request.time,
        arrived_at: clock::now(),
    };
    let answered = app.shared.answer(&serving, pinned.as_ref(), rows, origin).map_err(|refused| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, NoNumber::CODE, refused.to_string()).counted(app)
    })?;
    let (digest, role) = answered.by;
    let previous = serving.previous.as_ref().is_some_and(|previous| previous.digest == digest);
    let served_by = match role {
        Role::Pinned if previous => "previous",
        role => role.as_str(),
    };
    let served = Served {
        record_id: String::new(),
        served_by: served_by.to_owned(),
        digest: digest.to_string(),
        stored: answered.stored,
        adaptation: u64::try_from(answered.adaptation).ok().filter(|number| *number > 0),
        kept: told.map(|(kept, _)| kept),
        late: told.map(|(_, late)| late),
    };
    let ids = answered.ids.iter().map(ToString::to_string).collect();
    Ok(Json(InferResponse::new(&app.shared.name, schema, &request, &answered.answers, ids, served)))
}

/// The rows to be answered; of readings those that they complete, and how many of them were kept, and late.
fn rows(app: &App, layout: &Layout, request: &mut InferRequest) -> (Vec<f32>, Option<(usize, usize)>) {
    let taken = std::mem::take(&mut request.rows);
    if !request.readings {
        return (taken, None);
    }
    let source = request.source.as_deref().unwrap_or(SOURCE);
    let (mut rows, mut kept, mut late) = (Vec::new(), 0, 0);
    request.count = 0;
    for reading in taken.chunks_exact(layout.readings.features.len().max(1)) {
        match app.shared.intake.reading(layout, source, request.time, reading) {
            Pushed::Row(row) => {
                request.count += 1;
                rows.extend(row);
            }
            Pushed::Kept(_) => kept += 1,
            Pushed::Late => late += 1,
        }
    }
    (rows, Some((kept, late)))
}

/// Who serves, and the version that is named, if it is in memory. The champion named by its digest answers without its mixture.
fn find(app: &App, model: &str, version: Option<&str>) -> Result<(Arc<Serving>, Option<Loaded>), Problem> {
    if model != app.shared.name {
        let error = format!("there is no model `{model}` here, only `{}`", app.shared.name);
        return Err(Problem::new(StatusCode::NOT_FOUND, "unknown_model", error).counted(app));
    }
    let serving = app.shared.slot.serving().ok_or_else(|| Problem::no_model().counted(app))?;
    let Some(version) = version else {
        return Ok((serving, None));
    };
    let kept = |digest: &Digest| serving.kept.contains(digest);
    let known = version.parse().ok().filter(kept);
    let found = known.and_then(|digest| serving.version(&digest).cloned().or_else(|| app.shared.slot.pinned(&digest)));
    match found {
        Some(loaded) => Ok((serving, Some(loaded))),
        None => {
            let error = format!("version `{version}` is not kept, only {}", serving.versions().join(", "));
            Err(Problem::new(StatusCode::NOT_FOUND, "unknown_version", error).counted(app))
        }
    }
}
