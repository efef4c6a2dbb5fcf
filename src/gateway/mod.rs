//! The gateway's state: one immutable generation of policy, and what outlives it.
//!
//! A [`Generation`] is everything a configuration decides: routes, tiers, limits,
//! upstreams. A request loads the current one once and sees it to its end. Buckets, the
//! registry and the metrics belong to the [`Gateway`] and are found by name, so a new
//! generation finds them as the old one left them.

pub mod client_places;
pub mod table_metrics;

use crate::config::{self, Config};
use crate::lifecycle::Lifecycle;
use crate::metrics::{self, Metrics, RouteMetrics};
use crate::policy::limit::{Limit, LimitKey};
use crate::policy::rate::TokenBucket;
use crate::policy::router::{RouteId, Router};
use crate::registry::{KnownClients, Registry};
use crate::store::key::{Digest, KeyHasher, KeyKind};
use crate::store::limiter::Limiter;
use crate::upstream::Upstream;
use crate::upstream::circuit::Circuit;
use arc_swap::ArcSwap;
use client_places::ClientPlaces;
use http::HeaderValue;
use prometheus::IntCounter;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

/// The name of the policy every client has: its tier's bucket or its own limit.
pub const TIER_POLICY: &str = "tier";

/// State that outlives a configuration, and the current generation.
pub struct Gateway {
    generation: ArcSwap<Generation>,
    /// The buckets.
    pub limiter: Limiter,
    /// Changes to clients made at run time.
    pub registry: Registry,
    /// Requests in flight of each client.
    pub client_places: Arc<ClientPlaces>,
    /// The metric families.
    pub metrics: Arc<Metrics>,
    /// Where the process is in its life.
    pub lifecycle: Lifecycle,
}

impl Gateway {
    /// A gateway that serves `config`.
    pub fn new(config: Config, hasher: KeyHasher, metrics: Arc<Metrics>) -> Gateway {
        let limiter = Limiter::new(config.limiter.slots, hasher);
        let generation = Generation::new(config, &limiter, &metrics);
        Gateway {
            generation: ArcSwap::from_pointee(generation),
            limiter,
            registry: Registry::default(),
            client_places: ClientPlaces::new(),
            metrics,
            lifecycle: Lifecycle::starting(),
        }
    }

    /// The current generation.
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Requests in flight on all routes.
    pub fn inflight(&self) -> i64 {
        let generation = self.generation.load();
        let routes = generation.routes.iter().map(|route| route.metrics.inflight());
        routes.sum::<i64>() + generation.no_route.inflight()
    }
}

/// Everything one configuration decides. Immutable but for its counters.
pub struct Generation {
    /// The configuration it was made from.
    pub config: Config,
    /// Finds a request's route.
    pub router: Router,
    /// The routes, in the order of the configuration.
    pub routes: Vec<Route>,
    /// The upstreams, in the order of the configuration.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The tier policy of each tier, by tier id.
    pub tiers: Vec<Policy>,
    /// The policies of `limits`, in the order of the configuration.
    pub limits: Vec<Policy>,
    /// The clients the configuration registers.
    pub known: KnownClients,
    /// Metrics of requests no route took.
    pub no_route: RouteMetrics,
    /// The policy part of every tier bucket's key, whatever the tier.
    pub tier_digest: Digest,
}

/// A route at work.
pub struct Route {
    /// Its metrics.
    pub metrics: RouteMetrics,
    /// The circuit its requests pass: its own, or its upstream's.
    pub circuit: Arc<Circuit>,
    /// The policy of its own limit.
    pub limit: Option<Policy>,
    /// Refusals by tier and policy, counted under handles made at the first refusal.
    refusals: OnceLock<Box<[OnceLock<IntCounter>]>>,
    /// The digest of the route as a holder of buckets.
    pub digest: Digest,
}

/// A limit at work: what its buckets are found by and what it has decided so far.
pub struct Policy {
    /// Its name in headers, metrics and JSON.
    pub name: Arc<str>,
    /// The policy part of its buckets' keys.
    pub digest: Digest,
    /// Its `RateLimit-Policy` item.
    pub header: HeaderValue,
    /// The burst and the window in seconds that its item tells.
    pub quota: (u64, u64),
    /// Requests it admitted.
    pub allowed: AtomicU64,
    /// Requests it refused.
    pub limited: AtomicU64,
}

impl Policy {
    fn new(name: Arc<str>, bucket: &TokenBucket, limiter: &Limiter) -> Policy {
        Policy {
            digest: limiter.digest(KeyKind::Policy, name.as_bytes()),
            header: policy_header(&name, bucket.burst(), bucket.window_seconds()),
            quota: (bucket.burst(), bucket.window_seconds()),
            name,
            allowed: AtomicU64::new(0),
            limited: AtomicU64::new(0),
        }
    }
}

/// The `RateLimit-Policy` item of a policy.
pub fn policy_header(name: &str, burst: u64, window_seconds: u64) -> HeaderValue {
    let text = format!("\"{name}\";q={burst};w={window_seconds}");
    // Policy names are letters, digits and a few marks; the numbers are digits.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

impl Generation {
    fn new(config: Config, limiter: &Limiter, metrics: &Metrics) -> Generation {
        let policy = |limit: &Limit| Policy::new(limit.name.clone(), &limit.bucket, limiter);
        let upstreams: Vec<_> =
            config.upstreams.iter().map(|upstream| Upstream::new(upstream, metrics)).collect();
        let route = |route: &config::Route| Route {
            metrics: metrics.route(&route.name),
            circuit: match &route.breaker {
                Some(policy) => {
                    let name = format!("route:{}", route.name);
                    let metrics = metrics.circuit(&name);
                    Arc::new(Circuit::new(name.into(), Some(policy.clone()), metrics))
                }
                None => upstreams[route.upstream].circuit.clone(),
            },
            limit: route.limit.as_ref().map(policy),
            refusals: OnceLock::new(),
            digest: limiter.digest(KeyKind::Route, route.name.as_bytes()),
        };
        Generation {
            router: Router::new(config.routes.iter().map(config::Route::matching)),
            routes: config.routes.iter().map(route).collect(),
            tiers: config
                .tiers
                .iter()
                .map(|(_, tier)| Policy::new(TIER_POLICY.into(), &tier.bucket, limiter))
                .collect(),
            limits: config.limits.iter().map(policy).collect(),
            known: KnownClients::new(&config),
            no_route: metrics.route(metrics::NONE),
            tier_digest: limiter.digest(KeyKind::Policy, TIER_POLICY.as_bytes()),
            upstreams,
            config,
        }
    }

    /// The upstream of a route.
    pub fn upstream_of(&self, id: RouteId) -> &Arc<Upstream> {
        &self.upstreams[self.route_config(id).upstream]
    }

    /// Every circuit once: those of upstreams, then those routes have of their own.
    pub fn circuits(&self) -> impl Iterator<Item = &Arc<Circuit>> {
        let own = self.config.routes.iter().zip(&self.routes);
        let own = own.filter(|(config, _)| config.breaker.is_some());
        let own = own.map(|(_, route)| &route.circuit);
        self.upstreams.iter().map(|upstream| &upstream.circuit).chain(own)
    }

    /// The configuration of a route.
    pub fn route_config(&self, id: RouteId) -> &config::Route {
        &self.config.routes[id.0 as usize]
    }

    /// The route's state.
    pub fn route(&self, id: RouteId) -> &Route {
        &self.routes[id.0 as usize]
    }

    /// The limits a request to `route` meets besides its tier, each with its policy's index:
    /// 0 is the tier, then `limits`, then the route's own.
    pub fn limits_of(&self, route: RouteId) -> impl Iterator<Item = (usize, &Limit, &Policy)> {
        let own = self.route_config(route).limit.as_ref().zip(self.route(route).limit.as_ref());
        let global = self.config.limits.iter().zip(&self.limits);
        let numbered =
            global.enumerate().map(|(index, (limit, policy))| (index + 1, limit, policy));
        numbered.chain(own.map(|(limit, policy)| (self.limits.len() + 1, limit, policy)))
    }

    /// Counts a 429 of `policy` (an index as in [`limits_of`](Generation::limits_of)).
    pub fn count_refusal(&self, metrics: &Metrics, route: RouteId, tier: u16, policy: usize) {
        let policies = self.limits.len() + 2;
        let counters = self
            .route(route)
            .refusals
            .get_or_init(|| (0..policies * self.tiers.len()).map(|_| OnceLock::new()).collect());
        let Some(counter) = counters.get(usize::from(tier) * policies + policy) else { return };
        let counter = counter.get_or_init(|| {
            let config = self.route_config(route);
            let tier = &self.config.tiers.get(crate::policy::tier::TierId(tier)).name;
            let name = self
                .limits_of(route)
                .find(|(index, ..)| *index == policy)
                .map_or(TIER_POLICY, |(_, limit, _)| &*limit.name);
            metrics.rate_limited(&config.name, tier, name)
        });
        counter.inc();
    }
}

/// Whether one bucket of the limit serves keys that the configuration names, which a client
/// cannot invent.
pub fn has_bounded_keys(key: &LimitKey) -> bool {
    matches!(key, LimitKey::Route | LimitKey::Global)
}
