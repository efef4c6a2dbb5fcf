//! The transaction: all of a file or nothing of it, and what stays as it was.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{
    self, Answer, Gate, Gateway, GatewayBuilder, Upstream, ok, run_to_exit, until,
};

const GENERATION: &str = "gateway_config_generation";

/// One route to an upstream that says which it is.
fn named(text: &str) -> (Upstream, GatewayBuilder) {
    let upstream = Upstream::answering(ok(text));
    let builder = Gateway::before(&upstream);
    (upstream, builder)
}

fn route(upstream: &Upstream, route: &str) -> GatewayBuilder {
    Gateway::before(upstream).routes(&format!("- {{name: all, path: /, upstream: main{route}}}"))
}

#[test]
fn every_way_of_asking_reloads() {
    let (_first, builder) = named("first");
    let gateway = builder.start();
    let mut client = gateway.client();
    assert_eq!(client.get("/").text(), "first");

    let (_second, builder) = named("second");
    gateway.rewrite(&builder);
    gateway.hang_up();
    gateway.series_once(GENERATION, 2.0);
    assert_eq!(client.get("/").text(), "second", "on the same connection");

    let (_third, builder) = named("third");
    gateway.rewrite(&builder);
    let reply = gateway.reload();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["generation"], 3);
    assert_eq!(reply.json()["changed"], serde_json::json!(["upstreams.main: changed"]));
    assert_eq!(client.get("/").text(), "third");

    let (_fourth, builder) = named("fourth");
    gateway.rewrite(&builder);
    let finished = run_to_exit(&gateway.path("."), &["reload", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains("generation 4: 1 changes"), "{finished:?}");
    assert_eq!(client.get("/").text(), "fourth");
    gateway.series_once("gateway_config_reloads_total{result=\"ok\"}", 3.0);
    assert!(gateway.stderr().contains("reloaded, this is generation 4; upstreams.main: changed"));
}

#[test]
fn a_wrong_file_changes_nothing_and_every_channel_says_why() {
    let (_upstream, builder) = named("old");
    let gateway = builder.start();
    let mut client = gateway.client();
    let wrong = gateway.path("wrong");
    assert_eq!(client.get("/").text(), "old");
    gateway.rewrite_as("routes:\n  - {name: all, path: here, upstream: nowhere}\nlimit: []\n");

    let reply = gateway.reload();
    assert_eq!(reply.status, 422, "{}", reply.text());
    let problem = reply.json();
    let errors: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().filter_map(|e| e.as_str()).collect();
    for part in ["tollgate.yaml:3: limit:", "routes[0].path:", "routes[0].upstream:"] {
        assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:?}");
    }
    gateway.hang_up();
    gateway.series_once("gateway_config_reloads_total{result=\"rejected\"}", 2.0);
    assert!(gateway.stderr().contains("reload rejected, the old configuration serves on"));
    assert!(gateway.stderr().contains("routes[0].upstream"), "{}", gateway.stderr());

    let finished = run_to_exit(&gateway.path("."), &["reload", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(64), "{finished:?}");
    assert!(finished.stderr.contains("routes[0].upstream"), "{finished:?}");

    std::fs::rename(gateway.config(), wrong).unwrap();
    assert_eq!(gateway.reload().status, 422, "without a file");
    let missing = run_to_exit(&gateway.path("."), &["reload", "-c", "tollgate.yaml"]);
    assert_eq!(missing.code, Some(66), "{missing:?}");

    assert_eq!(client.get("/").text(), "old");
    assert!((gateway.series().value(GENERATION) - 1.0).abs() < 1e-9);
}

#[test]
fn a_command_without_a_gateway_says_so() {
    let (_upstream, builder) = named("x");
    let mut gateway = builder.start();
    let shown = run_to_exit(&gateway.path("."), &["status", "-c", "tollgate.yaml"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for part in ["status ok, generation 1", "main", "closed", " up "] {
        assert!(shown.stdout.contains(part), "{part}: {shown:?}");
    }
    gateway.interrupt();
    gateway.exit_within(support::DEADLINE).expect("it ends");
    for command in ["reload", "status"] {
        let finished = run_to_exit(&gateway.path("."), &[command, "-c", "tollgate.yaml"]);
        assert_eq!(finished.code, Some(69), "{finished:?}");
        assert!(finished.stderr.contains("no gateway answers at"), "{finished:?}");
    }
}

#[test]
fn what_is_used_stays_used() {
    let upstream = Upstream::new();
    let tiers = |burst: u32| format!("free: {{rate: 1/h, burst: {burst}}}");
    let gateway = Gateway::before(&upstream).tiers(&tiers(3)).start();
    let mut client = gateway.client();
    let mut get = || client.get("/").status;
    assert_eq!([get(), get(), get(), get()], [200, 200, 200, 429]);
    // A route more, the tier as it was.
    gateway.rewrite(&Gateway::before(&upstream).tiers(&tiers(3)).routes(
        "- {name: all, path: /, upstream: main}\n- {name: new, path: /new, upstream: main}",
    ));
    assert_eq!(gateway.reload().json()["changed"], serde_json::json!(["routes.new: added"]));
    assert_eq!(get(), 429);
    // A larger bucket: what it takes to fill stays, cut to the new limit's own.
    gateway.rewrite(&Gateway::before(&upstream).tiers(&tiers(6)));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!([get(), get(), get(), get()], [200, 200, 200, 429]);
}

#[test]
fn an_open_circuit_stays_open_while_its_policy_stays() {
    let upstream = Upstream::new();
    let upstreams = |breaker: &str, weight: u32| {
        let address = upstream.address();
        let server = format!("{{address: \"{address}\", weight: {weight}}}");
        Gateway::builder()
            .upstreams(&format!("main: {{servers: [{server}], breaker: {breaker}}}"))
            .routes("- {name: all, path: /, upstream: main}")
    };
    let gateway = upstreams("{consecutive_failures: 3}", 1).start();
    let force = r#"{"force":"open","ttl":"1h"}"#;
    let forced = gateway.admin_request("POST", "/circuit-breakers/main", &[], force);
    assert_eq!(forced.status, 200, "{}", forced.text());
    gateway.rewrite(&upstreams("{consecutive_failures: 3}", 2));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.get("/").status, 503);
    gateway.rewrite(&upstreams("{consecutive_failures: 4}", 2));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.get("/").status, 200, "another policy begins anew");
    let state = gateway.series().value("gateway_circuit_state{circuit=\"main\"}");
    assert!(state.abs() < 1e-9, "{state}");
}

#[test]
fn a_drained_server_stays_drained() {
    let servers = [Upstream::answering(ok("a")), Upstream::answering(ok("b"))];
    let [a, b] = [servers[0].address(), servers[1].address()];
    let builder = |read: &str| {
        let upstream = format!("main: {{servers: [\"{a}\", \"{b}\"], timeouts: {{read: {read}}}}}");
        Gateway::builder().upstreams(&upstream).routes("- {name: all, path: /, upstream: main}")
    };
    let gateway = builder("30s").start();
    let path = format!("/upstreams/main/servers/{a}");
    assert_eq!(gateway.admin_put(&path, r#"{"state":"drain"}"#).status, 200);
    gateway.rewrite(&builder("20s"));
    assert_eq!(gateway.reload().status, 200);
    for _ in 0..4 {
        assert_eq!(gateway.get("/").text(), "b");
    }
}

#[test]
fn what_cannot_change_while_it_runs_is_answered_as_such() {
    let (_upstream, builder) = named("here");
    let gateway = builder.start();
    gateway.rewrite(&builder.server("workers: 3\nhealth_path: /alive"));
    let reply = gateway.reload().json();
    let warnings = reply["warnings"].as_array().unwrap();
    let told = |warning: &serde_json::Value| {
        let text = warning.as_str().unwrap();
        text.contains("server.workers")
            && text.contains("after a restart")
            && text.contains("tollgate upgrade")
    };
    assert!(warnings.iter().any(told), "{reply}");
    assert_eq!(gateway.get("/alive").json()["ready"], true, "what can change has");
    let config = gateway.admin_get("/config").json();
    assert_eq!(config["server"]["workers"], 1, "in effect is what was");
}

#[test]
fn a_web_socket_lives_through_reloads_even_of_its_route_and_upstream() {
    let acceptance = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let upstream = Upstream::answering(Answer::Upgrade(acceptance.to_owned()));
    let (other, elsewhere) = named("elsewhere");
    let gateway = route(&upstream, "").start();
    let mut socket = gateway.client();
    socket.send(
        "GET / HTTP/1.1\r\nHost: tollgate.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(socket.next_head().status(), 101);
    for round in 1..=10 {
        match round % 2 {
            0 => gateway.rewrite(&route(&upstream, &format!(", timeout: {round}s"))),
            _ => gateway.rewrite(&elsewhere),
        }
        assert_eq!(gateway.reload().status, 200);
        socket.send("still here");
        assert_eq!(socket.exactly(10), b"still here", "after {round} reloads");
    }
    assert_eq!(other.requests().len(), 0);
}

#[test]
fn a_request_under_way_sees_its_own_generation_to_the_end() {
    let gate = Gate::default();
    let held = Answer::Held(gate.clone(), Box::new(ok("late")));
    let upstream = Upstream::answering(held);
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    upstream.wait_for(1);
    let (_other, builder) = named("other");
    gateway.rewrite(&builder.routes("- {name: renamed, path: /, upstream: main}"));
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.get("/").text(), "other");
    gate.open();
    assert_eq!(client.reply().text(), "late");
    assert_eq!(client.get("/").text(), "other");
}

#[test]
fn a_stop_waits_for_requests_of_routes_that_are_no_more() {
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
    let mut gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    upstream.wait_for(1);
    gateway.rewrite(
        &Gateway::before(&upstream).routes("- {name: other, path: /other, upstream: main}"),
    );
    assert_eq!(gateway.reload().status, 200);
    gateway.terminate();
    until("it drains", || (gateway.readiness() == Some(503)).then_some(()));
    assert!(gateway.exit_within(Duration::from_millis(300)).is_none(), "it waits");
    gate.open();
    assert_eq!(client.reply().text(), "late");
    assert!(gateway.exit_within(support::DEADLINE).is_some());
}

#[test]
fn requests_before_during_and_after_reloads_are_all_answered() {
    let upstream = Upstream::new();
    let gateway = route(&upstream, "").server("workers: 2").start();
    let is_over = AtomicBool::new(false);
    let served: usize = thread::scope(|scope| {
        let kept = || {
            let mut client = gateway.client();
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(client.get("/kept").status, 200);
                served += 1;
            }
            served
        };
        let fresh = || {
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(gateway.get("/fresh").status, 200);
                served += 1;
            }
            served
        };
        let clients = [scope.spawn(kept), scope.spawn(kept), scope.spawn(fresh)];
        for round in 0..20 {
            if round % 2 == 0 {
                gateway.rewrite(&route(&upstream, &format!(", timeout: {}s", round + 1)));
                assert_eq!(gateway.reload().status, 200);
            } else {
                gateway.rewrite_as("routes: {}");
                assert_eq!(gateway.reload().status, 422);
            }
        }
        let mut many = String::new();
        for number in 0..2_000 {
            let _ = writeln!(many, "- {{name: r{number}, path: /r{number}, upstream: main}}");
        }
        many.push_str("- {name: all, path: /, upstream: main}");
        gateway.rewrite(&Gateway::before(&upstream).routes(&many));
        assert_eq!(gateway.reload().status, 200);
        is_over.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(served > 20, "{served}");
    gateway.series_once("gateway_requests_total{route=\"all\",status=\"200\"}", served as f64);
}
