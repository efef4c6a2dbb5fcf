//! Everything that is decided before an upstream is asked, in the order of the contract:
//! path, route, client, circuit, limits.

use super::attempt::is_repeatable;
use super::context::Context;
use super::facts::{Facts, Present};
use super::toll;
use super::{Proxy, affinity, guard, hops, trace};
use crate::decision::client::{self, Sender};
use crate::decision::refusal::Refusal;
use crate::decision::toll::Toll;
use crate::decision::{check_length, find_route};
use crate::gateway::Generation;
use crate::policy::path::{self, PathFault};
use crate::policy::router::RouteId;
use crate::wire::guard::GuardedStream;
use http::{HeaderValue, Version};
use pingora_proxy::Session;
use std::net::IpAddr;

/// What a request that was admitted to the gateway gets.
#[derive(Clone, Copy)]
pub(super) enum Passage {
    /// It goes to its upstream; which of its headers need a closer look.
    Forward(Present),
    /// It asked whether the gateway is ready.
    Probe,
}

impl Proxy {
    /// Everything that is decided before an upstream is asked, in the order of the contract:
    /// path, route, client, circuit, limits.
    pub(super) fn admit(&self, session: &Session, ctx: &mut Context) -> Result<Passage, Refusal> {
        let request = session.req_header();
        let generation = ctx.generation.clone();
        let server = &generation.config.server;
        let peer = guard(session).and_then(GuardedStream::peer);
        let peer = peer.map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.address);
        let facts = Facts::gather(&request.headers);
        ctx.trace_id = trace::of_request(facts.trace_id, facts.traceparent);
        ctx.has_host = facts.host.is_some();
        ctx.is_from_trusted_proxy = client::is_trusted(peer, server);
        let source = client::source_address(peer, &request.headers, &server.trusted_proxies);
        ctx.source = Some(source);

        if facts.has.connection && hops::nominates_protected(&request.headers) {
            return Err(Refusal::Connection);
        }
        let target = std::str::from_utf8(request.raw_path());
        let target = target.map_err(|_| Refusal::Path(PathFault::BadCharacter))?;
        let target = path::normalize(target).map_err(Refusal::Path)?;
        let probes = [server.health_path.as_deref(), self.own_probe.as_deref()];
        if probes.contains(&Some(&*target.path)) {
            ctx.is_probe = true;
            return Ok(Passage::Probe);
        }
        if facts.has.via && self.pseudonym.has_signed(request) {
            return Err(Refusal::Loop);
        }
        let route = find_route(&generation, facts.host, &request.method, &target.path)?;
        enter_route(&generation, route, facts.content_length, &target, ctx)?;

        if self.gateway.registry.blocks_ip(source) {
            return Err(Refusal::Blocked);
        }
        let needs_key = client::needs_key(&generation, route);
        let sender = Sender { headers: &request.headers, peer, source };
        let caller = client::identify(&sender, &self.gateway, &generation, needs_key)?;
        if caller.is_blocked(&self.gateway) {
            ctx.identity = Some(caller.identity);
            return Err(Refusal::Blocked);
        }
        let toll = Toll {
            route,
            method: &request.method,
            headers: &request.headers,
            caller: &caller,
            source,
        };
        let upstream = generation.upstream_of(route);
        ctx.affinity = affinity::of_request(&toll, &target.path, &upstream.balance);
        ctx.is_repeatable = is_repeatable(&request.method, &request.headers);
        ctx.awaits_continue = facts.has.expect && request.version != Version::HTTP_10;
        ctx.has_body = facts.content_length.is_some() || facts.has.transfer_encoding;
        let passed = self.pass(&toll, &generation, ctx);
        ctx.holder = Some(caller.digest);
        ctx.identity = Some(caller.identity);
        passed.map(|()| Passage::Forward(facts.has))
    }

    /// The circuit first, then the limits: an open circuit costs no tokens.
    fn pass(
        &self,
        toll: &Toll<'_>,
        generation: &Generation,
        ctx: &mut Context,
    ) -> Result<(), Refusal> {
        let now_ns = ctx.started_ns;
        let circuit = &generation.route(toll.route).circuit;
        let ticket = circuit.ask(now_ns).map_err(|refused| Refusal::circuit(circuit, refused))?;
        toll::charge(toll, &self.gateway, generation, ctx)?;
        ctx.attempts.ticket = Some(ticket);
        if let Some(retry) = &generation.route_config(toll.route).retry {
            generation.upstream_of(toll.route).budget.earn(retry.budget, now_ns);
        }
        Ok(())
    }
}

/// Notes the route and what it alone decides: deadline, forwarded target, body bound.
fn enter_route(
    generation: &Generation,
    route: RouteId,
    content_length: Option<&HeaderValue>,
    target: &path::Target<'_>,
    ctx: &mut Context,
) -> Result<(), Refusal> {
    let config = generation.route_config(route);
    ctx.route = Some(route);
    ctx.inflight = Some(generation.route(route).metrics.enter());
    ctx.deadline = config.timeout.map(|timeout| ctx.started + timeout);
    if config.strip_prefix.is_some() || !target.is_unchanged() {
        ctx.target = Some(forwarded_target(target, config.strip_prefix.as_deref()));
    }
    check_length(generation, route, content_length)
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
