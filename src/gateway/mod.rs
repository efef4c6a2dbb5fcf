//! The gateway's state: one immutable generation of policy, and what outlives it.
//!
//! A [`Generation`] is everything a configuration decides: routes, tiers, limits,
//! upstreams. A request loads the current one once and sees it to its end. Buckets, the
//! registry and the metrics belong to the [`Gateway`] and are found by name, so a new
//! generation finds them as the old one left them.

mod build;
pub mod client_places;
pub mod hitters;
mod outcomes;
pub mod refused;
pub mod registry_metrics;
mod retired;
pub mod table_metrics;

use crate::clock;
use crate::config::{self, Config};
use crate::fleet::Fleet;
use crate::lifecycle::Lifecycle;
use crate::metrics::{Metrics, RouteMetrics};
use crate::policy::limit::{Limit, LimitKey, MAX_ROLES};
use crate::policy::router::{RouteId, Router};
use crate::policy::tier::TierId;
use crate::registry::{KnownClients, Registry};
use crate::store::key::{Digest, KeyHasher};
use crate::store::limiter::Limiter;
use crate::upstream::Upstream;
use crate::upstream::circuit::Circuit;
use arc_swap::ArcSwap;
use client_places::ClientPlaces;
use hitters::Hitters;
use http::HeaderValue;
pub use outcomes::Outcomes;
use prometheus::IntCounter;
use refused::RefusedRing;
use retired::Retired;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The name of the policy every client has: its tier's bucket or its own limit.
pub const TIER_POLICY: &str = "tier";

/// State that outlives a configuration, and the current generation.
pub struct Gateway {
    generation: ArcSwap<Generation>,
    /// When the last one began to serve.
    swapped_ns: AtomicU64,
    retired: Retired,
    /// The buckets.
    pub limiter: Limiter,
    /// Changes to clients made at run time.
    pub registry: Registry,
    /// Requests in flight of each client.
    pub client_places: Arc<ClientPlaces>,
    /// The clients that were refused most often lately.
    pub hitters: Hitters,
    /// The last refusals.
    pub refused: RefusedRing,
    /// The metric families.
    pub metrics: Arc<Metrics>,
    /// Where the process is in its life.
    pub lifecycle: Lifecycle,
    /// The gateways it has something in common with; none: it is alone.
    pub fleet: Option<Arc<Fleet>>,
}

impl Gateway {
    /// A gateway that serves `config`, with all its state in memory.
    pub fn new(config: Config, hasher: KeyHasher, metrics: Arc<Metrics>) -> Gateway {
        let limiter = Limiter::new(config.limiter.slots, hasher);
        Gateway::with_limiter(config, limiter, metrics)
    }

    /// A gateway that serves `config` and charges the buckets of `limiter`.
    pub fn with_limiter(config: Config, limiter: Limiter, metrics: Arc<Metrics>) -> Gateway {
        let generation = Generation::new(config, None, &limiter, &metrics);
        expose(&metrics, &generation);
        Gateway {
            generation: ArcSwap::from_pointee(generation),
            swapped_ns: AtomicU64::new(clock::now_ns()),
            retired: Retired::default(),
            limiter,
            registry: Registry::default(),
            client_places: ClientPlaces::new(),
            hitters: Hitters::default(),
            refused: RefusedRing::default(),
            metrics,
            lifecycle: Lifecycle::starting(),
            fleet: None,
        }
    }

    /// Has something in common with other gateways from now on.
    pub fn join(&mut self, fleet: Arc<Fleet>) {
        report_trips(&fleet, &self.generation());
        self.fleet = Some(fleet);
    }

    /// Hears that another gateway has opened the circuit of this name. One that is not there is
    /// of another configuration.
    pub fn hint(&self, circuit: &str) {
        let generation = self.glance();
        if let Some(circuit) = generation.circuits().find(|one| **one.name() == *circuit) {
            circuit.hint(clock::now_ns());
        }
    }

    /// The current generation.
    pub fn generation(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// The current generation for a look that is over at once. Spares the count of holders,
    /// which all threads share.
    pub fn glance(&self) -> arc_swap::Guard<Arc<Generation>> {
        self.generation.load()
    }

    /// Makes the generation that `config` decides, with whatever of the current one stays as it
    /// is. It does not serve before it is [swapped in](Gateway::swap).
    pub fn prepare(&self, config: Config) -> Generation {
        let old = self.generation();
        let next = Generation::new(config, Some(&old), &self.limiter, &self.metrics);
        if let Some(fleet) = &self.fleet {
            report_trips(fleet, &next);
        }
        next
    }

    /// Lets `next` serve: every request that begins from now on is decided by it. What only the
    /// old one had is let go of once its last request has ended.
    ///
    /// The old one is handed back, to be [let go of](Gateway::let_go): whoever drops the last
    /// hold on a large one spends milliseconds on it, which should not be a request's.
    pub fn swap(&self, next: Generation) -> Arc<Generation> {
        let next = Arc::new(next);
        // Before anybody decides by it: a bucket is not to begin to fill by a limit too early.
        self.swapped_ns.store(clock::now_ns(), Ordering::Release);
        let old = self.generation.swap(next.clone());
        self.retired.push(&old);
        // There may be thousands of them: a set, or each would be compared with each.
        let kept: HashSet<*const Upstream> = next.upstreams.iter().map(Arc::as_ptr).collect();
        for upstream in &old.upstreams {
            if !kept.contains(&Arc::as_ptr(upstream)) {
                upstream.retire();
            }
        }
        expose(&self.metrics, &next);
        old
    }

    /// When the limit of some bucket may have changed last, in nanoseconds of the clock: by another
    /// configuration, or because somebody set something for a client.
    pub fn limits_changed_ns(&self) -> u64 {
        self.swapped_ns.load(Ordering::Acquire).max(self.registry.changed_ns())
    }

    /// Requests in flight on all routes, also on those that are no more.
    pub fn inflight(&self) -> i64 {
        self.metrics.inflight()
    }
}

/// Has other gateways told when requests open a circuit.
fn report_trips(fleet: &Fleet, generation: &Generation) {
    generation.circuits().for_each(|circuit| circuit.report_trips(fleet.hints.trips()));
}

/// What metrics tell of a configuration that begins to serve.
fn expose(metrics: &Metrics, generation: &Generation) {
    metrics.generation.set(generation.number as i64);
    metrics.connections.max.set(i64::from(generation.config.server.connections.max));
}

/// Everything one configuration decides. Immutable but for its counters.
pub struct Generation {
    /// How many there were before it, and one: 1 at the start.
    pub number: u64,
    /// The configuration it was made from.
    pub config: Arc<Config>,
    /// Finds a request's route.
    pub router: Router,
    /// The routes, in the order of the configuration.
    pub routes: Vec<Route>,
    /// The upstreams, in the order of the configuration.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The tier policy of each tier, by tier id.
    pub tiers: Vec<Arc<Policy>>,
    /// The policies of `limits`, in the order of the configuration.
    pub limits: Vec<Arc<Policy>>,
    /// The clients the configuration registers.
    pub known: KnownClients,
    /// Metrics of requests no route took.
    pub no_route: Arc<RouteMetrics>,
    /// The policy part of every tier bucket's key, whatever the tier.
    pub tier_digest: Digest,
    /// Whether any limit is a shadow. Nearly no configuration has one, so requests need not look.
    pub has_shadows: bool,
    /// Whether any limit is a leaky bucket.
    pub has_leaky_buckets: bool,
}

/// A route at work.
pub struct Route {
    /// Its metrics.
    pub metrics: Arc<RouteMetrics>,
    /// What this generation's requests to it came to.
    pub outcomes: Outcomes,
    /// The circuit its requests pass: its own, or its upstream's.
    pub circuit: Arc<Circuit>,
    /// The policies of its own limit.
    pub limits: Vec<Arc<Policy>>,
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
    /// Requests it refused, or would have refused if it was not a shadow.
    pub limited: AtomicU64,
}

impl Policy {
    /// A policy whose buckets are kept under `digest`. It goes on counting where `old` is.
    fn new(name: Arc<str>, digest: Digest, quota: (u64, u64), old: Option<&Policy>) -> Policy {
        let go_on = |counter: fn(&Policy) -> &AtomicU64| {
            AtomicU64::new(old.map_or(0, |old| counter(old).load(Ordering::Relaxed)))
        };
        Policy {
            digest,
            header: policy_header(&name, quota.0, quota.1),
            quota,
            name,
            allowed: go_on(|policy| &policy.allowed),
            limited: go_on(|policy| &policy.limited),
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
    /// 0 is the tier, then `limits`, then the route's own. Quotas follow their limits.
    pub fn limits_of(&self, route: RouteId) -> impl Iterator<Item = (usize, &Limit, &Policy)> {
        let own = self.route_config(route).limits.iter().zip(&self.route(route).limits);
        let all = self.config.limits.iter().zip(&self.limits).chain(own);
        all.enumerate().map(|(index, (limit, policy))| (index + 1, limit, &**policy))
    }

    /// The policy with this index among those that a request to `route` meets.
    pub fn policy_of(&self, route: RouteId, tier: TierId, index: usize) -> &Policy {
        let own = &self.route(route).limits;
        let global = self.limits.len();
        index
            .checked_sub(1)
            .and_then(|limit| self.limits.get(limit).or_else(|| own.get(limit - global)))
            .unwrap_or(&self.tiers[usize::from(tier.0)])
    }

    /// The limit with this index among those that a request to `route` meets; none for the tier.
    pub fn limit_of(&self, route: RouteId, index: usize) -> Option<&Limit> {
        let limit = index.checked_sub(1)?;
        let own = || self.route_config(route).limits.get(limit - self.config.limits.len());
        self.config.limits.get(limit).or_else(own)
    }

    /// Counts a 429 of `policy` (an index as in [`limits_of`](Generation::limits_of)), or one
    /// that it would have been if the limit was not a shadow.
    pub fn count_refusal(&self, metrics: &Metrics, route: RouteId, tier: u16, policy: usize) {
        let policies = 1 + self.limits.len() + MAX_ROLES;
        let counters = self
            .route(route)
            .refusals
            .get_or_init(|| (0..policies * self.tiers.len()).map(|_| OnceLock::new()).collect());
        let Some(counter) = counters.get(usize::from(tier) * policies + policy) else { return };
        let counter = counter.get_or_init(|| {
            let config = self.route_config(route);
            let tier = &self.config.tiers.get(TierId(tier)).name;
            let limit = self.limit_of(route, policy);
            let name = limit.map_or(TIER_POLICY, |limit| &*limit.name);
            match limit {
                Some(Limit { is_shadow: true, .. }) => {
                    metrics.shadow_limited(&config.name, tier, name)
                }
                _ => metrics.rate_limited(&config.name, tier, name),
            }
        });
        counter.inc();
    }
}

/// Whether one bucket of the limit serves keys that the configuration names, which a client
/// cannot invent.
pub fn has_bounded_keys(key: &LimitKey) -> bool {
    matches!(key, LimitKey::Route | LimitKey::Global)
}
