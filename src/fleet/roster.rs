//! Which gateways live: each says so twice a second, and one that has not for two seconds is
//! taken for dead.

use super::link::Link;
use super::script::Script;
use super::{GatewayId, LinkError};
use redis::Value;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often a gateway says that it lives.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// The silence after which it is taken for dead.
const SILENCE_US: u64 = 2_000_000;
/// How long the roster outlives its last gateway.
const KEPT_MS: u64 = 60_000;
/// How long a beat may wait for its answer; it is no request's.
const PATIENCE: Duration = Duration::from_millis(400);

/// Enters a gateway, removes those that are silent, and counts those that live.
static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("roster.lua")));

/// The gateways that live, as far as this one knows.
pub struct Roster {
    link: Link,
    id: GatewayId,
    live: AtomicU32,
}

impl Roster {
    /// A roster that takes `expected` gateways to live until it knows.
    pub fn new(link: Link, id: GatewayId, expected: u32) -> Roster {
        Roster { link, id, live: AtomicU32::new(expected.max(1)) }
    }

    /// Gateways that live, this one included: at least 1. While Redis is not reached the last
    /// number known; before it ever was, `redis.expected_gateways`.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    /// Says that this gateway lives until it drains, then that it does not.
    pub async fn attend(&self, mut shutdown: watch::Receiver<bool>) {
        let mut changes = self.link.changes();
        let mut ticks = interval(BEAT_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                // At once, so that it knows how many there are before it has to.
                _ = changes.changed() => {}
                _ = shutdown.wait_for(|stops| *stops) => break,
            }
            if self.link.is_up() {
                self.beat().await;
            }
        }
        self.leave().await;
    }

    async fn beat(&self) {
        let args = [self.id.to_string(), SILENCE_US.to_string(), KEPT_MS.to_string()];
        let result = self.link.beat(&BEAT, &[self.key()], &args, PATIENCE).await;
        match result {
            Ok(Value::Int(live)) => {
                let live = u32::try_from(live).unwrap_or(u32::MAX).max(1);
                if self.live.swap(live, Ordering::Relaxed) != live {
                    log::info!("{live} gateways share Redis");
                }
            }
            Ok(_) | Err(LinkError::Down | LinkError::Cut) => {}
            Err(error) => log::debug!("the roster of gateways: {error}"),
        }
    }

    /// What is not said here is found out by silence.
    async fn leave(&self) {
        let mut command = redis::cmd("ZREM");
        command.arg(self.key()).arg(self.id.to_string());
        let _ = self.link.ask(command, PATIENCE).await;
    }

    fn key(&self) -> String {
        format!("{}gateways", self.link.prefix())
    }
}
