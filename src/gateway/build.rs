//! Making a generation: from the configuration alone, or as the successor of another.
//!
//! What keeps its name keeps its state. Buckets, registry and metrics are found by name anyway;
//! counters, circuits, upstreams and latencies are handed on here.

use super::{Generation, Outcomes, Policy, Route, TIER_POLICY};
use crate::clock;
use crate::config::{self, Config};
use crate::metrics::{self, Metrics};
use crate::policy::limit::Limit;
use crate::policy::meter::Algorithm;
use crate::policy::router::Router;
use crate::policy::tier::Tier;
use crate::registry::KnownClients;
use crate::store::key::{Digest, KeyKind};
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
        let limits = config.limits.iter().map(|limit| builder.global_limit(limit)).collect();
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
            tier_digest: policy_digest(limiter, TIER_POLICY, ""),
            has_shadows: any(&config, |limit| limit.is_shadow),
            has_leaky_buckets: any(&config, |limit| {
                matches!(limit.algorithm, Algorithm::LeakyBucket(_))
            }),
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
        let old_policy = |limit: &Limit| {
            let policies = old.map(|(_, route)| &route.limits)?;
            policies.iter().find(|policy| policy.name == limit.name)
        };
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
            limits: config
                .limits
                .iter()
                .map(|limit| self.limit(limit, old_policy(limit)))
                .collect(),
            refusals: OnceLock::new(),
            digest: self.limiter.digest(KeyKind::Route, config.name.as_bytes()),
        }
    }

    fn global_limit(&self, limit: &Limit) -> Arc<Policy> {
        let old = self.old.as_ref().and_then(|old| old.limits.get(&*limit.name).copied());
        self.limit(limit, old)
    }

    fn limit(&self, limit: &Limit, old: Option<&Arc<Policy>>) -> Arc<Policy> {
        let digest = policy_digest(self.limiter, &limit.name, limit.algorithm.family());
        let quota = (limit.algorithm.burst(), limit.algorithm.window_seconds());
        policy(limit.name.clone(), digest, quota, old)
    }

    fn tier(&self, tier: &Tier) -> Arc<Policy> {
        let old = self.old.as_ref().and_then(|old| old.tiers.get(&*tier.name).copied());
        let digest = policy_digest(self.limiter, TIER_POLICY, "");
        let quota = (tier.bucket.burst(), tier.bucket.window_seconds());
        policy(TIER_POLICY.into(), digest, quota, old)
    }
}

fn any(config: &Config, is: impl Fn(&Limit) -> bool) -> bool {
    config.limits.iter().chain(config.routes.iter().flat_map(|route| &route.limits)).any(is)
}

/// The policy part of a bucket's key. States of another family begin anew, because nothing can
/// be told from them.
fn policy_digest(limiter: &Limiter, name: &str, family: &str) -> Digest {
    match family {
        "" => limiter.digest(KeyKind::Policy, name.as_bytes()),
        // No name has a space.
        _ => limiter.digest(KeyKind::Policy, format!("{name} {family}").as_bytes()),
    }
}

/// A policy; the old one where it says the same, else one that goes on counting from it.
fn policy(
    name: Arc<str>,
    digest: Digest,
    quota: (u64, u64),
    old: Option<&Arc<Policy>>,
) -> Arc<Policy> {
    match old {
        Some(old) if old.quota == quota && old.digest == digest => old.clone(),
        _ => Arc::new(Policy::new(name, digest, quota, old.map(|old| &**old))),
    }
}
