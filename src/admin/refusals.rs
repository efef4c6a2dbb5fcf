//! What became of requests that were refused, and which clients are refused most.

use super::App;
use super::explained::identified_by;
use crate::clock;
use crate::gateway::hitters::{COUNTERS, Hitter, Top};
use crate::gateway::refused::{Refused, RefusedRing};
use axum::Json;
use axum::extract::State;
use jiff::{Timestamp, Unit};
use serde::Serialize;
use utoipa::ToSchema;

/// Clients that `/limits/top` lists.
const MAX_TOP: usize = 20;

/// The refusals of one trace id.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PastRefusals {
    trace_id: String,
    /// The latest first: a client may send several requests with one id.
    refusals: Vec<PastRefusal>,
}

/// A refusal.
#[derive(Debug, Serialize, ToSchema)]
struct PastRefusal {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// What it was answered with.
    #[schema(example = 429)]
    status: u16,
    /// Why: the end of the problem's type.
    #[schema(example = "rate-limited")]
    refusal: &'static str,
    /// What in the configuration refused it; null where nothing there did.
    refused_by: Option<RefusedBy>,
    /// What `Retry-After` said.
    retry_after_seconds: Option<u64>,
    /// How the limit stood then; null unless a limit refused it.
    limit: Option<StoodThen>,
    /// The route; null: none took it.
    route: Option<String>,
    /// The client; null where the request did not come so far.
    client: Option<String>,
    /// `api_key`, `header` or `ip`.
    identified_by: Option<&'static str>,
    tier: Option<String>,
}

/// What refused a request.
#[derive(Debug, Serialize, ToSchema)]
struct RefusedBy {
    /// `policy`, `circuit`, `upstream` or `tier`.
    #[schema(example = "policy")]
    kind: &'static str,
    #[schema(example = "route:users")]
    name: String,
}

/// How a limit stood when it refused.
#[derive(Debug, Serialize, ToSchema)]
struct StoodThen {
    /// Whole tokens left.
    tokens_remaining: u64,
    /// Tokens in the full bucket.
    burst: u64,
    /// Whole seconds until the bucket was full.
    full_in_seconds: u64,
}

impl PastRefusals {
    /// The refusals of a trace id among the last ones; none: there are none.
    pub(super) fn of(ring: &RefusedRing, trace_id: &str) -> Option<PastRefusals> {
        let refusals = ring.of_trace(trace_id, PastRefusal::of);
        let trace_id = trace_id.to_owned();
        (!refusals.is_empty()).then_some(PastRefusals { trace_id, refusals })
    }
}

impl PastRefusal {
    fn of(refused: &Refused<'_>) -> PastRefusal {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        PastRefusal {
            at: refused.at.round(Unit::Millisecond).unwrap_or(refused.at),
            status: refused.status,
            refusal: refused.reason,
            refused_by: refused
                .policy
                .map(|(kind, name)| RefusedBy { kind, name: name.to_owned() }),
            retry_after_seconds: refused.retry_after_seconds,
            limit: refused.tokens.map(|(tokens_remaining, burst, full_in_seconds)| StoodThen {
                tokens_remaining,
                burst,
                full_in_seconds,
            }),
            route: named(refused.route),
            client: named(refused.client),
            identified_by: refused.identified_by.map(identified_by),
            tier: named(refused.tier),
        }
    }
}

/// The clients that limits refused most often in the last minute.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MostLimited {
    /// How many seconds the list is about: up to a minute, at least fifty once that many have
    /// passed.
    seconds: f64,
    /// All refusals by limits in that time.
    limited: u64,
    /// The most refused first; at most 20.
    clients: Vec<LimitedClient>,
    /// A client that is not counted was refused no more often than this. 0: all are counted.
    missed_at_most: u64,
    /// How many clients are counted at the least, each under each policy that refuses it.
    counters: usize,
}

/// A client under one policy.
#[derive(Debug, Serialize, ToSchema)]
struct LimitedClient {
    client: String,
    /// `api_key`, `header` or `ip`.
    #[schema(example = "ip")]
    identified_by: &'static str,
    #[schema(example = "per-ip")]
    policy: String,
    /// How often the policy refused it: at most this, at least this less `error`.
    limited: u64,
    /// By how much `limited` may be too large.
    error: u64,
}

/// The clients that limits refused most often in the last minute
///
/// A client that two policies refuse is there twice. Counts are never too small; under a flood
/// of clients they are too large by at most `error`.
#[utoipa::path(get, path = "/limits/top", tag = "limits", operation_id = "most_limited", responses(
    (status = 200, description = "The clients", body = MostLimited),
))]
pub(super) async fn top(State(app): App) -> Json<MostLimited> {
    let Top { hitters, refusals, span_ns, missed } =
        app.gateway.hitters.top(MAX_TOP, clock::now_ns());
    Json(MostLimited {
        seconds: (span_ns / 1_000_000) as f64 / 1e3,
        limited: refusals,
        clients: hitters.iter().map(LimitedClient::of).collect(),
        missed_at_most: missed,
        counters: COUNTERS,
    })
}

impl LimitedClient {
    fn of(hitter: &Hitter) -> LimitedClient {
        LimitedClient {
            client: hitter.client.to_string(),
            identified_by: identified_by(hitter.kind),
            policy: hitter.policy.to_string(),
            limited: hitter.count,
            error: hitter.error,
        }
    }
}
