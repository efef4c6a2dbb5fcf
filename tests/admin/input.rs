//! Bad input: a clear 4xx that names the field, and nothing changed.

use serde_json::{Value, json};

use crate::support::{Client, End, Gateway, Reply, Upstream};

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::before(upstream)
        .clients("identify: [{header: X-Client-ID}, ip]")
        .tiers("free: {rate: 1/h, burst: 2}\ngold: {rate: 1/h, burst: 9}")
        .start()
}

#[track_caller]
fn assert_problem(reply: &Reply, status: u16) -> Value {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = reply.json();
    assert_eq!(problem["status"], status);
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }
    problem
}

#[track_caller]
fn assert_unchanged(gateway: &Gateway) {
    let client = gateway.admin_get("/clients/c").json();
    assert_eq!((&client["tier"], &client["registered"]), (&json!("free"), &json!(false)));
    assert_eq!(client["limits"][0]["capacity"], 2);
}

#[test]
fn a_wrong_tier_is_named_and_nothing_changes() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    for body in [
        r#"{"tier":"platinum"}"#,
        r#"{"tier":""}"#,
        r#"{"tier":1}"#,
        r#"{"tier":null}"#,
        r#"{"tier":["gold"]}"#,
        r#"{}"#,
        r#"{"tier":" gold"}"#,
    ] {
        let problem = assert_problem(&gateway.admin_put("/clients/c/tier", body), 400);
        assert_eq!(problem["field"], "tier", "{body}");
    }
    let unknown = gateway.admin_put("/clients/c/tier", r#"{"tier":"platinum"}"#);
    let detail = unknown.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("free") && detail.contains("gold"), "what would be right: {detail}");
    let extra = gateway.admin_put("/clients/c/tier", r#"{"tier":"gold","teir":"gold"}"#);
    assert_eq!(assert_problem(&extra, 400)["field"], "teir");
    assert_unchanged(&gateway);
}

#[test]
fn a_wrong_limit_is_named_and_nothing_changes() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    for (capacity, rate, field) in [
        ("0", "1", "capacity"),
        ("-1", "1", "capacity"),
        ("1.5", "1", "capacity"),
        ("\"50\"", "1", "capacity"),
        ("18446744073709551616", "1", "capacity"),
        ("9007199254740993", "1", "capacity"),
        ("1e400", "1", ""),
        ("50", "0", "refill_rate"),
        ("50", "-1", "refill_rate"),
        ("50", "\"fast\"", "refill_rate"),
        ("50", "1e300", "refill_rate"),
        ("50", "1e-300", "refill_rate"),
        ("50", "NaN", ""),
        ("50", "null", "refill_rate"),
        ("9007199254740992", "0.0001", "capacity"),
    ] {
        let body = format!("{{\"capacity\":{capacity},\"refill_rate\":{rate}}}");
        let problem = assert_problem(&gateway.admin_put("/clients/c/limit", &body), 400);
        if !field.is_empty() {
            assert_eq!(problem["field"], field, "{body}");
        }
    }
    for (body, field) in
        [(r#"{"capacity":5}"#, "refill_rate"), (r#"{"refill_rate":5}"#, "capacity")]
    {
        let problem = assert_problem(&gateway.admin_put("/clients/c/limit", body), 400);
        assert_eq!(problem["field"], field);
    }
    assert_unchanged(&gateway);
}

#[test]
fn what_is_not_a_json_object_is_refused() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let deep = "[".repeat(60_000);
    let bodies = [
        "{",
        "[]",
        "\"gold\"",
        "tier=gold",
        "{\"tier\":\"gold\",\"tier\":\"free\"}",
        "\u{1}",
        &deep,
    ];
    for body in bodies {
        let shown: String = body.chars().take(40).collect();
        assert_eq!(gateway.admin_put("/clients/c/tier", body).status, 400, "{shown}");
    }
    assert_problem(&gateway.admin_put("/clients/c/tier", "{"), 400);
    let json = [("Content-Type", "application/json")];
    assert_problem(&gateway.admin_request("PUT", "/clients/c/tier", &json, ""), 400);
    assert_unchanged(&gateway);
}

#[test]
fn a_body_must_say_that_it_is_json() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let put = |kind: &str| {
        let headers = [("Content-Type", kind)];
        gateway.admin_request("PUT", "/clients/c/tier", &headers, r#"{"tier":"gold"}"#)
    };
    for kind in ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"] {
        assert_problem(&put(kind), 415);
    }
    assert_unchanged(&gateway);
    assert_eq!(put("Application/JSON; charset=utf-8").status, 200);
}

#[test]
fn ten_megabytes_are_refused_without_being_taken_in() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let before = gateway.resident_bytes();
    let head = |framing: &str| {
        format!(
            "PUT /clients/c/tier HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\n{framing}\r\n\r\n"
        )
    };
    let mut announced = Client::connect(gateway.admin);
    announced.send(head("Content-Length: 10485760"));
    assert_problem(&announced.reply(), 413);
    let piece = vec![b' '; 64 << 10];
    let mut chunked = Client::connect(gateway.admin);
    chunked.send(head("Transfer-Encoding: chunked"));
    for _ in 0..160 {
        let sent = chunked
            .try_send(format!("{:x}\r\n", piece.len()))
            .and_then(|()| chunked.try_send(&piece))
            .and_then(|()| chunked.try_send("\r\n"));
        if sent.is_err() {
            break;
        }
    }
    // With bytes still on their way a close can overtake the answer.
    if let Ok(Some(reply)) = chunked.try_reply() {
        assert_problem(&reply, 413);
    }
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    assert_unchanged(&gateway);
}

#[test]
fn ids_of_odd_bytes_and_of_great_length_are_refused() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let long = "i".repeat(8 << 10);
    let too_long = "i".repeat(257);
    for id in ["%00", "%0d%0aX:1", "%ff%fe", "a%20b", "%c3%a4", "%7f", &long, &too_long, "%1b[2J"] {
        let shown: String = id.chars().take(20).collect();
        for (method, resource, body) in [
            ("GET", "", ""),
            ("PUT", "/tier", r#"{"tier":"gold"}"#),
            ("PUT", "/limit", r#"{"capacity":5,"refill_rate":1}"#),
            ("DELETE", "/limit", ""),
        ] {
            let target = format!("/clients/{id}{resource}");
            let reply = gateway.admin_request(method, &target, &[], body);
            assert!((400..500).contains(&reply.status), "{method} {shown}: {}", reply.status);
            assert_eq!(assert_problem(&reply, reply.status)["field"], "id", "{method} {shown}");
        }
    }
    let reply = gateway.admin_request("PUT", "/clients//tier", &[], r#"{"tier":"gold"}"#);
    assert!((400..500).contains(&reply.status), "{}", reply.status);
    for id in ["i".repeat(256), "%2e%2e".to_owned(), "a%2fb".to_owned(), "%22%3c%3e".to_owned()] {
        assert_eq!(gateway.admin_get(&format!("/clients/{id}")).status, 200, "{id}");
    }
    let slashed = gateway.admin_put("/clients/a%2Fb/tier", r#"{"tier":"gold"}"#);
    assert_eq!((slashed.status, &slashed.json()["client"]), (200, &json!("a/b")));
    let request = [("X-Client-ID", "a/b")];
    let reply = gateway.client().get_with("/", &request);
    assert!(reply.header("ratelimit-policy").unwrap().contains("q=9"), "the same client");
}

#[test]
fn an_address_that_is_none_is_refused() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    for query in ["?ip=", "?ip=nowhere", "?ip=1.2.3", "?ip=10.0.0.0/8", "?ip=1.1.1.1&ip=2.2.2.2"] {
        let problem = assert_problem(&gateway.admin_get(&format!("/clients{query}")), 400);
        assert_eq!(problem["field"], "ip", "{query:?}");
    }
    let other = assert_problem(&gateway.admin_get("/clients?pi=127.0.0.1"), 400);
    assert_eq!(other["field"], "pi");
}

#[test]
fn unknown_paths_and_methods_are_problems() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    for target in
        ["/", "/nothing", "/clients/c/nothing", "/docs/nothing.js", "/metrics/", "//health"]
    {
        assert_problem(&gateway.admin_get(target), 404);
    }
    for (method, target, allowed) in [
        ("POST", "/health", "GET"),
        ("PUT", "/clients/c", "DELETE"),
        ("PATCH", "/clients/c/tier", "PUT"),
        ("GET", "/clients/c/limit", "DELETE"),
        ("BREW", "/routes", "GET"),
        ("PUT", "/circuit-breakers/main", "POST"),
        ("DELETE", "/circuit-breakers", "GET"),
        ("GET", "/upstreams/main/servers/127.0.0.1:1", "PUT"),
    ] {
        let reply = gateway.admin_request(method, target, &[], "");
        assert_problem(&reply, 405);
        assert!(reply.header("allow").is_some_and(|allow| allow.contains(allowed)), "{target}");
    }
}

#[test]
fn garbage_on_the_admin_port_closes_and_is_survived() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
    ] {
        let mut client = Client::connect(gateway.admin);
        client.send(bytes);
        client.finish_sending();
        match client.end() {
            End::Closed => {}
            End::More(text) => assert!(text.starts_with("HTTP/1.1 4"), "{text}"),
            End::Open => panic!("still open after {bytes:?}"),
        }
    }
    let mut long = Client::connect(gateway.admin);
    let _ = long
        .try_send(format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(2 << 20)));
    assert!(!matches!(long.try_reply(), Ok(Some(reply)) if reply.status < 400));
    assert_eq!(gateway.admin_get("/health").status, 200);
    assert_eq!(gateway.get("/").status, 200);
}
