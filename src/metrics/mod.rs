//! Every metric, declared once, and the handles the request path uses.
//!
//! Labels are bounded by the configuration: routes, tiers, policies, upstreams and status
//! codes. Requests find their metrics by handle; a label is looked up the first time a
//! route answers with a status and then kept.

mod connections;
mod redis;
mod route;
mod series;
mod shared_limits;
mod upstream;

pub use connections::ConnectionMetrics;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use redis::RedisFamilies;
pub use redis::{RedisMetrics, RedisOutcome};
pub use route::{InflightGuard, Latencies, RouteMetrics};
pub use series::Names;
use series::Removed;
pub use shared_limits::SharedLimitMetrics;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use upstream::UpstreamFamilies;
pub use upstream::{
    AttemptMetrics, AttemptOutcome, CircuitMetrics, ConcurrencyMetrics, ServerMetrics,
};

/// The label of requests that no route, tier or policy took.
pub const NONE: &str = "none";

/// Upper bounds of `gateway_request_duration_seconds`.
const DURATION_BUCKETS_SECONDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The families; handles are made from them per route and per upstream.
pub struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    rate_limited: IntCounterVec,
    shadow_limited: IntCounterVec,
    retries: IntCounterVec,
    upstream: UpstreamFamilies,
    inflight: IntGaugeVec,
    /// Log lines that were dropped because the writer could not keep up.
    pub access_log_dropped: IntCounter,
    /// The number of the generation that serves.
    pub generation: IntGauge,
    reloads: [IntCounter; 3],
    redis: RedisFamilies,
    /// Those of client connections.
    pub connections: ConnectionMetrics,
    /// Those of limits that gateways share.
    pub shared_limits: SharedLimitMetrics,
    /// Refusals of our own with 429 or 503.
    pub blocked: AtomicU64,
    removed: Mutex<Removed>,
}

/// What a reload came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadResult {
    /// It was taken.
    Ok,
    /// It was rejected; what served serves on.
    Rejected,
    /// It was taken back after it had been taken.
    RolledBack,
}

impl ReloadResult {
    /// All of them.
    pub const ALL: [ReloadResult; 3] =
        [ReloadResult::Ok, ReloadResult::Rejected, ReloadResult::RolledBack];

    /// Its name in metrics and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            ReloadResult::Ok => "ok",
            ReloadResult::Rejected => "rejected",
            ReloadResult::RolledBack => "rolled_back",
        }
    }
}

impl Metrics {
    /// Declares the families in `registry`.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let counter = |name, help, labels| counter(registry, name, help, labels);
        let duration = HistogramOpts::new(
            "gateway_request_duration_seconds",
            "Time from the complete request head to the end of the response",
        )
        .buckets(DURATION_BUCKETS_SECONDS.to_vec());
        Ok(Metrics {
            requests: counter(
                "gateway_requests_total",
                "Requests answered, by route and status",
                &["route", "status"],
            )?,
            duration: add(registry, HistogramVec::new(duration, &["route"])?)?,
            rate_limited: counter(
                "gateway_rate_limited_total",
                "Requests refused with 429, by the policy that refused",
                &["route", "tier", "policy"],
            )?,
            shadow_limited: counter(
                "gateway_shadow_limited_total",
                "Requests that a shadow limit would have refused, by its policy",
                &["route", "tier", "policy"],
            )?,
            retries: counter(
                "gateway_retries_total",
                "Attempts after the first, by the route that asked for them",
                &["route"],
            )?,
            upstream: UpstreamFamilies::register(registry)?,
            inflight: add(
                registry,
                IntGaugeVec::new(
                    Opts::new("gateway_inflight_requests", "Requests being served"),
                    &["route"],
                )?,
            )?,
            access_log_dropped: add(
                registry,
                IntCounter::new(
                    "gateway_access_log_dropped_total",
                    "Access log lines dropped because the writer could not keep up",
                )?,
            )?,
            generation: add(
                registry,
                IntGauge::new(
                    "gateway_config_generation",
                    "Number of the configuration that serves, 1 at the start",
                )?,
            )?,
            reloads: reloads(registry)?,
            redis: RedisFamilies::register(registry)?,
            connections: ConnectionMetrics::register(registry)?,
            shared_limits: SharedLimitMetrics::register(registry)?,
            blocked: AtomicU64::new(0),
            removed: Mutex::default(),
        })
    }

    /// The handles of one route.
    pub fn route(&self, name: &str) -> RouteMetrics {
        RouteMetrics::new(
            name,
            self.requests.clone(),
            self.duration.with_label_values(&[name]),
            self.retries.with_label_values(&[name]),
            self.inflight.with_label_values(&[name]),
        )
    }

    /// Requests in flight on all routes, also on those that are no more.
    pub fn inflight(&self) -> i64 {
        let families = self.inflight.collect();
        let metrics = families.iter().flat_map(MetricFamily::get_metric);
        metrics.map(|metric| metric.get_gauge().value() as i64).sum()
    }

    /// Counts what a reload came to.
    pub fn reloaded(&self, result: ReloadResult) {
        self.reloads[result as usize].inc();
    }

    /// The counter of refusals by one policy.
    pub fn rate_limited(&self, route: &str, tier: &str, policy: &str) -> IntCounter {
        self.rate_limited.with_label_values(&[route, tier, policy])
    }

    /// The counter of what a shadow would have refused.
    pub fn shadow_limited(&self, route: &str, tier: &str, policy: &str) -> IntCounter {
        self.shadow_limited.with_label_values(&[route, tier, policy])
    }

    /// The counters of one upstream's attempts.
    pub fn attempts(&self, upstream: &str) -> AttemptMetrics {
        self.upstream.attempts(upstream)
    }

    /// The metrics of the way to Redis, which there are from now on.
    pub fn redis(&self) -> RedisMetrics {
        self.redis.handles()
    }

    /// The metrics of one circuit.
    pub fn circuit(&self, name: &str) -> CircuitMetrics {
        self.upstream.circuit(name)
    }

    /// The metrics of one upstream's places and queue.
    pub fn concurrency(&self, upstream: &str) -> ConcurrencyMetrics {
        self.upstream.concurrency(upstream)
    }

    /// The metrics of one upstream's servers.
    pub fn servers(&self, upstream: &str) -> ServerMetrics {
        self.upstream.servers(upstream)
    }

    /// Requests answered so far, as (status, count) for each route there is, and then for all
    /// that are no more.
    pub fn requests_by_status(&self) -> Vec<(u16, u64)> {
        let removed = self.removed();
        let families = self.requests.collect();
        let metrics = families.iter().flat_map(MetricFamily::get_metric);
        let counts = metrics.filter_map(|metric| {
            let label = metric.get_label().iter().find(|label| label.name() == "status")?;
            Some((label.value().parse().ok()?, metric.get_counter().value() as u64))
        });
        counts.chain(removed.requests.iter().map(|(status, count)| (*status, *count))).collect()
    }

    /// Refusals with 429 so far, over all routes, tiers and policies there are and were.
    pub fn rate_limited_total(&self) -> u64 {
        let removed = self.removed();
        let families = self.rate_limited.collect();
        let metrics = families.iter().flat_map(MetricFamily::get_metric);
        let counted: u64 = metrics.map(|metric| metric.get_counter().value() as u64).sum();
        counted + removed.rate_limited
    }

    fn removed(&self) -> MutexGuard<'_, Removed> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> prometheus::Result<IntCounterVec> {
    add(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

/// From the start at zero, or the first rejected one would be no increase.
fn reloads(registry: &Registry) -> prometheus::Result<[IntCounter; ReloadResult::ALL.len()]> {
    let name = "gateway_config_reloads_total";
    let reloads = counter(registry, name, "Reloads of the configuration, by result", &["result"])?;
    Ok(ReloadResult::ALL.map(|result| reloads.with_label_values(&[result.label()])))
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
