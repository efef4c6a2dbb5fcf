//! Names, types, labels and values of the metrics.

use std::collections::BTreeSet;

use crate::support::{Answer, Client, Gate, Gateway, Series, Upstream, free_addresses, ok};

const ALL_200: &str = "gateway_requests_total{route=\"all\",status=\"200\"}";
const MANUAL: &str = include_str!("../../docs/ADMIN.md");
const MALFORMED: &str = "gateway_requests_total{route=\"none\",status=\"400\"}";

#[test]
fn every_metric_has_its_name_type_and_labels() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        // Nobody listens there, which is enough to have the metrics.
        .redis("{url: \"redis://127.0.0.1:1\"}")
        .tiers("free: {rate: 1/h, burst: 1}")
        .limits("- {name: watched, key: client, rate: 1/h, burst: 1, shadow: true}")
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], concurrency: {{max: 1}}}}",
            upstream.address()
        ))
        .start();
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [200, 429]);
    gateway.series_once("gateway_requests_total{route=\"all\",status=\"429\"}", 1.0);
    gateway.series_once(ALL_200, 1.0);
    let both = "gateway_request_duration_seconds_count{route=\"all\"}";
    let series = gateway.series_once(both, 2.0);
    for (name, kind, labels) in [
        ("gateway_requests_total", "counter", &["route", "status"][..]),
        ("gateway_rate_limited_total", "counter", &["policy", "route", "tier"]),
        ("gateway_shadow_limited_total", "counter", &["policy", "route", "tier"]),
        ("gateway_upstream_attempts_total", "counter", &["outcome", "upstream"]),
        ("gateway_retries_total", "counter", &["route"]),
        ("gateway_circuit_state", "gauge", &["circuit"]),
        ("gateway_circuit_transitions_total", "counter", &["circuit", "to"]),
        ("gateway_upstream_healthy", "gauge", &["upstream"]),
        ("gateway_upstream_ejected", "gauge", &["upstream"]),
        ("gateway_upstream_concurrency", "gauge", &["upstream"]),
        ("gateway_upstream_queued", "gauge", &["upstream"]),
        ("gateway_inflight_requests", "gauge", &["route"]),
        ("gateway_config_generation", "gauge", &[]),
        ("gateway_config_reloads_total", "counter", &["result"]),
        ("gateway_limiter_table_slots", "gauge", &["state"]),
        ("gateway_limiter_overflow_total", "counter", &[]),
        ("gateway_redis_up", "gauge", &[]),
        ("gateway_redis_calls_total", "counter", &["outcome"]),
        ("process_cpu_seconds_total", "counter", &[]),
        ("process_resident_memory_bytes", "gauge", &[]),
        ("process_open_fds", "gauge", &[]),
        ("process_start_time_seconds", "gauge", &[]),
    ] {
        assert_eq!(series.kind(name), Some(kind), "{name}");
        assert!(!series.of(name).is_empty(), "{name}");
        let labels: BTreeSet<String> = labels.iter().map(|&label| label.to_owned()).collect();
        assert_eq!(series.labels(name), labels, "{name}");
    }
    let duration = "gateway_request_duration_seconds";
    assert_eq!(series.kind(duration), Some("histogram"));
    assert_eq!(series.value(&format!("{duration}_count{{route=\"all\"}}")), 2.0);
    assert_eq!(series.value(&format!("{duration}_bucket{{route=\"all\",le=\"+Inf\"}}")), 2.0);
    assert_eq!(series.value(ALL_200), 1.0);
    let limited = "gateway_rate_limited_total{policy=\"tier\",route=\"all\",tier=\"free\"}";
    assert_eq!(series.value(limited), 1.0);
    assert_eq!(series.value("gateway_limiter_table_slots{state=\"used\"}"), 2.0);
    assert_eq!(series.value("gateway_limiter_table_slots{state=\"free\"}"), 1_048_574.0);

    let families = series.names().into_iter().filter_map(|sample| {
        let name = sample.split('{').next().unwrap_or_default();
        let ends = ["_bucket", "_sum", "_count"];
        let base = ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        base.starts_with("gateway_").then(|| base.to_owned())
    });
    let rows = MANUAL.lines().filter_map(|line| line.strip_prefix("| `gateway_"));
    let described = rows.map(|row| format!("gateway_{}", row.split('`').next().unwrap()));
    let described: BTreeSet<String> = described.collect();
    assert_eq!(described, families.collect(), "docs/ADMIN.md has every metric, and no other");
}

#[test]
fn the_tier_and_the_policy_that_refused_are_told() {
    let upstream = Upstream::new();
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .clients("identify: [{header: X-Client-ID}, ip]\nknown: {vip: {tier: gold}}")
        .tiers("free: {rate: 1/s, burst: 9}\ngold: {rate: 9/s, burst: 90}")
        .limits("- {name: mine, key: client, rate: 1/h, burst: 1}")
        .routes(
            "
            - {name: a, path: /a, upstream: main}
            - {name: b, path: /b, upstream: main, limit: {rate: 1/d, burst: 1, key: route}}",
        )
        .start();
    for target in ["/a", "/a", "/b", "/b"] {
        gateway.client().get_with(target, &[("X-Client-ID", "vip")]);
    }
    assert_eq!(gateway.client().get_with("/b", &[("X-Client-ID", "x")]).status, 200);
    assert_eq!(gateway.client().get_with("/b", &[("X-Client-ID", "y")]).status, 429);
    let limited = |policy: &str, route: &str, tier: &str| {
        format!(
            "gateway_rate_limited_total{{policy=\"{policy}\",route=\"{route}\",tier=\"{tier}\"}}"
        )
    };
    gateway.series_once(&limited("mine", "a", "gold"), 1.0);
    gateway.series_once(&limited("mine", "b", "gold"), 2.0);
    gateway.series_once(&limited("route:b", "b", "free"), 1.0);
}

#[test]
fn attempts_tell_how_they_ended() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/500" => Answer::Bytes(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec()),
        "/501" => Answer::Bytes(b"HTTP/1.1 501 No\r\nContent-Length: 0\r\n\r\n".to_vec()),
        "/silent" => Answer::Silent,
        "/hangup" => Answer::Hangup,
        _ => ok("fine"),
    });
    let [nobody] = free_addresses();
    let gateway = Gateway::before(&upstream)
        .upstream("dead", nobody)
        .routes(
            "
            - {name: all, path: /, upstream: main}
            - {name: timed, path: /silent, upstream: main, timeout: 200ms}
            - {name: dead, path: /dead, upstream: dead}",
        )
        .start();
    for (target, status) in
        [("/", 200), ("/404", 200), ("/500", 500), ("/501", 501), ("/silent", 504), ("/dead", 502)]
    {
        assert_eq!(gateway.get(target).status, status, "{target}");
    }
    let attempts = |upstream: &str, outcome: &str| {
        format!("gateway_upstream_attempts_total{{outcome=\"{outcome}\",upstream=\"{upstream}\"}}")
    };
    gateway.series_once(&attempts("main", "ok"), 3.0);
    gateway.series_once(&attempts("main", "status_5xx"), 1.0);
    gateway.series_once(&attempts("main", "timeout"), 1.0);
    gateway.series_once(&attempts("dead", "connect"), 1.0);
    assert_eq!(gateway.client().post("/hangup", &[], b"x").status, 502);
    let series = gateway.series_once(&attempts("main", "reset"), 1.0);
    let outcomes = ["ok", "status_5xx", "connect", "timeout", "reset", "cancelled"];
    assert_eq!(series.of("gateway_upstream_attempts_total").len(), 2 * outcomes.len());
}

#[test]
fn requests_in_flight_are_seen_while_they_are() {
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
    let gateway = Gateway::before(&upstream).start();
    let mut clients: Vec<Client> = (0..3).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    }
    upstream.wait_for(3);
    gateway.series_once("gateway_inflight_requests{route=\"all\"}", 3.0);
    drop(clients.pop());
    gateway.series_once("gateway_inflight_requests{route=\"all\"}", 2.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    gateway.series_once("gateway_inflight_requests{route=\"all\"}", 0.0);
}

#[test]
fn what_never_became_a_request_counts_under_no_route() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let bad = [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "not HTTP at all\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "G\u{7f}T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for bytes in bad {
        let mut client = gateway.client();
        client.send(bytes);
        assert_eq!(client.reply().status, 400, "{bytes:?}");
    }
    gateway.series_once(MALFORMED, 5.0);
    let mut long = gateway.client();
    long.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9_000)));
    assert_eq!(long.reply().status, 414);
    gateway.series_once("gateway_requests_total{route=\"none\",status=\"414\"}", 1.0);
}

#[test]
fn nothing_that_clients_send_makes_a_new_series() {
    let upstream = Upstream::scripted(|head| match head.target().len() % 3 {
        0 => Answer::Bytes(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => ok("fine"),
    });
    let gateway = Gateway::before(&upstream)
        .clients("identify: [{header: X-Client-ID}, ip]")
        .routes(
            "
            - {name: all, path: /a, upstream: main}
            - {name: keyed, path: /k, upstream: main, methods: [GET],
               limit: {rate: 1/h, burst: 1, key: {header: X-Tenant}}}",
        )
        .start();
    let names = |series: &Series| -> BTreeSet<String> { series.names() };
    let ask = |index: usize| {
        let mut client = gateway.client();
        let (id, host, tenant) =
            (format!("c{index}"), format!("h{index}.example"), format!("t{}", index / 2));
        let headers = [("X-Client-ID", &*id), ("Host", &*host), ("X-Tenant", &*tenant)];
        client.get_with(&format!("/a/p{index}"), &headers);
        client.request(&format!("M{index}"), &format!("/a/{index}"), &headers, b"");
        client.get_with(&format!("/nowhere/{index}"), &headers);
        client.get_with("/k", &headers);
        client.request(&format!("N{index}"), "/k", &headers, b"");
    };
    // One of everything, so that all series are there which may be.
    for index in 0..30 {
        ask(index);
    }
    let count = "gateway_request_duration_seconds_count{route=\"none\"}";
    let before = names(&gateway.series_once(count, 60.0));
    for index in 30..1_030 {
        ask(index);
    }
    let after = names(&gateway.series_once(count, 2_060.0));
    let new: Vec<&String> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    assert!(after.len() < 200, "{}", after.len());
}
