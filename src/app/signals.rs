//! What the process does when it is told something.

use super::{Announce, upkeep};
use crate::clock;
use crate::gateway::Gateway;
use crate::lifecycle::Stage;
use crate::reload::Reloader;
use crate::telemetry::access_log::AccessLog;
use crate::wire::connections::Connections;
use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long the gateway has to be idle before a drain ends early: long enough for a
/// request that was accepted just before to be seen.
const QUIET_BEFORE_EXIT: Duration = Duration::from_millis(100);

/// Waits for signals: HUP reloads, TERM and INT stop, the former gracefully.
pub(super) struct Signals {
    pub(super) gateway: Arc<Gateway>,
    /// Those of clients: as long as one is open, a request may come on it.
    pub(super) connections: Arc<Connections>,
    pub(super) reloader: Arc<Reloader>,
    pub(super) access_log: Option<AccessLog>,
    pub(super) announce: Announce,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let kinds = [SignalKind::hangup(), SignalKind::terminate(), SignalKind::interrupt()];
        let [Ok(mut hangup), Ok(mut terminate), Ok(mut interrupt)] = kinds.map(signal) else {
            log::error!("signals cannot be received; stopping, for nothing else could stop it");
            return ShutdownSignal::FastShutdown;
        };
        upkeep::first_lookups(&self.gateway).await;
        self.say_ready();
        self.gateway.lifecycle.advance(Stage::Ready);
        let reloads = async {
            loop {
                hangup.recv().await;
                // It has said in the log what came of it.
                let _ = self.reloader.reload().await;
            }
        };
        tokio::select! {
            () = reloads => ShutdownSignal::FastShutdown,
            _ = terminate.recv() => {
                self.drain();
                tokio::spawn(async move {
                    interrupt.recv().await;
                    log::info!("interrupted: the drain is cut short");
                    std::process::exit(0);
                });
                ShutdownSignal::GracefulTerminate
            }
            _ = interrupt.recv() => {
                log::info!("interrupted: stopping at once");
                ShutdownSignal::FastShutdown
            }
        }
    }
}

impl Signals {
    fn say_ready(&self) {
        let generation = self.gateway.generation();
        let config = &generation.config;
        let addresses: Vec<String> = config.server.listen.iter().map(ToString::to_string).collect();
        log::info!(
            "serving on {}, admin API on {}, metrics on {}",
            addresses.join(", "),
            config.admin.listen,
            config.metrics.listen
        );
        if let Announce::With(print) = self.announce {
            print(config);
        }
    }

    /// Ends the process as soon as nothing is in flight. Pingora itself sleeps for the whole
    /// grace period, idle or not.
    fn drain(&self) {
        let grace_period = self.gateway.generation().config.server.grace_period;
        log::info!("stopping: draining for at most {grace_period:?}");
        self.gateway.lifecycle.advance(Stage::Draining);
        let (gateway, access_log) = (self.gateway.clone(), self.access_log.clone());
        let connections = self.connections.clone();
        let is_quiet = move || gateway.inflight() == 0 && connections.open() == 0;
        let gateway = self.gateway.clone();
        let watch = move || {
            let end = clock::now_ns() + grace_period.as_nanos() as u64;
            let step = Duration::from_millis(5);
            let mut quiet = Duration::ZERO;
            while quiet < QUIET_BEFORE_EXIT && clock::now_ns() < end {
                std::thread::sleep(step);
                quiet = if is_quiet() { quiet + step } else { Duration::ZERO };
            }
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
}
