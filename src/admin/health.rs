//! `/health` and `/ready`: for orchestrators and load balancers.

use super::history::rounded;
use super::{AdminState, App};
use crate::clock;
use crate::fleet::Fleet;
use crate::lifecycle::Stage;
use crate::metrics::ReloadResult;
use crate::registry::Condition;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// How the gateway is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    status: Status,
    redis: Redis,
    /// Gateways that share Redis, this one included: as last known while it is down, and as
    /// expected before it ever was up; null where `redis` is off.
    gateways: Option<u32>,
    registry: RegistryState,
    /// By upstream.
    upstreams: BTreeMap<String, Servers>,
    /// Whole seconds since the process started.
    uptime_seconds: u64,
    /// The number of the configuration that serves, 1 at the start.
    generation: u64,
    /// The process.
    pid: u32,
    /// The last reload; null: there was none.
    last_reload: Option<LastReload>,
}

/// What the last reload came to; `/config/history` says more.
#[derive(Debug, Serialize, ToSchema)]
struct LastReload {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// `ok`; `rejected`: what served before serves on; `rolled_back`: it served, a route
    /// failed, and what served before serves again.
    #[schema(value_type = ReloadResult)]
    result: &'static str,
}

impl utoipa::PartialSchema for ReloadResult {
    fn schema() -> RefOr<Schema> {
        let labels = ReloadResult::ALL.map(ReloadResult::label);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(labels)).into()
    }
}

impl ToSchema for ReloadResult {}

/// `ok` when every server of every upstream is healthy, no circuit refuses requests, the
/// registry has lost nothing and can be written, and Redis, where there is one, answers.
#[derive(Debug, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Degraded,
}

/// Whether Redis is asked for what gateways have in common.
#[derive(Debug, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Redis {
    /// It is.
    Up,
    /// It does not answer: this gateway decides alone.
    Down,
    /// None is configured.
    Off,
}

impl Redis {
    fn of(fleet: Option<&Fleet>) -> Redis {
        match fleet.map(|fleet| fleet.link.is_up()) {
            None => Redis::Off,
            Some(true) => Redis::Up,
            Some(false) => Redis::Down,
        }
    }
}

/// What becomes of changes to clients, keys and blocks.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RegistryState {
    /// They are on disk when they are answered.
    Durable,
    /// They end with the process: there is no `state_dir`.
    Memory,
    /// They are on disk, but its file was damaged at the start and kept aside.
    Anew,
    /// They are refused: its file cannot be written.
    Failing,
    /// They are refused: a successor of this process has its file.
    HandedOver,
}

impl From<Condition> for RegistryState {
    fn from(condition: Condition) -> RegistryState {
        match condition {
            Condition::Durable => RegistryState::Durable,
            Condition::InMemory => RegistryState::Memory,
            Condition::Anew => RegistryState::Anew,
            Condition::Failing => RegistryState::Failing,
            Condition::HandedOver => RegistryState::HandedOver,
        }
    }
}

/// The servers of one upstream. One is healthy that resolves, passes its checks and is not
/// drained; where there are no checks, failing requests alone do not make it unhealthy.
#[derive(Debug, Serialize, ToSchema)]
struct Servers {
    healthy: usize,
    total: usize,
}

/// Whether new requests are wanted.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// How the gateway and its upstreams are
///
/// 503 only while it cannot serve: before its listeners are open. A draining gateway still
/// serves what it has, and whoever watches its health must not kill it for that; that new
/// requests should go elsewhere is what `/ready` says.
#[utoipa::path(get, path = "/health", tag = "health", responses(
    (status = 200, description = "It serves", body = Health),
    (status = 503, description = "It cannot serve: it is starting", body = Health),
))]
pub(super) async fn health(State(app): App) -> (StatusCode, Json<Health>) {
    let stage = app.gateway.lifecycle.stage();
    let status = match stage {
        Stage::Starting => StatusCode::SERVICE_UNAVAILABLE,
        Stage::Ready | Stage::Succeeded | Stage::Draining => StatusCode::OK,
    };
    (status, Json(observe(&app, stage)))
}

fn observe(app: &AdminState, stage: Stage) -> Health {
    let generation = app.gateway.generation();
    let servers = generation.upstreams.iter().map(|upstream| {
        let (healthy, total) = upstream.counts();
        (upstream.name.to_string(), Servers { healthy, total })
    });
    let upstreams: BTreeMap<_, _> = servers.collect();
    let all_healthy = upstreams.values().all(|servers| servers.healthy == servers.total);
    // Without checks a server counts as healthy however it fails; then its circuit knows.
    let now_ns = clock::now_ns();
    let is_refusing = generation.circuits().any(|circuit| circuit.would_refuse(now_ns));
    let condition = app.gateway.registry.condition();
    let fleet = app.gateway.fleet.as_deref();
    let redis = Redis::of(fleet);
    let is_well = all_healthy
        && !is_refusing
        && stage != Stage::Starting
        && redis != Redis::Down
        && !matches!(condition, Condition::Anew | Condition::Failing);
    Health {
        status: if is_well { Status::Ok } else { Status::Degraded },
        redis,
        gateways: fleet.map(|fleet| fleet.roster.live()),
        registry: condition.into(),
        upstreams,
        uptime_seconds: app.gateway.lifecycle.uptime().as_secs(),
        generation: generation.number,
        pid: std::process::id(),
        last_reload: app
            .reloader
            .last()
            .map(|(at, result)| LastReload { at: rounded(at), result: result.label() }),
    }
}

/// Whether new requests are wanted
#[utoipa::path(get, path = "/ready", tag = "health", responses(
    (status = 200, description = "They are", body = Readiness),
    (status = 503, description = "It is starting or draining", body = Readiness),
))]
pub(super) async fn ready(State(app): App) -> (StatusCode, Json<Readiness>) {
    let reason = match app.gateway.lifecycle.stage() {
        Stage::Ready => None,
        Stage::Starting => Some("starting"),
        Stage::Succeeded | Stage::Draining => Some("draining"),
    };
    let status = reason.map_or(StatusCode::OK, |_| StatusCode::SERVICE_UNAVAILABLE);
    (status, Json(Readiness { ready: reason.is_none(), reason }))
}
