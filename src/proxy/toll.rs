//! What a request costs, and against which buckets.

use super::client::Caller;
use super::context::{Context, RateLimit};
use super::refusal::Refusal;
use crate::clock;
use crate::gateway::{Gateway, Generation, Policy, has_bounded_keys, policy_header};
use crate::policy::limit::{Limit, LimitCost, LimitKey, NETWORK_PREFIX};
use crate::policy::meter::Meter;
use crate::policy::router::RouteId;
use crate::registry::identity::client_ip;
use crate::store::key::{Digest, Key, KeyKind};
use crate::store::limiter::{Delay, Demand, MAX_LIMITS_PER_REQUEST, Standing, Verdict};
use crate::store::table::Class;
use http::{HeaderMap, HeaderValue, Method};
use smallvec::SmallVec;
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
    let now = clock::ns_at(ctx.started);
    let demands = demands(toll, gateway, generation, now);
    let tiers = &generation.config.tiers;
    let overflow = &tiers.get(tiers.default_tier()).bucket;
    let verdict = gateway.limiter.decide(&demands, overflow, &mut ctx.receipt, now, clock::now_ns);
    if generation.has_shadows {
        watch(toll, gateway, generation, ctx, now);
    }
    match verdict {
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
            count_refusal(toll, gateway, generation, standing.policy);
            let refusal = Refusal::RateLimited { policy: limit.policy.clone(), standing };
            ctx.rate_limit = Some(limit);
            Err(refusal)
        }
    }
}

/// Charges the shadows, whatever the others say, and notes which would have refused.
#[cold]
fn watch(toll: &Toll<'_>, gateway: &Gateway, generation: &Generation, ctx: &mut Context, now: u64) {
    let demander = Demander::new(toll, gateway, generation, now);
    let limits = limits_met(toll, generation).filter(|(_, limit, _)| limit.is_shadow);
    let demands: Demands<'_> = limits.map(|limit| demander.demand(limit)).collect();
    let tiers = &generation.config.tiers;
    let overflow = &tiers.get(tiers.default_tier()).bucket;
    let mut refused: SmallVec<[usize; 8]> = SmallVec::new();
    gateway.limiter.watch(&demands, overflow, &mut ctx.receipt, now, clock::now_ns, |policy| {
        refused.push(policy);
    });
    for demand in &demands {
        let policy = policy_at(generation, toll, demand.policy);
        if refused.contains(&demand.policy) {
            count_refusal(toll, gateway, generation, demand.policy);
            ctx.shadowed.push(policy.name.clone());
        } else {
            policy.allowed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn count_refusal(toll: &Toll<'_>, gateway: &Gateway, generation: &Generation, policy: usize) {
    policy_at(generation, toll, policy).limited.fetch_add(1, Ordering::Relaxed);
    let tier = toll.caller.identity.standing.tier;
    generation.count_refusal(&gateway.metrics, toll.route, tier.0, policy);
}

/// Refuses a request that a leaky bucket would hold back, because too many are held back already.
pub fn refuse_delayed(gateway: &Gateway, ctx: &mut Context, delay: Delay) -> Option<Refusal> {
    let (route, identity) = (ctx.route?, ctx.identity.as_ref()?);
    let (generation, tier) = (ctx.generation.clone(), identity.standing.tier);
    let policy = generation.policy_of(route, tier, delay.policy);
    give_back(gateway, ctx);
    policy.limited.fetch_add(1, Ordering::Relaxed);
    generation.count_refusal(&gateway.metrics, route, tier.0, delay.policy);
    let standing = Standing {
        policy: delay.policy,
        burst: policy.quota.0,
        window_seconds: policy.quota.1,
        tokens: 0,
        full_in_seconds: delay.delay_ns.div_ceil(1_000_000_000),
        wait_ns: Some(delay.delay_ns),
    };
    let (name, policy_header) = (policy.name.clone(), policy.header.clone());
    ctx.rate_limit = Some(RateLimit { policy: name.clone(), policy_header, standing });
    Some(Refusal::RateLimited { policy: name, standing })
}

/// Gives a request back all that it was charged: it was refused after that, before anything
/// was done for it. Its answer then says nothing of the limits.
pub fn give_back(gateway: &Gateway, ctx: &mut Context) {
    let generation = ctx.generation.clone();
    let tiers = &generation.config.tiers;
    let (Some(route), Some(identity)) = (ctx.route, &ctx.identity) else { return };
    let meter_of = |policy: usize| match generation.limit_of(route, policy) {
        None => Meter::TokenBucket(identity.standing.bucket(tiers)),
        // To give back, the time does not matter.
        Some(limit) => limit.algorithm.meter(0, |now| now),
    };
    let overflow = &tiers.get(tiers.default_tier()).bucket;
    gateway.limiter.give_back(&mut ctx.receipt, meter_of, overflow, clock::now_ns);
    ctx.rate_limit = None;
}

/// Few requests meet more than these; for those there is an allocation.
type Demands<'a> = SmallVec<[Demand<'a>; 8]>;

/// One demand for each limit that is enforced: the tier, the limits of the file, the route's own.
fn demands<'a>(
    toll: &'a Toll<'_>,
    gateway: &'a Gateway,
    generation: &'a Generation,
    now: u64,
) -> Demands<'a> {
    let demander = Demander::new(toll, gateway, generation, now);
    let tier = Demand {
        policy: TIER_INDEX,
        key: Key::new(generation.tier_digest, toll.caller.digest),
        class: demander.client_class,
        meter: Meter::TokenBucket(toll.caller.identity.standing.bucket(&generation.config.tiers)),
        cost: demander.cost,
    };
    let limits = limits_met(toll, generation).filter(|(_, limit, _)| !limit.is_shadow);
    let others = limits.map(|limit| demander.demand(limit));
    let mut demands: Demands<'a> =
        std::iter::once(tier).chain(others).take(MAX_LIMITS_PER_REQUEST).collect();
    if generation.has_leaky_buckets {
        // A turn in a queue can be given back only while nobody stands behind, so it is taken
        // when all the others have admitted.
        demands.sort_by_key(|demand| matches!(demand.meter, Meter::LeakyBucket(_)));
    }
    demands
}

/// The limits that apply to the request, as in [`Generation::limits_of`].
fn limits_met<'a>(
    toll: &Toll<'_>,
    generation: &'a Generation,
) -> impl Iterator<Item = (usize, &'a Limit, &'a Policy)> {
    let is_ipv6 = toll.source.to_canonical().is_ipv6();
    let limits = generation.limits_of(toll.route);
    limits.filter(move |(_, limit, _)| is_ipv6 || limit.key != LimitKey::Network)
}

/// What the demands of one request have in common.
struct Demander<'a> {
    toll: &'a Toll<'a>,
    gateway: &'a Gateway,
    generation: &'a Generation,
    client_class: Class,
    cost: u32,
    now: u64,
}

impl<'a> Demander<'a> {
    fn new(
        toll: &'a Toll<'_>,
        gateway: &'a Gateway,
        generation: &'a Generation,
        now: u64,
    ) -> Demander<'a> {
        let is_registered = toll.caller.identity.standing.is_registered;
        let client_class = if is_registered { Class::Registered } else { Class::Unregistered };
        let cost = generation.route_config(toll.route).cost.of(toll.method);
        Demander { toll, gateway, generation, client_class, cost, now }
    }

    fn demand(&self, (policy, limit, state): (usize, &'a Limit, &Policy)) -> Demand<'a> {
        let class = match limit.key {
            LimitKey::Client => self.client_class,
            ref key if has_bounded_keys(key) => Class::Registered,
            _ => Class::Unregistered,
        };
        Demand {
            policy,
            key: Key::new(state.digest, holder(self.toll, limit, self.gateway, self.generation)),
            class,
            meter: limit.algorithm.meter(self.now, clock::utc_ns_at),
            cost: match limit.cost {
                LimitCost::Route => self.cost,
                LimitCost::One => 1,
            },
        }
    }
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
        LimitKey::Network => gateway.limiter.ip_digest(client_ip(toll.source, NETWORK_PREFIX)),
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
    generation.policy_of(toll.route, toll.caller.identity.standing.tier, index)
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
