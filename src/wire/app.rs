//! The guard around a Pingora application.

use super::fault::Fault;
use super::guard::{GuardedStream, Rescue};
use super::head::HeadLimits;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::server::ShutdownWatch;
use std::sync::{Arc, PoisonError};

/// What the guard reports and how it answers.
pub trait Answers: Send + Sync + 'static {
    /// The complete response to a head that is refused; it ends the connection.
    fn refuse(&self, fault: Fault, peer: Option<&SocketAddr>) -> Bytes;
    /// A head that passed was refused by the parser all the same.
    fn parser_refused(&self);
}

/// Wraps a Pingora application so that it reads through [`GuardedStream`]s.
pub struct GuardedApp<A> {
    inner: Arc<A>,
    limits: HeadLimits,
    answers: Arc<dyn Answers>,
}

impl<A> GuardedApp<A> {
    /// Guards `inner`.
    pub fn new(inner: A, limits: HeadLimits, answers: Arc<dyn Answers>) -> GuardedApp<A> {
        GuardedApp { inner: Arc::new(inner), limits, answers }
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> ServerApp for GuardedApp<A> {
    async fn process_new(self: &Arc<Self>, io: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let rescue = Rescue::default();
        let mut next = Some((io, BytesMut::new()));
        while let Some((io, held)) = next {
            let guarded =
                GuardedStream::new(io, held, self.limits, self.answers.clone(), rescue.clone());
            self.inner.process_new(Box::new(guarded), shutdown).await;
            next = rescue.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        None
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}
