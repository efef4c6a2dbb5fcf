//! From start to stop: what the process says, keeps and leaves behind.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

mod support;

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use support::{
    Answer, Client, DEADLINE, End, Gate, Gateway, Upstream, free_addresses, ok, run_to_exit, until,
};

/// A gateway with one request in flight, answered when the gate opens.
fn with_one_in_flight(server: &str) -> (Gateway, Upstream, Client, Gate) {
    let gate = Gate::default();
    let held = Answer::Held(gate.clone(), Box::new(ok("late")));
    let upstream = Upstream::scripted(move |head| match head.target() {
        "/held" => held.clone(),
        _ => ok("quick"),
    });
    let gateway = Gateway::before(&upstream).server(server).start();
    let mut client = gateway.client();
    client.send("GET /held HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    upstream.wait_for(1);
    (gateway, upstream, client, gate)
}

#[test]
fn ready_means_that_all_ports_answer() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.get("/first").text(), "GET /first");
    assert_eq!(gateway.admin_get("/health").status, 200);
    // A request is counted a moment after its answer is out.
    gateway.series_once("gateway_requests_total{route=\"all\",status=\"200\"}", 1.0);
}

#[test]
fn an_idle_gateway_stops_within_a_second() {
    let upstream = Upstream::new();
    let mut gateway = Gateway::before(&upstream).start();
    let start = Instant::now();
    gateway.terminate();
    let status = gateway.exit_within(DEADLINE).expect("it stops");
    assert_eq!(status.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn idle_connections_do_not_hold_it_back() {
    let upstream = Upstream::new();
    let mut gateway = Gateway::before(&upstream).start();
    let mut used = gateway.client();
    assert_eq!(used.get("/").status, 200);
    let mut fresh = gateway.client();
    let start = Instant::now();
    gateway.terminate();
    assert_eq!(gateway.exit_within(DEADLINE).and_then(|status| status.code()), Some(0));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!((used.end(), fresh.end()), (End::Closed, End::Closed));
}

#[test]
fn a_request_in_flight_is_answered_before_the_end() {
    let (mut gateway, _upstream, mut client, gate) = with_one_in_flight("");
    gateway.terminate();
    until("it says that it drains", || (gateway.readiness() == Some(503)).then_some(()));
    assert!(gateway.is_running(), "it waits for what is in flight");
    gate.open();
    assert_eq!(client.reply().text(), "late");
    let status = gateway.exit_within(Duration::from_secs(4)).expect("it stops when idle");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_thousand_requests_in_flight_are_all_answered() {
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
    let mut gateway = Gateway::before(&upstream).server("workers: 2").start();
    let mut clients: Vec<Client> = (0..1_000).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send("GET /held HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    }
    upstream.wait_for(1_000);
    gateway.terminate();
    until("it says that it drains", || (gateway.readiness() == Some(503)).then_some(()));
    gate.open();
    for client in &mut clients {
        let reply = client.reply();
        assert_eq!((reply.text().as_str(), reply.says_close()), ("late", true));
    }
    assert_eq!(gateway.exit_within(DEADLINE).and_then(|status| status.code()), Some(0));
}

#[test]
fn a_body_in_flight_is_finished_before_the_end() {
    let upstream = Upstream::answering(Answer::Stream(32 << 20));
    let mut gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send("GET /large HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    assert_eq!(client.next_head().status(), 200);
    gateway.terminate();
    until("it says that it drains", || (gateway.readiness() == Some(503)).then_some(()));
    assert_eq!(client.exactly(32 << 20).len(), 32 << 20);
    assert_eq!(gateway.exit_within(DEADLINE).and_then(|status| status.code()), Some(0));
}

#[test]
fn draining_ends_after_the_grace_period() {
    let (mut gateway, _upstream, mut client, _gate) = with_one_in_flight("grace_period: 1s");
    let start = Instant::now();
    gateway.terminate();
    assert!(gateway.exit_within(Duration::from_secs(5)).is_some(), "it stops at last");
    assert!(start.elapsed() >= Duration::from_secs(1), "not before the grace period");
    assert!(!matches!(client.try_reply(), Ok(Some(reply)) if reply.status == 200));
}

#[test]
fn an_interrupt_stops_it_at_once() {
    let (mut gateway, _upstream, _client, _gate) = with_one_in_flight("");
    gateway.interrupt();
    assert!(gateway.exit_within(Duration::from_secs(2)).is_some());
}

#[test]
fn an_interrupt_ends_a_drain() {
    let (mut gateway, _upstream, _client, _gate) = with_one_in_flight("");
    gateway.terminate();
    until("it says that it drains", || (gateway.readiness() == Some(503)).then_some(()));
    gateway.interrupt();
    assert!(gateway.exit_within(Duration::from_secs(2)).is_some());
}

#[test]
fn a_port_taken_is_named() {
    let upstream = Upstream::new();
    let builder = Gateway::before(&upstream);
    for taken in 0..3 {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap();
        let mut addresses = free_addresses::<3>();
        addresses[taken] = address;
        let [data, admin, metrics] = addresses;
        let mut gateway = builder.spawn(data, admin, metrics);
        let status = gateway.exit_within(DEADLINE).expect("it gives up");
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
        until("the message names the address", || {
            gateway.stderr().contains(&address.to_string()).then_some(())
        });
        assert!(!gateway.stderr().contains("panicked"), "{}", gateway.stderr());
    }
}

#[test]
fn a_missing_configuration_is_66() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["run", "check"] {
        let finished = run_to_exit(dir.path(), &[command, "-c", "nowhere.yaml"]);
        assert_eq!(finished.code, Some(66), "{command}: {finished:?}");
        let said = finished.stdout + &finished.stderr;
        assert!(said.contains("nowhere.yaml"), "{command}: {said}");
    }
}

#[test]
fn a_configuration_that_is_wrong_is_64() {
    let dir = tempfile::tempdir().unwrap();
    let route = "routes: [{name: a, path: /, upstream: missing}]";
    let deep = "[".repeat(1 << 20);
    for (name, yaml) in [
        ("not YAML", "server: [\n"),
        ("empty", ""),
        ("a list", "- a\n- b\n"),
        ("an unknown key", "sever: {listen: 127.0.0.1:0}\n"),
        ("an unknown upstream", route),
        ("control bytes", "\u{0}\u{1}"),
        ("a megabyte of nesting", deep.as_str()),
    ] {
        let path = dir.path().join("bad.yaml");
        fs::write(&path, yaml).unwrap();
        for command in ["run", "check"] {
            let finished = run_to_exit(dir.path(), &[command, "-c", "bad.yaml"]);
            assert_eq!(finished.code, Some(64), "{command}, {name}: {finished:?}");
            let said = finished.stdout + &finished.stderr;
            assert!(!said.trim().is_empty(), "{command}, {name}: it says why");
            assert!(!said.contains("panicked"), "{command}, {name}: {said}");
        }
    }
}

#[test]
fn a_good_configuration_passes_check_and_opens_no_port() {
    let upstream = Upstream::new();
    let dir = tempfile::tempdir().unwrap();
    let [data, admin, metrics] = free_addresses();
    // Held meanwhile: `check` would fail if it bound them.
    let _held = [data, admin, metrics].map(|address| TcpListener::bind(address).unwrap());
    let yaml = Gateway::before(&upstream).yaml(data, admin, metrics);
    fs::write(dir.path().join("good.yaml"), yaml).unwrap();
    let finished = run_to_exit(dir.path(), &["check", "-c", "good.yaml"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(upstream.connections(), 0);
}

/// The lines of the access log once there are `count` of them.
fn log_lines(gateway: &Gateway, count: usize) -> Vec<String> {
    until("the access log is written", || {
        let text = fs::read_to_string(gateway.path("access.log")).ok()?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    })
}

#[test]
fn the_access_log_is_json_of_known_fields() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .server("access_log: {file: access.log, format: json}\nhealth_path: /healthz")
        .routes("- {name: users, path: /users, upstream: main}")
        .start();
    let mut client = gateway.client();
    assert_eq!(client.get("/healthz").status, 200);
    let admitted = client.get_with("/users/1?q=1", &[("User-Agent", "a \"b\" \\ \u{7e}")]);
    let refused = client.get("/nowhere");
    let odd = client.get("/users/%22%7B");
    assert_eq!((admitted.status, refused.status, odd.status), (200, 404, 200));
    let lines = log_lines(&gateway, 3);
    assert_eq!(lines.len(), 3, "the health path is not logged: {lines:?}");
    let entries: Vec<serde_json::Value> =
        lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    for (entry, reply, route) in
        [(&entries[0], &admitted, "users"), (&entries[1], &refused, "none")]
    {
        assert_eq!(entry["method"], "GET", "{entry}");
        assert_eq!(entry["status"], reply.status, "{entry}");
        assert_eq!(entry["route"], route, "{entry}");
        assert_eq!(entry["trace_id"], reply.header("X-Trace-ID").unwrap(), "{entry}");
        let keys = entry.as_object().unwrap();
        let duration = keys.iter().find(|(key, _)| key.starts_with("duration"));
        assert!(duration.is_some_and(|(_, value)| value.is_number()), "{entry}");
    }
    let path = entries[0]["path"].as_str().unwrap();
    assert!(path.starts_with("/users/1"), "{path}");
    assert!(entries[0]["client"].as_str().is_some_and(|client| client.contains("127.0.0.1")));
}

#[test]
fn the_access_log_can_be_combined() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .server("access_log: {file: access.log, format: combined}")
        .start();
    let agent = [("User-Agent", "curl/8"), ("Referer", "http://a.test/")];
    assert_eq!(gateway.client().get_with("/users/1", &agent).status, 200);
    let line = log_lines(&gateway, 1).remove(0);
    assert!(line.starts_with("127.0.0.1 - "), "{line}");
    for part in ["] \"GET /users/1 HTTP/1.1\" 200 ", "\"http://a.test/\"", "\"curl/8\""] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_quote_in_a_field_cannot_end_its_place_in_the_combined_log() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .server("access_log: {file: access.log, format: combined}")
        .start();
    let agent = [("User-Agent", "x\" 200 \"forged")];
    assert_eq!(gateway.client().get_with("/", &agent).status, 200);
    let line = log_lines(&gateway, 1).remove(0);
    assert!(!line.contains("x\" 200"), "{line}");
}

#[test]
fn what_was_logged_before_the_end_is_in_the_file() {
    let upstream = Upstream::new();
    let mut gateway =
        Gateway::before(&upstream).server("access_log: {file: access.log, format: json}").start();
    let mut client = gateway.client();
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 200);
    }
    gateway.terminate();
    assert!(gateway.exit_within(DEADLINE).is_some());
    assert_eq!(log_lines(&gateway, 100).len(), 100);
}

#[test]
fn the_access_log_can_go_to_standard_output() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).server("access_log: stdout").start();
    let reply = gateway.get("/to-stdout");
    let line = until("the line is written", || {
        gateway.stdout().lines().find(|line| line.contains("/to-stdout")).map(str::to_owned)
    });
    let entry: serde_json::Value = serde_json::from_str(&line).expect("JSON by default");
    assert_eq!(entry["status"], reply.status);
}

#[test]
fn without_an_access_log_requests_leave_no_line() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    until("it has said that it serves", || gateway.stderr().contains("serving on").then_some(()));
    let before = (gateway.stdout(), gateway.stderr());
    assert_eq!(gateway.get("/unlogged").status, 200);
    until("it is counted", || {
        let summary = gateway.admin_get("/metrics/summary").json();
        (summary["total_requests"].as_u64() >= Some(1)).then_some(())
    });
    assert_eq!((gateway.stdout(), gateway.stderr()), before);
}
