//! `server`, `admin`, `metrics` and `limiter`: what the process listens on and how it is sized.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

/// `server`: the data listeners and what every request meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Addresses that take requests; at least one.
    pub listen: Vec<SocketAddr>,
    /// Worker threads, 1 to 1 024.
    pub workers: usize,
    /// Peers whose X-Forwarded-For and Forwarded are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// The longest a drain may take.
    pub grace_period: Duration,
    /// A path that answers as the admin API's `/ready`, outside limits and access log.
    pub health_path: Option<String>,
    /// Request headers to remove besides those that could claim an identity.
    pub strip_headers: Vec<HeaderName>,
    /// Bytes of a request's head, 1 KiB to 128 KiB.
    pub max_head: usize,
    /// Header fields of a request, 1 to 256.
    pub max_headers: usize,
    /// Bytes of a request's target, 64 to `max_head`.
    pub max_uri: usize,
    /// Where finished requests are written.
    pub access_log: AccessLog,
    /// Whether answers also carry the older X-RateLimit-Limit, -Remaining and -Reset.
    pub x_ratelimit_headers: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080)],
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            trusted_proxies: Vec::new(),
            grace_period: Duration::from_secs(30),
            health_path: None,
            strip_headers: Vec::new(),
            max_head: 32 << 10,
            max_headers: 100,
            max_uri: 8 << 10,
            access_log: AccessLog::None,
            x_ratelimit_headers: false,
        }
    }
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    None,
    /// To standard output.
    Stdout {
        /// How a line looks; `stdout` in the file means JSON.
        format: AccessLogFormat,
    },
    /// To a file that is appended to.
    File {
        /// The file.
        path: PathBuf,
        /// How a line looks.
        format: AccessLogFormat,
    },
}

/// How a line of the access log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// One JSON object.
    Json,
    /// The combined format of web servers.
    Combined,
}

/// `admin`: the admin API's listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Its address.
    pub listen: SocketAddr,
    /// The bearer token; always there when the address is not loopback.
    pub token: Option<Secret>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901), token: None }
    }
}

/// `metrics`: the Prometheus listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// Its address.
    pub listen: SocketAddr,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9902) }
    }
}

/// A value that must not be printed. `Debug` and `Display` show `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// The secret itself, for the one place that compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// `limiter`: the table that holds the buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limiter {
    /// Slots of 16 bytes each; a power of two from 1 024 to 2^30.
    pub slots: usize,
}

impl Default for Limiter {
    fn default() -> Self {
        Self { slots: 1 << 20 }
    }
}
