//! Windows and quotas: what passes, what is announced, and a change from one to another.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::rig::{
    BY_HEADER, Item, admitted, assert_limited, assert_near, get_as, left, rate_limit,
    seconds_left_today,
};
use crate::support::{Gateway, Upstream};

const ME: &[(&str, &str)] = &[("X-Client-ID", "c")];

fn gateway(upstream: &Upstream, limits: &str) -> Gateway {
    Gateway::before(upstream).clients(BY_HEADER).limits(limits).start()
}

#[test]
fn a_fixed_window_counts_to_its_border_in_utc() {
    let upstream = Upstream::new();
    let gateway =
        gateway(&upstream, "- {name: day, key: client, rate: 3/d, algorithm: fixed_window}");
    let left_today = seconds_left_today();
    for taken in 1..=3 {
        let (policy, now) = rate_limit(&get_as(&gateway, "c", "/"));
        assert_eq!(policy, Item { policy: "day".to_owned(), tokens: 3, seconds: 86_400 });
        assert_eq!(now.tokens, 3 - taken);
        assert_near(now.seconds, left_today);
    }
    let refused = get_as(&gateway, "c", "/");
    assert_limited(&refused, "day", left_today);
    assert_eq!(rate_limit(&refused).1.tokens, 0);
    assert_eq!(left(&gateway, "c", "day"), 0);
    assert_eq!(left(&gateway, "other", "day"), 3, "nobody else's window");
}

#[test]
fn a_fixed_window_begins_anew_with_every_second_of_the_clock_on_the_wall() {
    let upstream = Upstream::new();
    let gateway =
        gateway(&upstream, "- {name: w, key: client, rate: 5/s, algorithm: fixed_window}");
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut client = gateway.client();
    let (start, first) = (Instant::now(), second());
    let mut passed = 0;
    while start.elapsed() < Duration::from_millis(2_500) {
        passed += u64::from(client.get_with("/", ME).status == 200);
    }
    let windows = second() - first + 1;
    assert!((5 * (windows - 1)..=5 * windows).contains(&passed), "{passed} in {windows} windows");
}

#[test]
fn a_sliding_window_has_a_window_s_worth_and_says_when_more_comes() {
    let upstream = Upstream::new();
    let limit = "- {name: slide, key: client, rate: 4/h, algorithm: sliding_window}";
    let gateway = gateway(&upstream, limit);
    assert_eq!(admitted(&gateway, 10, ME), 4);
    let refused = get_as(&gateway, "c", "/");
    assert_eq!(refused.json()["policy"], "slide");
    let (policy, now) = rate_limit(&refused);
    assert_eq!((policy.tokens, policy.seconds, now.tokens), (4, 3_600, 0));
    assert!((3_600..=7_200).contains(&now.seconds), "this window and the next: {now:?}");
    let retry: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((900..=4_500).contains(&retry), "until a quarter has slid out: {retry}");
}

#[test]
fn a_quota_stands_beside_its_limit_and_both_must_pass() {
    let upstream = Upstream::new();
    let gateway = gateway(
        &upstream,
        "
         - {name: api, key: client, rate: 2/h, burst: 3, quota: {limit: 5, per: day}}
         - {name: far, key: global, rate: 1000/s, burst: 1000, quota: {limit: 1000000, per: month}}",
    );
    let left_today = seconds_left_today();
    assert_eq!(admitted(&gateway, 10, ME), 3);
    assert_limited(&get_as(&gateway, "c", "/"), "api", 1_800);
    assert_eq!(left(&gateway, "c", "api:quota"), 2, "what the rate refuses costs no quota");
    let limits = gateway.admin_get("/limits").json();
    let policies: Vec<_> = limits["limits"].as_array().unwrap().iter().collect();
    let names: Vec<_> = policies.iter().map(|limit| limit["policy"].as_str().unwrap()).collect();
    assert_eq!(names, ["api", "api:quota", "far", "far:quota"]);
    assert_eq!(
        (&policies[1]["rate"], &policies[3]["rate"]),
        (&"5/d".into(), &"1000000/month".into())
    );

    // A day's quota that is used up first.
    let other =
        "- {name: api, key: client, rate: 9/h, burst: 9, cost: 1, quota: {limit: 2, per: day}}";
    gateway.rewrite(&Gateway::before(&upstream).clients(BY_HEADER).limits(other));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(left(&gateway, "c", "api:quota"), 0, "the count of the day goes on");
    assert_eq!(admitted(&gateway, 5, &[("X-Client-ID", "d")]), 2);
    let refused = get_as(&gateway, "d", "/");
    assert_limited(&refused, "api:quota", left_today);
    assert_eq!(rate_limit(&refused).0.seconds, 86_400);
    let series = gateway.series();
    let counted = series.of("gateway_rate_limited_total");
    assert!(counted.iter().any(|labels| labels.contains("api:quota")), "{counted:?}");
}

#[test]
fn a_month_s_quota_is_of_the_longest_month_in_the_headers() {
    let upstream = Upstream::new();
    let limit = "- {name: m, key: client, rate: 99/s, burst: 99, quota: {limit: 2, per: month}}";
    let gateway = gateway(&upstream, limit);
    seconds_left_today();
    let (policy, now) = rate_limit(&get_as(&gateway, "c", "/"));
    let quota = Item { policy: "m:quota".to_owned(), tokens: 2, seconds: 31 * 86_400 };
    assert_eq!((policy, now.tokens), (quota, 1));
    assert!((1..=31 * 86_400).contains(&now.seconds), "{now:?}");
    assert_eq!(get_as(&gateway, "c", "/").status, 200);
    let refused = get_as(&gateway, "c", "/");
    assert_eq!((refused.status, &refused.json()["policy"]), (429, &"m:quota".into()));
    assert_near(refused.header("retry-after").unwrap().parse().unwrap(), now.seconds);
}

#[test]
fn another_algorithm_under_the_same_name_begins_anew_and_the_same_one_goes_on() {
    let upstream = Upstream::new();
    seconds_left_today();
    let with = |algorithm: &str| {
        let limit =
            format!("- {{name: l, key: client, rate: 3/d, burst: 3, algorithm: {algorithm}}}");
        Gateway::before(&upstream).clients(BY_HEADER).limits(&limit)
    };
    let gateway = with("token_bucket").start();
    assert_eq!(admitted(&gateway, 5, ME), 3);
    for (algorithm, fresh) in [
        ("fixed_window", 3),
        ("fixed_window", 0),
        ("sliding_window", 3),
        ("token_bucket", 0),
        ("sliding_window", 0),
        ("fixed_window", 0),
    ] {
        gateway.rewrite(&with(algorithm));
        assert_eq!(gateway.reload().status, 200);
        assert_eq!(left(&gateway, "c", "l"), fresh, "{algorithm}");
        assert_eq!(admitted(&gateway, 5, ME), fresh as usize, "{algorithm}");
    }
}
