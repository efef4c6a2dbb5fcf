//! `/config/history`: the configurations that served, and going back to one.

use super::App;
use super::problem::{Problem, described};
use super::reload::{Outcome, answer};
use crate::reload::{Entry, OnTrial, Rejection};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::{Timestamp, Unit};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

/// The configurations so far.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct History {
    /// The last ten generations, the newest first.
    generations: Vec<PastGeneration>,
    /// The last reload that was rejected; null: none was.
    last_rejection: Option<RejectedReload>,
    /// The generation that is watched; null: none is.
    on_trial: Option<Trial>,
}

/// A generation that serves or served.
#[derive(Debug, Serialize, ToSchema)]
struct PastGeneration {
    #[schema(example = 2)]
    generation: u64,
    /// When it began to serve.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Why it came: `start`, `reload`, `watch_file`, `rollback` or `restored`.
    #[schema(example = "reload")]
    cause: &'static str,
    /// The generation whose configuration serves again; null unless it is one.
    goes_back_to: Option<u64>,
    /// What it changed, by key.
    #[schema(example = json!(["routes.users: changed"]))]
    changed: Vec<String>,
    /// Whether it serves now.
    serving: bool,
    /// Why it was taken back; null: it was not.
    rolled_back: Option<String>,
    /// Whether it can be gone back to. Of very large files fewer than ten are kept.
    kept: bool,
}

/// A reload that changed nothing.
#[derive(Debug, Serialize, ToSchema)]
struct RejectedReload {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// What asked for it, as the `cause` of a generation.
    cause: &'static str,
    /// Why it was rejected.
    detail: String,
}

/// A generation that is watched since it was taken (`server.reload_watch`).
#[derive(Debug, Serialize, ToSchema)]
struct Trial {
    generation: u64,
    /// The generation whose configuration serves again if this one fails.
    goes_back_to: u64,
    /// How much longer it is watched.
    seconds_left: f64,
}

/// Finer than this nobody needs to know when something was reloaded.
pub(super) fn rounded(at: Timestamp) -> Timestamp {
    at.round(Unit::Millisecond).unwrap_or(at)
}

impl PastGeneration {
    fn of(entry: &Entry, serving: u64) -> PastGeneration {
        PastGeneration {
            generation: entry.generation,
            at: rounded(entry.at),
            cause: entry.cause.label(),
            goes_back_to: entry.cause.goes_back_to(),
            changed: entry.changed.to_vec(),
            serving: entry.generation == serving,
            rolled_back: entry.rolled_back.as_deref().map(str::to_owned),
            kept: entry.is_kept(),
        }
    }
}

impl From<Rejection> for RejectedReload {
    fn from(rejection: Rejection) -> RejectedReload {
        RejectedReload {
            at: rounded(rejection.at),
            cause: rejection.cause.label(),
            detail: rejection.why.to_string(),
        }
    }
}

impl From<OnTrial> for Trial {
    fn from(trial: OnTrial) -> Trial {
        Trial {
            generation: trial.generation,
            goes_back_to: trial.goes_back_to,
            seconds_left: (trial.left_ns / 1_000_000) as f64 / 1e3,
        }
    }
}

/// The configurations so far
///
/// The last ten generations with what each changed, and why one was taken back; the last reload
/// that was rejected; and the generation that is being watched.
#[utoipa::path(get, path = "/config/history", tag = "configuration", responses(
    (status = 200, description = "The history", body = History),
))]
pub(super) async fn history(State(app): App) -> Json<History> {
    let serving = app.gateway.generation().number;
    let entries = app.reloader.history();
    Json(History {
        generations: entries.iter().map(|entry| PastGeneration::of(entry, serving)).collect(),
        last_rejection: app.reloader.last_rejection().map(Into::into),
        on_trial: app.reloader.on_trial().map(Into::into),
    })
}

/// Go back to a configuration
///
/// The configuration of one of the last ten generations serves again, as a new generation. It
/// is taken like one from the file: what keeps its name keeps its state. The file stays as it
/// is, and the next reload reads it.
#[utoipa::path(post, path = "/config/history/{generation}", tag = "configuration",
    params(("generation" = u64, Path, description = "Its number", example = 2)),
    responses(
        (status = 200, description = "The configuration serves again", body = Outcome),
        NotRestored,
    ),
)]
pub(super) async fn restore(
    State(app): App,
    generation: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(text) = generation?;
    let generation = text.parse().map_err(|_| {
        Problem::field("generation", "generation is wrong; it must be a number such as 2")
    })?;
    Ok(answer(&app, app.reloader.restore(generation).await))
}

/// The answers when nothing was restored, for the OpenAPI document.
pub(super) struct NotRestored;

impl IntoResponses for NotRestored {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let wrong = described("What is in the path is no number. Nothing changed.");
        let missing = described("The generation is not, or no longer, kept. Nothing changed.");
        let busy = described("Too many others go back at this moment. Nothing changed.");
        let answers = [("400", wrong), ("404", missing), ("429", busy)];
        answers.map(|(status, answer)| (status.to_owned(), answer.into())).into()
    }
}
