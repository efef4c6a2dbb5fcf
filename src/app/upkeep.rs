//! What goes on beside the requests: upstreams are looked after, circuits move on with time.

use super::state;
use crate::clock;
use crate::fleet::registry;
use crate::gateway::Gateway;
use crate::proxy::pool::Pool;
use crate::reload::Reloader;
use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{interval, timeout};

/// How often a circuit that nobody asks is looked at, so that metrics do not show one as open
/// that would let a probe pass.
const REFRESH: Duration = Duration::from_secs(1);
/// How long the start waits for names to resolve. A resolver that is down must not keep the
/// gateway from serving what needs none.
const FIRST_LOOKUPS: Duration = Duration::from_secs(2);

/// Larger than what the allocator keeps many of in a page.
const LARGE_BLOCK: usize = 1 << 20;

/// The upkeep of all upstreams, of the configuration and of the shared registry, as a service
/// with a thread of its own.
pub(super) struct UpkeepService {
    pub(super) gateway: Arc<Gateway>,
    pub(super) reloader: Arc<Reloader>,
    pub(super) pool: Arc<Pool>,
}

#[async_trait]
impl BackgroundService for UpkeepService {
    /// Goes on through a drain: requests under way may still choose among servers.
    async fn start(&self, _shutdown: ShutdownWatch) {
        let gateway = &self.gateway;
        for upstream in &gateway.generation().upstreams {
            upstream.spawn_upkeep(&Handle::current());
        }
        tokio::spawn(self.reloader.clone().attend());
        if let Some(fleet) = gateway.fleet.clone() {
            let gateway = gateway.clone();
            tokio::spawn(async move { registry::attend(&fleet.link, &gateway.registry).await });
        }
        let mut ticks = interval(REFRESH);
        loop {
            ticks.tick().await;
            give_back_memory();
            self.pool.sweep(clock::now());
            let now_ns = clock::now_ns();
            gateway.limiter.table().mark(state::reading());
            gateway.generation().circuits().for_each(|circuit| circuit.refresh(now_ns));
        }
    }
}

/// Lets the allocator return what was freed to the system.
///
/// It does so by itself, a second after a page became free, but only when it is next asked for
/// memory: a gateway that falls idle after a burst would keep all the burst took. Freeing a
/// block that has a page to itself asks it, on whatever thread.
fn give_back_memory() {
    drop(black_box(Vec::<u8>::with_capacity(LARGE_BLOCK)));
}

/// Waits until every name has been looked up once, for a bounded time.
pub(super) async fn first_lookups(gateway: &Gateway) {
    let generation = gateway.generation();
    let all_settled = async {
        for upstream in &generation.upstreams {
            upstream.settled().await;
        }
    };
    // Those that take longer are unresolved until they are not.
    let _ = timeout(FIRST_LOOKUPS, all_settled).await;
}
