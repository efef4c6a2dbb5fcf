//! The proxy: Pingora's phases in the order a request meets them.
//!
//! Each phase gathers facts, asks a policy, and applies the answer. What the gateway
//! answers by itself comes from one table, [`refusal`].

pub mod client;
pub mod context;
pub mod forward;
pub mod refusal;
mod respond;
pub mod toll;
pub mod trace;

use crate::gateway::{Gateway, Generation};
use crate::metrics::AttemptOutcome;
use crate::policy::path::{self, PathFault};
use crate::policy::router::{Found, RouteId};
use crate::telemetry::access_log::{AccessLog, Entry};
use crate::wire::guard::GuardedStream;
use async_trait::async_trait;
use bytes::Bytes;
use client::Sender;
use context::Context;
use forward::Pseudonym;
use http::{StatusCode, Version, header};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use refusal::Refusal;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use toll::Toll;

/// Attempts Pingora may make for one request: the first, and two more where a pooled
/// connection turns out to have been closed by the upstream before anything was sent.
pub const MAX_ATTEMPTS: usize = 3;

/// How long either side of an upgraded connection may be silent.
const UPGRADED_IDLE: Duration = Duration::from_secs(3_600);

/// The status in log and metrics of a client that went away before an answer.
const CLIENT_GONE: u16 = 499;

/// The gateway as Pingora sees it.
pub struct Proxy {
    gateway: Arc<Gateway>,
    access_log: Option<AccessLog>,
    pseudonym: Pseudonym,
}

/// What a request that was admitted to the gateway gets.
enum Passage {
    /// It goes to its upstream.
    Forward,
    /// It asked whether the gateway is ready.
    Probe,
}

impl Proxy {
    /// A proxy for `gateway`.
    pub fn new(gateway: Arc<Gateway>, access_log: Option<AccessLog>) -> Proxy {
        Proxy { gateway, access_log, pseudonym: Pseudonym::random() }
    }

    /// Everything that is decided before an upstream is asked, in the order of the contract:
    /// path, route, client, limits.
    fn admit(&self, session: &Session, ctx: &mut Context) -> Result<Passage, Refusal> {
        let request = session.req_header();
        let generation = ctx.generation.clone();
        let server = &generation.config.server;
        let peer = peer_address(session).unwrap_or(IpAddr::from([0, 0, 0, 0]));
        ctx.trace_id = trace::of_request(&request.headers);
        ctx.is_from_trusted_proxy = client::is_trusted(peer, server);
        let source = client::source_address(peer, &request.headers, &server.trusted_proxies);
        ctx.source = Some(source);

        let target = origin_form(request)?;
        let target = path::normalize(target).map_err(Refusal::Path)?;
        if server.health_path.as_deref() == Some(&*target.path) {
            ctx.is_probe = true;
            return Ok(Passage::Probe);
        }
        if self.pseudonym.has_signed(request) {
            return Err(Refusal::Loop);
        }
        let route = find_route(&generation, request, &target.path)?;
        self.enter_route(route, request, &target, ctx)?;

        let needs_key = generation.route_config(route).auth == crate::config::Auth::Required;
        let sender = Sender { headers: &request.headers, peer, source };
        let caller = client::identify(&sender, &self.gateway, &generation, needs_key)?;
        let toll = Toll {
            route,
            method: &request.method,
            headers: &request.headers,
            caller: &caller,
            source,
        };
        let charged = toll::charge(&toll, &self.gateway, ctx);
        ctx.identity = Some(caller.identity);
        charged.map(|()| Passage::Forward)
    }

    /// Notes the route and what it alone decides: deadline, forwarded target, body bound.
    fn enter_route(
        &self,
        route: RouteId,
        request: &RequestHeader,
        target: &path::Target<'_>,
        ctx: &mut Context,
    ) -> Result<(), Refusal> {
        let generation = ctx.generation.clone();
        let config = generation.route_config(route);
        ctx.route = Some(route);
        ctx.inflight = Some(generation.route(route).metrics.enter());
        ctx.deadline = config.timeout.map(|timeout| ctx.started + timeout);
        let is_origin_form = request.raw_path().first() == Some(&b'/');
        if config.strip_prefix.is_some() || !target.is_unchanged() || !is_origin_form {
            ctx.target = Some(forwarded_target(target, config.strip_prefix.as_deref()));
        }
        let length = request.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match config.max_body {
            Some(max_body) if length.is_some_and(|length| length > max_body) => {
                Err(Refusal::BodyTooLarge { max_body })
            }
            _ => Ok(()),
        }
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

    fn write_access_log(&self, session: &Session, ctx: &Context, status: u16, elapsed: Duration) {
        let Some(log) = &self.access_log else { return };
        let request = session.req_header();
        let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
        let target = std::str::from_utf8(request.raw_path()).unwrap_or_default();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let generation = &ctx.generation;
        log.record(&Entry {
            time: crate::clock::timestamp(),
            trace_id: trace::text(&ctx.trace_id),
            client: ctx.identity.as_ref().map_or("", |identity| &identity.name),
            client_ip: ctx.source,
            tier: ctx.tier().map_or("none", |tier| &generation.config.tiers.get(tier).name),
            method: request.method.as_str(),
            host: text(header::HOST).unwrap_or_default(),
            path,
            query,
            protocol: if request.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
            route: ctx.route.map_or("none", |route| &generation.route_config(route).name),
            upstream: ctx.attempt.server,
            attempts: ctx.attempt.count,
            status,
            bytes_sent: session.body_bytes_sent(),
            bytes_received: session.body_bytes_read(),
            duration_seconds: elapsed.as_secs_f64(),
            limited_by: match &ctx.refusal {
                Some(Refusal::RateLimited { policy, .. }) => Some(policy),
                _ => None,
            },
            user_agent: text(header::USER_AGENT),
            referer: text(header::REFERER),
        });
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(self.gateway.generation())
    }

    /// Pingora's own module, compression, is not used; not building it saves an allocation a
    /// request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        if let Some(guard) = guard(session) {
            guard.take_request();
        }
        match self.admit(session, ctx) {
            Ok(Passage::Forward) => {
                if session.is_upgrade_req() {
                    session.set_read_timeout(Some(UPGRADED_IDLE));
                }
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
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>> {
        let upstream = ctx.route.map(|route| ctx.generation.route_config(route).upstream);
        let chosen = upstream.and_then(|upstream| ctx.generation.upstreams[upstream].next_peer());
        let Some((server, mut peer)) = chosen else {
            return Err(give_up(ctx, Refusal::NoServer));
        };
        ctx.attempt.count += 1;
        ctx.attempt.is_open = true;
        ctx.attempt.server = Some(server);
        ctx.body_bytes = 0;
        let options = &mut peer.options;
        if session.is_upgrade_req() {
            options.read_timeout = Some(UPGRADED_IDLE);
            options.write_timeout = Some(UPGRADED_IDLE);
        }
        if let Some(left) = ctx.time_left() {
            for timeout in [
                &mut options.connection_timeout,
                &mut options.total_connection_timeout,
                &mut options.read_timeout,
                &mut options.write_timeout,
            ] {
                *timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
            }
        }
        Ok(peer)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        self.close_attempt(ctx, AttemptOutcome::Connect);
        error
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let peer = peer_address(session);
        let original = session.req_header();
        let server = &ctx.generation.config.server;
        forward::prepare(upstream_request, original, ctx, peer, server, &self.pseudonym)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        let Some(body) = body else { return Ok(()) };
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
        ctx: &mut Context,
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
        ctx: &mut Context,
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
        ctx: &mut Context,
    ) -> Result<()> {
        let version = session.req_header().version;
        if response.status == StatusCode::SWITCHING_PROTOCOLS {
            if let Some(guard) = guard(session) {
                guard.become_tunnel();
            }
        } else if response.status.is_informational() {
            return Ok(());
        }
        forward::clean_response(response, version);
        respond::decorate(response, ctx)
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Context,
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
        ctx: &mut Context,
    ) -> FailToProxy {
        let refusal = ctx.refusal.take().or_else(|| refusal_of(error, session));
        let code = refusal.as_ref().map_or(CLIENT_GONE, |refusal| refusal.status().as_u16());
        if let Some(refusal) = refusal {
            if refusal.is_blocking() {
                self.gateway.metrics.blocked.fetch_add(1, Ordering::Relaxed);
            }
            if session.response_written().is_none_or(|r| r.status.is_informational()) {
                // Pingora ends the connection after a failed attempt, so the answer says so.
                session.set_keepalive(None);
                // The client may have gone; there is nobody else to tell.
                let _ = respond::refuse(session, ctx, refusal).await;
            } else {
                ctx.refusal = Some(refusal);
            }
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    /// Failures are in the metrics and the access log, with their cause; a line each in the
    /// process's log as well would only be a way to fill a disk.
    fn suppress_error_log(&self, session: &Session, _ctx: &Context, error: &Error) -> bool {
        log::debug!("{}: {error}", session.request_summary());
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Context,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        if let Some(guard) = guard(session) {
            guard.finish_request();
        }
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

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        _reused: bool,
        _peer: &HttpPeer,
        _fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        _ctx: &mut Context,
    ) -> Result<()> {
        Ok(())
    }
}

fn guard(session: &Session) -> Option<&GuardedStream> {
    session.as_downstream().stream().and_then(GuardedStream::of)
}

fn peer_address(session: &Session) -> Option<IpAddr> {
    let address = session.client_addr()?.as_inet()?;
    Some(address.ip().to_canonical())
}

/// Path and query of the target, whatever its form.
fn origin_form(request: &RequestHeader) -> Result<&str, Refusal> {
    let target = std::str::from_utf8(request.raw_path());
    let target = target.map_err(|_| Refusal::Path(PathFault::BadCharacter))?;
    if target.starts_with('/') {
        return Ok(target);
    }
    match target.split_once("://") {
        Some((_, rest)) => {
            let path = rest.find(['/', '?']).map_or("", |start| &rest[start..]);
            // `http://host` and `http://host?query` mean the root.
            if path.starts_with('/') { Ok(path) } else { Ok("/") }
        }
        None => Err(Refusal::NoRoute),
    }
}

fn find_route(
    generation: &Generation,
    request: &RequestHeader,
    path: &str,
) -> Result<RouteId, Refusal> {
    let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    match generation.router.find(without_port(host.unwrap_or_default()), &request.method, path) {
        Found::Route(id) => Ok(id),
        Found::MethodNotAllowed(methods) => Err(Refusal::Method(methods)),
        Found::Nothing => Err(Refusal::NoRoute),
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn forwarded_target(target: &path::Target<'_>, strip_prefix: Option<&str>) -> String {
    let path = strip_prefix.and_then(|prefix| target.path.strip_prefix(prefix));
    let path = path.unwrap_or(&target.path);
    let query = target.query.map_or(0, |query| query.len() + 1);
    let mut forwarded = String::with_capacity(path.len() + query + 1);
    if !path.starts_with('/') {
        forwarded.push('/');
    }
    forwarded.push_str(path);
    if let Some(query) = target.query {
        forwarded.push('?');
        forwarded.push_str(query);
    }
    forwarded
}

/// Ends the attempt with a refusal of our own.
fn give_up(ctx: &mut Context, refusal: Refusal) -> Box<Error> {
    let status = refusal.status().as_u16();
    ctx.refusal = Some(refusal);
    let mut error = Error::new(ErrorType::HTTPStatus(status));
    error.set_retry(false);
    error
}

fn outcome_of(error: &Error, ctx: &Context) -> AttemptOutcome {
    match (&ctx.refusal, error.esource(), error.etype()) {
        (Some(Refusal::UpstreamTimeout), ..) => AttemptOutcome::Timeout,
        (Some(Refusal::UpstreamFailed), ..) => AttemptOutcome::Reset,
        (Some(_), ..) | (None, ErrorSource::Downstream, _) => AttemptOutcome::Cancelled,
        (None, _, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => AttemptOutcome::Timeout,
        (None, ..) => AttemptOutcome::Reset,
    }
}

/// What an error means for the client; none when the client is gone.
fn refusal_of(error: &Error, session: &Session) -> Option<Refusal> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, ErrorType::ConnectTimedout)
        | (ErrorSource::Upstream, ErrorType::ReadTimedout)
        | (ErrorSource::Upstream, ErrorType::WriteTimedout) => Some(Refusal::UpstreamTimeout),
        (ErrorSource::Upstream, _) => Some(Refusal::UpstreamFailed),
        (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => Some(Refusal::Connection),
        (ErrorSource::Downstream, _) => guard(session)?.body_fault().map(Refusal::Malformed),
        _ => Some(Refusal::Internal),
    }
}
