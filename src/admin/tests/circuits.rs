//! Circuits: how they are shown, and opening and closing them by hand.

use super::*;
use crate::policy::breaker::BreakerPolicy;
use crate::upstream::circuit::{Circuit, Outcome};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

const FAILED: Outcome = Outcome::Failure { retry_after_ns: None };
const PATIENT: BreakerPolicy = BreakerPolicy {
    consecutive_failures: Some(2),
    window_ns: 10_000_000_000,
    cooldown_ns: 60_000_000_000,
    max_cooldown_ns: 60_000_000_000,
    probes: 2,
    ramp_ns: 3_600_000_000_000,
    ..BreakerPolicy::NEVER
};

/// A gateway whose upstream and whose route `users` have circuits of this policy.
fn rig(policy: &BreakerPolicy) -> Rig {
    let mut config = config();
    config.upstreams[0].breaker = Some(policy.clone());
    config.routes[1].breaker = Some(policy.clone());
    Rig::serving(config)
}

fn circuit(rig: &Rig, name: &str) -> Arc<Circuit> {
    rig.gateway.generation().circuits().find(|circuit| &**circuit.name() == name).unwrap().clone()
}

fn call(rig: &Rig, name: &str, outcome: Outcome) {
    let now = clock::now_ns();
    circuit(rig, name).ask(now).unwrap().tell(outcome, 0, now);
}

async fn shown(rig: &Rig, name: &str) -> Value {
    let all = rig.json("/circuit-breakers").await;
    all.as_array().unwrap().iter().find(|circuit| circuit["name"] == name).unwrap().clone()
}

async fn force(rig: &Rig, name: &str, body: &str) -> Answer {
    rig.change(Method::POST, &format!("/circuit-breakers/{name}"), body).await
}

/// Checks that it is RFC 3339 in UTC, to the millisecond at most, and this far from now.
#[track_caller]
fn assert_at(time: &Value, from_now: SignedDuration) {
    let text = time.as_str().unwrap();
    let fraction = text.strip_suffix('Z').unwrap().split_once('.').map_or("", |(_, digits)| digits);
    assert!(fraction.len() <= 3, "{text}");
    let time: Timestamp = text.parse().unwrap();
    let off = time.duration_since(clock::timestamp()) - from_now;
    assert!(off.abs() < SignedDuration::from_secs(5), "{text} is {off} off");
}

fn closed(name: &str, is_automatic: bool) -> Value {
    json!({
        "name": name, "state": "closed", "reason": null, "opened_at": null,
        "retry_after_seconds": null, "failures": 0, "openings": 0,
        "window": {"calls": 0, "failures": 0, "slow": 0}, "next_probe_seconds": null,
        "probes": {"out": 0, "succeeded": 0}, "ramp": null, "forced_until": null, "hinted_until": null,
        "automatic": is_automatic,
    })
}

#[tokio::test]
async fn upstreams_have_a_circuit_each_and_routes_one_of_their_own_where_they_say_so() {
    let rig = rig(&PATIENT);
    let all = rig.json("/circuit-breakers").await;
    assert_eq!(all, json!([closed("users", true), closed("route:users", true)]));
    let routes = rig.json("/routes").await;
    let circuits: Vec<_> = routes.as_array().unwrap().iter().map(|r| &r["circuit"]).collect();
    assert_eq!(circuits.iter().filter(|name| ***name == "users").count(), 8);
    assert_eq!(circuits[7], "route:users");
    let without = Rig::new();
    assert_eq!(without.json("/circuit-breakers").await, json!([closed("users", false)]));
}

#[tokio::test]
async fn an_open_circuit_says_why_since_when_and_until_when() {
    let rig = rig(&PATIENT);
    call(&rig, "users", Outcome::Success);
    call(&rig, "users", FAILED);
    let before = shown(&rig, "users").await;
    assert_eq!((&before["state"], &before["failures"]), (&json!("closed"), &json!(1)));
    assert_eq!(before["window"], json!({"calls": 2, "failures": 1, "slow": 0}));

    call(&rig, "users", FAILED);
    let open = shown(&rig, "users").await;
    assert_eq!(open["state"], "open");
    assert_eq!(open["reason"], "2 failures in a row");
    assert_eq!((&open["failures"], &open["openings"]), (&json!(2), &json!(1)));
    assert_eq!(open["window"], json!({"calls": 3, "failures": 2, "slow": 0}));
    assert_at(&open["opened_at"], SignedDuration::ZERO);
    let wait = open["retry_after_seconds"].as_u64().unwrap();
    assert!((55..=60).contains(&wait), "{open}");
    let probe = open["next_probe_seconds"].as_f64().unwrap();
    assert!(probe <= wait as f64 && probe > wait as f64 - 1.5, "{open}");
    assert_eq!(open["forced_until"], Value::Null);
    assert_eq!(shown(&rig, "route:users").await, closed("route:users", true), "another circuit");
}

#[tokio::test]
async fn a_half_open_circuit_shows_its_probes_and_a_closing_one_its_ramp() {
    let rig = rig(&PATIENT);
    force(&rig, "users", r#"{"force":"open"}"#).await;
    let half = force(&rig, "users", r#"{"force":"auto"}"#).await.json();
    assert_eq!((&half["state"], &half["next_probe_seconds"]), (&json!("half_open"), &json!(0.0)));
    assert_eq!(half["probes"], json!({"out": 0, "succeeded": 0}));
    assert_eq!(half["retry_after_seconds"], Value::Null, "a probe would pass");
    assert_at(&half["opened_at"], SignedDuration::ZERO);

    let (first, second) = [(); 2].map(|()| circuit(&rig, "users").ask(clock::now_ns())).into();
    let full = shown(&rig, "users").await;
    assert_eq!(full["probes"], json!({"out": 2, "succeeded": 0}));
    assert_eq!(full["retry_after_seconds"], 1);
    assert!(full["next_probe_seconds"].as_f64().unwrap() > 0.0, "{full}");
    first.unwrap().tell(Outcome::Success, 0, clock::now_ns());
    let one = shown(&rig, "users").await;
    assert_eq!(one["probes"], json!({"out": 1, "succeeded": 1}));

    second.unwrap().tell(Outcome::Success, 0, clock::now_ns());
    let closed = shown(&rig, "users").await;
    assert_eq!((&closed["state"], &closed["reason"]), (&json!("closed"), &Value::Null));
    let ramp = closed["ramp"].as_f64().unwrap();
    assert!((0.0..1.0).contains(&ramp), "{closed}");
}

#[tokio::test]
async fn a_forced_state_acts_at_once_and_says_when_it_ends() {
    let rig = rig(&PATIENT);
    for (body, seconds) in [
        (r#"{"force":"open"}"#, 600),
        (r#"{"force":"open","ttl":null}"#, 600),
        (r#"{"force":"open","ttl":"1s"}"#, 1),
        (r#"{"ttl":"168h","force":"open"}"#, 604_800),
    ] {
        let answer = force(&rig, "route:users", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let open = answer.json();
        assert_eq!((&open["name"], &open["state"]), (&json!("route:users"), &json!("open")));
        assert_eq!(open["reason"], "opened by an operator");
        assert_at(&open["opened_at"], SignedDuration::ZERO);
        assert_at(&open["forced_until"], SignedDuration::from_secs(seconds));
        let wait = open["retry_after_seconds"].as_i64().unwrap();
        let expected = seconds.clamp(1, 3_600);
        assert!((expected - 3..=expected).contains(&wait), "an hour at the most: {open}");
    }
    assert!(circuit(&rig, "route:users").ask(clock::now_ns()).is_err());
    assert!(circuit(&rig, "users").ask(clock::now_ns()).is_ok(), "another circuit");

    let closed = force(&rig, "route:users", r#"{"force":"closed","ttl":"5m"}"#).await.json();
    assert_eq!((&closed["state"], &closed["reason"]), (&json!("closed"), &Value::Null));
    assert_at(&closed["forced_until"], SignedDuration::from_secs(300));
    for _ in 0..5 {
        call(&rig, "route:users", FAILED);
    }
    assert_eq!(shown(&rig, "route:users").await["state"], "closed", "whatever fails");
    let free = force(&rig, "route%3Ausers", r#"{"force":"auto","ttl":"5m"}"#).await.json();
    assert_eq!(free, self::closed("route:users", true));
}

#[tokio::test]
async fn a_circuit_goes_on_by_itself_after_it_was_forced_open() {
    let rig = rig(&PATIENT);
    force(&rig, "users", r#"{"force":"open"}"#).await;
    let free = force(&rig, "users", r#"{"force":"auto"}"#).await.json();
    assert_eq!((&free["state"], &free["forced_until"]), (&json!("half_open"), &Value::Null));
    let without = Rig::new();
    let open = force(&without, "users", r#"{"force":"open"}"#).await.json();
    assert_eq!((&open["state"], &open["automatic"]), (&json!("open"), &json!(false)));
    let free = force(&without, "users", r#"{"force":"auto"}"#).await.json();
    assert_eq!(free, closed("users", false), "nothing to probe for");
}

#[tokio::test]
async fn wrong_bodies_name_the_field_and_force_nothing() {
    let rig = rig(&PATIENT);
    let cases = [
        ("{}", Some("force"), "one of open, closed, auto"),
        (r#"{"force":null}"#, Some("force"), "one of open, closed, auto"),
        (r#"{"force":"OPEN"}"#, Some("force"), "one of open, closed, auto"),
        (r#"{"force":"half_open"}"#, Some("force"), "one of open, closed, auto"),
        (r#"{"force":true}"#, Some("force"), "one of open, closed, auto"),
        (r#"{"force":["open"]}"#, Some("force"), "one of open, closed, auto"),
        (r#"{"force":"open","ttl":600}"#, Some("ttl"), "a duration such as 10m"),
        (r#"{"force":"open","ttl":""}"#, Some("ttl"), "duration"),
        (r#"{"force":"open","ttl":"10"}"#, Some("ttl"), "no unit"),
        (r#"{"force":"open","ttl":"1d"}"#, Some("ttl"), "duration"),
        (r#"{"force":"open","ttl":"-1s"}"#, Some("ttl"), "duration"),
        (r#"{"force":"open","ttl":"0s"}"#, Some("ttl"), "between 1s and 168h"),
        (r#"{"force":"open","ttl":"999ms"}"#, Some("ttl"), "between 1s and 168h"),
        (r#"{"force":"open","ttl":"169h"}"#, Some("ttl"), "between 1s and 168h"),
        (r#"{"force":"open","ttl":"99999999999999999999h"}"#, Some("ttl"), "168h"),
        (r#"{"force":"auto","ttl":"soon"}"#, Some("ttl"), "duration"),
        (r#"{"force":"open","for":"1m"}"#, Some("for"), "known here: force, ttl"),
        (r#"{"force":"open","force":"auto"}"#, Some("force"), "occurs twice"),
        (r#""open""#, None, "expected a JSON object"),
        ("", None, "line 1"),
    ];
    for (body, field, says) in cases {
        let answer = force(&rig, "users", body).await;
        assert_eq!(answer.status, 400, "{body}");
        let (named, detail) = answer.problem();
        assert_eq!(named.as_deref(), field, "{body}: {detail}");
        assert!(detail.contains(says), "{body}: {detail}");
    }
    assert_eq!(shown(&rig, "users").await, closed("users", true));
}

#[tokio::test]
async fn a_circuit_that_is_not_there_is_named_with_those_that_are() {
    let rig = rig(&PATIENT);
    for name in ["nobody", "route:everything", "USERS", "%20users", "route:", "x%2Fy"] {
        let answer = force(&rig, name, r#"{"force":"open"}"#).await;
        assert_eq!(answer.status, 404, "{name}");
        let (field, detail) = answer.problem();
        assert_eq!(field.as_deref(), Some("name"), "{name}");
        assert!(detail.ends_with("those there are: users, route:users"), "{detail}");
    }
    let answer = force(&rig, "%ff", r#"{"force":"open"}"#).await;
    assert_eq!((answer.status.as_u16(), answer.problem().0.as_deref()), (400, Some("name")));

    let mut config = config();
    let one = config.upstreams.remove(0);
    let many = (0..30).map(|n| Upstream { name: format!("u{n}").into(), ..one.clone() });
    config.upstreams.extend(many);
    let (_, detail) = force(&Rig::serving(config), "x", r#"{"force":"open"}"#).await.problem();
    assert!(detail.ends_with("u18, u19, …"), "{detail}");

    let mut config = self::config();
    config.upstreams.clear();
    config.routes.clear();
    let (_, detail) = force(&Rig::serving(config), "x", r#"{"force":"open"}"#).await.problem();
    assert!(detail.ends_with("those there are: none"), "{detail}");
}

#[tokio::test]
async fn health_is_degraded_while_a_circuit_refuses() {
    let rig = rig(&PATIENT);
    let status = async || rig.json("/health").await["status"].clone();
    assert_eq!(status().await, "ok");
    call(&rig, "route:users", FAILED);
    call(&rig, "route:users", FAILED);
    assert_eq!(status().await, "degraded", "though every server is healthy");
    force(&rig, "route:users", r#"{"force":"closed"}"#).await;
    assert_eq!(status().await, "ok");
}
