//! What a run is set up with, drawn from its seed: anything a configuration may say, in sizes
//! that make much happen in little time.

use fastrand::Rng;
use std::net::SocketAddr;
use std::time::Duration;
use tollgate::config::{
    Affinity, Balance, Concurrency, ServerAddress, Timeouts, Upstream, UpstreamServer,
};
use tollgate::policy::breaker::{BreakerPolicy, SlowCalls};
use tollgate::policy::ejection::EjectionPolicy;
use tollgate::policy::health::HealthThresholds;
use tollgate::policy::retry::{Backoff, RetryOn, RetryPolicy};
use tollgate::policy::share::Share;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// Addresses that servers can have.
pub(crate) const ADDRESSES: u8 = 10;
/// The longest that a server takes while it is well; shorter than any time-out and than what
/// counts as slow.
pub(crate) const FINE_NS: u64 = 15 * MS;

/// Everything that stays as it is for a run.
pub(crate) struct Setup {
    pub(crate) upstream: Upstream,
    pub(crate) routes: Vec<Route>,
    pub(crate) checks: Option<Checks>,
    /// Steps from one calm to the next.
    pub(crate) calm_after: u64,
    /// One of so many clients goes away early.
    pub(crate) one_gone_of: u64,
}

/// A route to the upstream.
pub(crate) struct Route {
    /// A circuit of its own; none: that of the upstream.
    pub(crate) breaker: Option<BreakerPolicy>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) timeout_ns: Option<u64>,
}

/// How servers are checked.
pub(crate) struct Checks {
    pub(crate) interval_ns: u64,
    pub(crate) thresholds: HealthThresholds,
}

impl Setup {
    pub(crate) fn draw(rng: &mut Rng) -> Setup {
        let upstream = upstream(rng);
        let queue_timeout = upstream.concurrency.map_or(Duration::ZERO, |c| c.queue_timeout);
        let shortest_ns = queue_timeout.as_nanos() as u64 + 100 * MS;
        let routes = (0..rng.usize(1..=3)).map(|_| Route {
            breaker: one_of(rng, 3).then(|| breaker(rng)),
            retry: (!one_of(rng, 5)).then(|| retry(rng)),
            timeout_ns: one_of(rng, 2).then(|| shortest_ns + rng.u64(..3 * SECOND)),
        });
        let routes = routes.collect();
        let checks = one_of(rng, 2).then(|| Checks {
            interval_ns: rng.u64(100 * MS..3 * SECOND),
            thresholds: HealthThresholds {
                healthy_after: rng.u32(1..=3),
                unhealthy_after: rng.u32(1..=3),
            },
        });
        Setup {
            upstream,
            routes,
            checks,
            calm_after: rng.u64(1_000..5_000),
            one_gone_of: rng.u64(3..30),
        }
    }
}

/// Whether it is the one of `count` cases.
pub(crate) fn one_of(rng: &mut Rng, count: u64) -> bool {
    rng.u64(..count) == 0
}

/// The `n`-th address.
pub(crate) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

fn upstream(rng: &mut Rng) -> Upstream {
    let balance = match rng.u8(..3) {
        0 => Balance::RoundRobin,
        1 => Balance::LeastLoaded,
        _ => Balance::Consistent(Affinity::Client),
    };
    Upstream {
        name: "simulated".into(),
        servers: servers(rng),
        balance,
        timeouts: Timeouts {
            connect: Duration::from_nanos(rng.u64(20 * MS..500 * MS)),
            read: Duration::from_nanos(rng.u64(50 * MS..2 * SECOND)),
            ..Timeouts::default()
        },
        concurrency: (!one_of(rng, 4)).then(|| Concurrency {
            max: rng.u32(1..=12),
            queue: rng.u32(0..=12),
            queue_timeout: Duration::from_nanos(rng.u64(MS..300 * MS)),
        }),
        health_check: None,
        breaker: (!one_of(rng, 8)).then(|| breaker(rng)),
        ejection: (!one_of(rng, 6)).then(|| ejection(rng)),
    }
}

/// Addresses and names; which addresses a name has is for the run to say.
fn servers(rng: &mut Rng) -> Vec<UpstreamServer> {
    let count = rng.u8(1..=6);
    let server = |n: u8| {
        let name = ServerAddress::Name { host: format!("{n}.test").into(), port: 80 };
        let address = if rng.bool() { name } else { ServerAddress::Ip(address(n)) };
        UpstreamServer { address, weight: rng.u32(1..=5) }
    };
    (1..=count).map(server).collect()
}

fn breaker(rng: &mut Rng) -> BreakerPolicy {
    let cooldown_ns = rng.u64(100 * MS..3 * SECOND);
    let mut policy = BreakerPolicy {
        consecutive_failures: one_of(rng, 2).then(|| rng.u32(1..=8)),
        failure_ratio: one_of(rng, 2).then(|| Share::from_percent(rng.u32(1..=100))),
        slow_calls: one_of(rng, 2).then(|| SlowCalls {
            longer_than_ns: rng.u64(2 * FINE_NS..500 * MS),
            ratio: Share::from_percent(rng.u32(1..=100)),
        }),
        min_requests: rng.u32(1..=30),
        window_ns: rng.u64(SECOND..10 * SECOND),
        cooldown_ns,
        max_cooldown_ns: cooldown_ns * rng.u64(1..=8),
        probes: rng.u32(1..=4),
        ramp_ns: if one_of(rng, 3) { 0 } else { rng.u64(1..3 * SECOND) },
    };
    if !policy.has_condition() {
        policy.consecutive_failures = Some(5);
    }
    policy
}

fn ejection(rng: &mut Rng) -> EjectionPolicy {
    let base_ns = rng.u64(100 * MS..20 * SECOND);
    EjectionPolicy {
        consecutive_failures: rng.u32(1..=5),
        base_ns,
        max_ns: base_ns * rng.u64(1..=8),
    }
}

fn retry(rng: &mut Rng) -> RetryPolicy {
    let base_ns = rng.u64(MS..50 * MS);
    RetryPolicy {
        attempts: rng.u32(0..=4),
        per_try_timeout_ns: one_of(rng, 2).then(|| rng.u64(2 * FINE_NS..SECOND)),
        backoff: Backoff { base_ns, max_ns: base_ns * rng.u64(1..=10) },
        when: RetryOn {
            connect: rng.bool(),
            timeout: rng.bool(),
            reset: rng.bool(),
            statuses: [429, 500, 502, 503].into_iter().filter(|_| rng.bool()).collect(),
        },
        budget: Share::from_percent([0, 5, 20, 50, 100][rng.usize(..5)]),
    }
}
