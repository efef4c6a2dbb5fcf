//! The access log: one line a request, and never a request that waits for it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{DEADLINE, End, Gateway, Upstream, eventually, free_addresses, ok, until};

const MANUAL: &str = include_str!("../../docs/ADMIN.md");

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

/// An access log in a file of its own.
pub(crate) struct Log(tempfile::TempDir);

impl Log {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    /// The key of `server` that makes the gateway write it.
    pub(crate) fn yaml(&self) -> String {
        format!("access_log: {{file: \"{}\"}}", self.0.path().join("log").display())
    }

    /// The line at this place, once it is there.
    #[track_caller]
    pub(crate) fn entry(&self, index: usize) -> Value {
        until("the line is written", || self.lines().into_iter().nth(index))
    }

    /// The line of the request with this trace id, once it is there.
    #[track_caller]
    pub(crate) fn entry_of(&self, trace_id: &str) -> Value {
        until("the line is written", || {
            self.lines().into_iter().find(|entry| entry["trace_id"] == trace_id)
        })
    }

    /// The lines that are written to their end.
    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.0.path().join("log")).unwrap_or_default();
        entries(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }
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
    let table = MANUAL.split("## Access log").nth(1).unwrap();
    for name in log.iter().flat_map(|entry| entry.as_object().unwrap().keys()) {
        assert!(table.contains(&format!("`{name}`")), "docs/ADMIN.md does not tell about {name}");
    }
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
    assert_eq!(log[2]["refusal"], "rate-limited");
    assert_eq!((&log[3]["status"], &log[3]["route"]), (&400.into(), &"none".into()));
    assert_eq!(log[3]["refusal"], "malformed-request");
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
