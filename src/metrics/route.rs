//! What is measured of a route's requests.

use histogram::AtomicHistogram;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Latencies for quantiles are kept in microseconds: 128 buckets for each power of two, so
/// that a value is off by less than 0.8 %, up to 2^32 µs (71 minutes). 26 KiB a route, taken
/// at its first request.
const LATENCY_GROUPING_POWER: u8 = 7;
const LATENCY_MAX_POWER: u8 = 32;

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
    /// Attempts after the first.
    pub retries: IntCounter,
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
    pub(super) fn new(
        name: &str,
        requests: IntCounterVec,
        duration: Histogram,
        retries: IntCounter,
        inflight: IntGauge,
    ) -> RouteMetrics {
        RouteMetrics {
            name: name.into(),
            requests,
            by_status: [const { OnceLock::new() }; COMMON_STATUSES.len()],
            duration,
            retries,
            inflight,
            latency: OnceLock::new(),
            longest_us: AtomicU64::new(0),
        }
    }

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
