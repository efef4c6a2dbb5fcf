//! What is noted about a request that has ended: the access log's line, and for who asks what
//! became of a refused one.

use super::attempts::Record;
use super::context::Context;
use super::{Proxy, guard, trace};
use crate::clock;
use crate::decision::refusal::Refusal;
use crate::gateway::refused::Refused;
use crate::telemetry::access_log::{Entry, Try};
use crate::wire::guard::GuardedStream;
use http::{Version, header};
use pingora_proxy::Session;
use std::borrow::Cow;
use std::time::Duration;

impl Proxy {
    /// Keeps what there is to say of a refusal.
    pub(super) fn keep_refusal(&self, ctx: &Context, status: u16) {
        let Some(refusal) = &ctx.refusal else { return };
        let standing = match refusal {
            Refusal::RateLimited { standing, .. } => Some(standing),
            _ => None,
        };
        let identity = ctx.identity.as_ref();
        let route = ctx.route.map(|route| &*ctx.generation.route_config(route).name);
        let tier = ctx.tier().map(|tier| &*ctx.generation.config.tiers.get(tier).name);
        self.gateway.refused.keep(&Refused {
            at: clock::timestamp(),
            trace_id: trace::text(&ctx.trace_id),
            client: identity.map_or("", |identity| &identity.name),
            identified_by: identity.map(|identity| identity.kind),
            tier: tier.unwrap_or_default(),
            route: route.unwrap_or_default(),
            reason: refusal.name(),
            policy: refusal.policy(),
            status,
            retry_after_seconds: refusal.retry_after_seconds(),
            tokens: standing.map(|s| (s.tokens, s.burst, s.full_in_seconds)),
        });
    }

    /// Writes it, where a log is kept.
    pub(super) fn write_access_log(
        &self,
        session: &Session,
        ctx: &Context,
        status: u16,
        elapsed: Duration,
    ) {
        let Some(log) = &self.access_log else { return };
        let request = session.req_header();
        let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok());
        let target = std::str::from_utf8(request.raw_path()).unwrap_or_default();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let generation = &ctx.generation;
        let client_ip = source_text(session, ctx);
        let tries: Vec<Try<'_>> = ctx.attempts.records.iter().map(Try::from).collect();
        let shadow: Vec<&str> = ctx.shadowed.iter().map(|policy| &**policy).collect();
        log.record(&Entry {
            time: clock::timestamp(),
            trace_id: trace::text(&ctx.trace_id),
            client: ctx.identity.as_ref().map_or("", |identity| &identity.name),
            client_ip: client_ip.as_deref(),
            tier: ctx.tier().map_or("none", |tier| &generation.config.tiers.get(tier).name),
            method: request.method.as_str(),
            host: text(header::HOST).unwrap_or_default(),
            path,
            query,
            protocol: if request.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
            route: ctx.route.map_or("none", |route| &generation.route_config(route).name),
            upstream: ctx.attempts.server.as_ref().map(|server| &*server.name),
            attempts: ctx.attempts.begun,
            tries: &tries,
            status,
            bytes_sent: session.body_bytes_sent(),
            bytes_received: session.body_bytes_read(),
            duration_seconds: elapsed.as_secs_f64(),
            limited_by: match &ctx.refusal {
                Some(Refusal::RateLimited { policy, .. }) => Some(policy),
                _ => None,
            },
            shadow: &shadow,
            refusal: ctx.refusal.as_ref().map(Refusal::name),
            user_agent: text(header::USER_AGENT),
            referer: text(header::REFERER),
        });
    }
}

impl<'a> From<&'a Record> for Try<'a> {
    fn from(record: &'a Record) -> Try<'a> {
        Try {
            upstream: &record.server,
            outcome: record.outcome.label(),
            status: record.status,
            duration_seconds: record.took.as_secs_f64(),
        }
    }
}

/// The request's source address; the peer's own is already there as text.
fn source_text<'a>(session: &'a Session, ctx: &Context) -> Option<Cow<'a, str>> {
    let source = ctx.source?;
    let peer = guard(session).and_then(GuardedStream::peer);
    match peer.filter(|peer| peer.address == source).map(|peer| peer.text.to_str()) {
        Some(Ok(text)) => Some(Cow::Borrowed(text)),
        _ => Some(Cow::Owned(source.to_string())),
    }
}
