//! The leaky bucket: requests that wait for their turn.

use std::time::{Duration, Instant};

use crate::rig::{BY_HEADER, assert_limited, left};
use crate::support::{Client, Gateway, Upstream, until};

/// Two a second, and a queue of two: one that leaves at once, and four behind it.
const LIMIT: &str =
    "- {name: pace, key: client, rate: 2/s, algorithm: leaky_bucket, max_delay: 2s, cost: 1}";
const INTERVAL: Duration = Duration::from_millis(500);

fn gateway(upstream: &Upstream, limits: &str) -> Gateway {
    // A small table: its occupancy is counted for every look at the limits.
    Gateway::before(upstream).clients(BY_HEADER).limiter("slots: 1024").limits(limits).start()
}

/// Sends a request, and comes back when the gateway has charged it.
fn send(gateway: &Gateway, target: &str, charged: u64) -> Client {
    let mut client = gateway.client();
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\nX-Client-ID: c\r\n\r\n"));
    until("the request is charged", || {
        let limits = gateway.admin_get("/limits").json();
        (limits["limits"][0]["allowed"].as_u64() >= Some(charged)).then_some(())
    });
    client
}

#[test]
fn requests_leave_evenly_and_in_the_order_in_which_they_came() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream, LIMIT);
    let start = Instant::now();
    let mut first = gateway.client();
    assert_eq!(first.get_with("/0", &[("X-Client-ID", "c")]).status, 200);
    assert!(start.elapsed() < INTERVAL, "the first waits for nobody");
    let mut clients: Vec<Client> =
        (1..=4).map(|n| send(&gateway, &format!("/{n}"), n + 1)).collect();
    assert_eq!(left(&gateway, "c", "pace"), 0);
    let refused = gateway.client().get_with("/5", &[("X-Client-ID", "c")]);
    assert_limited(&refused, "pace", 1);
    let other = gateway.client().get_with("/other", &[("X-Client-ID", "d")]);
    assert_eq!(other.status, 200, "another client has a queue of its own");
    assert!(start.elapsed() < 4 * INTERVAL, "and does not wait for this one");
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    let requests = upstream.requests();
    let mine: Vec<_> = requests.iter().filter(|r| r.head.target() != "/other").collect();
    let targets: Vec<_> = mine.iter().map(|request| request.head.target()).collect();
    assert_eq!(targets, ["/0", "/1", "/2", "/3", "/4"]);
    for (place, request) in mine.iter().enumerate() {
        let waited = request.at - start;
        assert!(waited >= INTERVAL * place as u32, "{place} after {waited:?}");
    }
    for pair in mine.windows(2) {
        let pause = pair[1].at - pair[0].at;
        // Each may be a little late by itself.
        assert!(pause > INTERVAL / 2, "{pause:?}");
    }
}

#[test]
fn who_leaves_the_end_of_the_queue_gives_everything_back() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .clients(BY_HEADER)
        .tiers("free: {rate: 1/h, burst: 9}")
        .limits("- {name: pace, key: client, rate: 1/m, algorithm: leaky_bucket, max_delay: 60s}")
        .start();
    assert_eq!(gateway.client().get_with("/", &[("X-Client-ID", "c")]).status, 200);
    let waiting = send(&gateway, "/never", 2);
    assert_eq!((left(&gateway, "c", "pace"), left(&gateway, "c", "tier")), (0, 7));
    drop(waiting);
    until("the place is free again", || (left(&gateway, "c", "pace") == 1).then_some(()));
    assert_eq!(left(&gateway, "c", "tier"), 8, "nothing was done for it");
    assert_eq!(upstream.targets(), ["/"]);
}

#[test]
fn what_cannot_be_done_in_the_route_s_time_is_not_held_back() {
    let upstream = Upstream::new();
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .clients(BY_HEADER)
        .routes(
            "- {name: r, path: /, upstream: main, timeout: 2s, limit: {rate: 1/m,
                algorithm: leaky_bucket, max_delay: 60s}}",
        )
        .start();
    let get = || gateway.client().get_with("/", &[("X-Client-ID", "c")]);
    assert_eq!(get().status, 200);
    let foretold = gateway.admin_get("/explain?path=/&client=c").json()["answer"].clone();
    let start = Instant::now();
    let refused = get();
    assert!(start.elapsed() < Duration::from_secs(2), "at once");
    let problem = refused.json();
    assert_eq!((refused.status, &problem["policy"]), (504, &"route:r".into()), "{problem}");
    assert_eq!(problem["type"], "urn:tollgate:problem:held-too-long");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("the limit route:r would hold the request back"), "{detail}");
    assert_eq!(
        (&foretold["status"], &foretold["refusal"], &foretold["refused_by"]),
        (&504.into(), &"held-too-long".into(), &"route:r".into()),
        "{foretold}"
    );
    let delay = foretold["delay_seconds"].as_f64().unwrap();
    assert!((50.0..=60.0).contains(&delay), "{foretold}");
    assert_eq!(left(&gateway, "c", "route:r"), 1, "and it keeps nobody else waiting");
}

#[test]
fn a_limit_that_refuses_puts_nobody_in_the_queue() {
    let upstream = Upstream::new();
    let gateway = gateway(
        &upstream,
        "
         - {name: pace, key: client, rate: 1/m, algorithm: leaky_bucket, max_delay: 60s}
         - {name: few, key: client, rate: 1/h, burst: 1}",
    );
    let get = || gateway.client().get_with("/", &[("X-Client-ID", "c")]);
    assert_eq!(get().status, 200);
    let before = left(&gateway, "c", "pace");
    for _ in 0..3 {
        assert_limited(&get(), "few", 3_600);
    }
    assert_eq!(left(&gateway, "c", "pace"), before);
}
