//! `POST /v1/purge`: deletes the records of a time span, as `data.purge` of the fleet does.
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::App;
use super::problem::Problem;
use super::v1::{commanded, moment};
use crate::shell::daemon::Command;

/// What goes: the records taken from the first moment on, up to the second.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Span {
    since: String,
    until: String,
}

pub(super) async fn purge(State(app): State<App>, body: Result<Bytes, BytesRejection>) -> Result<Json<Value>, Problem> {
    let body = commanded(&app, body)?;
    let malformed = |reason: String| Problem::new(StatusCode::BAD_REQUEST, "malformed", reason);
    let Span { since, until } =
        serde_json::from_slice(&body).map_err(|error| malformed(format!("not a time span: {error}")))?;
    let (since, until) = (moment("since", &since)?, moment("until", &until)?);
    let answer = app.shared.command(Command::Purge { since, until }).await?;
    let snapshots = answer["snapshots"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let purged = app.shared.purge(since, until, snapshots, "the owner").await;
    purged.map(Json).map_err(|reason| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "disk", reason))
}
