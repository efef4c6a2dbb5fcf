//! The network between the gateway and an upstream, for a test to break.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::port::Port;
use super::wait::DEADLINE;

/// Most connections at a time; further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 2048;

/// Most bytes taken at a time.
const PIECE: usize = 16 * 1024;

/// What the link does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Whole,
    Frozen,
    Cut,
}

/// A change of state, and whom to tell that it is in force.
type Order = (State, SyncSender<()>);

/// A relay with a port of its own, whose connections lead to the address it was given.
///
/// It runs on one thread. The link and its connections end when it is dropped: they are
/// reset. Each change is in force when its method returns.
#[derive(Debug)]
pub struct Link {
    port: Arc<Port>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// A whole link to `upstream`. Where nobody listens there, its connections are reset.
    pub fn to(upstream: SocketAddr) -> Self {
        let port = Arc::new(Port::new());
        let listener = port.listen();
        let (orders, received) = mpsc::unbounded_channel();
        let of_thread = Arc::clone(&port);
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(relay(&of_thread, listener, upstream, received));
        });
        Self { port, orders: Some(orders), thread: Some(thread) }
    }

    /// Where its connections are made.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Resets all connections and refuses new ones.
    pub fn cut(&self) {
        self.order(State::Cut);
    }

    /// Lets no byte pass in either direction, and no end of a connection. New connections
    /// are made and nothing answers on them: a black hole.
    pub fn freeze(&self) {
        self.order(State::Frozen);
    }

    /// Lets everything pass: what was frozen goes on where it stopped, and what was cut can
    /// be connected to again.
    pub fn restore(&self) {
        self.order(State::Whole);
    }

    #[track_caller]
    fn order(&self, state: State) {
        let (done, is_done) = std::sync::mpsc::sync_channel(1);
        let orders = self.orders.as_ref().expect("taken by drop alone");
        orders.send((state, done)).expect("the link's thread is there");
        is_done.recv_timeout(DEADLINE).expect("the link obeys");
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Accepts and obeys until there is nobody left to give orders.
async fn relay(
    port: &Port,
    listener: std::net::TcpListener,
    upstream: SocketAddr,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let (state, seen) = watch::channel(State::Whole);
    let mut listener = Some(registered(listener));
    let mut connections = JoinSet::new();
    loop {
        let accepts = *state.borrow() == State::Whole && connections.len() < CONNECTIONS_MAX;
        tokio::select! {
            biased;
            order = orders.recv() => {
                let Some((next, done)) = order else { return };
                state.send_replace(next);
                if next == State::Cut {
                    listener = None;
                    connections.shutdown().await;
                } else if listener.is_none() {
                    listener = Some(registered(port.listen()));
                }
                // Who gave the order may have failed meanwhile.
                let _ = done.send(());
            }
            // A connection that broke has told both of its ends.
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some(client) = accept(listener.as_ref()), if accepts => {
                connections.spawn(carry(client, upstream, seen.clone()));
            }
        }
    }
}

fn registered(listener: std::net::TcpListener) -> TcpListener {
    listener.set_nonblocking(true).expect("a listener that does not block");
    TcpListener::from_std(listener).expect("a listener of the runtime's")
}

async fn accept(listener: Option<&TcpListener>) -> Option<TcpStream> {
    let (stream, _) = listener?.accept().await.ok()?;
    Some(stream)
}

/// Carries one connection to its end. Wherever this is left early, both sockets are
/// closed without lingering, which resets them.
async fn carry(
    mut client: TcpStream,
    upstream: SocketAddr,
    state: watch::Receiver<State>,
) -> io::Result<()> {
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    client.set_nodelay(true)?;
    let mut server = TcpStream::connect(upstream).await?;
    SockRef::from(&server).set_linger(Some(Duration::ZERO))?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pump(from_client, to_server, state.clone()),
        pump(from_server, to_client, state)
    )?;
    SockRef::from(&client).set_linger(None)?;
    SockRef::from(&server).set_linger(None)
}

/// One direction, to its orderly end. While the link is frozen nothing is taken from
/// either socket, so that whoever sends finds out by the kernel's buffers alone.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        whole(&mut state).await?;
        let count = tokio::select! {
            biased;
            _ = state.changed() => continue,
            count = from.read(&mut buffer) => count?,
        };
        if count == 0 {
            return to.shutdown().await;
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            whole(&mut state).await?;
            tokio::select! {
                biased;
                _ = state.changed() => {}
                written = to.write(rest) => rest = &rest[written?..],
            }
        }
    }
}

async fn whole(state: &mut watch::Receiver<State>) -> io::Result<()> {
    // Fails when the link is gone.
    state.wait_for(|state| *state == State::Whole).await.map_err(io::Error::other)?;
    Ok(())
}
