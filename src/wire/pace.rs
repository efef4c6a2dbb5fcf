//! How much of a body may wait in here for the side that takes it slowly.
//!
//! Between the reading of a body and its writing Pingora keeps a queue: about ten pieces, each
//! as large as one read brought, up to 64 KiB, and a block to join them in. A client that asks for a large answer and reads
//! it slowly, or an upstream that does not take an upload, so pins over half a megabyte. The
//! number of pieces cannot be changed, and a reader that was simply held back would run into
//! time-outs that are meant for the other side. So [`Pace`] bounds what one read brings: little
//! once the writing side is stuck, and [`LARGEST_READ`] otherwise, with a turn for the writer in
//! between, so that it is noticed in time that it got stuck.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Bytes that one read of a body brings at most. A quick reader gains nothing from more.
pub const LARGEST_READ: usize = 32 * 1_024;
/// Bytes that one read brings while the writing side is stuck.
pub const STUCK_READ: usize = 1_024;

/// How often a reader gives the writer a turn without one having come of it. Two: the task
/// takes turns in who is polled first. After that it reads on, for a turn is not a promise.
const MAX_YIELDS: u8 = 2;

/// Both ends of a request under way, as the other end sees them.
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
    fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    fn turns(&self) -> u32 {
        self.turns.load(Ordering::Relaxed)
    }
}

impl Ends {
    /// Forgets what was true of another request.
    pub fn begin(&self) {
        self.client.is_stuck.store(false, Ordering::Relaxed);
        self.upstream.is_stuck.store(false, Ordering::Relaxed);
    }
}

/// The reading side of one body.
#[derive(Debug, Default)]
pub struct Pace {
    /// Bytes read since the writing side last had a turn.
    since_turn: usize,
    /// How many turns it had had by then.
    turns: u32,
    yields: u8,
    /// The next read brings the beginning of a message.
    is_new: bool,
}

impl Pace {
    /// The other end is being asked: what comes next is an answer's head.
    ///
    /// What follows it waits for the next turn, for Pingora copies all it finds in one turn into
    /// one block, if it is more than one piece, and keeps that block to the answer's end.
    pub fn expect_head(&mut self) {
        self.is_new = true;
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
        if self.since_turn > LARGEST_READ / 2 {
            if self.turns == to.turns() && self.yields < MAX_YIELDS {
                self.yields += 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.since_turn = 0;
        }
        let most = if to.is_stuck() { STUCK_READ } else { LARGEST_READ };
        let before = buf.filled().len();
        let read = Pin::new(&mut io.take(most as u64)).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 && std::mem::take(&mut self.is_new) {
            self.since_turn = LARGEST_READ;
        }
        self.since_turn += count;
        self.turns = to.turns();
        self.yields = 0;
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    const PIECE: usize = 64 * 1_024;

    /// How much one poll of a reader with everything at hand brings; none when it yields.
    fn read(pace: &mut Pace, to: &End) -> Option<usize> {
        let mut source: &[u8] = &[7; PIECE];
        let mut bytes = vec![0; PIECE];
        let mut buf = ReadBuf::new(&mut bytes);
        let mut cx = Context::from_waker(Waker::noop());
        match pace.poll_read(&mut source, to, &mut cx, &mut buf) {
            Poll::Ready(read) => read.ok().map(|()| buf.filled().len()),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_reader_waits_for_the_writers_turn_after_every_large_piece() {
        let (mut pace, to) = (Pace::default(), End::default());
        assert_eq!(read(&mut pace, &to), Some(LARGEST_READ));
        assert_eq!(read(&mut pace, &to), None);
        to.note_turn();
        assert_eq!(read(&mut pace, &to), Some(LARGEST_READ));
    }

    #[test]
    fn a_turn_that_never_comes_does_not_stop_the_reader() {
        let (mut pace, to) = (Pace::default(), End::default());
        for _ in 0..3 {
            assert_eq!(read(&mut pace, &to), Some(LARGEST_READ));
            assert_eq!(read(&mut pace, &to), None);
            assert_eq!(read(&mut pace, &to), None);
        }
    }

    #[test]
    fn a_stuck_writer_is_brought_little_until_it_moves() {
        let (mut pace, to) = (Pace::default(), End::default());
        to.note_write(&Poll::<()>::Pending);
        for _ in 0..10 {
            assert_eq!(read(&mut pace, &to), Some(STUCK_READ));
        }
        to.note_write(&Poll::Ready(()));
        assert_eq!(read(&mut pace, &to), Some(LARGEST_READ));
    }

    #[test]
    fn what_follows_an_answers_head_waits_for_the_next_turn() {
        let (mut pace, to) = (Pace::default(), End::default());
        pace.expect_head();
        assert!(read(&mut pace, &to).is_some());
        assert_eq!(read(&mut pace, &to), None);
        to.note_turn();
        assert_eq!(read(&mut pace, &to), Some(LARGEST_READ));
    }
}
