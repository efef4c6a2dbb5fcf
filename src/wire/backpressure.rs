//! How much of a body may wait in here for the side that takes it slowly.
//!
//! Between the reading of a body and its writing Pingora keeps a queue: about ten pieces, each
//! as large as one read brought, up to 64 KiB, and a block to join them in. A client that asks
//! for a large answer and reads it slowly, or an upstream that does not take an upload, so pins
//! over half a megabyte. The number of pieces cannot be changed, and a reader that was simply
//! held back would run into time-outs that are meant for the other side. So [`Intake`] bounds
//! what one read brings: little once the writing side is stuck, and [`LARGEST_READ`] otherwise,
//! with a turn for the writer in between, so that it is noticed in time that it got stuck.

use super::guard::GuardedStream;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Bytes that one read of a body brings at most. A choice: it is what may be in the queue before
/// the writer was seen to be stuck, so half of it saves a slow peer 16 KiB and a bit more; and
/// each read of a large body costs a system call and a turn, so half of it doubles those. Above
/// 64 KiB it bounds nothing, for Pingora's own buffer is no larger.
pub const LARGEST_READ: usize = 32 * 1_024;
/// Bytes that one read brings while the writing side is stuck. A choice as well: the queue holds
/// ten times this, and a peer that is slow but moves is fed in pieces of it for as long as its
/// writes have to wait. Answers below it are never bounded at all.
pub const STUCK_READ: usize = 1_024;

/// How often a reader gives the writer a turn without one having come of it. Two: the task
/// takes turns in who is polled first. After that it reads on, for a turn is not a promise.
const MAX_YIELDS: u8 = 2;

/// Both ends of a request under way, as the other end sees them. They belong to the connection
/// to the upstream and live as long; a request only holds on to them.
///
/// Only ever hints: what is read while they are wrong is a little more or a little less. So
/// nothing orders them, and nobody waits for them.
#[derive(Debug, Default)]
pub struct Ends {
    /// Who is written the answer.
    pub client: End,
    /// Who is written the request's body.
    pub upstream: End,
}

/// One end.
#[derive(Debug, Default)]
pub struct End {
    is_stuck: AtomicBool,
    turns: AtomicU32,
}

impl End {
    /// Notes that its half of the request has been polled.
    pub fn note_turn(&self) {
        // Of two threads neither is ever here for the same request, and a lost turn is harmless.
        self.turns.store(self.turns().wrapping_add(1), Ordering::Relaxed);
    }

    /// Notes what came of a write to it.
    pub fn note_write<T>(&self, written: &Poll<T>) {
        self.note_turn();
        let is_stuck = written.is_pending();
        if self.is_stuck() != is_stuck {
            self.is_stuck.store(is_stuck, Ordering::Relaxed);
        }
    }

    /// Whether the last write has not been taken yet.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    fn turns(&self) -> u32 {
        self.turns.load(Ordering::Relaxed)
    }
}

impl Ends {
    /// Forgets what was true of another request.
    fn begin(&self) {
        self.client.is_stuck.store(false, Ordering::Relaxed);
        self.upstream.is_stuck.store(false, Ordering::Relaxed);
    }
}

/// The reading side of a connection.
#[derive(Debug, Default)]
pub struct Intake {
    /// Bytes read since the writing side last had a turn.
    since_turn: usize,
    /// How many turns it had had by then.
    turns: u32,
    yields: u8,
    beginning: Beginning,
}

/// How far the beginning of an answer is. Pingora copies all that it finds in one turn into one
/// block, if it is more than one piece, and keeps that block to the answer's end; so little may
/// come with the head before the writer had its turn.
#[derive(Debug, Default, PartialEq, Eq)]
enum Beginning {
    /// The next read brings it.
    Expected,
    /// It was read, and nobody could have written it yet.
    Read,
    #[default]
    Over,
}

impl Intake {
    /// The other end is being asked: what comes next is an answer's head.
    pub fn expect_head(&mut self) {
        self.beginning = Beginning::Expected;
    }

    /// Reads from `io` as much as may be read now for the end `to`.
    ///
    /// Both halves of a request are polled by one task, so returning `Pending`, woken already,
    /// is what gives the other half its turn.
    pub fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        io: &mut R,
        to: &End,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() <= STUCK_READ {
            return Pin::new(io).poll_read(cx, buf);
        }
        let turns = to.turns();
        let had_turn = self.turns != turns;
        if self.since_turn > LARGEST_READ / 2 {
            if !had_turn && self.yields < MAX_YIELDS {
                self.yields += 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.since_turn = 0;
        }
        if had_turn && self.beginning == Beginning::Read {
            self.beginning = Beginning::Over;
        }
        let is_little = to.is_stuck() || self.beginning == Beginning::Read;
        let most = if is_little { STUCK_READ } else { LARGEST_READ }.min(buf.remaining());
        let before = buf.filled().len();
        let read = match most < buf.remaining() {
            true => Pin::new(&mut io.take(most as u64)).poll_read(cx, buf),
            false => Pin::new(io).poll_read(cx, buf),
        };
        let count = buf.filled().len() - before;
        self.since_turn += count;
        if count > 0 && self.beginning == Beginning::Expected {
            self.beginning = Beginning::Read;
            // More is there already: it waits for the writer's turn. Where the head came short,
            // as it does with a small answer, nothing is there that would have to wait.
            if count == most {
                self.since_turn = LARGEST_READ;
            }
        }
        self.turns = turns;
        self.yields = 0;
        read
    }
}

impl GuardedStream {
    /// From here on bodies are read as fast as the other end takes them.
    pub fn share_ends(&self, ends: &Arc<Ends>) {
        ends.begin();
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(ends.clone());
    }

    pub(super) fn ends_mut(&mut self) -> &mut Option<Arc<Ends>> {
        self.ends.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.ends.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Some(ends) => self.intake.poll_read(&mut self.io, &ends.upstream, cx, buf),
            None => Pin::new(&mut self.io).poll_read(cx, buf),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    const PIECE: usize = 64 * 1_024;

    /// How much one poll of a reader with everything at hand brings; none when it yields.
    fn read(intake: &mut Intake, to: &End) -> Option<usize> {
        let mut source: &[u8] = &[7; PIECE];
        let mut bytes = vec![0; PIECE];
        let mut buf = ReadBuf::new(&mut bytes);
        let mut cx = Context::from_waker(Waker::noop());
        match intake.poll_read(&mut source, to, &mut cx, &mut buf) {
            Poll::Ready(read) => read.ok().map(|()| buf.filled().len()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_reader_waits_for_the_writers_turn_after_every_large_piece() {
        let (mut intake, to) = (Intake::default(), End::default());
        assert_eq!(read(&mut intake, &to), Some(LARGEST_READ));
        assert_eq!(read(&mut intake, &to), None);
        to.note_turn();
        assert_eq!(read(&mut intake, &to), Some(LARGEST_READ));
    }

    #[test]
    fn a_turn_that_never_comes_does_not_stop_the_reader() {
        let (mut intake, to) = (Intake::default(), End::default());
        for _ in 0..3 {
            assert_eq!(read(&mut intake, &to), Some(LARGEST_READ));
            assert_eq!(read(&mut intake, &to), None);
            assert_eq!(read(&mut intake, &to), None);
        }
    }

    #[test]
    fn a_stuck_writer_is_brought_little_until_it_moves() {
        let (mut intake, to) = (Intake::default(), End::default());
        to.note_write(&Poll::<()>::Pending);
        for _ in 0..10 {
            assert_eq!(read(&mut intake, &to), Some(STUCK_READ));
        }
        to.note_write(&Poll::Ready(()));
        assert_eq!(read(&mut intake, &to), Some(LARGEST_READ));
    }

    /// As [`read`] from a reader that has only this much at hand.
    fn read_of(available: usize, intake: &mut Intake, to: &End) -> usize {
        let mut source: &[u8] = &[7; PIECE][..available];
        let mut bytes = vec![0; PIECE];
        let mut buf = ReadBuf::new(&mut bytes);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(intake.poll_read(&mut source, to, &mut cx, &mut buf).is_ready());
        buf.filled().len()
    }

    #[test]
    fn what_follows_a_short_head_is_read_at_once_but_little_until_the_next_turn() {
        let (mut intake, to) = (Intake::default(), End::default());
        intake.expect_head();
        assert_eq!(read_of(200, &mut intake, &to), 200);
        assert_eq!(read(&mut intake, &to), Some(STUCK_READ));
        to.note_turn();
        assert_eq!(read(&mut intake, &to), Some(LARGEST_READ));
    }

    #[test]
    fn what_follows_an_answers_head_waits_for_the_next_turn() {
        let (mut intake, to) = (Intake::default(), End::default());
        intake.expect_head();
        assert!(read(&mut intake, &to).is_some());
        assert_eq!(read(&mut intake, &to), None);
        to.note_turn();
        assert_eq!(read(&mut intake, &to), Some(LARGEST_READ));
    }
}
