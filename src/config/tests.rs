//! The configuration as a whole: what a text is read as, and all that is found wrong with it.

mod admin_alone;
mod connections;
mod limits;
mod resilience;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use http::{HeaderName, Method};
use proptest::prelude::*;

use super::*;
use crate::policy::ejection::EjectionPolicy;
use crate::policy::limit::{LimitCost, LimitKey};
use crate::policy::reload_watch::WatchPolicy;
use crate::policy::route::{HostMatch, PathMatch};

fn no_env(_: &str) -> Option<String> {
    None
}

fn good(text: &str) -> Config {
    match parse(text, &no_env) {
        Ok((config, warnings)) => {
            assert_eq!(warnings, [], "{text}");
            config
        }
        Err(errors) => panic!("{text}\n{errors:#?}"),
    }
}

fn errors(text: &str) -> Vec<String> {
    match parse(text, &no_env) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(errors) => errors.iter().map(Finding::to_string).collect(),
    }
}

fn warnings(text: &str) -> Vec<String> {
    match parse(text, &no_env) {
        Ok((_, warnings)) => warnings.iter().map(Finding::to_string).collect(),
        Err(errors) => panic!("{text}\n{errors:#?}"),
    }
}

/// One upstream `u`, so that routes have somewhere to go.
const UPSTREAM: &str = "upstreams: {u: {servers: [127.0.0.1:9001]}}\n";

fn with_route(keys: &str) -> String {
    format!("{UPSTREAM}routes: [{{name: r, path: /a, upstream: u, {keys}}}]\n")
}

fn route(keys: &str) -> Route {
    good(&with_route(keys)).routes.remove(0)
}

#[test]
fn what_is_absent_has_its_default() {
    let config = good(&with_route(""));
    assert_eq!(config.server, Server::default());
    assert_eq!(config.server.listen, ["0.0.0.0:8080".parse::<SocketAddr>().unwrap()]);
    assert_eq!(config.admin, Admin::default());
    assert_eq!(config.metrics, Metrics::default());
    assert_eq!(config.clients, Clients::default());
    assert_eq!(config.limiter.slots, 1_048_576);
    assert_eq!(config.state_dir, None);
    assert_eq!(config.tiers, Tiers::standard());
    assert_eq!(config.limits, []);
    assert_eq!(config.upstreams[0].timeouts, Timeouts::default());
    assert_eq!(config.upstreams[0].servers[0].weight, 1);
    let upstream = &config.upstreams[0];
    assert_eq!(upstream.balance, Balance::RoundRobin);
    assert_eq!((upstream.concurrency, &upstream.health_check), (None, &None));
    assert_eq!((&upstream.breaker, &upstream.ejection), (&None, &Some(EjectionPolicy::default())));
    let route = &config.routes[0];
    assert_eq!(route.path, PathMatch::Prefix("/a".into()));
    assert_eq!(route.cost.of(&Method::POST), 1);
    assert_eq!((route.timeout, route.max_body, route.auth), (None, None, Auth::None));
    assert_eq!((&route.retry, &route.breaker), (&None, &None));
}

#[test]
fn every_key_is_read() {
    let config = good(include_str!("tests/every_key.yaml"));
    let server = &config.server;
    assert_eq!(server.listen.len(), 2);
    assert_eq!(server.workers, 3);
    assert_eq!(server.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!(server.grace_period, Duration::from_secs(5));
    assert_eq!(server.health_path.as_deref(), Some("/healthz"));
    assert_eq!(server.strip_headers, [HeaderName::from_static("x-secret")]);
    assert_eq!((server.max_head, server.max_headers, server.max_uri), (16_384, 50, 4_096));
    assert_eq!(
        server.access_log,
        AccessLog::File { path: "/tmp/a.log".into(), format: AccessLogFormat::Combined }
    );
    assert!(server.x_ratelimit_headers);
    let watch = WatchPolicy { window_ns: 45_000_000_000, max_error_ratio_thousandths: 1_500 };
    assert_eq!(server.reloading, Reloading { watch: Some(watch), watch_file: true });
    assert_eq!(config.admin.token.as_ref().map(Secret::expose), Some("letmein"));
    let clients = &config.clients;
    assert_eq!(clients.identify.len(), 3);
    assert_eq!(clients.ipv6_prefix, 56);
    assert_eq!(clients.api_key_header.as_str(), "x-key");
    assert_eq!(clients.known[0].api_keys, [ApiKeyHash([0xab; 32])]);
    assert_eq!(clients.known[0].tier, config.tiers.find("gold"));
    assert_eq!(clients.known[1].tier, None);
    assert_eq!(config.limiter.slots, 2_048);
    assert_eq!(config.state_dir.as_deref(), Some(Path::new("/var/lib/tollgate")));
    let default = config.tiers.get(config.tiers.default_tier());
    assert_eq!((&*default.name, default.bucket.burst()), ("Basic", 7));
    assert_eq!(default.concurrency, Some(4));
    assert_eq!(config.tiers.iter().len(), 5);
    let limit = &config.limits[0];
    assert_eq!(limit.key, LimitKey::Header(HeaderName::from_static("x-tenant")));
    assert_eq!(limit.cost, LimitCost::One);
    let upstream = &config.upstreams[1];
    assert_eq!(upstream.servers[1].weight, 2);
    assert_eq!(upstream.timeouts.connect, Duration::from_millis(250));
    let route = &config.routes[0];
    assert_eq!(route.upstream, 1);
    assert_eq!(route.path, PathMatch::Pattern("/u/{id}/x".into()));
    assert_eq!(
        route.hosts,
        [HostMatch::Exact("a.example".into()), HostMatch::Suffix("b.example".into())]
    );
    assert_eq!(route.methods, [Method::GET, Method::POST]);
    assert_eq!(route.strip_prefix.as_deref(), Some("/u"));
    assert_eq!(route.timeout, Some(Duration::from_secs(3)));
    assert_eq!((route.cost.of(&Method::POST), route.cost.of(&Method::GET)), (5, 1));
    assert_eq!(&*route.limits[0].name, "route:users");
    assert_eq!(route.max_body, Some(10 << 20));
    assert_eq!(route.auth, Auth::Required);
}

#[test]
fn the_effective_configuration_is_a_configuration_and_shows_no_secret() {
    for text in [include_str!("tests/every_key.yaml"), include_str!("../../conf/tollgate.yaml")] {
        let config = good(text);
        let shown = effective(&config).to_string();
        assert!(
            ["letmein", "abab", "geheim"].iter().all(|secret| !shown.contains(secret)),
            "{shown}"
        );
        assert!(!format!("{config:?}").contains("letmein"));
        // JSON is YAML; with the masks replaced it must be the same configuration again.
        let again = shown.replace("\"token\":\"***\"", "\"token\":\"letmein\"");
        let again = again.replace("gate:***@", "gate:geheim@");
        let again = again.replace("\"password\":\"***\"", "\"password\":\"geheim\"");
        let again = again.replace("\"***\"", &format!("\"sha256:{}\"", "ab".repeat(32)));
        let (mut again, _) = parse(&again, &no_env).unwrap();
        let by_id = |client: &KnownClient| client.id.to_string();
        let mut config = config;
        for clients in [&mut again.clients, &mut config.clients] {
            // A mapping in JSON has no order, and a default tier is written out.
            clients.known.sort_by_key(by_id);
            for client in &mut clients.known {
                client.tier.get_or_insert(config.tiers.default_tier());
            }
        }
        let upstream =
            |config: &Config, route: &Route| config.upstreams[route.upstream].name.clone();
        for (a, b) in again.routes.iter().zip(&config.routes) {
            assert_eq!(upstream(&again, a), upstream(&config, b));
        }
        again.upstreams.sort_by_key(|u| u.name.clone());
        config.upstreams.sort_by_key(|u| u.name.clone());
        again.routes.iter_mut().chain(&mut config.routes).for_each(|route| route.upstream = 0);
        assert_eq!(again, config);
    }
}

#[test]
fn the_shipped_file_is_good_and_takes_its_critical_values_from_variables() {
    let text = include_str!("../../conf/tollgate.yaml");
    let config = good(text);
    assert_eq!(config.server, Server { health_path: Some("/healthz".into()), ..Server::default() });
    assert_eq!(config.admin, Admin::default());
    let env = |name: &str| {
        let value = match name {
            "TOLLGATE_LISTEN" => "127.0.0.1:1",
            "TOLLGATE_WORKERS" => "7",
            "TOLLGATE_ADMIN_LISTEN" => "0.0.0.0:2",
            "TOLLGATE_ADMIN_TOKEN" => "secret",
            "TOLLGATE_METRICS_LISTEN" => "0.0.0.0:3",
            "TOLLGATE_UPSTREAM" => "10.0.0.1:80",
            "TOLLGATE_CLIENT_ID_FROM" => "10.0.0.0/8",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let (config, warnings) = parse(text, &env).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.server.workers, 7);
    assert_eq!(config.server.listen[0].to_string(), "127.0.0.1:1");
    assert_eq!(config.admin.listen.to_string(), "0.0.0.0:2");
    assert_eq!(config.metrics.listen.to_string(), "0.0.0.0:3");
    assert_eq!(config.upstreams[0].servers[0].address.to_string(), "10.0.0.1:80");
}

#[test]
fn all_errors_come_at_once_with_key_and_line_and_in_the_order_of_the_file() {
    let text = "\
server:
  lisen: 127.0.0.1:80
  workers: many
limits:
  - {name: a, key: ipp, rate: 0/s, burst: 0}
  - {name: a, rate: 1/s, burst: 1}
upstreams:
  users:
    servers: [localhost]
routes:
  - {name: r, path: api, upstream: user}
  - {name: r, path: /b}
";
    let expected = [
        "line 2: server.lisen: there is no key \"lisen\"; did you mean \"listen\"?",
        "line 3: server.workers: \"many\" is not a whole number between 1 and 1024",
        "line 5: limits[0].key: \"ipp\" is not one of client, ip, route, global, {header: NAME}; \
         did you mean \"ip\"?",
        "line 5: limits[0].rate: \"0/s\" is not a rate: a rate of zero lets nothing through; write \
         for example 10/s",
        "line 5: limits[0].burst: \"0\" is not between 1 and",
        "line 6: limits[1].name: the name \"a\" is used twice, first on line 5",
        "line 9: upstreams.users.servers[0]: \"localhost\" has no port; write",
        "line 11: routes[0].path: \"api\" cannot be matched: a path begins with /",
        "line 11: routes[0].upstream: there is no upstream \"user\"; did you mean \"users\"?",
        "line 12: routes[1].name: the name \"r\" is used twice, first on line 11",
        "line 12: routes[1]: upstream is missing; write for example upstream: users",
    ];
    let errors = errors(text);
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}\n{expected}");
    }
}

/// Each text has exactly one error, which contains the words.
fn refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let errors = errors(text);
        assert_eq!(errors.len(), 1, "{text}: {errors:#?}");
        assert!(errors[0].contains(expected), "{text}: {}", errors[0]);
    }
}

#[test]
fn a_document_of_the_wrong_shape_is_refused() {
    refused(&[
        ("just text", "expected a mapping of keys, found a single value"),
        ("- a\n- b", "expected a mapping of keys, found a list"),
        ("null", "expected a mapping of keys, found nothing"),
        ("server: 5", "server: expected a mapping"),
        ("server: {listen: {a: 1}}", "server.listen: expected a list, found a mapping"),
        ("server: {workers: [1]}", "server.workers: expected a number, found a list"),
        ("routes: {a: 1}", "routes: expected a list, found a mapping"),
        ("limits: [5]", "limits[0]: expected a mapping"),
        ("server:\n  tls:\n    cert: x", "line 2: server.tls: tls is not available yet"),
        ("upstreams:\n  u:\n    balance: round_robin", "line 2: upstreams.u: servers is missing"),
        ("server: {workers: 1}\nserver: {workers: 2}", "line 2: server: this key is written twice"),
        ("server: {\"a b\": 1}", "server.\"a b\": there is no key"),
    ]);
}

#[test]
fn what_does_not_exist_yet_is_refused_by_name() {
    let later = "is not available yet";
    refused(&[
        ("tls: {}", later),
        ("server: {proxy_protocol: true}", later),
        ("clients: {identify: [jwt]}", later),
    ]);
}

#[test]
fn listeners_keep_out_of_each_others_way() {
    refused(&[
        ("server: {listen: []}", "there must be an address"),
        ("server: {listen: [127.0.0.1:80, 127.0.0.1:80]}", "are one port"),
        ("server: {listen: [127.0.0.1:80, 0.0.0.0:80]}", "are one port"),
        ("server: {listen: [127.0.0.1:80, '[::]:80']}", "are one port"),
        ("server: {listen: 0.0.0.0:9901}", "admin.listen: 127.0.0.1:9901 and server.listen"),
        ("metrics: {listen: 127.0.0.1:9901}", "metrics.listen: 127.0.0.1:9901 and admin.listen"),
        ("admin: {listen: 0.0.0.0:9901}", "set admin.token"),
        ("admin: {listen: 0.0.0.0:9901, token: ''}", "set admin.token"),
        ("admin: {token: 'a b'}", "admin.token: a token is up to"),
    ]);
    good(&(with_route("") + "server: {listen: [127.0.0.1:80, 127.0.0.2:80, '[::1]:80']}"));
    good(&(with_route("") + "admin: {listen: 0.0.0.0:9901, token: x}"));
}

#[test]
fn sizes_of_requests_have_bounds() {
    refused(&[
        ("server: {max_head: 1MiB}", "is not between 1KiB and 128KiB"),
        ("server: {max_headers: 257}", "is not between 1 and 256"),
        ("server: {max_uri: 64KiB}", "must be at most max_head (32KiB)"),
        ("server: {grace_period: 25h}", "is not between 0s and 24h"),
        ("limiter: {slots: 10}", "is not between 1024 and"),
        ("server: {access_log: file}", "is not one of none, stdout"),
        ("server: {access_log: {format: json}}", "file is missing"),
        ("server: {strip_headers: [Host]}", "HTTP itself needs it"),
        ("server: {trusted_proxies: [10.0.0.0/40]}", "is not a network"),
    ]);
    let config = good(&(with_route("") + "server: {max_head: 4KiB}"));
    assert_eq!(config.server.max_uri, 4_096, "the part follows the whole");
}

#[test]
fn clients_and_tiers_are_checked() {
    let keys = "\"sha256:".to_owned() + &"ab".repeat(32) + "\"";
    let shared = format!(
        "clients: {{identify: api_key, known: {{a: {{api_keys: [{keys}]}}, b: {{api_keys: {keys}}}}}}}"
    );
    refused(&[
        ("clients: {identify: []}", "there must be a way"),
        ("clients: {identify: [ip, ip]}", "used twice"),
        ("clients: {identify: [api-key]}", "did you mean \"api_key\"?"),
        ("clients: {identify: [{header: X, form: []}]}", "did you mean \"from\"?"),
        ("clients: {default_tier: fre}", "did you mean \"free\"?"),
        ("clients: {ipv6_prefix: 129}", "is not between 1 and 128"),
        ("clients: {known: {a: {tier: Premiun}}}", "did you mean \"premium\"?"),
        ("clients: {known: {'a b': {tier: free}}}", "is not a client id"),
        (&shared, "clients.known.b.api_keys: this key is already a key of \"a\""),
        ("tiers: {free: {rate: 1/s}}", "tiers.free: burst is missing"),
        ("tiers: {free: {rate: 2000000000/s, burst: 1}}", "at most 1 token per nanosecond"),
        ("tiers: {free: {rate: 1/d, burst: 90000000}}", "more than 146 years"),
        ("tiers: {free: {rate: -1/s, burst: 1}}", "it is negative"),
        ("tiers: {Gold: {rate: 1/s, burst: 1}, gold: {rate: 1/s, burst: 1}}", "used twice"),
        ("tiers: {'a b': {rate: 1/s, burst: 1}}", "is not a name"),
        ("tiers: {none: {rate: 1/s, burst: 1}}", "choose another name"),
        ("limits: [{name: tier, rate: 1/s, burst: 1}]", "choose another name"),
        ("limits: [{name: 'route:x', rate: 1/s, burst: 1}]", "is not a name"),
        ("limits: [{rate: 1/s, burst: 1}]", "name is missing"),
    ]);
    let config = good(&(with_route("") + "clients: {known: {a: {tier: FREE}, b: }}"));
    assert_eq!(config.clients.known[0].tier, Some(config.tiers.default_tier()));
}

#[test]
fn an_error_never_repeats_what_may_be_a_key() {
    let errors = errors("clients: {known: {a: {api_keys: [hunter2]}}}\nadmin: {token: 'hun ter2'}");
    assert_eq!(errors.len(), 2);
    assert!(errors.iter().all(|error| !error.contains("hunter2") && !error.contains("hun ter2")));
}

#[test]
fn upstreams_are_checked() {
    refused(&[
        ("upstreams: {u: {}}", "servers is missing"),
        ("upstreams: {u: {servers: []}}", "there must be a server"),
        ("upstreams: {u: {servers: [127.0.0.1:1, {address: 127.0.0.1:1}]}}", "used twice"),
        ("upstreams: {u: {servers: [{address: 127.0.0.1:1, weight: 0}]}}", "between 1 and 1000"),
        ("upstreams: {u: {servers: [{weight: 1}]}}", "address is missing"),
        ("upstreams: {u: {servers: [0.0.0.0:1]}}", "is not the address of a server"),
        ("upstreams: {u: {servers: [127.0.0.1:0]}}", "ports are 1 to 65535"),
        ("upstreams: {u: {servers: [127.0.0.1:1], timeouts: {read: 0s}}}", "between 1ms and 24h"),
        ("upstreams: {'u u': {servers: [127.0.0.1:1]}}", "is not a name"),
    ]);
}

#[test]
fn routes_are_checked() {
    let cases = [
        ("strip_prefix: /b", "is not a prefix of the route's path"),
        ("strip_prefix: /", "nothing to strip"),
        ("timeout: 0s", "between 1ms and 24h"),
        ("cost: 1000001", "between 0 and 1000000"),
        ("cost: -1", "between 0 and 1000000"),
        ("cost: {get: 1}", "did you mean \"GET\"?"),
        ("cost: {GET: x}", "routes[0].cost.GET"),
        ("methods: [GET, GET]", "used twice"),
        ("hosts: ['a:80']", "without a port"),
        ("hosts: [a, A]", "used twice"),
        ("max_body: 10MB", "is not a size"),
        ("auth: optional", "is not one of none, required"),
        ("auth: required", "clients.identify does not name api_key"),
        ("limit: {rate: 1/s, burst: 1, name: x}", "there is no key \"name\""),
    ];
    for (keys, expected) in cases {
        refused(&[(&with_route(keys), expected)]);
    }
    let path = |path: &str| format!("{UPSTREAM}routes: [{{name: r, upstream: u, path: {path}}}]");
    refused(&[
        (&path("{exact: /a, prefix: /b}"), "has both exact and prefix"),
        (&path("{}"), "is empty"),
        (&path("{regex: .*}"), "there is no key \"regex\""),
        (&path("'/u/{id}'"), "{pattern:"),
    ]);
    assert_eq!(route("strip_prefix: /a/").strip_prefix.as_deref(), Some("/a"));
    let cost = route("methods: [GET], cost: {POST: 3}").cost;
    assert_eq!((cost.of(&Method::GET), cost.of(&Method::POST)), (1, 3));
}

#[test]
fn a_path_below_is_on_the_border_of_a_segment() {
    let text = |path: &str, strip: &str| {
        format!("{UPSTREAM}routes: [{{name: r, upstream: u, path: {path}, strip_prefix: {strip}}}]")
    };
    good(&text("{pattern: '/u/v/{id}'}", "/u/v"));
    good(&text("{exact: /u}", "/u"));
    refused(&[
        (&text("{pattern: '/u/v/{id}'}", "/u/v/x"), "is not a prefix"),
        (&text("/apiary", "/api"), "is not a prefix"),
    ]);
}

#[test]
fn a_variable_that_is_not_set_is_named_with_its_key() {
    refused(&[
        ("server: {listen: \"${NOWHERE}\"}", "server.listen: the variable NOWHERE is not set"),
        (
            "limits: [{name: \"${N:-a}\", rate: \"${R}\", burst: 1}]",
            "limits[0].rate: the variable R",
        ),
    ]);
    let config =
        good(&(with_route("") + "server: {workers: \"${N:-2}\", health_path: \"${H:-}\"}"));
    assert_eq!((config.server.workers, config.server.health_path), (2, None));
}

#[test]
fn what_was_hardly_meant_is_a_warning() {
    let known = "clients: {known: {vip: {tier: premium}}}\n";
    let cases = [
        (UPSTREAM.to_owned(), "there are no routes"),
        (with_route("") + known, "whoever reaches 0.0.0.0:8080 can send x-client-id: vip"),
        (with_route("") + "limiter: {slots: 3000}", "3000 is rounded up to 4096"),
        (
            with_route("auth: required") + "clients: {identify: [api_key, ip]}",
            "routes[0].auth: an API key is required, but no client",
        ),
        (
            with_route("cost: 60"),
            "routes[0].cost: a request can cost 60 tokens, which is above the burst of the tier \
             free (10, the default), the tier basic (50)",
        ),
        (
            with_route("cost: {GET: 5}, limit: {rate: 1/s, burst: 4}"),
            "the limit route:r (4): there it is always refused",
        ),
        (
            with_route("cost: 5")
                + "limits: [{name: s, key: client, rate: 1/s, burst: 4, shadow: true}]",
            "the shadow s (4): there it always counts as one that would be refused, and passes",
        ),
    ];
    for (text, expected) in cases {
        let warnings = warnings(&text);
        assert_eq!(warnings.len(), 1, "{text}: {warnings:#?}");
        assert!(warnings[0].contains(expected), "{text}: {}", warnings[0]);
    }
    good(&(with_route("") + known + "server: {listen: 127.0.0.1:80}"));
    good(&with_route("methods: [GET], cost: {POST: 99}"));
}

#[test]
fn a_route_that_gets_no_request_is_a_warning() {
    let text = |routes: &[&str]| {
        let routes: Vec<_> = routes
            .iter()
            .enumerate()
            .map(|(i, keys)| format!("  - {{name: r{i}, upstream: u, {keys}}}\n"))
            .collect();
        format!("{UPSTREAM}routes:\n{}", routes.concat())
    };
    let shadowed: [&[&str]; 5] = [
        &["path: /a", "path: /a/"],
        &["path: /a", "path: {prefix: /a}, methods: [GET]"],
        &["path: {pattern: '/{x}'}", "path: {pattern: '/{y}'}"],
        &["path: /a, hosts: [a, b]", "path: /a, hosts: [b]"],
        &["path: /a, methods: [GET, POST]", "path: /a, methods: [POST]"],
    ];
    for routes in shadowed {
        let warnings = warnings(&text(routes));
        assert_eq!(warnings.len(), 1, "{routes:?}");
        assert!(warnings[0].starts_with("line 4: routes[1].path: never matches"), "{warnings:?}");
    }
    let distinct: [&[&str]; 4] = [
        &["path: /a", "path: /a/b"],
        &["path: /a", "path: {exact: /a}"],
        &["path: /a, methods: [GET]", "path: /a"],
        &["path: /a", "path: /a, hosts: [b]"],
    ];
    for routes in distinct {
        good(&text(routes));
    }
}

#[test]
fn ten_thousand_routes_are_checked_in_a_moment() {
    let mut text = UPSTREAM.to_owned() + "routes:\n";
    for i in 0..10_000 {
        text += &format!(
            "  - name: route-{i}\n    path: /api/v1/service-{i}\n    hosts: [api.example.com]\n    \
             methods: [GET, POST]\n    upstream: u\n    timeout: 3s\n    cost: {{GET: 1, POST: 5}}\n    \
             limit: {{rate: 100/m, burst: 100, key: client}}\n    max_body: 10MiB\n"
        );
    }
    let begin = Instant::now();
    assert_eq!(good(&text).routes.len(), 10_000);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    // And so are ten thousand mistakes.
    let errors = errors(&text.replace("upstream: u", "upstream: v"));
    assert_eq!(errors.len(), 1_001);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[-a&*!|>%@#?:,~'\"{}\\[\\]$ \\n\\t\\r\u{feff}\u{0}\u{85}é0-9]{0,60}") {
        let _ = parse(&text, &no_env);
    }

    #[test]
    fn a_damaged_file_is_an_error_or_another_configuration_and_never_a_panic(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..20, "[-a&*{}\\[\\]:, \n]{0,3}"), 1..4)
    ) {
        let mut text = include_str!("tests/every_key.yaml").to_owned();
        for (at, length, instead) in cuts {
            let at = at.index(text.len());
            let end = (at + length).min(text.len());
            text.replace_range(at..end, &instead);
        }
        match parse(&text, &no_env) {
            Ok((config, _)) => prop_assert!(effective(&config).is_object()),
            Err(errors) => prop_assert!(!errors.is_empty()),
        }
    }
}
