//! The one timer of a connection.
//!
//! Whatever a connection waits for, it waits for one thing at a time, so one timer serves
//! the silence between requests, their heads, their bodies and their upstreams. To set a
//! timer takes a lock, and nearly all are put off long before they are due; so it is moved
//! only when it would ring too late, and put right when it rings too early.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::time::{Sleep, sleep_until};

/// Made when it is needed first.
#[derive(Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready once `due` has passed.
    pub(super) fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let due = due.into();
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if timer.deadline() > due {
            timer.as_mut().reset(due);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due {
                return Poll::Ready(());
            }
            // It was set for an earlier moment, which has passed without meaning.
            timer.as_mut().reset(due);
        }
    }
}
