//! `/routes`: the routing table.

use super::App;
use super::limits::{CountedBy, LimitCharge};
use super::resilience::{Breaker, Retry};
use crate::config::{self, Auth};
use crate::gateway;
use crate::policy::limit::{Limit, Role};
use crate::policy::precedence::Rank;
use crate::policy::route::{HostMatch, PathMatch};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// One route.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Route {
    name: String,
    /// Empty: any. `*.example.com` is every host below that domain.
    hosts: Vec<String>,
    /// Empty: any.
    methods: Vec<String>,
    path: RoutePath,
    upstream: Option<String>,
    cost: RouteCost,
    limit: Option<OwnLimit>,
    auth: RouteAuth,
    /// The longest a whole request may take.
    timeout_seconds: Option<f64>,
    /// The largest request body.
    max_body_bytes: Option<u64>,
    strip_prefix: Option<String>,
    /// Null: a failed attempt is the last.
    retry: Option<Retry>,
    /// The name of the circuit its requests pass: its upstream's, or its own.
    #[schema(example = "route:users")]
    circuit: String,
    /// The policy of its own circuit; null: it has none and shares its upstream's.
    breaker: Option<Breaker>,
}

/// The paths a route takes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RoutePath {
    kind: PathKind,
    value: String,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum PathKind {
    Exact,
    Pattern,
    Prefix,
}

/// Tokens a request costs: one number, or one for each method, `default` for the rest.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum RouteCost {
    Any(u32),
    ByMethod(BTreeMap<String, u32>),
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum RouteAuth {
    None,
    Required,
}

/// A route's own limit.
#[derive(Debug, Serialize, ToSchema)]
struct OwnLimit {
    #[schema(example = "route:users")]
    policy: String,
    key: CountedBy,
    #[schema(example = "100/m")]
    rate: String,
    burst: u64,
    cost: LimitCharge,
}

/// The routing table as loaded, in matching order
///
/// The more specific route comes first: by host, then by path (exact, pattern, longer
/// prefix), then by method, then by place in the file. A route with several hosts stands
/// where the most specific of them puts it.
#[utoipa::path(get, path = "/routes", tag = "configuration", responses(
    (status = 200, description = "The routes", body = Vec<Route>),
))]
pub(super) async fn routes(State(app): App) -> Json<Vec<Route>> {
    let generation = app.gateway.generation();
    let mut routes: Vec<_> = generation.config.routes.iter().zip(&generation.routes).collect();
    // The sort is stable, which leaves equals in the order of the file.
    routes.sort_by_cached_key(|(route, _)| Rank::of(route.matching()));
    let upstreams = &generation.config.upstreams;
    Json(routes.into_iter().map(|(route, at_work)| view(route, at_work, upstreams)).collect())
}

fn view(route: &config::Route, at_work: &gateway::Route, upstreams: &[config::Upstream]) -> Route {
    let (kind, path) = match &route.path {
        PathMatch::Exact(path) => (PathKind::Exact, path),
        PathMatch::Pattern(path) => (PathKind::Pattern, path),
        PathMatch::Prefix(path) => (PathKind::Prefix, path),
    };
    let host = |host: &HostMatch| match host {
        HostMatch::Exact(host) => host.clone(),
        HostMatch::Suffix(domain) => format!("*.{domain}"),
    };
    Route {
        name: route.name.to_string(),
        hosts: route.hosts.iter().map(host).collect(),
        methods: route.methods.iter().map(ToString::to_string).collect(),
        path: RoutePath { kind, value: path.clone() },
        upstream: upstreams.get(route.upstream).map(|upstream| upstream.name.to_string()),
        cost: cost(&route.cost),
        limit: route.limits.iter().find(|limit| limit.role == Role::Rate).map(OwnLimit::from),
        auth: match route.auth {
            Auth::None => RouteAuth::None,
            Auth::Required => RouteAuth::Required,
        },
        timeout_seconds: route.timeout.map(|timeout| timeout.as_secs_f64()),
        max_body_bytes: route.max_body,
        strip_prefix: route.strip_prefix.clone(),
        retry: route.retry.as_ref().map(Retry::from),
        circuit: at_work.circuit.name().to_string(),
        breaker: route.breaker.as_ref().map(Breaker::from),
    }
}

impl From<&Limit> for OwnLimit {
    fn from(limit: &Limit) -> OwnLimit {
        OwnLimit {
            policy: limit.name.to_string(),
            key: (&limit.key).into(),
            rate: limit.algorithm.rate_text(),
            burst: limit.algorithm.burst(),
            cost: limit.cost.into(),
        }
    }
}

fn cost(cost: &config::Cost) -> RouteCost {
    if cost.by_method.is_empty() {
        return RouteCost::Any(cost.default);
    }
    let named = cost.by_method.iter().map(|(method, cost)| (method.to_string(), *cost));
    let default = [("default".to_owned(), cost.default)];
    RouteCost::ByMethod(named.chain(default).collect())
}
