//! What can be read: health, routes, limits, clients, metrics, configuration, pages.

use super::*;
use crate::policy::breaker::{BreakerPolicy, SlowCalls};
use crate::policy::retry::{RetryOn, RetryPolicy};
use crate::policy::share::Share;
use serde_json::json;
use std::sync::atomic::Ordering;

#[tokio::test]
async fn health_fails_only_before_the_listeners_are_open_and_readiness_also_while_draining() {
    let rig = Rig::starting(LISTEN, None);
    let cases = [
        (Stage::Starting, 503, "degraded", 503, json!({"ready": false, "reason": "starting"})),
        (Stage::Ready, 200, "ok", 200, json!({"ready": true})),
        (Stage::Draining, 200, "ok", 503, json!({"ready": false, "reason": "draining"})),
    ];
    for (stage, health, status, ready, body) in cases {
        rig.gateway.lifecycle.advance(stage);
        let answer = rig.get("/health").await;
        assert_eq!(answer.status, health, "{stage:?}");
        let json = answer.json();
        assert_eq!(json["status"], status, "{stage:?}");
        assert_eq!(json["redis"], "off");
        assert_eq!(json["upstreams"], json!({"users": {"healthy": 2, "total": 2}}));
        assert!(json["uptime_seconds"].is_u64());
        let answer = rig.get("/ready").await;
        assert_eq!((answer.status.as_u16(), answer.json()), (ready, body), "{stage:?}");
    }
}

#[tokio::test]
async fn routes_come_in_matching_order() {
    let routes = Rig::new().json("/routes").await;
    let names: Vec<&str> =
        routes.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "named-host",
            "longer-domain",
            "domain",
            "me",
            "a-user",
            "any-user",
            "users-get",
            "users",
            "everything"
        ]
    );
    assert_eq!(
        routes[7],
        json!({
            "name": "users", "hosts": [], "methods": [], "upstream": "users",
            "path": {"kind": "prefix", "value": "/api/users"},
            "cost": {"POST": 5, "default": 1},
            "limit": {"policy": "route:users", "key": "client", "rate": "10/d", "burst": 20,
                      "cost": "route"},
            "auth": "required", "timeout_seconds": 1.5, "max_body_bytes": 1_048_576,
            "strip_prefix": "/api", "retry": null, "circuit": "users", "breaker": null,
        })
    );
    assert_eq!(routes[1]["hosts"], json!(["*.eu.example.com"]));
    assert_eq!(routes[3]["path"], json!({"kind": "exact", "value": "/api/users/me"}));
    assert_eq!(routes[6]["methods"], json!(["GET"]));
    assert_eq!(routes[8]["cost"], 1);
    assert_eq!(routes[8]["limit"], Value::Null);
}

#[tokio::test]
async fn a_route_shows_what_it_does_about_a_failing_upstream() {
    let mut config = config();
    let (plain, full) = (1, 2);
    config.routes[plain].retry = Some(RetryPolicy::default());
    config.routes[plain].breaker = Some(BreakerPolicy::default());
    config.routes[full].retry = Some(RetryPolicy {
        attempts: 1,
        per_try_timeout_ns: Some(1_500_000_000),
        when: RetryOn { connect: false, timeout: true, reset: true, statuses: vec![429] },
        ..RetryPolicy::default()
    });
    config.routes[full].breaker = Some(BreakerPolicy {
        consecutive_failures: None,
        failure_ratio: Some(Share::from_percent(50)),
        slow_calls: Some(SlowCalls {
            longer_than_ns: 2_000_000_000,
            ratio: Share::from_percent(80),
        }),
        ..BreakerPolicy::default()
    });
    let routes = Rig::serving(config).json("/routes").await;
    assert_eq!((&routes[7]["name"], &routes[6]["name"]), (&json!("users"), &json!("users-get")));
    assert_eq!(
        routes[7]["retry"],
        json!({"attempts": 2, "per_try_timeout_seconds": null, "budget": 0.2,
               "backoff": {"base_seconds": 0.025, "max_seconds": 0.25},
               "when": ["connect", "timeout", 502, 503, 504]})
    );
    assert_eq!(
        routes[7]["breaker"],
        json!({"consecutive_failures": 5, "failure_ratio": null, "slow_call_seconds": null,
               "slow_ratio": null, "min_requests": 20, "window_seconds": 10.0,
               "cooldown_seconds": 30.0, "max_cooldown_seconds": 300.0, "probes": 3,
               "ramp_seconds": 5.0})
    );
    let retry = &routes[6]["retry"];
    assert_eq!((&retry["per_try_timeout_seconds"], &retry["attempts"]), (&json!(1.5), &json!(1)));
    assert_eq!(retry["when"], json!(["timeout", "reset", 429]));
    let breaker = &routes[6]["breaker"];
    assert_eq!(breaker["consecutive_failures"], Value::Null);
    assert_eq!((&breaker["failure_ratio"], &breaker["slow_ratio"]), (&json!(0.5), &json!(0.8)));
    assert_eq!(breaker["slow_call_seconds"], 2.0);
    assert_eq!(routes[6]["circuit"], "route:users-get");
}

#[tokio::test]
async fn limits_show_their_counts_and_the_table_its_occupancy() {
    let rig = Rig::new();
    let generation = rig.gateway.generation();
    generation.limits[0].allowed.store(3, Ordering::Relaxed);
    generation.tiers[2].limited.store(4, Ordering::Relaxed);
    rig.charge("tier", KeyKind::Header, "somebody", &per_day(1, 10), 1);

    let json = rig.json("/limits").await;
    let policies: Vec<_> =
        json["limits"].as_array().unwrap().iter().map(|l| l["policy"].clone()).collect();
    assert_eq!(policies, ["per-ip", "per-client", "whole", "by-key", "route:users"]);
    assert_eq!(
        json["limits"][0],
        json!({"policy": "per-ip", "key": "ip", "algorithm": "token_bucket", "rate": "10/d",
               "burst": 20, "cost": 1, "store": "local", "shadow": false, "allowed": 3,
               "limited": 0})
    );
    assert_eq!(json["limits"][3]["key"], json!({"header": "accept"}));
    assert_eq!(
        json["tiers"][2],
        json!({"name": "premium", "rate": "20/s", "burst": 200, "concurrency": null,
               "allowed": 0, "limited": 4})
    );
    assert_eq!(
        json["table"],
        json!({"slots": 1024, "used": 1, "occupancy": 1.0 / 1024.0, "overflowed": 0,
               "bytes": 16_384})
    );
    assert_eq!(json["store"], "local");
}

fn policies(client: &Value) -> Vec<&str> {
    client["limits"].as_array().unwrap().iter().map(|l| l["policy"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_unknown_client_has_the_default_tier_and_full_buckets_and_is_not_stored() {
    let rig = Rig::new();
    let client = rig.json("/clients/nobody").await;
    assert_eq!(client["client"], "nobody");
    assert_eq!(client["tier"], "free");
    assert_eq!(client["registered"], false);
    assert_eq!(policies(&client), ["tier", "per-client", "route:users"]);
    assert_eq!(
        client["limits"][0],
        json!({"policy": "tier", "tokens_remaining": 10, "capacity": 10, "refill_rate": 1.0,
               "retry_after_seconds": 0})
    );
    assert_eq!(rig.json("/limits").await["table"]["used"], 0);

    let known = rig.json("/clients/known-1").await;
    assert_eq!((&known["tier"], &known["registered"]), (&json!("premium"), &json!(true)));
}

#[tokio::test]
async fn of_a_clients_two_buckets_the_emptier_one_is_shown() {
    let rig = Rig::new();
    let bucket = per_day(10, 20);
    for (kind, cost, left) in [(KeyKind::Header, 3, 17), (KeyKind::ApiKey, 20, 0)] {
        rig.charge("per-client", kind, "c", &bucket, cost);
        let client = rig.json("/clients/c").await;
        assert_eq!(client["limits"][1]["tokens_remaining"], left, "{kind:?}");
    }
    let client = rig.json("/clients/c").await;
    // A token takes a tenth of a day to come back; a moment of it may have passed.
    let wait = client["limits"][1]["retry_after_seconds"].as_u64().unwrap();
    assert!((8_630..=8_640).contains(&wait), "{wait}");
    assert_eq!(client["limits"][0]["tokens_remaining"], 10, "another policy's bucket");
}

#[tokio::test]
async fn an_address_shows_what_counts_by_client_and_by_address() {
    let rig = Rig::new();
    rig.charge("per-ip", KeyKind::Ip, "2001:db8:1:2::", &per_day(10, 20), 5);
    let cases = [
        ("203.0.113.7", "203.0.113.7", 20),
        ("::ffff:203.0.113.7", "203.0.113.7", 20),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", 15),
        ("2001%3Adb8%3A1%3A2%3A%3A9", "2001:db8:1:2::", 15),
    ];
    for (ip, name, left) in cases {
        let client = rig.json(&format!("/clients?ip={ip}")).await;
        assert_eq!(client["client"], name);
        assert_eq!(client["tier"], "free");
        assert_eq!(policies(&client), ["tier", "per-ip", "per-client", "route:users"]);
        assert_eq!(client["limits"][1]["tokens_remaining"], left, "{ip}");
    }
}

#[tokio::test]
async fn a_query_for_a_client_that_names_no_address_is_refused() {
    let rig = Rig::new();
    let cases = [
        ("/clients?ip=", "ip"),
        ("/clients?ip=localhost", "ip"),
        ("/clients?ip=10.0.0.0/8", "ip"),
        ("/clients?ip=10.0.0.1&ip=10.0.0.2", "ip"),
        ("/clients?ip=%ff", "ip"),
        ("/clients?ip=10.0.0.1&page=2", "page"),
        ("/clients?ip=10.0.0.1&limit=2", "limit"),
        ("/clients?page=2", "page"),
        ("/clients?limit=0", "limit"),
        ("/clients?limit=1001", "limit"),
        ("/clients?prefix=a&prefix=b", "prefix"),
    ];
    for (target, field) in cases {
        let answer = rig.get(target).await;
        assert_eq!(answer.status, 400, "{target}");
        assert_eq!(answer.problem().0.as_deref(), Some(field), "{target}");
    }
}

#[tokio::test]
async fn the_summary_tells_blocked_from_failed() {
    let rig = Rig::new();
    let expected = |total: u64, good: u64, blocked: u64, failed: u64, rate: f64| {
        json!({"total_requests": total, "successful_requests": good,
               "blocked_requests": blocked, "failed_requests": failed,
               "average_response_time_seconds": if total == 0 { 0.0 } else { 0.5 },
               "success_rate_percent": rate})
    };
    assert_eq!(rig.json("/metrics/summary").await, expected(0, 0, 0, 0, 100.0));

    let generation = rig.gateway.generation();
    let half = Duration::from_millis(500);
    // Two good, one of them a 429 that the upstream gave; our own 429 and 503; two of the
    // upstream's 5xx; a 404 that no route took.
    for status in [200, 429, 429, 503, 502, 503] {
        generation.routes[1].metrics.finish(status, half);
    }
    generation.no_route.finish(404, half);
    generation.count_refusal(&rig.gateway.metrics, crate::policy::router::RouteId(1), 0, 0);
    rig.gateway.metrics.blocked.store(2, Ordering::Relaxed);
    assert_eq!(rig.json("/metrics/summary").await, expected(7, 3, 2, 2, 300.0 / 7.0));
}

#[tokio::test]
async fn latency_quantiles_are_within_one_percent_and_the_longest_is_exact() {
    let rig = Rig::new();
    let zero = json!({"count": 0, "p50": 0.0, "p90": 0.0, "p95": 0.0, "p99": 0.0, "p999": 0.0,
                      "max": 0.0});
    let empty = rig.json("/metrics/latency").await;
    assert_eq!(empty["all"], zero);
    assert_eq!(empty["routes"]["users"], zero);
    assert_eq!(empty["routes"].get("none"), None);

    let generation = rig.gateway.generation();
    for ms in 1..=1_000 {
        generation.routes[1].metrics.finish(200, Duration::from_millis(ms));
    }
    generation.no_route.finish(404, Duration::from_secs(7_200));
    let report = rig.json("/metrics/latency").await;
    let users = &report["routes"]["users"];
    assert_eq!(users["count"], 1_000);
    assert_eq!(users["max"], 1.0);
    let quantiles = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999)];
    for (name, exact) in quantiles {
        let shown = users[name].as_f64().unwrap();
        assert!((exact..=exact * 1.01).contains(&shown), "{name}: {shown}");
    }
    assert_eq!(report["routes"]["none"]["max"], 7_200.0);
    assert_eq!(report["all"]["count"], 1_001);
    assert_eq!(report["all"]["max"], 7_200.0);
}

#[tokio::test]
async fn metrics_are_prometheus_text_of_the_given_registry() {
    let rig = Rig::new();
    rig.gateway.generation().routes[1].metrics.finish(200, Duration::from_millis(1));
    let answer = rig.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4");
    let text = std::str::from_utf8(&answer.body).unwrap();
    assert!(text.contains("gateway_requests_total{route=\"users\",status=\"200\"} 1\n"), "{text}");
}

#[tokio::test]
async fn the_configuration_is_an_object() {
    assert!(Rig::new().json("/config").await.is_object());
}

#[tokio::test]
async fn what_is_not_there_is_a_problem_and_a_wrong_method_is_told_the_right_ones() {
    let rig = Rig::new();
    let absent = [
        "/",
        "/nothing",
        "/clients/",
        "/clients/a/b",
        "/health/",
        "/%68ealth",
        "/circuit-breakers/",
        "/upstreams/users",
        "/explained",
        "/block",
        "/config/history/",
        "/docs/nothing",
        "/docs/../etc/passwd",
        "/openapi.yaml",
    ];
    for target in absent {
        let answer = rig.get(target).await;
        assert_eq!(answer.status, 404, "{target}");
        answer.problem();
    }
    let cases = [
        (Method::POST, "/health", "GET,HEAD"),
        (Method::OPTIONS, "/clients/a/tier", "PUT,POST,DELETE"),
        (Method::GET, "/clients/a/limit", "PUT,DELETE"),
        (Method::DELETE, "/docs/", "GET,HEAD"),
        (Method::GET, "/reload", "POST"),
        (Method::GET, "/upgrade", "POST"),
        (Method::PUT, "/block", ""),
    ];
    for (method, target, allow) in cases {
        let answer = rig.send(method.clone(), target, &[("host", "localhost")], "").await;
        let status = if allow.is_empty() { 404 } else { 405 };
        assert_eq!(answer.status, status, "{method} {target}");
        answer.problem();
        let mut allowed: Vec<_> = answer.header("allow").split(',').collect();
        let mut expected: Vec<_> = allow.split(',').collect();
        allowed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{method} {target}");
    }
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_own_request_only() {
    let rig = Rig::new();
    let panicking = Router::new()
        .route("/", axum::routing::get(|| async { panic!("a bug") as Problem }))
        .layer(axum::middleware::from_fn(crate::admin::shield));
    let rig = Rig { router: panicking, ..rig };
    for _ in 0..2 {
        let answer = rig.get("/").await;
        assert_eq!(answer.status, 500);
        answer.problem();
    }
}

type Problem = crate::admin::problem::Problem;
