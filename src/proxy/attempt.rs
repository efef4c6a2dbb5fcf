//! Beginning an attempt at an upstream, and deciding whether another follows.

use super::context::Context;
use super::failure::{Fate, back_up, limit_timeouts, outlive};
use super::{Proxy, guard, toll};
use crate::clock;
use crate::decision::refusal::Refusal;
use crate::metrics::AttemptOutcome;
use crate::policy::retry::{Failure, Tried};
use crate::policy::share::Share;
use crate::upstream::Choice;
use crate::wire::alarm::Patience;
use http::{HeaderMap, Method, StatusCode, header};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, RetryType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use std::time::{Duration, Instant};

/// What tells the connections for attempts after a stale one from the others to that address: where
/// one pooled connection was closed, others of its age are too.
const FRESH_POOL: u64 = 1;

impl Proxy {
    /// Begins an attempt: its ticket, its server, its time. What it has to wait for is over.
    ///
    /// # Errors
    /// The circuit has opened meanwhile, or there is no server to ask.
    pub(super) fn begin_attempt(
        &self,
        session: &Session,
        ctx: &mut Context,
    ) -> Result<Box<HttpPeer>, Refusal> {
        let generation = &*ctx.generation;
        let route = ctx.route.ok_or(Refusal::Internal)?;
        if ctx.attempts.planned.take().is_some() {
            let circuit = &generation.route(route).circuit;
            let ticket = circuit.ask(clock::now_ns());
            let ticket = ticket.map_err(|refused| Refusal::circuit(circuit, refused))?;
            ctx.attempts.ticket = Some(ticket);
            generation.route(route).metrics.retries.inc();
        }
        let is_first = ctx.attempts.begun == 0;
        let (started, now_ns) = match is_first && !ctx.has_waited {
            true => (ctx.started, ctx.started_ns),
            false => {
                let now = clock::now();
                (now, clock::ns_at(now))
            }
        };
        let upstream = generation.upstream_of(route);
        let choice = Choice { affinity: ctx.affinity, tried: &ctx.attempts.tried, now_ns };
        let Some(server) = upstream.choose(&choice) else {
            let refusal = Refusal::NoServer { upstream: upstream.name.clone() };
            ctx.attempts.ticket = None;
            if is_first {
                toll::give_back(&self.gateway, ctx);
            }
            return Err(refusal);
        };
        let Some(mut peer) = server.peer() else {
            return Err(Refusal::NoServer { upstream: upstream.name.clone() });
        };
        if ctx.attempts.stale > 0 {
            peer.group_key ^= FRESH_POOL;
        }
        let retry = generation.route_config(route).retry.as_ref();
        let per_try = retry.and_then(|retry| retry.per_try_timeout_ns).map(Duration::from_nanos);
        let until = earlier(ctx.deadline, per_try.map(|per_try| started + per_try));
        let left = |until: Instant| until.saturating_duration_since(started);
        let (left, whole) = (until.map(left), ctx.deadline.map(left));
        limit_timeouts(&mut peer.options, left);
        match ctx.is_upgrade {
            true => outlive(&mut peer.options),
            false => back_up(&mut peer.options, whole, ctx.has_body),
        }
        ctx.patience = Patience {
            silence: Some(upstream.timeouts.read),
            until,
            awaits_continue: ctx.awaits_continue,
        };
        if let Some(guard) = guard(session) {
            guard.wait_for_upstream(ctx.patience);
        }
        ctx.body_bytes = 0;
        ctx.attempts.begin(server, started, now_ns);
        Ok(peer)
    }

    /// Ends the attempt that failed and decides whether there is another: what it returns is
    /// Pingora's to see.
    pub(super) fn end_in_failure(
        &self,
        session: &Session,
        ctx: &mut Context,
        mut error: Box<Error>,
        fate: Fate,
    ) -> Box<Error> {
        ctx.end_attempt(fate.outcome);
        let will_retry = fate.failure.is_some_and(|failure| self.plan_retry(session, ctx, failure));
        if !will_retry && ctx.refusal.is_none() {
            ctx.refusal = fate.refusal;
        }
        error.set_retry(will_retry);
        error
    }

    /// Whether the failed attempt most likely only found that its upstream had closed a pooled
    /// connection before the request reached it. Then it is made again at once, without counting.
    pub(super) fn repeat_stale(&self, session: &Session, ctx: &mut Context, error: &Error) -> bool {
        let is_stale = ctx.attempts.may_be_stale()
            && matches!(error.retry, RetryType::ReusedOnly)
            && ctx.refusal.is_none()
            && ctx.is_repeatable
            && !session.as_ref().retry_buffer_truncated()
            && session.response_written().is_none();
        if is_stale && let Some(route) = ctx.route {
            ctx.attempts.was_stale(ctx.generation.upstream_of(route));
        }
        is_stale
    }

    /// Decides whether another attempt is made, and takes what it costs out of the budget.
    pub(super) fn plan_retry(
        &self,
        session: &Session,
        ctx: &mut Context,
        failure: Failure,
    ) -> bool {
        let generation = ctx.generation.clone();
        let Some(route) = ctx.route else { return false };
        let Some(policy) = &generation.route_config(route).retry else { return false };
        let tried = Tried {
            failure,
            attempts: ctx.attempts.begun - ctx.attempts.stale,
            is_repeatable: ctx.is_repeatable,
            is_kept: !session.as_ref().retry_buffer_truncated(),
            is_answer_begun: session.response_written().is_some(),
        };
        if !policy.allows(&tried) || policy.budget == Share::NONE {
            return false;
        }
        let wait_ns = policy.backoff.wait_ns(tried.attempts, fastrand::f64());
        let wait = Duration::from_nanos(wait_ns);
        let now_ns = clock::now_ns();
        let is_possible = ctx.time_left().is_none_or(|left| wait < left)
            && !generation.route(route).circuit.would_refuse(now_ns)
            && generation.upstream_of(route).budget.spend(now_ns);
        if is_possible {
            ctx.attempts.planned = Some(wait);
        }
        is_possible
    }

    /// Judges an attempt by the head of its answer, which is passed on unless another attempt
    /// follows.
    ///
    /// # Errors
    /// To make Pingora try again.
    pub(super) fn judge_answer(
        &self,
        session: &Session,
        response: &ResponseHeader,
        ctx: &mut Context,
    ) -> pingora_core::Result<()> {
        let Some(route) = ctx.route else { return Ok(()) };
        let status = response.status;
        ctx.attempts.answer_began(status.as_u16());
        let retry = ctx.generation.route_config(route).retry.as_ref();
        let is_listed = retry.is_some_and(|retry| retry.when.statuses.contains(&status.as_u16()));
        let is_failure = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED;
        if is_failure || is_listed {
            let outcome = if is_failure { AttemptOutcome::Status5xx } else { AttemptOutcome::Ok };
            let upstream = ctx.generation.upstream_of(route);
            ctx.attempts.end(upstream, outcome, Some(status.as_u16()), retry_after(response));
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            ctx.end_attempt(AttemptOutcome::Ok);
        }
        if is_listed && self.plan_retry(session, ctx, Failure::Status(status.as_u16())) {
            let mut error = Error::new(ErrorType::HTTPStatus(status.as_u16()));
            error.set_retry(true);
            return Err(error);
        }
        if ctx.patience.until != ctx.deadline
            && let Some(guard) = guard(session)
        {
            // The bound of an attempt ends where its answer begins.
            ctx.patience.until = ctx.deadline;
            guard.wait_for_upstream(ctx.patience);
        }
        Ok(())
    }
}

/// How long the upstream asks to be left alone: `Retry-After` in seconds. A date is not
/// read; clocks differ, and the circuit has a cooldown of its own.
fn retry_after(response: &ResponseHeader) -> Option<Duration> {
    let value = response.headers.get(header::RETRY_AFTER)?;
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Whether a request may arrive twice without harm: its method is idempotent (RFC 9110,
/// section 9.2.2), or its client vouches for it with an `Idempotency-Key`.
pub(super) fn is_repeatable(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.contains_key("idempotency-key")
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
