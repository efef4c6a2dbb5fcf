//! What a limit counts and what it charges.

use std::sync::Arc;

use http::HeaderName;

use super::meter::Algorithm;

/// The most limits beside tiers and routes' own. Every request is charged against all that
/// apply, so the bound is also one on the work for a request.
pub const MAX_LIMITS: usize = 32;

/// Which requests share one bucket of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitKey {
    /// One bucket for each client identity.
    Client,
    /// One bucket for each client address (IPv6: for each prefix of `clients.ipv6_prefix` bits).
    Ip,
    /// One bucket for each IPv6 network of [`NETWORK_PREFIX`] bits. Requests over IPv4 do not
    /// meet such a limit.
    Network,
    /// One bucket for each route.
    Route,
    /// One bucket for everything.
    Global,
    /// One bucket for each value of this request header.
    Header(HeaderName),
}

/// How many tokens a request takes from a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitCost {
    /// What the route says the request costs.
    Route,
    /// One, whatever the route says.
    One,
}

/// Where the buckets of a limit are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// In this gateway.
    Local,
    /// In the store that all gateways share.
    Shared(OnStoreFailure),
}

/// What becomes of a request when the store of its limit does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStoreFailure {
    /// This gateway's share of the limit decides.
    FairShare,
    /// It passes.
    Allow,
    /// It is refused.
    Deny,
}

/// What a limit is to the section of the file that it is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its rate.
    Rate,
    /// The quota beside its rate.
    Quota,
    /// What its addresses of one IPv6 network have together.
    Escalation,
}

/// The most limits that one section makes: one of each role.
pub const MAX_ROLES: usize = 3;

/// The prefix of the IPv6 networks that [`Role::Escalation`] counts by: the most that one
/// customer of a provider is commonly given (RFC 6177).
pub const NETWORK_PREFIX: u8 = 48;

/// One limit, or the quota beside one. It applies to every request, or to those of one route when the route owns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The policy's name in headers, metrics and JSON: the limit's own, or `route:<name>` for the
    /// limit of a route; of a quota or an escalation, with `:quota` or `:network` behind it.
    pub name: Arc<str>,
    /// What its buckets are kept by.
    pub key: LimitKey,
    /// How each bucket decides, and its figures.
    pub algorithm: Algorithm,
    /// What a request takes from it.
    pub cost: LimitCost,
    /// Whether it only counts what it would refuse.
    pub is_shadow: bool,
    /// What it is to the limit it is written in.
    pub role: Role,
    /// Where its buckets are.
    pub store: Store,
}
