//! How many may be in flight: at an upstream, in the queue for it, and of one client.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::{
    TOKENS, circuit, expect_attempts, expect_nothing_held, failing, get, half_open, list, sent,
    tokens, told,
};
use crate::support::{Answer, Client, End, Gate, Gateway, Upstream, fault, ok, until};

/// Clients `gold` and `free-…` of a tier above and one below.
const TWO_TIERS: &str = "free: {rate: 1/h, burst: 1000}\ngold: {rate: 2/h, burst: 1000}";
const CLIENTS: &str = "identify: [{header: X-Client-ID}, ip]\ndefault_tier: free\n\
                       known: {gold: {tier: gold}}";

fn gateway(upstream: &Upstream, keys: &str, tiers: &str) -> Gateway {
    Gateway::builder()
        .server("workers: 2")
        .clients(CLIENTS)
        .tiers(tiers)
        .upstreams(&format!("main: {{servers: {}, {keys}}}", list([upstream])))
        .routes("- {name: all, path: /, upstream: main}")
        .start()
}

fn held() -> (Gate, Upstream) {
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("at last"))));
    (gate, upstream)
}

/// What GET /upstreams says of the places.
#[track_caller]
fn places(gateway: &Gateway) -> Value {
    gateway.admin_get("/upstreams").json()[0]["concurrency"].clone()
}

#[track_caller]
fn until_queued(gateway: &Gateway, count: u64) {
    until(&format!("{count} wait"), || (places(gateway)["queued"] == count).then_some(()));
}

/// A request that has a place and is held by the upstream.
#[track_caller]
fn holding(gateway: &Gateway, upstream: &Upstream) -> Client {
    let before = upstream.attempts();
    let client = sent(gateway, "holder", "/holder");
    upstream.wait_for(before + 1);
    client
}

#[test]
fn the_cap_is_never_exceeded_and_the_queue_serves_everybody() {
    let upstream = Upstream::answering(fault::slow(Duration::from_millis(20), ok("well")));
    let gateway =
        gateway(&upstream, "concurrency: {max: 3, queue: 100, queue_timeout: 10s}", TWO_TIERS);
    thread::scope(|scope| {
        for client in 0..24 {
            let gateway = &gateway;
            scope.spawn(move || {
                for _ in 0..4 {
                    assert_eq!(get(gateway, &format!("free-{client}"), "/").what, "200");
                }
            });
        }
    });
    assert_eq!(upstream.max_in_flight(), 3);
    expect_attempts(&gateway, "main", &[("ok", 96)]);
    expect_nothing_held(&gateway);
}

#[test]
fn who_waits_too_long_for_a_place_is_refused_for_nothing() {
    let (gate, upstream) = held();
    let wait = Duration::from_millis(300);
    let gateway =
        gateway(&upstream, "concurrency: {max: 1, queue: 5, queue_timeout: 300ms}", TWO_TIERS);
    let mut first = holding(&gateway, &upstream);
    let seen = get(&gateway, "late", "/");
    assert_eq!(
        (seen.what.as_str(), seen.header("retry-after")),
        ("503 upstream-saturated", Some("1"))
    );
    assert!(seen.took >= wait, "{:?}", seen.took);
    assert_eq!((seen.header("ratelimit"), tokens(&gateway, "late")), (None, TOKENS));
    assert_eq!(upstream.attempts(), 1);
    gate.open();
    assert_eq!(first.reply().status, 200);
    assert_eq!(tokens(&gateway, "holder"), TOKENS - 1);
    assert_eq!(get(&gateway, "late", "/").what, "200");
    expect_nothing_held(&gateway);
}

#[test]
fn without_a_queue_and_with_a_full_one_nobody_waits() {
    for queue in [0, 1] {
        let (gate, upstream) = held();
        let keys = format!("concurrency: {{max: 1, queue: {queue}, queue_timeout: 1m}}");
        let gateway = gateway(&upstream, &keys, TWO_TIERS);
        let mut served = vec![holding(&gateway, &upstream)];
        if queue == 1 {
            served.push(sent(&gateway, "free-1", "/"));
            until_queued(&gateway, 1);
        }
        let seen = get(&gateway, "free-2", "/");
        assert_eq!(seen.what, "503 upstream-saturated");
        assert!(seen.took < Duration::from_secs(5), "{:?}", seen.took);
        assert_eq!(tokens(&gateway, "free-2"), TOKENS);
        gate.open();
        served.iter_mut().for_each(|client| assert_eq!(client.reply().status, 200));
        assert_eq!(upstream.max_in_flight(), 1);
        expect_nothing_held(&gateway);
    }
}

#[test]
fn a_place_goes_to_the_highest_tier_that_waits() {
    let (gate, upstream) = held();
    let gateway =
        gateway(&upstream, "concurrency: {max: 1, queue: 10, queue_timeout: 1m}", TWO_TIERS);
    let mut clients = vec![holding(&gateway, &upstream)];
    for (waiting, client) in (1..).zip(["free-1", "free-2", "gold", "free-3"]) {
        clients.push(sent(&gateway, client, &format!("/{client}")));
        until_queued(&gateway, waiting);
    }
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.reply().status, 200));
    assert_eq!(upstream.targets(), ["/holder", "/gold", "/free-1", "/free-2", "/free-3"]);
    assert_eq!(upstream.max_in_flight(), 1);
}

#[test]
fn when_the_queue_is_full_the_lowest_tier_is_shed_first() {
    let (gate, upstream) = held();
    let gateway =
        gateway(&upstream, "concurrency: {max: 1, queue: 2, queue_timeout: 1m}", TWO_TIERS);
    let mut first = holding(&gateway, &upstream);
    let mut free: Vec<Client> = Vec::new();
    for (waiting, client) in (1..).zip(["free-1", "free-2"]) {
        free.push(sent(&gateway, client, &format!("/{client}")));
        until_queued(&gateway, waiting);
    }
    let mut gold: Vec<Client> = Vec::new();
    for _ in 0..2 {
        gold.push(sent(&gateway, "gold", "/gold"));
    }
    for client in &mut free {
        let reply = client.reply();
        assert_eq!(told(&reply), "503 upstream-saturated");
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert!(reply.text().contains("higher tier"), "{}", reply.text());
    }
    assert_eq!([tokens(&gateway, "free-1"), tokens(&gateway, "free-2")], [TOKENS; 2]);
    // Among equals nobody is shed for the other.
    assert_eq!(get(&gateway, "gold", "/").what, "503 upstream-saturated");
    gate.open();
    assert_eq!(first.reply().status, 200);
    gold.iter_mut().for_each(|client| assert_eq!(client.reply().status, 200));
    assert_eq!(upstream.targets(), ["/holder", "/gold", "/gold"]);
    expect_nothing_held(&gateway);
}

#[test]
fn a_client_has_no_more_in_flight_than_its_tier_allows() {
    let (gate, upstream) = held();
    let tiers = "free: {rate: 1/h, burst: 1000, concurrency: 2}\ngold: {rate: 2/h, burst: 1000}";
    let gateway = gateway(&upstream, "", tiers);
    let mut clients: Vec<Client> = (0..2).map(|_| sent(&gateway, "free-1", "/")).collect();
    upstream.wait_for(2);
    let start = Instant::now();
    let seen = get(&gateway, "free-1", "/");
    assert_eq!(
        (seen.what.as_str(), seen.header("retry-after")),
        ("503 client-concurrency", Some("1"))
    );
    assert!(start.elapsed() < Duration::from_secs(5), "it does not wait");
    assert_eq!(tokens(&gateway, "free-1"), TOKENS - 2);
    assert_eq!(upstream.attempts(), 2);
    for client in ["free-2", "gold", "gold", "gold"] {
        clients.push(sent(&gateway, client, "/"));
    }
    upstream.wait_for(6);
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.reply().status, 200));
    expect_nothing_held(&gateway);
    assert_eq!(get(&gateway, "free-1", "/").what, "200");
}

#[test]
fn gauges_show_who_is_served_and_who_waits() {
    let (gate, upstream) = held();
    let gateway =
        gateway(&upstream, "concurrency: {max: 2, queue: 10, queue_timeout: 1m}", TWO_TIERS);
    assert_eq!(places(&gateway), serde_json::json!({"max": 2, "used": 0, "queued": 0}));
    let mut clients: Vec<Client> = (0..2).map(|_| holding(&gateway, &upstream)).collect();
    clients.extend((0..3).map(|_| sent(&gateway, "waiting", "/")));
    until_queued(&gateway, 3);
    assert_eq!(places(&gateway), serde_json::json!({"max": 2, "used": 2, "queued": 3}));
    let series = gateway.series();
    assert_eq!(series.value("gateway_upstream_concurrency{upstream=\"main\"}"), 2.0);
    assert_eq!(series.value("gateway_upstream_queued{upstream=\"main\"}"), 3.0);
    assert_eq!(series.value("gateway_inflight_requests{route=\"all\"}"), 5.0);
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.reply().status, 200));
    expect_nothing_held(&gateway);
}

#[test]
fn clients_that_go_away_leave_their_places_and_the_queue() {
    let upstream = failing(fault::silent());
    let gateway =
        gateway(&upstream, "concurrency: {max: 2, queue: 10, queue_timeout: 1m}", TWO_TIERS);
    for round in 1..=20 {
        let holders = [(); 2].map(|()| sent(&gateway, "holder", "/"));
        upstream.wait_for(2 * round);
        drop(holders);
        expect_nothing_held(&gateway);
    }
    let holders = [(); 2].map(|()| holding(&gateway, &upstream));
    upstream.switch_back();
    let mut waiting = sent(&gateway, "free-1", "/");
    until_queued(&gateway, 1);
    drop(holders);
    assert_eq!(waiting.reply().status, 200, "a place that came free is handed on");
    expect_nothing_held(&gateway);
}

#[test]
fn a_request_keeps_its_place_over_all_its_attempts() {
    let upstream = Upstream::answering(fault::slow(Duration::from_millis(5), fault::status(503)));
    let gateway = Gateway::builder()
        .clients(CLIENTS)
        .tiers(TWO_TIERS)
        .upstreams(&format!(
            "main: {{servers: {}, concurrency: {{max: 2, queue: 50, queue_timeout: 10s}}}}",
            list([&upstream])
        ))
        .routes(
            "- {name: all, path: /, upstream: main, \
             retry: {attempts: 2, budget: 100%, backoff: {base: 1ms, max: 1ms}}}",
        )
        .start();
    thread::scope(|scope| {
        for client in 0..10 {
            let gateway = &gateway;
            scope.spawn(move || {
                assert_eq!(get(gateway, &format!("free-{client}"), "/").what, "503");
            });
        }
    });
    assert!(upstream.attempts() > 10, "there were retries");
    assert_eq!(upstream.max_in_flight(), 2);
    expect_nothing_held(&gateway);
}

#[test]
fn who_gets_no_place_gives_its_probe_back() {
    let (gate, upstream) = held();
    let gateway = gateway(
        &upstream,
        "concurrency: {max: 1}, breaker: {consecutive_failures: 1, cooldown: 30s, probes: 2}",
        TWO_TIERS,
    );
    half_open(&gateway, "main");
    let mut first = holding(&gateway, &upstream);
    for _ in 0..20 {
        assert_eq!(get(&gateway, "late", "/").what, "503 upstream-saturated");
    }
    assert_eq!(circuit(&gateway, "main")["probes"]["out"], 1);
    gate.open();
    assert_eq!(first.reply().status, 200);
    assert_eq!(get(&gateway, "late", "/").what, "200");
    assert_eq!(circuit(&gateway, "main")["state"], "closed");
}

#[test]
fn a_refusal_keeps_the_connection() {
    let (gate, upstream) = held();
    let gateway = gateway(&upstream, "concurrency: {max: 1}", TWO_TIERS);
    let mut first = holding(&gateway, &upstream);
    let mut client = gateway.client();
    for _ in 0..3 {
        assert_eq!(told(&client.get("/")), "503 upstream-saturated");
    }
    gate.open();
    assert_eq!(first.reply().status, 200);
    until("the place is free", || (places(&gateway)["used"] == 0).then_some(()));
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.patience(Duration::from_millis(100)).end(), End::Open);
}

#[test]
fn a_client_that_left_the_queue_keeps_nobody_from_being_served() {
    let (gate, upstream) = held();
    let gateway =
        gateway(&upstream, "concurrency: {max: 1, queue: 10, queue_timeout: 1m}", TWO_TIERS);
    let mut first = holding(&gateway, &upstream);
    let gone: Vec<Client> = (0..5).map(|_| sent(&gateway, "gold", "/gone")).collect();
    until_queued(&gateway, 5);
    let mut last = sent(&gateway, "free-1", "/last");
    until_queued(&gateway, 6);
    drop(gone);
    until_queued(&gateway, 1);
    gate.open();
    assert_eq!((first.reply().status, last.reply().status), (200, 200));
    assert_eq!(upstream.attempts_at("/gone"), 0, "nobody waits for these answers");
    expect_nothing_held(&gateway);
}

#[test]
fn the_time_of_a_route_bounds_the_queue_too() {
    let (gate, upstream) = held();
    let gateway = Gateway::builder()
        .clients(CLIENTS)
        .tiers(TWO_TIERS)
        .upstreams(&format!(
            "main: {{servers: {}, concurrency: {{max: 1, queue: 5, queue_timeout: 1m}}}}",
            list([&upstream])
        ))
        .routes(
            "- {name: patient, path: /, upstream: main}\n\
             - {name: hasty, path: /hasty, upstream: main, timeout: 300ms}",
        )
        .start();
    let mut first = holding(&gateway, &upstream);
    let seen = get(&gateway, "late", "/hasty");
    assert_eq!(seen.what, "503 upstream-saturated");
    assert!(seen.took >= Duration::from_millis(300), "{:?}", seen.took);
    assert_eq!(tokens(&gateway, "late"), TOKENS);
    gate.open();
    assert_eq!(first.reply().status, 200);
}
