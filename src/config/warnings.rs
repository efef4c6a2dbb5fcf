//! What a valid configuration says that its author may not have meant.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use http::Method;

use super::Config;
use super::clients::Identifier;
use super::path::parameter;
use super::raw::{Field, Section};
use super::report::{Report, one_of, quote};
use super::routes::{Auth, Route};
use super::value;
use super::yaml::Kind;
use crate::policy::limit::{Limit, LimitCost};
use crate::policy::route::{HostMatch, PathMatch};

/// Looks over a configuration without errors. `auth: required` that cannot be met is the one
/// error in here; it takes routes and clients together to see it.
pub(super) fn check(config: &Config, root: &Section<'_>, report: &mut Report) {
    let places = Places::new(root);
    if config.routes.is_empty() {
        report.warn("routes", None, "there are no routes: every request is answered with 404");
    }
    claimed_identity(config, root, report);
    required_keys(config, &places, report);
    shadowed(&config.routes, &places, report);
    for (index, route) in config.routes.iter().enumerate() {
        unaffordable(config, route, &places.route(index, "cost"), report);
        pointless_retries(route, index, &places, report);
        shared_circuit(config, route, index, &places, report);
    }
}

/// Where routes stand in the file, for messages about a route that was read long before.
struct Places<'a> {
    routes: Vec<Field<'a>>,
}

impl<'a> Places<'a> {
    fn new(root: &Section<'a>) -> Self {
        let routes = root.get("routes").map(|f| f.list(&mut Report::default(), usize::MAX));
        Self { routes: routes.unwrap_or_default() }
    }

    /// The key path and the line of a key of a route, such as `retry.when`; of what contains it
    /// when the key is absent.
    fn route(&self, index: usize, key: &str) -> (String, Option<usize>) {
        let Some(field) = self.routes.get(index) else {
            return (format!("routes[{index}]"), None);
        };
        let (mut node, mut line, mut path) = (field.node, field.line, field.path.clone());
        for key in key.split('.') {
            let Kind::Map(entries) = &node.kind else { break };
            let Some(entry) = entries.iter().find(|entry| entry.key == key) else { break };
            (node, line) = (&entry.value, entry.line);
            path = format!("{path}.{key}");
        }
        (path, Some(line))
    }

    /// Whether a key of a route is written as this word.
    fn says(&self, index: usize, key: &str, word: &str) -> bool {
        let Some(Kind::Map(entries)) = self.routes.get(index).map(|field| &field.node.kind) else {
            return false;
        };
        let written = entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value.kind);
        matches!(written, Some(Kind::Scalar(text)) if text == word)
    }
}

/// Anybody who can reach the listener may claim to be a client with a better tier.
fn claimed_identity(config: &Config, root: &Section<'_>, report: &mut Report) {
    let Some(reachable) = config.server.listen.iter().find(|a| !a.ip().is_loopback()) else {
        return;
    };
    let asserted = config.clients.identify.iter().find_map(|identifier| match identifier {
        Identifier::Header { name, from } if from.is_empty() => Some(name),
        _ => None,
    });
    let Some(header) = asserted else { return };
    let tiers = &config.tiers;
    let above = config.clients.known.iter().find_map(|client| {
        let tier = client.tier.filter(|&tier| tiers.is_above(tier, tiers.default_tier()))?;
        Some((&client.id, &tiers.get(tier).name))
    });
    let Some((client, tier)) = above else { return };
    let line = root.get("clients").map(|field| field.line);
    let message = format!(
        "whoever reaches {reachable} can send {header}: {client} and get the tier {tier}; say with \
         from: [CIDR] which peers may assert the header, or name clients by api_key"
    );
    report.warn("clients.identify", line, message);
}

fn required_keys(config: &Config, places: &Places<'_>, report: &mut Report) {
    let required = |route: &Route| route.auth == Auth::Required;
    let Some(index) = config.routes.iter().position(required) else { return };
    let (path, line) = places.route(index, "auth");
    if !config.clients.read_api_keys() {
        let message = "an API key is required, but clients.identify does not name api_key, so \
                       no key is ever read; add api_key to clients.identify";
        report.error(&path, line, message);
    } else if config.clients.known.iter().all(|client| client.api_keys.is_empty()) {
        let message = "an API key is required, but no client in clients.known has api_keys, so \
                       only keys that the admin API makes pass";
        report.warn(&path, line, message);
    }
}

/// What earlier routes take of one path on one host.
#[derive(Default)]
struct Taken<'a> {
    all_methods_by: Option<usize>,
    methods: HashSet<&'a Method>,
    last: usize,
}

/// Finds routes that get no request. The most specific path wins and then the most specific host,
/// so only routes with the same path and host compete; among these the first that takes the
/// method wins.
fn shadowed(routes: &[Route], places: &Places<'_>, report: &mut Report) {
    let mut taken: HashMap<(String, Option<&HostMatch>), Taken<'_>> = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        let any = [None];
        let named: Vec<_> = route.hosts.iter().map(Some).collect();
        let hosts = if named.is_empty() { &any[..] } else { &named[..] };
        let mut shadowing = None;
        let mut reachable = false;
        for &host in hosts {
            let taken = taken.entry((same_path(&route.path), host)).or_default();
            match taken.takes(route) {
                Some(by) => shadowing = Some(by),
                None => reachable = true,
            }
            taken.add(index, route);
        }
        if let (false, Some(by)) = (reachable, shadowing) {
            let (path, line) = places.route(index, "path");
            let name = quote(&routes[by].name);
            let message = format!(
                "never matches: routes[{by}] ({name}) takes the same path, hosts and methods before it"
            );
            report.warn(&path, line, message);
        }
    }
}

impl<'a> Taken<'a> {
    /// The earlier route that leaves nothing for this one.
    fn takes(&self, route: &Route) -> Option<usize> {
        let named = !route.methods.is_empty();
        let all_named = named && route.methods.iter().all(|method| self.methods.contains(method));
        self.all_methods_by.or(all_named.then_some(self.last))
    }

    fn add(&mut self, index: usize, route: &'a Route) {
        self.last = index;
        self.methods.extend(&route.methods);
        if route.methods.is_empty() && self.all_methods_by.is_none() {
            self.all_methods_by = Some(index);
        }
    }
}

/// Two paths with the same text here take the same requests: parameters lose their names.
fn same_path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(path) => format!("exact {path}"),
        PathMatch::Prefix(path) => format!("prefix {path}"),
        PathMatch::Pattern(path) => {
            let segments = path.split('/').map(|s| if parameter(s).is_some() { "{}" } else { s });
            format!("pattern {}", segments.collect::<Vec<_>>().join("/"))
        }
    }
}

/// Finds buckets that never hold what a request of the route costs.
fn unaffordable(
    config: &Config,
    route: &Route,
    (path, line): &(String, Option<usize>),
    report: &mut Report,
) {
    let cost = dearest(route);
    let mut too_small = Vec::new();
    for (id, tier) in config.tiers.iter() {
        if tier.bucket.burst() < cost {
            let default = if id == config.tiers.default_tier() { ", the default" } else { "" };
            too_small.push(format!("the tier {} ({}{default})", tier.name, tier.bucket.burst()));
        }
    }
    let mut shadows = Vec::new();
    let counts = |limit: &&Limit| limit.cost == LimitCost::Route && limit.algorithm.burst() < cost;
    for limit in config.limits.iter().chain(&route.limits).filter(counts) {
        let (list, kind) = match limit.is_shadow {
            true => (&mut shadows, "shadow"),
            false => (&mut too_small, "limit"),
        };
        list.push(format!("the {kind} {} ({})", limit.name, limit.algorithm.burst()));
    }
    let always = "there it is always refused";
    let counted = "there it always counts as one that would be refused, and passes";
    for (list, outcome) in [(too_small, always), (shadows, counted)] {
        if !list.is_empty() {
            let message = format!(
                "a request can cost {cost} tokens, which is above the burst of {}: {outcome}",
                list.join(", ")
            );
            report.warn(path, *line, message);
        }
    }
}

/// The most that a request of the route can cost.
fn dearest(route: &Route) -> u64 {
    let named = route.methods.iter().map(|method| route.cost.of(method)).max();
    let any = route.cost.by_method.iter().map(|&(_, cost)| cost).max();
    u64::from(named.unwrap_or_else(|| any.unwrap_or(0).max(route.cost.default)))
}

/// Methods whose requests can be sent again without doing something twice (RFC 9110, 9.2.2).
const IDEMPOTENT: [Method; 6] =
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE];

/// Finds retries that cannot happen, or hardly ever.
fn pointless_retries(route: &Route, index: usize, places: &Places<'_>, report: &mut Report) {
    let Some(retry) = route.retry.as_ref().filter(|retry| retry.attempts > 0) else { return };
    let per_try = retry.per_try_timeout_ns.map(Duration::from_nanos);
    if let (Some(per_try), Some(timeout)) = (per_try, route.timeout)
        && per_try >= timeout
    {
        let (path, line) = places.route(index, "retry.per_try_timeout");
        let message = format!(
            "it should be shorter than the route's timeout ({}): an attempt that takes so long \
             leaves no time for another",
            value::duration_text(timeout)
        );
        report.warn(&path, line, message);
    }
    let unsafe_only = !route.methods.is_empty()
        && route.methods.iter().all(|method| !IDEMPOTENT.contains(method));
    if unsafe_only && !retry.when.connect {
        let (path, line) = places.route(index, "retry.when");
        let methods: Vec<_> = route.methods.iter().map(Method::as_str).collect();
        let message = format!(
            "without connect in it, {} requests are tried again only with an Idempotency-Key",
            one_of(methods)
        );
        report.warn(&path, line, message);
    }
}

/// A route without a breaker of its own has that of its upstream, which `none` does not change.
fn shared_circuit(
    config: &Config,
    route: &Route,
    index: usize,
    places: &Places<'_>,
    report: &mut Report,
) {
    let upstream = config.upstreams.get(route.upstream).filter(|u| u.breaker.is_some());
    let Some(upstream) = upstream.filter(|_| places.says(index, "breaker", "none")) else { return };
    let (path, line) = places.route(index, "breaker");
    let name = &upstream.name;
    let message = format!("the route has no circuit of its own, and the upstream {name}'s applies");
    report.warn(&path, line, message);
}
