//! Upstreams and their servers over the wire, and taking one out.

use serde_json::{Value, json};

use crate::support::{Answer, Client, Gate, Gateway, Reply, Upstream, fault, ok, until};

const DRAIN: &str = r#"{"state":"drain"}"#;
const UP: &str = r#"{"state":"up"}"#;

/// A gateway before one upstream, `users`, of these servers.
fn before(servers: &[String], further: &str) -> Gateway {
    Gateway::builder()
        .upstreams(&format!("users: {{servers: [{}]{further}}}", servers.join(", ")))
        .routes("- {name: all, path: /, upstream: users}")
        .start()
}

fn quoted(upstreams: &[&Upstream]) -> Vec<String> {
    upstreams.iter().map(|upstream| format!("\"{}\"", upstream.address())).collect()
}

#[track_caller]
fn servers(gateway: &Gateway) -> Vec<Value> {
    let shown = gateway.admin_get("/upstreams").json();
    shown[0]["servers"].as_array().unwrap_or_else(|| panic!("{shown}")).clone()
}

fn states(gateway: &Gateway) -> Vec<String> {
    servers(gateway).iter().map(|server| server["state"].as_str().unwrap().to_owned()).collect()
}

fn put(gateway: &Gateway, address: &str, body: &str) -> Reply {
    gateway.admin_put(&format!("/upstreams/users/servers/{address}"), body)
}

#[track_caller]
fn set(gateway: &Gateway, upstream: &Upstream, body: &str) -> Value {
    let reply = put(gateway, &upstream.address().to_string(), body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn health(gateway: &Gateway) -> (Value, Value) {
    let reply = gateway.admin_get("/health");
    assert_eq!(reply.status, 200, "it serves: {}", reply.text());
    let health = reply.json();
    (health["status"].clone(), health["upstreams"]["users"].clone())
}

#[test]
fn every_field_of_an_upstream_is_shown() {
    let upstream = Upstream::new();
    let servers = [format!("{{address: \"{}\", weight: 7}}", upstream.address())];
    let gateway = before(&servers, ", concurrency: {max: 5, queue: 2}");
    assert_eq!(gateway.get("/").status, 200);
    let shown = until("the request is over", || {
        let shown = gateway.admin_get("/upstreams").json();
        (shown[0]["concurrency"]["used"] == 0).then_some(shown)
    });
    assert_eq!(shown.as_array().map(Vec::len), Some(1));
    assert_eq!(shown[0]["name"], "users");
    assert_eq!(shown[0]["concurrency"], json!({"max": 5, "used": 0, "queued": 0}));
    let server = &shown[0]["servers"][0];
    let address = upstream.address().to_string();
    for (member, value) in [
        ("configured", json!(address)),
        ("address", json!(address)),
        ("weight", json!(7)),
        ("state", json!("up")),
        ("in_flight", json!(0)),
        ("ejected_seconds", json!(null)),
    ] {
        assert_eq!(server[member], value, "{member} in {server}");
    }
    let latency = server["latency_seconds"].as_f64().unwrap();
    assert!(latency > 0.0 && latency < 10.0, "{server}");
    assert_eq!(server.as_object().map(serde_json::Map::len), Some(7), "{server}");
}

#[test]
fn a_drained_server_gets_no_request_until_it_is_up_again() {
    let (first, second) = (Upstream::new(), Upstream::new());
    let gateway = before(&quoted(&[&first, &second]), "");
    let mut client = gateway.client();
    let mut ask = || (0..10).for_each(|_| assert_eq!(client.get("/").status, 200));
    ask();
    assert_eq!((first.attempts(), second.attempts()), (5, 5));
    let healthy = "gateway_upstream_healthy{upstream=\"users\"}";
    assert_eq!(gateway.series().value(healthy), 2.0);

    let changed = set(&gateway, &first, DRAIN);
    assert_eq!(changed["name"], "users");
    assert_eq!(changed["servers"][0]["state"], "drained");
    assert_eq!(states(&gateway), ["drained", "up"]);
    ask();
    assert_eq!((first.attempts(), second.attempts()), (5, 15));
    assert_eq!(health(&gateway), (json!("degraded"), json!({"healthy": 1, "total": 2})));
    assert_eq!(gateway.series().value(healthy), 1.0);

    set(&gateway, &first, UP);
    ask();
    assert_eq!((first.attempts(), second.attempts()), (10, 20));
    assert_eq!(health(&gateway), (json!("ok"), json!({"healthy": 2, "total": 2})));
    assert_eq!(gateway.series().value(healthy), 2.0);
}

#[test]
fn what_is_in_flight_at_a_drained_server_goes_on() {
    let gate = Gate::default();
    let first = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
    let second = Upstream::new();
    let gateway = before(&quoted(&[&first, &second]), ", balance: least_loaded");
    // Who is asked first is drawn by lot; the other one answers at once.
    let mut held: Vec<Client> = Vec::new();
    until("the first server has a request", || {
        let mut client = gateway.client();
        client.send("GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
        held.push(client);
        (first.in_flight() > 0).then_some(())
    });
    let changed = set(&gateway, &first, DRAIN);
    let drained = &changed["servers"][0];
    assert_eq!(drained["state"], "drained");
    assert!(drained["in_flight"].as_u64().unwrap() >= 1, "{changed}");
    assert_eq!(gateway.get("/").text(), "GET /", "the other one answers");
    gate.open();
    for client in &mut held {
        assert_eq!(client.reply().status, 200);
    }
    until("nothing is in flight", || {
        servers(&gateway).iter().all(|server| server["in_flight"] == 0).then_some(())
    });
}

#[test]
fn without_a_server_there_is_a_503_that_costs_nothing() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 1/d, burst: 5}").start();
    let target = format!("/upstreams/main/servers/{}", upstream.address());
    assert_eq!(gateway.admin_put(&target, DRAIN).status, 200);
    for _ in 0..10 {
        let reply = gateway.get("/");
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
        assert_eq!(reply.json()["type"], "urn:tollgate:problem:no-server");
    }
    assert_eq!(gateway.admin_put(&target, UP).status, 200);
    assert_eq!(gateway.get("/").status, 200);
    let client = gateway.admin_get("/clients?ip=127.0.0.1").json();
    assert_eq!(client["limits"][0]["tokens_remaining"], 4);
}

#[test]
fn an_ipv6_address_is_written_in_the_path_percent_encoded() {
    let upstream = Upstream::new();
    let mut all = quoted(&[&upstream]);
    all.push("\"[::1]:1\"".to_owned());
    let gateway = before(&all, "");
    for address in ["%5B::1%5D:1", "%5b%3a%3a1%5d%3a1", "%5B0:0:0:0:0:0:0:1%5D:1"] {
        let reply = put(&gateway, address, DRAIN);
        assert_eq!(reply.status, 200, "{address}: {}", reply.text());
        assert_eq!(states(&gateway), ["up", "drained"]);
        for _ in 0..4 {
            assert_eq!(gateway.get("/").status, 200, "nobody is at the other one");
        }
        assert_eq!(put(&gateway, address, UP).status, 200);
        assert_eq!(states(&gateway), ["up", "up"]);
    }
}

#[test]
fn what_is_wrong_is_named_and_nothing_changes() {
    let upstream = Upstream::new();
    let gateway = before(&quoted(&[&upstream]), "");
    let own = upstream.address().to_string();
    for (target, body, status, field) in [
        (format!("users/servers/{own}"), "{}", 400, Some("state")),
        (format!("users/servers/{own}"), r#"{"state":"down"}"#, 400, Some("state")),
        (format!("users/servers/{own}"), r#"{"state":["up"]}"#, 400, Some("state")),
        (format!("users/servers/{own}"), r#"{"state":"drain","for":"1m"}"#, 400, Some("for")),
        (format!("users/servers/{own}"), "drain", 400, None),
        (format!("nobody/servers/{own}"), DRAIN, 404, Some("upstream")),
        ("users/servers/127.0.0.1:1".to_owned(), DRAIN, 404, Some("address")),
        ("users/servers/127.0.0.1".to_owned(), DRAIN, 404, Some("address")),
        ("users/servers/%5B::1%5D:1".to_owned(), DRAIN, 404, Some("address")),
        ("users/servers/%ff".to_owned(), DRAIN, 400, Some("address")),
    ] {
        let reply = gateway.admin_put(&format!("/upstreams/{target}"), body);
        assert_eq!(reply.status, status, "{target} {body}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        assert_eq!(reply.json()["field"].as_str(), field, "{target} {body}");
    }
    let unknown = gateway.admin_put("/upstreams/users/servers/127.0.0.1:1", DRAIN).json();
    assert!(unknown["detail"].as_str().unwrap().contains(&own), "what would be right: {unknown}");
    assert_eq!(states(&gateway), ["up"]);
}

#[test]
fn a_server_that_fails_its_checks_is_unhealthy_until_it_passes_them() {
    let (first, mut second) = (Upstream::new(), Upstream::new());
    let check = ", health_check: {type: tcp, interval: 100ms, timeout: 9s, healthy_after: 1, \
                 unhealthy_after: 1}";
    let gateway = before(&quoted(&[&first, &second]), check);
    assert_eq!(health(&gateway), (json!("ok"), json!({"healthy": 2, "total": 2})));
    second.close();
    until("it is seen", || (states(&gateway) == ["up", "unhealthy"]).then_some(()));
    assert_eq!(health(&gateway), (json!("degraded"), json!({"healthy": 1, "total": 2})));
    let asked = first.attempts();
    (0..6).for_each(|_| assert_eq!(gateway.get("/").status, 200));
    assert_eq!(first.attempts(), asked + 6);
    set(&gateway, &second, DRAIN);
    assert_eq!(states(&gateway), ["up", "drained"], "of two reasons the one that lasts");
    set(&gateway, &second, UP);
    assert_eq!(states(&gateway), ["up", "unhealthy"], "an operator does not make it well");
    second.open();
    until("it is back", || (states(&gateway) == ["up", "up"]).then_some(()));
    assert_eq!(health(&gateway), (json!("ok"), json!({"healthy": 2, "total": 2})));
}

#[test]
fn a_name_that_does_not_resolve_is_a_server_that_is_not_there() {
    let upstream = Upstream::new();
    let mut all = quoted(&[&upstream]);
    all.push("nowhere.invalid:80".to_owned());
    let gateway = before(&all, "");
    let server = servers(&gateway)[1].clone();
    assert_eq!((&server["state"], &server["address"]), (&json!("unresolved"), &json!(null)));
    assert_eq!(server["configured"], "nowhere.invalid:80");
    assert_eq!(health(&gateway), (json!("degraded"), json!({"healthy": 1, "total": 2})));
    (0..4).for_each(|_| assert_eq!(gateway.get("/").status, 200));
    assert_eq!(put(&gateway, "NOWHERE.invalid:80", DRAIN).status, 200);
    assert_eq!(states(&gateway), ["up", "drained"]);
}

#[test]
fn a_server_that_keeps_failing_is_ejected_for_a_time() {
    let (failing, fine) = (Upstream::answering(fault::status(500)), Upstream::new());
    let eject = ", ejection: {consecutive_failures: 2, base: 60s}";
    let gateway = before(&quoted(&[&failing, &fine]), eject);
    until("it is out", || {
        gateway.get("/");
        (states(&gateway) == ["ejected", "up"]).then_some(())
    });
    let left = servers(&gateway)[0]["ejected_seconds"].as_f64().unwrap();
    assert!((40.0..66.1).contains(&left), "{left}");
    assert_eq!(failing.attempts(), 2);
    (0..4).for_each(|_| assert_eq!(gateway.get("/").status, 200));
    assert_eq!(health(&gateway).1, json!({"healthy": 2, "total": 2}), "no check says otherwise");
}

#[test]
fn places_taken_and_the_queue_are_shown() {
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
    let limit = ", concurrency: {max: 2, queue: 5, queue_timeout: 60s}";
    let gateway = before(&quoted(&[&upstream]), limit);
    let mut clients: Vec<Client> = (0..5).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    }
    until("two are served and three wait", || {
        let shown = gateway.admin_get("/upstreams").json()[0]["concurrency"].clone();
        (shown == json!({"max": 2, "used": 2, "queued": 3})).then_some(())
    });
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.reply().status, 200));
    until("all places are free", || {
        let shown = gateway.admin_get("/upstreams").json()[0]["concurrency"].clone();
        (shown == json!({"max": 2, "used": 0, "queued": 0})).then_some(())
    });
}
