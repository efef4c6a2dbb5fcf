//! Metrics of client connections.

use super::add;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Why the gateway ends a connection, as the label of
/// `gateway_connections_closed_total`: the key that bounds it, or `drain`.
pub const CLOSED_REASONS: [&str; 7] = [
    "header_timeout",
    "idle_timeout",
    "min_body_rate",
    "max_connections",
    "max_connections_per_ip",
    "max_requests_per_connection",
    "drain",
];

/// Handles of the metrics of client connections.
pub struct ConnectionMetrics {
    /// Connections accepted, those that were turned away included.
    pub accepted: IntCounter,
    /// Failures to accept one.
    pub accept_failures: IntCounter,
    /// How many there may be: `server.max_connections`.
    pub max: IntGauge,
    closed: IntCounterVec,
}

impl ConnectionMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<ConnectionMetrics> {
        let counter = |name: &str, help: &str| add(registry, IntCounter::new(name, help)?);
        let closed = Opts::new(
            "gateway_connections_closed_total",
            "Client connections that the gateway ended on its own account, by reason",
        );
        let closed = add(registry, IntCounterVec::new(closed, &["reason"])?)?;
        for reason in CLOSED_REASONS {
            // From the start at zero, or the first would be no increase.
            closed.with_label_values(&[reason]);
        }
        Ok(ConnectionMetrics {
            accepted: counter(
                "gateway_connections_total",
                "Client connections accepted, those that were turned away included",
            )?,
            accept_failures: counter(
                "gateway_accept_failures_total",
                "Failures to accept a connection, for want of file descriptors or memory",
            )?,
            max: add(
                registry,
                IntGauge::new("gateway_connections_max", "Client connections that there may be")?,
            )?,
            closed,
        })
    }

    /// Declares the number of connections that are open, which `open` tells when it is read.
    ///
    /// # Errors
    /// When the name is registered already.
    pub fn watch(
        registry: &Registry,
        open: impl Fn() -> usize + Send + Sync + 'static,
    ) -> prometheus::Result<()> {
        let gauge = IntGauge::new("gateway_connections", "Client connections that are open")?;
        registry.register(Box::new(Open { gauge, open }))
    }

    /// Counts a connection that was ended for this reason, one of [`CLOSED_REASONS`].
    pub fn closed(&self, reason: &str) {
        self.closed.with_label_values(&[reason]).inc();
    }
}

struct Open<F> {
    gauge: IntGauge,
    open: F,
}

impl<F: Fn() -> usize + Send + Sync> Collector for Open<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set((self.open)() as i64);
        self.gauge.collect()
    }
}
