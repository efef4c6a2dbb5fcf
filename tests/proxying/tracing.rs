//! One trace id from the client to the upstream and back.

use crate::support::{Answer, Gateway, Upstream, free_addresses, ok};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn every_answer_carries_a_trace_id() {
    let [nobody] = free_addresses();
    let upstream = Upstream::scripted(|head| match head.target() {
        "/late" => Answer::Silent,
        _ => ok("fine"),
    });
    let gateway = Gateway::before(&upstream)
        .upstream("gone", nobody)
        .clients("{identify: [api_key, ip], default_tier: free}")
        .routes(
            "
            - {name: fine, path: /fine, upstream: main, methods: [GET]}
            - {name: small, path: /small, upstream: main, max_body: 1KiB}
            - {name: late, path: /late, upstream: main, timeout: 200ms}
            - {name: gone, path: /gone, upstream: gone}
            - {name: private, path: /private, upstream: main, auth: required}
            - {name: limited, path: /limited, upstream: main, limit: {rate: 1/d, burst: 1}}
            ",
        )
        .start();
    assert_eq!(gateway.get("/limited").status, 200);
    let mut ids = Vec::new();
    for (method, path, status) in [
        ("GET", "/fine", 200),
        ("GET", "/a/../b", 400),
        ("GET", "/private", 401),
        ("GET", "/nowhere", 404),
        ("POST", "/fine", 405),
        ("POST", "/small", 413),
        ("GET", "/limited", 429),
        ("GET", "/gone", 502),
        ("GET", "/late", 504),
    ] {
        let body = if status == 413 { vec![b'b'; 1025] } else { Vec::new() };
        let reply = gateway.client().request(method, path, &[], &body);
        assert_eq!(reply.status, status, "{method} {path}");
        let id = reply.header("X-Trace-ID").unwrap_or_else(|| panic!("{status} without trace id"));
        assert!(id.len() >= 16 && id.chars().all(|char| char.is_ascii_graphic()), "{id}");
        ids.push(id.to_owned());
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 9, "each request has its own: {ids:?}");
}

#[test]
fn the_upstream_sees_the_trace_id_the_client_gets() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let reply = gateway.get("/");
    assert!(reply.header("X-Trace-ID").is_some());
    assert_eq!(upstream.last().head.header("X-Trace-ID"), reply.header("X-Trace-ID"));
}

#[test]
fn a_trace_id_that_is_sent_is_kept() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for id in ["4bf92f3577b34da6a3ce929d0e0e4736", "order-4711", "a.b_c-d"] {
        let reply = client.get_with("/", &[("X-Trace-ID", id)]);
        assert_eq!(reply.header("X-Trace-ID"), Some(id));
        assert_eq!(upstream.last().head.header("X-Trace-ID"), Some(id));
    }
    let refused = client.get_with("/a/../b", &[("X-Trace-ID", "order-4711")]);
    assert_eq!(refused.header("X-Trace-ID"), Some("order-4711"));
    assert_eq!(refused.json()["trace_id"], "order-4711");
}

#[test]
fn a_traceparent_is_passed_as_it_came_and_names_the_trace() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let sent = [("traceparent", TRACEPARENT), ("tracestate", "vendor=value")];
    let reply = gateway.client().get_with("/", &sent);
    let seen = upstream.last().head;
    assert_eq!(seen.header("traceparent"), Some(TRACEPARENT));
    assert_eq!(seen.header("tracestate"), Some("vendor=value"));
    assert_eq!(reply.header("X-Trace-ID"), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
}

#[test]
fn an_upstream_that_sets_the_trace_id_does_not_double_it() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Trace-ID: upstream\r\n\r\nok".to_vec();
    let upstream = Upstream::answering(Answer::Bytes(answer));
    let gateway = Gateway::before(&upstream).start();
    let reply = gateway.client().get_with("/", &[("X-Trace-ID", "mine")]);
    assert_eq!(reply.header("X-Trace-ID"), Some("mine"), "the one it was asked under");
}

#[test]
fn a_trace_id_of_absurd_length_is_not_repeated() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let long = "t".repeat(5000);
    let reply = gateway.client().get_with("/", &[("X-Trace-ID", &long)]);
    assert_eq!(reply.status, 200);
    assert!(reply.header("X-Trace-ID").is_some_and(|id| id.len() <= 256));
}
