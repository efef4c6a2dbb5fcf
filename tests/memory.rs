//! What connections cost whose other end is slow: bounded, and given back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use support::{Answer, DEADLINE, Gateway, Upstream, eventually};

const PEERS: usize = 150;
/// More than all the kernel's buffers between the two ends take.
const LARGE: u64 = 64 << 20;
/// A client's buffers in the kernel: small, so that what is not taken waits further up.
const CLIENT_BUFFER: usize = 4_096;
/// Moving what the kernel takes can take long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Slow peers are kept for as long as they like, so that there is time to see what they cost.
const UNHURRIED: &str = "min_body_rate: 0";
/// What a slow peer may cost. The release build's figure is in docs/ARCHITECTURE.md; a debug
/// build needs a little more, and without a bound it is three to five times this.
const COST_MAX: u64 = 180 << 10;
/// What of that may stay when it is gone.
const REST_MAX: u64 = 40 << 10;

fn connect(gateway: &Gateway) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(CLIENT_BUFFER).unwrap();
    socket.set_send_buffer_size(CLIENT_BUFFER).unwrap();
    socket.connect(&gateway.data.into()).unwrap();
    socket.into()
}

/// Waits until `look` says the same for so long that nothing moves any more, and returns that.
fn settled(what: &str, mut look: impl FnMut() -> u64) -> u64 {
    let (mut last, mut same) = (0, 0);
    let settled = eventually(PATIENCE, || {
        let now = look();
        same = if now > 0 && now == last { same + 1 } else { 0 };
        last = now;
        (same > 20).then_some(now)
    });
    settled.unwrap_or_else(|| panic!("waited in vain until {what}"))
}

fn growth(gateway: &Gateway, before: u64) -> u64 {
    gateway.resident_bytes().saturating_sub(before) / PEERS as u64
}

/// Its size once it has done what every process does once.
fn warm_size(gateway: &Gateway) -> u64 {
    for _ in 0..100 {
        gateway.admin_get("/ready");
        assert_eq!(gateway.client().get("/../").status, 400);
    }
    gateway.resident_bytes()
}

/// An upstream that takes no more than little buffers of the kernel, and never reads them. With
/// large ones most of the time would go into filling them.
fn deaf_upstream() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(CLIENT_BUFFER).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    // Nobody accepts: the kernel does, and keeps what comes.
    socket.listen(2 * PEERS as i32).unwrap();
    let address = socket.local_addr().unwrap().as_socket().expect("an address");
    (socket, address)
}

/// Checks what `peers` cost, lets them and the upstream go, and checks that they leave nothing.
fn check_cost(gateway: &Gateway, before: u64, peers: Vec<TcpStream>, close: impl FnOnce()) {
    assert_eq!(peers.len(), PEERS);
    let cost = growth(gateway, before);
    assert!(cost < COST_MAX, "each costs {cost} bytes");
    drop(peers);
    close();
    // Nothing else happens meanwhile that could make the allocator look after its memory.
    let is_little = || (growth(gateway, before) < REST_MAX).then_some(());
    if eventually(DEADLINE, is_little).is_none() {
        panic!("each left {} bytes", growth(gateway, before));
    }
}

#[test]
fn slow_readers_of_large_answers_cost_little_and_leave_nothing() {
    let mut upstream = Upstream::answering(Answer::Stream(LARGE));
    let gateway = Gateway::before(&upstream).server(UNHURRIED).start();
    let before = warm_size(&gateway);
    let ask = |_| {
        let mut client = connect(&gateway);
        client.write_all(b"GET /large HTTP/1.1\r\nHost: tollgate.test\r\n\r\n").unwrap();
        client
    };
    let readers: Vec<TcpStream> = (0..PEERS).map(ask).collect();
    upstream.wait_for(PEERS);
    settled("the upstream is held back", || upstream.streamed());
    check_cost(&gateway, before, readers, || upstream.close());
}

#[test]
fn uploads_that_an_upstream_does_not_read_cost_little_and_leave_nothing() {
    let (upstream, address) = deaf_upstream();
    let patient = format!("{{servers: [\"{address}\"], timeouts: {{write: 5m}}}}");
    let gateway = Gateway::builder()
        .server(UNHURRIED)
        .upstreams(&format!("main: {patient}"))
        .routes("- {name: all, path: /, upstream: main, max_body: 100MiB}")
        .start();
    let before = warm_size(&gateway);
    let head =
        format!("PUT /large HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: {LARGE}\r\n\r\n");
    let begin = |_| {
        let mut client = connect(&gateway);
        client.write_all(head.as_bytes()).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    };
    let mut writers: Vec<TcpStream> = (0..PEERS).map(begin).collect();
    let piece = vec![b'w'; 1 << 18];
    let mut sent = 0;
    settled("the clients are held back", || {
        for writer in &mut writers {
            match writer.write(&piece) {
                Ok(count) => sent += count as u64,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        sent
    });
    check_cost(&gateway, before, writers, || drop(upstream));
}

#[test]
fn a_slow_reader_gets_all_of_its_answer() {
    let upstream = Upstream::answering(Answer::Stream(LARGE / 4));
    let gateway = Gateway::before(&upstream).server(UNHURRIED).start();
    let mut pattern = support::Pattern::default();
    let mut client = gateway.client();
    client.send("GET /large HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    settled("the upstream is held back", || upstream.streamed());
    let mut pieces = 0;
    let reply = client.reply_into("GET", &mut |piece| {
        pattern.check(piece);
        pieces += 1;
        if pieces % 64 == 0 {
            // The slowness under test, not a wait for anything.
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(reply.unwrap().expect("an answer").0.status(), 200);
    assert_eq!(pattern.checked(), Some(LARGE / 4));
}
