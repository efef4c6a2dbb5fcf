//! The limiter table's figures, for Prometheus.

use super::Gateway;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGaugeVec, Opts, Registry};
use std::sync::Arc;

/// Figures of the limiter's table, read when they are asked for.
pub struct TableMetrics {
    gateway: Arc<Gateway>,
    slots: IntGaugeVec,
    overflowed: IntCounter,
}

impl TableMetrics {
    /// Declares the figures of `gateway`'s table in `registry`.
    ///
    /// # Errors
    /// When a name is registered already.
    pub fn register(registry: &Registry, gateway: Arc<Gateway>) -> prometheus::Result<()> {
        registry.register(Box::new(TableMetrics {
            gateway,
            slots: IntGaugeVec::new(
                Opts::new(
                    "gateway_limiter_table_slots",
                    "Slots of the limiter table: used ones hold a bucket that is not full",
                ),
                &["state"],
            )?,
            overflowed: IntCounter::new(
                "gateway_limiter_overflow_total",
                "Charges made against an overflow bucket, because its set had no free slot",
            )?,
        }))
    }
}

impl Collector for TableMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.slots.desc().into_iter().chain(self.overflowed.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let table = self.gateway.limiter.table();
        let used = table.used_slots(crate::clock::now_ns());
        self.slots.with_label_values(&["used"]).set(used as i64);
        self.slots.with_label_values(&["free"]).set((table.slots() - used) as i64);
        self.overflowed.inc_by(table.overflowed().saturating_sub(self.overflowed.get()));
        self.slots.collect().into_iter().chain(self.overflowed.collect()).collect()
    }
}
