//! What a request costs, and against which buckets.

use super::client::Caller;
use super::refusal::Refusal;
use super::shared::{Decided, Payments, Sharing};
use crate::clock;
use crate::gateway::{Gateway, Generation, Policy, has_bounded_keys};
use crate::policy::limit::{Limit, LimitCost, LimitKey, NETWORK_PREFIX};
use crate::policy::meter::Meter;
use crate::policy::rate::TokenBucket;
use crate::policy::router::RouteId;
use crate::registry::identity::{Identity, client_ip};
use crate::store::key::{Digest, Key, KeyKind};
use crate::store::limiter::{Delay, Demand, MAX_LIMITS_PER_REQUEST, Receipt, Standing, Verdict};
use crate::store::table::Class;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
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

/// When something is decided.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The limiter's time.
    pub ns: u64,
    /// The wall clock's, nanoseconds of UTC since 1970, at a time of the limiter's.
    pub utc_ns_at: fn(u64) -> u64,
}

impl Moment {
    /// A time of this process.
    pub fn at(ns: u64) -> Moment {
        Moment { ns, utc_ns_at: clock::utc_ns_at }
    }
}

/// Whose bucket a limit charges.
#[derive(Debug, Clone, Copy)]
pub enum Holder<'a> {
    /// The client.
    Client(&'a Caller),
    /// The address, cut to the client's prefix.
    Ip(IpAddr),
    /// The address' network, where that is an IPv6 one.
    Network(IpAddr),
    /// The route.
    Route(RouteId),
    /// Everybody together.
    Global,
    /// A header's value. Requests without the header share one bucket: leaving it out must not
    /// be a way around the limit.
    Header(&'a HeaderName, &'a [u8]),
}

impl<'a> Holder<'a> {
    /// Whom `limit` charges for a request.
    pub fn of(toll: &Toll<'a>, limit: &'a Limit, generation: &Generation) -> Holder<'a> {
        match &limit.key {
            LimitKey::Client => Holder::Client(toll.caller),
            LimitKey::Ip if toll.caller.identity.kind == KeyKind::Ip => Holder::Client(toll.caller),
            LimitKey::Ip => {
                Holder::Ip(client_ip(toll.source, generation.config.clients.ipv6_prefix))
            }
            LimitKey::Network => Holder::Network(client_ip(toll.source, NETWORK_PREFIX)),
            LimitKey::Route => Holder::Route(toll.route),
            LimitKey::Global => Holder::Global,
            LimitKey::Header(name) => {
                let value = toll.headers.get(name).map_or(&b""[..], HeaderValue::as_bytes);
                Holder::Header(name, value)
            }
        }
    }

    /// The holder part of the bucket's key.
    pub fn digest(self, gateway: &Gateway, generation: &Generation) -> Digest {
        match self {
            Holder::Client(caller) => caller.digest,
            Holder::Ip(ip) | Holder::Network(ip) => gateway.limiter.ip_digest(ip),
            Holder::Route(route) => generation.route(route).digest,
            Holder::Global => gateway.limiter.digest(KeyKind::Global, b""),
            Holder::Header(_, value) => gateway.limiter.digest(KeyKind::HeaderValue, value),
        }
    }
}

/// What a request is to be charged, at most. Few requests meet more than these; for those there
/// is an allocation.
pub type Demands<'a> = SmallVec<[Demand<'a>; 8]>;

/// What came of a charge.
pub struct Charged {
    /// What the limits that are enforced say.
    pub decided: Decided,
    /// The shadows that would have refused, by policy index.
    pub shadowed: SmallVec<[usize; 2]>,
}

/// Charges a request to every limit that applies, or to none; its shadows are charged whatever
/// the others say. Counts what each policy decided. `clock` is read where `at` would be too
/// old.
pub fn charge(
    toll: &Toll<'_>,
    gateway: &Gateway,
    generation: &Generation,
    paid: Paid<'_>,
    at: Moment,
    clock: impl Fn() -> u64,
) -> Charged {
    let demands = enforced(toll, gateway, generation, at);
    let Paid { receipt, payments } = paid;
    let decided = match &gateway.fleet {
        None => {
            let overflow = overflow_bucket(generation);
            Decided::Now(gateway.limiter.decide(&demands, overflow, receipt, at.ns, &clock))
        }
        Some(fleet) => {
            let sharing = Sharing { gateway, generation, limits: &fleet.limits };
            sharing.charge(toll, &demands, Paid { receipt, payments }, at, &clock)
        }
    };
    let shadowed = match generation.has_shadows {
        true => watch(toll, gateway, generation, receipt, at, &clock),
        false => SmallVec::new(),
    };
    if let Decided::Now(verdict) = &decided {
        let who = (toll.route, &toll.caller.identity, toll.caller.digest);
        let met = demands.iter().map(|demand| demand.policy);
        count(gateway, generation, who, met, verdict, at.ns);
    }
    Charged { decided, shadowed }
}

/// Where it is written down what a request has paid.
pub struct Paid<'a> {
    /// To local limits.
    pub receipt: &'a mut Receipt,
    /// To limits that gateways share.
    pub payments: &'a mut Payments,
}

/// The bucket that newcomers share where the table has no room for them.
pub fn overflow_bucket(generation: &Generation) -> &TokenBucket {
    let tiers = &generation.config.tiers;
    &tiers.get(tiers.default_tier()).bucket
}

/// Counts what was decided of a request that met these policies.
pub fn count(
    gateway: &Gateway,
    generation: &Generation,
    who: (RouteId, &Identity, Digest),
    met: impl Iterator<Item = usize>,
    verdict: &Verdict,
    now_ns: u64,
) {
    let (route, identity, holder) = who;
    let policy = |index| generation.policy_of(route, identity.standing.tier, index);
    match verdict {
        Verdict::Admitted(_) => {
            met.for_each(|index| {
                policy(index).allowed.fetch_add(1, Ordering::Relaxed);
            });
        }
        Verdict::Refused(standing) => {
            let refusing = policy(standing.policy);
            refusing.limited.fetch_add(1, Ordering::Relaxed);
            let tier = identity.standing.tier.0;
            generation.count_refusal(&gateway.metrics, route, tier, standing.policy);
            gateway.hitters.note(identity, holder, refusing, now_ns);
        }
    }
}

/// Charges the shadows and says which would have refused.
#[cold]
fn watch(
    toll: &Toll<'_>,
    gateway: &Gateway,
    generation: &Generation,
    receipt: &mut Receipt,
    at: Moment,
    clock: &impl Fn() -> u64,
) -> SmallVec<[usize; 2]> {
    let demands = shadows(toll, gateway, generation, at);
    let overflow = overflow_bucket(generation);
    let mut refused = SmallVec::new();
    gateway.limiter.watch(&demands, overflow, receipt, at.ns, clock, |policy| {
        refused.push(policy);
    });
    for demand in &demands {
        if refused.contains(&demand.policy) {
            count_refusal(toll, gateway, generation, demand.policy);
        } else {
            let policy = policy_at(generation, toll, demand.policy);
            policy.allowed.fetch_add(1, Ordering::Relaxed);
        }
    }
    refused
}

fn count_refusal(toll: &Toll<'_>, gateway: &Gateway, generation: &Generation, policy: usize) {
    policy_at(generation, toll, policy).limited.fetch_add(1, Ordering::Relaxed);
    let tier = toll.caller.identity.standing.tier;
    generation.count_refusal(&gateway.metrics, toll.route, tier.0, policy);
}

/// The refusal that a policy's standing is.
pub fn refusal(policy: &Policy, standing: Standing) -> Refusal {
    Refusal::RateLimited { policy: policy.name.clone(), standing }
}

/// The refusal that a policy's delay is where the route's time is over first.
pub fn held_too_long(policy: &Policy, delay: Delay) -> Refusal {
    Refusal::HeldTooLong { policy: policy.name.clone(), delay_ns: delay.delay_ns }
}

/// One demand for each limit that is enforced: the tier, the limits of the file, the route's
/// own.
pub fn enforced<'a>(
    toll: &'a Toll<'_>,
    gateway: &'a Gateway,
    generation: &'a Generation,
    at: Moment,
) -> Demands<'a> {
    let demander = Demander::new(toll, gateway, generation, at);
    let tier = Demand {
        policy: TIER_INDEX,
        key: Key::new(generation.tier_digest, toll.caller.digest),
        class: demander.client_class,
        meter: Meter::TokenBucket(toll.caller.identity.standing.bucket(&generation.config.tiers)),
        cost: demander.cost,
        since: demander.since,
    };
    let mut demands = Demands::new();
    demands.push(tier);
    let others = limits_met(toll, generation).filter(|(_, limit, _)| !limit.is_shadow);
    let others = others.take(MAX_LIMITS_PER_REQUEST - 1);
    others.for_each(|limit| demands.push(demander.demand(limit)));
    if generation.has_leaky_buckets {
        // A turn in a queue can be given back only while nobody stands behind, so it is taken
        // when all the others have admitted.
        demands.sort_by_key(|demand| matches!(demand.meter, Meter::LeakyBucket(_)));
    }
    demands
}

/// One demand for each limit that is only watched.
pub fn shadows<'a>(
    toll: &'a Toll<'_>,
    gateway: &'a Gateway,
    generation: &'a Generation,
    at: Moment,
) -> Demands<'a> {
    let demander = Demander::new(toll, gateway, generation, at);
    let limits = limits_met(toll, generation).filter(|(_, limit, _)| limit.is_shadow);
    limits.take(MAX_LIMITS_PER_REQUEST).map(|limit| demander.demand(limit)).collect()
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
    since: u64,
    at: Moment,
}

impl<'a> Demander<'a> {
    fn new(
        toll: &'a Toll<'_>,
        gateway: &'a Gateway,
        generation: &'a Generation,
        at: Moment,
    ) -> Demander<'a> {
        let is_registered = toll.caller.identity.standing.is_registered;
        let client_class = if is_registered { Class::Registered } else { Class::Unregistered };
        let cost = generation.route_config(toll.route).cost.of(toll.method);
        let since = gateway.limits_changed_ns();
        Demander { toll, gateway, generation, client_class, cost, since, at }
    }

    fn demand(&self, (policy, limit, state): (usize, &'a Limit, &Policy)) -> Demand<'a> {
        let class = match limit.key {
            LimitKey::Client => self.client_class,
            ref key if has_bounded_keys(key) => Class::Registered,
            _ => Class::Unregistered,
        };
        let holder = Holder::of(self.toll, limit, self.generation);
        Demand {
            policy,
            key: Key::new(state.digest, holder.digest(self.gateway, self.generation)),
            class,
            meter: limit.algorithm.meter(self.at.ns, self.at.utc_ns_at),
            cost: match limit.cost {
                LimitCost::Route => self.cost,
                LimitCost::One => 1,
            },
            since: self.since,
        }
    }
}

/// The index of the tier policy; see [`Generation::limits_of`].
const TIER_INDEX: usize = 0;

/// The policy with this index among those that the request meets.
pub fn policy_at<'g>(generation: &'g Generation, toll: &Toll<'_>, index: usize) -> &'g Policy {
    generation.policy_of(toll.route, toll.caller.identity.standing.tier, index)
}
