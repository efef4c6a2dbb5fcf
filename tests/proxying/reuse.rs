//! Connections to upstreams between requests.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::{Answer, Drops, Gateway, Upstream, ok, until};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst";

/// A gateway that keeps unused connections to this upstream for so long.
fn keeping(upstream: &Upstream, idle: &str) -> Gateway {
    Gateway::builder()
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], timeouts: {{idle: {idle}}}}}",
            upstream.address()
        ))
        .routes("- {name: all, path: /, upstream: main}")
        .start()
}

fn descriptors(gateway: &Gateway) -> usize {
    fs::read_dir(format!("/proc/{}/fd", gateway.process())).unwrap().count()
}

#[test]
fn requests_of_all_clients_share_connections() {
    let upstream = Upstream::new();
    let gateway = keeping(&upstream, "60s");
    for _ in 0..20 {
        assert_eq!(gateway.get("/").status, 200);
    }
    assert_eq!(gateway.client().post("/", &[], b"whole").status, 200);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_unused_connection_is_closed_after_its_time() {
    let upstream = Upstream::new();
    let gateway = keeping(&upstream, "300ms");
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(upstream.open_connections(), 1);
    until("it is closed", || (upstream.open_connections() == 0).then_some(()));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_connection_that_its_upstream_has_closed_is_not_kept() {
    let upstream = Upstream::scripted(|_| Answer::Last(ANSWER.to_vec()));
    let gateway = keeping(&upstream, "1h");
    // Whatever is opened once and for all is open afterwards.
    assert_eq!(gateway.get("/").status, 200);
    let before = descriptors(&gateway);
    for _ in 0..20 {
        assert_eq!(gateway.get("/").status, 200);
    }
    until("nothing is left of them", || (descriptors(&gateway) <= before).then_some(()));
}

#[test]
fn what_an_upstream_says_unasked_answers_nobody() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/first" => Answer::Drip(Drops {
            before: ANSWER.to_vec(),
            bytes: b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong".to_vec(),
            size: 1_000,
            every: Duration::from_millis(100),
            after: Vec::new(),
        }),
        _ => ok("right"),
    });
    let gateway = keeping(&upstream, "1h");
    assert_eq!(gateway.get("/first").text(), "first");
    until("the connection is given up", || (upstream.open_connections() == 0).then_some(()));
    assert_eq!(gateway.get("/second").text(), "right");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn a_connection_that_is_closed_as_it_is_used_again_costs_nobody_an_answer() {
    let requests = AtomicUsize::new(0);
    let upstream = Upstream::scripted(move |_| match requests.fetch_add(1, Ordering::Relaxed) {
        1 => Answer::Hangup,
        _ => ok("fine"),
    });
    let gateway = keeping(&upstream, "1h");
    assert_eq!(gateway.get("/").text(), "fine");
    assert_eq!(gateway.get("/").text(), "fine");
    assert_eq!((upstream.connections(), upstream.attempts()), (2, 3));
}

/// Within 250 ms it cannot be told from a connection that was closed before. This upstream had the
/// request in hand, and a route without `retry` asks nobody twice.
#[test]
fn a_request_that_an_upstream_had_in_hand_is_not_sent_again() {
    let requests = AtomicUsize::new(0);
    let upstream = Upstream::scripted(move |_| match requests.fetch_add(1, Ordering::Relaxed) {
        1 => Answer::After(Duration::from_millis(400), Box::new(Answer::Hangup)),
        _ => ok("fine"),
    });
    let gateway = keeping(&upstream, "1h");
    assert_eq!(gateway.get("/").text(), "fine");
    assert_eq!(gateway.get("/").status, 502);
    assert_eq!((upstream.connections(), upstream.attempts()), (1, 2));
}
