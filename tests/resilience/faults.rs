//! One gateway through every fault in turn: each ends in time and is over with its request.

use std::time::{Duration, Instant};

use crate::rig::{PATIENCE, expect_nothing_held, gateway, list};
use crate::support::{Answer, Upstream, fault};

/// What a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// A whole answer with this status.
    Status(u16),
    /// A head, and less of a body than it said.
    Broken,
}

fn expected(fault: &str) -> Seen {
    match fault {
        "silent" | "slow" | "silent within the head" | "head in drops" => Seen::Status(504),
        "hangup" | "reset" | "closed within the head" | "reset within the head" => {
            Seen::Status(502)
        }
        "silent within the body"
        | "closed within the body"
        | "reset within the body"
        | "body in drops" => Seen::Broken,
        "surplus" => Seen::Status(200),
        "500" => Seen::Status(500),
        "503 with Retry-After" => Seen::Status(503),
        _ => panic!("nobody says what {fault} looks like"),
    }
}

/// Answers like [`Upstream::new`] and closes, so that no fault meets a connection that
/// was used before.
fn upstream_of_fresh_connections() -> Upstream {
    Upstream::scripted(|head| {
        let text = format!("{} {}", head.method(), head.target());
        let length = text.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close");
        Answer::Last(format!("{head}\r\n\r\n{text}").into_bytes())
    })
}

#[test]
fn without_retry_and_breaker_a_fault_ends_in_time_and_is_over() {
    let upstream = upstream_of_fresh_connections();
    let gateway = gateway(
        &format!("servers: {}", list([&upstream])),
        &format!("timeout: {}ms", PATIENCE.as_millis()),
    );
    for (name, answer) in fault::every() {
        upstream.forget();
        upstream.switch_to(answer);
        let start = Instant::now();
        let mut client = gateway.client();
        client.send("GET /fault HTTP/1.1\r\nHost: a\r\n\r\n");
        let seen = match client.try_reply() {
            Ok(Some(reply)) => Seen::Status(reply.status),
            _ => Seen::Broken,
        };
        assert_eq!(seen, expected(name), "{name}");
        assert!(start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
        assert_eq!(upstream.attempts_at("/fault"), 1, "{name}");
        upstream.switch_back();
        // The first of these ends what the gateway kept of a fault in HTTP.
        for _ in 0..2 {
            assert_eq!(gateway.get("/after").text(), "GET /after", "{name} meets nobody else");
        }
        if seen != Seen::Broken {
            assert_eq!(client.get("/kept").text(), "GET /kept", "{name} is the upstream's alone");
        }
    }
    expect_nothing_held(&gateway);
}

/// An upstream may close a connection it kept just when a request comes over it, which is
/// nobody's failure: what may be sent twice is sent again over another.
#[test]
fn a_kept_connection_that_ends_costs_one_more_attempt_where_that_is_safe() {
    let upstream = Upstream::new();
    let gateway = gateway(&format!("servers: {}", list([&upstream])), "");
    for (answer, name) in [(fault::hangup(), "hangup"), (fault::reset(), "reset")] {
        for (method, most) in [("GET", 2), ("POST", 1)] {
            upstream.switch_back();
            assert_eq!(gateway.get("/before").status, 200);
            upstream.switch_to(answer.clone());
            upstream.forget();
            let reply = gateway.client().request(method, "/fault", &[], b"");
            assert_eq!(reply.status, 502, "{name}");
            assert_eq!(upstream.attempts(), most, "{method} and {name}");
        }
    }
    expect_nothing_held(&gateway);
}
