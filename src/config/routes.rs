//! `routes`: which requests go where, and what they cost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::keys;
use super::limits::{check_name, read_route_limit};
use super::raw::{Field, Section, Unique, word};
use super::report::{Report, did_you_mean, one_of, quote};
use super::upstreams::Upstream;
use super::yaml::Kind;
use super::{breaker, host, path, retry, value};
use crate::policy::breaker::BreakerPolicy;
use crate::policy::limit::Limit;
use crate::policy::retry::RetryPolicy;
use crate::policy::route::{HostMatch, PathMatch, RouteMatch};

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// The paths it takes, in normal form.
    pub path: PathMatch,
    /// The hosts it takes; empty: any.
    pub hosts: Vec<HostMatch>,
    /// The methods it takes; empty: any.
    pub methods: Vec<Method>,
    /// Where its requests go: an index into [`Config::upstreams`](super::Config::upstreams).
    pub upstream: usize,
    /// What is cut from the front of the path before it is forwarded; a prefix, on a segment
    /// border, of every path the route takes.
    pub strip_prefix: Option<String>,
    /// The longest a whole request may take, 1 ms to 24 h; none: no bound of its own.
    pub timeout: Option<Duration>,
    /// What a request costs.
    pub cost: Cost,
    /// A limit of its own, named `route:<name>`, and what belongs to it.
    pub limits: Vec<Limit>,
    /// The largest request body in bytes; none: any.
    pub max_body: Option<u64>,
    /// Whether an API key must name the client.
    pub auth: Auth,
    /// When a failed attempt is followed by another; none: never.
    pub retry: Option<RetryPolicy>,
    /// What opens a circuit of its own, `route:<name>`; none: it shares its upstream's.
    pub breaker: Option<BreakerPolicy>,
}

impl Route {
    /// What the router needs to know of it.
    pub fn matching(&self) -> RouteMatch<'_> {
        RouteMatch { path: &self.path, hosts: &self.hosts, methods: &self.methods }
    }
}

/// Whether a route asks for an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// It does not.
    None,
    /// 401 unless an API key names the client.
    Required,
}

/// What a request costs in tokens, 0 to 1 000 000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// For methods that are not named.
    pub default: u32,
    /// For those that are.
    pub by_method: Vec<(Method, u32)>,
}

impl Cost {
    /// What a request of this method costs.
    pub fn of(&self, method: &Method) -> u32 {
        self.by_method
            .iter()
            .find(|(named, _)| named == method)
            .map_or(self.default, |&(_, cost)| cost)
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self { default: 1, by_method: Vec::new() }
    }
}

/// Routes of a file.
const MAX_ROUTES: usize = 65_535;
/// Hosts, or methods, of a route.
const MAX_MATCHES: usize = 256;
/// The largest cost of a request.
const MAX_COST: u64 = 1_000_000;
/// The largest `max_body`, 1 TiB.
const MAX_BODY: u64 = 1 << 40;

/// Reads `routes`.
pub(super) fn read(
    field: Option<&Field<'_>>,
    upstreams: &[Upstream],
    has_redis: bool,
    report: &mut Report,
) -> Vec<Route> {
    let Some(field) = field else { return Vec::new() };
    let indices = upstreams.iter().enumerate().map(|(i, upstream)| (&*upstream.name, i)).collect();
    let around = Around { upstreams: indices, has_redis };
    let mut unique = Unique::default();
    let mut routes = Vec::new();
    for field in field.list(report, MAX_ROUTES) {
        if let Some(section) = field.section(report, &keys::ROUTE) {
            routes.extend(route(&section, &around, &mut unique, report));
        }
    }
    routes
}

/// What of the rest of the file a route depends on.
struct Around<'a> {
    /// Indices by name.
    upstreams: HashMap<&'a str, usize>,
    has_redis: bool,
}

/// Reads one route: every key first, so that all errors are found, and then the whole of it.
fn route(
    section: &Section<'_>,
    around: &Around<'_>,
    unique: &mut Unique,
    report: &mut Report,
) -> Option<Route> {
    let name = section.require("name", report, "name: users");
    let name = name.and_then(|field| route_name(field, unique, report));
    let path = section.require("path", report, "path: /api/users");
    let path = path.and_then(|field| path_match(field, report));
    let hosts = section.get("hosts").map(|field| hosts(field, report)).unwrap_or_default();
    let methods = section.get("methods").map(|field| methods(field, report)).unwrap_or_default();
    let upstream = section.require("upstream", report, "upstream: users").and_then(|field| {
        field.read(report, "an upstream's name", |t| find_upstream(t, &around.upstreams))
    });
    let strip_prefix = section.get("strip_prefix").and_then(|f| strip(f, path.as_ref(), report));
    let timeout = section.value("timeout", report, "a duration such as 3s", |text| {
        value::duration(text, value::MIN_TIMEOUT..=value::MAX_TIMEOUT)
    });
    let cost = section.get("cost").map(|field| cost(field, report)).unwrap_or_default();
    let limit = section.get("limit");
    let limits = limit.map(|field| {
        read_route_limit(field, name.as_deref().unwrap_or_default(), around.has_redis, report)
    });
    let max_body = section
        .value("max_body", report, "a size such as 10MiB", |text| value::size(text, 0..=MAX_BODY));
    let auth = section.value("auth", report, "none or required", |text| {
        word(text, &[("none", Auth::None), ("required", Auth::Required)], &[])
    });
    let retry = section.get("retry").and_then(|field| retry::read(field, report));
    let breaker = section.get("breaker").and_then(|field| breaker::read(field, report));
    Some(Route {
        name: name?.into(),
        path: path?,
        hosts,
        methods,
        upstream: upstream?,
        strip_prefix,
        timeout,
        cost,
        limits: limits.unwrap_or_default(),
        max_body,
        auth: auth.unwrap_or(Auth::None),
        retry,
        breaker,
    })
}

fn route_name(field: &Field<'_>, unique: &mut Unique, report: &mut Report) -> Option<String> {
    let name = field.read(report, "a name", |text| Ok(text.to_owned()))?;
    check_name(&name, field, report);
    unique.claim("the name", &name, field, report);
    Some(name)
}

fn path_match(field: &Field<'_>, report: &mut Report) -> Option<PathMatch> {
    let expected = "a path such as /api/users";
    if !matches!(field.node.kind, Kind::Map(_)) {
        return field.read(report, expected, path::prefix).map(PathMatch::Prefix);
    }
    let section = field.section(report, &keys::PATH)?;
    let (key, field) = section.only(report)?;
    match key {
        "exact" => field.read(report, expected, path::literal).map(PathMatch::Exact),
        "prefix" => field.read(report, expected, path::prefix).map(PathMatch::Prefix),
        _ => {
            let text = field.read(report, expected, path::pattern)?;
            // Without a parameter it is an exact path, and sorted and compared as one.
            let exact = !text.contains('{');
            Some(if exact { PathMatch::Exact(text) } else { PathMatch::Pattern(text) })
        }
    }
}

fn hosts(field: &Field<'_>, report: &mut Report) -> Vec<HostMatch> {
    let mut unique = Unique::default();
    let mut hosts = Vec::new();
    for field in field.one_or_list(report, MAX_MATCHES) {
        if let Some(host) = field.read(report, "a host such as www.example.com", host::parse) {
            let text = field.scalar().unwrap_or_default().to_ascii_lowercase();
            unique.claim("the host", &text, &field, report);
            hosts.push(host);
        }
    }
    hosts
}

fn methods(field: &Field<'_>, report: &mut Report) -> Vec<Method> {
    let mut unique = Unique::default();
    let mut methods = Vec::new();
    for field in field.one_or_list(report, MAX_MATCHES) {
        if let Some(method) = field.read(report, "a method such as GET", value::method) {
            unique.claim("the method", method.as_str(), &field, report);
            methods.push(method);
        }
    }
    methods
}

fn find_upstream(name: &str, upstreams: &HashMap<&str, usize>) -> Result<usize, String> {
    if let Some(&index) = upstreams.get(name) {
        return Ok(index);
    }
    // Sorted, because a map has no order of its own and messages should not change by chance.
    let mut names: Vec<_> = upstreams.keys().copied().collect();
    names.sort_unstable();
    let suggestion = did_you_mean(name, names.iter().copied());
    let known = match names.is_empty() {
        true => "there are none".to_owned(),
        false => format!("upstreams: {}", one_of(names)),
    };
    Err(format!("there is no upstream {}{suggestion} ({known})", quote(name)))
}

/// Reads `strip_prefix`, which must lie within what every request of the route begins with.
fn strip(field: &Field<'_>, path: Option<&PathMatch>, report: &mut Report) -> Option<String> {
    let prefix = field.read(report, "a path such as /api", path::prefix)?;
    if prefix == "/" {
        field.error(report, "there is nothing to strip in /; remove strip_prefix");
        return None;
    }
    let (PathMatch::Exact(path) | PathMatch::Prefix(path) | PathMatch::Pattern(path)) = path?;
    if !path::is_below(path::literal_part(path), &prefix) {
        let message = format!(
            "{} is not a prefix of the route's path {} on the border of a segment",
            quote(&prefix),
            quote(path)
        );
        field.error(report, message);
        return None;
    }
    Some(prefix)
}

fn cost(field: &Field<'_>, report: &mut Report) -> Cost {
    let number = |text: &str| value::integer(text, 0..=MAX_COST).map(|cost| cost as u32);
    let mut cost = Cost::default();
    if !matches!(field.node.kind, Kind::Map(_)) {
        let expected = "a number of tokens, or {GET: 1, POST: 5}";
        if let Some(tokens) = field.read(report, expected, number) {
            cost.default = tokens;
        }
        return cost;
    }
    for (key, field) in field.entries(report, MAX_MATCHES).unwrap_or_default() {
        match value::method(key) {
            Ok(method) => {
                let tokens = field.read(report, "a number of tokens", number);
                cost.by_method.extend(tokens.map(|tokens| (method, tokens)));
            }
            Err(message) => field.error(report, message),
        }
    }
    // Two files that say the same are the same, whatever order they say it in.
    cost.by_method.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    cost
}
