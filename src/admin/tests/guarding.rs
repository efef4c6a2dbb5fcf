//! Who is let in: the token, Host and Origin.

use super::*;

const TIER: &str = r#"{"tier":"free"}"#;

#[tokio::test]
async fn with_a_token_everything_but_health_ready_and_metrics_needs_it() {
    let rig = Rig::with(LISTEN, Some("s3cret"));
    let open = ["/health", "/ready", "/metrics"];
    let guarded = [
        "/",
        "/routes",
        "/limits",
        "/clients/a",
        "/clients?ip=::1",
        "/config",
        "/metrics/summary",
        "/metrics/latency",
        "/circuit-breakers",
        "/upstreams",
        "/metrics/",
        "/openapi.json",
        "/docs",
        "/docs/",
        "/docs/swagger-ui.css",
        "/nothing",
        "/%6detrics",
    ];
    for target in open {
        assert_eq!(rig.get(target).await.status, 200, "{target}");
    }
    for target in guarded {
        let answer = rig.get(target).await;
        assert_eq!(answer.status, 401, "{target}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        answer.problem();
    }
}

#[tokio::test]
async fn only_the_whole_token_in_one_bearer_header_opens() {
    let rig = Rig::with(LISTEN, Some("s3cret"));
    let cases = [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        ("BEARER  s3cret ", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3crett", 401),
        ("Bearer S3CRET", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        ("Basic s3cret", 401),
        ("s3cret", 401),
        ("", 401),
    ];
    for (value, status) in cases {
        let answer = rig.send(Method::GET, "/routes", &[("authorization", value)], "").await;
        assert_eq!(answer.status, status, "{value:?}");
    }
    let twice = [("authorization", "Bearer s3cret"), ("authorization", "Bearer x")];
    assert_eq!(rig.send(Method::GET, "/routes", &twice, "").await.status, 401);
    let write = [("host", LISTEN), ("content-type", "application/json")];
    assert_eq!(rig.send(Method::PUT, "/clients/a/tier", &write, TIER).await.status, 401);
}

#[tokio::test]
async fn a_change_must_be_addressed_to_the_listener_or_to_loopback() {
    let loopback = [
        "127.0.0.1:9901",
        "127.0.0.1",
        "localhost",
        "LocalHost:81",
        "[::1]:9901",
        "[::1]",
        "127.9.9.9:1",
        "[::ffff:127.0.0.1]",
    ];
    let foreign = [
        "example.com",
        "example.com:9901",
        "localhost.example.com",
        "127.0.0.1.nip.io",
        "localhost:x",
        "localhost:99999",
        "user@localhost",
        "user@localhost:9901",
        "",
        "0x7f.1",
    ];
    // (listener, further hosts of its own, further foreign hosts)
    let cases = [
        ("127.0.0.1:9901", &[][..], &["192.0.2.1:9901", "0.0.0.0:9901", "[::2]:9901"][..]),
        ("192.0.2.1:9901", &["192.0.2.1:9901", "192.0.2.1"], &["192.0.2.2:9901", "[::2]"]),
        ("0.0.0.0:9901", &["192.0.2.9:9901", "[2001:db8::1]"], &["gateway:9901"]),
    ];
    for (listen, own, others) in cases {
        let rig = Rig::with(listen, None);
        let good = loopback.iter().chain(own).map(|host| (*host, 200));
        let bad = foreign.iter().chain(others).map(|host| (*host, 403));
        for (host, status) in good.chain(bad) {
            let headers = [("host", host), ("content-type", "application/json")];
            let answer = rig.send(Method::PUT, "/clients/a/tier", &headers, TIER).await;
            assert_eq!(answer.status, status, "{listen} {host:?}");
            assert_eq!(rig.send(Method::GET, "/routes", &headers, "").await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_change_without_a_host_with_two_or_with_another_in_its_target_is_refused() {
    let rig = Rig::new();
    let cases = [
        ("/clients/a/tier", &[][..], 403),
        ("/clients/a/tier", &[LISTEN, LISTEN][..], 403),
        ("http://evil.example/clients/a/tier", &[LISTEN][..], 403),
        ("http://127.0.0.1:9901/clients/a/tier", &[LISTEN][..], 200),
    ];
    for (target, hosts, status) in cases {
        let hosts = hosts.iter().map(|host| ("host", *host));
        let headers: Vec<_> = hosts.chain([("content-type", "application/json")]).collect();
        let answer = rig.send(Method::PUT, target, &headers, TIER).await;
        assert_eq!(answer.status, status, "{target} {headers:?}");
    }
}

#[tokio::test]
async fn a_change_that_a_foreign_page_asks_for_is_refused() {
    let rig = Rig::new();
    let cases = [
        ("127.0.0.1:9901", "http://127.0.0.1:9901", 200),
        ("localhost:9901", "http://localhost:9901", 200),
        ("localhost:9901", "http://127.0.0.1:9901", 200),
        ("localhost:19901", "https://localhost:19901", 200),
        ("127.0.0.1:9901", "http://127.0.0.1:3000", 403),
        ("127.0.0.1:9901", "http://localhost", 403),
        ("127.0.0.1:9901", "https://example.com", 403),
        ("127.0.0.1:9901", "http://example.com:9901", 403),
        ("127.0.0.1:9901", "null", 403),
        ("127.0.0.1:9901", "", 403),
        ("127.0.0.1:9901", "file://", 403),
        ("127.0.0.1:9901", "http://127.0.0.1:9901/page", 403),
    ];
    for (host, origin, status) in cases {
        let headers = [("host", host), ("origin", origin), ("content-type", "application/json")];
        for (method, target, body) in [
            (Method::PUT, "/clients/a/tier", TIER),
            (Method::POST, "/clients/a/tier", TIER),
            (Method::DELETE, "/clients/a/limit", ""),
        ] {
            let answer = rig.send(method.clone(), target, &headers, body).await;
            assert_eq!(answer.status, status, "{method} {host} {origin:?}");
        }
        assert_eq!(rig.send(Method::GET, "/routes", &headers, "").await.status, 200);
    }
}
