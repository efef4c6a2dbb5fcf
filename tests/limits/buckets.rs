//! One bucket: its burst, its refill, and what a client is told about it.

use std::time::{Duration, Instant};

use crate::rig::{BY_HEADER, Item, admitted, assert_limited, assert_near, get_as, rate_limit};
use crate::support::{Answer, Gateway, Upstream, until};

fn item(policy: &str, tokens: u64, seconds: u64) -> Item {
    Item { policy: policy.to_owned(), tokens, seconds }
}

#[test]
fn a_full_bucket_admits_its_burst_and_not_one_more() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 1/h, burst: 7}").start();
    let mut client = gateway.client();
    let statuses: Vec<u16> = (0..9).map(|_| client.get("/").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 429, 429]);
    assert_eq!(upstream.requests().len(), 7, "what is refused reaches nobody");
}

#[test]
fn every_answer_says_what_is_left_until_when() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 1/h, burst: 3}").start();
    let mut client = gateway.client();
    for taken in 1..=3 {
        let reply = client.get("/");
        assert_eq!(reply.status, 200);
        let (policy, now) = rate_limit(&reply);
        assert_eq!(policy, item("tier", 3, 10_800));
        assert_eq!((&*now.policy, now.tokens), ("tier", 3 - taken));
        assert_near(now.seconds, taken * 3_600);
        assert_eq!(reply.header("retry-after"), None);
    }
    let reply = client.get("/");
    assert_limited(&reply, "tier", 3_600);
    let (policy, now) = rate_limit(&reply);
    assert_eq!((policy, now.tokens), (item("tier", 3, 10_800), 0));
    assert_near(now.seconds, 10_800);
    assert!(!reply.says_close(), "a refusal keeps the connection");
}

#[test]
fn the_window_is_the_burst_over_the_rate_rounded_up() {
    let upstream = Upstream::new();
    for (tier, window) in [
        ("{rate: 20/s, burst: 200}", 10),
        ("{rate: 3/s, burst: 10}", 4),
        ("{rate: 100/m, burst: 100}", 60),
        ("{rate: 1000/s, burst: 1}", 1),
        ("{rate: 2/d, burst: 1}", 43_200),
    ] {
        let gateway = Gateway::before(&upstream).tiers(&format!("free: {tier}")).start();
        let (policy, now) = rate_limit(&gateway.get("/"));
        assert_eq!(policy.seconds, window, "{tier}");
        assert!((1..=window).contains(&now.seconds), "{tier}: {now:?}");
    }
}

#[test]
fn waiting_as_long_as_announced_is_enough() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 30/m, burst: 2}").start();
    let mut client = gateway.client();
    assert_eq!((client.get("/").status, client.get("/").status), (200, 200));
    let refused = client.get("/");
    let start = Instant::now();
    assert_limited(&refused, "tier", 2);
    let wait = Duration::from_secs(refused.header("retry-after").unwrap().parse().unwrap());
    until("the announced wait is over", || (start.elapsed() >= wait).then_some(()));
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.get("/").status, 429, "one token came, not two");
}

#[test]
fn over_a_span_no_more_than_burst_and_rate_allow_is_admitted() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 10/s, burst: 5}").start();
    let mut client = gateway.client();
    let start = Instant::now();
    let (mut admitted, mut last) = (0, Duration::ZERO);
    while start.elapsed() < Duration::from_millis(2_500) {
        if client.get("/").status == 200 {
            admitted += 1;
            last = start.elapsed();
        }
    }
    let most = 5.0 + last.as_secs_f64() * 10.0;
    assert!(f64::from(admitted) <= most, "{admitted} of at most {most}");
    assert!(f64::from(admitted) >= 27.0, "{admitted} of 5 and 25, asked for without a pause");
}

#[test]
fn an_answer_of_the_upstream_says_it_whatever_its_status() {
    let text = b"HTTP/1.1 503 Service Unavailable\r\nRateLimit: \"theirs\";r=9\r\n\
                 RateLimit-Policy: \"theirs\";q=9\r\nContent-Length: 0\r\n\r\n";
    let upstream = Upstream::answering(Answer::Bytes(text.to_vec()));
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 1/h, burst: 3}").start();
    let reply = gateway.get("/");
    assert_eq!(reply.status, 503);
    let (policy, now) = rate_limit(&reply);
    assert_eq!((&*policy.policy, now.tokens), ("tier", 2), "the gateway's own, and only once");
}

#[test]
fn the_older_headers_come_where_they_are_asked_for() {
    let upstream = Upstream::new();
    let without = Gateway::before(&upstream).tiers("free: {rate: 1/h, burst: 1}").start();
    for status in [200, 429] {
        let reply = without.get("/");
        assert_eq!((reply.status, reply.header("x-ratelimit-limit")), (status, None));
    }
    let with = Gateway::before(&upstream)
        .server("x_ratelimit_headers: true")
        .tiers("free: {rate: 1/h, burst: 1}")
        .start();
    for status in [200, 429] {
        let reply = with.get("/");
        assert_eq!(reply.status, status);
        assert_eq!(reply.header("x-ratelimit-limit"), Some("1"));
        assert_eq!(reply.header("x-ratelimit-remaining"), Some("0"));
        assert_near(reply.header("x-ratelimit-reset").unwrap().parse().unwrap(), 3_600);
    }
}

#[test]
fn tiers_differ_and_their_names_have_no_case() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .clients(&format!("{BY_HEADER}\nknown: {{gold: {{tier: PREMIUM}}, plain: {{}}}}"))
        .tiers("free: {rate: 1/h, burst: 2}\npremium: {rate: 1/h, burst: 5}")
        .start();
    assert_eq!(admitted(&gateway, 8, &[("X-Client-ID", "gold")]), 5);
    assert_eq!(admitted(&gateway, 8, &[("X-Client-ID", "plain")]), 2, "the default tier");
    assert_eq!(admitted(&gateway, 8, &[("X-Client-ID", "stranger")]), 2, "the default tier");
}

#[test]
fn the_four_tiers_are_there_without_a_word() {
    let upstream = Upstream::new();
    let known = ["free", "basic", "premium", "enterprise"].map(|t| format!("{t}: {{tier: {t}}}"));
    let gateway = Gateway::before(&upstream)
        .clients(&format!("{BY_HEADER}\nknown: {{{}}}", known.join(", ")))
        .tiers("")
        .start();
    for (tier, burst, window) in
        [("free", 10, 10), ("basic", 50, 10), ("premium", 200, 10), ("enterprise", 1_000, 10)]
    {
        let (policy, now) = rate_limit(&get_as(&gateway, tier, "/"));
        assert_eq!(policy, item("tier", burst, window), "{tier}");
        assert_eq!(now, item("tier", burst - 1, 1), "{tier}");
    }
}
