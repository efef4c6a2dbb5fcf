//! `/config`: the configuration in effect.

use super::App;
use super::problem::Problem;
use crate::config;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

const YAML: &str = "application/yaml";

/// The configuration in effect
///
/// In the shape of the file, with defaults filled in and secrets masked: as JSON, or as YAML
/// where `Accept` asks for `application/yaml`. Changes made to clients at run time are not
/// part of it.
#[utoipa::path(get, path = "/config", tag = "configuration", responses(
    (status = 200, description = "The configuration", content(
        (Object = "application/json"), (String = "application/yaml"),
    )),
))]
pub(super) async fn config(State(app): App, headers: HeaderMap) -> Result<Response, Problem> {
    let effective = config::effective(&app.gateway.generation().config);
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if !accept.is_some_and(|accept| accept.contains(YAML)) {
        return Ok(Json(effective).into_response());
    }
    let text = serde_yaml::to_string(&effective).map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("no YAML: {error}"))
    })?;
    Ok(([(header::CONTENT_TYPE, YAML)], text).into_response())
}
