//! Making a generation: from the configuration alone, or as the successor of another.
//!
//! What keeps its name keeps its state. Buckets, registry and metrics are found by name anyway;
//! counters, circuits, upstreams and latencies are handed on here.

use super::{Generation, Outcomes, Policy, Route, TIER_POLICY};
use crate::clock;
use crate::config::{self, Config};
use crate::metrics::{self, Metrics};
use crate::policy::limit::Limit;
use crate::policy::rate::TokenBucket;
use crate::policy::router::Router;
use crate::policy::tier::Tier;
use crate::registry::KnownClients;
use crate::store::key::KeyKind;
use crate::store::limiter::Limiter;
use crate::upstream::Upstream;
use crate::upstream::circuit::Circuit;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

impl Generation {
    pub(super) fn new(
        config: Config,
        old: Option<&Generation>,
        limiter: &Limiter,
        metrics: &Metrics,
    ) -> Generation {
        let builder = Builder { old: old.map(Old::of), limiter, metrics };
        let upstreams: Vec<_> = config.upstreams.iter().map(|u| builder.upstream(u)).collect();
        let routes = config.routes.iter();
        let routes = routes.map(|route| builder.route(route, &upstreams[route.upstream])).collect();
        let tiers = config.tiers.iter().map(|(_, tier)| builder.tier(tier)).collect();
        let limits = config.limits.iter().map(|limit| builder.limit(limit)).collect();
        Generation {
            number: old.map_or(1, |old| old.number + 1),
            router: Router::new(config.routes.iter().map(config::Route::matching)),
            routes,
            upstreams,
            tiers,
            limits,
            known: KnownClients::new(&config),
            no_route: match old {
                Some(old) => old.no_route.clone(),
                None => Arc::new(metrics.route(metrics::NONE)),
            },
            tier_digest: limiter.digest(KeyKind::Policy, TIER_POLICY.as_bytes()),
            config: Arc::new(config),
        }
    }
}

/// The old generation's parts by name. A file may have 65 535 routes; looking through them
/// for each would take seconds.
struct Old<'a> {
    generation: &'a Generation,
    routes: HashMap<&'a str, usize>,
    upstreams: HashMap<&'a str, &'a Arc<Upstream>>,
    limits: HashMap<&'a str, &'a Arc<Policy>>,
    tiers: HashMap<&'a str, &'a Arc<Policy>>,
}

impl<'a> Old<'a> {
    fn of(generation: &'a Generation) -> Old<'a> {
        let config = &generation.config;
        let routes = config.routes.iter().enumerate();
        let limits = config.limits.iter().zip(&generation.limits);
        let tiers = config.tiers.iter().zip(&generation.tiers);
        Old {
            generation,
            routes: routes.map(|(index, route)| (&*route.name, index)).collect(),
            upstreams: generation.upstreams.iter().map(|u| (&*u.name, u)).collect(),
            limits: limits.map(|(limit, policy)| (&*limit.name, policy)).collect(),
            tiers: tiers.map(|((_, tier), policy)| (&*tier.name, policy)).collect(),
        }
    }

    fn route(&self, name: &str) -> Option<(&'a config::Route, &'a Route)> {
        let index = *self.routes.get(name)?;
        Some((&self.generation.config.routes[index], &self.generation.routes[index]))
    }
}

struct Builder<'a> {
    old: Option<Old<'a>>,
    limiter: &'a Limiter,
    metrics: &'a Metrics,
}

impl Builder<'_> {
    fn upstream(&self, config: &config::Upstream) -> Arc<Upstream> {
        match self.old.as_ref().and_then(|old| old.upstreams.get(&*config.name)) {
            Some(old) => Upstream::succeeding(old, config, self.metrics, clock::now_ns()),
            None => Upstream::new(config, self.metrics),
        }
    }

    fn route(&self, config: &config::Route, upstream: &Upstream) -> Route {
        let old = self.old.as_ref().and_then(|old| old.route(&config.name));
        let old_limit = old.and_then(|(_, route)| route.limit.as_ref());
        Route {
            metrics: match old {
                Some((_, route)) => route.metrics.clone(),
                None => Arc::new(self.metrics.route(&config.name)),
            },
            outcomes: Outcomes::default(),
            circuit: match &config.breaker {
                None => upstream.circuit.clone(),
                Some(policy) => match old {
                    Some((old, route)) if old.breaker.as_ref() == Some(policy) => {
                        route.circuit.clone()
                    }
                    _ => {
                        let name = format!("route:{}", config.name);
                        let metrics = self.metrics.circuit(&name);
                        Arc::new(Circuit::new(name.into(), Some(policy.clone()), metrics))
                    }
                },
            },
            limit: config
                .limit
                .as_ref()
                .map(|limit| self.policy(limit.name.clone(), &limit.bucket, old_limit)),
            refusals: OnceLock::new(),
            digest: self.limiter.digest(KeyKind::Route, config.name.as_bytes()),
        }
    }

    fn limit(&self, limit: &Limit) -> Arc<Policy> {
        let old = self.old.as_ref().and_then(|old| old.limits.get(&*limit.name).copied());
        self.policy(limit.name.clone(), &limit.bucket, old)
    }

    fn tier(&self, tier: &Tier) -> Arc<Policy> {
        let old = self.old.as_ref().and_then(|old| old.tiers.get(&*tier.name).copied());
        self.policy(TIER_POLICY.into(), &tier.bucket, old)
    }

    /// A policy; the old one where it says the same, else one that goes on counting from it.
    fn policy(
        &self,
        name: Arc<str>,
        bucket: &TokenBucket,
        old: Option<&Arc<Policy>>,
    ) -> Arc<Policy> {
        let quota = (bucket.burst(), bucket.window_seconds());
        match old {
            Some(old) if old.quota == quota => old.clone(),
            _ => Arc::new(Policy::new(name, bucket, self.limiter, old.map(|old| &**old))),
        }
    }
}
