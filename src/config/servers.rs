//! `upstreams.X.servers`: where the servers of an upstream are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::keys;
use super::raw::{Field, Unique};
use super::report::{Report, quote};
use super::value;
use super::yaml::Kind;

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
        /// The name, in lower case and without a dot at its end.
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

/// Servers of an upstream.
const MAX_SERVERS: usize = 1_024;
/// The largest weight of a server.
const MAX_WEIGHT: u32 = 1_000;
/// The longest name, in bytes (RFC 1035, 2.3.4, less the length and the root that text leaves out).
const MAX_NAME_BYTES: usize = 253;
/// The longest label of a name, in bytes (RFC 1035, 2.3.4).
const MAX_LABEL_BYTES: usize = 63;

/// What a server's address looks like.
const EXAMPLE: &str = "write an address or a name and a port, such as 127.0.0.1:9001, [::1]:9001 or \
                       users.internal:9001";

/// Reads `servers`.
pub(super) fn read(field: &Field<'_>, report: &mut Report) -> Vec<UpstreamServer> {
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
    let expected = "an address or a name and a port";
    if !matches!(field.node.kind, Kind::Map(_)) {
        let address = field.read(report, expected, address)?;
        return Some(UpstreamServer { address, weight: 1 });
    }
    let section = field.section(report, &keys::UPSTREAM_SERVER)?;
    let weight = section.value("weight", report, "a number", |t| value::count(t, 1..=MAX_WEIGHT));
    let field = section.require("address", report, "address: 127.0.0.1:9001")?;
    let address = field.read(report, expected, address)?;
    Some(UpstreamServer { address, weight: weight.unwrap_or(1) })
}

fn address(text: &str) -> Result<ServerAddress, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        port_number(text, &address.port().to_string())?;
        let ip = address.ip();
        // A wildcard is an address to listen on; nothing answers there.
        if ip.is_unspecified() || ip.is_multicast() {
            return Err(format!("{ip} is not the address of a server"));
        }
        return Ok(ServerAddress::Ip(address));
    }
    if text.contains("://") {
        return Err(format!("{} has a scheme, which says nothing here; {EXAMPLE}", quote(text)));
    }
    let no_port = text.parse::<IpAddr>().is_ok() || text.ends_with(']');
    let Some((host, port)) = text.rsplit_once(':').filter(|_| !no_port) else {
        return Err(format!("{} has no port; {EXAMPLE}", quote(text)));
    };
    let port = port_number(text, port)?;
    let host = host_name(host).map_err(|why| format!("{} {why}; {EXAMPLE}", quote(text)))?;
    Ok(ServerAddress::Name { host: host.into(), port })
}

fn port_number(text: &str, port: &str) -> Result<u16, String> {
    let number = value::integer(port, 1..=65_535).ok().and_then(|port| port.try_into().ok());
    number.ok_or_else(|| {
        format!("{} has the port {}; ports are 1 to 65535", quote(text), quote(port))
    })
}

/// A name in lower case and without the dot of the root, or why it is none.
fn host_name(text: &str) -> Result<String, &'static str> {
    if text.contains([':', '[', ']']) {
        return Err("looks like an IPv6 address and is none");
    }
    if !text.is_ascii() {
        return Err("is not a name: write international names in their xn-- form");
    }
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.split('.').all(is_label) {
        return Err(
            "is not a name: it has labels of 1 to 63 letters, digits, - and _ with dots between \
             them, 253 characters in all, and none begins or ends with -",
        );
    }
    if name.rsplit('.').next().is_some_and(is_number) {
        return Err("looks like an IP address and is none");
    }
    Ok(name.to_owned())
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Whether a last label makes a resolver take the whole for an IPv4 address, as 127.1 and 0x7f000001
/// are to inet_aton (WHATWG URL standard, "ends in a number").
fn is_number(label: &str) -> bool {
    label.bytes().all(|b| b.is_ascii_digit())
        || label.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_at_an_address_or_has_a_name() {
        let ip = |text: &str| ServerAddress::Ip(text.parse().unwrap());
        let name = |host: &str, port| ServerAddress::Name { host: host.into(), port };
        let longest = format!("{0}.{0}.{0}.{1}", "x".repeat(63), "y".repeat(61));
        assert_eq!(longest.len(), MAX_NAME_BYTES);
        let cases = [
            ("127.0.0.1:9001", ip("127.0.0.1:9001")),
            ("[::1]:65535", ip("[::1]:65535")),
            ("users.internal:9001", name("users.internal", 9001)),
            ("localhost:1", name("localhost", 1)),
            ("Users.INTERNAL.:80", name("users.internal", 80)),
            ("my_service-2:80", name("my_service-2", 80)),
            ("10.0.0.1.example:80", name("10.0.0.1.example", 80)),
            ("3com:80", name("3com", 80)),
            (&format!("{longest}:80"), name(&longest, 80)),
            (&format!("{longest}.:80"), name(&longest, 80)),
        ];
        for (text, expected) in cases {
            assert_eq!(address(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_neither_says_why() {
        let long_label = format!("{}.example:80", "x".repeat(64));
        let long_name = format!("{}example0:80", "xx.".repeat(82));
        let cases = [
            ("", "has no port"),
            ("127.0.0.1", "has no port"),
            ("::1", "has no port"),
            ("[::1]", "has no port"),
            ("users.internal", "has no port"),
            ("127.0.0.1:0", "ports are 1 to 65535"),
            ("127.0.0.1:65536", "ports are 1 to 65535"),
            ("users:0", "has the port \"0\"; ports are 1 to 65535"),
            ("users:http", "has the port \"http\""),
            ("users:+80", "has the port \"+80\""),
            ("users:", "has the port \"\""),
            ("0.0.0.0:1", "is not the address of a server"),
            ("224.0.0.1:1", "is not the address of a server"),
            ("127.0.0.256:80", "looks like an IP address and is none"),
            ("10.0.0:80", "looks like an IP address and is none"),
            ("10.0.0.1.:80", "looks like an IP address and is none"),
            ("2130706433:80", "looks like an IP address and is none"),
            ("0x7F000001:80", "looks like an IP address and is none"),
            ("[::g]:80", "looks like an IPv6 address and is none"),
            ("2001:db8::1:99999:80", "looks like an IPv6 address and is none"),
            ("http://users:80", "has a scheme"),
            ("us ers:80", "is not a name"),
            ("users/x:80", "is not a name"),
            ("a..b:80", "is not a name"),
            (".:80", "is not a name"),
            (":80", "is not a name"),
            ("-a:80", "is not a name"),
            ("a-.b:80", "is not a name"),
            ("b\u{fc}cher.example:80", "xn--"),
            (&long_label, "is not a name"),
            (&long_name, "is not a name"),
        ];
        for (text, expected) in cases {
            let error = address(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
