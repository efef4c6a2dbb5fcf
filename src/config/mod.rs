//! The configuration: from the file's text to checked types.
//!
//! The file is read into loose YAML values, and these are checked into the types here. After
//! that nothing can be invalid: addresses are addresses, names refer to things that exist, rates
//! can be enforced. All errors of a file are reported at once, each with its key path and line.

mod clients;
mod routes;
mod server;
mod upstreams;

pub use clients::{ApiKeyHash, Clients, Identifier, KnownClient};
pub use routes::{Auth, Cost, HostMatch, PathMatch, Route};
pub use server::{AccessLog, AccessLogFormat, Admin, Limiter, Metrics, Secret, Server};
pub use upstreams::{Balance, Timeouts, Upstream, UpstreamServer};

use crate::policy::limit::Limit;
use crate::policy::tier::Tiers;

/// Everything a configuration file says, checked and with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The data listeners and what every request meets.
    pub server: Server,
    /// The admin API.
    pub admin: Admin,
    /// The Prometheus endpoint.
    pub metrics: Metrics,
    /// Who clients are.
    pub clients: Clients,
    /// The table that holds the buckets.
    pub limiter: Limiter,
    /// The tiers, with the default one.
    pub tiers: Tiers,
    /// Limits that apply to every request, besides tiers and the routes' own.
    pub limits: Vec<Limit>,
    /// Where requests go; routes refer to them by index.
    pub upstreams: Vec<Upstream>,
    /// The routes in the order of the file.
    pub routes: Vec<Route>,
}
