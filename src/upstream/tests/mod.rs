//! Upstreams on virtual time: who is chosen, and who is out.

mod choosing;
mod ejecting;
mod standing;
mod upkeep;

use super::{Choice, Server, Upstream};
use crate::config::{self, Balance, ServerAddress, Timeouts, UpstreamServer};
use crate::metrics::Metrics;
use crate::policy::ejection::EjectionPolicy;
use prometheus::Registry;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_000 * SECOND;

/// An address of the test; `n` is both its last byte and its port.
pub(super) fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 1_000 + u16::from(n)))
}

fn ip(n: u8, weight: u32) -> UpstreamServer {
    UpstreamServer { address: ServerAddress::Ip(address(n)), weight }
}

pub(super) fn named(host: &str) -> UpstreamServer {
    UpstreamServer { address: ServerAddress::Name { host: host.into(), port: 80 }, weight: 1 }
}

/// Servers 1, 2, … of these weights.
fn weighing(weights: &[u32]) -> Vec<UpstreamServer> {
    (1..).zip(weights).map(|(n, &weight)| ip(n, weight)).collect()
}

fn config(servers: Vec<UpstreamServer>, balance: Balance) -> config::Upstream {
    config::Upstream {
        name: "u".into(),
        servers,
        balance,
        timeouts: Timeouts::default(),
        concurrency: None,
        health_check: None,
        breaker: None,
        ejection: Some(EjectionPolicy {
            consecutive_failures: 3,
            base_ns: 10 * SECOND,
            max_ns: 60 * SECOND,
        }),
    }
}

pub(super) fn upstream(servers: Vec<UpstreamServer>, balance: Balance) -> Arc<Upstream> {
    Upstream::new(&config(servers, balance), &Metrics::register(&Registry::new()).unwrap())
}

fn at(now_ns: u64) -> Choice<'static> {
    Choice { affinity: None, tried: &[], now_ns }
}

/// The server 1, 2, …
fn server(upstream: &Upstream, n: u8) -> Arc<Server> {
    let set = upstream.servers.current();
    let found = set.servers.iter().find(|server| server.address == Some(address(n)));
    Arc::clone(found.unwrap())
}

fn fail(upstream: &Upstream, n: u8, times: u32, now_ns: u64) {
    for _ in 0..times {
        server(upstream, n).tell(false, 0, now_ns);
    }
}

/// The `n` of a chosen server; 0 for none.
fn chosen(upstream: &Upstream, choice: &Choice<'_>) -> u8 {
    let server = upstream.choose(choice);
    server.and_then(|server| server.address).map_or(0, |address| (address.port() - 1_000) as u8)
}

fn counts(upstream: &Upstream, times: usize, now_ns: u64) -> BTreeMap<u8, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        *counts.entry(chosen(upstream, &at(now_ns))).or_default() += 1;
    }
    counts
}

fn gauge(registry: &Registry, name: &str) -> i64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    family.get_metric()[0].get_gauge().value() as i64
}
