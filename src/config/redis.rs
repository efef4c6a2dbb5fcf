//! `redis`: where gateways keep what they have in common.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::keys;
use super::raw::{Field, Section};
use super::report::{Report, quote};
use super::server::Secret;
use super::value;

/// What gateways have in common: one Redis or Valkey, a cluster, or what sentinels watch over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Where it is, 1 to 16: the server; some nodes of the cluster; or the sentinels.
    pub servers: Vec<RedisAddress>,
    /// Whether connections are encrypted.
    pub is_tls: bool,
    /// Who the gateway is to it.
    pub username: Option<String>,
    /// And proves that by.
    pub password: Option<Secret>,
    /// The database; 0 on a cluster.
    pub database: u32,
    /// The longest a request waits for an answer, 1 ms to 1 s.
    pub timeout: Duration,
    /// What every key and every channel begins with; no braces, which choose a cluster's slot.
    pub prefix: Arc<str>,
    /// How many gateways there are taken to be before any has been seen, 1 to 10 000.
    pub expected_gateways: u32,
    /// Whether the servers are nodes of a cluster.
    pub is_cluster: bool,
    /// What the servers are asked for when they are sentinels.
    pub sentinel: Option<Sentinel>,
    /// The file of the only authorities whose certificates are believed; none: the system's.
    pub ca: Option<PathBuf>,
}

/// A host and its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisAddress {
    /// A name or an address, without the brackets of IPv6.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// What sentinels are asked for, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinel {
    /// The name of what they watch over.
    pub master: Arc<str>,
    /// Who the gateway is to the sentinels themselves.
    pub username: Option<String>,
    /// And proves that by.
    pub password: Option<Secret>,
}

/// Servers that can be named: some nodes of a cluster tell all the others.
const MAX_SERVERS: usize = 16;
/// The longest a request may be told to wait.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Characters of a prefix.
const MAX_PREFIX: usize = 64;
/// Gateways that can be expected.
const MAX_GATEWAYS: u32 = 10_000;
/// The highest number of a database.
const MAX_DATABASE: u32 = 65_535;
/// Where Redis listens unless it is told otherwise.
const PORT: u16 = 6379;
/// And sentinels.
const SENTINEL_PORT: u16 = 26379;
/// What a URL looks like.
const EXAMPLE: &str = "redis://127.0.0.1:6379, or rediss://user:password@host:6379 with TLS";

impl Redis {
    /// Reads `redis`. A `url` without a value says that there is none: one file can then serve
    /// with Redis and without, and a variable decides.
    pub(super) fn read(field: Option<&Field<'_>>, report: &mut Report) -> Option<Redis> {
        let section = field?.section(report, &keys::REDIS)?;
        let sentinel = section.get("sentinel").and_then(|field| read_sentinel(field, report));
        let is_cluster = section.value("cluster", report, "true or false", value::boolean);
        let ca = section.get("tls").and_then(|field| read_ca(field, report));
        let timeout = section.value("timeout", report, "a duration such as 10ms", |text| {
            value::duration(text, value::MIN_TIMEOUT..=MAX_WAIT)
        });
        let prefix = section.value("prefix", report, "a text such as tollgate:", prefix);
        let expected = section.value("expected_gateways", report, "a number", |text| {
            value::count(text, 1..=MAX_GATEWAYS)
        });
        if !section.has("url") {
            section.require("url", report, "url: redis://127.0.0.1:6379");
        }
        let field = section.get("url")?;
        let port = if sentinel.is_some() { SENTINEL_PORT } else { PORT };
        let urls = read_urls(field, port, report)?;
        let redis = Redis {
            is_tls: urls.first.is_tls,
            username: urls.first.username,
            password: urls.first.password,
            database: urls.first.database,
            servers: urls.servers,
            timeout: timeout.unwrap_or(Duration::from_millis(10)),
            prefix: prefix.unwrap_or_else(|| "tollgate:".into()),
            expected_gateways: expected.unwrap_or(1),
            is_cluster: is_cluster.unwrap_or_default(),
            sentinel,
            ca,
        };
        redis.check(field, &section, report);
        Some(redis)
    }

    /// What is wrong only together.
    fn check(&self, url: &Field<'_>, section: &Section<'_>, report: &mut Report) {
        if self.is_cluster && section.get("sentinel").is_some() {
            section.error(report, "has both cluster and sentinel; a cluster fails over by itself");
        }
        let is_one = !self.is_cluster && section.get("sentinel").is_none();
        if is_one && self.servers.len() > 1 {
            url.error(
                report,
                "several servers are the nodes of a cluster, or sentinels: write cluster: true, \
                 or sentinel: {master: NAME}, or keep one",
            );
        }
        if self.is_cluster && self.database != 0 {
            url.error(report, "a cluster has no databases but 0; leave the number away");
        }
        if self.ca.is_some() && !self.is_tls {
            let message = "has an authority, and the connections are not encrypted; write \
                           rediss:// in redis.url, or remove tls";
            section.get("tls").unwrap_or(url).error(report, message);
        }
    }

    /// One server as a URL, with the password, where there is one, shown as `mask`.
    pub fn url_of(&self, server: &RedisAddress, mask: &str) -> String {
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        let credentials = match (&self.username, &self.password) {
            (None, None) => String::new(),
            (username, password) => {
                let name = username.as_deref().unwrap_or_default();
                let name: String = name.chars().flat_map(encoded).collect();
                let password = password.as_ref().map(|_| format!(":{mask}")).unwrap_or_default();
                format!("{name}{password}@")
            }
        };
        let database = match self.database {
            0 => String::new(),
            number => format!("/{number}"),
        };
        format!("{scheme}://{credentials}{server}{database}")
    }
}

impl std::fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let brackets = if self.host.contains(':') { ["[", "]"] } else { ["", ""] };
        write!(f, "{}{}{}:{}", brackets[0], self.host, brackets[1], self.port)
    }
}

/// A character of a user's name as it is written in a URL.
fn encoded(c: char) -> Vec<char> {
    if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~') {
        return vec![c];
    }
    let mut bytes = [0; 4];
    c.encode_utf8(&mut bytes)
        .bytes()
        .flat_map(|b| format!("%{b:02X}").chars().collect::<Vec<_>>())
        .collect()
}

fn prefix(text: &str) -> Result<Arc<str>, String> {
    let is_allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'{' | b'}');
    if (1..=MAX_PREFIX).contains(&text.len()) && text.bytes().all(is_allowed) {
        return Ok(text.into());
    }
    let most = MAX_PREFIX;
    Err(format!(
        "{} is not a prefix; use 1 to {most} visible ASCII characters but {{ and }}",
        quote(text)
    ))
}

fn read_sentinel(field: &Field<'_>, report: &mut Report) -> Option<Sentinel> {
    let section = field.section(report, &keys::REDIS_SENTINEL)?;
    section.require("master", report, "master: mymaster");
    let text = |key: &str, report: &mut Report| {
        section.value(key, report, "a text", |text| Ok(text.to_owned()))
    };
    let (username, password) = (text("username", report), text("password", report));
    if username.is_some() && password.is_none() {
        section.error(report, "has a username and no password; write both, or only a password");
    }
    let master =
        section.value("master", report, "a name", |text| value::name(text).map(Arc::from))?;
    Some(Sentinel { master, username, password: password.map(Secret::new) })
}

fn read_ca(field: &Field<'_>, report: &mut Report) -> Option<PathBuf> {
    let section = field.section(report, &keys::REDIS_TLS)?;
    section.require("ca", report, "ca: /etc/tollgate/redis-ca.pem");
    section.value("ca", report, "a file", |text| match text {
        "" => Err("is not the path of a file".to_owned()),
        text => Ok(PathBuf::from(text)),
    })
}

/// What the URLs say, which but for the address must be the same.
struct Urls {
    servers: Vec<RedisAddress>,
    first: Url,
}

fn read_urls(field: &Field<'_>, port: u16, report: &mut Report) -> Option<Urls> {
    if field.is_empty_list() {
        field.error(report, format!("is empty; write for example {EXAMPLE}"));
    }
    let mut servers: Vec<RedisAddress> = Vec::new();
    let mut first: Option<Url> = None;
    for item in field.one_or_list(report, MAX_SERVERS) {
        let Some(url) = item.read(report, "a URL", |text| Url::parse(text, port)) else { continue };
        if servers.contains(&url.server) {
            item.error(report, format!("{} is there twice; keep one", url.server));
        }
        servers.push(url.server.clone());
        match &first {
            None => first = Some(url),
            Some(first) if first.differs_from(&url) => item.error(
                report,
                "all URLs must have the same scheme, user, password and database; one of them \
                 differs from the first",
            ),
            Some(_) => {}
        }
    }
    Some(Urls { servers, first: first? })
}

/// One URL: `redis[s]://[user[:password]@]host[:port][/database]`.
struct Url {
    server: RedisAddress,
    is_tls: bool,
    username: Option<String>,
    password: Option<Secret>,
    database: u32,
}

impl Url {
    /// What is wrong is said without the text itself, which may hold a password.
    fn parse(text: &str, default_port: u16) -> Result<Url, String> {
        Url::read(text, default_port)
            .map_err(|why| format!("is not a URL of Redis: {why}; write for example {EXAMPLE}"))
    }

    fn read(text: &str, default_port: u16) -> Result<Url, &'static str> {
        let scheme = text.split_once("://").and_then(|(scheme, rest)| match scheme {
            "redis" | "valkey" => Some((false, rest)),
            "rediss" | "valkeys" => Some((true, rest)),
            _ => None,
        });
        let (is_tls, rest) = scheme.ok_or("it does not begin with redis:// or rediss://")?;
        if rest.contains(['?', '#']) {
            return Err("it has ? or #; in a password write %3F and %23");
        }
        let (rest, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = match database {
            "" => 0,
            text => value::count(text, 0..=MAX_DATABASE).map_err(
                |_| "after the / comes the number of a database (in a password write %2F)",
            )?,
        };
        let (credentials, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (username, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        let server = server(place, default_port)
            .ok_or("it has no host, or its port is not between 1 and 65535")?;
        let (Some(username), Some(password)) = (decoded(username), decoded(password)) else {
            return Err("a % in user or password is not followed by two hexadecimal digits");
        };
        if !username.is_empty() && password.is_empty() {
            return Err("it has a user and no password; for a password alone write :password@");
        }
        Ok(Url {
            server,
            is_tls,
            username: (!username.is_empty()).then_some(username),
            password: (!password.is_empty()).then(|| Secret::new(password)),
            database,
        })
    }

    fn differs_from(&self, other: &Url) -> bool {
        self.is_tls != other.is_tls
            || self.username != other.username
            || self.password != other.password
            || self.database != other.database
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn server(text: &str, default_port: u16) -> Option<RedisAddress> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    if !(1..=253).contains(&host.len()) || !host.bytes().all(is_host) {
        return None;
    }
    let port = match port {
        Some(port) => value::count(port, 1..=65_535).ok()? as u16,
        None => default_port,
    };
    Some(RedisAddress { host: host.to_owned(), port })
}

/// The text with `%XX` replaced; none when that is not how it is written, or no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, after @ ..] = rest else { return None };
        let digit = |b: &u8| char::from(*b).to_digit(16);
        bytes.push((digit(high)? * 16 + digit(low)?) as u8);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[path = "tests/redis.rs"]
mod tests;
