//! What an upstream passes on when a reload replaces it.

use super::Upstream;
use super::budget::RetryBudget;
use super::circuit::Circuit;
use super::places::Places;
use crate::config;
use crate::metrics::Metrics;
use std::sync::Arc;

/// What of an upstream's state does not belong to one of its servers.
pub(super) struct State {
    pub(super) circuit: Arc<Circuit>,
    pub(super) places: Option<Arc<Places>>,
    pub(super) budget: Arc<RetryBudget>,
}

impl State {
    pub(super) fn circuit(config: &config::Upstream, metrics: &Metrics) -> Arc<Circuit> {
        let handles = metrics.circuit(&config.name);
        Circuit::new(config.name.clone(), config.breaker.clone(), handles).into()
    }

    pub(super) fn places(config: &config::Upstream, metrics: &Metrics) -> Option<Arc<Places>> {
        let concurrency = config.concurrency.as_ref()?;
        Some(Places::new(concurrency, metrics.concurrency(&config.name)))
    }
}

impl Upstream {
    /// The upstream of this name as `config` has it: `old` itself where nothing changed, else
    /// a new one that goes on with what its own configuration leaves as it was: circuit,
    /// places, budget, and what is known of each server.
    ///
    /// Where it is a new one, `old` is to be [retired](Upstream::retire) once no new request
    /// gets it. Those that have it see it to their end.
    pub fn succeeding(
        old: &Arc<Upstream>,
        config: &config::Upstream,
        metrics: &Metrics,
        now_ns: u64,
    ) -> Arc<Upstream> {
        if old.config == *config {
            return old.clone();
        }
        let state = State {
            circuit: match old.config.breaker == config.breaker {
                true => old.circuit.clone(),
                false => State::circuit(config, metrics),
            },
            places: match old.config.concurrency == config.concurrency {
                true => old.places.clone(),
                false => State::places(config, metrics),
            },
            budget: old.budget.clone(),
        };
        let new = Upstream::with(config, metrics, state);
        let are_checked = old.config.health_check.is_some() && config.health_check.is_some();
        new.servers.take_over(&old.servers, are_checked, now_ns);
        Arc::new(new)
    }
}
