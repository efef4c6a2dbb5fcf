//! The one timer of a connection.
//!
//! Whatever a connection waits for, it waits for one thing at a time, so one timer serves
//! the silence between requests, their heads, their bodies and their upstreams. To set a
//! timer takes a lock, and nearly all are put off long before they are due; so it is moved
//! only when it would ring too late, and put right when it rings too early. And whoever asks
//! has mostly asked before and was woken by something else, so that nothing is to be set.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::time::{Sleep, sleep_until};

/// Made when it is needed first.
#[derive(Default)]
pub(super) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Who is woken when it rings, as far as it is set.
    wakes: Option<Waker>,
}

impl Timer {
    /// Ready once `due` has passed.
    pub(super) fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let due = due.into();
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        let is_set = self.wakes.as_ref().is_some_and(|wakes| wakes.will_wake(cx.waker()));
        if is_set && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        self.wakes = None;
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            // It was set for an earlier moment, which has passed without meaning.
            sleep.as_mut().reset(due);
        }
        self.wakes = Some(cx.waker().clone());
        Poll::Pending
    }
}
