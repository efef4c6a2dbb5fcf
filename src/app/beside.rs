//! What goes on beside a service, on the threads that serve its connections.

use crate::gateway::Gateway;
use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use std::sync::Arc;

/// A service in whose runtime the way to Redis is kept: a request that asks Redis then waits for
/// no other thread.
pub(super) struct Beside<S> {
    pub(super) service: S,
    pub(super) gateway: Arc<Gateway>,
}

#[async_trait]
impl<S: Service + 'static> Service for Beside<S> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        if let Some(fleet) = self.gateway.fleet.clone() {
            let (gateway, shutdown) = (self.gateway.clone(), shutdown.clone());
            tokio::spawn(async move {
                fleet.attend(|circuit| gateway.hint(circuit), shutdown).await;
            });
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
