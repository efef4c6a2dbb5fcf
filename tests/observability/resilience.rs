//! Metrics of what is done about failing upstreams.

use crate::support::{
    Answer, Client, Gate, Gateway, Series, Upstream, fault, free_addresses, ok, until,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n";
const STATE: &str = "gateway_circuit_state{circuit=\"main\"}";

fn attempts(outcome: &str) -> String {
    format!("gateway_upstream_attempts_total{{outcome=\"{outcome}\",upstream=\"main\"}}")
}

/// How often the circuit changed to closed, open and half-open.
fn transitions(series: &Series) -> [f64; 3] {
    ["closed", "open", "half_open"].map(|to| {
        series.value(&format!("gateway_circuit_transitions_total{{circuit=\"main\",to=\"{to}\"}}"))
    })
}

fn with_main(upstream: &Upstream, keys: &str) -> Gateway {
    Gateway::before(upstream)
        .upstreams(&format!("main: {{servers: [\"{}\"], {keys}}}", upstream.address()))
        .start()
}

#[test]
fn a_circuit_is_seen_going_round() {
    let upstream = Upstream::answering(fault::status(500));
    let gateway =
        with_main(&upstream, "breaker: {consecutive_failures: 2, cooldown: 100ms, probes: 1}");
    let series = gateway.series();
    assert!(series.of("gateway_circuit_state").contains(&STATE), "there from the start");
    assert_eq!((series.value(STATE), transitions(&series)), (0.0, [0.0; 3]));
    for _ in 0..2 {
        assert_eq!(gateway.get("/").status, 500);
    }
    // Nobody asks, and still it is seen to have cooled down.
    until_seen(&gateway, 2.0, [0.0, 1.0, 1.0]);
    upstream.switch_to(ok("fine"));
    assert_eq!(gateway.get("/").status, 200);
    until_seen(&gateway, 0.0, [1.0, 1.0, 1.0]);
}

/// Waits for the circuit's state and changes; one page may show half of a change.
#[track_caller]
fn until_seen(gateway: &Gateway, state: f64, changes: [f64; 3]) {
    until("the change is seen", || {
        let series = gateway.series();
        (series.value(STATE) == state && transitions(&series) == changes).then_some(())
    });
}

#[test]
fn a_circuit_that_is_forced_is_seen_at_once() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .routes("- {name: all, path: /, upstream: main, breaker: {}}")
        .start();
    let post = |name: &str, force: &str| {
        let body = format!("{{\"force\":\"{force}\",\"ttl\":\"1m\"}}");
        let target = format!("/circuit-breakers/{name}");
        assert_eq!(gateway.admin_request("POST", &target, &[], &body).status, 200);
        gateway.series()
    };
    let own = "gateway_circuit_state{circuit=\"route:all\"}";
    let series = post("route:all", "open");
    assert_eq!((series.value(own), series.value(STATE)), (1.0, 0.0));
    assert_eq!(post("main", "open").value(STATE), 1.0);
    assert_eq!(post("main", "closed").value(STATE), 0.0);
    let series = post("route:all", "auto");
    assert_eq!(series.value(own), 2.0, "it probes first");
    assert_eq!(transitions(&series), [1.0, 1.0, 0.0], "of the upstream's alone");
}

#[test]
fn every_attempt_counts_under_one_outcome() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/ok" | "/404" => ok("fine"),
        "/501" => fault::status(501),
        "/429" => fault::status(429),
        "/5xx" => fault::status(503),
        "/reset" => fault::reset(),
        "/garbage" => Answer::Last(b"SMTP 220 hello\r\n\r\n".to_vec()),
        _ => Answer::Silent,
    });
    let gateway = Gateway::before(&upstream)
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], timeouts: {{read: 1s}}, ejection: none}}",
            upstream.address()
        ))
        .routes(
            "
            - {name: all, path: /, upstream: main, max_body: 10}
            - {name: tried, path: /tried, upstream: main, retry: {attempts: 0, per_try_timeout: 500ms}}
            - {name: timed, path: /timed, upstream: main, timeout: 500ms}",
        )
        .start();
    for (target, status, outcome) in [
        ("/ok", 200, "ok"),
        ("/501", 501, "ok"),
        ("/429", 429, "ok"),
        ("/5xx", 503, "status_5xx"),
        ("/silent", 504, "timeout"),
        ("/tried", 504, "timeout"),
        ("/timed", 504, "timeout"),
        ("/reset", 502, "reset"),
        ("/garbage", 502, "reset"),
    ] {
        let before = gateway.series().value(&attempts(outcome));
        assert_eq!(gateway.get(target).status, status, "{target}");
        gateway.series_once(&attempts(outcome), before + 1.0);
    }
    let seen = upstream.attempts();
    let mut gone = gateway.client();
    gone.send("GET /gone HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    upstream.wait_for(seen + 1);
    drop(gone);
    gateway.series_once(&attempts("cancelled"), 1.0);
    let mut large = gateway.client();
    large.send("POST /ok HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    large.send("14\r\n01234567890123456789\r\n0\r\n\r\n");
    assert_eq!(large.reply().status, 413);
    let series = gateway.series_once(&attempts("cancelled"), 2.0);
    assert_eq!(series.sum("gateway_upstream_attempts_total"), 11.0, "none is counted twice");
}

#[test]
fn a_connection_that_is_not_made_is_an_outcome() {
    let [nobody] = free_addresses();
    let gateway = Gateway::builder()
        .upstream("main", nobody)
        .routes("- {name: all, path: /, upstream: main, retry: {attempts: 2, when: [connect]}}")
        .start();
    assert_eq!(gateway.client().post("/", &[], b"x").status, 502);
    let series = gateway.series_once(&attempts("connect"), 3.0);
    assert_eq!(series.sum("gateway_upstream_attempts_total"), 3.0);
    assert_eq!(series.value("gateway_retries_total{route=\"all\"}"), 2.0);
}

#[test]
fn retries_count_under_their_route_and_every_attempt_under_its_outcome() {
    let upstream = Upstream::scripted(fault::run(2, fault::status(503), ok("fine")));
    let gateway = Gateway::before(&upstream)
        .routes(
            "
            - {name: all, path: /, upstream: main, retry: {attempts: 3, backoff: {base: 1ms, max: 1ms}}}
            - {name: once, path: /once, upstream: main}",
        )
        .start();
    let retries = |series: &Series, route: &str| {
        series.value(&format!("gateway_retries_total{{route=\"{route}\"}}"))
    };
    assert_eq!(gateway.get("/").status, 200);
    let series = gateway.series_once(&attempts("ok"), 1.0);
    assert_eq!((retries(&series, "all"), retries(&series, "once")), (2.0, 0.0));
    assert_eq!(series.value(&attempts("status_5xx")), 2.0);
    upstream.switch_to(fault::status(503));
    assert_eq!(gateway.get("/once").status, 503);
    assert_eq!(gateway.client().post("/", &[], b"x").status, 503, "not safe to repeat");
    let series = gateway.series_once(&attempts("status_5xx"), 4.0);
    assert_eq!((retries(&series, "all"), retries(&series, "once")), (2.0, 0.0));
    assert_eq!(gateway.get("/").status, 503);
    let series = gateway.series_once(&attempts("status_5xx"), 8.0);
    assert_eq!((retries(&series, "all"), retries(&series, "once")), (5.0, 0.0));
}

#[test]
fn healthy_and_ejected_servers_are_counted() {
    let (failing, mut fine) = (Upstream::answering(fault::status(500)), Upstream::new());
    let gateway = Gateway::before(&fine)
        .upstreams(&format!(
            "main: {{servers: [\"{}\", \"{}\", nowhere.invalid:80],
              ejection: {{consecutive_failures: 1, base: 3s, max: 3s}},
              health_check: {{type: tcp, interval: 100ms, timeout: 9s,
                             healthy_after: 1, unhealthy_after: 1}}}}",
            failing.address(),
            fine.address()
        ))
        .start();
    let healthy = "gateway_upstream_healthy{upstream=\"main\"}";
    let ejected = "gateway_upstream_ejected{upstream=\"main\"}";
    let series = gateway.series_once(healthy, 2.0);
    assert_eq!(series.value(ejected), 0.0);
    let statuses = [gateway.get("/").status, gateway.get("/").status];
    assert!(statuses.contains(&500) && statuses.contains(&200), "{statuses:?}");
    let series = gateway.series_once(ejected, 1.0);
    assert_eq!(series.value(healthy), 2.0, "an ejected server is healthy by its checks");
    gateway.series_once(ejected, 0.0);
    fine.close();
    gateway.series_once(healthy, 1.0);
    fine.open();
    gateway.series_once(healthy, 2.0);
}

#[test]
fn places_and_the_queue_are_gauged() {
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
    let gateway = with_main(&upstream, "concurrency: {max: 2, queue: 3, queue_timeout: 60s}");
    let (used, queued) = (
        "gateway_upstream_concurrency{upstream=\"main\"}",
        "gateway_upstream_queued{upstream=\"main\"}",
    );
    let series = gateway.series();
    assert_eq!(series.of("gateway_upstream_concurrency"), [used], "there from the start");
    assert_eq!((series.value(used), series.value(queued)), (0.0, 0.0));
    let mut clients: Vec<Client> = (0..5).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send(REQUEST);
    }
    gateway.series_once(queued, 3.0);
    gateway.series_once(used, 2.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    gateway.series_once(queued, 0.0);
    gateway.series_once(used, 0.0);
}
