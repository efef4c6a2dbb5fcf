//! Holding requests back for leaky buckets.
//!
//! A leaky bucket has told the request when to leave; all that is left is to wait for that. The
//! order is the one in which requests were charged: each leaves at an instant of its own, a
//! whole emission interval after the one before. Timers tick in milliseconds, so of two
//! that are due within one either may go first.

use super::context::Context;
use super::places::gone;
use super::{Proxy, toll};
use crate::decision::refusal::Refusal;
use pingora_core::Error;
use pingora_proxy::Session;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests that may be held back at a time, over all limits. Each keeps a connection and its
/// state for as long; beyond that, who would have to wait is refused.
const MAX_HELD: usize = 16_384;

/// The requests that are held back.
#[derive(Default)]
pub(super) struct Pacing(AtomicUsize);

/// One request held back. Dropping it makes room for another.
struct Held<'a>(&'a Pacing);

impl Pacing {
    fn enter(&self) -> Option<Held<'_>> {
        // Counted first: threads together never exceed the bound, and each that does not get
        // in leaves again.
        let held = Held(self);
        (self.0.fetch_add(1, Ordering::Relaxed) < MAX_HELD).then_some(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Proxy {
    /// Waits until a leaky bucket lets the request go. Whoever goes away first, or could not be
    /// served in the time that is left, gets back what it was charged (see
    /// [`crate::policy::leaky_bucket::refund`]).
    ///
    /// # Errors
    /// The client went away while it waited; inside, why waiting is in vain.
    pub(super) async fn hold_back(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Result<Result<(), Refusal>, Box<Error>> {
        let Some(delay) = ctx.receipt.delay() else { return Ok(Ok(())) };
        let due = ctx.started + delay.time();
        if ctx.deadline.is_some_and(|deadline| deadline <= due) {
            self.let_go(ctx);
            return Ok(Err(toll::refuse_in_vain(ctx, delay).unwrap_or(Refusal::Internal)));
        }
        let Some(_held) = self.pacing.enter() else {
            ctx.attempts.ticket = None;
            let refusal = toll::refuse_delayed(&self.gateway, ctx, delay);
            return Ok(Err(refusal.unwrap_or(Refusal::Internal)));
        };
        ctx.has_waited = true;
        let has_body = ctx.has_body;
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(due.into()) => Ok(Ok(())),
            gone = gone(session), if !has_body => {
                self.let_go(ctx);
                Err(gone)
            }
        }
    }

    fn let_go(&self, ctx: &mut Context) {
        ctx.attempts.ticket = None;
        toll::give_back(&self.gateway, ctx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_held_back_than_the_bound_and_one_more_when_one_leaves() {
        let pacing = Pacing::default();
        let mut held: Vec<_> = (0..MAX_HELD + 5).map_while(|_| pacing.enter()).collect();
        assert_eq!(held.len(), MAX_HELD);
        assert!(pacing.enter().is_none());
        held.pop();
        assert!(pacing.enter().is_some());
        drop(held);
        assert_eq!(pacing.0.into_inner(), 0);
    }
}
