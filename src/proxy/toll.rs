//! Charging requests: what the limits decide is written into the request's context, and given
//! back when something else refuses it.

use super::context::{Context, RateLimit};
use crate::clock;
use crate::decision::refusal::Refusal;
use crate::decision::shared::Decided;
use crate::decision::toll::{self, Moment, Paid, Toll, policy_at};
use crate::gateway::{Gateway, Generation, Policy, policy_header};
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
    let at = Moment::at(ctx.started_ns);
    let paid = Paid { receipt: &mut ctx.receipt, payments: &mut ctx.payments };
    let charged = toll::charge(toll, gateway, generation, paid, at, clock::now_ns);
    for &policy in &charged.shadowed {
        ctx.shadowed.push(policy_at(generation, toll, policy).name.clone());
    }
    let describe =
        |standing: Standing| describe(policy_at(generation, toll, standing.policy), standing);
    match charged.decided {
        Decided::Now(Verdict::Admitted(tightest)) => {
            ctx.rate_limit = tightest.map(describe);
            Ok(())
        }
        Decided::Now(Verdict::Refused(standing)) => {
            return_payments(gateway, ctx);
            ctx.rate_limit = Some(describe(standing));
            Err(toll::refusal(policy_at(generation, toll, standing.policy), standing))
        }
        Decided::Pending(pending) => {
            ctx.pending = Some(pending);
            Ok(())
        }
    }
}

/// Refuses a request that a leaky bucket would hold back, because too many are held back already.
pub fn refuse_delayed(gateway: &Gateway, ctx: &mut Context, delay: Delay) -> Option<Refusal> {
    let (route, identity) = (ctx.route?, ctx.identity.as_ref()?);
    let (generation, tier) = (ctx.generation.clone(), identity.standing.tier);
    let policy = generation.policy_of(route, tier, delay.policy);
    if let Some(holder) = ctx.holder {
        gateway.hitters.note(identity, holder, policy, ctx.started_ns);
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

/// Refuses a request that a leaky bucket would hold back for longer than its route's time.
pub fn refuse_in_vain(ctx: &Context, delay: Delay) -> Option<Refusal> {
    let (route, identity) = (ctx.route?, ctx.identity.as_ref()?);
    let policy = ctx.generation.policy_of(route, identity.standing.tier, delay.policy);
    Some(toll::held_too_long(policy, delay))
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
    return_payments(gateway, ctx);
    ctx.rate_limit = None;
}

/// Gives back what was paid to limits that gateways share.
fn return_payments(gateway: &Gateway, ctx: &mut Context) {
    if let Some(fleet) = &gateway.fleet {
        ctx.payments.drain(..).for_each(|payment| fleet.limits.give_back(payment));
    }
}

/// What an answer says of a policy that stands like this.
pub fn describe(policy: &Policy, standing: Standing) -> RateLimit {
    // A client's own limit and a shared overflow bucket are not what the policy says of itself.
    let quota = (standing.burst, standing.window_seconds);
    let policy_header = match quota == policy.quota {
        true => policy.header.clone(),
        false => policy_header(&policy.name, quota.0, quota.1),
    };
    RateLimit { policy: policy.name.clone(), policy_header, standing }
}
