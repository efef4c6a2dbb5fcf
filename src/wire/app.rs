//! The guard around a Pingora application.

use super::ballast::keep_pages;
use super::fault::Fault;
use super::guard::{GuardedStream, Rescue};
use super::head::HeadLimits;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::ShutdownWatch;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

/// What the guard reports and how it answers.
pub trait Answers: Send + Sync + 'static {
    /// The complete response to a head that is refused; it ends the connection.
    fn refuse(&self, fault: Fault, peer: Option<IpAddr>) -> Bytes;
    /// A head that passed was refused by the parser all the same.
    fn parser_refused(&self);
}

/// Wraps a Pingora HTTP application so that it sees checked requests only, and only once
/// their heads are complete.
pub struct GuardedApp<A> {
    inner: Arc<A>,
    limits: HeadLimits,
    answers: Arc<dyn Answers>,
}

impl<A> GuardedApp<A> {
    /// Guards `inner`.
    pub fn new(inner: Arc<A>, limits: HeadLimits, answers: Arc<dyn Answers>) -> GuardedApp<A> {
        GuardedApp { inner, limits, answers }
    }
}

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> ServerApp for GuardedApp<A> {
    /// Serves a connection request by request: what Pingora does for HTTP/1 as well, with
    /// the wait between requests in front of it instead of within.
    async fn process_new(self: &Arc<Self>, io: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        keep_pages();
        let rescue = Rescue::default();
        let mut stopping = shutdown.clone();
        let guarded = GuardedStream::new(
            io,
            BytesMut::new(),
            self.limits,
            self.answers.clone(),
            rescue.clone(),
        );
        let mut next = Some((Box::new(guarded), None));
        while let Some((mut stream, settings)) = next {
            let has_request = tokio::select! {
                biased;
                has_request = stream.next_request() => has_request,
                _ = stopping.changed() => false,
            };
            if !has_request {
                return None;
            }
            let mut session = ServerSession::new_http1(stream);
            // The head is here already, so Pingora's own wait for it needs no timer.
            session.set_keepalive(Some(0));
            if let Some(settings) = settings {
                HttpPersistentSettings::apply_to_session(settings, &mut session);
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
    /// The connection of a failed attempt, where it is good for another request.
    fn rescued(&self, rescue: &Rescue) -> Option<Box<GuardedStream>> {
        let (io, held) = rescue.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let answers = self.answers.clone();
        Some(Box::new(GuardedStream::new(io, held, self.limits, answers, rescue.clone())))
    }
}
