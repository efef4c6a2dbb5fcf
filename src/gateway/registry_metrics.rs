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
        }))
    }
}

impl Collector for RegistryMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.entries.desc().into_iter().chain(self.degraded.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let registry = &self.gateway.registry;
        for (kind, count) in ["clients", "keys", "blocks"].into_iter().zip(registry.counts()) {
            self.entries.with_label_values(&[kind]).set(count as i64);
        }
        let is_degraded = matches!(registry.condition(), Condition::Anew | Condition::Failing);
        self.degraded.set(i64::from(is_degraded));
        self.entries.collect().into_iter().chain(self.degraded.collect()).collect()
    }
}
