//! Many at once, and many who never were.

use std::sync::Arc;
use std::thread;

use crate::rig::{BY_HEADER, admitted, rate_limit};
use crate::support::{Gateway, Upstream};

/// Runs `each` on so many threads and adds up what they return.
fn on_threads(count: usize, each: impl Fn(usize) -> usize + Send + Sync + 'static) -> usize {
    let each = Arc::new(each);
    let threads: Vec<_> = (0..count)
        .map(|index| {
            let each = Arc::clone(&each);
            thread::spawn(move || each(index))
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
}

#[test]
fn fifty_connections_at_once_get_exactly_what_the_bucket_holds() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .server("workers: 4")
        .tiers("free: {rate: 1/h, burst: 100}")
        .start();
    let data = gateway.data;
    let admitted = on_threads(50, move |_| {
        let mut client = crate::support::Client::connect(data);
        (0..20).filter(|_| client.get("/").status == 200).count()
    });
    assert_eq!(admitted, 100);
    assert_eq!(upstream.requests().len(), 100);
    let limits = gateway.admin_get("/limits").json();
    assert_eq!(
        (&limits["tiers"][0]["allowed"], &limits["tiers"][0]["limited"]),
        (&100.into(), &900.into())
    );
}

#[test]
fn two_limits_under_pressure_admit_exactly_the_smaller() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .server("workers: 4")
        .tiers("free: {rate: 1/h, burst: 1000}")
        .limits("- {name: all, key: global, rate: 1/h, burst: 70}")
        .start();
    let data = gateway.data;
    let admitted = on_threads(20, move |_| {
        let mut client = crate::support::Client::connect(data);
        (0..20).filter(|_| client.get("/").status == 200).count()
    });
    assert_eq!(admitted, 70);
    let shown = gateway.admin_get("/clients?ip=127.0.0.1").json();
    assert_eq!(shown["limits"][0]["tokens_remaining"], 930, "every refusal gave its token back");
}

#[test]
fn invented_ids_neither_free_a_limited_client_nor_grow_memory() {
    let upstream = Upstream::new();
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .clients(&format!("{BY_HEADER}\nknown: {{member: {{tier: gold}}}}"))
        .tiers("free: {rate: 1/h, burst: 3}\ngold: {rate: 1/h, burst: 40}")
        .limits("")
        .routes("- {name: all, path: /, upstream: main}")
        .limiter("slots: 1024")
        .start();
    assert_eq!(admitted(&gateway, 5, &[("X-Client-ID", "victim")]), 3);
    let flood = |from: usize, to: usize| {
        let data = gateway.data;
        on_threads(4, move |thread| {
            let mut client = crate::support::Client::connect(data);
            let ids = (from..to).filter(|id| id % 4 == thread).map(|id| format!("invented-{id}"));
            ids.filter(|id| client.get_with("/", &[("X-Client-ID", id)]).status == 200).count()
        })
    };
    flood(0, 2_000);
    let before = gateway.resident_bytes();
    let passed = flood(2_000, 20_000);
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
    assert_eq!(admitted(&gateway, 3, &[("X-Client-ID", "victim")]), 0, "still limited");
    assert!(passed < 1_000, "a full table admits few who are new: {passed} of 18 000");
    let member = [("X-Client-ID", "member")];
    assert_eq!(admitted(&gateway, 50, &member), 40, "a registered client finds room");
    let series = gateway.series();
    let slots =
        |state: &str| series.value(&format!("gateway_limiter_table_slots{{state=\"{state}\"}}"));
    assert_eq!(slots("used") + slots("free"), 1_024.0);
    assert!(series.value("gateway_limiter_overflow_total") > 10_000.0);
    let table = &gateway.admin_get("/limits").json()["table"];
    assert_eq!((&table["slots"], &table["bytes"]), (&1_024.into(), &16_384.into()));
    assert!(table["overflowed"].as_u64().unwrap() > 10_000);
}

#[test]
fn a_client_without_room_in_the_table_is_shown_with_the_bucket_it_shares() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .clients(BY_HEADER)
        .tiers("free: {rate: 1/h, burst: 3}")
        .limits("- {name: other, key: client, rate: 1/m, burst: 70, cost: 1}")
        .limiter("slots: 1024")
        .start();
    let mut client = gateway.client();
    for id in 0..1_500 {
        client.get_with("/", &[("X-Client-ID", &format!("invented-{id}"))]);
    }
    let mut shared = 0;
    for id in (0..1_500).step_by(10) {
        let told = gateway.admin_get(&format!("/explain?path=/&client=invented-{id}")).json();
        let shown = gateway.admin_get(&format!("/clients/invented-{id}")).json();
        for (told, shown) in [0, 1].map(|n| (&told["limits"][n], &shown["limits"][n])) {
            assert_eq!(shown["policy"], told["policy"], "{id}");
            let is_shared = shown["shared_bucket"] == true;
            assert_eq!(is_shared, told["shared_bucket"] == true, "{id}: {shown} {told}");
            if is_shared {
                shared += 1;
                assert_eq!(shown["tokens_remaining"], told["tokens_remaining"], "{id}");
                assert_eq!((&shown["capacity"], &told["burst"]), (&3.into(), &3.into()), "{id}");
                let wait = shown["retry_after_seconds"].as_u64().unwrap();
                assert_eq!(wait > 0, told["refuses"] == true, "{id}: {shown} {told}");
            }
        }
    }
    assert!(shared > 10, "{shared}");
}

#[test]
fn a_shared_bucket_of_a_crowded_table_tells_its_own_figures() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .clients(&format!("{BY_HEADER}\nknown: {{vip: {{tier: gold}}}}"))
        .tiers("free: {rate: 1/h, burst: 90}\ngold: {rate: 100000/s, burst: 1000000}")
        .limits("- {name: tenants, key: {header: X-Tenant}, rate: 1/m, burst: 2}")
        .limiter("slots: 1024")
        .start();
    let mut client = gateway.client();
    let mut shared = 0;
    for id in 0..2_500 {
        let headers = [("X-Client-ID", "vip"), ("X-Tenant", &*format!("invented-{id}"))];
        let (policy, now) = rate_limit(&client.get_with("/", &headers));
        assert_eq!((&*policy.policy, &*now.policy), ("tenants", "tenants"), "{id}");
        assert!(now.tokens <= policy.tokens, "{id}: {policy:?} {now:?}");
        assert!(now.seconds <= policy.seconds, "{id}: {policy:?} {now:?}");
        shared += usize::from(policy.tokens == 90);
    }
    assert!(shared > 1_000, "the overflow bucket has the default tier's limit: {shared}");
}
