//! Metrics of limits that gateways share.

use super::add;
use prometheus::{IntCounter, IntGauge, Registry};

/// What is counted of shared limits.
#[derive(Debug, Clone)]
pub struct SharedLimitMetrics {
    /// Requests that spent tokens which had been withdrawn ahead.
    pub lease_hits: IntCounter,
    /// Tokens that are withdrawn and not spent.
    pub stranded: IntGauge,
    /// Tokens that were let pass without the store.
    pub unasked: IntCounter,
}

impl SharedLimitMetrics {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<SharedLimitMetrics> {
        Ok(SharedLimitMetrics {
            lease_hits: add(
                registry,
                IntCounter::new(
                    "gateway_lease_hits_total",
                    "Charges of shared limits that were paid from a lease, without a call",
                )?,
            )?,
            stranded: add(
                registry,
                IntGauge::new(
                    "gateway_lease_stranded_tokens",
                    "Tokens of shared limits that this gateway holds on lease and has not spent",
                )?,
            )?,
            unasked: add(
                registry,
                IntCounter::new(
                    "gateway_unasked_tokens_total",
                    "Tokens of shared limits that this gateway let pass while Redis did not answer",
                )?,
            )?,
        })
    }
}
