//! Writing the gateway's own answers, and its headers on everybody's.

use super::context::Context;
use super::refusal::Refusal;
use super::trace;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use std::future::{Future, poll_fn};
use std::io::Write;
use std::pin::pin;
use std::task::Poll;

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static X_RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
static X_RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
static X_RATELIMIT_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Bytes of a refused request's body that are read, if they are here already, to keep the
/// connection.
const MAX_DRAINED: usize = 64 << 10;

/// Adds trace id and RateLimit headers to an answer.
///
/// # Errors
/// When a header cannot be built, which its checked parts rule out.
pub(super) fn decorate(response: &mut ResponseHeader, ctx: &Context) -> Result<()> {
    response.insert_header(&trace::TRACE_ID, &ctx.trace_id)?;
    let Some(limit) = &ctx.rate_limit else { return Ok(()) };
    let standing = &limit.standing;
    // The rounded emission interval may put the bucket a hair beyond its window.
    let reset = standing.full_in_seconds.min(standing.window_seconds);
    response.insert_header(&RATELIMIT_POLICY, &limit.policy_header)?;
    response.insert_header(&RATELIMIT, ratelimit(&limit.policy, standing.tokens, reset))?;
    if ctx.generation.config.server.x_ratelimit_headers {
        response.insert_header(&X_RATELIMIT_LIMIT, HeaderValue::from(standing.burst))?;
        response.insert_header(&X_RATELIMIT_REMAINING, HeaderValue::from(standing.tokens))?;
        response.insert_header(&X_RATELIMIT_RESET, HeaderValue::from(reset))?;
    }
    Ok(())
}

/// `"policy";r=tokens;t=seconds`
fn ratelimit(policy: &str, tokens: u64, reset: u64) -> HeaderValue {
    let mut text = Vec::with_capacity(policy.len() + 32);
    // Writing to a vector cannot fail, and policy names are letters, digits and a few marks.
    let _ = write!(text, "\"{policy}\";r={tokens};t={reset}");
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
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
    let mut response = ResponseHeader::build_no_case(refusal.status(), Some(10))?;
    response.insert_header(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    )?;
    response.insert_header(header::CONTENT_LENGTH, HeaderValue::from(body.len()))?;
    for (name, value) in refusal.headers() {
        response.insert_header(name, value)?;
    }
    ctx.refusal = Some(refusal);
    decorate(&mut response, ctx)?;
    write(session, response, body).await
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

async fn write(session: &mut Session, response: ResponseHeader, body: String) -> Result<()> {
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
