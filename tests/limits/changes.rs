//! Tiers and limits changed while traffic flows.

use serde_json::json;

use crate::rig::{BY_HEADER, admitted, assert_limited, assert_near, get_as, left, rate_limit};
use crate::support::{Gateway, Upstream, until};

const TIERS: &str = "
    free: {rate: 1/h, burst: 10}
    twice: {rate: 1/h, burst: 20}
    fast: {rate: 2/h, burst: 20}
    tiny: {rate: 1/h, burst: 2}";

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::before(upstream).clients(BY_HEADER).tiers(TIERS).start()
}

fn set_tier(gateway: &Gateway, client: &str, tier: &str) -> serde_json::Value {
    let body = json!({ "tier": tier }).to_string();
    let reply = gateway.admin_put(&format!("/clients/{client}/tier"), &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn a_higher_tier_counts_from_the_next_request_on_and_what_was_used_stays_used() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    assert_eq!(admitted(&gateway, 20, &[("X-Client-ID", "c")]), 10);
    let shown = set_tier(&gateway, "c", "twice");
    assert_eq!((&shown["client"], &shown["tier"]), (&"c".into(), &"twice".into()));
    assert_eq!(shown["limits"][0]["capacity"], 20);
    let (policy, now) = rate_limit(&get_as(&gateway, "c", "/"));
    assert_eq!((policy.tokens, now.tokens), (20, 9), "ten were used, and now one");
    assert_eq!(admitted(&gateway, 20, &[("X-Client-ID", "c")]), 9);
    assert_eq!(admitted(&gateway, 20, &[("X-Client-ID", "other")]), 10, "others are as before");
}

#[test]
fn a_change_acts_on_connections_that_are_open() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let me = [("X-Client-ID", "c")];
    let mut client = gateway.client();
    for tier in ["fast", "tiny", "twice", "free"] {
        set_tier(&gateway, "c", tier);
        let (policy, _) = rate_limit(&client.get_with("/", &me));
        let burst = match tier {
            "tiny" => 2,
            "free" => 10,
            _ => 20,
        };
        assert_eq!(policy.tokens, burst, "{tier}");
    }
}

#[test]
fn the_time_until_the_bucket_is_full_stays_what_it_was() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    assert_eq!(admitted(&gateway, 4, &[("X-Client-ID", "c")]), 4);
    let shown = set_tier(&gateway, "c", "fast");
    assert_eq!(shown["limits"][0]["tokens_remaining"], 12, "four hours are eight tokens here");
    let (_, now) = rate_limit(&get_as(&gateway, "c", "/"));
    assert_eq!(now.tokens, 11);
    assert_near(now.seconds, 4 * 3_600 + 1_800);
}

#[test]
fn a_smaller_limit_cuts_that_time_to_its_own() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    set_tier(&gateway, "c", "twice");
    assert_eq!(admitted(&gateway, 15, &[("X-Client-ID", "c")]), 15);
    let shown = set_tier(&gateway, "c", "tiny");
    assert_eq!(shown["limits"][0]["tokens_remaining"], 0);
    assert_near(shown["limits"][0]["retry_after_seconds"].as_u64().unwrap(), 3_600);
    let refused = get_as(&gateway, "c", "/");
    assert_limited(&refused, "tier", 3_600);
    assert_near(rate_limit(&refused).1.seconds, 7_200);
}

#[test]
fn a_tier_is_set_by_post_as_well_and_in_any_case() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let reply = gateway.admin_request("POST", "/clients/c/tier", &[], r#"{"tier": "TWICE"}"#);
    assert_eq!((reply.status, &reply.json()["tier"]), (200, &"twice".into()));
    assert_eq!(rate_limit(&get_as(&gateway, "c", "/")).0.tokens, 20);
}

#[test]
fn a_limit_of_its_own_stands_instead_of_the_tiers_until_it_is_taken_back() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    assert_eq!(get_as(&gateway, "c", "/").status, 200);
    let body = r#"{"capacity": 3, "refill_rate": 0.001}"#;
    let reply = gateway.admin_put("/clients/c/limit", body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let shown = &reply.json()["limits"][0];
    assert_eq!((&shown["policy"], &shown["capacity"]), (&"tier".into(), &3.into()));
    assert!((shown["refill_rate"].as_f64().unwrap() - 0.001).abs() < 1e-9, "{shown}");
    assert_eq!(shown["tokens_remaining"], 0, "an hour until full is cut to 3 000 s");
    let refused = get_as(&gateway, "c", "/");
    assert_limited(&refused, "tier", 1_000);
    let (policy, _) = rate_limit(&refused);
    assert_eq!((policy.tokens, policy.seconds), (3, 3_000));

    let reply = gateway.admin_request("DELETE", "/clients/c/limit", &[], "");
    assert_eq!((reply.status, &reply.json()["limits"][0]["capacity"]), (200, &10.into()));
    let (policy, now) = rate_limit(&get_as(&gateway, "c", "/"));
    assert_eq!(policy.tokens, 10);
    assert_eq!(now.tokens, 8, "3 000 s until full are less than one token of the tier's, and one");
    let again = gateway.admin_request("DELETE", "/clients/c/limit", &[], "");
    assert_eq!(again.status, 200, "there is nothing left to take back");
}

/// Nobody asks meanwhile: what was left from before is cut to the new limit's own when that comes,
/// not when its client does.
#[test]
fn a_bucket_fills_by_its_new_limit_from_the_moment_of_the_change() {
    let upstream = Upstream::new();
    let builder = |free| {
        let tiers =
            format!("{{free: {{rate: {free}, burst: 60}}, fast: {{rate: 20/s, burst: 60}}}}");
        Gateway::before(&upstream).clients(BY_HEADER).tiers(&tiers)
    };
    let gateway = builder("1/h").start();
    for client in ["moved", "own", "reloaded"] {
        assert_eq!(admitted(&gateway, 70, &[("X-Client-ID", client)]), 60);
    }
    let fills = |client: &str| {
        until("it has filled up by itself", || {
            let shown = gateway.admin_get(&format!("/clients/{client}")).json();
            (shown["limits"][0]["tokens_remaining"].as_u64()? >= 5).then_some(())
        });
        let (_, now) = rate_limit(&get_as(&gateway, client, "/"));
        assert!(now.tokens >= 4, "{client}: {now:?}");
    };
    let moved = set_tier(&gateway, "moved", "fast");
    let begun = moved["limits"][0]["tokens_remaining"].as_u64().unwrap();
    assert!(begun < 40, "it was empty just now: {begun}");
    fills("moved");
    let body = r#"{"capacity": 60, "refill_rate": 20}"#;
    assert_eq!(gateway.admin_put("/clients/own/limit", body).status, 200);
    fills("own");
    gateway.rewrite(&builder("20/s"));
    assert_eq!(gateway.reload().status, 200);
    fills("reloaded");
}

#[test]
fn a_larger_limit_of_its_own_admits_more() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    assert_eq!(admitted(&gateway, 12, &[("X-Client-ID", "c")]), 10);
    let body = r#"{"capacity": 50, "refill_rate": 1000.0}"#;
    assert_eq!(gateway.admin_put("/clients/c/limit", body).status, 200);
    until("a thousand a second come in", || {
        (get_as(&gateway, "c", "/").status == 200).then_some(())
    });
}

#[test]
fn asking_about_strangers_stores_nothing() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    for index in 0..100 {
        let client = gateway.admin_get(&format!("/clients/stranger-{index}")).json();
        assert_eq!((&client["tier"], &client["registered"]), (&"free".into(), &false.into()));
        let limit = &client["limits"][0];
        assert_eq!((&limit["tokens_remaining"], &limit["capacity"]), (&10.into(), &10.into()));
        assert_eq!(limit["retry_after_seconds"], 0);
    }
    let series = gateway.series();
    assert_eq!(series.value("gateway_limiter_table_slots{state=\"used\"}"), 0.0);
    assert_eq!(left(&gateway, "stranger-1", "tier"), 10);
}
