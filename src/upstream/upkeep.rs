//! What goes on beside the requests: names are resolved, servers checked, gauges kept.
//!
//! The tasks belong to the upstream they serve and end with it. They are no services of
//! Pingora's, which are registered before the process starts and never again: an upstream that
//! a reload brings gets its tasks then.

use super::servers::Servers;
use super::{health, resolve};
use crate::clock;
use crate::config::{HealthCheck, ServerAddress};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The tasks of one upstream; dropping it ends them.
pub(super) struct Upkeep {
    _tasks: JoinSet<()>,
}

impl Upkeep {
    /// Starts what the upstream needs on the runtime of `handle`; nothing where it needs
    /// nothing.
    pub(super) fn spawn(
        servers: &Arc<Servers>,
        check: Option<&HealthCheck>,
        handle: &Handle,
    ) -> Upkeep {
        let mut tasks = JoinSet::new();
        for (entry, (_, server)) in servers.entries.iter().enumerate() {
            if let ServerAddress::Name { host, port } = &server.address {
                let name = resolve::Name::new(servers.clone(), entry, host.clone(), *port);
                tasks.spawn_on(name.keep_resolved(), handle);
            }
        }
        if let Some(check) = check {
            tasks.spawn_on(health::keep_checked(servers.clone(), check.clone()), handle);
        }
        if servers.ejects() {
            tasks.spawn_on(keep_measured(servers.clone()), handle);
        }
        Upkeep { _tasks: tasks }
    }
}

/// Lowers the gauge of ejected servers when an ejection ends.
async fn keep_measured(servers: Arc<Servers>) {
    loop {
        let now_ns = clock::now_ns();
        match servers.end_ejections(now_ns) {
            // Another ejection may end before this one; whether it came or not, look again.
            Some(end_ns) => {
                let left = Duration::from_nanos(end_ns.saturating_sub(now_ns));
                let _ = timeout(left, servers.ejected.notified()).await;
            }
            None => servers.ejected.notified().await,
        }
    }
}

/// Up to a tenth shorter or longer, so that gateways that were started together do not all
/// ask at the same instant.
pub(super) fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.9 + 0.2 * fastrand::f64())
}
