//! Labels over the Open Inference Protocol: whoever can ask a model can tell `labels` what was true.
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use trainer_core::schema::Task;

use super::App;
use super::batches::{self, PORTION};
use super::oip::{LABELS, LabelsRequest, ModelMetadata, ModelReady, labels_metadata};
use super::problem::Problem;
use crate::shell::ingest::samples::LineError;

pub(super) async fn metadata(State(app): State<App>) -> Result<Json<ModelMetadata>, Problem> {
    let serving = app.shared.slot.serving().ok_or_else(|| Problem::no_model().counted(&app))?;
    let is_class = matches!(serving.champion.model.schema().task, Task::Classification { .. });
    Ok(Json(labels_metadata(is_class)))
}

pub(super) async fn ready(State(app): State<App>) -> Response {
    // What a truth means, only a model can tell.
    let ready = app.shared.slot.serving().is_some();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ModelReady { name: LABELS.to_owned(), ready })).into_response()
}

pub(super) async fn infer(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Json<Value>, Problem> {
    let body = body.map_err(|rejection| Problem::body(&rejection, &app))?;
    let serving = app.shared.slot.serving().ok_or_else(|| Problem::no_model().counted(&app))?;
    let mut request = LabelsRequest::parse(&body).map_err(|error| Problem::from(error).counted(&app))?;
    let labels = std::mem::take(&mut request.labels).into_iter();
    let lines: Vec<_> =
        (1..).zip(labels).map(|(line, label)| (line, label.map_err(|error| LineError { line, error }))).collect();
    let schema = serving.champion.model.schema().clone();
    // A task of its own: a stored label reaches the loop also if whoever sent it hangs up.
    let answers = tokio::spawn(async move {
        let mut answers = Vec::with_capacity(lines.len());
        for portion in lines.chunks(PORTION) {
            batches::store(&app, &schema, portion, &mut answers).await;
        }
        answers
    });
    let answers = answers.await.map_err(|_| Problem::stopping())?;
    let mut response = json!({"model_name": LABELS, "model_version": "1", "outputs": request.outputs(&answers)});
    if let Some(id) = request.id {
        response["id"] = json!(id);
    }
    Ok(Json(response))
}
