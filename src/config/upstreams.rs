//! `upstreams`: where requests go.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::keys;
use super::raw::{Field, Section, Unique, word};
use super::report::Report;
use super::value;
use crate::policy::breaker::BreakerPolicy;
use crate::policy::ejection::EjectionPolicy;

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
    /// How many requests it may have at a time; none: any number.
    pub concurrency: Option<Concurrency>,
    /// How its servers' health is checked; none: it is not.
    pub health_check: Option<HealthCheck>,
    /// What opens its circuit; none: nothing but an operator.
    pub breaker: Option<BreakerPolicy>,
    /// When a single server is taken out of balancing; none: never.
    pub ejection: Option<EjectionPolicy>,
}

/// One server of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamServer {
    /// Where it is.
    pub address: ServerAddress,
    /// Its share among the upstream's servers, 1 to 1 000.
    pub weight: u32,
}

/// Where a server is; the port is never 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerAddress {
    /// At this address.
    Ip(SocketAddr),
    /// At every address this DNS name stands for.
    Name {
        /// The name, in lower case.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// How a server is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// In turn, in proportion to weight.
    RoundRobin,
    /// The less loaded of two drawn at random.
    LeastLoaded,
    /// The same server for the same value, by consistent hashing.
    Consistent(Affinity),
}

/// What requests must have in common to meet the same server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affinity {
    /// The client's identity.
    Client,
    /// The client's address.
    Ip,
    /// The path, in normal form and without its query.
    Path,
    /// The value of this request header.
    Header(HeaderName),
}

/// How many requests an upstream may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// Requests in flight, 1 to 1 000 000.
    pub max: u32,
    /// Requests that may wait for a place, 0 to 100 000.
    pub queue: u32,
    /// How long one may wait, 1 ms to 1 min.
    pub queue_timeout: Duration,
}

/// How a server's health is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked of it.
    pub kind: HealthCheckKind,
    /// Time between two checks, 100 ms to 1 h.
    pub interval: Duration,
    /// How long an answer is waited for, 1 ms to 1 min.
    pub timeout: Duration,
    /// Good checks in a row that make an unhealthy server healthy, 1 to 100.
    pub healthy_after: u32,
    /// Bad checks in a row that make a healthy server unhealthy, 1 to 100.
    pub unhealthy_after: u32,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// A connection.
    Tcp,
    /// `GET` of this path, answered with 200 to 299.
    Http {
        /// The path, with its query if there is one.
        path: String,
    },
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

/// Upstreams of a file.
const MAX_UPSTREAMS: usize = 4_096;
/// Servers of an upstream.
const MAX_SERVERS: usize = 1_024;

/// Reads `upstreams`. One with errors is kept in part, so that routes can refer to its name.
pub(super) fn read(field: Option<&Field<'_>>, report: &mut Report) -> Vec<Upstream> {
    let entries = field.and_then(|field| field.entries(report, MAX_UPSTREAMS));
    let mut upstreams = Vec::new();
    for (name, field) in entries.unwrap_or_default() {
        if let Err(message) = value::name(name) {
            field.error(report, message);
        }
        upstreams.push(upstream(name, &field, report));
    }
    upstreams
}

fn upstream(name: &str, field: &Field<'_>, report: &mut Report) -> Upstream {
    let mut upstream = Upstream {
        name: name.into(),
        servers: Vec::new(),
        balance: Balance::RoundRobin,
        timeouts: Timeouts::default(),
        concurrency: None,
        health_check: None,
        breaker: None,
        ejection: Some(EjectionPolicy::default()),
    };
    let Some(section) = field.section(report, &keys::UPSTREAM) else { return upstream };
    if let Some(field) = section.require("servers", report, "servers: [127.0.0.1:9001]") {
        upstream.servers = servers(field, report);
    }
    if let Some(field) = section.get("balance") {
        check_balance(field, report);
    }
    let timeouts = section.get("timeouts").and_then(|f| f.section(report, &keys::TIMEOUTS));
    if let Some(section) = timeouts {
        upstream.timeouts = read_timeouts(&section, report);
    }
    upstream
}

/// There is one way to balance; what the others are called is known, so they are refused by name.
fn check_balance(field: &Field<'_>, report: &mut Report) {
    if field.scalar().is_none() {
        let entries = field.entries(report, usize::MAX).unwrap_or_default();
        if entries.iter().any(|(key, _)| *key == "consistent") {
            field.error(report, "consistent is not available yet; write round_robin");
        } else if !entries.is_empty() {
            field.error(report, "expected round_robin");
        }
        return;
    }
    let known = [("round_robin", ())];
    field.read(report, "", |text| word(text, &known, &["least_loaded", "consistent"]));
}

fn servers(field: &Field<'_>, report: &mut Report) -> Vec<UpstreamServer> {
    let fields = field.one_or_list(report, MAX_SERVERS);
    if field.is_empty_list() {
        field.error(report, "there must be a server; write for example [127.0.0.1:9001]");
    }
    let mut unique = Unique::default();
    let mut servers = Vec::with_capacity(fields.len());
    for field in &fields {
        if let Some(server) = server(field, report) {
            unique.claim("the address", &server.address.to_string(), field, report);
            servers.push(server);
        }
    }
    servers
}

fn server(field: &Field<'_>, report: &mut Report) -> Option<UpstreamServer> {
    let expected = "an address and a port";
    if !matches!(field.node.kind, super::yaml::Kind::Map(_)) {
        let address = field.read(report, expected, value::socket_address)?;
        return routable(
            field,
            report,
            UpstreamServer { address: ServerAddress::Ip(address), weight: 1 },
        );
    }
    let section = field.section(report, &keys::UPSTREAM_SERVER)?;
    let weight = section.value("weight", report, "a number", |t| value::integer(t, 1..=1_000));
    let field = section.require("address", report, "address: 127.0.0.1:9001")?;
    let address = field.read(report, expected, value::socket_address)?;
    routable(
        field,
        report,
        UpstreamServer { address: ServerAddress::Ip(address), weight: weight.unwrap_or(1) as u32 },
    )
}

/// A wildcard is an address to listen on; nothing answers there.
fn routable(
    field: &Field<'_>,
    report: &mut Report,
    server: UpstreamServer,
) -> Option<UpstreamServer> {
    if let ServerAddress::Ip(address) = server.address {
        let ip = address.ip();
        if ip.is_unspecified() || ip.is_multicast() {
            field.error(report, format!("{ip} is not the address of a server"));
            return None;
        }
    }
    Some(server)
}

fn read_timeouts(section: &Section<'_>, report: &mut Report) -> Timeouts {
    let standard = Timeouts::default();
    let mut timeout = |key: &str, standard: Duration| {
        let parse = |text: &str| value::duration(text, value::MIN_TIMEOUT..=value::MAX_TIMEOUT);
        section.value(key, report, "a duration such as 1s", parse).unwrap_or(standard)
    };
    Timeouts {
        connect: timeout("connect", standard.connect),
        read: timeout("read", standard.read),
        write: timeout("write", standard.write),
        idle: timeout("idle", standard.idle),
    }
}
