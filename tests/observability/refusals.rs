//! Every refusal has its reason in the access log: the end of its problem's type.

use serde_json::Value;

use crate::access_log::Log;
use crate::support::{Answer, Client, Gate, Gateway, Reply, Upstream, fault, free_addresses, ok};

const KEY: &str = "not-a-key-that-anybody-has";

fn gateway(upstream: &Upstream, log: &Log) -> Gateway {
    let [nobody] = free_addresses();
    let address = upstream.address();
    Gateway::builder()
        .server(&format!("{}\nmax_uri: 200\nmax_headers: 10", log.yaml()))
        .clients("identify: [api_key, {header: X-Client-ID}, ip]\nknown: {one: {tier: narrow}}")
        .tiers(
            "free: {rate: 1000/s, burst: 1000}\n\
             narrow: {rate: 1000/s, burst: 1000, concurrency: 1}",
        )
        .upstreams(&format!(
            "main: {{servers: [\"{address}\"], ejection: none, timeouts: {{read: 1s}}}}\n\
             dead: {{servers: [\"{nobody}\"]}}\n\
             open: {{servers: [\"{address}\"], breaker: {{consecutive_failures: 1}}}}\n\
             nowhere: {{servers: [\"nowhere.invalid:80\"]}}\n\
             narrow: {{servers: [\"{address}\"], concurrency: {{max: 1}}}}"
        ))
        .routes(
            "
            - {name: main, path: /main, upstream: main, max_body: 10}
            - {name: get, path: /get, upstream: main, methods: [GET]}
            - {name: keyed, path: /keyed, upstream: main, auth: required}
            - {name: limited, path: /limited, upstream: main, limit: {rate: 1/d, burst: 1, key: route}}
            - {name: tried, path: /tried, upstream: main, retry: {attempts: 0, per_try_timeout: 500ms}}
            - {name: timed, path: /timed, upstream: main, timeout: 500ms}
            - {name: dead, path: /dead, upstream: dead}
            - {name: open, path: /open, upstream: open}
            - {name: nowhere, path: /nowhere, upstream: nowhere}
            - {name: narrow, path: /narrow, upstream: narrow}",
        )
        .start()
}

/// Checks that the problem is of this type and that the log names it.
#[track_caller]
fn assert_told(log: &Log, reply: &Reply, reason: &str) {
    let problem = reply.json();
    assert_eq!(problem["type"], format!("urn:tollgate:problem:{reason}"), "{problem}");
    let entry = log.entry_of(problem["trace_id"].as_str().unwrap());
    assert_eq!(entry["refusal"], reason, "{entry}");
    assert_eq!(entry["status"], reply.status, "{entry}");
    let is_limit = reason == "rate-limited";
    assert_eq!(entry.get("limited_by").is_some(), is_limit, "{entry}");
}

#[test]
fn what_is_refused_before_an_upstream_is_asked() {
    let log = Log::new();
    let upstream = Upstream::answering(fault::status(500));
    let gateway = gateway(&upstream, &log);
    let get = |target: &str, headers: &str| {
        let mut client = gateway.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
        client.reply()
    };
    let long = format!("/{}", "x".repeat(300));
    let many: String = (0..20).map(|n| format!("X-{n}: y\r\n")).collect();
    let key = format!("X-API-Key: {KEY}\r\n");
    let none = String::new();
    for (target, headers, status, reason) in [
        ("/main", &"Host: b\r\n".to_owned(), 400, "malformed-request"),
        (&long, &none, 414, "target-too-long"),
        ("/main", &many, 431, "head-too-large"),
        ("/main/../x", &none, 400, "ambiguous-path"),
        ("/main", &"Connection: X-Forwarded-For\r\n".to_owned(), 400, "malformed-request"),
        ("/main", &"Via: 1.1 tollgate\r\n".to_owned(), 508, "loop"),
        ("/elsewhere", &none, 404, "no-route"),
        ("/main", &"Content-Length: 11\r\n".to_owned(), 413, "body-too-large"),
        ("/keyed", &none, 401, "api-key-required"),
        ("/main", &key, 401, "unknown-api-key"),
        ("/nowhere", &none, 503, "no-server"),
    ] {
        let reply = get(target, headers);
        assert_eq!(reply.status, status, "{target} {headers}: {}", reply.text());
        assert_told(&log, &reply, reason);
    }
    let post = gateway.client().post("/get", &[], b"x");
    assert_told(&log, &post, "method-not-allowed");
    assert_eq!(get("/limited", "").status, 500);
    let limited = get("/limited", "");
    assert_eq!(limited.status, 429);
    assert_told(&log, &limited, "rate-limited");
    assert_eq!(get("/open", "").status, 500);
    let open = get("/open", "");
    assert_eq!(open.status, 503);
    assert_told(&log, &open, "circuit-open");
    let entry = log.entry_of(open.json()["trace_id"].as_str().unwrap());
    assert_eq!((&entry["attempts"], entry.get("tries")), (&0.into(), None), "{entry}");
    assert_eq!(entry["upstream"], Value::Null, "nobody was asked: {entry}");
}

#[test]
fn what_is_refused_for_want_of_a_place() {
    let log = Log::new();
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
    let gateway = gateway(&upstream, &log);
    for (target, reason) in [("/main", "client-concurrency"), ("/narrow", "upstream-saturated")] {
        let narrow = [("X-Client-ID", "one"), ("Host", "a")];
        let headers = if target == "/main" { &narrow[..] } else { &narrow[1..] };
        let asked = upstream.attempts();
        let mut first: Client = gateway.client();
        let lines: String = headers.iter().map(|(k, v)| format!("{k}: {v}\r\n")).collect();
        first.send(format!("GET {target} HTTP/1.1\r\n{lines}\r\n"));
        upstream.wait_for(asked + 1);
        let reply = gateway.client().get_with(target, headers);
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")), "{target}");
        assert_told(&log, &reply, reason);
    }
    gate.open();
}

#[test]
fn what_is_refused_after_an_attempt() {
    let log = Log::new();
    let upstream = Upstream::scripted(|head| match head.target() {
        "/main/reset" => fault::reset(),
        "/main/invalid" => Answer::Last(b"SMTP 220 hello\r\n\r\n".to_vec()),
        _ => fault::silent(),
    });
    let gateway = gateway(&upstream, &log);
    for (target, status, reason) in [
        ("/dead", 502, "connect-failed"),
        ("/main/reset", 502, "upstream-reset"),
        ("/main/invalid", 502, "upstream-invalid"),
        ("/main/silent", 504, "read-timeout"),
        ("/tried", 504, "attempt-timeout"),
        ("/timed", 504, "request-timeout"),
    ] {
        let reply = gateway.get(target);
        assert_eq!(reply.status, status, "{target}: {}", reply.text());
        assert_told(&log, &reply, reason);
    }
    let mut slow = gateway.client();
    slow.send("POST /timed HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx");
    let reply = slow.reply();
    assert_eq!(reply.status, 408, "{}", reply.text());
    assert_told(&log, &reply, "client-timeout");
    let mut broken = gateway.client();
    broken.send("POST /main HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n");
    let reply = broken.reply();
    assert_eq!(reply.status, 400, "{}", reply.text());
    assert_told(&log, &reply, "malformed-request");
}
