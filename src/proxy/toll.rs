//! Charging requests: what the limits decide is written into the request's context, and given
//! back when something else refuses it.

use super::context::{Context, RateLimit};
use crate::clock;
use crate::decision::refusal::Refusal;
use crate::decision::toll::{self, Moment, Toll, policy_at};
use crate::gateway::{Gateway, Generation, policy_header};
use crate::policy::meter::Meter;
use crate::store::limiter::{Delay, Standing, Verdict};
use std::sync::atomic::Ordering;

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
    let at = Moment::at(clock::ns_at(ctx.started));
    let charged = toll::charge(toll, gateway, generation, &mut ctx.receipt, at, clock::now_ns);
    for &policy in &charged.shadowed {
        ctx.shadowed.push(policy_at(generation, toll, policy).name.clone());
    }
    match charged.verdict {
        Verdict::Admitted(tightest) => {
            ctx.rate_limit = tightest.map(|standing| describe(generation, toll, standing));
            Ok(())
        }
        Verdict::Refused(standing) => {
            ctx.rate_limit = Some(describe(generation, toll, standing));
            Err(toll::refusal(generation, toll, standing))
        }
    }
}

/// Refuses a request that a leaky bucket would hold back, because too many are held back already.
pub fn refuse_delayed(gateway: &Gateway, ctx: &mut Context, delay: Delay) -> Option<Refusal> {
    let (route, identity) = (ctx.route?, ctx.identity.as_ref()?);
    let (generation, tier) = (ctx.generation.clone(), identity.standing.tier);
    let policy = generation.policy_of(route, tier, delay.policy);
    if let Some(holder) = ctx.holder {
        gateway.hitters.note(identity, holder, policy, clock::ns_at(ctx.started));
    }
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
