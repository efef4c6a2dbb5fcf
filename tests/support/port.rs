//! A port that stays a test's own while nobody listens on it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel accepts ahead of the program: more than a test makes, so that
/// a listener that does not accept looks like a black hole and not like a full queue.
const BACKLOG: i32 = 1024;

/// A loopback port, held by a socket that is bound and never listens. The kernel refuses
/// connections to it, and gives it to nobody else while a listener comes and goes.
#[derive(Debug)]
pub(super) struct Port {
    address: SocketAddr,
    _held: Socket,
}

impl Port {
    pub(super) fn new() -> Self {
        let held = bound((Ipv4Addr::LOCALHOST, 0).into());
        let address = held.local_addr().ok().and_then(|address| address.as_socket());
        Self { address: address.expect("the address of a bound socket"), _held: held }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on it, until the listener is dropped.
    pub(super) fn listen(&self) -> TcpListener {
        let socket = bound(self.address);
        socket.listen(BACKLOG).expect("a port of one's own can be listened on");
        socket.into()
    }
}

/// Several sockets share the port by SO_REUSEADDR, of which one at a time may listen.
fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&address.into()).expect("a loopback port");
    socket
}
