//! `server`, `admin`, `metrics` and `limiter`: what the process listens on and how it is sized.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::connections::{self, Connections};
use super::keys;
use super::path;
use super::raw::{Field, Section, Unique, word};
use super::reload_watch::Reloading;
use super::report::{Report, quote};
use super::value;

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
    /// What clients may do with their connections.
    pub connections: Connections,
    /// Where finished requests are written.
    pub access_log: AccessLog,
    /// Whether answers also carry the older X-RateLimit-Limit, -Remaining and -Reset.
    pub x_ratelimit_headers: bool,
    /// Where a successor waits to take over; none: in a private folder.
    pub upgrade_socket: Option<PathBuf>,
    /// What goes on around reloads.
    pub reloading: Reloading,
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
            connections: Connections::default(),
            access_log: AccessLog::None,
            x_ratelimit_headers: false,
            upgrade_socket: None,
            reloading: Reloading::default(),
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

/// Addresses the data listener can have; each is a descriptor that an upgrade must hand over.
const MAX_LISTEN: usize = 16;
/// Networks in one list.
const MAX_NETWORKS: usize = 1_024;
/// Headers in `strip_headers`.
const MAX_STRIP_HEADERS: usize = 64;
/// Bounds of `limiter.slots`: one set of buckets and 16 GiB.
const SLOTS: (u64, u64) = (1 << 10, 1 << 30);

impl Server {
    pub(super) fn read(field: Option<&Field<'_>>, report: &mut Report) -> Self {
        let mut server = Self::default();
        let Some(section) = field.and_then(|field| field.section(report, &keys::SERVER)) else {
            return server;
        };
        read_listen(&section, report, &mut server.listen);
        let value = section.value("workers", report, "a number", |t| value::integer(t, 1..=1_024));
        set(&mut server.workers, value.map(|n| n as usize));
        if let Some(field) = section.get("trusted_proxies") {
            server.trusted_proxies = networks(field, report);
        }
        let grace = Duration::ZERO..=value::MAX_TIMEOUT;
        let value = section.value("grace_period", report, "a duration such as 30s", |text| {
            value::duration(text, grace)
        });
        set(&mut server.grace_period, value);
        server.health_path =
            section.value("health_path", report, "a path such as /healthz", path::literal);
        server.strip_headers = strip_headers(&section, report);
        read_bounds(&section, report, &mut server);
        server.connections = connections::read(&section, report);
        if let Some(field) = section.get("access_log") {
            set(&mut server.access_log, access_log(field, report));
        }
        let value = section.value("x_ratelimit_headers", report, "true or false", value::boolean);
        set(&mut server.x_ratelimit_headers, value);
        server.upgrade_socket = section.value("upgrade_socket", report, "a path", file_path);
        server.reloading = Reloading::read(&section, report);
        server
    }
}

/// Takes a value when there is one.
fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn read_listen(section: &Section<'_>, report: &mut Report, listen: &mut Vec<SocketAddr>) {
    let Some(field) = section.get("listen") else { return };
    let fields = field.one_or_list(report, MAX_LISTEN);
    if field.is_empty_list() {
        field.error(report, "there must be an address to listen on; write 0.0.0.0:8080");
    }
    *listen = fields.iter().filter_map(|field| address(field, report)).collect();
}

fn address(field: &Field<'_>, report: &mut Report) -> Option<SocketAddr> {
    field.read(report, "an address and a port", value::socket_address)
}

/// A list of networks.
pub(super) fn networks(field: &Field<'_>, report: &mut Report) -> Vec<IpNet> {
    let fields = field.one_or_list(report, MAX_NETWORKS);
    fields
        .iter()
        .filter_map(|field| field.read(report, "a network such as 10.0.0.0/8", value::network))
        .collect()
}

fn strip_headers(section: &Section<'_>, report: &mut Report) -> Vec<HeaderName> {
    let Some(field) = section.get("strip_headers") else { return Vec::new() };
    let mut unique = Unique::default();
    let mut headers = Vec::new();
    for field in field.one_or_list(report, MAX_STRIP_HEADERS) {
        if let Some(name) = field.read(report, "a header name", value::header) {
            unique.claim("the header", name.as_str(), &field, report);
            headers.push(name);
        }
    }
    headers
}

fn read_bounds(section: &Section<'_>, report: &mut Report, server: &mut Server) {
    let size = |key: &str, report: &mut Report, min: u64, max: u64| {
        let parse = |text: &str| value::size(text, min..=max);
        section.value(key, report, "a size such as 8KiB", parse).map(|bytes| bytes as usize)
    };
    set(&mut server.max_head, size("max_head", report, 1 << 10, 128 << 10));
    set(&mut server.max_uri, size("max_uri", report, 64, 128 << 10));
    let headers = section.value("max_headers", report, "a number", |t| value::integer(t, 1..=256));
    set(&mut server.max_headers, headers.map(|n| n as usize));
    if server.max_uri <= server.max_head {
        return;
    }
    match section.get("max_uri").or_else(|| section.get("max_head")) {
        Some(field) if section.get("max_uri").is_some() => {
            let head = value::size_text(server.max_head as u64);
            field.error(report, format!("must be at most max_head ({head}), which contains it"));
        }
        // Only the head was made small: the default of the part follows the whole.
        _ => server.max_uri = server.max_head,
    }
}

fn access_log(field: &Field<'_>, report: &mut Report) -> Option<AccessLog> {
    if field.scalar().is_some() {
        let known = [("none", None), ("stdout", Some(AccessLogFormat::Json))];
        let word = field.read(report, "", |text| word(text, &known, &[]))?;
        return Some(word.map_or(AccessLog::None, |format| AccessLog::Stdout { format }));
    }
    let section = field.section(report, &keys::ACCESS_LOG)?;
    let known = [("json", AccessLogFormat::Json), ("combined", AccessLogFormat::Combined)];
    let format = section
        .value("format", report, "json or combined", |text| word(text, &known, &[]))
        .unwrap_or(AccessLogFormat::Json);
    let file = section.require("file", report, "file: /var/log/tollgate/access.log")?;
    let path = file.read(report, "a file's path", file_path)?;
    Some(AccessLog::File { path, format })
}

fn file_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("{} is not a path", quote(text)));
    }
    Ok(PathBuf::from(text))
}

impl Admin {
    pub(super) fn read(field: Option<&Field<'_>>, report: &mut Report) -> Self {
        let mut admin = Self::default();
        let Some(section) = field.and_then(|field| field.section(report, &keys::ADMIN)) else {
            return admin;
        };
        let listen = section.get("listen");
        set(&mut admin.listen, listen.and_then(|field| address(field, report)));
        // The messages about a token never repeat it.
        let token = section.get("token");
        admin.token = token.and_then(|field| {
            field.read(report, "a token", |text| {
                let visible = text.bytes().all(|b| b.is_ascii_graphic()) && text.len() <= 1_024;
                visible
                    .then(|| Secret::new(text.to_owned()))
                    .ok_or_else(|| "a token is up to 1024 visible ASCII characters".to_owned())
            })
        });
        // An empty token is none. Written as a variable's default it is null by now.
        if admin.token.as_ref().is_some_and(|token| token.expose().is_empty()) {
            admin.token = None;
        }
        let unreadable = token.is_some_and(|field| field.scalar().is_none_or(|t| !t.is_empty()));
        if !admin.listen.ip().is_loopback() && admin.token.is_none() && !unreadable {
            section.error(
                report,
                format!(
                    "{} is not loopback, so anybody could steer the gateway; set admin.token, \
                     for example with the variable TOLLGATE_ADMIN_TOKEN",
                    admin.listen
                ),
            );
        }
        admin
    }
}

impl Metrics {
    pub(super) fn read(field: Option<&Field<'_>>, report: &mut Report) -> Self {
        let mut metrics = Self::default();
        if let Some(section) = field.and_then(|field| field.section(report, &keys::METRICS)) {
            let listen = section.get("listen").and_then(|field| address(field, report));
            set(&mut metrics.listen, listen);
        }
        metrics
    }
}

impl Limiter {
    pub(super) fn read(field: Option<&Field<'_>>, report: &mut Report) -> Self {
        let mut limiter = Self::default();
        let Some(section) = field.and_then(|field| field.section(report, &keys::LIMITER)) else {
            return limiter;
        };
        let Some(field) = section.get("slots") else { return limiter };
        let slots = field.read(report, "a number", |t| value::integer(t, SLOTS.0..=SLOTS.1));
        if let Some(slots) = slots {
            let rounded = slots.next_power_of_two();
            if rounded != slots {
                field.warn(report, format!("{slots} is rounded up to {rounded}, a power of two"));
            }
            limiter.slots = rounded as usize;
        }
        limiter
    }
}

/// Reports listeners that cannot stand beside one another: the same port, on the same address or
/// on a wildcard that contains it.
pub(super) fn check_listeners(
    server: &Server,
    admin: &Admin,
    metrics: &Metrics,
    root: &Section<'_>,
    report: &mut Report,
) {
    let data = server.listen.iter().map(|&address| ("server", address));
    let others = [("admin", admin.listen), ("metrics", metrics.listen)];
    let all: Vec<_> = data.chain(others).collect();
    for (i, &(owner, address)) in all.iter().enumerate() {
        let taken = all[..i].iter().find(|&&(_, other)| collide(address, other));
        if let Some((other_owner, other)) = taken {
            // The one that is written is the one to change; either may be a default.
            let section = root.get(owner).or_else(|| root.get(other_owner));
            let line = section.map(|field| field.line);
            let message = format!(
                "{address} and {other_owner}.listen {other} are one port; choose another port"
            );
            report.error(&format!("{owner}.listen"), line, message);
        }
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |wide: IpAddr, narrow: IpAddr| match wide {
        // On Linux a socket on [::] takes IPv4 connections too.
        IpAddr::V6(ip) => ip.is_unspecified(),
        IpAddr::V4(ip) => ip.is_unspecified() && narrow.is_ipv4(),
    };
    a.port() == b.port() && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}
