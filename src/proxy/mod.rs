//! The proxy: Pingora's phases in the order a request meets them.
//!
//! Each phase gathers facts, asks a policy, and applies the answer. What the gateway
//! answers by itself comes from one table, [`refusal`].

mod account;
mod admit;
pub mod client;
pub mod context;
pub mod facts;
mod failure;
pub mod forward;
mod hops;
pub mod refusal;
mod respond;
pub mod toll;
pub mod trace;

use crate::clock;
use crate::gateway::Gateway;
use crate::metrics::AttemptOutcome;
use crate::telemetry::access_log::AccessLog;
use crate::upstream::Choice;
use crate::wire::guard::GuardedStream;
use admit::Passage;
use async_trait::async_trait;
use bytes::Bytes;
use context::Context;
use failure::{give_up, limit_timeouts, outcome_of, refusal_of};
use forward::{Origin, Pseudonym};
use http::StatusCode;
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use refusal::Refusal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Attempts Pingora may make for one request: the first, and two more where a pooled
/// connection turns out to have been closed by the upstream before anything was sent.
pub const MAX_ATTEMPTS: usize = 3;

/// The status in log and metrics of a client that went away before an answer.
const CLIENT_GONE: u16 = 499;

/// The gateway as Pingora sees it.
pub struct Proxy {
    gateway: Arc<Gateway>,
    access_log: Option<AccessLog>,
    pseudonym: Pseudonym,
}

impl Proxy {
    /// A proxy for `gateway`.
    pub fn new(gateway: Arc<Gateway>, access_log: Option<AccessLog>) -> Proxy {
        Proxy { gateway, access_log, pseudonym: Pseudonym::random() }
    }

    /// Records what came of the attempt under way, once.
    fn close_attempt(&self, ctx: &mut Context, outcome: AttemptOutcome) {
        if std::mem::take(&mut ctx.attempt.is_open)
            && let Some(route) = ctx.route
        {
            let upstream = ctx.generation.route_config(route).upstream;
            ctx.generation.upstreams[upstream].attempts.count(outcome);
        }
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
        match self.admit(session, ctx) {
            Ok(Passage::Forward(has)) => {
                if session.is_upgrade_req() {
                    session.set_read_timeout(Some(failure::UPGRADED_IDLE));
                }
                let peer = guard(session).and_then(GuardedStream::peer).cloned();
                let origin = Origin {
                    peer: peer.as_ref(),
                    is_trusted: ctx.is_from_trusted_proxy,
                    trace_id: &ctx.trace_id,
                    has,
                };
                let server = &ctx.generation.config.server;
                forward::prepare(session.req_header_mut(), &origin, server, &self.pseudonym);
                Ok(false)
            }
            Ok(Passage::Probe) => {
                respond::readiness(session, ctx, self.gateway.lifecycle.is_ready()).await?;
                Ok(true)
            }
            Err(refusal) => {
                if refusal.is_blocking() {
                    self.gateway.metrics.blocked.fetch_add(1, Ordering::Relaxed);
                }
                respond::refuse(session, ctx, refusal).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Box<Context>,
    ) -> Result<Box<HttpPeer>> {
        let upstream = ctx.route.map(|route| ctx.generation.route_config(route).upstream);
        let choice = Choice { affinity: None, tried: &[], now_ns: clock::now_ns() };
        let server =
            upstream.and_then(|upstream| ctx.generation.upstreams[upstream].choose(&choice));
        let Some((server, mut peer)) = server.and_then(|s| Some((s.name.clone(), s.peer()?)))
        else {
            return Err(give_up(ctx, Refusal::NoServer));
        };
        ctx.attempt.count += 1;
        ctx.attempt.is_open = true;
        ctx.attempt.server = Some(server);
        ctx.body_bytes = 0;
        limit_timeouts(&mut peer.options, ctx.time_left(), session.is_upgrade_req());
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Box<Context>,
        error: Box<Error>,
    ) -> Box<Error> {
        self.close_attempt(ctx, AttemptOutcome::Connect);
        error
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
            _ if ctx.is_overdue() => Err(give_up(ctx, Refusal::UpstreamTimeout)),
            _ => Ok(()),
        }
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS && !session.is_upgrade_req() {
            return Err(give_up(ctx, Refusal::UpstreamFailed));
        }
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(());
        }
        let is_failure = response.status.is_server_error() && response.status.as_u16() != 501;
        let outcome = if is_failure { AttemptOutcome::Status5xx } else { AttemptOutcome::Ok };
        self.close_attempt(ctx, outcome);
        Ok(())
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        _body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        // What has begun to reach the client cannot become a 504; the connection ends.
        if ctx.is_overdue() && !end_of_stream && !session.was_upgraded() {
            return Err(give_up(ctx, Refusal::UpstreamTimeout));
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
        }
        respond::pass_on(response, ctx, version)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Context>,
        client_reused: bool,
    ) -> Box<Error> {
        self.close_attempt(ctx, outcome_of(&error, ctx));
        let mut error = error.more_context(format!("peer: {peer}"));
        let request = session.as_ref();
        let may_repeat = session.req_header().method.is_idempotent()
            && !request.retry_buffer_truncated()
            && request.response_written().is_none()
            && ctx.refusal.is_none();
        if may_repeat {
            error.retry.decide_reuse(client_reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Box<Context>,
    ) -> FailToProxy {
        let refusal = ctx.refusal.take().or_else(|| refusal_of(error, session));
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
        self.close_attempt(ctx, AttemptOutcome::Cancelled);
        let written = session.response_written().map(|response| response.status.as_u16());
        let status = match written {
            Some(status) if error.is_none() || status >= 200 => status,
            _ => ctx.refusal.as_ref().map_or(CLIENT_GONE, |refusal| refusal.status().as_u16()),
        };
        let metrics = ctx.route().map_or(&ctx.generation.no_route, |route| &route.metrics);
        metrics.finish(status, elapsed);
        self.write_access_log(session, ctx, status, elapsed);
        ctx.inflight = None;
    }
}

fn guard(session: &Session) -> Option<&GuardedStream> {
    session.as_downstream().stream().and_then(GuardedStream::of)
}
