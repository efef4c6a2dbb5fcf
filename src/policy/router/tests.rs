//! The router against rules and against a plain walk over all routes.

use super::super::route::{HostMatch, PathMatch, RouteMatch};
use super::{Found, RouteId, Router};
use http::Method;
use proptest::prelude::*;
use std::cmp::Reverse;

/// What of a route the router looks at.
#[derive(Debug, Clone)]
struct Route {
    path: PathMatch,
    hosts: Vec<HostMatch>,
    methods: Vec<Method>,
}

fn index(routes: &[Route]) -> Router {
    Router::new(routes.iter().map(|Route { path, hosts, methods }| RouteMatch {
        path,
        hosts,
        methods,
    }))
}

fn route(path: PathMatch) -> Route {
    Route { path, hosts: Vec::new(), methods: Vec::new() }
}

fn exact(path: &str) -> Route {
    route(PathMatch::Exact(path.into()))
}

fn prefix(path: &str) -> Route {
    route(PathMatch::Prefix(path.into()))
}

fn pattern(path: &str) -> Route {
    route(PathMatch::Pattern(path.into()))
}

fn on(route: Route, hosts: &[&str]) -> Route {
    let host = |host: &&str| match host.strip_prefix("*.") {
        Some(domain) => HostMatch::Suffix(domain.into()),
        None => HostMatch::Exact((*host).into()),
    };
    Route { hosts: hosts.iter().map(host).collect(), ..route }
}

fn by(route: Route, methods: &[Method]) -> Route {
    Route { methods: methods.to_vec(), ..route }
}

/// Checks `(host, method, path)` → number of the route, or none.
fn check(routes: &[Route], cases: &[(&str, Method, &str, Option<u32>)]) {
    let router = index(routes);
    for (host, method, path, expected) in cases {
        let expected = expected.map_or(Found::Nothing, |id| Found::Route(RouteId(id)));
        assert_eq!(router.find(host, method, path), expected, "{host} {method} {path}");
    }
}

#[test]
fn the_more_specific_host_wins_over_every_path() {
    let routes = [
        exact("/a"),
        on(exact("/a"), &["*.example.com"]),
        on(exact("/a"), &["*.eu.example.com"]),
        on(prefix("/"), &["api.eu.example.com"]),
    ];
    check(
        &routes,
        &[
            ("api.eu.example.com", Method::GET, "/a", Some(3)),
            ("API.EU.Example.COM", Method::GET, "/a", Some(3)),
            ("api.eu.example.com.", Method::GET, "/a", Some(3)),
            ("www.eu.example.com", Method::GET, "/a", Some(2)),
            ("a.b.eu.example.com", Method::GET, "/a", Some(2)),
            ("eu.example.com", Method::GET, "/a", Some(1)),
            ("example.com", Method::GET, "/a", Some(0)),
            ("notexample.com", Method::GET, "/a", Some(0)),
            ("", Method::GET, "/a", Some(0)),
            ("www.eu.example.com", Method::GET, "/b", None),
        ],
    );
}

#[test]
fn a_host_without_a_fitting_path_leaves_the_request_to_the_next() {
    let routes = [prefix("/"), on(exact("/a"), &["one.test"]), on(exact("/b"), &["*.test"])];
    check(
        &routes,
        &[
            ("one.test", Method::GET, "/a", Some(1)),
            ("one.test", Method::GET, "/b", Some(2)),
            ("one.test", Method::GET, "/c", Some(0)),
        ],
    );
}

#[test]
fn exact_comes_before_pattern_before_the_longest_prefix() {
    let routes = [
        prefix("/"),
        prefix("/users"),
        prefix("/users/me"),
        pattern("/users/{id}"),
        exact("/users/me"),
        pattern("/users/{id}/cards"),
    ];
    check(
        &routes,
        &[
            ("", Method::GET, "/users/me", Some(4)),
            ("", Method::GET, "/users/42", Some(3)),
            ("", Method::GET, "/users/me/cards", Some(5)),
            ("", Method::GET, "/users/me/keys", Some(2)),
            ("", Method::GET, "/users/42/keys", Some(1)),
            ("", Method::GET, "/users", Some(1)),
            ("", Method::GET, "/", Some(0)),
            ("", Method::GET, "/usersandmore", Some(0)),
        ],
    );
}

#[test]
fn prefixes_end_on_segment_borders_and_the_root_takes_everything() {
    check(
        &[prefix("/api")],
        &[
            ("", Method::GET, "/api", Some(0)),
            ("", Method::GET, "/api/", Some(0)),
            ("", Method::GET, "/api/x", Some(0)),
            ("", Method::GET, "/apix", None),
            ("", Method::GET, "/ap", None),
            ("", Method::GET, "/", None),
            ("", Method::GET, "/x/api", None),
        ],
    );
    check(
        &[prefix("/")],
        &[("", Method::GET, "/", Some(0)), ("", Method::GET, "/a/b/c/", Some(0))],
    );
}

#[test]
fn a_slash_at_the_end_matters_to_exact_paths_and_patterns() {
    check(
        &[exact("/a"), exact("/a/"), pattern("/u/{id}"), pattern("/v/{id}/")],
        &[
            ("", Method::GET, "/a", Some(0)),
            ("", Method::GET, "/a/", Some(1)),
            ("", Method::GET, "/u/1", Some(2)),
            ("", Method::GET, "/u/1/", None),
            ("", Method::GET, "/u/", None),
            ("", Method::GET, "/v/1/", Some(3)),
            ("", Method::GET, "/v/1", None),
        ],
    );
}

#[test]
fn patterns_go_back_from_a_literal_that_leads_nowhere() {
    check(
        &[pattern("/a/b/c"), pattern("/a/{x}/d"), pattern("/{x}/b/e"), pattern("/{x}/{y}/{z}")],
        &[
            ("", Method::GET, "/a/b/c", Some(0)),
            ("", Method::GET, "/a/b/d", Some(1)),
            ("", Method::GET, "/a/b/e", Some(2)),
            ("", Method::GET, "/a/b/f", Some(3)),
            ("", Method::GET, "/a/b", None),
            ("", Method::GET, "/a/b/c/d", None),
        ],
    );
}

#[test]
fn a_named_method_wins_and_the_first_among_equals() {
    let routes = [
        exact("/a"),
        by(exact("/a"), &[Method::POST, Method::PUT]),
        by(exact("/a"), &[Method::PUT]),
        exact("/a"),
    ];
    check(
        &routes,
        &[
            ("", Method::POST, "/a", Some(1)),
            ("", Method::PUT, "/a", Some(1)),
            ("", Method::GET, "/a", Some(0)),
        ],
    );
}

#[test]
fn a_method_that_does_not_fit_falls_to_less_specific_routes_and_then_to_405() {
    let routes = [
        by(exact("/a/b"), &[Method::POST]),
        by(pattern("/a/{x}"), &[Method::PUT, Method::POST]),
        by(prefix("/a"), &[Method::DELETE]),
        on(by(exact("/a/b"), &[Method::PATCH]), &["one.test"]),
    ];
    check(
        &routes,
        &[
            ("", Method::POST, "/a/b", Some(0)),
            ("", Method::PUT, "/a/b", Some(1)),
            ("", Method::DELETE, "/a/b", Some(2)),
            ("one.test", Method::POST, "/a/b", Some(0)),
        ],
    );
    let router = index(&routes);
    let allowed = |host: &str, path: &str| match router.find(host, &Method::GET, path) {
        Found::MethodNotAllowed(methods) => methods,
        other => panic!("{other:?}"),
    };
    assert_eq!(allowed("", "/a/b"), [Method::POST, Method::PUT, Method::DELETE]);
    assert_eq!(
        allowed("one.test", "/a/b"),
        [Method::PATCH, Method::POST, Method::PUT, Method::DELETE]
    );
    assert_eq!(allowed("", "/a/b/c"), [Method::DELETE]);
    assert_eq!(router.find("", &Method::GET, "/b"), Found::Nothing);
}

#[test]
fn every_one_of_ten_thousand_routes_is_found() {
    let routes: Vec<Route> = (0..10_000)
        .map(|n| match n % 3 {
            0 => exact(&format!("/exact/{n}")),
            1 => prefix(&format!("/prefix/{n}")),
            _ => pattern(&format!("/pattern/{{a}}/{n}/{{b}}")),
        })
        .collect();
    let router = index(&routes);
    for n in 0..10_000 {
        let path = match n % 3 {
            0 => format!("/exact/{n}"),
            1 => format!("/prefix/{n}/and/below"),
            _ => format!("/pattern/x/{n}/y"),
        };
        assert_eq!(router.find("", &Method::GET, &path), Found::Route(RouteId(n)), "{path}");
    }
    assert_eq!(router.find("", &Method::GET, "/exact/10000"), Found::Nothing);
}

/// How specific the match of one route is, the greatest winning; none where it does not fit.
/// Patterns of equal shape up to a segment compare there: a literal comes before a parameter.
type Rank = (u8, usize, u8, Vec<bool>, usize, bool, Reverse<usize>);

fn rank(place: usize, route: &Route, host: &str, path: &str) -> Option<Rank> {
    let fits = |host_match: &HostMatch| match host_match {
        HostMatch::Exact(name) => (host == name).then_some((2, 0)),
        HostMatch::Suffix(domain) => {
            let below = host.strip_suffix(domain.as_str())?.ends_with('.');
            below.then_some((1, domain.len()))
        }
    };
    let (host_kind, host_length) = match route.hosts.is_empty() {
        true => (0, 0),
        false => route.hosts.iter().filter_map(fits).max()?,
    };
    let (path_kind, literals, length) = match &route.path {
        PathMatch::Exact(exact) => (path == exact).then(|| (2, Vec::new(), 0))?,
        PathMatch::Pattern(pattern) => {
            let is_parameter = |segment: &str| segment.starts_with('{');
            let (mine, theirs) = (pattern.split('/'), path.split('/'));
            let is_match = mine.clone().count() == theirs.clone().count()
                && mine.clone().zip(theirs).all(|(mine, theirs)| {
                    mine == theirs || is_parameter(mine) && !theirs.is_empty()
                });
            is_match.then(|| (1, mine.map(|segment| !is_parameter(segment)).collect(), 0))?
        }
        PathMatch::Prefix(prefix) => {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'))?;
            (rest.is_empty() || rest.starts_with('/')).then(|| (0, Vec::new(), prefix.len()))?
        }
    };
    let names_method = !route.methods.is_empty();
    Some((host_kind, host_length, path_kind, literals, length, names_method, Reverse(place)))
}

/// Every route looked at, the best one taken.
fn walk(routes: &[Route], host: &str, method: &Method, path: &str) -> Found {
    let mut fitting: Vec<(Rank, &Route)> = routes
        .iter()
        .enumerate()
        .filter_map(|(place, route)| Some((rank(place, route, host, path)?, route)))
        .collect();
    fitting.sort_by(|a, b| b.0.cmp(&a.0));
    let takes = |route: &Route| route.methods.is_empty() || route.methods.contains(method);
    if let Some(((.., Reverse(place)), _)) = fitting.iter().find(|(_, route)| takes(route)) {
        return Found::Route(RouteId(*place as u32));
    }
    let mut allow = Vec::new();
    for method in fitting.iter().flat_map(|(_, route)| &route.methods) {
        if !allow.contains(method) {
            allow.push(method.clone());
        }
    }
    allow.sort_by_key(ToString::to_string);
    if allow.is_empty() { Found::Nothing } else { Found::MethodNotAllowed(allow) }
}

/// Few names, so that routes meet, shadow and overlap.
fn segments(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(names), 1..4)
        .prop_map(|names| names.iter().fold(String::new(), |path, name| format!("{path}/{name}")))
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    let literal = || segments(&["a", "b", "ab"]);
    let path = prop_oneof![
        literal().prop_map(PathMatch::Exact),
        literal().prop_map(|path| PathMatch::Exact(path + "/")),
        prop_oneof![4 => literal(), 1 => Just("/".to_owned())].prop_map(PathMatch::Prefix),
        segments(&["a", "b", "{x}"]).prop_map(PathMatch::Pattern),
    ];
    let hosts = prop::sample::subsequence(vec!["a.test", "b.test", "*.test", "*.b.test"], 0..2);
    let methods = prop::sample::subsequence(vec![Method::GET, Method::POST, Method::PUT], 0..3);
    let route = (path, hosts, methods)
        .prop_map(|(path, hosts, methods)| by(on(route(path), &hosts), &methods));
    prop::collection::vec(route, 1..12)
}

proptest! {
    #[test]
    fn the_index_finds_what_a_walk_over_all_routes_finds(
        routes in routes(),
        requests in prop::collection::vec(
            (
                prop::sample::select(vec!["a.test", "b.test", "x.b.test", "test", "other"]),
                prop::sample::select(vec![Method::GET, Method::POST, Method::DELETE]),
                prop_oneof![
                    8 => segments(&["a", "b", "ab", "c"]),
                    1 => segments(&["a", "b"]).prop_map(|path| path + "/"),
                    1 => Just("/".to_owned()),
                ],
            ),
            1..12,
        ),
    ) {
        let router = index(&routes);
        for (host, method, path) in requests {
            let mut found = router.find(host, &method, &path);
            if let Found::MethodNotAllowed(allow) = &mut found {
                allow.sort_by_key(ToString::to_string);
            }
            prop_assert_eq!(found, walk(&routes, host, &method, &path), "{} {} {}", host, method, path);
        }
    }
}
