//! The demo: every line it prints does what it says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

mod support;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Client, DEADLINE, eventually, free_addresses, until};
use tempfile::TempDir;

/// How long one printed line may take.
const LINE_DEADLINE: Duration = Duration::from_secs(20);

/// A running demo; ends with the test.
struct Demo {
    child: Child,
    dir: TempDir,
    gateway: SocketAddr,
    admin: SocketAddr,
    metrics: SocketAddr,
    upstream: SocketAddr,
}

impl Demo {
    fn spawn([gateway, admin, metrics, upstream]: [SocketAddr; 4]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| fs::File::create(dir.path().join(name)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("demo")
            .current_dir(dir.path())
            .env("TOLLGATE_LISTEN", gateway.to_string())
            .env("TOLLGATE_ADMIN_LISTEN", admin.to_string())
            .env("TOLLGATE_METRICS_LISTEN", metrics.to_string())
            .env("TOLLGATE_UPSTREAM", upstream.to_string())
            .env("TOLLGATE_WORKERS", "1")
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        Self { child, dir, gateway, admin, metrics, upstream }
    }

    /// Waits until it has printed all it has to say.
    fn started() -> Self {
        let demo = Self::spawn(free_addresses());
        until("the demo says what to try", || demo.stdout().contains("Ctrl-C").then_some(()));
        demo
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn stdout(&self) -> String {
        fs::read_to_string(self.path("stdout")).unwrap()
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.path("stderr")).unwrap()
    }

    fn exit(&mut self) -> Option<ExitStatus> {
        eventually(DEADLINE, || self.child.try_wait().unwrap())
    }

    /// Each printed line a user would paste, with the comment above it.
    fn lines(&self) -> Vec<(String, String)> {
        let mut comment = String::new();
        let mut lines = Vec::new();
        for line in self.stdout().lines().filter_map(|line| line.strip_prefix("  ")) {
            match line.strip_prefix("# ") {
                Some(text) => text.clone_into(&mut comment),
                None => lines.push((comment.clone(), line.to_owned())),
            }
        }
        lines
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a line prints when it is pasted into a shell.
#[track_caller]
fn paste(demo: &Demo, line: &str) -> String {
    let out = demo.path("line");
    let mut child = Command::new("sh")
        .args(["-c", line])
        .env("no_proxy", "*")
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = eventually(LINE_DEADLINE, || child.try_wait().unwrap());
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let printed = fs::read_to_string(&out).unwrap();
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{line}\n{printed}");
    printed
}

/// The value of a header in what `curl -i` prints.
fn header<'a>(printed: &'a str, name: &str) -> &'a str {
    let mut lines = printed.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map_or_else(|| panic!("no {name} in {printed}"), |(_, value)| value.trim())
}

fn json(printed: &str) -> Value {
    serde_json::from_str(printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[test]
fn every_printed_line_does_what_it_says() {
    let demo = Demo::started();
    let lines = demo.lines();
    let mut lines = lines.iter();
    let mut next = |about: &str, part: &str| {
        let (comment, line) = lines.next().unwrap_or_else(|| panic!("no line about {about}"));
        assert!(comment.contains(about) && line.contains(part), "{comment}\n{line}");
        paste(&demo, line)
    };

    let users = next("RateLimit headers show what is left", "/api/users");
    assert!(users.starts_with("HTTP/1.1 200"), "{users}");
    assert!(header(&users, "ratelimit").contains(";r=9;"), "{users}");
    assert_eq!(json(&next("through the gateway", "/api/users/1"))["id"], 1);

    let data = next("premium tier has a larger bucket", "demo-premium");
    assert!(data.starts_with("HTTP/1.1 200"), "{data}");
    assert!(header(&data, "ratelimit-policy").contains("q=200"), "{data}");
    assert!(header(&data, "ratelimit").contains(";r=195;"), "five tokens: {data}");

    let statuses = next("ten tokens and earns one a second", "demo-free");
    let statuses: Vec<&str> = statuses.split_whitespace().collect();
    assert_eq!(statuses.len(), 15);
    assert!(statuses[..10].iter().all(|&status| status == "200"), "{statuses:?}");
    assert!(statuses[10..].contains(&"429"), "{statuses:?}");

    assert_eq!(json(&next("lift that client", "/tier"))["tier"], "enterprise");
    let lifted = next("counts from the next request on", "demo-free");
    assert!(lifted.starts_with("HTTP/1.1 200"), "{lifted}");
    assert!(header(&lifted, "ratelimit-policy").contains("q=1000"), "{lifted}");

    let start = Instant::now();
    assert!(next("a slow and a failing upstream", "delay_ms=2000").starts_with("HTTP/1.1 200"));
    assert!(start.elapsed() >= Duration::from_secs(2), "it was slow");
    assert!(next("failing", "status=503").starts_with("HTTP/1.1 503"));

    let statuses = next("after five failures in a row", "status=500");
    assert!(statuses.starts_with("500 ") && statuses.trim_end().ends_with("503"), "{statuses}");
    let refused = next("nothing more is asked of the upstream", "/api/users");
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("circuit-open"), "{refused}");
    assert!(header(&refused, "retry-after").parse::<u32>().unwrap() <= 10, "{refused}");
    assert_eq!(json(&next("circuit opens", "/circuit-breakers"))[0]["state"], "open");

    let limits = json(&next("what was counted", "/limits"));
    assert!(limits["tiers"].as_array().unwrap().iter().any(|tier| tier["limited"] != 0));
    let summary = json(&next("what was counted", "/metrics/summary"));
    assert!(summary["total_requests"].as_u64().unwrap() >= 20, "{summary}");
    let metrics = next("what was counted", "grep ^gateway_");
    assert!(metrics.contains("gateway_requests_total{"), "{metrics}");
    assert_eq!(lines.next(), None, "a line that nobody tried");
}

#[test]
fn every_printed_address_answers() {
    let demo = Demo::started();
    let said = demo.stdout();
    for address in [demo.gateway, demo.admin, demo.metrics, demo.upstream] {
        assert!(said.contains(&address.to_string()), "{address}: {said}");
    }
    let head = said.split("Try, in another terminal").next().unwrap();
    let urls = head.split_whitespace().filter_map(|word| word.strip_prefix("http://"));
    let mut count = 0;
    for url in urls {
        let url = url.trim_end_matches(['.', ',']);
        let (host, path) = url.split_once('/').unwrap_or((url, "health"));
        let address: SocketAddr = host.parse().expect(url);
        let reply = Client::connect(address).get_with(&format!("/{path}"), &[("Host", host)]);
        assert_eq!(reply.status, 200, "{url}");
        count += 1;
    }
    assert_eq!(count, 3, "{head}");
}

#[test]
fn the_samples_switches_make_it_slow_and_failing() {
    let demo = Demo::started();
    let set = |body: &str| {
        let headers = [("Content-Type", "application/json")];
        let mut client = Client::connect(demo.upstream);
        client.request("PUT", "/switches", &headers, body.as_bytes()).status
    };
    let get = || Client::connect(demo.gateway).get("/api/users").status;
    assert_eq!((get(), set(r#"{"fail_ratio": 1.0, "status": 500}"#), get()), (200, 200, 500));
    assert_eq!((set(r#"{"delay_ms": 300}"#), set("{\"speed\": 1}")), (200, 400));
    let start = Instant::now();
    assert_eq!(get(), 200);
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!((set(r#"{"healthy": false}"#), set("{}")), (200, 200));
}

#[test]
fn the_sample_breaks_connections_as_told_and_recovers() {
    let demo = Demo::started();
    let mut switches = Client::connect(demo.upstream);
    let body = br#"{"fail_next": 2, "fault": "reset"}"#;
    assert_eq!(switches.request("PUT", "/switches", &[], body).status, 200);
    let ask = || {
        let mut client = Client::connect(demo.upstream);
        client.send("GET /users HTTP/1.1\r\nHost: a\r\n\r\n");
        client.try_reply().unwrap().map(|reply| reply.status)
    };
    assert_eq!([ask(), ask(), ask()], [None, None, Some(200)]);
    // The port is closed by the listener's task, a moment after the answer.
    assert_eq!(switches.post("/refuse?ms=1000", &[], b"").status, 202);
    let connects = || Client::try_connect(demo.upstream).is_some();
    until("the port refuses", || (!connects()).then_some(()));
    until("the port is back", || connects().then_some(()));
    assert_eq!(ask(), Some(200));
}

#[test]
fn an_interrupt_ends_it() {
    let mut demo = Demo::started();
    let kill = format!("kill -INT {}", demo.child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let status = demo.exit().expect("it ends");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_taken_port_is_named() {
    let free: [SocketAddr; 4] = free_addresses();
    for index in 0..4 {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut addresses = free;
        addresses[index] = taken.local_addr().unwrap();
        let mut demo = Demo::spawn(addresses);
        let status = demo.exit().expect("it cannot start");
        assert_ne!(status.code(), Some(0));
        let said = demo.stderr();
        assert!(said.contains(&addresses[index].to_string()), "{said}");
        assert!(said.contains("in use"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
