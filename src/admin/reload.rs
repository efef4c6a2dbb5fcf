//! `/reload`: the configuration's file, read again.

use super::problem::{Problem, described};
use super::{AdminState, App};
use crate::config::{Finding, LoadError};
use crate::reload::{self, Rejected, Reloaded};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

/// Findings that are told; a file of nothing but errors could have very many.
const MAX_TOLD: usize = 1_000;

/// What a reload came to.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Outcome {
    /// The number of the configuration that serves now; 1 at the start.
    #[schema(example = 2)]
    generation: u64,
    /// What changed, by key.
    #[schema(example = json!(["routes.users: changed"]))]
    changed: Vec<String>,
    /// What may not have been meant, and what takes effect only after a restart.
    warnings: Vec<String>,
}

/// Read the configuration's file again
///
/// The new configuration is checked and built beside the one that serves, and takes its place
/// for requests that begin from then on. What keeps its name keeps its state: buckets,
/// circuits, servers, counters. Anything wrong with the file, and nothing changes.
#[utoipa::path(post, path = "/reload", tag = "configuration", responses(
    (status = 200, description = "The new configuration serves", body = Outcome),
    NotReloaded,
))]
pub(super) async fn reload(State(app): App) -> Response {
    answer(&app, app.reloader.reload().await)
}

/// The answer to whoever asked for a reload.
pub(super) fn answer(app: &AdminState, result: reload::Outcome) -> Response {
    match result {
        Ok(reloaded) => Json(outcome(app, reloaded)).into_response(),
        Err(why) => problem(app, &why).into_response(),
    }
}

fn outcome(app: &AdminState, reloaded: Reloaded) -> Outcome {
    Outcome {
        generation: reloaded.generation,
        changed: reloaded.changed,
        warnings: told(app, &reloaded.warnings),
    }
}

fn problem(app: &AdminState, why: &Rejected) -> Problem {
    let detail =
        format!("the old configuration serves on: {}", why.to_string().replace('\n', "; "));
    match why {
        Rejected::Load(LoadError::Invalid(findings)) => {
            let count = findings.len();
            let detail = format!("the file has {count} errors; the old configuration serves on");
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_errors(told(app, findings))
        }
        Rejected::Load(_) => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
        Rejected::NotKept { .. } => Problem::missing("generation", why.to_string()),
        Rejected::Busy => Problem::new(StatusCode::TOO_MANY_REQUESTS, why.to_string()),
        Rejected::NoFile => Problem::new(StatusCode::CONFLICT, detail),
        Rejected::Broken(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail),
    }
}

fn told(app: &AdminState, findings: &[Finding]) -> Vec<String> {
    let tell = |finding: &Finding| match app.reloader.file() {
        Some(file) => finding.in_file(file).to_string(),
        None => finding.to_string(),
    };
    findings.iter().take(MAX_TOLD).map(tell).collect()
}

/// The answers when nothing was reloaded, for the OpenAPI document.
pub(super) struct NotReloaded;

impl IntoResponses for NotReloaded {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let wrong = described("The file is wrong; `errors` lists all of it. Nothing changed.");
        let none = described("The gateway was started without a file. Nothing changed.");
        [("409".to_owned(), none.into()), ("422".to_owned(), wrong.into())].into()
    }
}
