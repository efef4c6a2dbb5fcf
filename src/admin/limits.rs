//! `/limits`: every limit and tier, what they decided, and how full the table is.

use super::App;
use crate::clock;
use crate::gateway::Policy;
use crate::policy::limit::{Limit, LimitCost, LimitKey, Store};
use crate::store::table::{BYTES_PER_SLOT, Table};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

/// All limits, and the table their buckets live in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Limits {
    /// The limits of `limits`, then the routes' own.
    limits: Vec<CountedLimit>,
    /// From the lowest to the highest.
    tiers: Vec<CountedTier>,
    table: TableFigures,
    store: StoreState,
}

/// A limit and what it decided since the start.
#[derive(Debug, Serialize, ToSchema)]
struct CountedLimit {
    #[schema(example = "route:users")]
    policy: String,
    key: CountedBy,
    #[schema(example = "token_bucket")]
    algorithm: &'static str,
    #[schema(example = "100/m")]
    rate: String,
    burst: u64,
    cost: LimitCharge,
    /// `local`, or `shared` with the other gateways.
    #[schema(example = "local")]
    store: &'static str,
    /// Whether it refuses nothing and only counts what it would.
    shadow: bool,
    /// Requests it admitted.
    allowed: u64,
    /// Requests it refused, or would have refused if it was not a shadow.
    limited: u64,
}

/// A tier and what it decided since the start.
#[derive(Debug, Serialize, ToSchema)]
struct CountedTier {
    name: String,
    #[schema(example = "20/s")]
    rate: String,
    burst: u64,
    /// Requests that each of its clients may have in flight; null: any number.
    concurrency: Option<u32>,
    /// Requests it admitted.
    allowed: u64,
    /// Requests it refused.
    limited: u64,
}

/// The table of buckets.
#[derive(Debug, Serialize, ToSchema)]
struct TableFigures {
    slots: usize,
    /// Slots whose bucket is not full.
    used: usize,
    /// `used` ÷ `slots`.
    occupancy: f64,
    /// Charges that met no free slot and were made against a shared bucket.
    overflowed: u64,
    /// Memory the table takes.
    bytes: usize,
}

/// Where buckets are kept: `local`, in this gateway; `shared`, in Redis, but for limits that say
/// otherwise; `unreachable`, in Redis, which does not answer, so that the gateway goes by its part
/// of each shared limit.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum StoreState {
    Local,
    Shared,
    Unreachable,
}

/// What a limit has one bucket for each of: `client`, `ip`, `network` (of an IPv6 escalation),
/// `route`, `global` or `{"header": NAME}`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum CountedBy {
    Client,
    Ip,
    Network,
    Route,
    Global,
    Header(String),
}

impl From<&LimitKey> for CountedBy {
    fn from(key: &LimitKey) -> CountedBy {
        match key {
            LimitKey::Client => CountedBy::Client,
            LimitKey::Ip => CountedBy::Ip,
            LimitKey::Network => CountedBy::Network,
            LimitKey::Route => CountedBy::Route,
            LimitKey::Global => CountedBy::Global,
            LimitKey::Header(name) => CountedBy::Header(name.to_string()),
        }
    }
}

/// What a request is charged, as the configuration writes it: `route`, what its route says it
/// costs, or `1`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum LimitCharge {
    #[schema(example = "route")]
    AsSaid(&'static str),
    #[schema(example = 1)]
    Tokens(u32),
}

impl From<LimitCost> for LimitCharge {
    fn from(cost: LimitCost) -> LimitCharge {
        match cost {
            LimitCost::Route => LimitCharge::AsSaid("route"),
            LimitCost::One => LimitCharge::Tokens(1),
        }
    }
}

/// Every limit and tier with its counts, and the table's occupancy
#[utoipa::path(get, path = "/limits", tag = "limits", responses(
    (status = 200, description = "The limits", body = Limits),
))]
pub(super) async fn limits(State(app): App) -> Json<Limits> {
    let generation = app.gateway.generation();
    let global = generation.config.limits.iter().zip(&generation.limits);
    let routes = generation.config.routes.iter().zip(&generation.routes);
    let own = routes.flat_map(|(config, route)| config.limits.iter().zip(&route.limits));
    let tiers = generation.config.tiers.iter().zip(&generation.tiers);
    Json(Limits {
        limits: global.chain(own).map(|(limit, policy)| counted(limit, policy)).collect(),
        tiers: tiers
            .map(|((_, tier), policy)| CountedTier {
                name: tier.name.to_string(),
                rate: tier.bucket.rate_text(),
                burst: tier.bucket.burst(),
                concurrency: tier.concurrency,
                allowed: policy.allowed.load(Ordering::Relaxed),
                limited: policy.limited.load(Ordering::Relaxed),
            })
            .collect(),
        table: figures(app.gateway.limiter.table()),
        store: match &app.gateway.fleet {
            None => StoreState::Local,
            Some(fleet) if fleet.link.is_up() => StoreState::Shared,
            Some(_) => StoreState::Unreachable,
        },
    })
}

fn counted(limit: &Limit, policy: &Policy) -> CountedLimit {
    CountedLimit {
        policy: limit.name.to_string(),
        key: (&limit.key).into(),
        algorithm: limit.algorithm.name(),
        rate: limit.algorithm.rate_text(),
        burst: limit.algorithm.burst(),
        cost: limit.cost.into(),
        store: if limit.store == Store::Local { "local" } else { "shared" },
        shadow: limit.is_shadow,
        allowed: policy.allowed.load(Ordering::Relaxed),
        limited: policy.limited.load(Ordering::Relaxed),
    }
}

fn figures(table: &Table) -> TableFigures {
    let slots = table.slots();
    let used = table.used_slots(clock::now_ns());
    TableFigures {
        slots,
        used,
        occupancy: used as f64 / slots as f64,
        overflowed: table.overflowed(),
        bytes: slots * BYTES_PER_SLOT,
    }
}
