//! Samples and labels as NDJSON: one answer per line, a bad line is refused alone.
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use trainer_core::schema::Schema;

use super::App;
use super::problem::Problem;
use crate::shell::daemon::NoNumber;
use crate::shell::inference::Serving;
use crate::shell::ingest::intake::{self, Taken};
use crate::shell::ingest::samples::{Label, LineError, Sample, parse_labels, parse_samples};
use crate::shell::ingest::window::Layout;
use crate::shell::ingest::{answers, labels};

/// Labels of one batch that are handed over at once; a longer batch waits for the recorder in between.
pub(super) const PORTION: usize = 256;
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
    let layout = app.shared.intake.layout(serving.champion.model.schema());
    let parsed = parse_samples(&body, &layout.readings);
    if parsed.is_empty() {
        return Err(empty(&app));
    }
    let mut answers = Vec::with_capacity(parsed.len());
    let mut accepted = 0_usize;
    for (line, sample) in numbered(&body).zip(parsed) {
        match sample {
            Ok(sample) => {
                accepted += 1;
                // The batch waits, so that its own size never fills a queue.
                intake::room(&app.shared).await;
                // Nor does it hold this thread: others ask meanwhile.
                tokio::task::consume_budget().await;
                answers.push(answer(&app, &serving, &layout, &sample, line));
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

fn answer(app: &App, serving: &Serving, layout: &Layout, sample: &Sample, line: usize) -> Value {
    let mut object = match intake::take(&app.shared, serving, layout, sample) {
        Taken::Answered(answered) => Value::Object(answers::answered(serving.champion.model.schema(), &answered)),
        Taken::Refused(refused) => json!({"code": NoNumber::CODE, "error": refused.to_string()}),
        Taken::Kept(readings) => json!({"kept": readings}),
        Taken::Late => json!({"late": true}),
    };
    object["line"] = json!(line);
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

/// Hands labels over and waits for them; a bad one is answered alone.
pub(super) async fn store(
    app: &App,
    schema: &Schema,
    portion: &[(usize, Result<Label, LineError>)],
    answers: &mut Vec<Value>,
) {
    let mut waiting = Vec::with_capacity(portion.len());
    for (line, label) in portion {
        waiting.push(match label {
            Err(error) => Err(refused(app, error)),
            Ok(label) => match labels::queue(&app.shared, schema, label, SOURCE).await {
                Err(error) => Err(refused(app, &LineError { line: *line, error })),
                Ok(queued) => Ok((*line, queued)),
            },
        });
    }
    for entry in waiting {
        answers.push(match entry {
            Err(refusal) => refusal,
            Ok((line, queued)) => {
                let (_, mut object) = labels::settle(&app.shared, schema, queued).await;
                object["line"] = json!(line);
                object
            }
        });
    }
}
