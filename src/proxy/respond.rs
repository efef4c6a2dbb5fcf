//! Writing the gateway's own answers, and its headers on everybody's.

use super::context::Context;
use super::guard;
use super::hops::clean_response;
use super::{trace, values};
use crate::decision::refusal::Refusal;
use crate::wire::guard::GuardedStream;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Headers that [`pass_on`] adds, with Pingora's `Date` and `Connection`.
const ADDED_HEADERS: usize = 5;
/// Headers of a refusal at the most.
const REFUSAL_HEADERS: usize = 12;

/// Bytes of a refused request's body that are read, if they are here already, to keep the
/// connection.
const MAX_DRAINED: usize = 64 << 10;

/// Makes an upstream's response the gateway's: cleaned, with trace id and RateLimit headers.
///
/// As with requests, Pingora's second map of header spellings is left behind: every header
/// added or removed would pay for it twice.
///
/// # Errors
/// When the upstream's reason phrase cannot be kept.
pub(super) fn pass_on(
    response: &mut ResponseHeader,
    ctx: &Context,
    version: Version,
) -> Result<()> {
    let reason = response.get_reason_phrase();
    let own_reason =
        (reason != response.status.canonical_reason()).then(|| reason.map(str::to_owned));
    let nothing = ResponseHeader::from(http::Response::new(()).into_parts().0);
    let mut parts: http::response::Parts = std::mem::replace(response, nothing).into();
    parts.headers.reserve(ADDED_HEADERS);
    let is_switch = parts.status == StatusCode::SWITCHING_PROTOCOLS;
    clean_response(&mut parts.headers, is_switch, version);
    decorate(&mut parts.headers, ctx);
    *response = parts.into();
    match own_reason {
        Some(reason) => response.set_reason_phrase(reason.as_deref()),
        None => Ok(()),
    }
}

/// Adds trace id and RateLimit headers to an answer.
fn decorate(headers: &mut HeaderMap, ctx: &Context) {
    headers.insert(&trace::TRACE_ID, ctx.trace_id.clone());
    let Some(limit) = &ctx.rate_limit else { return };
    let standing = &limit.standing;
    let reset = standing.full_in_seconds;
    headers.insert(&RATELIMIT_POLICY, limit.policy_header.clone());
    headers.insert(&RATELIMIT, ratelimit(&limit.policy, standing.tokens, reset));
    if ctx.generation.config.server.x_ratelimit_headers {
        headers.insert(&X_RATELIMIT_LIMIT, values::number(standing.burst));
        headers.insert(&X_RATELIMIT_REMAINING, values::number(standing.tokens));
        headers.insert(&X_RATELIMIT_RESET, values::number(reset));
    }
}

/// `"policy";r=tokens;t=seconds`
fn ratelimit(policy: &str, tokens: u64, reset: u64) -> HeaderValue {
    let (mut left, mut wait) = (itoa::Buffer::new(), itoa::Buffer::new());
    let (left, wait) = (left.format(tokens).as_bytes(), wait.format(reset).as_bytes());
    // Policy names are letters, digits and a few marks.
    values::joined(&[b"\"", policy.as_bytes(), b"\";r=", left, b";t=", wait])
}

/// Writes a refusal. The connection stays where the body of the request is absent or has
/// arrived already; otherwise the answer says that it ends.
pub(super) async fn refuse(
    session: &mut Session,
    ctx: &mut Context,
    refusal: Refusal,
) -> Result<()> {
    if refusal.closes() {
        session.set_keepalive(None);
    } else {
        drain_received(session).await;
    }
    let body = refusal.body(trace::text(&ctx.trace_id));
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = refusal.status();
    let headers = &mut parts.headers;
    headers.reserve(REFUSAL_HEADERS);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    headers.extend(refusal.headers());
    ctx.refusal = Some(refusal);
    decorate(headers, ctx);
    write(session, parts.into(), body).await
}

/// Answers a health probe on the data port as the admin API's `/ready` does.
pub(super) async fn readiness(session: &mut Session, ctx: &Context, is_ready: bool) -> Result<()> {
    drain_received(session).await;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = format!("{{\"ready\":{is_ready}}}\n");
    let mut response = ResponseHeader::build_no_case(status, Some(6))?;
    response.insert_header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    response.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    response.insert_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    response.insert_header(&trace::TRACE_ID, &ctx.trace_id)?;
    write(session, response, body).await
}

/// Lets the answer that is about to be written say that the connection ends, where it does.
/// Pingora does so for requests that begin while the gateway is stopping, and not for those
/// that are under way by then.
pub(super) fn say_if_last(session: &mut Session) {
    if guard(session).is_some_and(GuardedStream::is_last_request) {
        session.set_keepalive(None);
    }
}

async fn write(session: &mut Session, response: ResponseHeader, body: String) -> Result<()> {
    say_if_last(session);
    session.write_response_header(Box::new(response), false).await?;
    session.write_response_body(Some(Bytes::from(body)), true).await
}

/// Reads what is here already of a body nobody wants. Waiting for more would let a client
/// hold a connection for nothing.
async fn drain_received(session: &mut Session) {
    let mut drained = 0;
    while drained < MAX_DRAINED && !session.as_downstream_mut().is_body_done() {
        match now_or_never(session.as_downstream_mut().read_request_body()).await {
            Some(Ok(Some(chunk))) => drained += chunk.len(),
            _ => return,
        }
    }
}

/// Polls a future once.
async fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        Poll::Ready(match future.as_mut().poll(cx) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}
