//! Connections to upstreams that bring no more of an answer than its client takes.
//!
//! Pingora makes HTTP/1 connections itself and lets nobody between; but a peer that speaks a
//! protocol of the application's is connected by a connector of the application's, and where
//! that comes back with a plain stream, Pingora speaks HTTP/1 on it as ever. The connector here
//! does just that, with a stream that is read through an [`Intake`], and that goes back to a
//! [`Pool`] of ours once Pingora would lay it aside.

use super::phase::Always;
use super::pool::Pool;
use crate::clock;
use crate::wire::backpressure::{Ends, Intake};
use crate::wire::socket::Socket;
use async_trait::async_trait;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest,
    Ssl, TimingDigest, UniqueID, UniqueIDType,
};
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use std::any::Any;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// The descriptor of a stream that has none any more.
const NO_SOCKET: UniqueIDType = -1;

/// Makes the connections, or takes them from the pool.
pub struct UpstreamConnector {
    pool: Arc<Pool>,
}

impl UpstreamConnector {
    /// A connector whose connections wait in `pool` between requests.
    pub fn new(pool: Arc<Pool>) -> UpstreamConnector {
        UpstreamConnector { pool }
    }
}

#[async_trait]
impl Connector for UpstreamConnector {
    type Session = ();

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connection<()>, bool)> {
        let key = key_of(peer);
        let line = match self.pool.take(key, clock::recently()) {
            Some(line) => line,
            // On the heap, so that the others carry no room for it.
            None => Line::new(Box::pin(connect(peer)).await?)?,
        };
        let home = Home { pool: self.pool.clone(), key, patience: peer.idle_timeout() };
        Ok((
            Connection::Stream(Box::new(UpstreamStream {
                line: Some(line),
                is_answered: false,
                home,
            })),
            false,
        ))
    }

    /// Asked once an attempt, so written out: a future without size is boxed without allocating.
    fn reused_http_session<'a, 'b, 'f, P>(
        &'a self,
        _peer: &'b P,
    ) -> Pin<Box<dyn Future<Output = Option<()>> + Send + 'f>>
    where
        P: Peer + Send + Sync + 'static + 'f,
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        Box::pin(Always(|| None))
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        (): (),
        _peer: &P,
        _idle_timeout: Option<Duration>,
    ) {
    }
}

/// Which connections serve this peer: the group that its server gave it, which is a hash of its
/// address. Pingora's own hash goes over all that a peer is.
fn key_of<P: Peer + 'static>(peer: &P) -> u64 {
    let any: &dyn Any = peer;
    any.downcast_ref::<HttpPeer>().map_or_else(|| peer.reuse_hash(), |peer| peer.group_key)
}

/// Connects to a server within the peer's time for that.
async fn connect<P: Peer>(peer: &P) -> Result<Socket> {
    let Some(address) = peer.address().as_inet() else {
        return Error::e_explain(ErrorType::InternalError, "servers have IP addresses");
    };
    let connected = match peer.connection_timeout() {
        Some(most) => timeout(most, Socket::connect(*address)).await.map_err(io::Error::from),
        None => Ok(Socket::connect(*address).await),
    };
    connected.and_then(|connected| connected).map_err(|error| {
        let kind = match error.kind() {
            io::ErrorKind::TimedOut => ErrorType::ConnectTimedout,
            io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
            _ => ErrorType::ConnectError,
        };
        Error::because(kind, "connecting to an upstream", error)
    })
}

/// What Pingora keeps with every connection for its proxy.
pub(super) struct Bond {
    /// What ends at both sides.
    pub(super) ends: Arc<Ends>,
    /// Whether a request went over it before.
    is_used: AtomicBool,
}

impl Bond {
    /// Notes that a request goes over the connection, and says whether one did before.
    pub(super) fn use_again(&self) -> bool {
        // Requests take turns on a connection.
        self.is_used.swap(true, Ordering::Relaxed)
    }
}

/// The bond of a connection of ours.
pub(super) fn bond_of(digest: &Digest) -> Option<&Bond> {
    digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

/// A connection to an upstream.
pub(super) struct Line {
    io: Socket,
    intake: Intake,
    ends: Arc<Ends>,
    digest: Arc<ProxyDigest>,
}

impl Line {
    pub(super) fn new(io: Socket) -> Result<Line> {
        let ends = Arc::new(Ends::default());
        let response = ResponseHeader::build_no_case(200, Some(0))
            .map_err(|error| Error::because(ErrorType::InternalError, "no head", error))?;
        let bond = Bond { ends: ends.clone(), is_used: AtomicBool::new(false) };
        let digest = ProxyDigest::new(Box::new(response), Some(Box::new(bond)));
        Ok(Line { io, intake: Intake::default(), ends, digest: Arc::new(digest) })
    }

    /// Whether nothing has come that nobody asked for, and no end.
    pub(super) fn is_quiet(&self) -> bool {
        self.io.is_quiet()
    }
}

/// Where a connection goes between requests.
struct Home {
    pool: Arc<Pool>,
    key: u64,
    patience: Option<Duration>,
}

/// A connection while a request uses it.
struct UpstreamStream {
    /// None once it went back to the pool.
    line: Option<Line>,
    /// Whether any of an answer has come for this request.
    is_answered: bool,
    home: Home,
}

impl UpstreamStream {
    fn line(&mut self) -> io::Result<&mut Line> {
        self.line.as_mut().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Goes back to the pool, which looks at it before it is used again.
    ///
    /// Before Pingora lays a connection aside it reads a byte that must not be there, and where
    /// it finds the connection at its end it lets go of it. That read is the only one that
    /// nobody waits for. Where Pingora ceases to ask, connections wait in its own pool again.
    fn go_home(&mut self) -> Poll<io::Result<()>> {
        if let Some(line) = self.line.take() {
            self.home.pool.put(self.home.key, line, self.home.patience, clock::recently());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 1 && cx.waker().data().is_null() {
            return self.go_home();
        }
        let before = buf.filled().len();
        let Line { io, intake, ends, .. } = self.line()?;
        let is_stuck = ends.upstream.is_stuck();
        ends.upstream.note_turn();
        let read = intake.poll_read(io, &ends.client, cx, buf);
        self.is_answered |= buf.filled().len() > before;
        // Pingora does not read while it writes: it has given up a write that was stuck, and would
        // now wait for an answer as long as for one to a whole request. There may be one already,
        // of an upstream that has seen enough; but one that neither took the request nor answered
        // for so long is not waited for any longer.
        if read.is_pending() && is_stuck && !self.is_answered {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let line = self.line()?;
        let written = Pin::new(&mut line.io).poll_write(cx, buf);
        line.ends.upstream.note_write(&written);
        line.intake.expect_head();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let line = self.line()?;
        let written = Pin::new(&mut line.io).poll_write_vectored(cx, bufs);
        line.ends.upstream.note_write(&written);
        line.intake.expect_head();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.io.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let line = self.line()?;
        let flushed = Pin::new(&mut line.io).poll_flush(cx);
        line.ends.upstream.note_write(&flushed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.line()?.io).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for UpstreamStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let io = self.line.as_ref().map(|line| &line.io);
        f.debug_struct("UpstreamStream").field("io", &io).finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for UpstreamStream {
    async fn shutdown(&mut self) {
        if let Some(line) = &mut self.line {
            Shutdown::shutdown(&mut line.io).await;
        }
    }
}

#[async_trait]
impl Peek for UpstreamStream {}

impl UniqueID for UpstreamStream {
    fn id(&self) -> UniqueIDType {
        self.line.as_ref().map_or(NO_SOCKET, |line| line.io.id())
    }
}

impl Ssl for UpstreamStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.line.as_ref()?.io.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.line.as_ref()?.io.selected_alpn_proto()
    }
}

impl GetTimingDigest for UpstreamStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.line.as_ref().map(|line| line.io.get_timing_digest()).unwrap_or_default()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.line.as_ref().map(|line| line.io.get_read_pending_time()).unwrap_or_default()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.line.as_ref().map(|line| line.io.get_write_pending_time()).unwrap_or_default()
    }
}

impl GetProxyDigest for UpstreamStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.line.as_ref()?.digest.clone())
    }
}

impl GetSocketDigest for UpstreamStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.line.as_ref()?.io.get_socket_digest()
    }
}
