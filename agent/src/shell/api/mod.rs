//! The local API: one router behind two doors, the socket (everything) and loopback TCP (no commands).
mod batches;
mod doors;
pub mod oip;
mod problem;
mod purge;
mod truths;
mod v1;
mod v2;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use tokio::sync::watch;

pub use doors::Doors;

use self::problem::Problem;
use super::daemon::Shared;

/// By which door a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// The socket: whoever may open it may command.
    Socket,
    /// Loopback TCP: any program and any web page of this machine.
    Tcp,
}

/// What every handler gets.
#[derive(Clone, Debug)]
struct App {
    shared: Arc<Shared>,
    door: Door,
}

/// Serves both doors until `stopped` turns true and the requests under way are answered.
pub async fn serve(doors: Doors, shared: Arc<Shared>, stopped: watch::Receiver<bool>) {
    let Doors { socket, tcp } = doors;
    let stop = |mut stopped: watch::Receiver<bool>| async move {
        // A sender that is gone means the same.
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    let local = axum::serve(socket, router(App { shared: Arc::clone(&shared), door: Door::Socket }));
    let local = local.with_graceful_shutdown(stop(stopped.clone())).into_future();
    let Some(tcp) = tcp else {
        let _ = local.await;
        return;
    };
    let remote = axum::serve(tcp, router(App { shared, door: Door::Tcp })).with_graceful_shutdown(stop(stopped));
    let _ = tokio::join!(local, remote.into_future());
}

fn router(app: App) -> Router {
    let limit = app.shared.body_bytes_max;
    let labels = (app.shared.name != oip::LABELS).then(|| {
        Router::new()
            .route("/v2/models/labels", get(truths::metadata))
            .route("/v2/models/labels/ready", get(truths::ready))
            .route("/v2/models/labels/infer", post(truths::infer))
    });
    labels
        .unwrap_or_default()
        .route("/v2", get(v2::server))
        // The specification's text has it without the slash, its OpenAPI file with it.
        .route("/v2/", get(v2::server))
        .route("/v2/health/live", get(v2::live))
        .route("/v2/health/ready", get(v2::ready))
        .route("/v2/models/{model}", get(v2::metadata))
        .route("/v2/models/{model}/ready", get(v2::model_ready))
        .route("/v2/models/{model}/infer", post(v2::infer))
        .route("/v2/models/{model}/versions/{version}", get(v2::metadata_of))
        .route("/v2/models/{model}/versions/{version}/ready", get(v2::model_ready_of))
        .route("/v2/models/{model}/versions/{version}/infer", post(v2::infer_of))
        .route("/v1/samples", post(batches::samples))
        .route("/v1/labels", post(batches::labels))
        .route("/v1/status", get(v1::status))
        .route("/v1/drift", get(v1::drift))
        .route("/v1/models", get(v1::models).post(v1::offer))
        .route("/v1/models/collect", post(v1::collect))
        .route("/v1/records", get(v1::records))
        .route("/v1/reports", get(v1::reports))
        .route("/v1/runs", get(v1::runs))
        .route("/v1/label-requests", get(v1::label_requests))
        .route("/v1/explain", get(v1::explain))
        .route("/v1/rebaseline", post(v1::rebaseline))
        .route("/v1/purge", post(purge::purge))
        .route("/v1/energy", get(v1::energy))
        .route("/v1/plan", get(v1::plan))
        .route("/v1/lineage", get(v1::lineage))
        .route("/v1/commands", post(v1::command))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(limit))
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Refuses what a web page of another origin, or a name that was bound to this address, could send here.
async fn guard(State(app): State<App>, request: Request<axum::body::Body>, next: Next) -> Result<Response, Problem> {
    if app.door == Door::Tcp {
        let header =
            |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default().to_owned());
        let host = header("host").unwrap_or_default();
        if !doors::is_local(&host) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "host",
                format!("the host `{host}` is not this machine: use 127.0.0.1 or localhost"),
            ));
        }
        let origin =
            header("origin").map(|origin| origin.split_once("://").map_or(origin.clone(), |(_, host)| host.to_owned()));
        if origin.is_some_and(|origin| !doors::is_local(&origin)) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "origin", "requests of other web pages are not answered"));
        }
    }
    if let Some(problem) = other_form(request.headers()) {
        return Err(problem.counted(&app));
    }
    Ok(next.run(request).await)
}

/// Forms of a body that are not offered here, and that would be read as broken JSON.
fn other_form(headers: &HeaderMap) -> Option<Problem> {
    if headers.contains_key("inference-header-content-length") {
        let error = "binary tensors are an extension that is not offered here (`GET /v2` lists none): send their values as JSON in `data`";
        return Some(Problem::new(StatusCode::BAD_REQUEST, "binary_tensors", error));
    }
    let coding = headers.get("content-encoding")?.to_str().unwrap_or("that form");
    let error = format!("a body in `{coding}` is not unpacked here: send it as it is");
    let known = coding.eq_ignore_ascii_case("identity");
    (!known).then(|| Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_encoding", error))
}

async fn unknown(request: Request<axum::body::Body>) -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "unknown_path", format!("there is no {} here", request.uri().path()))
}

async fn wrong_method(request: Request<axum::body::Body>) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong_method",
        format!("{} does not take {}", request.uri().path(), request.method()),
    )
}
