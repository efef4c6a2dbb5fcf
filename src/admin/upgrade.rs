//! `/upgrade`: another process in place of this one.

use super::App;
use super::problem::{Problem, described};
use crate::handover::Failure;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

/// What took over.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Upgraded {
    /// The process that serves now.
    #[schema(example = 4711)]
    process: i32,
}

/// Replace the process by the binary that is installed now
///
/// The gateway starts the binary at its own path with its own arguments, hands it the listening
/// sockets, and drains once that process serves. No connection is refused meanwhile. If the new
/// process ends, or does not serve within 30 seconds, this one goes on as if nothing had been.
#[utoipa::path(post, path = "/upgrade", tag = "configuration", responses(
    (status = 200, description = "Another process serves; this one drains", body = Upgraded),
    NotUpgraded,
))]
pub(super) async fn upgrade(State(app): App) -> Response {
    // Whoever asked may go away; an upgrade that has begun is brought to its end all the same.
    let upgrader = app.upgrader.clone();
    let upgraded = tokio::spawn(async move { upgrader.replace().await }).await;
    match upgraded {
        Ok(Ok(process)) => Json(Upgraded { process }).into_response(),
        Ok(Err(why)) => problem(&why).into_response(),
        Err(fault) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, fault.to_string()).into_response()
        }
    }
}

fn problem(why: &Failure) -> Problem {
    let status = match why {
        Failure::UnderWay | Failure::Stopping | Failure::NotPossible | Failure::IsInit => {
            StatusCode::CONFLICT
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Problem::new(status, format!("this process serves on: {why}"))
}

/// The answers when nothing was replaced, for the OpenAPI document.
pub(super) struct NotUpgraded;

impl IntoResponses for NotUpgraded {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let not_now = described(
            "An upgrade is under way, the gateway stops, was started without a file, or is the \
             first process of its container.",
        );
        let failed = described("The new process failed; `detail` says why. This one serves on.");
        [("409".to_owned(), not_now.into()), ("500".to_owned(), failed.into())].into()
    }
}
