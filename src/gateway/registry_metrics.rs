//! The registry's figures, for Prometheus.

use super::Gateway;
use crate::registry::Condition;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use std::sync::Arc;

/// Figures of the registry, read when they are asked for.
pub struct RegistryMetrics {
    gateway: Arc<Gateway>,
    entries: IntGaugeVec,
    degraded: IntGauge,
    unshared: IntGauge,
}

impl RegistryMetrics {
    /// Declares the figures of `gateway`'s registry in `registry`.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry, gateway: Arc<Gateway>) -> prometheus::Result<()> {
        registry.register(Box::new(RegistryMetrics {
            gateway,
            entries: IntGaugeVec::new(
                Opts::new(
                    "gateway_registry_entries",
                    "Clients, API keys and blocks that were set at run time",
                ),
                &["kind"],
            )?,
            degraded: IntGauge::new(
                "gateway_registry_degraded",
                "1 when the registry's file was damaged at the start or cannot be written, else 0",
            )?,
            unshared: IntGauge::new(
                "gateway_registry_unshared_entries",
                "Entries that were changed here and are not in Redis yet; 0 without redis",
            )?,
        }))
    }
}

impl Collector for RegistryMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.degraded.desc().into_iter().chain(self.unshared.desc());
        self.entries.desc().into_iter().chain(gauges).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let registry = &self.gateway.registry;
        for (kind, count) in ["clients", "keys", "blocks"].into_iter().zip(registry.counts()) {
            self.entries.with_label_values(&[kind]).set(count as i64);
        }
        let is_degraded = matches!(registry.condition(), Condition::Anew | Condition::Failing);
        self.degraded.set(i64::from(is_degraded));
        let is_shared = self.gateway.fleet.is_some();
        let unshared = if is_shared { registry.unshared_count() } else { 0 };
        self.unshared.set(i64::try_from(unshared).unwrap_or(i64::MAX));
        let gauges = self.degraded.collect().into_iter().chain(self.unshared.collect());
        self.entries.collect().into_iter().chain(gauges).collect()
    }
}
