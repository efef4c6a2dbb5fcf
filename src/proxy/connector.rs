//! Connections to upstreams that bring no more of an answer than its client takes.
//!
//! Pingora makes HTTP/1 connections itself and lets nobody between; but a peer that speaks a
//! protocol of the application's is connected by a connector of the application's, and where
//! that comes back with a plain stream, Pingora speaks HTTP/1 on it and pools it as ever. The
//! connector here does just that, with a stream that is read through an [`Intake`].

use crate::wire::backpressure::{Ends, Intake};
use async_trait::async_trait;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, Digest, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest,
    Ssl, Stream, TimingDigest, UniqueID, UniqueIDType,
};
use pingora_core::upstreams::peer::Peer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Makes the connections; Pingora's own connector pools them.
pub struct UpstreamConnector {
    transport: TransportConnector,
}

impl UpstreamConnector {
    /// A connector.
    pub fn new() -> UpstreamConnector {
        // Nothing is ever given back to it, so that its own pool stays empty.
        UpstreamConnector { transport: TransportConnector::new(Some(ConnectorOptions::new(1))) }
    }
}

impl Default for UpstreamConnector {
    fn default() -> UpstreamConnector {
        UpstreamConnector::new()
    }
}

#[async_trait]
impl Connector for UpstreamConnector {
    type Session = ();

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connection<()>, bool)> {
        let io = self.transport.new_stream(peer).await?;
        Ok((Connection::Stream(Box::new(UpstreamStream::new(io)?)), false))
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
        Box::pin(NothingPooled)
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        (): (),
        _peer: &P,
        _idle_timeout: Option<Duration>,
    ) {
    }
}

/// That there are no sessions of ours to use again.
struct NothingPooled;

impl Future for NothingPooled {
    type Output = Option<()>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<()>> {
        Poll::Ready(None)
    }
}

/// What Pingora keeps with every connection for its proxy is where this one says what ends.
pub(super) fn ends_of(digest: &Digest) -> Option<&Arc<Ends>> {
    digest.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
}

/// A connection to an upstream.
struct UpstreamStream {
    io: Stream,
    intake: Intake,
    ends: Arc<Ends>,
    digest: Arc<ProxyDigest>,
}

impl UpstreamStream {
    fn new(io: Stream) -> Result<UpstreamStream> {
        let ends = Arc::new(Ends::default());
        let response = ResponseHeader::build_no_case(200, Some(0))
            .map_err(|error| Error::because(ErrorType::InternalError, "no head", error))?;
        let digest = ProxyDigest::new(Box::new(response), Some(Box::new(ends.clone())));
        Ok(UpstreamStream { io, intake: Intake::default(), ends, digest: Arc::new(digest) })
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.ends.upstream.note_turn();
        this.intake.poll_read(&mut this.io, &this.ends.client, cx, buf)
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.ends.upstream.note_write(&written);
        self.intake.expect_head();
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.ends.upstream.note_write(&written);
        self.intake.expect_head();
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        self.ends.upstream.note_write(&flushed);
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl std::fmt::Debug for UpstreamStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamStream").field("io", &self.io).finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for UpstreamStream {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.io).await;
    }
}

#[async_trait]
impl Peek for UpstreamStream {}

impl UniqueID for UpstreamStream {
    fn id(&self) -> UniqueIDType {
        self.io.id()
    }
}

impl Ssl for UpstreamStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.io.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.io.selected_alpn_proto()
    }
}

impl GetTimingDigest for UpstreamStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.io.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.io.get_write_pending_time()
    }
}

impl GetProxyDigest for UpstreamStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for UpstreamStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_socket_digest()
    }
}
