//! Services that do not begin before everything they need is there.

use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tokio::sync::watch;

/// A service that begins when it is told to.
pub(super) struct Held<S> {
    pub(super) service: S,
    pub(super) open: watch::Receiver<bool>,
}

#[async_trait]
impl<S: Service + 'static> Service for Held<S> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        mut shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        tokio::select! {
            _ = self.open.wait_for(|is_open| *is_open) => {}
            _ = shutdown.wait_for(|stops| *stops) => return,
        }
        self.service.start_service(fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }
}
