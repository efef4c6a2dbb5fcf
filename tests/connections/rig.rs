//! One gateway before one upstream, and sockets that the kit's client would be too tame for.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::{Client, DEADLINE, Gateway, Upstream};

/// A request that the upstream answers.
pub(crate) const GET: &str = "GET /x HTTP/1.1\r\nHost: tollgate.test\r\n\r\n";

/// A gateway with these keys of `server`, and the upstream behind it.
pub(crate) fn with(server: &str) -> (Gateway, Upstream) {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).server(server).start();
    (gateway, upstream)
}

/// A connection whose end is seen as it is: in order or by a reset.
pub(crate) fn plain(gateway: &Gateway) -> TcpStream {
    let stream = TcpStream::connect_timeout(&gateway.data, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// What comes on the connection until it ends; fails the test where that is a reset.
#[track_caller]
pub(crate) fn to_the_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&bytes)),
    }
}

/// A connection from this loopback address.
pub(crate) fn client_from(host: u8, gateway: &Gateway) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0);
    socket.bind(&address.into()).unwrap();
    socket.connect(&gateway.data.into()).unwrap();
    Client::on(socket.into())
}

/// A connection into whose kernel only this much fits.
pub(crate) fn narrow(gateway: &Gateway, receive_buffer: usize) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(receive_buffer).unwrap();
    socket.connect(&gateway.data.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Ends the connection by a reset.
pub(crate) fn abort(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Whether the peer has ended the connection; takes no byte of it.
pub(crate) fn has_ended(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    match peeked {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// How many connections the gateway ended for this reason.
pub(crate) fn closed_for(reason: &str) -> String {
    format!("gateway_connections_closed_total{{reason=\"{reason}\"}}")
}

/// Fails the test unless what began then took between these two times.
#[track_caller]
pub(crate) fn took(began: Instant, least: Duration, most: Duration) {
    let took = began.elapsed();
    assert!(least <= took && took <= most, "{took:?} is not between {least:?} and {most:?}");
}
