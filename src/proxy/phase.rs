//! Phases that are over at once.
//!
//! A phase of Pingora's is an `async fn` in a trait: each call of one allocates a future, has it
//! moved there and frees it. A forwarded request meets ten phases and waits in none of them. So
//! ours do their work when they are called, and come back with a future that has the outcome and,
//! as a rule, no size; one without size is boxed without allocating.

use pingora_core::Result;
use pingora_core::upstreams::peer::HttpPeer;
use std::future::{Future, ready};
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

    #[test]
    fn what_goes_well_takes_no_memory() {
        let size = |phase: Phase<'_, Result<bool>>| size_of_val(&*phase);
        assert_eq!((size(Ok(true).over()), size(Ok(false).over())), (0, 0));
        assert_eq!((size_of_val(&*().over()), size_of_val(&*Result::Ok(()).over())), (0, 0));
    }
}
