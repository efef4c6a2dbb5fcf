//! Metrics of the way to Redis.

use super::add;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// What a call of Redis came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisOutcome {
    /// It was answered.
    Ok,
    /// Not in the time that it had.
    Timeout,
    /// By an error, or the connection broke.
    Error,
}

impl RedisOutcome {
    /// All of them.
    pub const ALL: [RedisOutcome; 3] =
        [RedisOutcome::Ok, RedisOutcome::Timeout, RedisOutcome::Error];

    /// Its name in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            RedisOutcome::Ok => "ok",
            RedisOutcome::Timeout => "timeout",
            RedisOutcome::Error => "error",
        }
    }
}

/// The families. They have no samples before there are handles: where no Redis is configured,
/// none is down.
pub(super) struct RedisFamilies {
    up: IntGaugeVec,
    calls: IntCounterVec,
}

impl RedisFamilies {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<RedisFamilies> {
        let up = Opts::new("gateway_redis_up", "Whether Redis is asked: 1, or 0 while it fails");
        let calls = Opts::new(
            "gateway_redis_calls_total",
            "Commands that Redis was asked, by outcome, without heartbeats and probes",
        );
        Ok(RedisFamilies {
            up: add(registry, IntGaugeVec::new(up, &[])?)?,
            calls: add(registry, IntCounterVec::new(calls, &["outcome"])?)?,
        })
    }

    /// Handles, with all samples at zero.
    pub(super) fn handles(&self) -> RedisMetrics {
        let none: [&str; 0] = [];
        RedisMetrics {
            up: self.up.with_label_values(&none),
            calls: RedisOutcome::ALL
                .map(|outcome| self.calls.with_label_values(&[outcome.label()])),
        }
    }
}

/// Handles of the metrics of the way to Redis.
#[derive(Debug, Clone)]
pub struct RedisMetrics {
    /// 1 while Redis is asked.
    pub up: IntGauge,
    calls: [IntCounter; 3],
}

impl RedisMetrics {
    /// Counts a call.
    pub fn called(&self, outcome: RedisOutcome) {
        self.calls[outcome as usize].inc();
    }
}
