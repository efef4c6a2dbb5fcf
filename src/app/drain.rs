//! The end of the process: what is in flight is finished first.

use crate::clock;
use crate::gateway::Gateway;
use crate::lifecycle::Stage;
use crate::telemetry::access_log::AccessLog;
use crate::wire::connections::Connections;
use std::sync::Arc;
use std::time::Duration;

/// How long the gateway has to be idle before a drain ends early: long enough for a
/// request that was accepted just before to be seen.
const QUIET_BEFORE_EXIT: Duration = Duration::from_millis(100);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(5);

/// Ends the process as soon as nothing is in flight, after the grace period at the latest.
/// Pingora itself sleeps for the whole grace period, idle or not.
pub(super) fn begin(
    gateway: &Arc<Gateway>,
    connections: &Arc<Connections>,
    access_log: Option<AccessLog>,
) {
    let grace_period = gateway.generation().config.server.grace_period;
    log::info!("draining for at most {grace_period:?}");
    gateway.lifecycle.advance(Stage::Draining);
    let (gateway, connections) = (gateway.clone(), connections.clone());
    let watch = move || {
        wait(&gateway, &connections, grace_period);
        if let Some(log) = access_log {
            log.flush();
        }
        match gateway.inflight() {
            0 => log::info!("drained"),
            left => log::warn!("the grace period is over; {left} requests are cut off"),
        }
        std::process::exit(0);
    };
    if let Err(error) = std::thread::Builder::new().name("drain".into()).spawn(watch) {
        log::warn!("the drain cannot be watched and takes the whole grace period: {error}");
    }
}

/// As long as a connection is open, a request may come on it; those that stay silent are closed
/// after half a second.
fn wait(gateway: &Gateway, connections: &Connections, grace_period: Duration) {
    let end = clock::now() + grace_period;
    let mut quiet = Duration::ZERO;
    while quiet < QUIET_BEFORE_EXIT && clock::now() < end {
        std::thread::sleep(LOOK);
        let is_quiet = gateway.inflight() == 0 && connections.open() == 0;
        quiet = if is_quiet { quiet + LOOK } else { Duration::ZERO };
    }
}
