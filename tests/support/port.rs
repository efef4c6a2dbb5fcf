//! A port that stays a test's own while nobody listens on it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

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
        Self::of((Ipv4Addr::LOCALHOST, 0).into()).expect("a loopback port")
    }

    fn of(any: SocketAddr) -> io::Result<Self> {
        let held = bound(any)?;
        let address = held.local_addr()?.as_socket().expect("the address of a bound socket");
        Ok(Self { address, _held: held })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on it, until the listener is dropped.
    pub(super) fn listen(&self) -> TcpListener {
        let socket = bound(self.address).expect("a port of one's own");
        socket.listen(BACKLOG).expect("a port of one's own can be listened on");
        socket.into()
    }

    /// Holds it for as long as the process of the test lives.
    fn forever(self) -> SocketAddr {
        static HELD: Mutex<Vec<Port>> = Mutex::new(Vec::new());
        let address = self.address;
        HELD.lock().unwrap().push(self);
        address
    }
}

/// Loopback addresses nobody listens on, for programs a test gives them to. The kernel gives
/// them to nobody else while the test runs.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    std::array::from_fn(|_| Port::new().forever())
}

/// The same on `::1`; nothing where there is no IPv6.
pub(super) fn free_ipv6_address() -> Option<SocketAddr> {
    Port::of((Ipv6Addr::LOCALHOST, 0).into()).ok().map(Port::forever)
}

/// Several sockets share the port by SO_REUSEADDR, of which one at a time may listen.
fn bound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
