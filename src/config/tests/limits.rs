//! How limits decide: algorithms, quotas, shadows.

use super::{errors, good, refused, with_route};
use crate::config::{Config, effective};
use crate::policy::calendar::Span;
use crate::policy::limit::{LimitKey, Role};
use crate::policy::meter::Algorithm;
use crate::policy::rate::Period;

fn limits(text: &str) -> String {
    with_route("") + &format!("limits: [{{name: a, {text}}}]\n")
}

fn algorithm(text: &str) -> Algorithm {
    good(&limits(text)).limits[0].algorithm.clone()
}

#[test]
fn every_key_of_limits_is_read() {
    let config = good(include_str!("every_key.yaml"));
    let names = |config: &Config| -> Vec<String> {
        config.limits.iter().map(|limit| limit.name.to_string()).collect()
    };
    assert_eq!(names(&config), ["tenant", "tenant:quota", "windows", "slides", "slides:network"]);
    let [tenant, quota, windows, slides, network] = &config.limits[..] else { panic!("five") };
    assert_eq!((&network.key, network.role), (&LimitKey::Network, Role::Escalation));
    let Algorithm::SlidingWindow(hot) = &network.algorithm else { panic!("a window") };
    assert_eq!((hot.period(), hot.tokens()), (Period::Minute, 90 * 16));
    assert_eq!((&quota.key, quota.cost, quota.role), (&tenant.key, tenant.cost, Role::Quota));
    let Algorithm::FixedWindow(month) = &quota.algorithm else { panic!("a window") };
    assert_eq!((month.span(), month.tokens()), (Span::Month, 1_000_000));
    assert!(windows.is_shadow && !slides.is_shadow && !tenant.is_shadow);
    let Algorithm::FixedWindow(day) = &windows.algorithm else { panic!("a window") };
    assert_eq!((day.span(), day.tokens()), (Span::Period(Period::Day), 10_000));
    let Algorithm::SlidingWindow(minute) = &slides.algorithm else { panic!("a window") };
    assert_eq!((minute.period(), minute.tokens()), (Period::Minute, 90));
    let own = &config.routes[0].limits;
    let Algorithm::LeakyBucket(bucket) = &own[0].algorithm else { panic!("a bucket") };
    assert_eq!(bucket.max_delay_ns(), 250_000_000);
    assert_eq!(bucket.drain().burst(), 26, "what 250 ms have time for, and the one that leaves");
    assert_eq!((&*own[1].name, own[1].algorithm.burst()), ("route:users:quota", 9));
}

#[test]
fn a_burst_may_be_left_out_where_the_rate_says_enough() {
    for (text, burst, window_seconds) in [
        ("rate: 100/m, algorithm: fixed_window", 100, 60),
        ("rate: 100/m, burst: 150, algorithm: fixed_window", 150, 60),
        ("rate: 7/h, algorithm: sliding_window", 7, 3_600),
        ("rate: 10/s, algorithm: leaky_bucket", 11, 2),
        ("rate: 10/s, burst: 4, algorithm: leaky_bucket, max_delay: 5s", 4, 1),
    ] {
        let algorithm = algorithm(text);
        let found = (algorithm.burst(), algorithm.window_seconds());
        assert_eq!(found, (burst, window_seconds), "{text}");
    }
    assert_eq!(errors(&limits("rate: 1/s")).len(), 1, "a token bucket needs one");
}

#[test]
fn what_a_limit_cannot_be_is_refused_with_what_it_could() {
    let cases = [
        ("rate: 1/s, burst: 1, max_delay: 1s", "limits[0].max_delay: only a leaky_bucket"),
        ("rate: 1/s, algorithm: fixed_window, max_delay: 1s", "max_delay: only a leaky_bucket"),
        ("rate: 1/s, algorithm: leaky_bucket, max_delay: 61s", "max_delay"),
        ("rate: 1/s, algorithm: leaky_bucket, max_delay: 0s", "max_delay"),
        ("rate: 0/s, algorithm: leaky_bucket", "limits[0].rate"),
        ("rate: 1/s, burst: 0, algorithm: fixed_window", "limits[0].burst"),
        ("rate: 0/s, algorithm: fixed_window", "limits[0].rate"),
        (
            "rate: 16777216/s, algorithm: fixed_window",
            "limits[0].rate: 16777216 tokens a second are more than the limiter can count; at \
             most 16777215 fit",
        ),
        ("rate: 1/s, burst: 16384, algorithm: sliding_window", "limits[0].burst: 16384 tokens"),
        ("rate: 1/s, burst: 1, algorithm: leaky", "limits[0].algorithm"),
        ("rate: 1/s, burst: 1, quota: {limit: 5}", "limits[0].quota"),
        ("rate: 1/s, burst: 1, quota: {per: day}", "limits[0].quota"),
        ("rate: 1/s, burst: 1, quota: {limit: 0, per: day}", "limits[0].quota.limit"),
        ("rate: 1/s, burst: 1, quota: {limit: 5, per: week}", "limits[0].quota.per"),
        (
            "rate: 1/s, burst: 1, quota: {limit: 68719476736, per: day}",
            "limits[0].quota.limit: 68719476736 tokens a day are more than",
        ),
        ("rate: 1/s, burst: 1, shadow: maybe", "limits[0].shadow"),
        ("rate: 1/s, burst: 1, ipv6_escalation: 16", "limits[0].ipv6_escalation: only a limit by"),
        ("rate: 1/s, burst: 1, key: ip, ipv6_escalation: 1", "limits[0].ipv6_escalation"),
        (
            "rate: 9000/s, key: ip, algorithm: sliding_window, ipv6_escalation: 2",
            "limits[0].ipv6_escalation: 18000 tokens a second are more than",
        ),
    ];
    let cases = cases.map(|(text, message)| (limits(text), message));
    refused(&cases.each_ref().map(|(text, message)| (&**text, *message)));
}

#[test]
fn limits_are_shown_as_they_can_be_written() {
    let config = good(include_str!("every_key.yaml"));
    let shown = effective(&config);
    let limits = &shown["limits"];
    assert_eq!(limits.as_array().map(Vec::len), Some(3), "{limits}");
    assert_eq!(limits[0]["quota"], serde_json::json!({"limit": 1_000_000, "per": "month"}));
    assert_eq!(limits[1]["algorithm"], "fixed_window");
    assert_eq!(limits[2]["ipv6_escalation"], 16);
    assert_eq!(limits[1]["shadow"], true);
    let own = &shown["routes"][0]["limit"];
    assert_eq!((&own["max_delay"], &own["name"]), (&"250ms".into(), &serde_json::Value::Null));
}

#[test]
fn limits_are_shared_as_soon_as_there_is_a_store_and_shadows_never() {
    use crate::policy::limit::{OnStoreFailure, Store};
    let store = |redis: &str, text: &str| good(&(redis.to_owned() + &limits(text))).limits[0].store;
    let redis = "redis: {url: \"redis://127.0.0.1:6379\"}\n";
    let shared = Store::Shared;
    for (section, text, expected) in [
        ("", "rate: 1/s, burst: 1", Store::Local),
        (redis, "rate: 1/s, burst: 1", shared(OnStoreFailure::FairShare)),
        (redis, "rate: 1/s, burst: 1, store: local", Store::Local),
        (redis, "rate: 1/s, burst: 1, shadow: true", Store::Local),
        (redis, "rate: 1/s, burst: 1, on_store_failure: allow", shared(OnStoreFailure::Allow)),
        (
            redis,
            "rate: 1/s, burst: 1, store: shared, on_store_failure: deny",
            shared(OnStoreFailure::Deny),
        ),
    ] {
        assert_eq!(store(section, text), expected, "{section}{text}");
    }
    let quota =
        good(&(redis.to_owned() + &limits("rate: 1/s, burst: 1, quota: {limit: 9, per: day}")));
    assert_eq!(quota.limits[1].store, shared(OnStoreFailure::FairShare), "the quota as well");
    let shown = effective(&quota);
    let written = &shown["limits"][0];
    assert_eq!(
        (&written["store"], &written["on_store_failure"]),
        (&"shared".into(), &"fair_share".into())
    );
}

#[test]
fn a_store_that_is_not_there_cannot_be_named() {
    let redis = "redis: {url: \"redis://127.0.0.1:6379\"}\n";
    let cases = [
        ("", "store: shared", "limits[0].store: a shared limit needs a store"),
        ("", "on_store_failure: allow", "limits[0].on_store_failure: this limit is local"),
        (redis, "store: local, on_store_failure: allow", "limits[0].on_store_failure: this limit"),
        (redis, "store: shared, shadow: true", "limits[0].store: a shadow is kept by each"),
        (redis, "store: far", "limits[0].store: \"far\""),
        (redis, "on_store_failure: never", "limits[0].on_store_failure: \"never\""),
    ];
    let cases = cases.map(|(redis, text, message)| {
        (redis.to_owned() + &limits(&format!("rate: 1/s, burst: 1, {text}")), message)
    });
    refused(&cases.each_ref().map(|(text, message)| (&**text, *message)));
}
