//! Asking the store for shared limits, where a request cannot be decided without.
//!
//! No request waits longer than `redis.timeout` for it, and none at all once Redis is known not to
//! answer; then this gateway decides by its share of the limits.

use super::context::Context;
use super::{Proxy, toll};
use crate::clock;
use crate::decision::refusal::Refusal;
use crate::decision::shared::{Pending, Sharing};
use crate::decision::toll::{Moment, Paid, count};
use crate::fleet::limits::Payment;
use crate::fleet::limits::script::Reply;
use crate::policy::meter::Algorithm;
use crate::store::limiter::{Delay, Verdict};

impl Proxy {
    /// Decides what is still open of a request.
    ///
    /// # Errors
    /// The policy that refused; nothing is charged then.
    pub(super) async fn ask_store(&self, ctx: &mut Context) -> Result<(), Refusal> {
        let Some(mut pending) = ctx.pending.take() else { return Ok(()) };
        let Some(fleet) = &self.gateway.fleet else { return Ok(()) };
        let generation = ctx.generation.clone();
        let limits = &fleet.limits;
        let sharing = Sharing { gateway: &self.gateway, generation: &generation, limits };
        let until = limits.deadline();
        for wish in limits.share(&mut pending.wishes, until).await {
            ctx.payments.push(Payment::Leased { key: wish.key, cost: wish.cost });
            pending.tightest = sharing.tightest(pending.tightest, &wish);
        }
        let reply = match pending.wishes.is_empty() {
            true => Ok(Reply::default()),
            false => limits.ask(&pending.wishes, &self.gateway.limiter, until).await,
        };
        let at = Moment::at(clock::now_ns());
        let verdict = match reply {
            Ok(reply) => {
                let verdict = sharing.settle(&pending.wishes, &reply.answers, at);
                if let Verdict::Admitted(_) = verdict {
                    note_payments(&pending, &reply, at, ctx);
                }
                verdict
            }
            Err(_) => {
                let paid = Paid { receipt: &mut ctx.receipt, payments: &mut ctx.payments };
                sharing.decide_alone(&pending.wishes, paid, at, clock::now_ns)
            }
        };
        self.conclude(&pending, verdict, at, ctx)
    }

    fn conclude(
        &self,
        pending: &Pending,
        verdict: Verdict,
        at: Moment,
        ctx: &mut Context,
    ) -> Result<(), Refusal> {
        let generation = ctx.generation.clone();
        let (Some(route), Some(holder)) = (ctx.route, ctx.holder) else { return Ok(()) };
        let Some(identity) = &ctx.identity else { return Ok(()) };
        let tier = identity.standing.tier;
        let met = pending.met.iter().copied();
        count(&self.gateway, &generation, (route, identity, holder), met, &verdict, at.ns);
        let policy = |index| generation.policy_of(route, tier, index);
        match verdict {
            Verdict::Admitted(standing) => {
                let tightest = match (standing, pending.tightest) {
                    (Some(one), Some(other)) => Some(one.tighter(other)),
                    (one, other) => one.or(other),
                };
                ctx.rate_limit = tightest.map(|of| toll::describe(policy(of.policy), of));
                Ok(())
            }
            Verdict::Refused(standing) => {
                ctx.attempts.ticket = None;
                toll::give_back(&self.gateway, ctx);
                let policy = policy(standing.policy);
                ctx.rate_limit = Some(toll::describe(policy, standing));
                Err(crate::decision::toll::refusal(policy, standing))
            }
        }
    }
}

/// Notes what the store has taken, and how long a leaky bucket holds the request back.
fn note_payments(pending: &Pending, reply: &Reply, at: Moment, ctx: &mut Context) {
    let started_ns = ctx.started_ns;
    for (wish, answer) in
        pending.wishes.iter().zip(&reply.answers).filter(|(wish, _)| wish.cost > 0)
    {
        if matches!(wish.algorithm, Algorithm::LeakyBucket(_)) && answer.wait_ns > 0 {
            let delay_ns = at.ns.saturating_sub(started_ns) + answer.wait_ns;
            ctx.receipt.hold_back(Delay { policy: wish.policy, delay_ns });
        }
        ctx.payments.push(wish.paid_at(reply.now));
    }
}
