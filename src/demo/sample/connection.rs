//! What the sample does below HTTP: connections that break, and a port that refuses.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use super::MAX_DELAY_MS;

/// Where an answer stops within the head: behind the status line, in its first field.
const HEAD_BYTES: u64 = 24;

/// How long until a port that somebody else has taken is asked for again.
const REBIND: Duration = Duration::from_millis(100);

/// Where an answer breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// Before its first byte.
    Start,
    /// Within the head.
    Head,
    /// Within the body.
    Body,
}

/// What comes then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing, for [`MAX_DELAY_MS`]; then the connection is closed.
    Stall,
    /// The end of the connection, in order.
    Close,
    /// A reset.
    Reset,
}

/// What a handler may do to the connection its answer goes over.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection(Arc<Mutex<Option<Break>>>);

impl Connection {
    /// Breaks the answer that is about to be sent; at [`Point::Body`] behind so many bytes
    /// of it.
    pub(super) fn break_answer(&self, point: Point, body_bytes: u64, ending: Ending) {
        let after = match point {
            Point::Start => After::Bytes(0),
            Point::Head => After::Bytes(HEAD_BYTES),
            Point::Body => After::Head { matched: 0, body: body_bytes },
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Break { after, ending });
    }

    fn due(&self) -> Option<Break> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, bytes: &[u8]) {
        let mut due = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(due) = due.as_mut() {
            bytes.iter().for_each(|&byte| due.pass(byte));
        }
    }
}

impl Connected<IncomingStream<'_, Door>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        stream.io().connection.clone()
    }
}

/// An end that is due.
#[derive(Clone, Copy, Debug)]
struct Break {
    after: After,
    ending: Ending,
}

#[derive(Clone, Copy, Debug)]
enum After {
    /// So many more bytes.
    Bytes(u64),
    /// The empty line, of whose four bytes so many were just sent, and so many of the body.
    Head { matched: u8, body: u64 },
}

impl Break {
    fn is_reached(self) -> bool {
        matches!(self.after, After::Bytes(0))
    }

    fn pass(&mut self, byte: u8) {
        self.after = match self.after {
            After::Bytes(left) => After::Bytes(left.saturating_sub(1)),
            After::Head { matched: 3, body } if byte == b'\n' => After::Bytes(body),
            After::Head { matched, body } => {
                let matched = match (matched, byte) {
                    (2, b'\r') => 3,
                    (1, b'\n') => 2,
                    (_, b'\r') => 1,
                    _ => 0,
                };
                After::Head { matched, body }
            }
        };
    }

    /// How many of these bytes may still be sent.
    fn allows(mut self, bytes: &[u8]) -> usize {
        let before_end = bytes.iter().take_while(|&&byte| {
            let allowed = !self.is_reached();
            self.pass(byte);
            allowed
        });
        before_end.count()
    }
}

/// A connection that breaks when its [`Connection`] says so.
pub(super) struct Breakable {
    stream: TcpStream,
    connection: Connection,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Breakable {
    fn new(stream: TcpStream) -> Self {
        Self { stream, connection: Connection::default(), stalled: None }
    }

    /// The error the server closes the connection for, when it is time.
    fn poll_end(&mut self, cx: &mut Context<'_>, ending: Ending) -> Poll<io::Error> {
        match ending {
            Ending::Stall => {
                let stalled = self
                    .stalled
                    .get_or_insert_with(|| Box::pin(sleep(Duration::from_millis(MAX_DELAY_MS))));
                ready!(stalled.as_mut().poll(cx));
            }
            Ending::Close => {}
            Ending::Reset => {
                if let Err(error) = self.stream.set_zero_linger() {
                    log::debug!("sample upstream: cannot set SO_LINGER: {error}");
                }
            }
        }
        Poll::Ready(io::ErrorKind::ConnectionAborted.into())
    }
}

impl AsyncRead for Breakable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(due) = self.connection.due() else {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        };
        if due.is_reached() {
            return self.poll_end(cx, due.ending).map(Err);
        }
        let allowed = bytes.get(..due.allows(bytes)).unwrap_or(bytes);
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, allowed))?;
        self.connection.sent(allowed.get(..sent).unwrap_or(allowed));
        Poll::Ready(Ok(sent))
    }

    /// Also where an answer without a body ends: nothing more is written after its head.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.connection.due() {
            Some(due) if due.is_reached() => self.poll_end(cx, due.ending).map(Err),
            _ => Pin::new(&mut self.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.connection.due() {
            // An orderly end in front of a reset would be seen as an orderly end.
            Some(Break { ending: Ending::Reset, .. }) => Poll::Ready(Ok(())),
            _ => Pin::new(&mut self.stream).poll_shutdown(cx),
        }
    }
}

/// Whether the port refuses connections, and for how long it should.
#[derive(Clone, Debug)]
pub(super) struct Closed(watch::Sender<Option<Duration>>);

impl Default for Closed {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Closed {
    /// Refuses for so long from now on.
    pub(super) fn for_a_while(&self, how_long: Duration) {
        self.0.send_replace(Some(how_long));
    }

    pub(super) fn is_now(&self) -> bool {
        self.0.borrow().is_some()
    }
}

/// The listener, which can be away for a while.
pub(super) struct Door {
    listener: Option<TcpListener>,
    address: SocketAddr,
    closed: Closed,
    orders: watch::Receiver<Option<Duration>>,
}

impl Door {
    pub(super) fn new(listener: TcpListener, closed: &Closed) -> io::Result<Self> {
        let (address, orders) = (listener.local_addr()?, closed.0.subscribe());
        Ok(Self { listener: Some(listener), address, closed: closed.clone(), orders })
    }

    /// Does what was ordered. An order that comes meanwhile is part of this one.
    async fn stay_closed(&mut self) {
        let Some(how_long) = *self.orders.borrow_and_update() else { return };
        self.listener = None;
        sleep(how_long).await;
        while self.listener.is_none() {
            match TcpListener::bind(self.address).await {
                Ok(listener) => self.listener = Some(listener),
                Err(error) => {
                    log::warn!("sample upstream: cannot listen on {}: {error}", self.address);
                    sleep(REBIND).await;
                }
            }
        }
        self.closed.0.send_replace(None);
    }
}

impl Listener for Door {
    type Io = Breakable;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Breakable, SocketAddr) {
        loop {
            let (stream, address) = tokio::select! {
                biased;
                // It holds a sender itself, so this waits for an order and never fails.
                _ = self.orders.changed() => {
                    self.stay_closed().await;
                    continue;
                }
                Some(accepted) = accept(self.listener.as_mut()) => accepted,
            };
            // Without this, the kernel may hold a small answer back for the delayed
            // acknowledgement of the one before it, 40 ms that look like the gateway's.
            if let Err(error) = stream.set_nodelay(true) {
                log::debug!("sample upstream: cannot set TCP_NODELAY: {error}");
            }
            return (Breakable::new(stream), address);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

async fn accept(listener: Option<&mut TcpListener>) -> Option<(TcpStream, SocketAddr)> {
    Some(Listener::accept(listener?).await)
}
