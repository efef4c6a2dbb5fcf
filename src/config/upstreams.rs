//! `upstreams`: where requests go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A named group of servers that can answer the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Its servers; at least one, no address twice.
    pub servers: Vec<UpstreamServer>,
    /// How a server is chosen.
    pub balance: Balance,
    /// How long it is waited for.
    pub timeouts: Timeouts,
}

/// One server of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamServer {
    /// Its address; the port is never 0.
    pub address: SocketAddr,
    /// Its share among the upstream's servers, 1 to 1 000.
    pub weight: u32,
}

/// How a server is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// In turn, in proportion to weight.
    RoundRobin,
}

/// How long an upstream is waited for; each from 1 ms to 24 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to stand.
    pub connect: Duration,
    /// Between two reads of the answer.
    pub read: Duration,
    /// Between two writes of the request.
    pub write: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            read: Duration::from_secs(30),
            write: Duration::from_secs(30),
            idle: Duration::from_secs(60),
        }
    }
}
