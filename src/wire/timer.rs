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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    /// Somebody who waits, and how often they were woken.
    #[derive(Default)]
    struct Sleeper(AtomicUsize);

    impl Wake for Sleeper {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Sleeper {
        fn asks(self: &Arc<Self>, timer: &mut Timer, due: Instant) -> Poll<()> {
            timer.poll(due, &mut Context::from_waker(&self.clone().into()))
        }

        fn woken(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asked_last_is_woken() {
        let (mut timer, due) = (Timer::default(), now() + SECOND);
        let (first, last) = (Arc::new(Sleeper::default()), Arc::new(Sleeper::default()));
        assert!(first.asks(&mut timer, due).is_pending());
        for _ in 0..2 {
            assert!(last.asks(&mut timer, due).is_pending());
        }
        tokio::time::advance(2 * SECOND).await;
        assert_eq!((first.woken(), last.woken()), (0, 1));
        assert!(last.asks(&mut timer, due).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_when_it_was_asked_for_last_whether_that_is_sooner_or_later() {
        let (mut timer, start) = (Timer::default(), now());
        let one = Arc::new(Sleeper::default());
        assert!(one.asks(&mut timer, start + 9 * SECOND).is_pending());
        assert!(one.asks(&mut timer, start + SECOND).is_pending());
        assert!(one.asks(&mut timer, start + 5 * SECOND).is_pending());
        tokio::time::advance(2 * SECOND).await;
        assert_eq!(one.woken(), 1, "for the earlier moment, which it was still set for");
        assert!(one.asks(&mut timer, start + 5 * SECOND).is_pending());
        tokio::time::advance(4 * SECOND).await;
        assert_eq!(one.woken(), 2);
        assert!(one.asks(&mut timer, start + 5 * SECOND).is_ready());
    }
}
