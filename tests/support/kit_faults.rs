//! Each fault as a client sees it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::{Answer, Client, End, Ending, Gate, Upstream, eventually, fault, ok, until};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Long enough for bytes on loopback, short enough to wait for nothing.
const A_MOMENT: Duration = Duration::from_millis(200);

/// What one request brings: the bytes, and how they end.
fn bytes_of(address: SocketAddr) -> (String, io::Result<()>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(A_MOMENT)).unwrap();
    stream.write_all(REQUEST).unwrap();
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes).map(drop);
    (String::from_utf8(bytes).unwrap(), end)
}

/// Checks how an exchange ended.
#[track_caller]
fn expect_end(end: &io::Result<()>, ending: Ending) {
    let kind = end.as_ref().err().map(io::Error::kind);
    let expected = match ending {
        Ending::Silence => Some(ErrorKind::WouldBlock),
        Ending::Close => None,
        Ending::Reset => Some(ErrorKind::ConnectionReset),
    };
    assert_eq!(kind, expected, "{ending:?}");
}

#[test]
fn an_answer_stops_where_it_should_and_ends_as_it_should() {
    for ending in Ending::ALL {
        let upstream = Upstream::answering(fault::mid_head(ending));
        let (bytes, end) = bytes_of(upstream.address());
        assert!(bytes.starts_with("HTTP/1.1 200 OK\r\n") && !bytes.contains("\r\n\r\n"), "{bytes}");
        expect_end(&end, ending);

        upstream.switch_to(fault::mid_body(ending));
        let (bytes, end) = bytes_of(upstream.address());
        let (head, body) = bytes.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Length: 36") && body == &fault::BODY[..12], "{bytes}");
        expect_end(&end, ending);
    }
}

#[test]
fn an_answer_that_never_begins_ends_as_it_should() {
    let upstream = Upstream::new();
    for (answer, ending) in [
        (fault::silent(), Ending::Silence),
        (fault::hangup(), Ending::Close),
        (fault::reset(), Ending::Reset),
    ] {
        upstream.switch_to(answer);
        let (bytes, end) = bytes_of(upstream.address());
        assert_eq!(bytes, "");
        expect_end(&end, ending);
    }
    upstream.switch_back();
    assert_eq!(Client::connect(upstream.address()).get("/").text(), "GET /");
    assert_eq!(
        (upstream.attempts(), upstream.attempts_at("/"), upstream.attempts_at("/x")),
        (4, 4, 0)
    );
}

#[test]
fn surplus_bytes_come_after_a_whole_answer() {
    let upstream = Upstream::answering(fault::surplus());
    let (bytes, _) = bytes_of(upstream.address());
    let (head, body) = bytes.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Length: 36") && body.len() == 72, "{bytes}");
}

#[test]
fn a_status_can_come_with_retry_after() {
    let upstream = Upstream::answering(fault::unavailable("7"));
    let mut client = Client::connect(upstream.address());
    let reply = client.get("/");
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("7")));
    upstream.switch_to(fault::status(500));
    let reply = client.get("/");
    assert_eq!((reply.status, reply.header("retry-after")), (500, None));
    assert_eq!(upstream.connections(), 1, "a failure in HTTP keeps the connection");
}

#[test]
fn scripts_count_requests() {
    let statuses = |upstream: &Upstream, count: usize| -> Vec<u16> {
        (0..count).map(|_| Client::connect(upstream.address()).get("/").status).collect()
    };
    let run = Upstream::scripted(fault::run(3, fault::status(502), ok("fine")));
    assert_eq!(statuses(&run, 5), [502, 502, 502, 200, 200]);
    let flapping = Upstream::scripted(fault::flapping(2, ok("fine"), fault::status(500)));
    assert_eq!(statuses(&flapping, 6), [200, 200, 500, 500, 200, 200]);
}

#[test]
fn slow_answers_take_their_time_and_come_whole() {
    const EVERY: Duration = Duration::from_millis(10);
    let upstream = Upstream::new();
    for (answer, least, text) in [
        (fault::slow(EVERY * 5, ok("late")), EVERY * 5, "late"),
        // The head has 66 bytes, the body 36.
        (fault::drip_head(11, EVERY), EVERY * 6, fault::BODY),
        (fault::drip_body(9, EVERY), EVERY * 4, fault::BODY),
    ] {
        upstream.switch_to(answer);
        let start = Instant::now();
        assert_eq!(Client::connect(upstream.address()).get("/").text(), text);
        assert!(start.elapsed() >= least, "{text} after {:?}", start.elapsed());
    }
    upstream.switch_to(fault::drip_body(1, Duration::from_secs(60)));
    let mut client = Client::connect(upstream.address());
    client.send(REQUEST);
    assert_eq!(client.next_head().status(), 200, "the head does not wait for the body");
    let start = Instant::now();
    drop(upstream);
    assert!(start.elapsed() < Duration::from_secs(5), "an upstream ends in the middle of a drop");
}

#[test]
fn a_closed_upstream_refuses_and_comes_back_on_its_port() {
    let mut upstream = Upstream::new();
    let address = upstream.address();
    let mut before = Client::connect(address);
    assert_eq!(before.get("/").status, 200);
    for _ in 0..3 {
        upstream.close();
        let refused = TcpStream::connect(address).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
        assert_eq!(before.end(), End::Closed);
        upstream.open();
        assert_eq!(upstream.address(), address);
        before = Client::connect(address);
        assert_eq!(before.get("/").status, 200);
    }
    assert_eq!(upstream.attempts(), 4, "the record outlives it");
    let mut never = Upstream::refusing();
    assert!(Client::try_connect(never.address()).is_none());
    never.open();
    assert_eq!(Client::connect(never.address()).get("/").status, 200);
}

#[test]
fn nobody_gets_the_port_of_a_closed_upstream() {
    let upstream = Upstream::refusing();
    // Without SO_REUSEADDR, which who looks for a free port does not have either.
    let stranger = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let bound = stranger.bind(&upstream.address().into()).map_err(|error| error.kind());
    assert_eq!(bound, Err(ErrorKind::AddrInUse));
}

#[test]
fn requests_in_flight_are_counted() {
    let gate = Gate::default();
    let upstream =
        Arc::new(Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("at last")))));
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(upstream.address())).collect();
    clients.iter_mut().for_each(|client| client.send(REQUEST));
    upstream.wait_for(3);
    assert_eq!((upstream.in_flight(), upstream.max_in_flight()), (3, 3));
    gate.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.reply().text(), "at last"));
    assert_eq!((upstream.in_flight(), upstream.max_in_flight()), (0, 3));
}

#[test]
fn who_has_its_answer_is_not_in_flight() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/chunked" => Answer::Chunked(vec![b"a".to_vec(), b"b".to_vec()]),
        "/stream" => Answer::Stream(100_000),
        "/drip" => fault::drip_body(9, Duration::from_millis(1)),
        _ => ok("short"),
    });
    for _ in 0..50 {
        for target in ["/chunked", "/stream", "/drip", "/"] {
            assert_eq!(Client::connect(upstream.address()).get(target).status, 200);
            assert_eq!(upstream.in_flight(), 0, "{target}");
        }
    }
    assert_eq!(upstream.max_in_flight(), 1);
    upstream.switch_to(fault::silent());
    let mut client = Client::connect(upstream.address());
    client.send(REQUEST);
    until("the request is there", || (upstream.in_flight() == 1).then_some(()));
    drop(client);
    until("the upstream sees it gone", || (upstream.in_flight() == 0).then_some(()));
}

#[test]
fn connections_that_ended_leave_nothing_behind() {
    let upstream = Upstream::answering(fault::reset());
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    for _ in 0..200 {
        let _ = bytes_of(upstream.address());
    }
    // Tests beside this one have descriptors too, but not hundreds.
    let fell = eventually(Duration::from_secs(5), || (descriptors() < before + 100).then_some(()));
    assert!(fell.is_some(), "{before} before, {} after", descriptors());
}
