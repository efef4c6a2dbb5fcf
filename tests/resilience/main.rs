//! Failing upstreams stay contained.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod rig;

use support::{Link, Upstream, fault};

#[test]
fn the_rig_starts_a_gateway_and_reads_what_it_says() {
    let upstream = Upstream::new();
    let link = Link::to(upstream.address());
    let gateway =
        rig::before(&[link.address()]).upstream("timeouts: {connect: 2s}").route("cost: 2").start();
    assert_eq!(gateway.get("/a").status, 200);
    upstream.switch_to(fault::status(500));
    assert_eq!(gateway.get("/b").status, 500);
    link.cut();
    assert_eq!(gateway.get("/c").status, 502);
    let log = rig::log_entries(&gateway, 3);
    let said: Vec<(&str, u64)> = log
        .iter()
        .map(|entry| (entry["path"].as_str().unwrap(), entry["status"].as_u64().unwrap()))
        .collect();
    assert_eq!(said, [("/a", 200), ("/b", 500), ("/c", 502)]);
    assert_eq!(upstream.attempts(), 2);
    rig::settled(&gateway);
}
