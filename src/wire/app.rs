//! The guard around a Pingora application.

use super::answers::{Answers, Ending};
use super::ballast::keep_pages;
use super::connections::{Connections, Crowd, Seat};
use super::guard::{GuardedStream, Peer, Rescue, Rescued};
use super::head::HeadLimits;
use super::lingering;
use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker};

/// Wraps a Pingora HTTP application so that it sees checked requests only, and only once
/// their heads are complete.
pub struct GuardedApp<A> {
    inner: Arc<A>,
    limits: HeadLimits,
    answers: Arc<dyn Answers>,
    connections: Arc<Connections>,
}

impl<A> GuardedApp<A> {
    /// Guards `inner`; its connections are counted in `connections`.
    pub fn new(
        inner: Arc<A>,
        limits: HeadLimits,
        answers: Arc<dyn Answers>,
        connections: Arc<Connections>,
    ) -> GuardedApp<A> {
        GuardedApp { inner, limits, answers, connections }
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for GuardedApp<A> {
    /// Serves a connection request by request: what Pingora does for HTTP/1 as well, with
    /// the wait between requests in front of it instead of within.
    async fn process_new(self: &Arc<Self>, io: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        keep_pages();
        self.answers.accepted();
        let _seat = match self.seat(&io) {
            Ok(seat) => seat,
            Err(crowd) => {
                self.answers.ended(crowd.into());
                let answer = self.answers.turn_away(crowd);
                // In a task of its own, which needs a fraction of this one's memory.
                tokio::spawn(async move { lingering::answer(io, &answer).await });
                return None;
            }
        };
        let rescue = Rescue::default();
        let mut stopping = shutdown.clone();
        // One wait for all requests: to begin and to end it takes locks that all connections share.
        // It ends as well when there is nobody left who could say so.
        let stops = pin!(stopping.wait_for(|stops| *stops).map(drop).fuse());
        let mut stops = Stops { wait: stops, said: shutdown, wakes: None };
        let mut next = Some((Box::new(self.guard(Rescued::new(io), &rescue)), None));
        while let Some((mut stream, settings)) = next {
            if !wait_for_request(&mut stream, &mut stops).await {
                return None;
            }
            let is_last = stream.is_last;
            let mut session = ServerSession::new_http1(stream);
            // The head is here already, so Pingora's own wait for it needs no timer.
            session.set_keepalive(Some(0));
            if let Some(settings) = settings {
                HttpPersistentSettings::apply_to_session(settings, &mut session);
            }
            if is_last {
                session.set_keepalive_reuses_remaining(Some(0));
                self.answers.ended(Ending::MaxRequests);
            }
            let reused = self.inner.process_new_http(session, shutdown).await;
            next = match reused.map(ReusedHttpStream::consume) {
                Some((stream, settings)) => GuardedStream::back(stream).map(|s| (s, settings)),
                None => self.rescued(&rescue).map(|stream| (stream, None)),
            };
        }
        None
    }

    async fn cleanup(&self) {
        self.inner.http_cleanup().await;
    }
}

impl<A> GuardedApp<A> {
    fn seat(&self, io: &Stream) -> Result<Seat, Crowd> {
        self.connections.enter(&self.answers.quota(Peer::address_of(io)))
    }

    fn guard(&self, connection: Rescued, rescue: &Rescue) -> GuardedStream {
        GuardedStream::new(connection, self.limits, self.answers.clone(), rescue.clone())
    }

    /// The connection of a failed attempt, where it is good for another request.
    fn rescued(&self, rescue: &Rescue) -> Option<Box<GuardedStream>> {
        let connection = rescue.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Box::new(self.guard(connection, rescue)))
    }
}

/// The wait for the gateway to stop.
struct Stops<'a, F> {
    wait: Pin<&'a mut F>,
    /// Where it is said; whether it was costs one load.
    said: &'a ShutdownWatch,
    /// Who is woken when it is.
    wakes: Option<Waker>,
}

impl<F: FusedFuture<Output = ()>> Stops<'_, F> {
    /// Ready once the gateway stops, over and over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.wait.is_terminated() {
            return Poll::Ready(());
        }
        let is_set = self.wakes.as_ref().is_some_and(|wakes| wakes.will_wake(cx.waker()));
        if is_set && self.said.has_changed().is_ok_and(|has_changed| !has_changed) {
            return Poll::Pending;
        }
        let polled = self.wait.as_mut().poll(cx);
        self.wakes = polled.is_pending().then(|| cx.waker().clone());
        polled
    }
}

/// Waits for the next request; not for long once the gateway is stopping.
async fn wait_for_request<F: FusedFuture<Output = ()>>(
    stream: &mut GuardedStream,
    stops: &mut Stops<'_, F>,
) -> bool {
    poll_fn(|cx| match stream.poll_next(cx) {
        Poll::Pending if stops.poll(cx).is_ready() => {
            stream.drain();
            stream.poll_next(cx)
        }
        polled => polled,
    })
    .await
}
