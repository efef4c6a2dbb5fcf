//! Several limits on one request: all of them admit, or none is charged.

use std::fmt::Write as _;

use crate::rig::{BY_HEADER, admitted, assert_limited, get_as, left, rate_limit};
use crate::support::{Gateway, Upstream};

#[test]
fn a_limit_that_refuses_leaves_the_tier_untouched() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .clients(BY_HEADER)
        .tiers("free: {rate: 1/h, burst: 10}")
        .limits("- {name: narrow, key: client, rate: 1/h, burst: 3}")
        .start();
    assert_eq!(admitted(&gateway, 20, &[("X-Client-ID", "c")]), 3);
    assert_limited(&get_as(&gateway, "c", "/"), "narrow", 3_600);
    assert_eq!((left(&gateway, "c", "tier"), left(&gateway, "c", "narrow")), (7, 0));
}

#[test]
fn a_tier_that_refuses_leaves_the_limits_untouched() {
    let upstream = Upstream::new();
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .clients(BY_HEADER)
        .tiers("free: {rate: 1/h, burst: 3}")
        .limits("- {name: wide, key: client, rate: 1/h, burst: 10}")
        .routes("- {name: r, path: /, upstream: main, limit: {rate: 1/h, burst: 9, key: client}}")
        .start();
    assert_eq!(admitted(&gateway, 20, &[("X-Client-ID", "c")]), 3);
    assert_limited(&get_as(&gateway, "c", "/"), "tier", 3_600);
    assert_eq!((left(&gateway, "c", "wide"), left(&gateway, "c", "route:r")), (7, 6));
}

#[test]
fn the_last_limit_to_be_asked_gives_all_others_their_tokens_back() {
    let upstream = Upstream::new();
    let route = "- {name: r, path: /, upstream: main, cost: 3,
                    limit: {rate: 1/h, burst: 6, key: client}}";
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .clients(BY_HEADER)
        .tiers("free: {rate: 1/h, burst: 100}")
        .limits(
            "
            - {name: one, key: client, rate: 1/h, burst: 100}
            - {name: two, key: client, rate: 1/h, burst: 100, cost: 1}",
        )
        .routes(route)
        .start();
    assert_eq!(admitted(&gateway, 50, &[("X-Client-ID", "c")]), 2);
    let now = ["tier", "one", "two", "route:r"].map(|policy| left(&gateway, "c", policy));
    assert_eq!(now, [94, 94, 98, 0]);
}

#[test]
fn of_all_that_refuse_the_longest_wait_is_announced() {
    let upstream = Upstream::new();
    for (tier, limit, policy) in [("1/m", "1/h", "other"), ("1/h", "1/m", "tier")] {
        let gateway = Gateway::before(&upstream)
            .clients(BY_HEADER)
            .tiers(&format!("free: {{rate: {tier}, burst: 1}}"))
            .limits(&format!("- {{name: other, key: client, rate: {limit}, burst: 1}}"))
            .start();
        assert_eq!(get_as(&gateway, "c", "/").status, 200);
        assert_limited(&get_as(&gateway, "c", "/"), policy, 3_600);
    }
}

#[test]
fn an_admitted_request_is_told_about_the_smallest_share_left() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .clients(BY_HEADER)
        .tiers("free: {rate: 1/h, burst: 10}")
        .limits(
            "
            - {name: half, key: client, rate: 1/h, burst: 20}
            - {name: all, key: global, rate: 1/h, burst: 14}",
        )
        .start();
    let (policy, now) = rate_limit(&get_as(&gateway, "a", "/"));
    assert_eq!((&*policy.policy, policy.tokens, now.tokens), ("tier", 10, 9), "9/10 is least");
    let (_, now) = rate_limit(&get_as(&gateway, "b", "/"));
    assert_eq!((&*now.policy, now.tokens), ("all", 12), "12/14 is less than 9/10");
}

#[test]
fn every_limit_of_the_file_is_asked_however_many_there_are() {
    let upstream = Upstream::new();
    let mut limits = String::new();
    for index in 0..31 {
        let _ = writeln!(limits, "- {{name: wide-{index}, key: client, rate: 1/h, burst: 90}}");
    }
    limits.push_str("- {name: last, key: client, rate: 1/h, burst: 2}");
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .clients(BY_HEADER)
        .limits(&limits)
        .routes("- {name: r, path: /, upstream: main, limit: {rate: 1/h, burst: 3, key: client}}")
        .start();
    assert_eq!(admitted(&gateway, 6, &[("X-Client-ID", "c")]), 2);
    assert_limited(&get_as(&gateway, "c", "/"), "last", 3_600);
    assert_eq!(left(&gateway, "c", "route:r"), 1);
}
