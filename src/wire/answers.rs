//! What the guard asks of the rest of the gateway.

use super::connections::{Crowd, Quota};
use super::fault::Fault;
use super::pace::MinRate;
use bytes::Bytes;
use std::net::IpAddr;
use std::time::Duration;

/// How long a connection may take for what, as the configuration has it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// For a request's head, from its first byte.
    pub header_timeout: Duration,
    /// For the silence between requests.
    pub idle_timeout: Duration,
    /// How fast bodies must move, if at all.
    pub min_body_rate: Option<MinRate>,
    /// Requests a connection may make.
    pub max_requests: Option<u32>,
}

/// Why the gateway ended a connection on its own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// A head did not arrive in time.
    HeaderTimeout,
    /// Nothing arrived for too long.
    IdleTimeout,
    /// A body moved too slowly.
    MinBodyRate,
    /// There were too many connections.
    MaxConnections,
    /// There were too many from its address.
    MaxConnectionsPerIp,
    /// It had made all its requests.
    MaxRequests,
    /// The gateway is stopping.
    Drain,
}

impl Ending {
    /// Every one of them.
    pub const ALL: [Ending; 7] = [
        Ending::HeaderTimeout,
        Ending::IdleTimeout,
        Ending::MinBodyRate,
        Ending::MaxConnections,
        Ending::MaxConnectionsPerIp,
        Ending::MaxRequests,
        Ending::Drain,
    ];

    /// Its name in metrics and log: the configuration's key, where there is one.
    pub fn name(self) -> &'static str {
        match self {
            Ending::HeaderTimeout => "header_timeout",
            Ending::IdleTimeout => "idle_timeout",
            Ending::MinBodyRate => "min_body_rate",
            Ending::MaxConnections => "max_connections",
            Ending::MaxConnectionsPerIp => "max_connections_per_ip",
            Ending::MaxRequests => "max_requests_per_connection",
            Ending::Drain => "drain",
        }
    }
}

impl From<Crowd> for Ending {
    fn from(crowd: Crowd) -> Ending {
        match crowd {
            Crowd::All => Ending::MaxConnections,
            Crowd::Peer => Ending::MaxConnectionsPerIp,
        }
    }
}

/// What the guard is told, what it reports and how it answers.
pub trait Answers: Send + Sync + 'static {
    /// The complete response to a head that is refused; it ends the connection.
    fn refuse(&self, fault: Fault, peer: Option<IpAddr>) -> Bytes;
    /// The complete response to a connection there is no room for. Asked for often when the
    /// gateway is attacked.
    fn turn_away(&self, crowd: Crowd) -> Bytes;
    /// A head that passed was refused by the parser all the same.
    fn parser_refused(&self);
    /// The bounds for the next request. Asked once a request.
    fn bounds(&self) -> Bounds;
    /// How many connections there may be, in all and from this peer.
    fn quota(&self, peer: Option<IpAddr>) -> Quota;
    /// Whether the gateway is stopping, so that no connection has a next request.
    fn is_draining(&self) -> bool;
    /// A connection was accepted. The number of open ones follows from
    /// [`Connections`](super::connections::Connections).
    fn accepted(&self);
    /// The gateway ended a connection.
    fn ended(&self, why: Ending);
}
