//! The end of the process: what is in flight is finished first.

use crate::clock;
use crate::gateway::Gateway;
use crate::handover::Upgrader;
use crate::lifecycle::Stage;
use crate::telemetry::access_log::AccessLog;
use crate::wire::connections::Connections;
use crate::wire::lingering;
use std::sync::Arc;
use std::time::Duration;

/// How long the gateway has to be idle before a drain ends early: long enough for a
/// request that was accepted just before to be seen.
const QUIET_BEFORE_EXIT: Duration = Duration::from_millis(100);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(5);

/// What a drain watches.
pub(super) struct Drain {
    pub(super) gateway: Arc<Gateway>,
    pub(super) connections: Arc<Connections>,
    pub(super) upgrader: Arc<Upgrader>,
    pub(super) access_log: Option<AccessLog>,
    /// What the process ends with.
    pub(super) exit_code: i32,
}

impl Drain {
    /// Moves on to `stage` and ends the process as soon as nothing is in flight, after the
    /// grace period at the latest. Pingora's own sleep, which knows only the grace period of the
    /// start, never gets that far.
    pub(super) fn begin(self, stage: Stage) {
        let grace_period = self.gateway.generation().config.server.grace_period;
        log::info!("draining for at most {grace_period:?}");
        self.gateway.lifecycle.advance(stage);
        let exit_code = self.exit_code;
        let watch = move || {
            self.wait(grace_period);
            if let Some(log) = &self.access_log {
                log.flush();
            }
            match self.gateway.inflight() {
                0 => log::info!("drained"),
                left => log::warn!("the grace period is over; {left} requests are cut off"),
            }
            std::process::exit(self.exit_code);
        };
        if let Err(error) = std::thread::Builder::new().name("drain".into()).spawn(watch) {
            log::warn!("the drain cannot be watched and takes the whole grace period: {error}");
            tokio::spawn(async move {
                tokio::time::sleep(grace_period).await;
                std::process::exit(exit_code);
            });
        }
    }

    /// As long as a connection is open, a request may come on it; those that stay silent are
    /// closed after half a second.
    fn wait(&self, grace_period: Duration) {
        let end = clock::now() + grace_period;
        let mut quiet = Duration::ZERO;
        while quiet < QUIET_BEFORE_EXIT && clock::now() < end {
            std::thread::sleep(LOOK);
            quiet = if self.is_quiet() { quiet + LOOK } else { Duration::ZERO };
        }
    }

    /// An upgrade under way ends a successor that is not wanted any more, and must get to it.
    fn is_quiet(&self) -> bool {
        self.gateway.inflight() == 0
            && self.connections.open() == 0
            && lingering::open() == 0
            && self.upgrader.is_idle()
    }
}
