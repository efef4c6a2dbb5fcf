//! Which routes fit a request and which of them goes first, said plainly.
//!
//! The [router](super::router) answers the same from indices, in a time that does not grow
//! with the routes. This looks at one route at a time, to show the order of the table and to
//! say why a route does not take a request; a test compares the two.

use super::route::{HostMatch, PathMatch, RouteMatch};
use http::Method;
use std::cmp::Reverse;

/// Why a route does not fit a request: the first of host, path and method that does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mismatch {
    /// It takes other methods.
    Method,
    /// It takes other paths.
    Path,
    /// It takes other hosts.
    Host,
}

/// What puts one route before another; the smaller comes first. Equals go by their place in
/// the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    host: HostRank,
    path: PathRank,
    takes_any_method: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum HostRank {
    Named,
    Domain(Reverse<usize>),
    Any,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    /// Which segments are placeholders; a literal one goes first.
    Pattern(Vec<bool>),
    Prefix(Reverse<usize>),
}

/// What decided between two routes that both fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// The host: named before `*.domain`, the longer domain first, before any.
    Host,
    /// The path: exact before pattern before prefix, the longer prefix first.
    Path,
    /// The method: named before any.
    Method,
    /// The place in the file.
    Place,
}

impl Rank {
    /// The rank of a route in the table, by the most specific of its hosts.
    pub fn of(route: RouteMatch<'_>) -> Rank {
        Rank::by_hosts(route, |_| true)
    }

    /// The rank it has for a request to `host`, which it takes.
    pub fn towards(route: RouteMatch<'_>, host: &str) -> Rank {
        Rank::by_hosts(route, |named| takes_host(named, host))
    }

    fn by_hosts(route: RouteMatch<'_>, counts: impl Fn(&HostMatch) -> bool) -> Rank {
        let host = |host: &HostMatch| match host {
            HostMatch::Exact(_) => HostRank::Named,
            HostMatch::Suffix(domain) => HostRank::Domain(Reverse(domain.len())),
        };
        let hosts = route.hosts.iter().filter(|host| counts(host));
        let path = match route.path {
            PathMatch::Exact(_) => PathRank::Exact,
            PathMatch::Pattern(pattern) => {
                let segments = pattern.split('/').skip(1);
                PathRank::Pattern(segments.map(|segment| segment.starts_with('{')).collect())
            }
            PathMatch::Prefix(prefix) => {
                PathRank::Prefix(Reverse(prefix.trim_end_matches('/').len()))
            }
        };
        Rank {
            host: hosts.map(host).min().unwrap_or(HostRank::Any),
            path,
            takes_any_method: route.methods.is_empty(),
        }
    }

    /// Where two ranks differ first.
    pub fn decider(&self, other: &Rank) -> Decider {
        if self.host != other.host {
            Decider::Host
        } else if self.path != other.path {
            Decider::Path
        } else if self.takes_any_method != other.takes_any_method {
            Decider::Method
        } else {
            Decider::Place
        }
    }
}

/// Why `route` does not fit a request; none: it does. `host` comes without a port, `path` in
/// normal form.
pub fn mismatch(
    route: RouteMatch<'_>,
    host: &str,
    method: &Method,
    path: &str,
) -> Option<Mismatch> {
    if !(route.hosts.is_empty() || route.hosts.iter().any(|named| takes_host(named, host))) {
        Some(Mismatch::Host)
    } else if !takes_path(route.path, path) {
        Some(Mismatch::Path)
    } else if !(route.methods.is_empty() || route.methods.contains(method)) {
        Some(Mismatch::Method)
    } else {
        None
    }
}

/// Whether a route whose paths are these takes `path`, in normal form.
pub fn takes_path(paths: &PathMatch, path: &str) -> bool {
    match paths {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathMatch::Pattern(pattern) => {
            let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
            loop {
                return match (wanted.next(), given.next()) {
                    (None, None) => true,
                    (Some(wanted), Some(given)) => {
                        let is_any = wanted.starts_with('{');
                        if is_any && !given.is_empty() || !is_any && wanted == given {
                            continue;
                        }
                        false
                    }
                    _ => false,
                };
            }
        }
    }
}

/// Whether a route's paths begin with the same segment as `path`.
pub fn shares_segment(paths: &PathMatch, path: &str) -> bool {
    let (PathMatch::Exact(own) | PathMatch::Prefix(own) | PathMatch::Pattern(own)) = paths;
    let first = |path: &str| path.split('/').nth(1).unwrap_or_default().to_owned();
    first(own) == first(path)
}

fn takes_host(hosts: &HostMatch, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match hosts {
        HostMatch::Exact(name) => *name == host,
        HostMatch::Suffix(domain) => {
            host.strip_suffix(domain.as_str()).is_some_and(|front| front.ends_with('.'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::router::{Found, RouteId, Router};
    use proptest::prelude::*;

    #[derive(Debug)]
    struct Owned {
        path: PathMatch,
        hosts: Vec<HostMatch>,
        methods: Vec<Method>,
    }

    impl Owned {
        fn matching(&self) -> RouteMatch<'_> {
            RouteMatch { path: &self.path, hosts: &self.hosts, methods: &self.methods }
        }
    }

    fn route() -> impl Strategy<Value = Owned> {
        let segment = || prop::sample::select(vec!["a", "b", "{x}"]);
        let literal = || prop::sample::select(vec!["a", "b"]);
        let join = |parts: Vec<&str>| format!("/{}", parts.join("/"));
        let path = prop_oneof![
            prop::collection::vec(literal(), 0..3).prop_map(move |p| PathMatch::Exact(join(p))),
            prop::collection::vec(literal(), 0..3).prop_map(move |p| PathMatch::Prefix(join(p))),
            prop::collection::vec(segment(), 1..4).prop_map(move |p| PathMatch::Pattern(join(p))),
        ];
        let host = prop_oneof![
            Just(HostMatch::Exact("a.test".into())),
            Just(HostMatch::Suffix("test".into())),
            Just(HostMatch::Suffix("b.test".into())),
        ];
        let method = prop::sample::select(vec![Method::GET, Method::POST]);
        (path, prop::collection::vec(host, 0..3), prop::collection::vec(method, 0..2))
            .prop_map(|(path, hosts, methods)| Owned { path, hosts, methods })
    }

    proptest! {
        #[test]
        fn the_router_chooses_what_fits_and_goes_first(
            routes in prop::collection::vec(route(), 0..12),
            host in prop::sample::select(vec!["a.test", "x.b.test", "b.test.", "C.TEST", "other", ""]),
            path in prop::sample::select(vec!["/", "/a", "/a/b", "/a/", "/b/a/b", "/c", "/a/b/a"]),
            method in prop::sample::select(vec![Method::GET, Method::POST, Method::PUT]),
        ) {
            let router = Router::new(routes.iter().map(Owned::matching));
            let fits = (0..).map(RouteId).zip(&routes).filter(|(_, route)| {
                mismatch(route.matching(), host, &method, path).is_none()
            });
            let first = fits.min_by_key(|(id, route)| (Rank::towards(route.matching(), host), *id));
            let found = match router.find(host, &method, path) {
                Found::Route(id) => Some(id),
                Found::MethodNotAllowed(_) | Found::Nothing => None,
            };
            prop_assert_eq!(found, first.map(|(id, _)| id));
        }
    }
}
