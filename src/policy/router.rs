//! Which route takes a request: the most specific one that fits.
//!
//! Specific means, in this order: the host (named before `*.domain`, the longer domain
//! first, before any), then the path (exact before pattern before prefix, the longer
//! prefix first), then the method (named before any). Among equals the first in the file
//! wins. A route whose host and path fit but whose method does not only adds to the
//! `Allow` of a 405.
//!
//! Exact paths and prefixes are hash lookups, one for each segment border the
//! configuration uses; patterns are a trie over segments. No step looks at all routes, so
//! the cost does not grow with their number. The maps hold what the configuration names and
//! nothing that a client sends, so a fast hash will do: no request makes a lookup long.

use super::route::{HostMatch, PathMatch, RouteMatch};
use foldhash::HashMap;
use http::Method;

/// A route's place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub u32);

/// The outcome of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// This route takes the request.
    Route(RouteId),
    /// Host and path fit, the method does not: the methods that would.
    MethodNotAllowed(Vec<Method>),
    /// Nothing fits.
    Nothing,
}

/// All routes, indexed for lookup.
#[derive(Debug, Default)]
pub struct Router {
    exact_hosts: HashMap<Box<str>, PathIndex>,
    domains: HashMap<Box<str>, PathIndex>,
    any_host: PathIndex,
    methods: Vec<Box<[Method]>>,
}

#[derive(Debug, Default)]
struct PathIndex {
    exact: HashMap<Box<str>, Vec<RouteId>>,
    patterns: Segment,
    prefixes: HashMap<Box<str>, Vec<RouteId>>,
    longest_prefix: usize,
}

/// A node of the pattern trie.
#[derive(Debug, Default)]
struct Segment {
    literal: HashMap<Box<str>, Segment>,
    any: Option<Box<Segment>>,
    routes: Vec<RouteId>,
}

impl Router {
    /// Indexes routes; a [`RouteId`] is a route's place among them.
    pub fn new<'a>(routes: impl IntoIterator<Item = RouteMatch<'a>>) -> Router {
        let mut router = Router::default();
        for (id, route) in (0..).map(RouteId).zip(routes) {
            router.methods.push(route.methods.into());
            if route.hosts.is_empty() {
                router.any_host.insert(route.path, id);
            }
            for host in route.hosts {
                let index = match host {
                    HostMatch::Exact(name) => router.exact_hosts.entry(name.as_str().into()),
                    HostMatch::Suffix(domain) => router.domains.entry(domain.as_str().into()),
                };
                index.or_default().insert(route.path, id);
            }
        }
        router
    }

    /// Finds the route for a request. `host` comes without a port; its case does not
    /// matter. `path` is in normal form.
    pub fn find(&self, host: &str, method: &Method, path: &str) -> Found {
        let mut lookup = Lookup { methods: &self.methods, method, allow: Vec::new() };
        match self.search(host, path, &mut lookup) {
            Some(id) => Found::Route(id),
            None if lookup.allow.is_empty() => Found::Nothing,
            None => Found::MethodNotAllowed(lookup.allow),
        }
    }

    /// Whether the host decides over any route.
    pub fn reads_hosts(&self) -> bool {
        !self.exact_hosts.is_empty() || !self.domains.is_empty()
    }

    fn search(&self, host: &str, path: &str, lookup: &mut Lookup<'_>) -> Option<RouteId> {
        if self.reads_hosts() {
            let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
            let named = self.exact_hosts.get(host.as_str());
            let domains =
                host.match_indices('.').map(|(dot, _)| self.domains.get(&host[dot + 1..]));
            for index in std::iter::once(named).chain(domains).flatten() {
                if let Some(id) = index.search(path, lookup) {
                    return Some(id);
                }
            }
        }
        self.any_host.search(path, lookup)
    }
}

impl PathIndex {
    fn insert(&mut self, path: &PathMatch, id: RouteId) {
        match path {
            PathMatch::Exact(path) => self.exact.entry(path.as_str().into()).or_default().push(id),
            PathMatch::Prefix(path) => {
                // The root prefix is the empty string: the border before the first slash.
                let prefix = path.trim_end_matches('/');
                self.longest_prefix = self.longest_prefix.max(prefix.len());
                self.prefixes.entry(prefix.into()).or_default().push(id);
            }
            PathMatch::Pattern(pattern) => self.patterns.insert(pattern, id),
        }
    }

    fn search(&self, path: &str, lookup: &mut Lookup<'_>) -> Option<RouteId> {
        self.exact
            .get(path)
            .and_then(|routes| lookup.choose(routes))
            .or_else(|| self.patterns.search(&path[1..], lookup))
            .or_else(|| self.search_prefixes(path, lookup))
    }

    /// Tries every segment border from the right, none beyond the longest prefix there is.
    fn search_prefixes(&self, path: &str, lookup: &mut Lookup<'_>) -> Option<RouteId> {
        let bytes = path.as_bytes();
        let reach = bytes.len().min(self.longest_prefix);
        (0..=reach)
            .rev()
            .filter(|&end| end == bytes.len() || bytes[end] == b'/')
            .filter_map(|end| self.prefixes.get(&path[..end]))
            .find_map(|routes| lookup.choose(routes))
    }
}

impl Segment {
    fn insert(&mut self, pattern: &str, id: RouteId) {
        let mut node = self;
        for segment in pattern[1..].split('/') {
            node = match segment.starts_with('{') {
                true => node.any.get_or_insert_default(),
                false => node.literal.entry(segment.into()).or_default(),
            };
        }
        node.routes.push(id);
    }

    /// Literal segments first. The depth is bounded by the deepest pattern and the breadth
    /// by the patterns there are, whatever the request's path looks like.
    fn search(&self, rest: &str, lookup: &mut Lookup<'_>) -> Option<RouteId> {
        if self.literal.is_empty() && self.any.is_none() {
            return None;
        }
        let (segment, rest) = match rest.split_once('/') {
            Some((segment, rest)) => (segment, Some(rest)),
            None => (rest, None),
        };
        let literal = self.literal.get(segment);
        let any = self.any.as_deref().filter(|_| !segment.is_empty());
        [literal, any].into_iter().flatten().find_map(|next| match rest {
            Some(rest) => next.search(rest, lookup),
            None => lookup.choose(&next.routes),
        })
    }
}

/// One request's search: what it asks for, and the methods it could have used.
struct Lookup<'a> {
    methods: &'a [Box<[Method]>],
    method: &'a Method,
    allow: Vec<Method>,
}

impl Lookup<'_> {
    fn choose(&mut self, routes: &[RouteId]) -> Option<RouteId> {
        let methods_of = |id: &RouteId| &self.methods[id.0 as usize];
        let named = routes.iter().find(|id| methods_of(id).contains(self.method));
        let chosen = named.or_else(|| routes.iter().find(|id| methods_of(id).is_empty())).copied();
        if chosen.is_none() {
            for method in routes.iter().flat_map(methods_of) {
                if !self.allow.contains(method) {
                    self.allow.push(method.clone());
                }
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests;
