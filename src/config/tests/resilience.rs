//! What contains failing upstreams: every key of it, good, wrong and at its bounds.

use super::*;
use crate::policy::breaker::{BreakerPolicy, SlowCalls};
use crate::policy::retry::{Backoff, RetryOn, RetryPolicy};
use crate::policy::share::Share;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const H: u64 = 3_600 * S;

fn with_upstream(keys: &str) -> String {
    format!(
        "upstreams: {{u: {{servers: [127.0.0.1:1], {keys}}}}}\n\
         routes: [{{name: r, path: /a, upstream: u}}]\n"
    )
}

fn upstream(keys: &str) -> Upstream {
    good(&with_upstream(keys)).upstreams.remove(0)
}

/// Each text as a value of the upstream's key has exactly one error: at this path below the
/// upstream, and with the words.
fn upstream_refused(cases: &[(&str, &str, &str)]) {
    for (keys, path, expected) in cases {
        let errors = errors(&with_upstream(keys));
        assert_eq!(errors.len(), 1, "{keys}: {errors:#?}");
        let path = format!("line 1: upstreams.u.{path}: ");
        assert!(errors[0].starts_with(&path), "{keys}: {}", errors[0]);
        assert!(errors[0].contains(expected), "{keys}: {}", errors[0]);
    }
}

/// The same for keys of a route.
fn route_refused(cases: &[(&str, &str, &str)]) {
    for (keys, path, expected) in cases {
        let errors = errors(&with_route(keys));
        assert_eq!(errors.len(), 1, "{keys}: {errors:#?}");
        let path = format!("line 2: routes[0].{path}: ");
        assert!(errors[0].starts_with(&path), "{keys}: {}", errors[0]);
        assert!(errors[0].contains(expected), "{keys}: {}", errors[0]);
    }
}

#[test]
fn every_key_of_resilience_is_read() {
    let config = good(include_str!("every_key.yaml"));
    let [zeta, users] = config.upstreams.as_slice() else { panic!("two upstreams") };
    assert_eq!(zeta.balance, Balance::LeastLoaded);
    assert_eq!(zeta.health_check.as_ref().map(|check| &check.kind), Some(&HealthCheckKind::Tcp));
    assert_eq!((&zeta.breaker, &zeta.ejection), (&Some(BreakerPolicy::default()), &None));

    let name = ServerAddress::Name { host: "users.internal".into(), port: 9_002 };
    assert_eq!(users.servers[1], UpstreamServer { address: name, weight: 2 });
    let tenant = HeaderName::from_static("x-tenant");
    assert_eq!(users.balance, Balance::Consistent(Affinity::Header(tenant)));
    let queue_timeout = Duration::from_millis(50);
    assert_eq!(users.concurrency, Some(Concurrency { max: 200, queue: 100, queue_timeout }));
    let check = HealthCheck {
        kind: HealthCheckKind::Http { path: "/health?deep=1".into() },
        interval: Duration::from_secs(2),
        timeout: Duration::from_millis(500),
        healthy_after: 4,
        unhealthy_after: 5,
    };
    assert_eq!(users.health_check, Some(check));
    let slow_calls = SlowCalls { longer_than_ns: 2 * S, ratio: Share::from_percent(75) };
    let breaker = BreakerPolicy {
        consecutive_failures: Some(7),
        failure_ratio: Some(Share::from_percent(50)),
        slow_calls: Some(slow_calls),
        min_requests: 30,
        window_ns: 20 * S,
        cooldown_ns: 15 * S,
        max_cooldown_ns: 120 * S,
        probes: 4,
        ramp_ns: 0,
    };
    assert_eq!(users.breaker, Some(breaker));
    let ejection = EjectionPolicy { consecutive_failures: 3, base_ns: 5 * S, max_ns: 60 * S };
    assert_eq!(users.ejection, Some(ejection));

    let route = &config.routes[0];
    let retry = RetryPolicy {
        attempts: 3,
        per_try_timeout_ns: Some(900 * MS),
        backoff: Backoff { base_ns: 10 * MS, max_ns: 100 * MS },
        when: RetryOn { connect: true, timeout: false, reset: true, statuses: vec![429, 503] },
        budget: Share::from_millionths(125_000),
    };
    assert_eq!(route.retry, Some(retry));
    let breaker = BreakerPolicy {
        consecutive_failures: None,
        failure_ratio: Some(Share::from_millionths(333_333)),
        ..BreakerPolicy::default()
    };
    assert_eq!(route.breaker, Some(breaker));
}

#[test]
fn what_is_shown_has_the_forms_of_the_file() {
    let shown = effective(&good(include_str!("every_key.yaml")));
    let at = |path: &str| shown.pointer(path).unwrap_or_else(|| panic!("{path}")).to_string();
    let cases = [
        ("/tiers/Basic/concurrency", "4"),
        ("/tiers/gold/concurrency", "null"),
        ("/upstreams/users/servers/1/address", "\"users.internal:9002\""),
        ("/upstreams/users/balance/consistent/header", "\"x-tenant\""),
        ("/upstreams/zeta/balance", "\"least_loaded\""),
        ("/upstreams/users/concurrency/queue_timeout", "\"50ms\""),
        ("/upstreams/users/health_check/path", "\"/health?deep=1\""),
        ("/upstreams/zeta/health_check/type", "\"tcp\""),
        ("/upstreams/users/breaker/slow_ratio", "0.75"),
        ("/upstreams/users/breaker/ramp", "\"0s\""),
        ("/upstreams/users/ejection/max", "\"1m\""),
        ("/upstreams/zeta/ejection", "\"none\""),
        ("/routes/0/retry/when", "[\"connect\",\"reset\",429,503]"),
        ("/routes/0/retry/budget", "\"12.5%\""),
        ("/routes/0/breaker/failure_ratio", "0.333333"),
        ("/routes/0/breaker/consecutive_failures", "null"),
    ];
    for (path, expected) in cases {
        assert_eq!(at(path), expected, "{path}");
    }
}

#[test]
fn what_is_shown_is_read_back_as_the_same() {
    let upstreams = [
        "balance: least_loaded",
        "balance: {consistent: client}",
        "balance: {consistent: ip}",
        "balance: {consistent: path}",
        "balance: {consistent: {header: x-a}}",
        "concurrency: {max: 7}",
        "health_check: {type: tcp}",
        "health_check: {path: '/a?b=c'}",
        "breaker: {}",
        "breaker: {slow_call: 1500ms}",
        "breaker: {failure_ratio: 0.333333, cooldown: 1h}",
        "ejection: none",
        "ejection: {base: 100ms}",
    ];
    let routes = [
        "retry: {}",
        "retry: {budget: 0.000001, when: 500, per_try_timeout: 1ms}",
        "retry: {attempts: 0, budget: 0}",
        "breaker: {failure_ratio: 1%}",
    ];
    let texts = upstreams.map(with_upstream).into_iter().chain(routes.map(with_route));
    for text in texts {
        let config = good(&text);
        let shown = effective(&config).to_string();
        assert_eq!(parse(&shown, &no_env).map(|(again, _)| again), Ok(config), "{shown}");
    }
}

#[test]
fn servers_have_addresses_or_names() {
    let config = good(&with_upstream("balance: round_robin").replace(
        "[127.0.0.1:1]",
        "['[::1]:9001', Users.Internal:9001, {address: users.internal.:9002, weight: 3}]",
    ));
    let servers: Vec<_> = config.upstreams[0]
        .servers
        .iter()
        .map(|server| (server.address.to_string(), server.weight))
        .collect();
    let expected = [("[::1]:9001", 1), ("users.internal:9001", 1), ("users.internal:9002", 3)];
    assert_eq!(servers, expected.map(|(address, weight)| (address.to_owned(), weight)));
    refused(&[
        ("upstreams: {u: {servers: [a.b:1, {address: A.B.:1}]}}", "\"a.b:1\" is used twice"),
        ("upstreams: {u: {servers: 127.0.0.256:1}}", "looks like an IP address and is none"),
        ("upstreams: {u: {servers: {address: 'a b:1'}}}", "expected a list, found a mapping"),
        ("upstreams: {u: {servers: [{address: 'a b:1'}]}}", "servers[0].address: \"a b:1\" is not"),
    ]);
}

#[test]
fn balancing_is_a_word_or_what_requests_share() {
    let balance = |text: &str| upstream(&format!("balance: {text}")).balance;
    assert_eq!(balance("round_robin"), Balance::RoundRobin);
    assert_eq!(balance("least_loaded"), Balance::LeastLoaded);
    assert_eq!(balance("{consistent: client}"), Balance::Consistent(Affinity::Client));
    assert_eq!(balance("{consistent: ip}"), Balance::Consistent(Affinity::Ip));
    assert_eq!(balance("{consistent: path}"), Balance::Consistent(Affinity::Path));
    upstream_refused(&[
        ("balance: random", "balance", "is not one of round_robin, least_loaded"),
        ("balance: least_load", "balance", "did you mean \"least_loaded\"?"),
        ("balance: consistent", "balance", "{consistent: client}"),
        ("balance: [ip]", "balance", "expected round_robin, least_loaded or"),
        ("balance: {}", "balance", "is empty"),
        ("balance: {hash: ip}", "balance.hash", "there is no key \"hash\""),
        ("balance: {consistent: IP}", "balance.consistent", "did you mean \"ip\"?"),
        ("balance: {consistent: }", "balance.consistent", "expected client, ip, path or"),
        ("balance: {consistent: {}}", "balance.consistent", "is empty"),
        ("balance: {consistent: {header: Host}}", "balance.consistent.header", "HTTP itself"),
        ("balance: {consistent: {cookie: a}}", "balance.consistent.cookie", "there is no key"),
    ]);
}

#[test]
fn concurrency_has_a_maximum_and_perhaps_a_queue() {
    let concurrency = |text: &str| upstream(&format!("concurrency: {text}")).concurrency.unwrap();
    let queue_timeout = Duration::from_millis(100);
    assert_eq!(concurrency("{max: 1}"), Concurrency { max: 1, queue: 0, queue_timeout });
    let most = concurrency("{max: 1000000, queue: 100000, queue_timeout: 1m}");
    assert_eq!((most.max, most.queue), (1_000_000, 100_000));
    assert_eq!(most.queue_timeout, Duration::from_secs(60));
    let least = concurrency("{max: 1, queue: 1, queue_timeout: 1ms}");
    assert_eq!(least.queue_timeout, Duration::from_millis(1));
    upstream_refused(&[
        ("concurrency: {}", "concurrency", "max is missing; write for example max: 200"),
        ("concurrency: 200", "concurrency", "expected a mapping"),
        ("concurrency: {max: 0}", "concurrency.max", "is not between 1 and 1000000"),
        ("concurrency: {max: 1000001}", "concurrency.max", "is not between 1 and 1000000"),
        ("concurrency: {max: 1, queue: 100001}", "concurrency.queue", "between 0 and 100000"),
        ("concurrency: {max: 1, queue: -1}", "concurrency.queue", "between 0 and 100000"),
        (
            "concurrency: {max: 1, queue: 1, queue_timeout: 0s}",
            "concurrency.queue_timeout",
            "is not between 1ms and 1m",
        ),
        (
            "concurrency: {max: 1, queue: 1, queue_timeout: 61s}",
            "concurrency.queue_timeout",
            "is not between 1ms and 1m",
        ),
        ("concurrency: {max: 1, queu: 1}", "concurrency.queu", "did you mean \"queue\"?"),
    ]);
}

#[test]
fn a_tier_may_bound_what_each_client_has_in_flight() {
    let tier = |keys: &str| {
        let text = with_route("") + &format!("tiers: {{gold: {{rate: 1/s, burst: 1{keys}}}}}");
        let config = good(&text);
        config.tiers.get(config.tiers.find("gold").unwrap()).concurrency
    };
    assert_eq!(tier(""), None);
    assert_eq!(tier(", concurrency: 1"), Some(1));
    assert_eq!(tier(", concurrency: 1000000"), Some(1_000_000));
    let with = |value: &str| format!("tiers: {{a: {{rate: 1/s, burst: 1, concurrency: {value}}}}}");
    refused(&[
        (&with("0"), "tiers.a.concurrency: \"0\" is not between 1 and 1000000"),
        (&with("1000001"), "tiers.a.concurrency: \"1000001\" is not between 1 and 1000000"),
        (&with("[1]"), "tiers.a.concurrency: expected a number of requests"),
        ("tiers: {free: {concurrency: 3, burst: 1}}", "tiers.free: rate is missing"),
    ]);
}

#[test]
fn a_health_check_asks_for_a_path_or_a_connection() {
    let check = |text: &str| upstream(&format!("health_check: {text}")).health_check.unwrap();
    let http = |path: &str| HealthCheckKind::Http { path: path.into() };
    let standard = HealthCheck {
        kind: http("/"),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        healthy_after: 2,
        unhealthy_after: 3,
    };
    assert_eq!(check("{type: http}"), standard);
    assert_eq!(check("{path: /a/b?c=d&e}").kind, http("/a/b?c=d&e"));
    assert_eq!(check("{type: tcp}").kind, HealthCheckKind::Tcp);
    let least = check("{type: tcp, interval: 100ms, timeout: 1ms, healthy_after: 1}");
    assert_eq!((least.interval, least.timeout), (Duration::from_millis(100), value::MIN_TIMEOUT));
    let most = check("{type: tcp, interval: 1h, timeout: 1m, unhealthy_after: 100}");
    assert_eq!((most.timeout.as_secs(), most.unhealthy_after), (60, 100));
    let follows = check("{type: tcp, interval: 500ms}");
    assert_eq!(follows.timeout, follows.interval, "the part follows the whole");
    upstream_refused(&[
        ("health_check: {}", "health_check", "type is missing; write for example type: http"),
        ("health_check: {interval: 5s}", "health_check", "type is missing"),
        ("health_check: /health", "health_check", "expected a mapping"),
        ("health_check: {type: grpc}", "health_check.type", "is not one of http, tcp"),
        ("health_check: {type: tcp, path: /}", "health_check.path", "a tcp check asks for no path"),
        ("health_check: {path: health}", "health_check.path", "a path begins with /"),
        ("health_check: {path: 'http://a/'}", "health_check.path", "a path begins with /"),
        ("health_check: {path: '/a b'}", "health_check.path", "as %XX"),
        ("health_check: {path: \"/a\\r\\nX: y\"}", "health_check.path", "as %XX"),
        ("health_check: {path: /ä}", "health_check.path", "as %XX"),
        ("health_check: {path: '/a<'}", "health_check.path", "as %XX"),
        ("health_check: {path: '/a#b'}", "health_check.path", "a fragment is never sent"),
        ("health_check: {path: /, interval: 99ms}", "health_check.interval", "100ms and 1h"),
        ("health_check: {path: /, interval: 61m}", "health_check.interval", "100ms and 1h"),
        ("health_check: {path: /, timeout: 0s}", "health_check.timeout", "between 1ms and 1m"),
        ("health_check: {path: /, timeout: 61s}", "health_check.timeout", "between 1ms and 1m"),
        ("health_check: {path: /, healthy_after: 0}", "health_check.healthy_after", "1 and 100"),
        (
            "health_check: {path: /, unhealthy_after: 101}",
            "health_check.unhealthy_after",
            "between 1 and 100",
        ),
    ]);
    let long = format!("health_check: {{path: /{}}}", "x".repeat(2_048));
    upstream_refused(&[(&long, "health_check.path", "longer than 2048 bytes")]);
}

#[test]
fn only_the_conditions_that_are_written_open_a_circuit() {
    let breaker = |text: &str| upstream(&format!("breaker: {text}")).breaker;
    let standard = BreakerPolicy::default();
    assert_eq!(breaker("{}"), Some(standard.clone()));
    assert_eq!(breaker("{consecutive_failures: }"), Some(standard.clone()));
    assert_eq!(breaker("none"), None);
    assert_eq!(breaker("null"), None);
    let conditions = |text: &str| {
        let breaker = breaker(text).unwrap();
        (breaker.consecutive_failures, breaker.failure_ratio, breaker.slow_calls)
    };
    let percent = Share::from_percent;
    let slow = |longer_than_ns, ratio| Some(SlowCalls { longer_than_ns, ratio });
    assert_eq!(conditions("{cooldown: 1s}"), (Some(5), None, None));
    assert_eq!(conditions("{consecutive_failures: 1000000}"), (Some(1_000_000), None, None));
    assert_eq!(conditions("{failure_ratio: 1%}"), (None, Some(percent(1)), None));
    assert_eq!(conditions("{failure_ratio: 1}"), (None, Some(Share::ALL), None));
    assert_eq!(conditions("{slow_call: 1ms}"), (None, None, slow(MS, percent(80))));
    let both = conditions("{slow_call: 24h, slow_ratio: 0.01}");
    assert_eq!(both, (None, None, slow(24 * H, percent(1))));
}

#[test]
fn the_values_of_a_breaker_have_bounds() {
    let breaker = |text: &str| upstream(&format!("breaker: {text}")).breaker.unwrap();
    let least = breaker("{min_requests: 1, window: 1s, cooldown: 100ms, probes: 1, ramp: 0s}");
    assert_eq!((least.min_requests, least.probes, least.ramp_ns), (1, 1, 0));
    assert_eq!((least.window_ns, least.cooldown_ns), (S, 100 * MS));
    let most = breaker(
        "{min_requests: 1000000, window: 1h, cooldown: 1h, max_cooldown: 24h, probes: 1000, \
         ramp: 1h}",
    );
    assert_eq!((most.min_requests, most.probes), (1_000_000, 1_000));
    assert_eq!((most.window_ns, most.cooldown_ns, most.ramp_ns), (H, H, H));
    assert_eq!(most.max_cooldown_ns, 24 * H);
    upstream_refused(&[
        ("breaker: 5", "breaker", "expected a mapping of keys, or none, found \"5\""),
        ("breaker: []", "breaker", "expected a mapping of keys, found a list"),
        ("breaker: {failures: 5}", "breaker.failures", "there is no key \"failures\""),
        ("breaker: {consecutive_failures: 0}", "breaker.consecutive_failures", "1 and 1000000"),
        ("breaker: {consecutive_failures: 1000001}", "breaker.consecutive_failures", "1000000"),
        ("breaker: {failure_ratio: 0}", "breaker.failure_ratio", "is not between 0.01 and 1"),
        ("breaker: {failure_ratio: 101%}", "breaker.failure_ratio", "is not between 0.01 and 1"),
        ("breaker: {failure_ratio: 50}", "breaker.failure_ratio", "did you mean 50%?"),
        ("breaker: {slow_call: 0s}", "breaker.slow_call", "is not between 1ms and 24h"),
        ("breaker: {slow_ratio: 0.5}", "breaker.slow_ratio", "there is no slow_call"),
        ("breaker: {slow_call: 2, slow_ratio: 0.5}", "breaker.slow_call", "has no unit"),
        ("breaker: {slow_call: 2s, slow_ratio: 2}", "breaker.slow_ratio", "between 0.01 and 1"),
        ("breaker: {min_requests: 0}", "breaker.min_requests", "is not between 1 and 1000000"),
        ("breaker: {window: 999ms}", "breaker.window", "is not between 1s and 1h"),
        ("breaker: {window: 61m}", "breaker.window", "is not between 1s and 1h"),
        ("breaker: {cooldown: 99ms}", "breaker.cooldown", "is not between 100ms and 1h"),
        ("breaker: {cooldown: 61m, max_cooldown: 1s}", "breaker.cooldown", "100ms and 1h"),
        ("breaker: {max_cooldown: 25h}", "breaker.max_cooldown", "between 100ms and 24h"),
        ("breaker: {probes: 0}", "breaker.probes", "is not between 1 and 1000"),
        ("breaker: {probes: 1001}", "breaker.probes", "is not between 1 and 1000"),
        ("breaker: {ramp: 61m}", "breaker.ramp", "is not between 0s and 1h"),
        ("breaker: {ramp: 0}", "breaker.ramp", "has no unit"),
    ]);
}

#[test]
fn a_wait_that_grows_never_ends_below_where_it_began() {
    let breaker = |text: &str| upstream(&format!("breaker: {text}")).breaker.unwrap();
    let cooldowns = |text: &str| {
        let breaker = breaker(text);
        (breaker.cooldown_ns, breaker.max_cooldown_ns)
    };
    assert_eq!(cooldowns("{}"), (30 * S, 300 * S));
    assert_eq!(cooldowns("{cooldown: 10m}"), (600 * S, 600 * S), "it follows what is written");
    assert_eq!(cooldowns("{cooldown: 1s, max_cooldown: 1s}"), (S, S));
    upstream_refused(&[
        (
            "breaker: {cooldown: 10s, max_cooldown: 9s}",
            "breaker.max_cooldown",
            "\"9s\" is shorter than cooldown, which is 10s",
        ),
        (
            "breaker: {max_cooldown: 29s}",
            "breaker.max_cooldown",
            "\"29s\" is shorter than cooldown, which is 30s",
        ),
        ("ejection: {base: 2s, max: 1s}", "ejection.max", "is shorter than base, which is 2s"),
    ]);
    let ejection = upstream("ejection: {base: 10m}").ejection.unwrap();
    assert_eq!((ejection.base_ns, ejection.max_ns), (600 * S, 600 * S));
    let backoff = route("retry: {backoff: {base: 1s}}").retry.unwrap().backoff;
    assert_eq!(backoff, Backoff { base_ns: S, max_ns: S });
    let short = "retry: {backoff: {max: 24ms}}";
    route_refused(&[(short, "retry.backoff.max", "is shorter than base, which is 25ms")]);
}

#[test]
fn ejection_is_there_until_it_is_taken_away() {
    let ejection = |text: &str| upstream(&format!("ejection: {text}")).ejection;
    let standard = Some(EjectionPolicy::default());
    assert_eq!(ejection("{}"), standard);
    assert_eq!(ejection("null"), standard, "null is as good as absent");
    assert_eq!(ejection("none"), None);
    let least = ejection("{consecutive_failures: 1, base: 100ms, max: 100ms}");
    let expected = EjectionPolicy { consecutive_failures: 1, base_ns: 100 * MS, max_ns: 100 * MS };
    assert_eq!(least, Some(expected));
    let most = ejection("{consecutive_failures: 1000000, base: 1h, max: 24h}");
    let expected = EjectionPolicy { consecutive_failures: 1_000_000, base_ns: H, max_ns: 24 * H };
    assert_eq!(most, Some(expected));
    upstream_refused(&[
        ("ejection: off", "ejection", "expected a mapping of keys, or none, found \"off\""),
        ("ejection: {consecutive_failures: 0}", "ejection.consecutive_failures", "1 and 1000000"),
        ("ejection: {base: 99ms}", "ejection.base", "is not between 100ms and 1h"),
        ("ejection: {base: 61m}", "ejection.base", "is not between 100ms and 1h"),
        ("ejection: {max: 25h}", "ejection.max", "is not between 100ms and 24h"),
        ("ejection: {maximum: 1h}", "ejection.maximum", "there is no key"),
    ]);
}

#[test]
fn a_retry_has_defaults_and_bounds() {
    let retry = |text: &str| route(&format!("retry: {text}")).retry;
    assert_eq!(retry("{}"), Some(RetryPolicy::default()));
    assert_eq!(retry("none"), None);
    assert_eq!(retry("null"), None);
    let least = retry(
        "{attempts: 0, per_try_timeout: 1ms, backoff: {base: 1ms, max: 1ms}, when: reset, budget: 0}",
    );
    let reset = RetryOn { connect: false, timeout: false, reset: true, statuses: Vec::new() };
    let expected = RetryPolicy {
        attempts: 0,
        per_try_timeout_ns: Some(MS),
        backoff: Backoff { base_ns: MS, max_ns: MS },
        when: reset,
        budget: Share::NONE,
    };
    assert_eq!(least, Some(expected));
    let most = retry(
        "{attempts: 10, per_try_timeout: 24h, backoff: {base: 1m, max: 1m}, \
         when: [599, 400, timeout], budget: 100%}",
    )
    .unwrap();
    assert_eq!((most.attempts, most.per_try_timeout_ns), (10, Some(24 * H)));
    assert_eq!(most.when.statuses, [400, 599], "whatever order they are written in");
    assert!(most.when.timeout && !most.when.connect && !most.when.reset);
    assert_eq!((most.backoff.max_ns, most.budget), (60 * S, Share::ALL));
    assert_eq!(retry("{budget: 0.2}"), retry("{budget: 20%}"));
    route_refused(&[
        ("retry: 2", "retry", "expected a mapping of keys, or none, found \"2\""),
        ("retry: {tries: 2}", "retry.tries", "there is no key \"tries\""),
        ("retry: {attempts: 11}", "retry.attempts", "is not between 0 and 10"),
        ("retry: {attempts: -1}", "retry.attempts", "is not between 0 and 10"),
        ("retry: {per_try_timeout: 0s}", "retry.per_try_timeout", "between 1ms and 24h"),
        ("retry: {backoff: 25ms}", "retry.backoff", "expected a mapping"),
        ("retry: {backoff: {base: 0s}}", "retry.backoff.base", "between 1ms and 1m"),
        ("retry: {backoff: {max: 61s}}", "retry.backoff.max", "between 1ms and 1m"),
        ("retry: {backoff: {factor: 2}}", "retry.backoff.factor", "there is no key"),
        ("retry: {budget: 101%}", "retry.budget", "is not between 0 and 1"),
        ("retry: {budget: -1%}", "retry.budget", "is not between 0 and 1"),
        ("retry: {budget: 20}", "retry.budget", "did you mean 20%?"),
        ("retry: {when: []}", "retry.when", "write retry: none"),
        ("retry: {when: [connect, connect]}", "retry.when[1]", "\"connect\" is used twice"),
        ("retry: {when: [503, 503]}", "retry.when[1]", "\"503\" is used twice"),
        ("retry: {when: [399]}", "retry.when[0]", "or a status from 400 to 599"),
        ("retry: {when: [600]}", "retry.when[0]", "or a status from 400 to 599"),
        ("retry: {when: [5xx]}", "retry.when[0]", "or a status from 400 to 599"),
        ("retry: {when: [0503]}", "retry.when[0]", "or a status from 400 to 599"),
        ("retry: {when: [timeuot]}", "retry.when[0]", "did you mean \"timeout\"?"),
        ("retry: {when: {connect: true}}", "retry.when", "expected a list, found a mapping"),
    ]);
}

#[test]
fn a_route_may_have_a_breaker_of_its_own() {
    let breaker = route("breaker: {consecutive_failures: 3, cooldown: 10s}").breaker.unwrap();
    assert_eq!((breaker.consecutive_failures, breaker.cooldown_ns), (Some(3), 10 * S));
    assert_eq!(route("breaker: none").breaker, None);
    route_refused(&[
        ("breaker: {probes: 0}", "breaker.probes", "is not between 1 and 1000"),
        ("breaker: {slow_ratio: 0.5}", "breaker.slow_ratio", "there is no slow_call"),
    ]);
}

#[test]
fn what_contains_nothing_is_a_warning() {
    let cases = [
        (
            with_upstream("concurrency: {max: 5, queue_timeout: 1s}"),
            "line 1: upstreams.u.concurrency.queue_timeout: has no effect while queue is 0",
        ),
        (
            with_upstream("health_check: {path: /, interval: 1s, timeout: 2s}"),
            "line 1: upstreams.u.health_check.timeout: a check may take longer than the time \
             between two (1s)",
        ),
        (
            with_route("timeout: 2s, retry: {per_try_timeout: 2s}"),
            "line 2: routes[0].retry.per_try_timeout: it should be shorter than the route's \
             timeout (2s)",
        ),
        (
            with_route("methods: [POST, PATCH], retry: {when: [timeout, 503]}"),
            "line 2: routes[0].retry.when: without connect in it, POST, PATCH requests are tried again \
             only with an Idempotency-Key",
        ),
        (
            with_route("breaker: none").replace("9001]", "9001], breaker: {}"),
            "line 2: routes[0].breaker: the route has no circuit of its own, and the upstream u's",
        ),
    ];
    for (text, expected) in cases {
        let warnings = warnings(&text);
        assert_eq!(warnings.len(), 1, "{text}: {warnings:#?}");
        assert!(warnings[0].starts_with(expected), "{text}: {}", warnings[0]);
    }
    for text in [
        with_upstream("concurrency: {max: 5, queue: 1, queue_timeout: 1s}"),
        with_upstream("health_check: {path: /, interval: 1s, timeout: 1s}"),
        with_route("timeout: 2s, retry: {per_try_timeout: 1999ms}"),
        with_route("retry: {per_try_timeout: 10s}"),
        with_route("methods: [POST], retry: {when: [connect]}"),
        with_route("methods: [POST, PUT], retry: {when: [503]}"),
        with_route("methods: [POST], retry: {attempts: 0, when: [503]}"),
        with_route("").replace("9001]", "9001], breaker: {}"),
    ] {
        good(&text);
    }
}
