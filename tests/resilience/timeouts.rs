//! Time-outs: each has a name, and nobody pays for the slowness of somebody else.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::rig::{
    PATIENCE, addresses, circuit, expect_attempts, expect_nothing_held, gateway, get, list, sent,
    states, told,
};
use crate::support::{
    Answer, Client, DEADLINE, End, Gate, Gateway, Link, Pattern, Upstream, fault, ok, until,
};

/// A listener that accepts nothing, with a queue that is full: the kernel lets attempts to
/// connect go unanswered.
struct Full {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl Full {
    fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let stood = socket.connect_timeout(&address, Duration::from_millis(100)).is_ok();
            queued.push(socket);
            assert!(queued.len() < 100, "the queue does not get full");
            if !stood {
                break;
            }
        }
        Self {
            address: address.as_socket().expect("an address"),
            _listener: listener,
            _queued: queued,
        }
    }
}

fn ms(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// A gateway before this address whose upstream has these time-outs and opens its circuit
/// at the first failure.
fn before(server: SocketAddr, timeouts: &str, route: &str) -> Gateway {
    let servers = addresses([server]);
    let breaker = "breaker: {consecutive_failures: 1, cooldown: 1m}";
    gateway(&format!("servers: {servers}, timeouts: {{{timeouts}}}, {breaker}"), route)
}

/// Nothing is held against the upstream.
#[track_caller]
fn expect_unblamed(gateway: &Gateway) {
    let circuit = circuit(gateway, "main");
    assert_eq!((&circuit["state"], &circuit["failures"]), (&"closed".into(), &0.into()));
    assert_eq!(states(gateway, "main"), ["up"]);
}

#[test]
fn a_connection_that_does_not_stand_in_time_is_504() {
    let full = Full::new();
    let gateway = before(full.address, &format!("connect: {}", ms(PATIENCE)), "");
    let seen = get(&gateway, "a", "/");
    assert_eq!(seen.what, "504 connect-timeout");
    assert!(seen.took >= PATIENCE, "{:?}", seen.took);
    expect_attempts(&gateway, "main", &[("connect", 1)]);
    assert_eq!(circuit(&gateway, "main")["state"], "open");
    expect_nothing_held(&gateway);
}

#[test]
fn the_time_of_a_route_or_an_attempt_bounds_connecting_too() {
    let full = Full::new();
    for route in [
        format!("timeout: {}", ms(PATIENCE)),
        format!("retry: {{attempts: 0, per_try_timeout: {}}}", ms(PATIENCE)),
    ] {
        let gateway = before(full.address, "connect: 1m", &route);
        let seen = get(&gateway, "a", "/");
        assert!(seen.what.starts_with("504 "), "{}", seen.what);
        assert!(seen.took >= PATIENCE, "{:?}", seen.took);
    }
}

#[test]
fn an_upstream_that_does_not_take_the_request_is_504() {
    expect_write_timeout("");
}

#[test]
fn the_time_of_a_route_does_not_change_what_was_too_slow() {
    expect_write_timeout("timeout: 2s");
}

/// An upstream that takes no more of a request is given up once `timeouts.write` is over.
fn expect_write_timeout(route: &str) {
    let upstream = Upstream::answering(Answer::Early(Vec::new()));
    // A link that is frozen under way takes what the kernel's buffers hold and no more.
    let link = Link::to(upstream.address());
    let timeouts = format!("write: {}", ms(PATIENCE));
    let gateway = before(link.address(), &timeouts, route);
    let mut stream = TcpStream::connect(gateway.data).unwrap();
    let head = "PUT / HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 100000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    upstream.wait_for(1);
    link.freeze();
    let mut sender = stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        let piece = vec![b'x'; 100_000];
        while sender.write_all(&piece).is_ok() {}
    });
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    stream.shutdown(Shutdown::Both).ok();
    sending.join().unwrap();
    let answer = String::from_utf8_lossy(&bytes);
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(answer.contains("urn:tollgate:problem:write-timeout"), "{answer}");
    expect_attempts(&gateway, "main", &[("timeout", 1)]);
    expect_nothing_held(&gateway);
}

#[test]
fn a_head_that_drips_outlives_no_time_out() {
    let upstream = Upstream::answering(fault::drip_head(1, PATIENCE / 6));
    let patience = ms(PATIENCE);
    for (timeouts, route, what) in [
        (format!("read: {patience}"), String::new(), "504 read-timeout"),
        (
            String::new(),
            format!("retry: {{attempts: 0, per_try_timeout: {patience}}}"),
            "504 attempt-timeout",
        ),
        (String::new(), format!("timeout: {patience}"), "504 request-timeout"),
    ] {
        let gateway = before(upstream.address(), &timeouts, &route);
        let seen = get(&gateway, "a", "/");
        assert_eq!(seen.what, what);
        // The whole head would take eleven times as long.
        assert!((PATIENCE..PATIENCE * 10).contains(&seen.took), "{what}: {:?}", seen.took);
        expect_attempts(&gateway, "main", &[("timeout", 1)]);
        assert_eq!(circuit(&gateway, "main")["state"], "open", "{what}");
    }
    until("the upstream was let go", || (upstream.in_flight() == 0).then_some(()));
}

#[test]
fn the_time_of_a_route_covers_all_attempts() {
    let upstreams = [(); 2].map(|()| Upstream::answering(fault::silent()));
    let gateway = gateway(
        &format!("servers: {}", list(&upstreams)),
        &format!(
            "timeout: {}, retry: {{attempts: 10, per_try_timeout: {}, \
             backoff: {{base: 1ms, max: 1ms}}}}",
            ms(PATIENCE * 5 / 2),
            ms(PATIENCE),
        ),
    );
    let seen = get(&gateway, "a", "/");
    assert_eq!(seen.what, "504 request-timeout");
    assert!(seen.took >= PATIENCE * 5 / 2, "{:?}", seen.took);
    let asked: usize = upstreams.iter().map(Upstream::attempts).sum();
    assert!((2..=3).contains(&asked), "{asked} attempts of a time-out each");
    expect_nothing_held(&gateway);
}

#[test]
fn a_slow_upload_is_not_the_upstreams_silence() {
    let upstream = Upstream::answering(Answer::Echo);
    let gateway = before(upstream.address(), &format!("read: {}", ms(PATIENCE)), "");
    let mut client = gateway.client();
    client.send("PUT / HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 6\r\n\r\n");
    for piece in ["ab", "cd", "ef"] {
        // The client's slowness is the matter here, and longer than `read`.
        thread::sleep(PATIENCE * 3 / 2);
        client.send(piece);
    }
    let reply = client.reply();
    assert_eq!((reply.status, reply.text().as_str()), (200, "abcdef"));
    expect_attempts(&gateway, "main", &[("ok", 1)]);
    expect_unblamed(&gateway);
}

#[test]
fn an_upload_too_slow_for_the_route_is_408_and_nobodys_failure() {
    let upstream = Upstream::answering(Answer::Echo);
    let gateway = before(upstream.address(), "", &format!("timeout: {}", ms(PATIENCE)));
    let mut client = gateway.client();
    client.send("PUT / HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 6\r\n\r\nabc");
    let start = Instant::now();
    let reply = client.reply();
    assert_eq!(told(&reply), "408 client-timeout");
    assert!(start.elapsed() + Duration::from_millis(50) >= PATIENCE, "{:?}", start.elapsed());
    assert_eq!((reply.says_close(), client.end()), (true, End::Closed));
    until("the upstream was let go", || (upstream.in_flight() == 0).then_some(()));
    expect_attempts(&gateway, "main", &[("cancelled", 1)]);
    expect_unblamed(&gateway);
    expect_nothing_held(&gateway);
}

#[test]
fn a_client_that_waits_for_100_continue_is_not_the_slow_one() {
    let upstream = Upstream::answering(fault::silent());
    let gateway = before(upstream.address(), &format!("read: {}", ms(PATIENCE)), "");
    let mut client = gateway.client();
    client.send(
        "PUT / HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 6\r\n\
         Expect: 100-continue\r\n\r\n",
    );
    assert_eq!(told(&client.reply()), "504 read-timeout");
    expect_attempts(&gateway, "main", &[("timeout", 1)]);
    assert_eq!(circuit(&gateway, "main")["state"], "open");
    expect_nothing_held(&gateway);
}

#[test]
fn a_client_that_reads_slowly_is_not_the_upstreams_silence() {
    const LENGTH: u64 = 30_000_000;
    let upstream = Upstream::answering(Answer::Stream(LENGTH));
    let timeouts = format!("read: {0}, write: {0}", ms(PATIENCE));
    let gateway = before(upstream.address(), &timeouts, "");
    let mut client = sent(&gateway, "a", "/");
    assert_eq!(client.next_head().status(), 200);
    thread::sleep(PATIENCE * 3);
    let mut pattern = Pattern::default();
    pattern.check(&client.exactly(usize::try_from(LENGTH).unwrap()));
    assert_eq!(pattern.checked(), Some(LENGTH));
    expect_attempts(&gateway, "main", &[("ok", 1)]);
    expect_unblamed(&gateway);
}

/// How far a client's request has come when it goes away.
type Leaves = fn(&Gateway, &Upstream) -> Client;

fn waiting(gateway: &Gateway, upstream: &Upstream) -> Client {
    let client = sent(gateway, "a", "/wait");
    upstream.wait_for(1);
    client
}

fn sending(gateway: &Gateway, upstream: &Upstream) -> Client {
    let mut client = gateway.client();
    client.send("PUT /wait HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 100\r\n\r\nabc");
    upstream.wait_for(1);
    client
}

#[test]
fn a_client_that_goes_away_ends_the_work_for_it_and_harms_nobody() {
    let cases: [(&str, Leaves); 2] = [("while it waits", waiting), ("while it sends", sending)];
    for (when, leaves) in cases {
        let gate = Gate::default();
        let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
        let other = Upstream::new();
        let gateway = gateway(
            &format!(
                "servers: {}, ejection: {{consecutive_failures: 1}}, \
                 breaker: {{consecutive_failures: 1}}",
                list([&upstream, &other])
            ),
            "retry: {attempts: 3, when: [connect, timeout, reset, 503]}",
        );
        drop(leaves(&gateway, &upstream));
        expect_nothing_held(&gateway);
        gate.open();
        until("the upstream sees the end", || (upstream.in_flight() == 0).then_some(()));
        expect_attempts(&gateway, "main", &[("cancelled", 1)]);
        gateway.series_once("gateway_requests_total{route=\"all\",status=\"499\"}", 1.0);
        assert_eq!(circuit(&gateway, "main")["failures"], 0, "{when}");
        assert_eq!(circuit(&gateway, "main")["state"], "closed", "{when}");
        assert_eq!(states(&gateway, "main"), ["up", "up"], "{when}");
        assert_eq!(other.attempts(), 0, "{when}: nothing is tried again for nobody");
    }
}

#[test]
fn a_client_that_goes_away_in_the_middle_of_an_answer_ends_it() {
    let upstream = Upstream::answering(Answer::Stream(1_000_000_000));
    let gateway = before(upstream.address(), "", "");
    let mut client = sent(&gateway, "a", "/");
    assert_eq!(client.next_head().status(), 200);
    drop(client);
    until("the upstream sees the end", || (upstream.in_flight() == 0).then_some(()));
    assert!(upstream.streamed() < 1_000_000_000);
    expect_attempts(&gateway, "main", &[("cancelled", 1)]);
    expect_unblamed(&gateway);
    expect_nothing_held(&gateway);
}
