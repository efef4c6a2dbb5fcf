//! What can be changed, and what happens to input that is wrong.

use super::*;
use serde_json::json;

#[tokio::test]
async fn a_tier_is_set_by_put_and_post_in_any_case_and_keeps_what_was_used() {
    let rig = Rig::new();
    let free = rig.tier_bucket("free");
    // 4 of 10 tokens: the bucket is full again in 4 seconds, whatever the tier.
    rig.charge("tier", KeyKind::Header, "c", &free, 4);
    for (method, name, tier) in
        [(Method::PUT, "PREMIUM", "premium"), (Method::POST, "basic", "basic")]
    {
        let answer =
            rig.change(method, "/clients/c/tier", &json!({"tier": name}).to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let client = answer.json();
        assert_eq!((&client["tier"], &client["registered"]), (&json!(tier), &json!(true)));
        let bucket = rig.tier_bucket(tier);
        let left = client["limits"][0]["tokens_remaining"].as_u64().unwrap();
        let full = bucket.burst();
        assert!(left < full && left >= full - 4 * bucket.rate_per_second() as u64, "{client}");
        assert_eq!(rig.json("/clients/c").await["tier"], tier);
    }
}

#[tokio::test]
async fn a_limit_of_its_own_stands_over_the_tier_until_it_is_deleted() {
    let rig = Rig::new();
    let body = r#"{"capacity": 50, "refill_rate": 2.5}"#;
    let own = json!({"policy": "tier", "tokens_remaining": 50, "capacity": 50,
                     "refill_rate": 2.5, "retry_after_seconds": 0});
    for body in [body, r#"{"capacity": 5e1, "refill_rate": 2.5}"#] {
        let answer = rig.change(Method::PUT, "/clients/c/limit", body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["limits"][0]), (200, &own));
    }
    assert_eq!(rig.json("/clients/c").await["limits"][0], own);

    for _ in 0..2 {
        let answer = rig.send(Method::DELETE, "/clients/c/limit", &[("host", LISTEN)], "").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["limits"][0]["capacity"], 10);
        assert_eq!(answer.json()["registered"], false);
    }
}

#[tokio::test]
async fn wrong_bodies_name_the_field_and_change_nothing() {
    let rig = Rig::new();
    let (tier, limit) = ("/clients/c/tier", "/clients/c/limit");
    let cases = [
        (tier, r#"{"tier": "gold"}"#, Some("tier"), "one of free, basic, premium, enterprise"),
        (tier, r#"{"tier": 3}"#, Some("tier"), "one of free"),
        (tier, r#"{"tier": null}"#, Some("tier"), "one of free"),
        (tier, "{}", Some("tier"), "missing"),
        (tier, r#"{"tier": "free", "ttl": 1}"#, Some("ttl"), "known here: tier"),
        (tier, r#"{"tier": "free", "tier": "basic"}"#, Some("tier"), "occurs twice at line 1"),
        (tier, "{\n\"tier\": premium}", Some("tier"), "line 2 column 9"),
        (tier, "", None, "line 1"),
        (tier, "[]", None, "expected a JSON object"),
        (tier, r#"{"tier": "free"} x"#, None, "trailing characters"),
        (limit, r#"{"capacity": 50}"#, Some("refill_rate"), "missing"),
        (limit, r#"{"refill_rate": 1}"#, Some("capacity"), "missing"),
        (limit, r#"{"capacity": 0, "refill_rate": 1}"#, Some("capacity"), "from 1 to"),
        (limit, r#"{"capacity": -1, "refill_rate": 1}"#, Some("capacity"), "from 1 to"),
        (limit, r#"{"capacity": 1.5, "refill_rate": 1}"#, Some("capacity"), "whole number"),
        (limit, r#"{"capacity": "5", "refill_rate": 1}"#, Some("capacity"), "whole number"),
        (limit, r#"{"capacity": 9007199254740993, "refill_rate": 1}"#, Some("capacity"), "to 9007"),
        (limit, r#"{"capacity": 5, "refill_rate": 0}"#, Some("refill_rate"), "above 0"),
        (limit, r#"{"capacity": 5, "refill_rate": -1}"#, Some("refill_rate"), "above 0"),
        (limit, r#"{"capacity": 5, "refill_rate": "1"}"#, Some("refill_rate"), "number"),
        (limit, r#"{"capacity": 5, "refill_rate": 1e10}"#, Some("refill_rate"), "at most 1 token"),
        (limit, r#"{"capacity": 5, "refill_rate": 1e999}"#, Some("refill_rate"), "out of range"),
        (limit, r#"{"capacity": 5, "refill_rate": 1e-300}"#, Some("refill_rate"), "146 years"),
        (limit, r#"{"capacity": 5000000000, "refill_rate": 1}"#, Some("capacity"), "146 years"),
        (limit, r#"{"capacity": 5, "refill_rate": 1, "burst": 5}"#, Some("burst"), "known here"),
    ];
    for (target, body, field, says) in cases {
        let answer = rig.change(Method::PUT, target, body).await;
        assert_eq!(answer.status, 400, "{body}");
        let (named, detail) = answer.problem();
        assert_eq!(named.as_deref(), field, "{body}: {detail}");
        assert!(detail.contains(says), "{body}: {detail}");
    }
    assert_eq!(rig.json("/clients/c").await["registered"], false);
}

#[tokio::test]
async fn deep_nesting_is_refused() {
    let rig = Rig::new();
    let body = format!(r#"{{"tier": {}"#, "[".repeat(50_000));
    let answer = rig.change(Method::PUT, "/clients/c/tier", &body).await;
    assert_eq!(answer.status, 400);
    assert!(answer.problem().1.contains("recursion limit"));
}

#[tokio::test]
async fn a_body_must_be_json_and_say_so() {
    let rig = Rig::new();
    let good = ["application/json", "Application/JSON; charset=utf-8", "application/json;"];
    let bad = [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "application/problem+json",
    ];
    for (types, status) in [(&good[..], 200), (&bad[..], 415)] {
        for content_type in types {
            let headers = [("host", LISTEN), ("content-type", *content_type)];
            let answer =
                rig.send(Method::PUT, "/clients/c/tier", &headers, r#"{"tier":"free"}"#).await;
            assert_eq!(answer.status, status, "{content_type:?}");
        }
    }
    let headers = [("host", LISTEN)];
    let answer = rig.send(Method::PUT, "/clients/c/tier", &headers, r#"{"tier":"free"}"#).await;
    assert_eq!(answer.status, 415);
    answer.problem();
}

#[tokio::test]
async fn a_large_body_is_refused_whether_or_not_it_says_how_large_it_is() {
    let rig = Rig::new();
    let blank = " ".repeat((64 << 10) + 1);
    let answer = rig.change(Method::PUT, "/clients/c/tier", &blank).await;
    assert_eq!(answer.status, 413);
    answer.problem();
    let headers =
        [("host", LISTEN), ("content-type", "application/json"), ("content-length", "10485760")];
    let answer = rig.send(Method::PUT, "/clients/c/tier", &headers, "").await;
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn odd_client_ids_are_refused_by_name_everywhere() {
    let rig = Rig::new();
    let long = "a".repeat(257);
    let longer = "a".repeat(8 << 10);
    let bad = ["%20", "a%20b", "%00", "%0a", "%c3%a9", "%ff", "a%7f", &long, &longer];
    for id in bad {
        for (method, suffix, body) in [
            (Method::GET, "", ""),
            (Method::PUT, "/tier", r#"{"tier":"free"}"#),
            (Method::POST, "/tier", r#"{"tier":"free"}"#),
            (Method::PUT, "/limit", r#"{"capacity":1,"refill_rate":1}"#),
            (Method::DELETE, "/limit", ""),
        ] {
            let answer = rig.change(method, &format!("/clients/{id}{suffix}"), body).await;
            assert_eq!(answer.status, 400, "{id:.20}{suffix}");
            assert_eq!(answer.problem().0.as_deref(), Some("id"));
        }
    }
    let answer = rig.change(Method::PUT, "/clients//tier", r#"{"tier":"free"}"#).await;
    assert_eq!((answer.status.as_u16(), answer.problem().0.as_deref()), (400, Some("id")));
    let longest = "a".repeat(256);
    for (id, decoded) in
        [("a%2Fb", "a/b"), ("%7B%22%7D", "{\"}"), ("%2e%2e", ".."), (&longest, &longest)]
    {
        assert_eq!(rig.json(&format!("/clients/{id}")).await["client"], decoded);
    }
}
