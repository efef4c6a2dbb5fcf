//! Every metric, declared once, and the handles the request path uses.
//!
//! Labels are bounded by the configuration: routes, tiers, policies, upstreams and status
//! codes. Requests find their metrics by handle; a label is looked up the first time a
//! route answers with a status and then kept.

use histogram::AtomicHistogram;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The label of requests that no route, tier or policy took.
pub const NONE: &str = "none";

/// Upper bounds of `gateway_request_duration_seconds`.
const DURATION_BUCKETS_SECONDS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Latencies for quantiles are kept in microseconds: 128 buckets for each power of two, so
/// that a value is off by less than 0.8 %, up to 2^32 µs (71 minutes). 26 KiB a route, taken
/// at its first request.
const LATENCY_GROUPING_POWER: u8 = 7;
const LATENCY_MAX_POWER: u8 = 32;

/// What came of one attempt at an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// An answer below 500, or 501.
    Ok,
    /// An answer of 500 and above, 501 excepted.
    Status5xx,
    /// No connection.
    Connect,
    /// No answer in time.
    Timeout,
    /// The connection broke, or what came was not HTTP.
    Reset,
    /// The client went away or sent what could not be forwarded.
    Cancelled,
}

impl AttemptOutcome {
    const ALL: [AttemptOutcome; 6] =
        [Self::Ok, Self::Status5xx, Self::Connect, Self::Timeout, Self::Reset, Self::Cancelled];

    /// The value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Status5xx => "status_5xx",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The families; handles are made from them per route and per upstream.
pub struct Metrics {
    requests: IntCounterVec,
    duration: HistogramVec,
    rate_limited: IntCounterVec,
    attempts: IntCounterVec,
    inflight: IntGaugeVec,
    /// Log lines that were dropped because the writer could not keep up.
    pub access_log_dropped: IntCounter,
    /// Refusals of our own with 429 or 503.
    pub blocked: AtomicU64,
}

impl Metrics {
    /// Declares the families in `registry`.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<Metrics> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).and_then(|vec| add(registry, vec))
        };
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
            attempts: counter(
                "gateway_upstream_attempts_total",
                "Attempts at an upstream, by outcome",
                &["upstream", "outcome"],
            )?,
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
            blocked: AtomicU64::new(0),
        })
    }

    /// The handles of one route.
    pub fn route(&self, name: &str) -> RouteMetrics {
        RouteMetrics {
            name: name.into(),
            requests: self.requests.clone(),
            by_status: [const { OnceLock::new() }; COMMON_STATUSES.len()],
            duration: self.duration.with_label_values(&[name]),
            inflight: self.inflight.with_label_values(&[name]),
            latency: OnceLock::new(),
            longest_us: AtomicU64::new(0),
        }
    }

    /// The counter of refusals by one policy.
    pub fn rate_limited(&self, route: &str, tier: &str, policy: &str) -> IntCounter {
        self.rate_limited.with_label_values(&[route, tier, policy])
    }

    /// The counters of one upstream's attempts.
    pub fn attempts(&self, upstream: &str) -> AttemptMetrics {
        AttemptMetrics(
            AttemptOutcome::ALL
                .map(|outcome| self.attempts.with_label_values(&[upstream, outcome.label()])),
        )
    }

    /// Requests answered so far, as (status, count) for each route.
    pub fn requests_by_status(&self) -> Vec<(u16, u64)> {
        let families = self.requests.collect();
        let metrics = families.iter().flat_map(MetricFamily::get_metric);
        metrics
            .filter_map(|metric| {
                let label = metric.get_label().iter().find(|label| label.name() == "status")?;
                Some((label.value().parse().ok()?, metric.get_counter().value() as u64))
            })
            .collect()
    }

    /// Refusals with 429 so far, over all routes, tiers and policies.
    pub fn rate_limited_total(&self) -> u64 {
        let families = self.rate_limited.collect();
        let metrics = families.iter().flat_map(MetricFamily::get_metric);
        metrics.map(|metric| metric.get_counter().value() as u64).sum()
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// Counters by [`AttemptOutcome`].
pub struct AttemptMetrics([IntCounter; 6]);

impl AttemptMetrics {
    /// Counts one attempt.
    pub fn count(&self, outcome: AttemptOutcome) {
        self.0[outcome as usize].inc();
    }
}

/// Statuses whose counter is kept as a handle; others pay a label lookup.
const COMMON_STATUSES: [u16; 24] = [
    200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 400, 401, 403, 404, 405, 409, 413, 422, 429,
    500, 502, 503, 504, 499,
];

/// One route's metrics.
pub struct RouteMetrics {
    name: Box<str>,
    requests: IntCounterVec,
    by_status: [OnceLock<IntCounter>; COMMON_STATUSES.len()],
    duration: Histogram,
    inflight: IntGauge,
    latency: OnceLock<Option<AtomicHistogram>>,
    longest_us: AtomicU64,
}

/// A route's latencies so far, in seconds.
pub struct Latencies {
    /// All of them, in microseconds.
    pub histogram: histogram::Histogram,
    /// The longest, exactly.
    pub max_seconds: f64,
}

impl RouteMetrics {
    /// Counts a request that was answered with `status` after `elapsed`.
    pub fn finish(&self, status: u16, elapsed: Duration) {
        self.count(status);
        self.duration.observe(elapsed.as_secs_f64());
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let latency = self
            .latency
            .get_or_init(|| AtomicHistogram::new(LATENCY_GROUPING_POWER, LATENCY_MAX_POWER).ok());
        if let Some(histogram) = latency {
            // Beyond 71 minutes there is no bucket; the longest bucket takes it.
            let _ = histogram.increment(us.min((1 << LATENCY_MAX_POWER) - 1));
        }
        if us > self.longest_us.load(Ordering::Relaxed) {
            self.longest_us.fetch_max(us, Ordering::Relaxed);
        }
    }

    /// Counts a request without timing it.
    pub fn count(&self, status: u16) {
        let label = |status: u16| {
            self.requests.with_label_values(&[&*self.name, itoa::Buffer::new().format(status)])
        };
        match COMMON_STATUSES.iter().position(|&common| common == status) {
            Some(index) => self.by_status[index].get_or_init(|| label(status)).inc(),
            None => label(status).inc(),
        }
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn enter(&self) -> InflightGuard {
        self.inflight.inc();
        InflightGuard(self.inflight.clone())
    }

    /// Requests in flight.
    pub fn inflight(&self) -> i64 {
        self.inflight.get()
    }

    /// Requests timed so far and the sum of their times in seconds.
    pub fn timed(&self) -> (u64, f64) {
        (self.duration.get_sample_count(), self.duration.get_sample_sum())
    }

    /// The latencies so far; none before the first request.
    pub fn latencies(&self) -> Option<Latencies> {
        let histogram = self.latency.get()?.as_ref()?.load();
        let max_seconds = self.longest_us.load(Ordering::Relaxed) as f64 / 1e6;
        Some(Latencies { histogram, max_seconds })
    }
}

/// A request in flight; leaving on every way out, a panic included.
pub struct InflightGuard(IntGauge);

impl Drop for InflightGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
