//! The proxy: Pingora's phases in the order a request meets them.
//!
//! What the gateway answers by itself comes from one table,
//! [`refusal`](crate::decision::refusal).

mod account;
mod admit;
mod affinity;
mod attempt;
pub mod attempts;
pub mod connector;
pub mod context;
pub mod facts;
mod failure;
pub mod forward;
mod hops;
mod pacing;
mod phase;
mod phases;
mod places;
pub mod pool;
mod respond;
mod shared;
pub mod toll;
pub mod trace;
mod values;

use crate::decision::refusal::Refusal;
use crate::gateway::Gateway;
use crate::telemetry::access_log::AccessLog;
use crate::wire::alarm::{Patience, UPGRADED_IDLE};
use crate::wire::guard::GuardedStream;
use admit::Passage;
pub use attempts::MAX_ATTEMPTS;
use context::Context;
use facts::Present;
use failure::give_up;
use forward::{Origin, Pseudonym};
use pacing::Pacing;
use pingora_core::Result;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::Session;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The status in log and metrics of a client that went away before an answer.
const CLIENT_GONE: u16 = 499;

/// The gateway as Pingora sees it.
pub struct Proxy {
    gateway: Arc<Gateway>,
    access_log: Option<AccessLog>,
    pseudonym: Pseudonym,
    /// Where the process asks itself whether it answers.
    own_probe: Option<Box<str>>,
    pacing: Pacing,
}

impl Proxy {
    /// A proxy for `gateway`. The path `own_probe` is answered like `server.health_path`.
    pub fn new(
        gateway: Arc<Gateway>,
        access_log: Option<AccessLog>,
        own_probe: Option<&str>,
    ) -> Proxy {
        let own_probe = own_probe.map(Box::from);
        let pseudonym = Pseudonym::random();
        Proxy { gateway, access_log, pseudonym, own_probe, pacing: Pacing::default() }
    }

    /// Decides over a request that has to wait, and does what was decided. `taken`: the places that
    /// were free, where they were asked for already.
    async fn decide_in_time(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        has: Present,
        taken: Option<Result<bool, Refusal>>,
    ) -> Result<bool> {
        let mut decided = Ok(());
        if ctx.pending.is_some() {
            decided = self.ask_store(ctx).await;
        }
        if decided.is_ok() && ctx.receipt.delay().is_some() {
            decided = self.hold_back(session, ctx).await?;
        }
        if decided.is_ok() {
            let taken = taken.unwrap_or_else(|| self.take_free(ctx));
            decided = self.take_places(session, ctx, taken).await?;
        }
        self.follow(session, ctx, decided.map(|()| Passage::Forward(has))).await
    }

    /// Does what was decided; `true` where that is the answer.
    async fn follow(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        decided: Result<Passage, Refusal>,
    ) -> Result<bool> {
        match decided {
            Ok(Passage::Forward(has)) => {
                self.set_out(session, ctx, has);
                return Ok(false);
            }
            Ok(Passage::Probe) => {
                let is_ready = self.gateway.lifecycle.is_ready();
                respond::readiness(session, ctx, is_ready).await?;
            }
            Err(refusal) => {
                if refusal.is_blocking() {
                    self.gateway.metrics.blocked.fetch_add(1, Ordering::Relaxed);
                }
                respond::refuse(session, ctx, refusal).await?;
            }
        }
        Ok(true)
    }

    /// Makes of the request what its upstream is sent.
    fn set_out(&self, session: &mut Session, ctx: &mut Context, has: Present) {
        let origin = Origin {
            peer: guard(session).and_then(GuardedStream::peer).cloned(),
            is_trusted: ctx.is_from_trusted_proxy,
            identify: &ctx.generation.config.clients.identify,
            trace_id: &ctx.trace_id,
            has,
        };
        let server = &ctx.generation.config.server;
        forward::prepare(session.req_header_mut(), origin, server, &self.pseudonym);
        ctx.is_upgrade = has.upgrade && session.is_upgrade_req();
        if ctx.is_upgrade {
            session.set_read_timeout(Some(UPGRADED_IDLE));
        }
    }

    fn begin(&self, session: &Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        self.begin_attempt(session, ctx).map_err(|refusal| give_up(ctx, refusal))
    }

    /// Begins another attempt, after the time that lies between the two.
    async fn begin_later(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        wait: Duration,
    ) -> Result<Box<HttpPeer>> {
        // The last attempt's bounds are not this wait's.
        if let Some(guard) = guard(session) {
            guard.wait_for_upstream(Patience::default());
        }
        let has_body = ctx.has_body;
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            gone = places::gone(session), if !has_body => return Err(gone),
        }
        self.begin(session, ctx)
    }
}

fn guard(session: &Session) -> Option<&GuardedStream> {
    session.as_downstream().stream().and_then(GuardedStream::of)
}
