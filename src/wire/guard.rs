//! A stream that hands on well-formed requests only, one at a time.
//!
//! [`GuardedStream`] wraps an accepted connection. It collects a request's head until it
//! is complete, checks it, and hands it on in one piece, so the parser behind it runs
//! once a request however slowly the bytes drip. It then follows the body to its end and
//! holds back what comes after until the request is finished. What pingora reads is
//! exactly one message after another; there are no surplus bytes left to be mistaken for
//! the next request, and pipelined requests simply wait their turn.
//!
//! A head that fails the check is answered here. Pingora never sees a byte of it and takes
//! the connection for one that the client closed.

use super::body::BodyTracker;
use super::fault::Fault;
use super::head::{self, HeadLimits};
use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use pingora_core::apps::ServerApp;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use pingora_core::server::ShutdownWatch;
use std::io::{self, Cursor, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// Bytes read at a time while a head is collected.
const READ_SIZE: usize = 4_096;
/// Empty lines in front of a request that are skipped (RFC 9112, section 2.2, asks for one).
const MAX_LEADING_LINES: usize = 2;
/// How long, and for how many bytes, a refused client may go on sending before the
/// connection is reset. Without this the reset could overtake the answer.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1 << 20;
/// Connections that linger at once; beyond that they are reset.
const MAX_LINGERING: usize = 1_024;

static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// What the guard reports and how it answers.
pub trait Answers: Send + Sync + 'static {
    /// The complete response to a head that is refused; it ends the connection.
    fn refuse(&self, fault: Fault, peer: Option<&SocketAddr>) -> Bytes;
    /// A head that passed was refused by the parser all the same.
    fn parser_refused(&self);
}

/// Wraps a Pingora application so that it reads through [`GuardedStream`]s.
pub struct GuardedApp<A> {
    inner: Arc<A>,
    limits: HeadLimits,
    answers: Arc<dyn Answers>,
}

impl<A> GuardedApp<A> {
    /// Guards `inner`.
    pub fn new(inner: A, limits: HeadLimits, answers: Arc<dyn Answers>) -> GuardedApp<A> {
        GuardedApp { inner: Arc::new(inner), limits, answers }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for GuardedApp<A> {
    async fn process_new(self: &Arc<Self>, io: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let guarded = GuardedStream::new(io, self.limits, self.answers.clone());
        self.inner.process_new(Box::new(guarded), shutdown).await
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}

/// What of a request is being read.
enum Phase {
    /// The next head.
    Head,
    /// A checked message: bytes of its head still held, then its body.
    Message { head_left: usize, body: BodyTracker },
    /// The answer to a bad head is being written.
    Refusing(Bytes),
    /// That answer is out.
    Refused,
    /// After `101 Switching Protocols`: bytes without meaning.
    Tunnel,
}

/// A connection that is read message by message.
pub struct GuardedStream {
    io: Stream,
    phase: Phase,
    /// Read from the connection and not handed on yet.
    held: BytesMut,
    /// How much of `held` is known to hold no end of a head.
    scanned: usize,
    limits: HeadLimits,
    answers: Arc<dyn Answers>,
    /// A message was handed on and is not finished.
    is_busy: AtomicBool,
    /// Pingora made a request of it.
    is_taken: AtomicBool,
    is_tunnel: AtomicBool,
    fault: Option<Fault>,
}

impl GuardedStream {
    fn new(io: Stream, limits: HeadLimits, answers: Arc<dyn Answers>) -> GuardedStream {
        GuardedStream {
            io,
            phase: Phase::Head,
            held: BytesMut::new(),
            scanned: 0,
            limits,
            answers,
            is_busy: AtomicBool::new(false),
            is_taken: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            fault: None,
        }
    }

    /// The guard behind a stream that Pingora holds.
    pub fn of(stream: &Stream) -> Option<&GuardedStream> {
        IO::as_any(&**stream).downcast_ref()
    }

    /// Pingora has made a request of the message.
    pub fn take_request(&self) {
        self.is_taken.store(true, Ordering::Relaxed);
    }

    /// The request is finished; the next head may be handed on.
    pub fn finish_request(&self) {
        self.is_busy.store(false, Ordering::Relaxed);
        self.is_taken.store(false, Ordering::Relaxed);
    }

    /// The protocol was switched; from here on bytes pass as they come.
    pub fn become_tunnel(&self) {
        self.is_tunnel.store(true, Ordering::Relaxed);
    }

    /// What was wrong with the body, when a read failed for that.
    pub fn body_fault(&self) -> Option<Fault> {
        self.fault
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        if *self.is_busy.get_mut() {
            return self.poll_while_busy(cx);
        }
        if self.held.is_empty() && buf.remaining() >= READ_SIZE.min(self.limits.max_head) {
            let start = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            let fresh = &buf.filled()[start..];
            if fresh.is_empty() {
                return Poll::Ready(Ok(true));
            }
            if let Some(end) = head::end_of_head(fresh, 0).filter(|_| !fresh.starts_with(b"\r")) {
                return Poll::Ready(self.accept_in_place(buf, start, end));
            }
            self.held.extend_from_slice(fresh);
            buf.set_filled(start);
        } else if !self.has_end() {
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(true));
            }
        }
        self.examine_held();
        Poll::Ready(Ok(false))
    }

    /// Between messages of a connection whose request is not finished: look for the client
    /// going away, keep what it sends early.
    fn poll_while_busy(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.held.is_empty() && ready!(self.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(true));
        }
        // Whoever finishes the request reads again, so nobody needs to be woken.
        Poll::Pending
    }

    /// The usual case: the whole head came with one read, straight into Pingora's buffer.
    fn accept_in_place(
        &mut self,
        buf: &mut ReadBuf<'_>,
        start: usize,
        end: usize,
    ) -> io::Result<bool> {
        let fresh = &buf.filled()[start..];
        match head::inspect(&fresh[..end], &self.limits) {
            Ok(framing) => {
                let mut body = BodyTracker::new(framing);
                let taken = end + self.follow(&mut body, &buf.filled()[start + end..])?;
                self.held.extend_from_slice(&buf.filled()[start + taken..]);
                buf.set_filled(start + taken);
                *self.is_busy.get_mut() = true;
                self.phase = Phase::Message { head_left: 0, body };
                Ok(true)
            }
            Err(fault) => {
                self.refuse(fault);
                buf.set_filled(start);
                Ok(false)
            }
        }
    }

    fn has_end(&self) -> bool {
        head::end_of_head(&self.held, self.scanned).is_some()
    }

    /// Decides over a head that came in pieces.
    fn examine_held(&mut self) {
        for _ in 0..MAX_LEADING_LINES {
            if self.held.starts_with(b"\r\n") {
                self.held.advance(2);
                self.scanned = 0;
            }
        }
        let verdict = match head::end_of_head(&self.held, self.scanned) {
            Some(end) => {
                head::inspect(&self.held[..end], &self.limits).map(|framing| Some((end, framing)))
            }
            None if self.held.len() >= self.limits.max_head => {
                Err(head::too_large(&self.held, &self.limits))
            }
            None => head::check_beginning(&self.held).map(|()| None),
        };
        match verdict {
            Ok(Some((end, framing))) => {
                *self.is_busy.get_mut() = true;
                self.scanned = 0;
                self.phase = Phase::Message { head_left: end, body: BodyTracker::new(framing) };
            }
            Ok(None) => self.scanned = self.held.len(),
            Err(fault) => self.refuse(fault),
        }
    }

    fn refuse(&mut self, fault: Fault) {
        let digest = self.io.get_socket_digest();
        let peer = digest.as_deref().and_then(SocketDigest::peer_addr);
        self.phase = Phase::Refusing(self.answers.refuse(fault, peer));
    }

    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let Phase::Message { head_left, body } = &mut self.phase else {
            return Poll::Ready(Ok(false));
        };
        if *head_left == 0 && body.is_done() {
            self.phase = Phase::Head;
            return Poll::Ready(Ok(false));
        }
        if self.held.is_empty() {
            let start = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            return Poll::Ready(self.pass_body(buf, start).map(|()| true));
        }
        let head = (*head_left).min(buf.remaining());
        buf.put_slice(&self.held.split_to(head));
        *head_left -= head;
        if *head_left == 0 {
            let start = buf.filled().len();
            let body = self.held.len().min(buf.remaining());
            let early = self.held.split_to(body);
            buf.put_slice(&early);
            let late = std::mem::take(&mut self.held);
            self.pass_body(buf, start)?;
            self.held.unsplit(late);
        }
        Poll::Ready(Ok(true))
    }

    /// Follows the body through what was just read into `buf` from `start` on, and holds
    /// back what lies behind its end.
    fn pass_body(&mut self, buf: &mut ReadBuf<'_>, start: usize) -> io::Result<()> {
        let mut phase = std::mem::replace(&mut self.phase, Phase::Head);
        if let Phase::Message { body, .. } = &mut phase {
            let taken = self.follow(body, &buf.filled()[start..])?;
            self.held.extend_from_slice(&buf.filled()[start + taken..]);
            buf.set_filled(start + taken);
        }
        self.phase = phase;
        Ok(())
    }

    fn follow(&mut self, body: &mut BodyTracker, bytes: &[u8]) -> io::Result<usize> {
        body.advance(bytes).map_err(|fault| {
            self.fault = Some(fault);
            io::Error::new(io::ErrorKind::InvalidData, fault)
        })
    }

    /// Reads into `held`; 0 is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [0; READ_SIZE];
        let mut buf = ReadBuf::new(&mut chunk);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
        self.held.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Phase::Refusing(answer) = &mut self.phase {
            while answer.has_remaining() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, answer))?;
                if written == 0 {
                    break;
                }
                answer.advance(written);
            }
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.phase = Phase::Refused;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the client may still be sending what nobody will read.
    fn has_unread_input(&self) -> bool {
        match &self.phase {
            Phase::Message { body, .. } => !body.is_done() || !self.held.is_empty(),
            Phase::Refusing(_) | Phase::Refused => true,
            Phase::Head => !self.held.is_empty(),
            Phase::Tunnel => false,
        }
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if *this.is_tunnel.get_mut() {
            this.phase = Phase::Tunnel;
        }
        loop {
            let is_answered = match this.phase {
                Phase::Head => ready!(this.poll_head(cx, buf))?,
                Phase::Message { .. } => ready!(this.poll_message(cx, buf))?,
                Phase::Refusing(_) => {
                    ready!(this.poll_refuse(cx))?;
                    true
                }
                Phase::Refused => true,
                Phase::Tunnel if this.held.is_empty() => {
                    return Pin::new(&mut this.io).poll_read(cx, buf);
                }
                Phase::Tunnel => {
                    let count = this.held.len().min(buf.remaining());
                    buf.put_slice(&this.held.split_to(count));
                    true
                }
            };
            if this.held.is_empty() && this.held.capacity() > 0 {
                // An idle connection keeps no buffer.
                this.held = BytesMut::new();
            }
            if is_answered {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl Drop for GuardedStream {
    fn drop(&mut self) {
        if *self.is_busy.get_mut() && !*self.is_taken.get_mut() {
            self.answers.parser_refused();
        }
        if !self.has_unread_input() {
            return;
        }
        // Closing now would reset the connection under the answer that was just written.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if LINGERING.fetch_add(1, Ordering::Relaxed) >= MAX_LINGERING {
            LINGERING.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let io = std::mem::replace(&mut self.io, Box::new(Cursor::new(Vec::new())));
        runtime.spawn(linger(io));
    }
}

async fn linger(mut io: Stream) {
    let _ = tokio::time::timeout(LINGER_TIME, async {
        io.shutdown().await;
        tokio::io::copy(&mut (&mut io).take(LINGER_BYTES), &mut tokio::io::sink()).await
    })
    .await;
    LINGERING.fetch_sub(1, Ordering::Relaxed);
}

impl std::fmt::Debug for GuardedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedStream").field("io", &self.io).finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for GuardedStream {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.io).await;
    }
}

#[async_trait]
impl Peek for GuardedStream {}

impl UniqueID for GuardedStream {
    fn id(&self) -> UniqueIDType {
        self.io.id()
    }
}

impl Ssl for GuardedStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.io.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.io.selected_alpn_proto()
    }
}

impl GetTimingDigest for GuardedStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.io.get_timing_digest()
    }
}

impl GetProxyDigest for GuardedStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.io.get_proxy_digest()
    }
}

impl GetSocketDigest for GuardedStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.io.get_socket_digest()
    }
}
