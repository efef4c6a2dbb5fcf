//! Phases that are over at once.
//!
//! A phase of Pingora's is an `async fn` in a trait: each call of one allocates a future, has it
//! moved there and frees it. A forwarded request meets ten phases and waits for nothing in any. So
//! ours do their work when they are called, and come back with a future that has the outcome and,
//! as a rule, no size; one without size is boxed without allocating.

use pingora_core::Result;
use pingora_core::upstreams::peer::HttpPeer;
use std::future::{Future, ready};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What `#[async_trait]` makes of an `async fn`.
pub(super) type Phase<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// Is what the function says.
pub(super) struct Always<F>(pub(super) F);

impl<T, F: Fn() -> T + Unpin> Future for Always<F> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<T> {
        Poll::Ready(self.0())
    }
}

/// What a phase can come to.
pub(super) trait Outcome: Sized {
    /// The future that is over and came to this.
    fn over<'f>(self) -> Phase<'f, Self>;
}

impl Outcome for () {
    fn over<'f>(self) -> Phase<'f, ()> {
        Box::pin(Always(|| ()))
    }
}

impl Outcome for Result<()> {
    fn over<'f>(self) -> Phase<'f, Result<()>> {
        match self {
            Ok(()) => Box::pin(Always(|| Ok(()))),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }
}

impl Outcome for Result<bool> {
    fn over<'f>(self) -> Phase<'f, Result<bool>> {
        match self {
            Ok(true) => Box::pin(Always(|| Ok(true))),
            Ok(false) => Box::pin(Always(|| Ok(false))),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }
}

impl Outcome for Result<Box<HttpPeer>> {
    fn over<'f>(self) -> Phase<'f, Result<Box<HttpPeer>>> {
        Box::pin(ready(self))
    }
}

/// Comes to what it holds once the tasks that are ready have had their turn.
///
/// Where many requests are under way, they are so taken through the same stage one after another.
/// That was measured to be cheaper, most likely because a stage then finds its code in the
/// processor's caches. Tokio's `yield_now` waits for the system's events as well, and gains less.
pub(super) struct InTurn<T> {
    outcome: Option<T>,
    has_waited: bool,
}

impl<T> InTurn<T> {
    pub(super) fn new(outcome: T) -> InTurn<T> {
        InTurn { outcome: Some(outcome), has_waited: false }
    }
}

impl<T: Unpin> Future for InTurn<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if !mem::replace(&mut self.has_waited, true) {
            // Who is woken while it runs goes to the end of the queue.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Nobody asks again after that.
        self.outcome.take().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Runs a phase.
pub(super) fn run<'f, T: Outcome>(phase: impl FnOnce() -> T) -> Phase<'f, T> {
    phase().over()
}

/// Writes a phase as `#[async_trait]` would, but that its body runs when it is called. The
/// lifetimes in front are those of its arguments.
macro_rules! at_once {
    (
        $(#[$attribute:meta])*
        $($life:lifetime)+ fn $name:ident($self:ident $(, $argument:ident: $kind:ty)* $(,)?)
            -> $outcome:ty $body:block
    ) => {
        $(#[$attribute])*
        fn $name<'of, $($life,)+ 'f>(
            &'of $self $(, $argument: $kind)*
        ) -> $crate::proxy::phase::Phase<'f, $outcome>
        where
            'of: 'f,
            $($life: 'f,)+
            Self: 'f,
        {
            $crate::proxy::phase::run(|| -> $outcome { $body })
        }
    };
}
pub(super) use at_once;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn what_goes_well_takes_no_memory() {
        let size = |phase: Phase<'_, Result<bool>>| size_of_val(&*phase);
        assert_eq!((size(Ok(true).over()), size(Ok(false).over())), (0, 0));
        assert_eq!((size_of_val(&*().over()), size_of_val(&*Result::Ok(()).over())), (0, 0));
    }

    #[tokio::test]
    async fn requests_are_taken_through_a_stage_one_after_another() {
        let stages = Arc::new(Mutex::new(String::new()));
        let requests = ["a", "b", "c"].map(|name| {
            let stages = stages.clone();
            tokio::spawn(async move {
                let note = |stage| *stages.lock().unwrap() += &format!("{name}{stage} ");
                note(1);
                InTurn::new(()).await;
                note(2);
            })
        });
        for request in requests {
            request.await.unwrap();
        }
        let stages = stages.lock().unwrap();
        let (first, second) = stages.split_at(stages.find('2').unwrap() - 1);
        assert!(!second.contains('1'), "{first}{second}");
    }
}
