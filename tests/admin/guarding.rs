//! Tokens, hosts and origins.

use crate::support::{Gateway, Reply, Upstream};

const TOKEN: &str = "correct-horse-battery";

/// Everything that can be read, and whether it needs the token.
const READABLE: [(&str, bool); 15] = [
    ("/health", false),
    ("/ready", false),
    ("/metrics", false),
    ("/routes", true),
    ("/limits", true),
    ("/clients/c", true),
    ("/clients?ip=127.0.0.1", true),
    ("/circuit-breakers", true),
    ("/upstreams", true),
    ("/metrics/summary", true),
    ("/metrics/latency", true),
    ("/config", true),
    ("/openapi.json", true),
    ("/docs/", true),
    ("/nothing-here", true),
];

#[track_caller]
fn assert_problem(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = reply.json();
    assert_eq!(problem["status"], status);
    for member in ["type", "title", "detail"] {
        assert!(problem[member].is_string(), "{problem}");
    }
}

fn guarded(upstream: &Upstream) -> Gateway {
    Gateway::before(upstream)
        .clients("identify: [{header: X-Client-ID}, ip]")
        .tiers("free: {rate: 1/h, burst: 2}\ngold: {rate: 1/h, burst: 9}")
        .admin(&format!("token: {TOKEN}"))
        .start()
}

#[test]
fn what_orchestrators_and_scrapers_ask_needs_no_token_and_all_else_does() {
    let upstream = Upstream::new();
    let gateway = guarded(&upstream);
    let bearer = format!("Bearer {TOKEN}");
    for (target, needs_token) in READABLE {
        let without = gateway.admin_get(target);
        let with = gateway.admin_request("GET", target, &[("Authorization", &bearer)], "");
        if needs_token {
            assert_problem(&without, 401);
            assert!(without.header("www-authenticate").unwrap().starts_with("Bearer"));
            assert_ne!(with.status, 401, "{target}");
        } else {
            assert_eq!((without.status, with.status), (200, 200), "{target}");
        }
    }
}

#[test]
fn a_wrong_token_is_no_token() {
    let upstream = Upstream::new();
    let gateway = guarded(&upstream);
    let wrong = [
        "Bearer ".to_owned(),
        "Bearer wrong".to_owned(),
        format!("Bearer {TOKEN}x"),
        format!("Bearer {}", &TOKEN[..TOKEN.len() - 1]),
        format!("Bearer {}", TOKEN.to_uppercase()),
        format!("Basic {TOKEN}"),
        TOKEN.to_owned(),
        format!("Bearer {}", "x".repeat(8_000)),
    ];
    for value in &wrong {
        let reply = gateway.admin_request("GET", "/routes", &[("Authorization", value)], "");
        assert_problem(&reply, 401);
        assert!(!reply.text().contains(TOKEN));
    }
    let twice = [("Authorization", "Bearer wrong"), ("Authorization", &*format!("Bearer {TOKEN}"))];
    assert_problem(&gateway.admin_request("GET", "/routes", &twice, ""), 401);
    let scheme = [("authorization", &*format!("bearer {TOKEN}"))];
    assert_eq!(gateway.admin_request("GET", "/routes", &scheme, "").status, 200);
    assert_problem(&gateway.admin_get(&format!("/routes?token={TOKEN}")), 401);
}

#[test]
fn changes_need_the_token_as_well() {
    let upstream = Upstream::new();
    let gateway = guarded(&upstream);
    for (method, target, body) in [
        ("PUT", "/clients/c/tier", r#"{"tier":"gold"}"#),
        ("POST", "/clients/c/tier", r#"{"tier":"gold"}"#),
        ("PUT", "/clients/c/limit", r#"{"capacity":5,"refill_rate":1}"#),
        ("DELETE", "/clients/c/limit", ""),
    ] {
        assert_problem(&gateway.admin_request(method, target, &[], body), 401);
    }
    let bearer = format!("Bearer {TOKEN}");
    let shown = gateway.admin_request("GET", "/clients/c", &[("Authorization", &bearer)], "");
    assert_eq!(shown.json()["tier"], "free", "nothing changed");
    let put = gateway.admin_request(
        "PUT",
        "/clients/c/tier",
        &[("Authorization", &bearer)],
        r#"{"tier":"gold"}"#,
    );
    assert_eq!(put.json()["tier"], "gold");
}

#[test]
fn a_change_sent_to_a_name_that_is_not_ours_is_refused() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 1/s, burst: 2}").start();
    let port = gateway.admin.port();
    let put = |host: &str| {
        let body = r#"{"tier":"free"}"#;
        gateway.admin_request("PUT", "/clients/c/tier", &[("Host", host)], body)
    };
    for host in ["evil.example", "localhost.evil.example", "10.1.2.3", "127.0.0.1.evil.example"] {
        assert_problem(&put(host), 403);
        assert_problem(&put(&format!("{host}:{port}")), 403);
    }
    for host in ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"] {
        assert_eq!(put(&format!("{host}:{port}")).status, 200, "{host}");
    }
    let read = gateway.admin_request("GET", "/health", &[("Host", "gateway.internal")], "");
    assert_eq!(read.status, 200, "reading is open to whatever name the operator uses");
}

#[test]
fn a_change_asked_for_by_a_foreign_page_is_refused() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 1/s, burst: 2}").start();
    let own = format!("http://{}", gateway.admin);
    let put = |origin: &str| {
        let body = r#"{"tier":"free"}"#;
        gateway.admin_request("PUT", "/clients/c/tier", &[("Origin", origin)], body)
    };
    let other_port = format!("http://127.0.0.1:{}", gateway.data.port());
    for origin in ["http://evil.example", "https://localhost.evil.example", "null", "", &other_port]
    {
        assert_problem(&put(origin), 403);
    }
    assert_eq!(put(&own).status, 200);
    let delete = gateway.admin_request(
        "DELETE",
        "/clients/c/limit",
        &[("Origin", "http://evil.example")],
        "",
    );
    assert_problem(&delete, 403);
}

#[test]
fn circuits_and_servers_are_guarded_like_clients() {
    let upstream = Upstream::new();
    let gateway = guarded(&upstream);
    let bearer = format!("Bearer {TOKEN}");
    let token = ("Authorization", &*bearer);
    let drain = format!("/upstreams/main/servers/{}", upstream.address());
    let changes = [
        ("POST", "/circuit-breakers/main", r#"{"force":"open"}"#),
        ("PUT", &drain, r#"{"state":"drain"}"#),
    ];
    for (method, target, body) in changes {
        for (status, headers) in [
            (401, &[][..]),
            (403, &[token, ("Origin", "http://evil.example")]),
            (403, &[token, ("Origin", "null")]),
            (403, &[token, ("Host", "evil.example")]),
            (415, &[token, ("Content-Type", "text/plain")]),
            (415, &[token, ("Content-Type", "application/x-www-form-urlencoded")]),
        ] {
            assert_problem(&gateway.admin_request(method, target, headers, body), status);
        }
    }
    assert_eq!(gateway.get("/").status, 200, "nothing changed");
    for (method, target, body) in changes {
        let reply = gateway.admin_request(method, target, &[token], body);
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    }
    assert_eq!(gateway.get("/").status, 503);
}

#[test]
fn no_answer_may_be_stored_or_taken_for_something_else() {
    let upstream = Upstream::new();
    let gateway = guarded(&upstream);
    for (target, _) in READABLE {
        let reply = gateway.admin_get(target);
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{target}");
        assert_eq!(reply.header("access-control-allow-origin"), None, "{target}");
    }
}
