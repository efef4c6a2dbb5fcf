//! `/circuit-breakers`: how circuits stand, and opening or closing one by hand.

use super::body::Fields;
use super::problem::{BadInput, Problem, described, named};
use super::{AdminState, App};
use crate::clock;
use crate::config;
use crate::policy::share::Share;
use crate::upstream::circuit::{Circuit, ForceTo};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp, Unit};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, ToSchema};

/// How long a forced state lasts when the request does not say.
const DEFAULT_TTL: Duration = Duration::from_secs(600);
/// The shortest and the longest a forced state may last.
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3_600);

/// One circuit.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CircuitBreaker {
    /// An upstream's name, or `route:<name>` for the circuit a route has of its own.
    #[schema(example = "users")]
    name: String,
    #[schema(value_type = CircuitState, example = "closed")]
    state: &'static str,
    /// Why it is not closed; null while it is.
    #[schema(example = "5 failures in a row")]
    reason: Option<String>,
    /// When it opened last, to the millisecond; null while it is closed.
    #[schema(value_type = Option<String>, format = DateTime)]
    opened_at: Option<Timestamp>,
    /// Whole seconds, what `Retry-After` says to a request that is refused now; null while
    /// none is refused for certain.
    retry_after_seconds: Option<u64>,
    /// Failures in a row; while it is not closed, those from before it opened.
    failures: u32,
    /// Openings in a row, which the cooldown grows with.
    openings: u32,
    /// What the last calls came to.
    window: Window,
    /// Seconds until a probe can pass; 0 when one can now, null when none is due.
    next_probe_seconds: Option<f64>,
    /// Probes on their way, and those that succeeded since it became half-open.
    probes: Probes,
    /// The share of the load that passes while it ramps up after closing.
    ramp: Option<f64>,
    /// When the state that an operator forced ends; null: nothing is forced.
    #[schema(value_type = Option<String>, format = DateTime)]
    forced_until: Option<Timestamp>,
    /// Until when fewer failures open it, because another gateway opened its own; null: as many
    /// as its policy says.
    #[schema(value_type = Option<String>, format = DateTime)]
    hinted_until: Option<Timestamp>,
    /// Whether it opens by itself; one without a policy is opened by operators alone.
    automatic: bool,
}

/// The states of a circuit, for the OpenAPI document.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "describes a value in the OpenAPI document")]
enum CircuitState {
    Closed,
    Open,
    HalfOpen,
}

/// Calls in the sliding window; while the circuit is not closed, as they were when it opened.
#[derive(Debug, Serialize, ToSchema)]
struct Window {
    calls: u32,
    failures: u32,
    /// Those that took longer than the policy's `slow_call`.
    slow: u32,
}

/// Probes of a half-open circuit.
#[derive(Debug, Serialize, ToSchema)]
struct Probes {
    /// On their way.
    out: u32,
    /// Of those sent since it became half-open.
    succeeded: u32,
}

/// What to force a circuit to.
#[derive(ToSchema)]
pub(super) struct Force {
    /// `open` refuses every request, `closed` lets every request pass, `auto` ends both.
    #[schema(example = "open")]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    force: ForcedState,
    /// How long, from 1s to 168h; 10m when absent. With `auto` it means nothing.
    #[schema(example = "10m", default = "10m")]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    ttl: Option<String>,
}

/// What a circuit can be forced to, for the OpenAPI document.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "describes a value in the OpenAPI document")]
enum ForcedState {
    Open,
    Closed,
    Auto,
}

/// Every circuit
///
/// Those of the upstreams first, then those that routes have of their own.
#[utoipa::path(get, path = "/circuit-breakers", tag = "upstreams", responses(
    (status = 200, description = "The circuits", body = Vec<CircuitBreaker>),
))]
pub(super) async fn circuits(State(app): App) -> Json<Vec<CircuitBreaker>> {
    let generation = app.gateway.generation();
    Json(generation.circuits().map(|circuit| view(circuit)).collect())
}

/// Open or close a circuit by hand
///
/// It acts on the next request. When the time is over the circuit goes on by itself: from
/// open by probing, from closed with nothing held against the upstream.
#[utoipa::path(post, path = "/circuit-breakers/{name}", tag = "upstreams",
    operation_id = "force_circuit",
    params(("name" = String, Path, description = "An upstream's name, or route:NAME",
        example = "users")),
    request_body = Force,
    responses(
        (status = 200, description = "The circuit as it is now", body = CircuitBreaker),
        BadInput, NoSuchCircuit,
    ),
)]
pub(super) async fn force(
    State(app): App,
    name: Result<Path<String>, PathRejection>,
    fields: Fields,
) -> Result<Json<CircuitBreaker>, Problem> {
    let circuit = find(&app, &name?)?;
    fields.only(&["force", "ttl"])?;
    let ttl = match fields.optional("ttl", "a duration such as 10m", |value| value.as_str())? {
        Some(text) => config::duration(text, MIN_TTL..=MAX_TTL)
            .map_err(|message| Problem::field("ttl", format!("ttl: {message}")))?,
        None => DEFAULT_TTL,
    };
    let now_ns = clock::now_ns();
    let until_ns = now_ns + ttl.as_nanos() as u64;
    let to =
        fields.required("force", "one of open, closed, auto", |value| match value.as_str()? {
            "open" => Some(ForceTo::Open { until_ns }),
            "closed" => Some(ForceTo::Closed { until_ns }),
            "auto" => Some(ForceTo::Auto),
            _ => None,
        })?;
    circuit.force(to, now_ns);
    Ok(Json(view(&circuit)))
}

fn find(app: &AdminState, name: &str) -> Result<Arc<Circuit>, Problem> {
    let generation = app.gateway.generation();
    let found = generation.circuits().find(|circuit| &**circuit.name() == name);
    found.cloned().ok_or_else(|| {
        let names = named(generation.circuits().map(|circuit| &**circuit.name()));
        let detail = format!("there is no circuit of this name; those there are: {names}");
        Problem::missing("name", detail)
    })
}

pub(super) fn view(circuit: &Circuit) -> CircuitBreaker {
    let now_ns = clock::now_ns();
    let now = clock::timestamp();
    // The breaker's clock has no calendar, so what is shown is reckoned from the present.
    // Finer than this the same instant would come out differently each time.
    let at = |ns: u64| {
        let offset = i128::from(ns) - i128::from(now_ns);
        let instant = now.checked_add(SignedDuration::from_nanos_i128(offset)).ok()?;
        instant.round(Unit::Millisecond).ok()
    };
    let view = circuit.view(now_ns);
    let window = &view.window;
    CircuitBreaker {
        name: circuit.name().to_string(),
        state: view.state.label(),
        reason: view.reason.map(|reason| reason.to_string()),
        opened_at: view.opened_at_ns.and_then(at),
        retry_after_seconds: view.retry_after_ns.map(|ns| ns.div_ceil(1_000_000_000)),
        failures: view.failures,
        openings: view.openings,
        window: Window { calls: window.calls, failures: window.failures, slow: window.slow },
        next_probe_seconds: view.next_probe_in_ns.map(|ns| ns as f64 / 1e9),
        probes: Probes { out: view.probes_out, succeeded: view.probes_succeeded },
        ramp: view.ramp.map(Share::fraction),
        forced_until: view.forced_until_ns.and_then(at),
        hinted_until: view.hinted_until_ns.and_then(at),
        automatic: circuit.policy().is_some(),
    }
}

/// The answer where there is no such circuit, for the OpenAPI document.
pub(super) struct NoSuchCircuit;

impl IntoResponses for NoSuchCircuit {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let missing = described("There is no such circuit. Nothing changed.");
        [(StatusCode::NOT_FOUND.as_str().to_owned(), missing.into())].into()
    }
}
