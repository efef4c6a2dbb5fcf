//! The phases of a request, in the order it meets them.
//!
//! Each gathers facts, asks a policy, and applies the answer. None but a refusal and a wait needs
//! a future; see [`phase`](super::phase).

use super::admit::Passage;
use super::context::Context;
use super::failure::{Fate, give_up};
use super::phase::{InTurn, Outcome, Phase, at_once};
use super::{CLIENT_GONE, Proxy, connector, forward, guard, respond};
use crate::decision::refusal::{Breach, Refusal, Stage};
use crate::metrics::AttemptOutcome;
use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

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

    // This and `proxy_upstream_filter` do what Pingora's own do, without their futures.
    at_once! {
        'b 'c fn early_request_filter(
            self,
            _session: &'b mut Session,
            _ctx: &'c mut Box<Context>,
        ) -> Result<()> {
            Ok(())
        }
    }

    fn request_filter<'of, 'b, 'c, 'f>(
        &'of self,
        session: &'b mut Session,
        ctx: &'c mut Box<Context>,
    ) -> Phase<'f, Result<bool>>
    where
        'of: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        if let Some(guard) = guard(session) {
            guard.take_request();
        }
        let has = match self.admit(session, ctx) {
            Ok(Passage::Forward(has)) => has,
            decided => return Box::pin(self.follow(session, ctx, decided)),
        };
        if ctx.has_to_wait() {
            return Box::pin(self.decide_in_time(session, ctx, has, None));
        }
        match self.take_free(ctx) {
            Ok(true) => {
                self.set_out(session, ctx, has);
                Ok(false).over()
            }
            taken => Box::pin(self.decide_in_time(session, ctx, has, Some(taken))),
        }
    }

    at_once! {
        'b 'c fn proxy_upstream_filter(
            self,
            _session: &'b mut Session,
            _ctx: &'c mut Box<Context>,
        ) -> Result<bool> {
            Ok(true)
        }
    }

    fn upstream_peer<'of, 'b, 'c, 'f>(
        &'of self,
        session: &'b mut Session,
        ctx: &'c mut Box<Context>,
    ) -> Phase<'f, Result<Box<HttpPeer>>>
    where
        'of: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        match ctx.attempts.planned {
            Some(wait) => Box::pin(self.begin_later(session, ctx, wait)),
            None => self.begin(session, ctx).over(),
        }
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

    at_once! {
        'b 'c 'd 'e fn connected_to_upstream(
            self,
            session: &'b mut Session,
            _reused: bool,
            _peer: &'c HttpPeer,
            _fd: RawFd,
            digest: Option<&'d Digest>,
            ctx: &'e mut Box<Context>,
        ) -> Result<()> {
            let Some(bond) = digest.and_then(connector::bond_of) else { return Ok(()) };
            // What Pingora says of that is of its own pool.
            ctx.attempts.is_reused = bond.use_again();
            if let Some(guard) = guard(session) {
                guard.share_ends(&bond.ends);
            }
            Ok(())
        }
    }

    /// Right before the request is written to its upstream: those that are ready to come this far
    /// do so first, and all are written one after another.
    fn upstream_request_filter<'of, 'b, 'c, 'd, 'f>(
        &'of self,
        _session: &'b mut Session,
        upstream_request: &'c mut RequestHeader,
        ctx: &'d mut Box<Context>,
    ) -> Phase<'f, Result<()>>
    where
        'of: 'f,
        'b: 'f,
        'c: 'f,
        'd: 'f,
        Self: 'f,
    {
        let finished = forward::finish(upstream_request, ctx);
        match ctx.route().is_some_and(|route| route.metrics.inflight() > 1) {
            true => Box::pin(InTurn::new(finished)),
            // There is nobody to wait for.
            false => finished.over(),
        }
    }

    at_once! {
        'b 'c 'd fn request_body_filter(
            self,
            session: &'b mut Session,
            body: &'c mut Option<Bytes>,
            _end_of_stream: bool,
            ctx: &'d mut Box<Context>,
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
    }

    at_once! {
        'b 'c 'd fn upstream_response_filter(
            self,
            session: &'b mut Session,
            response: &'c mut ResponseHeader,
            ctx: &'d mut Box<Context>,
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

    at_once! {
        'b 'c 'd fn response_filter(
            self,
            session: &'b mut Session,
            response: &'c mut ResponseHeader,
            ctx: &'d mut Box<Context>,
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

    at_once! {
        'b 'c 'd fn logging(
            self,
            session: &'b mut Session,
            error: Option<&'c Error>,
            ctx: &'d mut Box<Context>,
        ) -> () {
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
}
