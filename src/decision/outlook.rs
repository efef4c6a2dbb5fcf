//! What would become of a request, without a request: nothing is charged, no probe and no
//! place is taken, and no slot of the table is claimed.
//!
//! Steps and order are those in which the proxy admits a request; each is the same function,
//! or for those that take something the one that only looks. What nobody can foretell stays
//! out: whether a place comes free for who waits for one, and what an upstream answers.

use super::client::{self, Caller, Sender};
use super::refusal::{Refusal, Wait};
use super::shared::store_of;
use super::toll::{self, Demands, Holder, Moment, Toll};
use super::{check_length, find_route, host_name};
use crate::gateway::{Gateway, Generation};
use crate::policy::limit::{Limit, LimitKey, NETWORK_PREFIX, Store};
use crate::policy::path::{self, Target};
use crate::policy::precedence::{self, Decider, Mismatch, Rank};
use crate::policy::router::RouteId;
use crate::store::key::KeyKind;
use crate::store::limiter::{Delay, Demand, Prospect, Standing};
use crate::store::table::Place;
use crate::upstream::circuit::{Refused, View};
use crate::upstream::{ServerState, ServerView, Upstream};
use crate::wire::head::check_target;
use http::{HeaderMap, Method, header};
use std::net::IpAddr;

/// A request that somebody thinks of.
pub struct Asked<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its target: path and query.
    pub target: &'a str,
    /// Its headers, `Host` among them.
    pub headers: &'a HeaderMap,
    /// The address of the connection's other end.
    pub peer: IpAddr,
    /// The client that it is taken to name, however it does that; none: what its headers and
    /// its address say.
    pub client: Option<&'a str>,
}

/// What would become of it. What comes behind a step that failed for want of something is
/// empty; what would refuse it does not keep the rest from being shown.
pub struct Outlook<'a> {
    /// Its target in normal form.
    pub target: Option<Target<'a>>,
    /// The route that takes it.
    pub route: Option<RouteId>,
    /// The address it comes from.
    pub source: IpAddr,
    /// Its client.
    pub caller: Option<Caller>,
    /// How the route's circuit stands.
    pub circuit: Option<View>,
    /// How every limit that applies stands, in the order they are charged; shadows last.
    pub limits: Vec<LimitOutlook>,
    /// Requests that its client has in flight, and how many it may have.
    pub client_places: Option<(u32, u32)>,
    /// How the servers of its upstream stand.
    pub servers: Vec<ServerView>,
    /// What it would get.
    pub answer: Answer,
}

impl<'a> Outlook<'a> {
    /// What decides the request's toll, as far as the request gets there.
    pub fn toll<'o>(&'o self, asked: &Asked<'o>) -> Option<Toll<'o>> {
        Some(Toll {
            route: self.route?,
            method: asked.method,
            headers: asked.headers,
            caller: self.caller.as_ref()?,
            source: self.source,
        })
    }
}

/// How one limit stands towards the request.
pub struct LimitOutlook {
    /// The policy's index; see [`Generation::limits_of`].
    pub policy: usize,
    /// Whose bucket it is: the kind, and the value where there is one.
    pub holder: (HolderKind, Option<String>),
    /// Tokens the request costs.
    pub cost: u32,
    /// How the bucket would fare.
    pub prospect: Prospect,
}

impl LimitOutlook {
    /// Whether the bucket is one that its set shares, for want of a free slot.
    pub fn is_overflow(&self) -> bool {
        self.prospect.place == Place::Overflow
    }
}

/// What a bucket's holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HolderKind {
    /// A client, named in this way.
    Client(KeyKind),
    /// An address.
    Ip,
    /// An IPv6 network.
    Network,
    /// A route.
    Route,
    /// Everybody.
    Global,
    /// A header's value.
    Header,
}

/// What a request would get.
#[derive(Debug)]
pub enum Answer {
    /// The gateway's readiness: the path is the one of health probes.
    Probe,
    /// A refusal.
    Refused(Refusal),
    /// It would be forwarded.
    Forwarded {
        /// After so long that a leaky bucket holds it back.
        delay_ns: u64,
        /// After a wait for a place, or not at all: every place is taken.
        waits_for_place: bool,
    },
}

/// Foresees what would become of a request at a moment.
pub fn foresee<'a>(
    asked: &Asked<'a>,
    gateway: &Gateway,
    generation: &Generation,
    at: Moment,
) -> Outlook<'a> {
    let server = &generation.config.server;
    let source = client::source_address(asked.peer, asked.headers, &server.trusted_proxies);
    let mut outlook = Outlook {
        target: None,
        route: None,
        source,
        caller: None,
        circuit: None,
        limits: Vec::new(),
        client_places: None,
        servers: Vec::new(),
        answer: Answer::Probe,
    };
    let found = find(asked, generation, &mut outlook);
    let route = match found {
        Ok(Some(route)) => route,
        Ok(None) => return outlook,
        Err(refusal) => {
            outlook.answer = Answer::Refused(refusal);
            return outlook;
        }
    };
    let length = asked.headers.get(header::CONTENT_LENGTH);
    let fits = check_length(generation, route, length);
    let is_blocked = gateway.registry.blocks_ip(source);
    let decided = match (identify(asked, source, route, gateway, generation), fits) {
        (Err(_), fits) if is_blocked => fits.and(Err(Refusal::Blocked)),
        (Ok(caller), fits) => {
            let is_blocked = is_blocked || caller.is_blocked(gateway);
            let toll = Toll {
                route,
                method: asked.method,
                headers: asked.headers,
                caller: &caller,
                source,
            };
            let decided = pass(&toll, gateway, generation, at, &mut outlook);
            outlook.caller = Some(caller);
            fits.and(if is_blocked { Err(Refusal::Blocked) } else { decided })
        }
        (Err(unknown), fits) => fits.and(Err(unknown)),
    };
    outlook.answer = decided.unwrap_or_else(Answer::Refused);
    outlook
}

/// The route; none for a health probe.
fn find<'a>(
    asked: &Asked<'a>,
    generation: &Generation,
    outlook: &mut Outlook<'a>,
) -> Result<Option<RouteId>, Refusal> {
    let (method, max_uri) = (asked.method.as_str(), generation.config.server.max_uri);
    check_target(method.as_bytes(), asked.target.as_bytes(), max_uri)
        .map_err(Refusal::Malformed)?;
    let target = path::normalize(asked.target).map_err(Refusal::Path)?;
    let target = outlook.target.insert(target);
    if generation.config.server.health_path.as_deref() == Some(&*target.path) {
        return Ok(None);
    }
    let host = asked.headers.get(header::HOST);
    let route = find_route(generation, host, asked.method, &target.path)?;
    outlook.route = Some(route);
    Ok(Some(route))
}

fn identify(
    asked: &Asked<'_>,
    source: IpAddr,
    route: RouteId,
    gateway: &Gateway,
    generation: &Generation,
) -> Result<Caller, Refusal> {
    let needs_key = client::needs_key(generation, route);
    match asked.client {
        Some(id) => {
            let kind = client::likely_kind(id, needs_key, generation);
            if needs_key && kind != KeyKind::ApiKey {
                return Err(Refusal::ApiKeyRequired);
            }
            let (identity, digest) = client::by_name(kind, id, gateway, generation);
            Ok(Caller { identity, digest, has_api_key: kind == KeyKind::ApiKey })
        }
        None => {
            let sender = Sender { headers: asked.headers, peer: asked.peer, source };
            client::identify(&sender, gateway, generation, needs_key)
        }
    }
}

/// From the circuit to the servers. Looks at all of them; the first that refuses decides.
fn pass(
    toll: &Toll<'_>,
    gateway: &Gateway,
    generation: &Generation,
    at: Moment,
    outlook: &mut Outlook<'_>,
) -> Result<Answer, Refusal> {
    let circuit = &generation.route(toll.route).circuit;
    let view = circuit.view(at.ns);
    let refused = view.retry_after_ns.map(|retry_after_ns| Refused { retry_after_ns });
    let closed = refused.map_or(Ok(()), |refused| Err(Refusal::circuit(circuit, refused)));
    outlook.circuit = Some(view);
    let admitted = limits(toll, gateway, generation, at, outlook);
    let place = places(toll, gateway, generation, outlook);
    let upstream = generation.upstream_of(toll.route);
    outlook.servers = upstream.servers(at.ns);
    let server = match outlook.servers.iter().any(|server| may_be_asked(server.state)) {
        true => Ok(()),
        false => Err(Refusal::NoServer { upstream: upstream.name.clone() }),
    };
    closed?;
    let delay = admitted?;
    let timeout = generation.route_config(toll.route).timeout;
    let is_too_long = |delay: &Delay| timeout.is_some_and(|most| most <= delay.time());
    if let Some(delay) = delay.filter(is_too_long) {
        return Err(toll::held_too_long(toll::policy_at(generation, toll, delay.policy), delay));
    }
    let delay_ns = delay.map_or(0, |delay| delay.delay_ns);
    let waits_for_place = place?;
    server?;
    Ok(Answer::Forwarded { delay_ns, waits_for_place })
}

/// How the limits stand, and how long a leaky bucket would hold the request back, if any.
fn limits(
    toll: &Toll<'_>,
    gateway: &Gateway,
    generation: &Generation,
    at: Moment,
    outlook: &mut Outlook<'_>,
) -> Result<Option<Delay>, Refusal> {
    let tiers = &generation.config.tiers;
    let overflow = &tiers.get(tiers.default_tier()).bucket;
    let is_shared = |policy| {
        gateway.fleet.is_some() && store_of(generation, toll.route, policy) != Store::Local
    };
    let look = |demands: Demands<'_>, is_enforced: bool| -> Vec<LimitOutlook> {
        let look = |demand: Demand<'_>| LimitOutlook {
            policy: demand.policy,
            holder: holder(toll, generation.limit_of(toll.route, demand.policy), generation),
            cost: demand.cost,
            // What only watches is counted here.
            prospect: match is_enforced && is_shared(demand.policy) {
                true => gateway.limiter.foresee_elsewhere(&demand, at.ns),
                false => gateway.limiter.foresee(&demand, overflow, at.ns),
            },
        };
        demands.into_iter().map(look).collect()
    };
    let enforced = look(toll::enforced(toll, gateway, generation, at), true);
    let standings = enforced.iter().map(|limit| limit.prospect.standing);
    let longest = standings.filter(Standing::refuses).reduce(Standing::longer);
    let delays = enforced.iter().map(|limit| {
        let (policy, delay_ns) = (limit.policy, limit.prospect.delay_ns);
        Delay { policy, delay_ns }
    });
    // Of two that are as long the first one names itself, as on a receipt.
    let delays = delays.filter(|delay| delay.delay_ns > 0).rev();
    let delay = delays.max_by_key(|delay| delay.delay_ns);
    outlook.limits = enforced;
    outlook.limits.extend(look(toll::shadows(toll, gateway, generation, at), false));
    match longest {
        Some(standing) => {
            Err(toll::refusal(toll::policy_at(generation, toll, standing.policy), standing))
        }
        None => Ok(delay),
    }
}

/// Whose bucket a limit charges, to be shown; without a limit the tier's.
fn holder(
    toll: &Toll<'_>,
    limit: Option<&Limit>,
    generation: &Generation,
) -> (HolderKind, Option<String>) {
    let holder = limit.map(|limit| Holder::of(toll, limit, generation));
    match holder.unwrap_or(Holder::Client(toll.caller)) {
        Holder::Client(caller) => {
            let identity = &caller.identity;
            // A client that its address names has the bucket of that address, and is charged as
            // a client to save a digest; the limit still counts by address.
            let kind = match limit.is_some_and(|limit| limit.key == LimitKey::Ip) {
                true => HolderKind::Ip,
                false => HolderKind::Client(identity.kind),
            };
            (kind, Some(identity.name.to_string()))
        }
        Holder::Ip(ip) => (HolderKind::Ip, Some(ip.to_string())),
        Holder::Network(ip) => (HolderKind::Network, Some(format!("{ip}/{NETWORK_PREFIX}"))),
        Holder::Route(route) => {
            (HolderKind::Route, Some(generation.route_config(route).name.to_string()))
        }
        Holder::Global => (HolderKind::Global, None),
        Holder::Header(_, value) => {
            (HolderKind::Header, Some(String::from_utf8_lossy(value).into_owned()))
        }
    }
}

/// Whether the request would have to wait for a place at its upstream.
fn places(
    toll: &Toll<'_>,
    gateway: &Gateway,
    generation: &Generation,
    outlook: &mut Outlook<'_>,
) -> Result<bool, Refusal> {
    let rank = toll.caller.identity.standing.tier;
    let tier = generation.config.tiers.get(rank);
    if let Some(max) = tier.concurrency {
        let used = gateway.client_places.in_flight(toll.caller.digest);
        outlook.client_places = Some((used, max));
        if used >= max {
            return Err(Refusal::ClientBusy { tier: tier.name.clone(), max });
        }
    }
    let upstream: &Upstream = generation.upstream_of(toll.route);
    let Some(places) = &upstream.places else { return Ok(false) };
    let is_free = places.used() < places.max() && places.waiting() == 0;
    // Whether a request of a higher tier would displace another is known to the line alone.
    let is_full = places.waiting() >= places.queue() && (rank.0 == 0 || places.queue() == 0);
    if !is_free && is_full {
        return Err(Refusal::saturated(upstream, Wait::Full));
    }
    Ok(!is_free)
}

/// As the balancer has it: an ejected server is better than none.
fn may_be_asked(state: ServerState) -> bool {
    matches!(state, ServerState::Up | ServerState::Ejected)
}

/// Another route than the one that was chosen.
pub struct Other {
    /// Which.
    pub route: RouteId,
    /// Why it was not.
    pub why: WhyNot,
}

/// Why a route was not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhyNot {
    /// It does not fit.
    Mismatch(Mismatch),
    /// It fits, and another goes first by this.
    Behind(Decider),
}

/// The routes nearest to a request besides the one that takes it, at most `most`, nearest first:
/// those that fit, then those that other methods or hosts fit, then those whose path begins with
/// the same segment. Looks at all routes.
pub fn others(
    asked: &Asked<'_>,
    path: &str,
    chosen: Option<RouteId>,
    generation: &Generation,
    most: usize,
) -> Vec<Other> {
    let host = host_name(asked.headers.get(header::HOST));
    let matching = |id: RouteId| generation.route_config(id).matching();
    let first = chosen.map(|id| Rank::towards(matching(id), host));
    let all = (0..generation.routes.len() as u32).map(RouteId).filter(|id| Some(*id) != chosen);
    let mut near: Vec<(u8, Rank, Other)> = Vec::new();
    for route in all {
        let fit = precedence::mismatch(matching(route), host, asked.method, path);
        let rank = Rank::towards(matching(route), host);
        let why = match (fit, &first) {
            (Some(mismatch), _) => WhyNot::Mismatch(mismatch),
            (None, Some(first)) => WhyNot::Behind(first.decider(&rank)),
            (None, None) => continue,
        };
        let fits_path = precedence::takes_path(matching(route).path, path);
        let distance = match why {
            WhyNot::Behind(_) => 0,
            WhyNot::Mismatch(Mismatch::Method) => 1,
            WhyNot::Mismatch(Mismatch::Host) if fits_path => 2,
            WhyNot::Mismatch(Mismatch::Path)
                if precedence::shares_segment(matching(route).path, path) =>
            {
                3
            }
            WhyNot::Mismatch(_) => continue,
        };
        near.push((distance, rank, Other { route, why }));
    }
    near.sort_by(|a, b| (a.0, &a.1, a.2.route).cmp(&(b.0, &b.1, b.2.route)));
    near.truncate(most);
    near.into_iter().map(|(_, _, other)| other).collect()
}
