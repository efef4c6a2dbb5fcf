//! A TCP connection, of a client or to an upstream, as Pingora wants to see one.
//!
//! Pingora's own type keeps a buffer to read into, which neither side needs, and reads the
//! clock twice around each wait for figures that nobody asks here. This one is the socket, a
//! small buffer to write into, and the peer's address; an idle client costs four kilobytes
//! less, and an idle upstream 64.

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that are put together before they are sent: one segment.
const WRITE_BUFFER: usize = 1_460;

/// A connection, accepted or made.
#[derive(Debug)]
pub struct Socket {
    stream: BufWriter<TcpStream>,
    digest: Arc<SocketDigest>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr) -> Socket {
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // The cell is new, so it takes the address.
        let _ = digest.peer_addr.set(Some(peer.into()));
        let stream = BufWriter::with_capacity(WRITE_BUFFER, stream);
        Socket { stream, digest: Arc::new(digest) }
    }

    /// Connects to a server.
    ///
    /// # Errors
    /// Whatever the system says.
    pub async fn connect(address: SocketAddr) -> io::Result<Socket> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Socket::new(stream, address))
    }

    /// Whether nothing is there to be read, and no end: the connection is open, as far as is
    /// known, and its peer has said nothing. What is there is read, a byte of it. Nobody is
    /// woken by what comes.
    pub fn is_quiet(&self) -> bool {
        let read = self.stream.get_ref().try_read(&mut [0]);
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Bytes of answers that the client's machine has acknowledged.
    pub(super) fn acknowledged(&self) -> Option<u64> {
        self.digest.tcp_info().map(|info| info.tcpi_bytes_acked)
    }

    /// Makes closing a reset: the kernel forgets what it still holds for the client, which
    /// it would go on offering to one that does not read for minutes.
    pub(super) fn forget_unsent(&self) {
        let _ = SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO));
    }
}

impl Drop for Socket {
    /// What was written and never flushed still goes out, where that needs no waiting.
    fn drop(&mut self) {
        if !self.stream.buffer().is_empty() {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.stream).poll_flush(&mut cx);
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

#[async_trait]
impl Peek for Socket {}

impl UniqueID for Socket {
    fn id(&self) -> UniqueIDType {
        self.stream.get_ref().as_raw_fd()
    }
}

impl Ssl for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}
