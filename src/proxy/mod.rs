//! The proxy: Pingora's phases in the order a request meets them.
//!
//! Each phase gathers facts, asks a policy, and applies the answer. What the gateway
//! answers by itself comes from one table, [`refusal`](crate::decision::refusal).

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
mod places;
pub mod pool;
mod respond;
mod shared;
pub mod toll;
pub mod trace;

use crate::decision::refusal::{Breach, Refusal, Stage};
use crate::gateway::Gateway;
use crate::metrics::AttemptOutcome;
use crate::telemetry::access_log::AccessLog;
use crate::wire::alarm::{Patience, UPGRADED_IDLE};
use crate::wire::guard::GuardedStream;
use admit::Passage;
use async_trait::async_trait;
pub use attempts::MAX_ATTEMPTS;
use bytes::Bytes;
use context::Context;
use failure::{Fate, give_up};
use forward::{Origin, Pseudonym};
use http::StatusCode;
use pacing::Pacing;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::os::fd::RawFd;
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
}

#[async_trait]
impl ProxyHttp for Proxy {
    /// Boxed, because Pingora moves it and futures that hold it around more than once.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(self.gateway.generation()))
    }

    /// Pingora's own module, compression, is not used; not building it saves an allocation a
    /// request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        if let Some(guard) = guard(session) {
            guard.take_request();
        }
        let mut passage = self.admit(session, ctx);
        // What few requests wait for is on the heap, so that the others carry no room for it:
        // Pingora has this future moved there, whatever its size.
        if passage.is_ok() && ctx.pending.is_some() {
            passage = Box::pin(self.ask_store(ctx)).await.and(passage);
        }
        if passage.is_ok() && ctx.receipt.delay().is_some() {
            passage = Box::pin(self.hold_back(session, ctx)).await?.and(passage);
        }
        let passage = match passage {
            Ok(passage) if ctx.needs_place() => {
                self.take_places(session, ctx).await?.map(|()| passage)
            }
            decided => decided,
        };
        match passage {
            Ok(Passage::Forward(has)) => {
                if session.is_upgrade_req() {
                    session.set_read_timeout(Some(UPGRADED_IDLE));
                }
                let peer = guard(session).and_then(GuardedStream::peer).cloned();
                let origin = Origin {
                    peer: peer.as_ref(),
                    is_trusted: ctx.is_from_trusted_proxy,
                    identify: &ctx.generation.config.clients.identify,
                    trace_id: &ctx.trace_id,
                    has,
                };
                let server = &ctx.generation.config.server;
                forward::prepare(session.req_header_mut(), &origin, server, &self.pseudonym);
                Ok(false)
            }
            Ok(Passage::Probe) => {
                let is_ready = self.gateway.lifecycle.is_ready();
                Box::pin(respond::readiness(session, ctx, is_ready)).await?;
                Ok(true)
            }
            Err(refusal) => {
                if refusal.is_blocking() {
                    self.gateway.metrics.blocked.fetch_add(1, Ordering::Relaxed);
                }
                Box::pin(respond::refuse(session, ctx, refusal)).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
    ) -> Result<Box<HttpPeer>> {
        if let Some(wait) = ctx.attempts.planned {
            // The last attempt's bounds are not this wait's.
            if let Some(guard) = guard(session) {
                guard.wait_for_upstream(Patience::default());
            }
            let has_body = ctx.has_body;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                gone = places::gone(session), if !has_body => return Err(gone),
            }
        }
        self.begin_attempt(session, ctx).map_err(|refusal| give_up(ctx, refusal))
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Box<Context>,
        error: Box<Error>,
    ) -> Box<Error> {
        let fate = Fate::unconnected(&error);
        self.end_in_failure(session, ctx, error, fate)
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        digest: Option<&Digest>,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        let Some(bond) = digest.and_then(connector::bond_of) else { return Ok(()) };
        // What Pingora says of that is of its own pool.
        ctx.attempts.is_reused = bond.use_again();
        if let Some(guard) = guard(session) {
            guard.share_ends(&bond.ends);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        upstream_request: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        forward::finish(upstream_request, ctx)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        let Some(body) = body else { return Ok(()) };
        if session.was_upgraded() {
            return Ok(());
        }
        ctx.body_bytes += body.len() as u64;
        let bound = ctx.route.and_then(|route| ctx.generation.route_config(route).max_body);
        match bound {
            Some(max_body) if ctx.body_bytes > max_body => {
                Err(give_up(ctx, Refusal::BodyTooLarge { max_body }))
            }
            _ if ctx.is_overdue() => Err(give_up(ctx, Refusal::UpstreamTimeout(Stage::Request))),
            _ => Ok(()),
        }
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        let is_switch = response.status == StatusCode::SWITCHING_PROTOCOLS;
        if is_switch && !session.is_upgrade_req() {
            return Err(give_up(ctx, Refusal::UpstreamFailed(Breach::Invalid)));
        }
        if response.status.is_informational() && !is_switch {
            return Ok(());
        }
        self.judge_answer(session, response, ctx)
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        if ctx.attempts.is_open() && (end_of_stream || ctx.attempts.is_settled()) {
            ctx.end_attempt(AttemptOutcome::Ok);
        }
        Ok(None)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        let version = session.req_header().version;
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            if let Some(guard) = guard(session) {
                guard.become_tunnel();
            }
        } else if response.status.is_informational() {
            return Ok(());
        } else {
            respond::say_if_last(session);
        }
        respond::pass_on(response, ctx, version)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Context>,
        _client_reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("peer: {peer}"));
        if ctx.attempts.planned.is_some() || self.repeat_stale(session, ctx, &error) {
            error.set_retry(true);
            return error;
        }
        let fate = Fate::of(&error, session, ctx);
        self.end_in_failure(session, ctx, error, fate)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Box<Context>,
    ) -> FailToProxy {
        let is_ours = !matches!(error.esource(), ErrorSource::Downstream);
        let refusal = ctx.refusal.take().or(is_ours.then_some(Refusal::Internal));
        let code = refusal.as_ref().map_or(CLIENT_GONE, |refusal| refusal.status().as_u16());
        if let Some(refusal) = refusal {
            if refusal.is_blocking() {
                self.gateway.metrics.blocked.fetch_add(1, Ordering::Relaxed);
            }
            if session.response_written().is_none_or(|r| r.status.is_informational()) {
                let is_answered = respond::refuse(session, ctx, refusal).await.is_ok();
                if is_answered
                    && session.get_keepalive().is_some()
                    && let Some(guard) = guard(session)
                {
                    guard.keep_after_failure();
                }
            } else {
                ctx.refusal = Some(refusal);
            }
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    /// Failures are in the metrics and the access log, with their cause; a line each in the
    /// process's log as well would only be a way to fill a disk.
    fn suppress_error_log(&self, session: &Session, _ctx: &Box<Context>, error: &Error) -> bool {
        log::debug!("{}: {error}", session.request_summary());
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Box<Context>,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Box<Context>) {
        if ctx.is_probe {
            return;
        }
        let elapsed = ctx.started.elapsed();
        let is_well = error.is_none();
        ctx.end_attempt(if is_well { AttemptOutcome::Ok } else { AttemptOutcome::Cancelled });
        let written = session.response_written().map(|response| response.status.as_u16());
        let status = match written {
            Some(status) if error.is_none() || status >= 200 => status,
            _ => ctx.refusal.as_ref().map_or(CLIENT_GONE, |refusal| refusal.status().as_u16()),
        };
        let route = ctx.route();
        if let Some(route) = route {
            route.outcomes.count(status);
        }
        let metrics = route.map_or(&ctx.generation.no_route, |route| &route.metrics);
        metrics.finish(status, elapsed);
        self.keep_refusal(ctx, status);
        self.write_access_log(session, ctx, status, elapsed);
        ctx.place = None;
        ctx.client_place = None;
        ctx.inflight = None;
    }
}

fn guard(session: &Session) -> Option<&GuardedStream> {
    session.as_downstream().stream().and_then(GuardedStream::of)
}
