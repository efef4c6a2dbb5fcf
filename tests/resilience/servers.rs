//! The servers of an upstream: who is asked, who is left out, and who comes back.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde_json::Value;

use crate::rig::{
    BY_HEADER, NO_REFILL, TOKENS, attempts, expect_nothing_held, gateway, get, list, sent, servers,
    states, tokens,
};
use crate::support::{Answer, Gate, Gateway, Upstream, fault, ok, until};

/// Health checks as often as they may be, each good or bad one counting at once.
const CHECKED: &str =
    "health_check: {path: /health, interval: 100ms, healthy_after: 1, unhealthy_after: 1}";

/// How often each of these was asked.
fn asked(upstreams: &[Upstream]) -> Vec<usize> {
    upstreams.iter().map(|upstream| upstream.attempts_at("/")).collect()
}

fn three() -> [Upstream; 3] {
    [(); 3].map(|()| Upstream::new())
}

fn set_state(gateway: &Gateway, server: &Upstream, state: &str) {
    let target = format!("/upstreams/main/servers/{}", server.address());
    let reply = gateway.admin_put(&target, &format!("{{\"state\": \"{state}\"}}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
}

fn health(gateway: &Gateway) -> (String, Value) {
    let health = gateway.admin_get("/health").json();
    (health["status"].as_str().expect("a status").to_owned(), health["upstreams"]["main"].clone())
}

#[track_caller]
fn until_healthy(gateway: &Gateway, healthy: u64) {
    until(&format!("{healthy} are healthy"), || {
        (health(gateway).1["healthy"] == healthy).then_some(())
    });
}

#[test]
fn servers_are_asked_in_turn_by_weight() {
    let upstreams = three();
    let [one, two, three] = [0, 1, 2].map(|at: usize| upstreams[at].address());
    let gateway = gateway(
        &format!("servers: [\"{one}\", {{address: \"{two}\", weight: 2}}, \"{three}\"]"),
        "",
    );
    for _ in 0..20 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
    }
    assert_eq!(asked(&upstreams), [5, 10, 5]);
}

#[test]
fn a_server_that_keeps_failing_leaves_and_the_others_serve() {
    let upstreams = three();
    upstreams[1].switch_to(fault::status(500));
    let gateway = gateway(
        &format!("servers: {}, ejection: {{consecutive_failures: 2, base: 1m}}", list(&upstreams)),
        "",
    );
    let statuses: Vec<String> = (0..30).map(|_| get(&gateway, "a", "/").what).collect();
    assert_eq!(statuses.iter().filter(|what| *what == "500").count(), 2, "{statuses:?}");
    assert_eq!(states(&gateway, "main"), ["up", "ejected", "up"]);
    let ejected = servers(&gateway, "main")[1]["ejected_seconds"].as_f64().expect("seconds");
    assert!((30.0..=60.0).contains(&ejected), "{ejected}");
    let series = gateway.series();
    assert_eq!(series.value("gateway_upstream_ejected{upstream=\"main\"}"), 1.0);
    assert_eq!(health(&gateway), ("ok".into(), serde_json::json!({"healthy": 3, "total": 3})));
}

#[test]
fn what_was_on_its_way_to_an_ejected_server_does_not_open_the_circuit() {
    let upstreams = three();
    let [dead, ..] = &upstreams;
    dead.switch_to(fault::silent());
    let gateway = gateway(
        &format!(
            "servers: {}, timeouts: {{read: 500ms}}, breaker: {{consecutive_failures: 4}}, \
             ejection: {{consecutive_failures: 2, base: 1m}}",
            list(&upstreams)
        ),
        "",
    );
    // Eight of them go to the dead server, and fail one right after the other.
    let mut clients: Vec<_> = (0..24).map(|_| sent(&gateway, "a", "/")).collect();
    let statuses = clients.iter_mut().map(|client| client.reply().status);
    let failed = statuses.filter(|&status| status == 504).count();
    assert!(failed >= 6, "{failed}");
    for _ in 0..8 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
    }
}

#[test]
fn never_more_than_half_are_ejected() {
    let upstreams = three();
    upstreams.iter().for_each(|upstream| upstream.switch_to(fault::status(500)));
    let gateway = gateway(
        &format!("servers: {}, ejection: {{consecutive_failures: 1, base: 1m}}", list(&upstreams)),
        "",
    );
    for _ in 0..20 {
        assert_eq!(get(&gateway, "a", "/").what, "500", "the upstream's own answer");
    }
    let ejected = states(&gateway, "main").iter().filter(|state| *state == "ejected").count();
    assert_eq!(ejected, 1, "one of three");
}

#[test]
fn an_ejected_server_comes_back_by_itself() {
    let upstreams = [(); 2].map(|()| Upstream::new());
    upstreams[0].switch_to(fault::reset());
    let gateway = gateway(
        &format!(
            "servers: {}, ejection: {{consecutive_failures: 1, base: 500ms}}",
            list(&upstreams)
        ),
        "retry: {when: [reset]}",
    );
    assert_eq!(get(&gateway, "a", "/").what, "200");
    assert_eq!(states(&gateway, "main"), ["ejected", "up"]);
    upstreams[0].switch_back();
    upstreams[0].forget();
    until("it is asked again", || {
        assert_eq!(get(&gateway, "a", "/").what, "200");
        (upstreams[0].attempts() > 0).then_some(())
    });
    assert_eq!(states(&gateway, "main"), ["up", "up"]);
    gateway.series_once("gateway_upstream_ejected{upstream=\"main\"}", 0.0);
}

#[test]
fn a_server_that_refuses_costs_nobody_an_answer_where_there_is_a_retry() {
    let mut upstreams = three();
    upstreams[0].close();
    let gateway = gateway(
        &format!("servers: {}, ejection: {{consecutive_failures: 3, base: 1m}}", list(&upstreams)),
        "retry: {}",
    );
    for _ in 0..60 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
    }
    // Once it is out nobody tries it any more.
    let series = gateway.series();
    assert_eq!(attempts(&series, "main"), [("ok", 60), ("connect", 3)]);
}

#[test]
fn health_checks_take_a_server_out_and_back() {
    let upstreams = [(); 2].map(|()| Upstream::new());
    let gateway = gateway(&format!("servers: {}, {CHECKED}", list(&upstreams)), "");
    assert_eq!(health(&gateway).0, "ok");
    upstreams[0].switch_to(fault::status(500));
    until_healthy(&gateway, 1);
    assert_eq!(
        health(&gateway),
        ("degraded".into(), serde_json::json!({"healthy": 1, "total": 2}))
    );
    assert_eq!(gateway.admin_get("/health").status, 200, "it can serve");
    assert_eq!(states(&gateway, "main"), ["unhealthy", "up"]);
    gateway.series_once("gateway_upstream_healthy{upstream=\"main\"}", 1.0);
    for _ in 0..10 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
    }
    assert_eq!(asked(&upstreams), [0, 10]);

    upstreams[0].switch_back();
    until_healthy(&gateway, 2);
    assert_eq!(
        (health(&gateway).0.as_str(), states(&gateway, "main")),
        ("ok", vec!["up".into(), "up".into()])
    );
    for _ in 0..10 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
    }
    assert_eq!(asked(&upstreams), [5, 15]);
    gateway.series_once("gateway_upstream_healthy{upstream=\"main\"}", 2.0);
}

#[test]
fn checks_tell_a_server_that_hangs_or_refuses_from_one_that_is_well() {
    for check in ["path: /", "type: tcp"] {
        let mut upstream = Upstream::new();
        let gateway = gateway(
            &format!(
                "servers: {}, health_check: {{{check}, interval: 100ms, timeout: 100ms, \
                 healthy_after: 1, unhealthy_after: 2}}",
                list([&upstream])
            ),
            "",
        );
        upstream.close();
        until_healthy(&gateway, 0);
        upstream.open();
        until_healthy(&gateway, 1);
        if check != "type: tcp" {
            upstream.switch_to(fault::silent());
            until_healthy(&gateway, 0);
            upstream.switch_back();
            until_healthy(&gateway, 1);
        }
    }
}

#[test]
fn without_a_healthy_server_requests_are_refused_and_cost_nothing() {
    let upstreams = [(); 2].map(|()| Upstream::answering(fault::status(500)));
    let gateway = gateway(&format!("servers: {}, {CHECKED}", list(&upstreams)), "");
    until_healthy(&gateway, 0);
    let seen = get(&gateway, "a", "/");
    assert_eq!((seen.what.as_str(), seen.header("retry-after")), ("503 no-server", Some("1")));
    assert_eq!(seen.header("ratelimit"), None);
    assert_eq!(tokens(&gateway, "a"), TOKENS);
    assert_eq!(asked(&upstreams), [0, 0]);
    assert_eq!(attempts(&gateway.series(), "main"), []);
    expect_nothing_held(&gateway);
}

#[test]
fn a_drained_server_finishes_what_it_has_and_gets_nothing_new() {
    let gate = Gate::default();
    let held = gate.clone();
    let first = Upstream::scripted(move |head| match head.target() {
        "/held" => Answer::Held(held.clone(), Box::new(ok("finished"))),
        _ => ok("first"),
    });
    let upstreams = [first, Upstream::new()];
    let gateway = gateway(&format!("servers: {}", list(&upstreams)), "");
    let mut under_way = sent(&gateway, "a", "/held");
    upstreams[0].wait_for(1);
    set_state(&gateway, &upstreams[0], "drain");
    assert_eq!(states(&gateway, "main"), ["drained", "up"]);
    assert_eq!(servers(&gateway, "main")[0]["in_flight"], 1);
    for _ in 0..6 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
    }
    assert_eq!(asked(&upstreams), [0, 6]);
    assert_eq!(health(&gateway).0, "degraded");
    gate.open();
    assert_eq!(under_way.reply().text(), "finished");

    set_state(&gateway, &upstreams[1], "drain");
    let seen = get(&gateway, "b", "/");
    assert_eq!((seen.what.as_str(), tokens(&gateway, "b")), ("503 no-server", TOKENS));

    set_state(&gateway, &upstreams[0], "up");
    set_state(&gateway, &upstreams[1], "up");
    for _ in 0..6 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
    }
    assert_eq!(asked(&upstreams), [3, 9]);
    assert_eq!(health(&gateway).0, "ok");
    expect_nothing_held(&gateway);
}

/// Sends sixty different requests twice each and returns how many servers got the same one, at
/// most, and how many servers got any. With fewer requests a server now and then gets none: the
/// ring depends on the ports, and a server's share of it may be a fifth.
fn spread(
    gateway: &Gateway,
    upstreams: &[Upstream],
    request: impl Fn(usize) -> (String, String),
) -> (usize, usize) {
    let mut servers_of: HashMap<usize, HashSet<usize>> = HashMap::new();
    for _ in 0..2 {
        for value in 0..60 {
            upstreams.iter().for_each(Upstream::forget);
            let (client, target) = request(value);
            assert_eq!(get(gateway, &client, &target).what, "200");
            let server = upstreams.iter().position(|upstream| upstream.attempts() > 0);
            servers_of.entry(value).or_default().insert(server.expect("a server was asked"));
        }
    }
    let most = servers_of.values().map(HashSet::len).max().unwrap_or(0);
    let all: HashSet<usize> = servers_of.into_values().flatten().collect();
    (most, all.len())
}

#[test]
fn what_hashes_alike_goes_to_the_same_server() {
    let by_client = |value: usize| (format!("client-{value}"), "/".to_owned());
    let by_path = |value: usize| ("a".to_owned(), format!("/path/{value}?q=1"));
    type Request = fn(usize) -> (String, String);
    let cases: [(&str, Request); 3] =
        [("client", by_client), ("{header: X-Client-ID}", by_client), ("path", by_path)];
    for (what, request) in cases {
        let upstreams = three();
        let gateway =
            gateway(&format!("servers: {}, balance: {{consistent: {what}}}", list(&upstreams)), "");
        assert_eq!(spread(&gateway, &upstreams, request), (1, 3), "by {what}");
    }
    let upstreams = three();
    let gateway =
        gateway(&format!("servers: {}, balance: {{consistent: ip}}", list(&upstreams)), "");
    assert_eq!(spread(&gateway, &upstreams, by_client), (1, 1), "one address, one server");
}

#[test]
fn when_a_server_goes_only_its_own_values_move() {
    let upstreams = three();
    let gateway =
        gateway(&format!("servers: {}, balance: {{consistent: client}}", list(&upstreams)), "");
    let server_of = |client: usize| {
        upstreams.iter().for_each(Upstream::forget);
        assert_eq!(get(&gateway, &format!("client-{client}"), "/").what, "200");
        upstreams.iter().position(|upstream| upstream.attempts() > 0).expect("a server")
    };
    let before: Vec<usize> = (0..30).map(server_of).collect();
    set_state(&gateway, &upstreams[0], "drain");
    for (client, &server) in before.iter().enumerate() {
        let now = server_of(client);
        assert!(now != 0 && (server == 0 || now == server), "{client}: {server} to {now}");
    }
    set_state(&gateway, &upstreams[0], "up");
    let after: Vec<usize> = (0..30).map(server_of).collect();
    assert_eq!(after, before, "and they come back");
}

#[test]
fn the_least_loaded_server_is_the_fast_one() {
    let slow = Upstream::answering(fault::slow(Duration::from_millis(100), ok("slow")));
    let upstreams = [slow, Upstream::new()];
    let gateway = gateway(&format!("servers: {}, balance: least_loaded", list(&upstreams)), "");
    for _ in 0..60 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
    }
    let asked = asked(&upstreams);
    assert!(asked[1] >= 45, "the fast one got {} of 60", asked[1]);
}

#[test]
fn requests_in_flight_count_as_load() {
    let gate = Gate::default();
    let upstreams =
        [(); 2].map(|()| Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("held")))));
    let gateway = gateway(&format!("servers: {}, balance: least_loaded", list(&upstreams)), "");
    let mut clients = Vec::new();
    for count in 1..=10 {
        clients.push(sent(&gateway, "a", "/"));
        until("one is asked", || (asked(&upstreams).iter().sum::<usize>() == count).then_some(()));
    }
    assert_eq!(asked(&upstreams), [5, 5], "each goes where fewer are");
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.reply().status, 200));
    expect_nothing_held(&gateway);
}

#[test]
fn a_server_may_have_a_name() {
    let upstream = Upstream::new();
    let port = upstream.address().port();
    let gateway = gateway(&format!("servers: [\"localhost:{port}\"]"), "retry: {}");
    // The name may stand for ::1 as well, where nobody listens.
    until("it resolves", || (get(&gateway, "a", "/").what == "200").then_some(()));
    let addresses: Vec<Value> =
        servers(&gateway, "main").iter().map(|server| server["address"].clone()).collect();
    assert!(addresses.contains(&format!("127.0.0.1:{port}").into()), "{addresses:?}");
    assert_eq!(servers(&gateway, "main")[0]["configured"], format!("localhost:{port}"));
    assert_eq!(upstream.last().head.header("host"), Some("tollgate.test"));
}

#[test]
fn a_name_that_does_not_resolve_is_a_server_that_is_not_there() {
    let upstream = Upstream::new();
    let gateway = Gateway::builder()
        .clients(BY_HEADER)
        .tiers(NO_REFILL)
        .upstreams(&format!(
            "main: {{servers: [\"nowhere.invalid:80\"]}}\n\
             half: {{servers: [\"nowhere.invalid:80\", \"{0}\"]}}\n\
             whole: {{servers: [\"{0}\"]}}",
            upstream.address()
        ))
        .routes(
            "- {name: main, path: /main, upstream: main}\n\
             - {name: half, path: /half, upstream: half}\n\
             - {name: whole, path: /whole, upstream: whole}",
        )
        .start();
    let seen = get(&gateway, "a", "/main");
    assert_eq!((seen.what.as_str(), tokens(&gateway, "a")), ("503 no-server", TOKENS));
    for target in ["/half", "/half", "/whole"] {
        assert_eq!(get(&gateway, "b", target).what, "200", "{target}");
    }
    assert_eq!(
        health(&gateway),
        ("degraded".into(), serde_json::json!({"healthy": 0, "total": 1}))
    );
    assert_eq!(states(&gateway, "main"), ["unresolved"]);
    assert_eq!(states(&gateway, "half"), ["unresolved", "up"]);
    assert_eq!(gateway.series().value("gateway_upstream_healthy{upstream=\"half\"}"), 1.0);
}
