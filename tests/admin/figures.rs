//! Whether the numbers add up.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Answer, Gateway, Upstream, free_addresses, ok, until};

/// The summary once it counts this many requests: a request is counted after its answer.
#[track_caller]
fn summary(gateway: &Gateway, total: u64) -> Value {
    until("all requests are counted", || {
        let summary = gateway.admin_get("/metrics/summary").json();
        (summary["total_requests"] == total).then_some(summary)
    })
}

#[test]
fn before_the_first_request_nothing_has_failed() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let summary = summary(&gateway, 0);
    for field in ["successful_requests", "blocked_requests", "failed_requests"] {
        assert_eq!(summary[field], 0, "{summary}");
    }
    assert_eq!(summary["success_rate_percent"].as_f64(), Some(100.0));
    assert_eq!(summary["average_response_time_seconds"].as_f64(), Some(0.0));
    let latency = gateway.admin_get("/metrics/latency").json();
    assert_eq!(
        (&latency["all"]["count"], &latency["routes"]["all"]["count"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn the_summary_tells_blocked_failed_and_successful_apart() {
    let upstream = Upstream::scripted(|head| {
        let status = head.target().trim_start_matches('/');
        Answer::Bytes(format!("HTTP/1.1 {status} S\r\nContent-Length: 0\r\n\r\n").into_bytes())
    });
    let [nobody] = free_addresses();
    let gateway = Gateway::before(&upstream)
        .upstream("dead", nobody)
        .routes(
            "
            - {name: all, path: /, upstream: main, cost: 0}
            - {name: dead, path: /dead, upstream: dead, cost: 0}
            - {name: limited, path: {exact: /200}, upstream: main, methods: [GET]}",
        )
        .tiers("free: {rate: 1/h, burst: 3}")
        .start();
    // Three admitted and two blocked.
    for _ in 0..5 {
        gateway.get("/200");
    }
    for (target, status) in [
        ("/404", 404),      // the upstream's own: successful
        ("/429", 429),      // the upstream's 429 is not ours: successful
        ("/503", 503),      // the upstream's 503 is not ours: failed
        ("/500", 500),      // failed
        ("/dead", 502),     // failed
        ("/200/../x", 400), // refused as bad: successful, for nothing failed here
    ] {
        assert_eq!(gateway.get(target).status, status, "{target}");
    }
    let summary = summary(&gateway, 11);
    assert_eq!(summary["blocked_requests"], 2, "{summary}");
    assert_eq!(summary["failed_requests"], 3, "{summary}");
    assert_eq!(summary["successful_requests"], 6, "{summary}");
    let rate = summary["success_rate_percent"].as_f64().unwrap();
    assert!((rate - 600.0 / 11.0).abs() < 1e-6, "{summary}");
    assert!(summary["average_response_time_seconds"].as_f64().unwrap() > 0.0, "{summary}");
}

#[test]
fn malformed_requests_are_part_of_the_total() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(client.reply().status, 400);
    assert_eq!(gateway.get("/").status, 200);
    summary(&gateway, 2);
}

#[test]
fn quantiles_are_within_one_percent_of_a_scripted_delay() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/slow" => Answer::After(Duration::from_millis(600), Box::new(ok("slow"))),
        _ => Answer::After(Duration::from_millis(200), Box::new(ok("quick"))),
    });
    let gateway = Gateway::before(&upstream)
        .routes(
            "
            - {name: timed, path: /, upstream: main}
            - {name: other, path: /other, upstream: main}",
        )
        .start();
    let mut client = gateway.client();
    let mut measured: Vec<f64> = (0..10)
        .map(|index| {
            let start = Instant::now();
            let target = if index == 4 { "/slow" } else { "/quick" };
            assert_eq!(client.get(target).status, 200);
            start.elapsed().as_secs_f64()
        })
        .collect();
    measured.sort_by(f64::total_cmp);
    let latency = until("all requests are counted", || {
        let latency = gateway.admin_get("/metrics/latency").json();
        (latency["routes"]["timed"]["count"] == 10).then_some(latency)
    });
    let timed = |name: &str| latency["routes"]["timed"][name].as_f64().expect("a number");
    // What the client measured holds what the gateway measured, and the delay is in both.
    for (name, least, most) in [
        ("p50", 0.2, measured[5]),
        ("p90", 0.2, measured[9]),
        ("p95", 0.6, measured[9]),
        ("p99", 0.6, measured[9]),
        ("p999", 0.6, measured[9]),
        ("max", 0.6, measured[9]),
    ] {
        let value = timed(name);
        assert!(
            (least * 0.99..=most * 1.01).contains(&value),
            "{name}: {value}, not {least}–{most}"
        );
    }
    assert!(timed("p90") < 0.6, "nine of ten were quick");
    assert_eq!(latency["routes"]["other"]["count"], 0, "each route has its own");
    assert_eq!(latency["all"], latency["routes"]["timed"]);
    let summary = gateway.admin_get("/metrics/summary").json();
    let average = summary["average_response_time_seconds"].as_f64().unwrap();
    let most = measured.iter().sum::<f64>() / 10.0;
    assert!((0.24..=most * 1.01).contains(&average), "{average}, not 0.24–{most}");
}
