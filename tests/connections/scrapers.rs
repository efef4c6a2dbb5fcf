use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::rig::{took, with};
use crate::support::{Client, eventually, until};

/// Connections that the metrics port takes at a time.
const MOST: usize = 256;
/// How many of them do not read.
const DEAF: usize = 3;
/// More pages than the kernel keeps for one of those.
const PAGES: usize = 150;
const GET: &str = "GET /metrics HTTP/1.1\r\nHost: tollgate.test\r\n\r\n";

/// Writes; whether the gateway still has the connection.
fn send(mut stream: &TcpStream, bytes: &[u8]) -> bool {
    match stream.write_all(bytes) {
        Ok(()) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

/// Those that the gateway has not ended; they go on as before.
fn harass(dripping: &mut Vec<TcpStream>) {
    dripping.retain(|stream| send(stream, b"x"));
}

#[test]
fn clients_that_drip_or_do_not_read_lose_the_metrics_port_and_others_get_it_back() {
    let (gateway, _upstream) = with("");
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 << 10).unwrap();
        socket.connect(&gateway.metrics.into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let status = || {
        let mut client = Client::connect(gateway.metrics);
        let _ = client.try_send(GET);
        client.try_reply().ok().flatten().map(|reply| reply.status)
    };
    assert_eq!(status(), Some(200));
    let deaf: Vec<_> = (0..DEAF).map(|_| connect()).collect();
    let drip = || Some(connect()).filter(|stream| send(stream, b"GET / HTTP/1.1\r\nX: "));
    let began = Instant::now();
    // A few of these find no place.
    let mut dripping: Vec<_> = (0..MOST).filter_map(|_| drip()).collect();
    until("every place is taken", || {
        // Some were refused, perhaps for the first client's connection, which is gone by now.
        dripping.extend(drip());
        (status() == Some(503)).then_some(())
    });
    // Only now, for these keep the gateway busy.
    assert!(deaf.iter().all(|stream| send(stream, GET.repeat(PAGES).as_bytes())));
    let ended = eventually(Duration::from_secs(40), || {
        harass(&mut dripping);
        dripping.is_empty().then_some(())
    });
    assert!(ended.is_some(), "{} may drip for as long as they like", dripping.len());
    took(began, Duration::from_secs(8), Duration::from_secs(40));
    for stream in deaf {
        // A reset is an error of the socket's, and takes what was not read with it.
        let cut = eventually(Duration::from_secs(30), || stream.take_error().unwrap());
        assert_eq!(cut.map(|error| error.kind()), Some(ErrorKind::ConnectionReset));
    }
    assert_eq!(status(), Some(200));
    let series = gateway.series();
    assert!(series.value("gateway_connections") < 0.5, "they are none of the data port's");
}
