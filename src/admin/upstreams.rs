//! `/upstreams`: how servers stand, and taking one out without editing the file.

use super::body::Fields;
use super::problem::{BadInput, Problem, described, named};
use super::{AdminState, App};
use crate::clock;
use crate::upstream::{self, ServerView};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, ToSchema};

/// One upstream.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Upstream {
    name: String,
    /// Its places; null where any number of requests may be in flight.
    concurrency: Option<Concurrency>,
    servers: Vec<Server>,
}

/// The places of an upstream.
#[derive(Debug, Serialize, ToSchema)]
struct Concurrency {
    /// How many there are.
    max: u32,
    /// How many are taken.
    used: u32,
    /// Requests that wait for one.
    queued: u32,
}

/// One server.
#[derive(Debug, Serialize, ToSchema)]
struct Server {
    /// As configured.
    #[schema(example = "users.internal:9001")]
    configured: String,
    /// What that resolved to; null where it did not.
    #[schema(example = "192.0.2.1:9001")]
    address: Option<String>,
    weight: u32,
    /// `up`, or the lasting one of the reasons why it is not asked: `drained`, `unresolved`,
    /// `unhealthy`, `ejected`.
    #[schema(value_type = ServerState, example = "up")]
    state: &'static str,
    /// Attempts in flight.
    in_flight: u32,
    /// The average time until its answers begin; null without recent ones.
    latency_seconds: Option<f64>,
    /// How much longer it is ejected; null: it is not.
    ejected_seconds: Option<f64>,
}

/// The states of a server, for the OpenAPI document.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a value in the OpenAPI document")]
enum ServerState {
    Up,
    Drained,
    Unresolved,
    Unhealthy,
    Ejected,
}

/// What a server should be.
#[derive(ToSchema)]
pub(super) struct ServerChange {
    /// `drain`: no new requests, those in flight go on. `up`: as all others.
    #[schema(example = "drain")]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    state: WantedState,
}

/// What a server can be made, for the OpenAPI document.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a value in the OpenAPI document")]
enum WantedState {
    Drain,
    Up,
}

/// Every upstream with its servers
#[utoipa::path(get, path = "/upstreams", tag = "upstreams", responses(
    (status = 200, description = "The upstreams", body = Vec<Upstream>),
))]
pub(super) async fn upstreams(State(app): App) -> Json<Vec<Upstream>> {
    let generation = app.gateway.generation();
    Json(generation.upstreams.iter().map(|upstream| view(upstream)).collect())
}

/// Drain a server or bring it back
///
/// The address is written as in the configuration, and then stands for everything it resolves
/// to, or it is one of the addresses a name resolved to.
#[utoipa::path(put, path = "/upstreams/{upstream}/servers/{address}", tag = "upstreams",
    operation_id = "set_server_state",
    params(
        ("upstream" = String, Path, description = "The upstream's name", example = "users"),
        ("address" = String, Path, description = "The server, percent-encoded", example = "127.0.0.1:9001"),
    ),
    request_body = ServerChange,
    responses(
        (status = 200, description = "The upstream as it is now", body = Upstream),
        BadInput, NoSuchServer,
    ),
)]
pub(super) async fn set_state(
    State(app): App,
    path: Result<Path<(String, String)>, PathRejection>,
    fields: Fields,
) -> Result<Json<Upstream>, Problem> {
    let Path((upstream, address)) = path?;
    let upstream = find(&app, &upstream)?;
    fields.only(&["state"])?;
    let is_drained = fields.required("state", "drain or up", |value| match value.as_str()? {
        "drain" => Some(true),
        "up" => Some(false),
        _ => None,
    })?;
    if !upstream.set_drained(&address, is_drained) {
        let servers = upstream.servers(clock::now_ns());
        let known = named(servers.iter().map(|server| &*server.configured));
        let detail = format!("the upstream has no such server; those it has: {known}");
        return Err(Problem::missing("address", detail));
    }
    Ok(Json(view(&upstream)))
}

fn find(app: &AdminState, name: &str) -> Result<Arc<upstream::Upstream>, Problem> {
    let generation = app.gateway.generation();
    let found = generation.upstreams.iter().find(|upstream| &*upstream.name == name);
    found.cloned().ok_or_else(|| {
        let names = named(generation.upstreams.iter().map(|upstream| &*upstream.name));
        let detail = format!("there is no upstream of this name; those there are: {names}");
        Problem::missing("upstream", detail)
    })
}

pub(super) fn view(upstream: &upstream::Upstream) -> Upstream {
    Upstream {
        name: upstream.name.to_string(),
        concurrency: upstream.places.as_ref().map(|places| Concurrency {
            max: places.max(),
            used: places.used(),
            queued: places.waiting(),
        }),
        servers: upstream.servers(clock::now_ns()).iter().map(server).collect(),
    }
}

fn server(view: &ServerView) -> Server {
    Server {
        configured: view.configured.to_string(),
        address: view.address.map(|address| address.to_string()),
        weight: view.weight,
        state: view.state.label(),
        in_flight: view.in_flight,
        latency_seconds: view.latency.map(|latency| latency.as_secs_f64()),
        ejected_seconds: view.ejected_for.map(|time| time.as_secs_f64()),
    }
}

/// The answer where there is no such upstream or server, for the OpenAPI document.
pub(super) struct NoSuchServer;

impl IntoResponses for NoSuchServer {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let missing = described("There is no such upstream or server. Nothing changed.");
        [(StatusCode::NOT_FOUND.as_str().to_owned(), missing.into())].into()
    }
}
