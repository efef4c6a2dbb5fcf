//! Circuits over the wire: how they stand, and opening and closing them by hand.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::{Gateway, Reply, Upstream, fault, ok, until};

/// Two routes to one upstream, of which one has a circuit of its own.
fn gateway(upstream: &Upstream, breaker: &str) -> Gateway {
    Gateway::builder()
        .tiers("free: {rate: 1/d, burst: 1000}")
        .upstreams(&format!(
            "users: {{servers: [\"{}\"], breaker: {breaker}, ejection: none}}",
            upstream.address()
        ))
        .routes(&format!(
            "
            - {{name: shared, path: /, upstream: users}}
            - {{name: own, path: /own, upstream: users, breaker: {breaker}}}"
        ))
        .start()
}

fn patient(upstream: &Upstream) -> Gateway {
    gateway(upstream, "{consecutive_failures: 3, cooldown: 60s}")
}

#[track_caller]
fn shown(gateway: &Gateway, name: &str) -> Value {
    let all = gateway.admin_get("/circuit-breakers").json();
    let found = all.as_array().unwrap().iter().find(|circuit| circuit["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {all}")).clone()
}

fn post(gateway: &Gateway, name: &str, body: &str) -> Reply {
    gateway.admin_request("POST", &format!("/circuit-breakers/{name}"), &[], body)
}

#[track_caller]
fn force(gateway: &Gateway, name: &str, body: &str) -> Value {
    let reply = post(gateway, name, body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Checks that it is RFC 3339 in UTC and this far from now.
#[track_caller]
fn assert_at(time: &Value, from_now: SignedDuration) {
    let text = time.as_str().unwrap_or_else(|| panic!("{time} is no time"));
    assert!(text.ends_with('Z'), "{text}");
    let off = text.parse::<Timestamp>().expect(text).duration_since(Timestamp::now()) - from_now;
    assert!(off.abs() < SignedDuration::from_secs(10), "{text} is {off} off");
}

/// Checks that this is the refusal of a circuit, and hands out its `Retry-After`.
#[track_caller]
fn refused(reply: &Reply) -> u64 {
    assert_eq!(reply.status, 503, "{}", reply.text());
    let problem = reply.json();
    assert_eq!(problem["type"], "urn:tollgate:problem:circuit-open");
    let seconds = reply.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(problem["retry_after_seconds"], seconds);
    seconds
}

fn tokens_left(gateway: &Gateway) -> u64 {
    let client = gateway.admin_get("/clients?ip=127.0.0.1").json();
    client["limits"][0]["tokens_remaining"].as_u64().unwrap()
}

#[test]
fn a_circuit_that_tripped_shows_what_happened_and_what_will() {
    let upstream = Upstream::answering(fault::status(500));
    let gateway = patient(&upstream);
    let names: Vec<Value> = {
        let all = gateway.admin_get("/circuit-breakers").json();
        all.as_array().unwrap().iter().map(|circuit| circuit["name"].clone()).collect()
    };
    assert_eq!(names, ["users", "route:own"]);
    let untouched = shown(&gateway, "route:own");
    for (member, value) in [
        ("state", json!("closed")),
        ("reason", json!(null)),
        ("opened_at", json!(null)),
        ("retry_after_seconds", json!(null)),
        ("failures", json!(0)),
        ("openings", json!(0)),
        ("window", json!({"calls": 0, "failures": 0, "slow": 0})),
        ("next_probe_seconds", json!(null)),
        ("probes", json!({"out": 0, "succeeded": 0})),
        ("ramp", json!(null)),
        ("forced_until", json!(null)),
        ("automatic", json!(true)),
    ] {
        assert_eq!(untouched[member], value, "{member} in {untouched}");
    }

    for _ in 0..3 {
        assert_eq!(gateway.get("/").status, 500);
    }
    let open = until("it is open", || {
        Some(shown(&gateway, "users")).filter(|circuit| circuit["state"] == "open")
    });
    assert_eq!(open["reason"], "3 failures in a row");
    assert_eq!((&open["failures"], &open["openings"]), (&json!(3), &json!(1)));
    assert_eq!(open["window"], json!({"calls": 3, "failures": 3, "slow": 0}));
    assert_at(&open["opened_at"], SignedDuration::ZERO);
    let wait = refused(&gateway.get("/"));
    let told = open["retry_after_seconds"].as_u64().unwrap();
    // The cooldown has up to a tenth of jitter.
    assert!((50..=66).contains(&told) && wait <= told && told - wait < 10, "{told}, then {wait}");
    let probe = open["next_probe_seconds"].as_f64().unwrap();
    assert!(probe > 50.0 && probe <= told as f64, "{open}");
    assert_eq!(shown(&gateway, "route:own"), untouched);
    assert_eq!(gateway.get("/own").status, 500, "its own circuit is closed");
    assert_eq!(upstream.attempts(), 4);
    assert_eq!(gateway.admin_get("/health").json()["status"], "degraded");
}

#[test]
fn a_circuit_probes_and_closes_again() {
    let upstream = Upstream::answering(fault::status(500));
    let gateway =
        gateway(&upstream, "{consecutive_failures: 1, cooldown: 100ms, probes: 2, ramp: 1h}");
    assert_eq!(gateway.get("/").status, 500);
    upstream.switch_to(ok("fine"));
    let half = until("it is half-open", || {
        Some(shown(&gateway, "users")).filter(|circuit| circuit["state"] == "half_open")
    });
    assert_eq!((&half["next_probe_seconds"], &half["openings"]), (&json!(0.0), &json!(1)));
    assert_at(&half["opened_at"], SignedDuration::ZERO);
    assert_eq!(gateway.get("/").status, 200);
    let probed = until("the probe has succeeded", || {
        Some(shown(&gateway, "users")).filter(|circuit| circuit["probes"]["succeeded"] == 1)
    });
    assert_eq!((&probed["state"], &probed["probes"]["out"]), (&json!("half_open"), &json!(0)));
    assert_eq!(gateway.get("/").status, 200);
    let closed = until("it is closed", || {
        Some(shown(&gateway, "users")).filter(|circuit| circuit["state"] == "closed")
    });
    assert_eq!((&closed["reason"], &closed["opened_at"]), (&json!(null), &json!(null)));
    assert!(closed["ramp"].as_f64().is_some_and(|share| share < 1.0), "{closed}");
}

#[test]
fn forcing_acts_on_the_next_request_and_costs_nobody_a_token() {
    let upstream = Upstream::new();
    let gateway = patient(&upstream);
    assert_eq!(gateway.get("/").status, 200);
    let before = tokens_left(&gateway);
    let open = force(&gateway, "users", r#"{"force":"open"}"#);
    assert_eq!((&open["name"], &open["state"]), (&json!("users"), &json!("open")));
    assert_eq!(open["reason"], "opened by an operator");
    assert_at(&open["forced_until"], SignedDuration::from_mins(10));
    let mut client = gateway.client();
    assert!((500..=600).contains(&refused(&client.get("/"))), "when the force ends");
    assert_eq!((upstream.attempts(), tokens_left(&gateway)), (1, before));
    assert_eq!(client.get("/own").status, 200, "another circuit");

    for name in ["route:own", "route%3Aown"] {
        let open = force(&gateway, name, r#"{"force":"open","ttl":"1h"}"#);
        assert_at(&open["forced_until"], SignedDuration::from_hours(1));
        refused(&client.get("/own"));
        force(&gateway, name, r#"{"force":"auto"}"#);
        assert_eq!(client.get("/own").status, 200, "a probe");
    }

    let closed = force(&gateway, "users", r#"{"force":"closed"}"#);
    assert_eq!((&closed["state"], &closed["reason"]), (&json!("closed"), &json!(null)));
    upstream.switch_to(fault::status(500));
    for _ in 0..6 {
        assert_eq!(client.get("/").status, 500, "nothing opens it");
    }
    let free = force(&gateway, "users", r#"{"force":"auto"}"#);
    assert_eq!((&free["forced_until"], &free["failures"]), (&json!(null), &json!(0)));
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 500);
    }
    refused(&client.get("/"));
}

#[test]
fn a_circuit_without_a_policy_is_opened_by_operators_alone() {
    let upstream = Upstream::answering(fault::status(500));
    let gateway = Gateway::before(&upstream).start();
    for _ in 0..20 {
        assert_eq!(gateway.get("/").status, 500);
    }
    let quiet = shown(&gateway, "main");
    assert_eq!((&quiet["state"], &quiet["automatic"]), (&json!("closed"), &json!(false)));
    force(&gateway, "main", r#"{"force":"open","ttl":"1m"}"#);
    refused(&gateway.get("/"));
    assert_eq!(force(&gateway, "main", r#"{"force":"auto"}"#)["state"], "closed");
    assert_eq!(gateway.get("/").status, 500);
}

#[test]
fn what_was_forced_ends_by_itself() {
    let upstream = Upstream::new();
    let gateway = patient(&upstream);
    let start = Instant::now();
    force(&gateway, "users", r#"{"force":"open","ttl":"1s"}"#);
    until("requests pass again", || (gateway.get("/").status == 200).then_some(()));
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(shown(&gateway, "users")["forced_until"], Value::Null);

    upstream.switch_to(fault::status(500));
    force(&gateway, "users", r#"{"force":"closed","ttl":"1s"}"#);
    let start = Instant::now();
    until("failures open it again", || (gateway.get("/").status == 503).then_some(()));
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    assert_eq!(shown(&gateway, "users")["reason"], "3 failures in a row");
}

#[test]
fn what_is_wrong_is_named_and_nothing_is_forced() {
    let upstream = Upstream::new();
    let gateway = patient(&upstream);
    let before = shown(&gateway, "users");
    for (name, body, status, field) in [
        ("users", "{}", 400, Some("force")),
        ("users", r#"{"force":"shut"}"#, 400, Some("force")),
        ("users", r#"{"force":1}"#, 400, Some("force")),
        ("users", r#"{"force":"open","ttl":60}"#, 400, Some("ttl")),
        ("users", r#"{"force":"open","ttl":"60"}"#, 400, Some("ttl")),
        ("users", r#"{"force":"open","ttl":"0s"}"#, 400, Some("ttl")),
        ("users", r#"{"force":"open","ttl":"8d"}"#, 400, Some("ttl")),
        ("users", r#"{"force":"open","ttl":"169h"}"#, 400, Some("ttl")),
        ("users", r#"{"force":"open","tll":"1m"}"#, 400, Some("tll")),
        ("users", "{", 400, None),
        ("nobody", r#"{"force":"open"}"#, 404, Some("name")),
        ("route:shared", r#"{"force":"open"}"#, 404, Some("name")),
        ("nobody", r#"{"force":"shut"}"#, 404, Some("name")),
        ("%ff", r#"{"force":"open"}"#, 400, Some("name")),
    ] {
        let reply = post(&gateway, name, body);
        assert_eq!(reply.status, status, "{name} {body}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        assert_eq!(reply.json()["field"].as_str(), field, "{name} {body}");
    }
    let unknown = post(&gateway, "nobody", r#"{"force":"open"}"#).json();
    let detail = unknown["detail"].as_str().unwrap();
    assert!(detail.contains("users, route:own"), "what would be right: {detail}");
    assert_eq!(shown(&gateway, "users"), before);
    assert_eq!(gateway.get("/").status, 200);
}
