//! What a request costs, and against which buckets.

use super::client::Caller;
use super::context::{Context, RateLimit};
use super::refusal::Refusal;
use crate::clock;
use crate::gateway::{Gateway, Generation, Policy, has_bounded_keys, policy_header};
use crate::policy::limit::{Limit, LimitCost, LimitKey};
use crate::policy::router::RouteId;
use crate::registry::identity::client_ip;
use crate::store::key::{Digest, Key, KeyKind};
use crate::store::limiter::{Demand, MAX_LIMITS_PER_REQUEST, Standing, Verdict};
use crate::store::table::Class;
use arrayvec::ArrayVec;
use http::{HeaderMap, HeaderValue, Method};
use std::net::IpAddr;
use std::sync::atomic::Ordering;

/// What decides a request's toll.
pub struct Toll<'a> {
    /// The route that took it.
    pub route: RouteId,
    /// Its method.
    pub method: &'a Method,
    /// Its headers, for limits that count by one.
    pub headers: &'a HeaderMap,
    /// Who sent it.
    pub caller: &'a Caller,
    /// The address it comes from.
    pub source: IpAddr,
}

/// Charges a request to every limit that applies, or to none.
///
/// # Errors
/// The policy that refused; nothing is charged then.
pub fn charge(
    toll: &Toll<'_>,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut Context,
) -> Result<(), Refusal> {
    let demands = demands(toll, gateway, generation);
    let tiers = &generation.config.tiers;
    let overflow = &tiers.get(tiers.default_tier()).bucket;
    let now = clock::ns_at(ctx.started);
    match gateway.limiter.decide(&demands, overflow, &mut ctx.receipt, now, clock::now_ns) {
        Verdict::Admitted(tightest) => {
            for demand in &demands {
                let policy = policy_at(generation, toll, demand.policy);
                policy.allowed.fetch_add(1, Ordering::Relaxed);
            }
            ctx.rate_limit = tightest.map(|standing| describe(generation, toll, standing));
            Ok(())
        }
        Verdict::Refused(standing) => {
            let limit = describe(generation, toll, standing);
            policy_at(generation, toll, standing.policy).limited.fetch_add(1, Ordering::Relaxed);
            let tier = toll.caller.identity.standing.tier;
            generation.count_refusal(&gateway.metrics, toll.route, tier.0, standing.policy);
            let refusal = Refusal::RateLimited { policy: limit.policy.clone(), standing };
            ctx.rate_limit = Some(limit);
            Err(refusal)
        }
    }
}

/// Gives a request back all that it was charged: it was refused after that, before anything
/// was done for it. Its answer then says nothing of the limits.
pub fn give_back(gateway: &Gateway, ctx: &mut Context) {
    let generation = ctx.generation.clone();
    let tiers = &generation.config.tiers;
    let (Some(route), Some(identity)) = (ctx.route, &ctx.identity) else { return };
    let own = generation.route_config(route).limit.as_ref();
    let bucket_of = |policy: usize| match policy.checked_sub(1) {
        None => identity.standing.bucket(tiers),
        Some(index) => generation
            .config
            .limits
            .get(index)
            .or(own)
            .map_or(identity.standing.bucket(tiers), |limit| &limit.bucket),
    };
    let overflow = &tiers.get(tiers.default_tier()).bucket;
    gateway.limiter.give_back(&mut ctx.receipt, bucket_of, overflow, clock::now_ns);
    ctx.rate_limit = None;
}

/// One demand for each limit that applies: the tier, the limits of the file, the route's own.
fn demands<'a>(
    toll: &'a Toll<'_>,
    gateway: &Gateway,
    generation: &'a Generation,
) -> ArrayVec<Demand<'a>, MAX_LIMITS_PER_REQUEST> {
    let standing = &toll.caller.identity.standing;
    let cost = generation.route_config(toll.route).cost.of(toll.method);
    let client_class = if standing.is_registered { Class::Registered } else { Class::Unregistered };
    let tier = Demand {
        policy: TIER_INDEX,
        key: Key::new(generation.tier_digest, toll.caller.digest),
        class: client_class,
        bucket: standing.bucket(&generation.config.tiers),
        cost,
    };
    let others = generation.limits_of(toll.route).map(|(policy, limit, state)| {
        let class = match limit.key {
            LimitKey::Client => client_class,
            ref key if has_bounded_keys(key) => Class::Registered,
            _ => Class::Unregistered,
        };
        Demand {
            policy,
            key: Key::new(state.digest, holder(toll, limit, gateway, generation)),
            class,
            bucket: &limit.bucket,
            cost: match limit.cost {
                LimitCost::Route => cost,
                LimitCost::One => 1,
            },
        }
    });
    std::iter::once(tier).chain(others).take(MAX_LIMITS_PER_REQUEST).collect()
}

/// Whose bucket a limit charges. Requests without the header a limit counts by share one
/// bucket: leaving the header out must not be a way around the limit.
fn holder(toll: &Toll<'_>, limit: &Limit, gateway: &Gateway, generation: &Generation) -> Digest {
    match &limit.key {
        LimitKey::Client => toll.caller.digest,
        LimitKey::Ip if toll.caller.identity.kind == KeyKind::Ip => toll.caller.digest,
        LimitKey::Ip => {
            let prefix = generation.config.clients.ipv6_prefix;
            gateway.limiter.ip_digest(client_ip(toll.source, prefix))
        }
        LimitKey::Route => generation.route(toll.route).digest,
        LimitKey::Global => gateway.limiter.digest(KeyKind::Global, b""),
        LimitKey::Header(name) => {
            let value = toll.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
            gateway.limiter.digest(KeyKind::HeaderValue, value)
        }
    }
}

/// The index of the tier policy; see [`Generation::limits_of`].
const TIER_INDEX: usize = 0;

fn policy_at<'g>(generation: &'g Generation, toll: &Toll<'_>, index: usize) -> &'g Policy {
    let tier = usize::from(toll.caller.identity.standing.tier.0);
    match index.checked_sub(1) {
        None => &generation.tiers[tier],
        Some(limit) => generation
            .limits
            .get(limit)
            .or(generation.route(toll.route).limit.as_ref())
            .unwrap_or(&generation.tiers[tier]),
    }
}

fn describe(generation: &Generation, toll: &Toll<'_>, standing: Standing) -> RateLimit {
    let policy = policy_at(generation, toll, standing.policy);
    // A client's own limit and a shared overflow bucket are not what the policy says of itself.
    let quota = (standing.burst, standing.window_seconds);
    let policy_header = match quota == policy.quota {
        true => policy.header.clone(),
        false => policy_header(&policy.name, quota.0, quota.1),
    };
    RateLimit { policy: policy.name.clone(), policy_header, standing }
}
