//! Generations that no longer serve and are held by requests still, and the series in the
//! metrics that go with the last of them.

use super::{Gateway, Generation};
use crate::metrics::Names;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Those that are held still, and with the next swap no others.
#[derive(Default)]
pub(super) struct Retired(Mutex<Vec<Weak<Generation>>>);

impl Retired {
    pub(super) fn push(&self, old: &Arc<Generation>) {
        let mut retired = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|generation| generation.strong_count() > 0);
        retired.push(Arc::downgrade(old));
    }

    fn held(&self) -> Vec<Arc<Generation>> {
        let retired = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        retired.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Gateway {
    /// To be called before a generation is dropped whose last request has ended: the metrics lose
    /// the series of its names that neither the current generation has nor any that is held
    /// still, whose requests count under them. Takes milliseconds for thousands of routes.
    ///
    /// Not while another is [prepared](Gateway::prepare): that one has its handles already and
    /// cannot be found here.
    pub fn let_go(&self, old: &Arc<Generation>) {
        let current = self.generation();
        let held = self.retired.held();
        let others = held.iter().filter(|other| !Arc::ptr_eq(other, old));
        let mut gone = names(old);
        for other in [&current].into_iter().chain(others) {
            if gone.is_empty() {
                return;
            }
            gone.subtract(&names(other));
        }
        self.metrics.remove(&gone);
    }
}

/// The names of a generation's series.
fn names(generation: &Generation) -> Names<'_> {
    let Generation { config, routes, upstreams, limits, .. } = generation;
    let own_limits = routes.iter().flat_map(|route| &route.limits);
    let bounded = upstreams.iter().filter(|upstream| upstream.places.is_some());
    Names {
        routes: config.routes.iter().map(|route| &*route.name).collect(),
        tiers: config.tiers.iter().map(|(_, tier)| &*tier.name).collect(),
        policies: limits.iter().chain(own_limits).map(|policy| &*policy.name).collect(),
        upstreams: upstreams.iter().map(|upstream| &*upstream.name).collect(),
        bounded: bounded.map(|upstream| &*upstream.name).collect(),
        circuits: generation.circuits().map(|circuit| &**circuit.name()).collect(),
    }
}
