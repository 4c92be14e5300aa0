//! An error as it is answered: `{"error", "code", "field"?}` with its status.
use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::App;
use crate::shell::daemon::Declined;
use crate::shell::ingest::samples::SampleError;

/// A request that is not followed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    error: String,
    code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &str, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), code: code.to_owned(), field: None }
    }

    /// The device has no model yet.
    pub(super) fn no_model() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_model",
            "this device has no model yet: start it with `hone run --model FILE`",
        )
    }

    /// Commands came over TCP.
    pub(super) fn socket_only(socket: &std::path::Path) -> Self {
        let error = format!("commands are taken on the socket only: use `hone`, or {}", socket.display());
        Self::new(StatusCode::FORBIDDEN, "socket_only", error)
    }

    /// The agent is on its way out.
    pub(super) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the agent is stopping: try again in a few seconds")
    }

    /// Counts the refusal by its code, for status.
    pub(super) fn counted(self, app: &App) -> Self {
        app.shared.counters.refuse(&self.code);
        self
    }

    /// A body that could not be read whole.
    pub(super) fn body(rejection: &BytesRejection, app: &App) -> Self {
        let problem = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let limit = app.shared.body_bytes_max;
            Self::new(
                rejection.status(),
                "body_too_large",
                format!("a body has at most {limit} bytes here (`agent.body_bytes_max`): send several"),
            )
        } else {
            Self::new(rejection.status(), "malformed", rejection.body_text())
        };
        problem.counted(app)
    }
}

impl From<SampleError> for Problem {
    fn from(error: SampleError) -> Self {
        let field = error.field().map(str::to_owned);
        Self { field, ..Self::new(StatusCode::BAD_REQUEST, error.code(), error.to_string()) }
    }
}

impl From<Declined> for Problem {
    fn from(declined: Declined) -> Self {
        let status = match declined.code {
            "no_model" | "stopping" | "disk" => StatusCode::SERVICE_UNAVAILABLE,
            "schema" | "bundle" => StatusCode::UNPROCESSABLE_ENTITY,
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, declined.code, declined.reason)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(self)).into_response()
    }
}
