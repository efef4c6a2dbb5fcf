//! Between requests: a connection waits for the next head, collects and checks it.
//!
//! How long it may wait is decided here. What came of a head counts from its first byte,
//! silence from its beginning; a connection that is silent for too long is closed so that
//! a request which crosses the end on its way is not answered with a reset.

use super::answers::Ending;
use super::body::BodyTracker;
use super::fault::Fault;
use super::guard::{GuardedStream, Phase};
use super::head;
use super::pace::Pace;
use crate::clock;
use bytes::{Buf, BytesMut};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Empty lines in front of a request that are skipped (RFC 9112, section 2.2, asks for one).
const MAX_LEADING_LINES: usize = 2;
/// How long a connection that waits for a request is left open once the gateway stops.
const DRAIN_TIME: Duration = Duration::from_millis(500);
/// How long a connection is still read after it was closed for its silence: a request that
/// was sent before its client knew arrives within one round trip.
const PARTING_TIME: Duration = Duration::from_millis(250);
/// Reads of it, so that a client which never stops sending cannot keep it.
const PARTING_READS: u8 = 16;
/// How long a refusal may take to be written. It is the first that the kernel has to send,
/// so it waits for nobody who reads.
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// What the wait for a request has come to.
#[derive(Default)]
pub(super) struct Waiting {
    /// Requests the connection has made.
    pub(super) served: u32,
    /// Since when nothing has come.
    quiet_since: Option<Instant>,
    /// When the first byte of the head came, or could have been looked at.
    head_since: Option<Instant>,
    /// When silence ends the connection, since the gateway is stopping.
    drain_by: Option<Instant>,
}

impl Waiting {
    /// The wait of a connection that has made so many requests.
    pub(super) fn after(served: u32) -> Waiting {
        Waiting { served, ..Waiting::default() }
    }
}

impl GuardedStream {
    /// The gateway is stopping: silence from now on is over soon.
    pub(super) fn drain(&mut self) {
        self.waiting.drain_by.get_or_insert_with(|| clock::now() + DRAIN_TIME);
    }

    /// Waits for the next request: `true` once its head is complete and checked, `false` when
    /// the connection has ended or its head was refused.
    ///
    /// Pingora is given the connection only then. A connection that waits inside Pingora
    /// costs three times the memory of one that waits here.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            let progress = match self.phase {
                Phase::Head => ready!(self.poll_head(cx)),
                Phase::Message { ref body, head_left: 0 } if body.is_done() => {
                    self.phase = Phase::Head;
                    Ok(true)
                }
                Phase::Message { .. } => return Poll::Ready(true),
                Phase::Refusing { .. } => ready!(self.poll_refuse(cx)).map(|()| false),
                Phase::Parting { .. } => {
                    ready!(self.poll_part(cx));
                    Ok(false)
                }
                Phase::Refused | Phase::Tunnel | Phase::Over => Ok(false),
            };
            if !progress.unwrap_or(false) {
                return Poll::Ready(false);
            }
        }
    }

    /// Reads on in the next head; `false` at the end of the stream.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.has_end() {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(false)),
                Poll::Ready(filled) => drop(filled?),
                Poll::Pending => {
                    ready!(self.poll_patience(cx));
                    return Poll::Ready(Ok(true));
                }
            }
        }
        self.examine_held();
        if matches!(self.phase, Phase::Head) {
            self.waiting.head_since.get_or_insert_with(clock::now);
        }
        Poll::Ready(Ok(true))
    }

    /// Ready when the wait has been too long; the connection is then about to end.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.held.is_empty() {
            self.waiting.head_since.get_or_insert_with(clock::now);
        }
        let (due, ending) = self.due();
        ready!(self.timer.poll(due, cx));
        self.answers.ended(ending);
        match ending {
            Ending::HeaderTimeout => self.refuse(Fault::HeadTimeout),
            _ => {
                let until = clock::now() + PARTING_TIME;
                self.phase = Phase::Parting { until, reads_left: PARTING_READS, is_shut: false };
            }
        }
        Poll::Ready(())
    }

    /// When the wait is over, and what for.
    fn due(&mut self) -> (Instant, Ending) {
        let (bounds, waiting) = (&self.bounds, &mut self.waiting);
        if let Some(since) = waiting.head_since {
            return (since + bounds.header_timeout, Ending::HeaderTimeout);
        }
        let timeout = match waiting.served {
            0 => bounds.idle_timeout.min(bounds.header_timeout),
            _ => bounds.idle_timeout,
        };
        let idle = *waiting.quiet_since.get_or_insert_with(clock::recently) + timeout;
        match waiting.drain_by {
            Some(drain_by) if drain_by < idle => (drain_by, Ending::Drain),
            _ => (idle, Ending::IdleTimeout),
        }
    }

    fn has_end(&self) -> bool {
        !self.held.is_empty() && head::end_of_head(&self.held, self.scanned).is_some()
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
                self.begin_request();
            }
            Ok(None) => self.scanned = self.held.len(),
            Err(fault) => self.refuse(fault),
        }
    }

    /// A head has passed: the waiting is over, and the request has what it may spend.
    fn begin_request(&mut self) {
        self.bounds = self.answers.bounds();
        self.alarm_mut().pace = Pace::new();
        let waiting = &mut self.waiting;
        (waiting.quiet_since, waiting.head_since, waiting.drain_by) = (None, None, None);
        waiting.served = waiting.served.saturating_add(1);
        self.is_last = self.bounds.max_requests.is_some_and(|max| waiting.served >= max);
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
        let peer = self.peer().map(|peer| peer.address);
        let answer = self.answers.refuse(fault, peer);
        self.phase = Phase::Refusing { answer, until: clock::now() + REFUSAL_TIME };
    }

    fn poll_refuse(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Phase::Refusing { answer, until } = &mut self.phase else { return Poll::Ready(Ok(())) };
        let (until, mut io) = (*until, Pin::new(&mut self.io));
        let mut write = || {
            while answer.has_remaining() {
                let written = ready!(io.as_mut().poll_write(cx, answer))?;
                if written == 0 {
                    break;
                }
                answer.advance(written);
            }
            ready!(io.as_mut().poll_flush(cx))?;
            io.as_mut().poll_shutdown(cx)
        };
        let written = match write() {
            Poll::Ready(written) => written,
            Poll::Pending => {
                ready!(self.timer.poll(until, cx));
                Err(io::ErrorKind::TimedOut.into())
            }
        };
        self.phase = Phase::Refused;
        Poll::Ready(written)
    }

    /// Closes the connection for writing, and waits a little for the client to close it too.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Phase::Parting { until, reads_left, is_shut } = &mut self.phase else {
            return Poll::Ready(());
        };
        let mut io = Pin::new(&mut self.io);
        if !*is_shut {
            // Nothing is left to write, so this does not wait.
            *is_shut = io.as_mut().poll_shutdown(cx).is_ready();
        }
        let mut chunk = [const { MaybeUninit::uninit() }; 1_024];
        while *reads_left > 0 {
            let mut buf = ReadBuf::uninit(&mut chunk);
            match io.as_mut().poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => *reads_left -= 1,
                Poll::Ready(_) => break,
                Poll::Pending => {
                    ready!(self.timer.poll(*until, cx));
                    break;
                }
            }
        }
        self.phase = Phase::Over;
        Poll::Ready(())
    }
}
