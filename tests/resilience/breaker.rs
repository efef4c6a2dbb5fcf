//! The circuit: what opens it, what it spares whom, and that it always closes again.

use std::time::{Duration, Instant};

use crate::rig::{
    BY_HEADER, NO_REFILL, TOKENS, circuit, circuit_once, expect_attempts, expect_nothing_held,
    failing, force, gateway, get, half_open, list, sent, tokens, told,
};
use crate::support::{Answer, Gate, Gateway, Upstream, fault, ok, until};

/// The shortest cooldown there is, after which a probe may pass.
const COOLDOWN: Duration = Duration::from_millis(100);

fn before(upstream: &Upstream, breaker: &str) -> Gateway {
    gateway(&format!("servers: {}, breaker: {{{breaker}}}", list([upstream])), "")
}

/// Requests one after the other, each of which must bring this.
#[track_caller]
fn expect_each(gateway: &Gateway, count: usize, what: &str) {
    for number in 0..count {
        assert_eq!(get(gateway, "a", "/").what, what, "request {number}");
    }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let upstream = Upstream::new();
    let gateway = before(&upstream, "consecutive_failures: 3");
    for _ in 0..3 {
        upstream.switch_to(fault::status(500));
        expect_each(&gateway, 2, "500");
        upstream.switch_to(fault::status(501));
        expect_each(&gateway, 1, "501");
    }
    assert_eq!(circuit(&gateway, "main")["state"], "closed");
    upstream.switch_to(fault::status(500));
    expect_each(&gateway, 3, "500");
    let circuit = circuit(&gateway, "main");
    assert_eq!((&circuit["state"], &circuit["failures"]), (&"open".into(), &3.into()));
    assert_eq!(circuit["reason"], "3 failures in a row");
    expect_each(&gateway, 2, "503 circuit-open");
}

#[test]
fn a_429_and_what_a_client_did_wrong_are_no_failures() {
    let upstream = Upstream::new();
    let gateway = before(&upstream, "consecutive_failures: 1");
    for status in [429, 400, 404, 408, 501] {
        upstream.switch_to(fault::status(status));
        expect_each(&gateway, 1, &status.to_string());
        let circuit = circuit(&gateway, "main");
        assert_eq!((&circuit["state"], &circuit["failures"]), (&"closed".into(), &0.into()));
    }
}

#[test]
fn a_ratio_opens_it_once_there_is_enough_to_judge() {
    let upstream = Upstream::new();
    let gateway = before(&upstream, "failure_ratio: 0.5, min_requests: 12, window: 1m");
    // Every other one fails: in a row nothing, of twelve six, and six of twelve may be luck.
    for number in 0..12 {
        upstream.switch_to(if number % 2 == 0 { fault::status(502) } else { ok("fine") });
        get(&gateway, "a", "/");
    }
    assert_eq!(circuit(&gateway, "main")["state"], "closed");
    upstream.switch_to(fault::status(502));
    let mut failed = 6;
    while circuit(&gateway, "main")["state"] == "closed" {
        expect_each(&gateway, 1, "502");
        failed += 1;
        assert!(failed < 100, "{failed} failures and 6 successes");
    }
    assert!(failed > 8, "{failed} failures and 6 successes are no proof of a half");
    let reason = circuit(&gateway, "main")["reason"].clone();
    assert_eq!(reason, format!("{failed} of {} calls failed", failed + 6));
}

#[test]
fn all_failing_opens_it_at_the_least_number_of_requests() {
    let upstream = Upstream::answering(fault::status(502));
    let gateway = before(&upstream, "failure_ratio: 1, min_requests: 7, window: 1m");
    expect_each(&gateway, 7, "502");
    expect_each(&gateway, 1, "503 circuit-open");
}

#[test]
fn answers_that_are_well_and_slow_open_it() {
    let slow = Duration::from_millis(300);
    let upstream = Upstream::answering(fault::slow(slow, ok("well")));
    let gateway =
        before(&upstream, "slow_call: 250ms, slow_ratio: 0.5, min_requests: 4, window: 1m");
    expect_each(&gateway, 4, "200");
    let circuit = circuit(&gateway, "main");
    assert_eq!(circuit["reason"], "4 of 4 calls were slow");
    expect_each(&gateway, 1, "503 circuit-open");
    expect_attempts(&gateway, "main", &[("ok", 4)]);
}

/// A leaky bucket lets three a second pass: that is not the upstream's slowness.
#[test]
fn what_the_gateway_held_back_itself_is_not_slow() {
    let upstream = Upstream::new();
    let breaker = "slow_call: 250ms, slow_ratio: 0.5, min_requests: 4, window: 1m";
    let gateway = gateway(
        &format!("servers: {}, breaker: {{{breaker}}}", list([&upstream])),
        "limit: {rate: 3/s, algorithm: leaky_bucket, max_delay: 2s}",
    );
    expect_each(&gateway, 7, "200");
    assert_eq!(circuit(&gateway, "main")["state"], "closed");
}

#[test]
fn while_it_is_open_requests_are_refused_for_nothing_and_the_connection_stays() {
    let upstream = Upstream::answering(fault::status(500));
    let gateway = before(&upstream, "consecutive_failures: 1, cooldown: 1m");
    expect_each(&gateway, 1, "500");
    let mut client = gateway.client();
    for _ in 0..3 {
        let reply = client.get_with("/", &[("X-Client-ID", "b")]);
        assert_eq!(told(&reply), "503 circuit-open");
        let seconds: u64 = reply.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!((55..=66).contains(&seconds), "{seconds}");
        assert_eq!(reply.json()["retry_after_seconds"], seconds);
        assert_eq!(reply.header("ratelimit"), None);
        assert!(!reply.says_close());
    }
    assert_eq!((tokens(&gateway, "a"), tokens(&gateway, "b")), (TOKENS - 1, TOKENS));
    assert_eq!(upstream.attempts(), 1);
    gateway.series_once("gateway_requests_total{route=\"all\",status=\"503\"}", 3.0);
}

#[test]
fn after_the_cooldown_it_probes_and_closes_and_the_metrics_say_so() {
    let upstream = failing(fault::status(500));
    let gateway = before(
        &upstream,
        "consecutive_failures: 1, cooldown: 100ms, max_cooldown: 100ms, probes: 3, ramp: 0s",
    );
    expect_each(&gateway, 1, "500");
    let to =
        |state| format!("gateway_circuit_transitions_total{{circuit=\"main\",to=\"{state}\"}}");
    upstream.switch_back();
    let start = Instant::now();
    until("a probe passes", || (get(&gateway, "a", "/").what == "200").then_some(()));
    // The cooldown began before the answer to the first request came.
    assert!(start.elapsed() + COOLDOWN / 2 >= COOLDOWN, "{:?}", start.elapsed());
    let half = circuit(&gateway, "main");
    assert_eq!((&half["state"], &half["probes"]["succeeded"]), (&"half_open".into(), &1.into()));
    let state = "gateway_circuit_state{circuit=\"main\"}";
    assert_eq!(gateway.series().value(state), 2.0);
    expect_each(&gateway, 2, "200");
    assert_eq!(circuit(&gateway, "main")["state"], "closed");
    let series = gateway.series();
    assert_eq!(series.value(state), 0.0);
    assert_eq!(
        [to("open"), to("half_open"), to("closed")].map(|sample| series.value(&sample)),
        [1.0; 3]
    );
}

#[test]
fn metrics_do_not_show_a_circuit_as_open_that_nobody_asks() {
    let upstream = Upstream::answering(fault::status(500));
    let gateway = before(&upstream, "consecutive_failures: 1, cooldown: 100ms");
    expect_each(&gateway, 1, "500");
    gateway.series_once("gateway_circuit_state{circuit=\"main\"}", 2.0);
}

#[test]
fn a_probe_that_fails_makes_the_next_cooldown_longer_up_to_its_bound() {
    let upstream = Upstream::answering(fault::status(500));
    let gateway =
        before(&upstream, "consecutive_failures: 1, cooldown: 100ms, max_cooldown: 300ms");
    expect_each(&gateway, 1, "500");
    for openings in 2..=4 {
        until("a probe passes", || (get(&gateway, "a", "/").what == "500").then_some(()));
        let circuit = circuit(&gateway, "main");
        assert_eq!(circuit["openings"], openings, "{circuit}");
        assert_eq!(circuit["reason"], "a probe failed");
        let left = circuit["next_probe_seconds"].as_f64().unwrap_or(0.0);
        assert!(left <= 0.3, "no longer than max_cooldown: {left}");
    }
}

#[test]
fn the_upstreams_retry_after_lengthens_the_cooldown_up_to_its_bound() {
    let upstream = Upstream::answering(fault::unavailable("120"));
    for (most, expected) in [("5m", 119..=132), ("1m", 59..=60)] {
        let breaker = format!("consecutive_failures: 2, cooldown: 1s, max_cooldown: {most}");
        let gateway = before(&upstream, &breaker);
        let seen = get(&gateway, "a", "/");
        assert_eq!((seen.what.as_str(), seen.header("retry-after")), ("503", Some("120")));
        assert_eq!(circuit(&gateway, "main")["state"], "closed", "alone it opens nothing");
        expect_each(&gateway, 1, "503");
        let seen = get(&gateway, "a", "/");
        assert_eq!(seen.what, "503 circuit-open");
        let seconds: u64 = seen.header("retry-after").expect("Retry-After").parse().unwrap();
        assert!(expected.contains(&seconds), "{seconds} s of {expected:?}");
    }
}

#[test]
fn a_route_with_a_breaker_of_its_own_has_a_circuit_of_its_own() {
    let upstream = Upstream::answering(fault::status(500));
    let gateway = Gateway::builder()
        .clients(BY_HEADER)
        .tiers(NO_REFILL)
        .upstreams(&format!(
            "main: {{servers: {}, breaker: {{consecutive_failures: 5}}}}",
            list([&upstream])
        ))
        .routes(
            "- {name: own, path: /own, upstream: main, breaker: {consecutive_failures: 1}}\n\
             - {name: shared, path: /, upstream: main}",
        )
        .start();
    assert_eq!(get(&gateway, "a", "/own").what, "500");
    assert_eq!(get(&gateway, "a", "/own").what, "503 circuit-open");
    assert_eq!(circuit(&gateway, "route:own")["state"], "open");
    let shared = circuit(&gateway, "main");
    assert_eq!((&shared["state"], &shared["failures"]), (&"closed".into(), &0.into()));
    assert_eq!(get(&gateway, "a", "/shared").what, "500");
    let series = gateway.series();
    assert_eq!(series.value("gateway_circuit_state{circuit=\"route:own\"}"), 1.0);
    assert_eq!(series.value("gateway_circuit_state{circuit=\"main\"}"), 0.0);
}

#[test]
fn an_operator_opens_and_closes_it_and_lets_it_go_again() {
    let upstream = Upstream::new();
    let gateway = before(&upstream, "consecutive_failures: 1, cooldown: 1m, probes: 1, ramp: 0s");
    let forced = force(&gateway, "main", r#"{"force": "open", "ttl": "10m"}"#);
    assert_eq!(
        (&forced["state"], &forced["reason"]),
        (&"open".into(), &"opened by an operator".into())
    );
    assert!(forced["forced_until"].is_string(), "{forced}");
    expect_each(&gateway, 2, "503 circuit-open");
    assert_eq!((upstream.attempts(), tokens(&gateway, "a")), (0, TOKENS));

    let forced = force(&gateway, "main", r#"{"force": "closed"}"#);
    assert_eq!(forced["state"], "closed");
    upstream.switch_to(fault::status(500));
    expect_each(&gateway, 5, "500");
    assert_eq!(circuit(&gateway, "main")["state"], "closed", "as long as it is forced");

    let freed = force(&gateway, "main", r#"{"force": "auto"}"#);
    assert_eq!((&freed["state"], &freed["forced_until"]), (&"closed".into(), &().into()));
    expect_each(&gateway, 1, "500");
    expect_each(&gateway, 1, "503 circuit-open");
}

#[test]
fn a_force_ends_with_its_time() {
    let upstream = Upstream::new();
    let gateway = gateway(&format!("servers: {}", list([&upstream])), "");
    force(&gateway, "main", r#"{"force": "open", "ttl": "1s"}"#);
    expect_each(&gateway, 1, "503 circuit-open");
    until("the time is over", || (get(&gateway, "a", "/").what == "200").then_some(()));
    let circuit = circuit(&gateway, "main");
    assert_eq!((&circuit["state"], &circuit["automatic"]), (&"closed".into(), &false.into()));
}

#[test]
fn only_as_many_probes_as_agreed_are_out_at_a_time() {
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("well"))));
    let gateway = before(&upstream, "consecutive_failures: 1, cooldown: 1m, probes: 2, ramp: 0s");
    half_open(&gateway, "main");
    let mut probes = [(); 2].map(|()| sent(&gateway, "a", "/"));
    upstream.wait_for(2);
    assert_eq!(circuit(&gateway, "main")["probes"]["out"], 2);
    let refused = get(&gateway, "b", "/");
    assert_eq!(
        (refused.what.as_str(), refused.header("retry-after")),
        ("503 circuit-open", Some("1"))
    );
    assert_eq!((upstream.attempts(), tokens(&gateway, "b")), (2, TOKENS));
    gate.open();
    for probe in &mut probes {
        assert_eq!(probe.reply().status, 200);
    }
    circuit_once(&gateway, "main", "closed");
    expect_nothing_held(&gateway);
}

#[test]
fn what_was_sent_before_it_opened_says_nothing_afterwards() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::scripted(move |head| match head.target() {
        "/late" => Answer::Held(held.clone(), Box::new(fault::status(500))),
        _ => fault::status(500),
    });
    let gateway = before(&upstream, "consecutive_failures: 1, cooldown: 1m, probes: 1");
    let mut late = sent(&gateway, "a", "/late");
    upstream.wait_for(1);
    expect_each(&gateway, 1, "500");
    half_open(&gateway, "main");
    gate.open();
    assert_eq!(late.reply().status, 500);
    expect_nothing_held(&gateway);
    let circuit = circuit(&gateway, "main");
    assert_eq!((&circuit["state"], &circuit["probes"]["out"]), (&"half_open".into(), &0.into()));
}

#[test]
fn probes_of_clients_that_went_away_are_given_back_at_once() {
    let upstream = failing(fault::silent());
    // A lease that was lost would block its place for 30 s.
    let gateway = before(&upstream, "consecutive_failures: 1, cooldown: 30s, probes: 2, ramp: 0s");
    half_open(&gateway, "main");
    for round in 1..=100 {
        let probes = [(); 2].map(|()| sent(&gateway, "a", "/"));
        upstream.wait_for(2 * round);
        drop(probes);
        until("the probes are back", || {
            (circuit(&gateway, "main")["probes"]["out"] == 0).then_some(())
        });
    }
    assert_eq!(circuit(&gateway, "main")["state"], "half_open");
    upstream.switch_back();
    expect_each(&gateway, 2, "200");
    assert_eq!(circuit(&gateway, "main")["state"], "closed");
    expect_nothing_held(&gateway);
}

#[test]
fn however_probes_are_lost_it_closes_within_a_cooldown_of_recovery() {
    let upstream = failing(fault::status(500));
    let gateway = before(
        &upstream,
        "consecutive_failures: 1, cooldown: 100ms, max_cooldown: 100ms, probes: 1, ramp: 0s",
    );
    expect_each(&gateway, 1, "500");
    for round in 0..30 {
        upstream.switch_to(match round % 3 {
            0 => fault::silent(),
            1 => fault::reset(),
            _ => fault::hangup(),
        });
        circuit_once(&gateway, "main", "half_open");
        let before = upstream.attempts();
        let probe = sent(&gateway, "a", "/");
        upstream.wait_for(before + 1);
        // A hanging probe is left behind with its client, a broken one has failed.
        drop(probe);
        upstream.switch_back();
        let recovered = Instant::now();
        until("it closes", || {
            get(&gateway, "b", "/");
            (circuit(&gateway, "main")["state"] == "closed").then_some(())
        });
        // One cooldown, and what a busy machine adds to it.
        let took = recovered.elapsed();
        assert!(took < COOLDOWN + Duration::from_secs(2), "round {round}: {took:?}");
        upstream.switch_to(fault::status(500));
        until("it opens again", || {
            get(&gateway, "b", "/");
            (circuit(&gateway, "main")["state"] != "closed").then_some(())
        });
    }
    expect_nothing_held(&gateway);
}

#[test]
fn a_probe_that_hangs_blocks_its_place_for_one_lease_and_no_longer() {
    let upstream = failing(fault::silent());
    // A lease is as long as the cooldown; `read` is 30 s.
    let gateway =
        before(&upstream, "consecutive_failures: 1, cooldown: 500ms, probes: 1, ramp: 0s");
    half_open(&gateway, "main");
    let hanging = sent(&gateway, "a", "/");
    upstream.wait_for(1);
    expect_each(&gateway, 1, "503 circuit-open");
    upstream.switch_back();
    until("the lease is over", || (get(&gateway, "a", "/").what == "200").then_some(()));
    assert_eq!(circuit(&gateway, "main")["state"], "closed");
    drop(hanging);
    expect_nothing_held(&gateway);
}

#[test]
fn requests_one_after_the_other_are_never_refused_on_the_ramp() {
    let upstream = Upstream::new();
    let gateway = before(&upstream, "consecutive_failures: 1, probes: 1, ramp: 1m");
    half_open(&gateway, "main");
    let mut client = gateway.client();
    for number in 0..200 {
        assert_eq!(client.get("/").status, 200, "request {number}");
    }
    let circuit = circuit(&gateway, "main");
    assert_eq!(circuit["state"], "closed");
    let share = circuit["ramp"].as_f64().expect("on the ramp");
    assert!(share < 0.9, "{share}");
}
