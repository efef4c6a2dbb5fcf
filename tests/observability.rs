//! What can be known of the gateway from outside: metrics, logs, and that neither
//! grows with what clients send.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{
    Answer, Client, DEADLINE, End, Gate, Gateway, Series, Upstream, eventually, free_addresses, ok,
    until,
};

const ALL_200: &str = "gateway_requests_total{route=\"all\",status=\"200\"}";
const MALFORMED: &str = "gateway_requests_total{route=\"none\",status=\"400\"}";

#[test]
fn every_metric_has_its_name_type_and_labels() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 1/h, burst: 1}").start();
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [200, 429]);
    let series = gateway.series_once("gateway_requests_total{route=\"all\",status=\"429\"}", 1.0);
    for (name, kind, labels) in [
        ("gateway_requests_total", "counter", &["route", "status"][..]),
        ("gateway_rate_limited_total", "counter", &["policy", "route", "tier"]),
        ("gateway_upstream_attempts_total", "counter", &["outcome", "upstream"]),
        ("gateway_inflight_requests", "gauge", &["route"]),
        ("gateway_limiter_table_slots", "gauge", &["state"]),
        ("gateway_limiter_overflow_total", "counter", &[]),
        ("process_cpu_seconds_total", "counter", &[]),
        ("process_resident_memory_bytes", "gauge", &[]),
        ("process_open_fds", "gauge", &[]),
        ("process_start_time_seconds", "gauge", &[]),
    ] {
        assert_eq!(series.kind(name), Some(kind), "{name}");
        assert!(!series.of(name).is_empty(), "{name}");
        let labels: BTreeSet<String> = labels.iter().map(|&label| label.to_owned()).collect();
        assert_eq!(series.labels(name), labels, "{name}");
    }
    let duration = "gateway_request_duration_seconds";
    assert_eq!(series.kind(duration), Some("histogram"));
    assert_eq!(series.value(&format!("{duration}_count{{route=\"all\"}}")), 2.0);
    assert_eq!(series.value(&format!("{duration}_bucket{{route=\"all\",le=\"+Inf\"}}")), 2.0);
    assert_eq!(series.value(ALL_200), 1.0);
    let limited = "gateway_rate_limited_total{policy=\"tier\",route=\"all\",tier=\"free\"}";
    assert_eq!(series.value(limited), 1.0);
    assert_eq!(series.value("gateway_limiter_table_slots{state=\"used\"}"), 1.0);
    assert_eq!(series.value("gateway_limiter_table_slots{state=\"free\"}"), 1_048_575.0);
}

#[test]
fn the_tier_and_the_policy_that_refused_are_told() {
    let upstream = Upstream::new();
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .clients("identify: [{header: X-Client-ID}, ip]\nknown: {vip: {tier: gold}}")
        .tiers("free: {rate: 1/s, burst: 9}\ngold: {rate: 9/s, burst: 90}")
        .limits("- {name: mine, key: client, rate: 1/h, burst: 1}")
        .routes(
            "
            - {name: a, path: /a, upstream: main}
            - {name: b, path: /b, upstream: main, limit: {rate: 1/d, burst: 1, key: route}}",
        )
        .start();
    for target in ["/a", "/a", "/b", "/b"] {
        gateway.client().get_with(target, &[("X-Client-ID", "vip")]);
    }
    assert_eq!(gateway.client().get_with("/b", &[("X-Client-ID", "x")]).status, 200);
    assert_eq!(gateway.client().get_with("/b", &[("X-Client-ID", "y")]).status, 429);
    let limited = |policy: &str, route: &str, tier: &str| {
        format!(
            "gateway_rate_limited_total{{policy=\"{policy}\",route=\"{route}\",tier=\"{tier}\"}}"
        )
    };
    gateway.series_once(&limited("mine", "a", "gold"), 1.0);
    gateway.series_once(&limited("mine", "b", "gold"), 2.0);
    gateway.series_once(&limited("route:b", "b", "free"), 1.0);
}

#[test]
fn attempts_tell_how_they_ended() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/500" => Answer::Bytes(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec()),
        "/501" => Answer::Bytes(b"HTTP/1.1 501 No\r\nContent-Length: 0\r\n\r\n".to_vec()),
        "/silent" => Answer::Silent,
        "/hangup" => Answer::Hangup,
        _ => ok("fine"),
    });
    let [nobody] = free_addresses();
    let gateway = Gateway::before(&upstream)
        .upstream("dead", nobody)
        .routes(
            "
            - {name: all, path: /, upstream: main}
            - {name: timed, path: /silent, upstream: main, timeout: 200ms}
            - {name: dead, path: /dead, upstream: dead}",
        )
        .start();
    for (target, status) in
        [("/", 200), ("/404", 200), ("/500", 500), ("/501", 501), ("/silent", 504), ("/dead", 502)]
    {
        assert_eq!(gateway.get(target).status, status, "{target}");
    }
    let attempts = |upstream: &str, outcome: &str| {
        format!("gateway_upstream_attempts_total{{outcome=\"{outcome}\",upstream=\"{upstream}\"}}")
    };
    gateway.series_once(&attempts("main", "ok"), 3.0);
    gateway.series_once(&attempts("main", "status_5xx"), 1.0);
    gateway.series_once(&attempts("main", "timeout"), 1.0);
    gateway.series_once(&attempts("dead", "connect"), 1.0);
    assert_eq!(gateway.client().post("/hangup", &[], b"x").status, 502);
    let series = gateway.series_once(&attempts("main", "reset"), 1.0);
    let outcomes = ["ok", "status_5xx", "connect", "timeout", "reset", "cancelled"];
    assert_eq!(series.of("gateway_upstream_attempts_total").len(), 2 * outcomes.len());
}

#[test]
fn requests_in_flight_are_seen_while_they_are() {
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
    let gateway = Gateway::before(&upstream).start();
    let mut clients: Vec<Client> = (0..3).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    }
    upstream.wait_for(3);
    gateway.series_once("gateway_inflight_requests{route=\"all\"}", 3.0);
    drop(clients.pop());
    gateway.series_once("gateway_inflight_requests{route=\"all\"}", 2.0);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.reply().status, 200);
    }
    gateway.series_once("gateway_inflight_requests{route=\"all\"}", 0.0);
}

#[test]
fn what_never_became_a_request_counts_under_no_route() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let bad = [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "not HTTP at all\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "G\u{7f}T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for bytes in bad {
        let mut client = gateway.client();
        client.send(bytes);
        assert_eq!(client.reply().status, 400, "{bytes:?}");
    }
    gateway.series_once(MALFORMED, 5.0);
    let mut long = gateway.client();
    long.send(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9_000)));
    assert_eq!(long.reply().status, 414);
    gateway.series_once("gateway_requests_total{route=\"none\",status=\"414\"}", 1.0);
}

#[test]
fn nothing_that_clients_send_makes_a_new_series() {
    let upstream = Upstream::scripted(|head| match head.target().len() % 3 {
        0 => Answer::Bytes(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n".to_vec()),
        _ => ok("fine"),
    });
    let gateway = Gateway::before(&upstream)
        .clients("identify: [{header: X-Client-ID}, ip]")
        .routes(
            "
            - {name: all, path: /a, upstream: main}
            - {name: keyed, path: /k, upstream: main, methods: [GET],
               limit: {rate: 1/h, burst: 1, key: {header: X-Tenant}}}",
        )
        .start();
    let names = |series: &Series| -> BTreeSet<String> { series.names() };
    let ask = |index: usize| {
        let mut client = gateway.client();
        let (id, host, tenant) =
            (format!("c{index}"), format!("h{index}.example"), format!("t{}", index / 2));
        let headers = [("X-Client-ID", &*id), ("Host", &*host), ("X-Tenant", &*tenant)];
        client.get_with(&format!("/a/p{index}"), &headers);
        client.request(&format!("M{index}"), &format!("/a/{index}"), &headers, b"");
        client.get_with(&format!("/nowhere/{index}"), &headers);
        client.get_with("/k", &headers);
        client.request(&format!("N{index}"), "/k", &headers, b"");
    };
    // One of everything, so that all series are there which may be.
    for index in 0..30 {
        ask(index);
    }
    let count = "gateway_request_duration_seconds_count{route=\"none\"}";
    let before = names(&gateway.series_once(count, 60.0));
    for index in 30..1_030 {
        ask(index);
    }
    let after = names(&gateway.series_once(count, 2_060.0));
    let new: Vec<&String> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    assert!(after.len() < 200, "{}", after.len());
}

/// Lines that say something other than how it started.
fn lines(text: &str) -> usize {
    text.lines().count()
}

#[test]
fn rust_log_decides_what_is_logged() {
    let upstream = Upstream::new();
    let at = |level: &str| {
        let gateway = Gateway::before(&upstream).env("RUST_LOG", level).start();
        assert_eq!(gateway.get("/").status, 200);
        gateway.series_once(ALL_200, 1.0);
        gateway.stderr()
    };
    assert_eq!(at("off"), "", "nothing");
    assert_eq!(at("error"), "", "a good start has no errors to tell");
    at("no such level==,,[");
    let info = at("tollgate=info");
    assert!(info.contains("INFO"), "{info}");
    assert!(info.contains("serving on"), "{info}");
    assert!(lines(&info) < 20, "{info}");
    let trace = at("trace");
    assert!(lines(&trace) > lines(&info), "{trace}");
}

#[test]
fn two_thousand_bad_requests_do_not_flood_the_log() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/bad" => Answer::Last(b"SMTP 220 hello\r\n\r\n".to_vec()),
        _ => Answer::Hangup,
    });
    let [nobody] = free_addresses();
    let gateway = Gateway::before(&upstream)
        .upstream("dead", nobody)
        .routes(
            "
            - {name: all, path: /, upstream: main, max_body: 10}
            - {name: dead, path: /dead, upstream: dead}",
        )
        .start();
    let before = lines(&gateway.stderr());
    let start = Instant::now();
    let kinds = [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "\u{1}\u{2}\u{3}\r\n\r\n",
        "GET /dead HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /bad HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /hangup HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHo",
    ];
    for index in 0..2_000 {
        let mut stream = TcpStream::connect(gateway.data).unwrap();
        let _ = stream.write_all(kinds[index % kinds.len()].as_bytes());
        if index % 3 == 0 {
            continue;
        }
        drop(Client::connect(gateway.data));
    }
    let seconds = start.elapsed().as_secs_f64();
    until("it is done with them", || {
        (gateway.series().sum("gateway_inflight_requests") == 0.0).then_some(())
    });
    let log = gateway.stderr();
    let told = lines(&log) - before;
    assert!(told < 50, "{told} lines in {seconds:.1} s:\n{log}");
}

fn entries(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// What is in the log once it has so many lines.
#[track_caller]
fn logged(read: impl Fn() -> String, count: usize) -> String {
    let mut text = String::new();
    let found = eventually(DEADLINE, || {
        text = read();
        (text.ends_with('\n') && text.lines().count() >= count).then_some(())
    });
    assert!(found.is_some(), "not {count} lines:\n{text}");
    text
}

#[test]
fn the_json_access_log_has_a_line_for_each_request() {
    let upstream = Upstream::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let gateway = Gateway::before(&upstream)
        .server(&format!("access_log: {{file: \"{}\"}}\nhealth_path: /healthz", file.display()))
        .clients("identify: [{header: X-Client-ID}, ip]\nknown: {vip: {tier: gold}}")
        .tiers("free: {rate: 1/h, burst: 1}\ngold: {rate: 9/s, burst: 90}")
        .start();
    let hostile = [
        ("X-Client-ID", "vip"),
        ("User-Agent", "\"}\t{\"status\":1,\\"),
        ("Referer", "http://a/\u{fc}"),
        ("X-Trace-ID", "trace-of-mine"),
    ];
    let reply = gateway.client().post("/a/b?q=1&r=%22", &hostile, b"12345");
    assert_eq!(reply.status, 200);
    assert_eq!(gateway.get("/healthz").status, 200);
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [200, 429]);
    let mut bad = gateway.client();
    bad.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(bad.reply().status, 400);
    let log = entries(&logged(|| fs::read_to_string(&file).unwrap_or_default(), 4));
    assert_eq!(log.len(), 4, "probes are not logged: {log:?}");
    let first = &log[0];
    for (member, value) in [
        ("method", "POST"),
        ("path", "/a/b"),
        ("query", "q=1&r=%22"),
        ("protocol", "HTTP/1.1"),
        ("route", "all"),
        ("client", "vip"),
        ("tier", "gold"),
        ("client_ip", "127.0.0.1"),
        ("trace_id", "trace-of-mine"),
        ("user_agent", "\"}\t{\"status\":1,\\"),
        ("upstream", &*upstream.address().to_string()),
    ] {
        assert_eq!(first[member], value, "{member} in {first}");
    }
    for (member, value) in
        [("status", 200), ("bytes_received", 5), ("bytes_sent", reply.body.len()), ("attempts", 1)]
    {
        assert_eq!(first[member], value, "{member} in {first}");
    }
    assert!(first["duration_seconds"].as_f64().unwrap() > 0.0, "{first}");
    assert_eq!((&log[2]["status"], &log[2]["limited_by"]), (&429.into(), &"tier".into()));
    assert_eq!((&log[3]["status"], &log[3]["route"]), (&400.into(), &"none".into()));
}

#[test]
fn the_combined_access_log_is_what_its_readers_expect() {
    let upstream = Upstream::answering(ok("12345"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let gateway = Gateway::before(&upstream)
        .server(&format!("access_log: {{file: \"{}\", format: combined}}", file.display()))
        .start();
    let headers = [("User-Agent", "curl/8 \"x\""), ("Referer", "http://a/")];
    assert_eq!(gateway.client().get_with("/a?b=c", &headers).status, 200);
    let log = logged(|| fs::read_to_string(&file).unwrap_or_default(), 1);
    let line = log.lines().next().unwrap();
    assert!(line.starts_with("127.0.0.1 - "), "{line}");
    let tail = "\"GET /a?b=c HTTP/1.1\" 200 5 \"http://a/\" \"curl/8 \\x22x\\x22\"";
    assert!(line.ends_with(tail), "{line}");
    assert!(line.contains(" +0000] "), "{line}");
}

#[test]
fn the_access_log_on_stdout_is_json_and_nothing_else() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).server("access_log: stdout").start();
    for target in ["/1", "/2", "/3"] {
        assert_eq!(gateway.get(target).status, 200);
    }
    let log = entries(&logged(|| gateway.stdout(), 3));
    let paths: Vec<&str> = log.iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/1", "/2", "/3"]);
}

/// A gateway whose access log goes into a pipe that nobody empties, filled until
/// lines are dropped.
fn with_a_stuck_access_log(upstream: &Upstream) -> (Gateway, fs::File, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo");
    assert!(made.success());
    // Open for both directions, which neither waits for another end nor reads.
    let held = fs::File::options().read(true).write(true).open(&pipe).unwrap();
    let gateway = Gateway::before(upstream)
        .server(&format!("access_log: {{file: \"{}\"}}\ngrace_period: 1s", pipe.display()))
        .start();
    let mut client = gateway.client().patience(Duration::from_secs(2));
    let target = format!("/{}", "x".repeat(8_000));
    for _ in 0..1_000 {
        assert_eq!(client.get(&target).status, 200, "a request never waits for the log");
    }
    assert!(gateway.series().sum("gateway_access_log_dropped_total") > 0.0);
    (gateway, held, dir)
}

#[test]
fn a_log_that_nobody_takes_drops_lines_and_holds_nobody_up() {
    let upstream = Upstream::answering(ok("fine"));
    let (gateway, _pipe, _dir) = with_a_stuck_access_log(&upstream);
    assert!(gateway.resident_bytes() < 100 << 20, "{}", gateway.resident_bytes());
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_log_that_nobody_takes_does_not_keep_the_gateway_from_stopping() {
    let upstream = Upstream::answering(ok("fine"));
    for signal in ["TERM", "INT"] {
        let (mut gateway, _pipe, _dir) = with_a_stuck_access_log(&upstream);
        match signal {
            "TERM" => gateway.terminate(),
            _ => gateway.interrupt(),
        }
        let ended = gateway.exit_within(Duration::from_secs(5));
        assert!(ended.is_some(), "{signal}: it hangs beyond its grace period of 1 s");
    }
}

#[test]
fn the_last_lines_are_written_before_the_end() {
    let upstream = Upstream::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let mut gateway = Gateway::before(&upstream)
        .server(&format!("access_log: {{file: \"{}\"}}", file.display()))
        .start();
    let mut client = gateway.client();
    for index in 0..200 {
        assert_eq!(client.get(&format!("/{index}")).status, 200);
    }
    gateway.terminate();
    assert!(gateway.exit_within(DEADLINE).is_some());
    assert_eq!(entries(&fs::read_to_string(&file).unwrap()).len(), 200);
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn an_access_log_that_cannot_be_opened_is_told_at_start() {
    let upstream = Upstream::new();
    let [data, admin, metrics] = free_addresses();
    let mut gateway = Gateway::before(&upstream)
        .server("access_log: {file: /nonexistent/folder/access.log}")
        .spawn(data, admin, metrics);
    let status = gateway.exit_within(DEADLINE).expect("it does not start");
    assert_ne!(status.code(), Some(0));
    until("it says why", || gateway.stderr().contains("access_log").then_some(()));
}
