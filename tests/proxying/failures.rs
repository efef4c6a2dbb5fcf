//! What a client is told when it cannot have what it asked for, and that one
//! failure is nobody else's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::{Answer, Gate, Gateway, Reply, Upstream, free_addresses, ok, until};

/// Checks the one shape all refusals have.
#[track_caller]
fn expect_problem(reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = reply.json();
    assert_eq!(problem["status"], status);
    for field in ["type", "title", "detail"] {
        let text = problem[field].as_str();
        assert!(text.is_some_and(|text| !text.is_empty()), "{field} in {problem}");
    }
    let trace_id = reply.header("X-Trace-ID").expect("a trace id");
    assert_eq!(problem["trace_id"], trace_id);
}

fn before_nobody() -> (Gateway, SocketAddr) {
    let [nobody] = free_addresses();
    let gateway = Gateway::builder()
        .upstream("gone", nobody)
        .routes("- {name: all, path: /, upstream: gone}")
        .start();
    (gateway, nobody)
}

#[test]
fn an_upstream_that_refuses_connections_is_502() {
    let (gateway, nobody) = before_nobody();
    let mut client = gateway.client();
    for _ in 0..2 {
        let reply = client.get("/");
        expect_problem(&reply, 502);
        assert!(!reply.text().contains(&nobody.to_string()), "the inside stays inside");
        assert!(!reply.says_close());
    }
}

#[test]
fn an_upstream_that_hangs_up_is_502() {
    let upstream = Upstream::answering(Answer::Hangup);
    let gateway = Gateway::before(&upstream).start();
    expect_problem(&gateway.get("/"), 502);
    expect_problem(&gateway.client().post("/", &[], b"hello"), 502);
}

#[test]
fn an_upstream_that_does_not_speak_http_is_502() {
    let nonsense = [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n".as_slice(),
        b"HTTP/1.1 abc Nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ];
    for bytes in nonsense {
        let upstream = Upstream::answering(Answer::Last(bytes.to_vec()));
        let gateway = Gateway::before(&upstream).start();
        expect_problem(&gateway.get("/"), 502);
    }
}

#[test]
fn a_route_without_an_answer_in_time_is_504() {
    let upstream = Upstream::answering(Answer::Silent);
    let gateway = Gateway::before(&upstream)
        .routes("- {name: all, path: /, upstream: main, timeout: 300ms}")
        .start();
    let start = Instant::now();
    expect_problem(&gateway.get("/"), 504);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn the_timeout_of_a_route_covers_the_whole_request() {
    // Each pause alone is shorter than the timeout; together they are not.
    let part = b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec();
    let pause = |next| Answer::After(Duration::from_millis(400), Box::new(next));
    let upstream =
        Upstream::answering(Answer::Interim(part, Box::new(pause(pause(pause(ok("late")))))));
    let gateway = Gateway::before(&upstream)
        .routes("- {name: all, path: /, upstream: main, timeout: 700ms}")
        .start();
    expect_problem(&gateway.get("/"), 504);
}

#[test]
fn the_read_timeout_of_an_upstream_is_504() {
    let upstream = Upstream::answering(Answer::Silent);
    let upstreams =
        format!("main: {{servers: [\"{}\"], timeouts: {{read: 300ms}}}}", upstream.address());
    let gateway = Gateway::builder()
        .upstreams(&upstreams)
        .routes("- {name: all, path: /, upstream: main}")
        .start();
    expect_problem(&gateway.get("/"), 504);
}

#[test]
fn no_route_is_404_and_the_wrong_method_405() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .routes("- {name: some, path: /some, upstream: main, methods: [GET]}")
        .start();
    let mut client = gateway.client();
    expect_problem(&client.get("/nowhere"), 404);
    expect_problem(&client.request("DELETE", "/some", &[], b""), 405);
    assert_eq!(client.get("/some").status, 200, "the connection goes on");
}

#[test]
fn an_answer_cut_off_is_not_passed_as_whole() {
    let cases = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello".as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ];
    for bytes in cases {
        let upstream = Upstream::answering(Answer::Last(bytes.to_vec()));
        let gateway = Gateway::before(&upstream).start();
        let mut client = gateway.client();
        client.send("GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
        // What looks like a whole answer can only be a refusal.
        if let Ok(Some(reply)) = client.try_reply() {
            assert_eq!(reply.status, 502, "{}", reply.text());
        }
    }
}

#[test]
fn statuses_of_the_upstream_are_its_own() {
    let upstream = Upstream::scripted(|head| {
        let status = head.target().trim_start_matches('/');
        Answer::Bytes(format!("HTTP/1.1 {status} X\r\nContent-Length: 3\r\n\r\nown").into_bytes())
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for status in [200, 201, 301, 400, 404, 405, 418, 429, 500, 502, 503, 504, 599] {
        let reply = client.get(&format!("/{status}"));
        assert_eq!((reply.status, reply.text().as_str()), (status, "own"));
    }
}

#[test]
fn a_client_gone_while_it_sends_harms_nobody() {
    let upstream = Upstream::new();
    let mut gateway = Gateway::before(&upstream).start();
    for _ in 0..20 {
        let mut client = gateway.client();
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nhello");
    }
    assert_eq!(gateway.get("/after").text(), "GET /after");
    assert!(gateway.is_running());
}

#[test]
fn a_client_gone_while_it_waits_harms_nobody() {
    let gate = Gate::default();
    let held = Answer::Held(gate.clone(), Box::new(ok("late")));
    let upstream = Upstream::scripted(move |head| match head.target() {
        "/slow" => held.clone(),
        _ => ok("quick"),
    });
    let mut gateway = Gateway::before(&upstream).start();
    for count in 1..=10 {
        let mut client = gateway.client();
        client.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n");
        upstream.wait_for(count);
    }
    gate.open();
    assert_eq!(gateway.get("/").text(), "quick");
    assert!(gateway.is_running());
}

#[test]
fn a_client_gone_while_it_receives_harms_nobody() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/large" => Answer::Stream(64 << 20),
        _ => ok("quick"),
    });
    let mut gateway = Gateway::before(&upstream).start();
    for _ in 0..5 {
        let mut client = gateway.client();
        client.send("GET /large HTTP/1.1\r\nHost: a.test\r\n\r\n");
        client.next_head();
    }
    assert_eq!(gateway.get("/").text(), "quick");
    assert!(gateway.is_running());
}

#[test]
fn nothing_is_logged_at_a_rate_a_client_controls() {
    let upstream = Upstream::answering(Answer::Hangup);
    let gateway = Gateway::before(&upstream).start();
    let before = gateway.stderr().len();
    for _ in 0..300 {
        let mut client = gateway.client();
        client.send("GET /\0 HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let _ = client.try_reply();
        gateway.get("/hangup");
    }
    let admin = until("the last request is counted", || {
        let summary = gateway.admin_get("/metrics/summary").json();
        (summary["failed_requests"].as_u64() >= Some(300)).then_some(summary)
    });
    let written = gateway.stderr().len() - before;
    assert!(written < 32 * 1024, "{written} bytes of log for 600 bad requests: {admin}");
}
