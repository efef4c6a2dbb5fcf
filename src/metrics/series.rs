//! Taking series away whose names are in no configuration any more.
//!
//! A gauge of an upstream that was removed would stay as it was for ever, and an alert with it;
//! and reloads with new names would add series without bound.

use super::Metrics;
use prometheus::IntCounterVec;
use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily};
use std::collections::{BTreeMap, HashSet};

/// Names that series have as labels.
#[derive(Debug, Default)]
pub struct Names<'a> {
    /// Of routes.
    pub routes: HashSet<&'a str>,
    /// Of tiers.
    pub tiers: HashSet<&'a str>,
    /// Of policies.
    pub policies: HashSet<&'a str>,
    /// Of upstreams.
    pub upstreams: HashSet<&'a str>,
    /// Of upstreams that bound their concurrency.
    pub bounded: HashSet<&'a str>,
    /// Of circuits.
    pub circuits: HashSet<&'a str>,
}

impl<'a> Names<'a> {
    /// Takes out those that `others` has too.
    pub fn subtract(&mut self, others: &Names<'a>) {
        for (set, others) in self.sets_mut().into_iter().zip(others.sets()) {
            set.retain(|name| !others.contains(name));
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sets().iter().all(|set| set.is_empty())
    }

    fn sets_mut(&mut self) -> [&mut HashSet<&'a str>; 6] {
        let Names { routes, tiers, policies, upstreams, bounded, circuits } = self;
        [routes, tiers, policies, upstreams, bounded, circuits]
    }

    const fn sets(&self) -> [&HashSet<&'a str>; 6] {
        let Names { routes, tiers, policies, upstreams, bounded, circuits } = self;
        [routes, tiers, policies, upstreams, bounded, circuits]
    }
}

/// What series had counted that are gone; totals go on with it.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Requests, by status.
    pub(super) requests: BTreeMap<u16, u64>,
    /// Refusals with 429.
    pub(super) rate_limited: u64,
}

impl Metrics {
    /// Takes away all series of these names. Whoever still has a handle of one counts unseen;
    /// the next handle that is made of a name begins a new series.
    ///
    /// Reads all counters of requests; a few milliseconds for thousands of routes.
    pub fn remove(&self, gone: &Names<'_>) {
        // What is removed is in one of the two for whoever sums up.
        let mut removed = self.removed();
        for route in &gone.routes {
            // Those it does not have are gone as well.
            let _ = self.duration.remove_label_values(&[route]);
            let _ = self.retries.remove_label_values(&[route]);
            let _ = self.inflight.remove_label_values(&[route]);
        }
        self.upstream.remove(gone);
        remove_counters(&self.requests, ["route", "status"], |[route, status], count| {
            let is_gone = gone.routes.contains(route);
            if is_gone && let Ok(status) = status.parse() {
                *removed.requests.entry(status).or_default() += count;
            }
            is_gone
        });
        let labels = ["route", "tier", "policy"];
        remove_counters(&self.rate_limited, labels, |[route, tier, policy], count| {
            let is_gone = gone.routes.contains(route)
                || gone.tiers.contains(tier)
                || gone.policies.contains(policy);
            if is_gone {
                removed.rate_limited += count;
            }
            is_gone
        });
    }
}

/// Removes the series of which `is_gone` says so, given their labels in the order in which they
/// are declared, and their counts.
fn remove_counters<const N: usize>(
    counters: &IntCounterVec,
    labels: [&str; N],
    mut is_gone: impl FnMut([&str; N], u64) -> bool,
) {
    let families = counters.collect();
    for metric in families.iter().flat_map(MetricFamily::get_metric) {
        let values = labels.map(|name| label(metric, name));
        if is_gone(values, metric.get_counter().value() as u64) {
            let _ = counters.remove_label_values(&values);
        }
    }
}

fn label<'a>(metric: &'a Metric, name: &str) -> &'a str {
    let label = metric.get_label().iter().find(|label| label.name() == name);
    label.map_or("", |label| label.value())
}
