//! Places: how many requests a client and an upstream may have at a time.

use super::context::Context;
use super::{Proxy, toll};
use crate::decision::refusal::Refusal;
use crate::upstream::places::NoPlace;
use pingora_core::Error;
use pingora_proxy::Session;
use std::time::Duration;

impl Context {
    /// How many requests its client may have in flight.
    fn client_cap(&self) -> Option<u32> {
        self.generation.config.tiers.get(self.tier()?).concurrency
    }
}

impl Proxy {
    /// Waits for the place at the upstream that was not among those `taken`. Without a place the
    /// request gets back what it was charged.
    ///
    /// # Errors
    /// The client went away while it waited; inside, which place there was not.
    pub(super) async fn take_places(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        taken: Result<bool, Refusal>,
    ) -> Result<Result<(), Refusal>, Box<Error>> {
        let taken = match taken {
            Ok(true) => Ok(()),
            Ok(false) => queue(session, ctx).await?,
            Err(refusal) => Err(refusal),
        };
        if taken.is_err() {
            ctx.attempts.ticket = None;
            ctx.client_place = None;
            toll::give_back(&self.gateway, ctx);
        }
        Ok(taken)
    }

    /// Takes the places that a request needs, as far as they are free: its client's first, which
    /// is never waited for. `false`: the one at the upstream has to be.
    ///
    /// # Errors
    /// Its client has no place left.
    pub(super) fn take_free(&self, ctx: &mut Context) -> Result<bool, Refusal> {
        if let (Some(max), Some(holder)) = (ctx.client_cap(), ctx.holder) {
            let place = self.gateway.client_places.enter(holder, max);
            let tier = || ctx.tier_name().unwrap_or_default();
            let place = place.ok_or_else(|| Refusal::ClientBusy { tier: tier(), max })?;
            ctx.client_place = Some(place);
        }
        let upstream = ctx.route.map(|route| ctx.generation.upstream_of(route));
        let Some(places) = upstream.and_then(|upstream| upstream.places.as_ref()) else {
            return Ok(true);
        };
        ctx.place = places.try_take();
        Ok(ctx.place.is_some())
    }
}

/// Waits for a place at the upstream.
async fn queue(
    session: &mut Session,
    ctx: &mut Context,
) -> Result<Result<(), Refusal>, Box<Error>> {
    let (Some(route), generation) = (ctx.route, ctx.generation.clone()) else { return Ok(Ok(())) };
    let upstream = generation.upstream_of(route);
    let Some(places) = &upstream.places else { return Ok(Ok(())) };
    ctx.has_waited = true;
    let rank = ctx.tier().map_or(0, |tier| tier.0);
    let time_left = ctx.time_left().unwrap_or(Duration::MAX);
    let has_body = ctx.has_body;
    let place = tokio::select! {
        biased;
        place = places.take(rank, time_left) => place,
        gone = gone(session), if !has_body => return Err(gone),
    };
    Ok(place
        .map(|place| ctx.place = Some(place))
        .map_err(|why: NoPlace| Refusal::saturated(upstream, why.into())))
}

/// Waits until the client has gone. Only for requests without a body, for it would read that.
pub(super) async fn gone(session: &mut Session) -> Box<Error> {
    match session.as_downstream_mut().read_body_or_idle(true).await {
        Err(error) => error.into_down(),
        // What comes early is held back by the guard, so nothing else is read here.
        Ok(_) => std::future::pending().await,
    }
}
