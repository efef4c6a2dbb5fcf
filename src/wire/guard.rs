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
use super::answers::{Answers, Bounds};
use super::backpressure::{Ends, Intake};
use super::body::BodyTracker;
use super::fault::Fault;
use super::head::HeadLimits;
use super::lingering;
use super::timer::Timer;
use super::waiting::Waiting;
use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use pingora_core::protocols::{IO, Stream};
use std::io::{self, Cursor};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes read at a time while a head is collected.
const READ_SIZE: usize = 4_096;
/// The largest buffer an idle connection keeps. Most heads fit; others take a new one.
const KEPT_BUFFER: usize = 1_024;

/// Where a stream that Pingora drops leaves its connection, when that is good for another
/// request.
pub(super) type Rescue = Arc<Mutex<Option<Rescued>>>;

/// A connection that outlived the stream around it.
pub(super) struct Rescued {
    pub(super) io: Stream,
    /// What was read ahead.
    pub(super) held: BytesMut,
    /// Requests it has made.
    pub(super) served: u32,
}

impl Rescued {
    /// A connection at its beginning.
    pub(super) fn new(io: Stream) -> Rescued {
        Rescued { io, held: BytesMut::new(), served: 0 }
    }
}

/// What of a request is being read.
pub(super) enum Phase {
    /// The next head.
    Head,
    /// A checked message: bytes of its head still held, then its body.
    Message { head_left: usize, body: BodyTracker },
    /// The answer to a bad head is being written.
    Refusing { answer: Bytes, until: Instant },
    /// That answer is out.
    Refused,
    /// The connection was closed for its silence; the client has not closed it yet.
    Parting { until: Instant, reads_left: u8, is_shut: bool },
    /// Nothing is left to be said or heard.
    Over,
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
    pub(super) fn address_of(io: &Stream) -> Option<IpAddr> {
        let digest = io.get_socket_digest()?;
        Some(digest.peer_addr()?.as_inet()?.ip().to_canonical())
    }

    fn of(io: &Stream) -> Option<Peer> {
        let address = Peer::address_of(io)?;
        let text = HeaderValue::try_from(address.to_string()).ok()?;
        Some(Peer { address, text })
    }
}

/// A connection that is read message by message.
pub struct GuardedStream {
    pub(super) io: Stream,
    peer: Option<Peer>,
    pub(super) phase: Phase,
    /// Read from the connection and not handed on yet.
    pub(super) held: BytesMut,
    /// How much of `held` is known to hold no end of a head.
    pub(super) scanned: usize,
    pub(super) limits: HeadLimits,
    /// As they were when the request under way began.
    pub(super) bounds: Bounds,
    pub(super) waiting: Waiting,
    pub(super) timer: Timer,
    pub(super) answers: Arc<dyn Answers>,
    /// Pingora made a request of it.
    pub(super) is_taken: AtomicBool,
    pub(super) is_tunnel: AtomicBool,
    /// The request under way is the last that the connection may make.
    pub(super) is_last: bool,
    is_reusable: AtomicBool,
    rescue: Rescue,
    fault: Option<Fault>,
    /// Ends the wait for an upstream. Locked by the request's own task alone.
    alarm: Mutex<Alarm>,
    /// How fast bodies are read.
    pub(super) intake: Intake,
    /// Both ends of the attempt under way. Locked by the request's own task alone.
    pub(super) ends: Mutex<Option<Arc<Ends>>>,
}

impl GuardedStream {
    pub(super) fn new(
        connection: Rescued,
        limits: HeadLimits,
        answers: Arc<dyn Answers>,
        rescue: Rescue,
    ) -> GuardedStream {
        let Rescued { io, held, served } = connection;
        GuardedStream {
            peer: Peer::of(&io),
            io,
            phase: Phase::Head,
            held,
            scanned: 0,
            limits,
            bounds: answers.bounds(),
            waiting: Waiting::after(served),
            timer: Timer::default(),
            answers,
            is_taken: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            is_last: false,
            is_reusable: AtomicBool::new(false),
            rescue,
            fault: None,
            alarm: Mutex::default(),
            intake: Intake::default(),
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

    /// Whether the connection ends with the request under way.
    pub fn is_last_request(&self) -> bool {
        self.is_last || self.answers.is_draining()
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

    /// Between messages of a connection whose request is not finished: look for the client
    /// going away, keep what it sends early.
    fn poll_while_busy(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.held.is_empty() && ready!(self.poll_fill(cx))? == 0 {
            return Poll::Ready(Ok(()));
        }
        // Whoever finishes the request reads again, so nobody needs to be woken.
        Poll::Pending
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
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut chunk = [const { MaybeUninit::uninit() }; READ_SIZE];
        let mut buf = ReadBuf::uninit(&mut chunk);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
        self.held.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
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
            // Pingora reads only what `poll_next` has let through.
            Phase::Head
            | Phase::Refusing { .. }
            | Phase::Refused
            | Phase::Parting { .. }
            | Phase::Over => Poll::Ready(Ok(())),
        }
    }

    /// Whether the last message was read to its end.
    fn is_between_messages(&self) -> bool {
        match &self.phase {
            Phase::Message { head_left, body } => *head_left == 0 && body.is_done(),
            Phase::Head => true,
            _ => false,
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
            Phase::Refusing { .. } | Phase::Refused => true,
            Phase::Head => !self.held.is_empty(),
            Phase::Parting { .. } | Phase::Over | Phase::Tunnel => false,
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
        let before = buf.filled().len();
        let read = this.poll_phase(cx, buf);
        match &read {
            Poll::Pending if *this.is_taken.get_mut() => ready!(this.poll_overdue(cx))?,
            Poll::Ready(Ok(())) => this.note_read(buf.filled().len() - before),
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
        if *self.is_reusable.get_mut() && !self.is_last && self.is_between_messages() {
            let (io, held) = (self.leave_io(), std::mem::take(&mut self.held));
            let rescued = Rescued { io, held, served: self.waiting.served };
            *self.rescue.lock().unwrap_or_else(PoisonError::into_inner) = Some(rescued);
            return;
        }
        if !self.has_unread_input() {
            return;
        }
        lingering::close(self.leave_io());
    }
}
