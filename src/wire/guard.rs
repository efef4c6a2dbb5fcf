//! A stream that hands on well-formed requests only, one at a time.
//!
//! [`GuardedStream`] wraps an accepted connection. It collects a request's head until it
//! is complete, checks it, and hands it on in one piece, so the parser behind it runs
//! once a request however slowly the bytes drip. It then follows the body to its end and
//! holds back what comes after until the request is finished. What Pingora reads is
//! exactly one message after another; there are no surplus bytes left to be mistaken for
//! the next request, and pipelined requests simply wait their turn.
//!
//! A head that fails the check is answered here. Pingora never sees a byte of it and takes
//! the connection for one that the client closed.

use super::alarm::{Alarm, Patience, Ring};
use super::app::Answers;
use super::body::BodyTracker;
use super::fault::Fault;
use super::head::{self, HeadLimits};
use super::lingering;
use super::pace::{Ends, Pace};
use bytes::{Buf, Bytes, BytesMut};
use http::HeaderValue;
use pingora_core::protocols::{IO, Stream};
use std::future::poll_fn;
use std::io::{self, Cursor};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at a time while a head is collected.
const READ_SIZE: usize = 4_096;
/// The largest buffer an idle connection keeps. Most heads fit; others take a new one.
const KEPT_BUFFER: usize = 1_024;
/// Empty lines in front of a request that are skipped (RFC 9112, section 2.2, asks for one).
const MAX_LEADING_LINES: usize = 2;

/// Where a stream that Pingora drops leaves its connection, with what it read ahead, when
/// the connection is good for another request.
pub(super) type Rescue = Arc<Mutex<Option<(Stream, BytesMut)>>>;

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

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address; an IPv4 address also where the socket speaks IPv6.
    pub address: IpAddr,
    /// The address as text, made once a connection.
    pub text: HeaderValue,
}

impl Peer {
    fn of(io: &Stream) -> Option<Peer> {
        let digest = io.get_socket_digest()?;
        let address = digest.peer_addr()?.as_inet()?.ip().to_canonical();
        let text = HeaderValue::try_from(address.to_string()).ok()?;
        Some(Peer { address, text })
    }
}

/// A connection that is read message by message.
pub struct GuardedStream {
    pub(super) io: Stream,
    peer: Option<Peer>,
    phase: Phase,
    /// Read from the connection and not handed on yet.
    held: BytesMut,
    /// How much of `held` is known to hold no end of a head.
    scanned: usize,
    limits: HeadLimits,
    answers: Arc<dyn Answers>,
    /// Pingora made a request of it.
    is_taken: AtomicBool,
    is_tunnel: AtomicBool,
    is_reusable: AtomicBool,
    rescue: Rescue,
    fault: Option<Fault>,
    /// Ends the wait for an upstream. Locked by the request's own task alone.
    alarm: Mutex<Alarm>,
    /// How fast bodies are read.
    pub(super) pace: Pace,
    /// Both ends of the attempt under way. Locked by the request's own task alone.
    pub(super) ends: Mutex<Option<Arc<Ends>>>,
}

impl GuardedStream {
    pub(super) fn new(
        io: Stream,
        held: BytesMut,
        limits: HeadLimits,
        answers: Arc<dyn Answers>,
        rescue: Rescue,
    ) -> GuardedStream {
        GuardedStream {
            peer: Peer::of(&io),
            io,
            phase: Phase::Head,
            held,
            scanned: 0,
            limits,
            answers,
            is_taken: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            is_reusable: AtomicBool::new(false),
            rescue,
            fault: None,
            alarm: Mutex::default(),
            pace: Pace::default(),
            ends: Mutex::default(),
        }
    }

    /// The guard behind a stream that Pingora holds.
    pub fn of(stream: &Stream) -> Option<&GuardedStream> {
        IO::as_any(&**stream).downcast_ref()
    }

    /// The guard that a stream from Pingora is, ready for its next request.
    pub(super) fn back(stream: Stream) -> Option<Box<GuardedStream>> {
        let mut guarded: Box<GuardedStream> = stream.into_any().downcast().ok()?;
        *guarded.is_taken.get_mut() = false;
        guarded.alarm_mut().set(Patience::default());
        *guarded.ends_mut() = None;
        Some(guarded)
    }

    /// The connection's other end.
    pub fn peer(&self) -> Option<&Peer> {
        self.peer.as_ref()
    }

    /// Pingora has made a request of the message.
    pub fn take_request(&self) {
        self.is_taken.store(true, Ordering::Relaxed);
    }

    /// The protocol was switched; from here on bytes pass as they come, and whenever they do.
    pub fn become_tunnel(&self) {
        self.wait_for_upstream(Patience::default());
        self.is_tunnel.store(true, Ordering::Relaxed);
    }

    /// The request was answered whole although its attempt failed. Pingora ends a connection
    /// after any failed attempt; this one goes on with the next request instead.
    pub fn keep_after_failure(&self) {
        self.is_reusable.store(true, Ordering::Relaxed);
    }

    /// Bounds the wait for the upstream from now on: when it has been too long, reading from
    /// the client fails, and [`ring`](GuardedStream::ring) tells why.
    pub fn wait_for_upstream(&self, patience: Patience) {
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner).set(patience);
    }

    /// Why the wait was ended, if it was.
    pub fn ring(&self) -> Option<Ring> {
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner).ring()
    }

    pub(super) fn alarm_mut(&mut self) -> &mut Alarm {
        self.alarm.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was wrong with the body, when a read failed for that.
    pub fn body_fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Waits for the next request: `true` once its head is complete and checked, `false` when
    /// the connection has ended or its head was refused.
    ///
    /// Pingora is given the connection only then. A connection that waits inside Pingora
    /// costs three times the memory of one that waits here.
    pub(super) async fn next_request(&mut self) -> bool {
        poll_fn(|cx| {
            loop {
                let progress = match self.phase {
                    Phase::Head => ready!(self.poll_head(cx)),
                    Phase::Message { ref body, head_left: 0 } if body.is_done() => {
                        self.phase = Phase::Head;
                        Ok(true)
                    }
                    Phase::Refusing(_) => ready!(self.poll_refuse(cx)).map(|()| false),
                    Phase::Message { .. } => return Poll::Ready(true),
                    Phase::Refused | Phase::Tunnel => Ok(false),
                };
                if !progress.unwrap_or(false) {
                    return Poll::Ready(false);
                }
            }
        })
        .await
    }

    /// Reads on in the next head; `false` at the end of the stream.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.has_end() && ready!(self.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(false));
        }
        self.examine_held();
        Poll::Ready(Ok(true))
    }

    /// Between messages of a connection whose request is not finished: look for the client
    /// going away, keep what it sends early.
    fn poll_while_busy(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() && ready!(self.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        // Whoever finishes the request reads again, so nobody needs to be woken.
        Poll::Pending
    }

    fn has_end(&self) -> bool {
        head::end_of_head(&self.held, self.scanned).is_some()
    }

    /// Decides over the head that is held, as far as it has come.
    fn examine_held(&mut self) {
        for _ in 0..MAX_LEADING_LINES {
            if self.held.starts_with(b"\r\n") {
                self.held.advance(2);
                self.scanned = 0;
            }
        }
        let verdict = match head::end_of_head(&self.held, self.scanned) {
            Some(end) => {
                head::inspect(&self.held[..end], &self.limits).map(|head| Some((end, head)))
            }
            None if self.held.len() >= self.limits.max_head => {
                Err(head::too_large(&self.held, &self.limits))
            }
            None => head::check_beginning(&self.held, &self.limits).map(|()| None),
        };
        match verdict {
            Ok(Some((end, head))) => {
                let head_left = match head.authority {
                    Some(authority) => self.cut_authority(end, authority),
                    None => end,
                };
                self.scanned = 0;
                self.phase = Phase::Message { head_left, body: BodyTracker::new(head.framing) };
            }
            Ok(None) => self.scanned = self.held.len(),
            Err(fault) => self.refuse(fault),
        }
    }

    /// Turns a held head of `end` bytes into origin form and returns its new length.
    fn cut_authority(&mut self, end: usize, authority: Range<usize>) -> usize {
        let has_path = self.held.get(authority.end) == Some(&b'/');
        let mut head = BytesMut::with_capacity(self.held.len());
        head.extend_from_slice(&self.held[..authority.start]);
        if !has_path {
            head.extend_from_slice(b"/");
        }
        head.extend_from_slice(&self.held[authority.end..end]);
        let length = head.len();
        head.extend_from_slice(&self.held[end..]);
        self.held = head;
        length
    }

    fn refuse(&mut self, fault: Fault) {
        let peer = self.peer.as_ref().map(|peer| peer.address);
        self.phase = Phase::Refusing(self.answers.refuse(fault, peer));
    }

    /// Hands on what is held of the message, or reads on in its body.
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.held.is_empty() {
            let start = buf.filled().len();
            ready!(self.poll_body(cx, buf))?;
            return Poll::Ready(self.pass_body(buf, start));
        }
        if let Phase::Message { head_left: left @ 1.., .. } = &mut self.phase {
            // The head goes alone: a fault in the body behind it must not swallow it.
            let head = (*left).min(buf.remaining());
            *left -= head;
            buf.put_slice(&self.held.split_to(head));
            return Poll::Ready(Ok(()));
        }
        let start = buf.filled().len();
        let early = self.held.split_to(self.held.len().min(buf.remaining()));
        let late = std::mem::take(&mut self.held);
        buf.put_slice(&early);
        self.pass_body(buf, start)?;
        self.held.unsplit(late);
        Poll::Ready(Ok(()))
    }

    /// Follows the body through what was just read into `buf` from `start` on, and holds
    /// back what lies behind its end.
    fn pass_body(&mut self, buf: &mut ReadBuf<'_>, start: usize) -> io::Result<()> {
        let Phase::Message { body, .. } = &mut self.phase else { return Ok(()) };
        match body.advance(&buf.filled()[start..]) {
            Ok(taken) => {
                self.held.extend_from_slice(&buf.filled()[start + taken..]);
                buf.set_filled(start + taken);
                Ok(())
            }
            Err(fault) => {
                self.fault = Some(fault);
                Err(io::Error::new(io::ErrorKind::InvalidData, fault))
            }
        }
    }

    /// Reads into `held`; 0 is the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [const { MaybeUninit::uninit() }; READ_SIZE];
        let mut buf = ReadBuf::uninit(&mut chunk);
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

    fn poll_phase(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.phase {
            Phase::Message { ref body, head_left: 0 } if body.is_done() => self.poll_while_busy(cx),
            Phase::Message { .. } => self.poll_message(cx, buf),
            Phase::Tunnel if self.held.is_empty() => self.poll_body(cx, buf),
            Phase::Tunnel => {
                let count = self.held.len().min(buf.remaining());
                buf.put_slice(&self.held.split_to(count));
                Poll::Ready(Ok(()))
            }
            // Pingora reads only what `next_request` has let through.
            Phase::Head | Phase::Refusing(_) | Phase::Refused => Poll::Ready(Ok(())),
        }
    }

    /// Fails once the upstream has been waited for too long.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_sent = !matches!(&self.phase, Phase::Message { body, .. } if !body.is_done());
        ready!(self.alarm_mut().poll(is_sent, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether the last message was read to its end.
    fn is_between_messages(&self) -> bool {
        match &self.phase {
            Phase::Message { head_left, body } => *head_left == 0 && body.is_done(),
            Phase::Head => true,
            Phase::Refusing(_) | Phase::Refused | Phase::Tunnel => false,
        }
    }

    /// Gives up the connection; what is left behind reads as closed.
    fn leave_io(&mut self) -> Stream {
        std::mem::replace(&mut self.io, Box::new(Cursor::new(Vec::new())))
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
        if let Some(ends) = this.ends_mut() {
            ends.client.note_turn();
        }
        let read = this.poll_phase(cx, buf);
        match &read {
            Poll::Pending if *this.is_taken.get_mut() => ready!(this.poll_alarm(cx))?,
            Poll::Ready(Ok(())) => this.alarm_mut().read(),
            _ => {}
        }
        if this.held.is_empty() && this.held.capacity() > KEPT_BUFFER {
            this.held = BytesMut::new();
        }
        read
    }
}

impl Drop for GuardedStream {
    fn drop(&mut self) {
        if matches!(self.phase, Phase::Message { .. }) && !*self.is_taken.get_mut() {
            self.answers.parser_refused();
        }
        if *self.is_reusable.get_mut() && self.is_between_messages() {
            let left = (self.leave_io(), std::mem::take(&mut self.held));
            *self.rescue.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
            return;
        }
        if !self.has_unread_input() {
            return;
        }
        lingering::close(self.leave_io());
    }
}
