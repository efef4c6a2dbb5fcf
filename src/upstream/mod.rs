//! Upstreams at work: their servers, who is next, and what came of the attempts.

mod balance;
pub mod circuit;

use crate::config;
use crate::metrics::{AttemptMetrics, Metrics};
use balance::RoundRobin;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy};
use std::net::SocketAddr;
use std::sync::Arc;

/// One upstream.
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Counters of attempts at it.
    pub attempts: AttemptMetrics,
    servers: Vec<Server>,
    turns: RoundRobin,
}

struct Server {
    address: SocketAddr,
    /// The address as text, for logs and headers.
    name: Arc<str>,
    /// Made once; an attempt takes a copy.
    peer: HttpPeer,
}

impl Upstream {
    /// Sets up an upstream as configured.
    pub fn new(config: &config::Upstream, metrics: &Metrics) -> Upstream {
        let weights: Vec<u32> = config.servers.iter().map(|server| server.weight).collect();
        let servers = config.servers.iter().filter_map(|server| {
            let config::ServerAddress::Ip(address) = server.address else { return None };
            let peer = peer(address, config.timeouts);
            Some(Server { address, name: address.to_string().into(), peer })
        });
        Upstream {
            name: config.name.clone(),
            attempts: metrics.attempts(&config.name),
            servers: servers.collect(),
            turns: RoundRobin::new(&weights),
        }
    }

    /// The address and the peer of the server whose turn it is; `None` when there is none.
    pub fn next_peer(&self) -> Option<(Arc<str>, Box<HttpPeer>)> {
        let server = self.servers.get(self.turns.next()?)?;
        Some((server.name.clone(), Box::new(server.peer.clone())))
    }

    /// The servers' addresses.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().map(|server| server.address)
    }
}

/// Pingora leaves every timeout open; here each one is set.
fn peer(address: SocketAddr, timeouts: config::Timeouts) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    peer.options.connection_timeout = Some(timeouts.connect);
    peer.options.total_connection_timeout = Some(timeouts.connect);
    peer.options.read_timeout = Some(timeouts.read);
    peer.options.write_timeout = Some(timeouts.write);
    peer.options.idle_timeout = Some(timeouts.idle);
    // The proxy has removed hop-by-hop headers before the first attempt.
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    peer
}
