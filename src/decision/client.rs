//! Who sends a request: its address behind trusted proxies, and the client it names.

use super::refusal::Refusal;
use crate::config::{Auth, Clients, Identifier, KnownClient, Server};
use crate::gateway::{Gateway, Generation};
use crate::policy::router::RouteId;
use crate::registry::identity::{Identity, client_ip};
use crate::registry::{Standing, is_client_id};
use crate::store::key::{Digest, KeyKind};
use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Whether `ip` lies in one of the networks.
pub fn is_within(ip: IpAddr, networks: &[IpNet]) -> bool {
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

/// The address a request comes from: the peer's, or, when the peer is a trusted proxy, the
/// rightmost address in `X-Forwarded-For` (else `Forwarded`) that is not itself one.
///
/// Proxies append, so everything to the right of that address was written by proxies we
/// trust, and everything to the left may be invented. Where the list ends or turns
/// unreadable among trusted addresses, the last of those is taken.
pub fn source_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !is_within(peer, trusted) {
        return peer;
    }
    let mut source = peer;
    let mut step = |hop: Option<IpAddr>| match hop {
        Some(ip) => {
            source = ip.to_canonical();
            is_within(source, trusted)
        }
        None => false,
    };
    if headers.contains_key(&X_FORWARDED_FOR) {
        let lists = headers.get_all(&X_FORWARDED_FOR).iter().rev();
        let hops = lists.flat_map(|list| list.as_bytes().rsplit(|&b| b == b','));
        let _ = hops.map(parse_hop).all(&mut step);
    } else {
        let lists = headers.get_all(header::FORWARDED).iter().rev();
        let hops = lists.flat_map(|list| list.as_bytes().rsplit(|&b| b == b','));
        let _ = hops.map(forwarded_for).all(&mut step);
    }
    source
}

/// An address with or without a port, IPv6 with or without brackets.
fn parse_hop(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?.trim();
    hop.parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
}

/// The `for` parameter of one element of `Forwarded` (RFC 7239).
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let element = std::str::from_utf8(element).ok()?;
    let parameters = element.split(';').filter_map(|parameter| parameter.trim().split_once('='));
    let (_, value) = parameters.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("for"))?;
    parse_hop(value.trim_matches('"').as_bytes())
}

/// A client and the digest its buckets are found by.
#[derive(Debug)]
pub struct Caller {
    /// Who it is.
    pub identity: Identity,
    /// The holder part of its buckets' keys.
    pub digest: Digest,
    /// Whether a valid API key came with the request.
    pub has_api_key: bool,
}

impl Caller {
    /// Whether it is blocked by its id; what only an address names is blocked by that.
    pub fn is_blocked(&self, gateway: &Gateway) -> bool {
        self.identity.kind != KeyKind::Ip && gateway.registry.blocks_client(&self.identity.name)
    }
}

/// What a request says about its sender.
pub struct Sender<'a> {
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The address of the connection's other end.
    pub peer: IpAddr,
    /// The address behind trusted proxies.
    pub source: IpAddr,
}

/// Names the client of a request: the first identifier that yields a value, the address
/// where none does.
///
/// # Errors
/// A presented API key that is unknown, whatever other identifiers would say; no key on a
/// route that needs one.
pub fn identify(
    sender: &Sender<'_>,
    gateway: &Gateway,
    generation: &Generation,
    needs_key: bool,
) -> Result<Caller, Refusal> {
    let clients = &generation.config.clients;
    let reads_keys = clients.identify.contains(&Identifier::ApiKey);
    let presented = if reads_keys { presented_key(sender.headers, clients)? } else { None };
    let key_client = match presented {
        Some(key) => {
            let client = gateway.registry.client_of_key(key, &generation.known);
            Some(client.ok_or(Refusal::UnknownApiKey)?)
        }
        None => None,
    };
    if needs_key && key_client.is_none() {
        return Err(Refusal::ApiKeyRequired);
    }
    let by_key = key_client.as_deref().map(|id| (KeyKind::ApiKey, id));
    let chosen = match by_key {
        Some(key) if needs_key => Some(key),
        _ => clients.identify.iter().find_map(|identifier| match identifier {
            Identifier::ApiKey => by_key,
            Identifier::Header { name, from } => {
                let may_assert = from.is_empty() || is_within(sender.peer, from);
                let value = may_assert.then(|| only_value(sender.headers, name)).flatten()?;
                Some((KeyKind::Header, value))
            }
            Identifier::Ip => Some((KeyKind::Ip, "")),
        }),
    };
    let (identity, digest) = match chosen {
        Some((kind, id)) if kind != KeyKind::Ip => by_name(kind, id, gateway, generation),
        _ => by_address(sender.source, gateway, generation),
    };
    Ok(Caller { identity, digest, has_api_key: key_client.is_some() })
}

/// Whether a route serves none but clients that an API key names.
pub fn needs_key(generation: &Generation, route: RouteId) -> bool {
    generation.route_config(route).auth == Auth::Required
}

/// How a request most likely names the client `id`: by API key where the route needs one or the
/// configuration knows keys of that client, else in the first way to name clients that there is.
pub fn likely_kind(id: &str, needs_key: bool, generation: &Generation) -> KeyKind {
    let clients = &generation.config.clients;
    let reads_keys = clients.identify.contains(&Identifier::ApiKey);
    let has_key = |known: &KnownClient| *known.id == *id && !known.api_keys.is_empty();
    if reads_keys && (needs_key || clients.known.iter().any(has_key)) {
        return KeyKind::ApiKey;
    }
    let kinds = clients.identify.iter().filter_map(|identifier| match identifier {
        Identifier::ApiKey => Some(KeyKind::ApiKey),
        Identifier::Header { .. } => Some(KeyKind::Header),
        Identifier::Ip => None,
    });
    // A header comes before a key that nobody has.
    let mut kinds: Vec<KeyKind> = kinds.collect();
    kinds.sort_by_key(|kind| *kind != KeyKind::Header);
    kinds.first().copied().unwrap_or(KeyKind::Header)
}

/// The client of this name, as an API key or a header names it.
pub fn by_name(
    kind: KeyKind,
    id: &str,
    gateway: &Gateway,
    generation: &Generation,
) -> (Identity, Digest) {
    let tiers = &generation.config.tiers;
    let standing = gateway.registry.standing(id, &generation.known, tiers);
    (Identity { kind, name: id.into(), standing }, gateway.limiter.digest(kind, id.as_bytes()))
}

/// The client that an address is.
pub fn by_address(ip: IpAddr, gateway: &Gateway, generation: &Generation) -> (Identity, Digest) {
    let ip = client_ip(ip, generation.config.clients.ipv6_prefix);
    let standing = Standing::stranger(&generation.config.tiers);
    let identity = Identity { kind: KeyKind::Ip, name: ip.to_string().into(), standing };
    (identity, gateway.limiter.ip_digest(ip))
}

/// The client id in a header, when the header is there once and holds one.
fn only_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|value| is_client_id(value.as_bytes()))?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

/// The API key of a request. More than one is as wrong as an unknown one: which of them the
/// upstream would read is anybody's guess.
fn presented_key<'a>(
    headers: &'a HeaderMap,
    clients: &Clients,
) -> Result<Option<&'a [u8]>, Refusal> {
    let own = headers.get_all(&clients.api_key_header).iter().map(http::HeaderValue::as_bytes);
    let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    let mut keys = own.chain(bearer);
    match (keys.next(), keys.next()) {
        (Some(_), Some(_)) => Err(Refusal::UnknownApiKey),
        (key, _) => Ok(key),
    }
}

/// Whether the connection's other end is a proxy whose word is taken.
pub fn is_trusted(peer: IpAddr, server: &Server) -> bool {
    is_within(peer, &server.trusted_proxies)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn source(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let headers =
            headers.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        source_address(peer.parse().unwrap(), &map, &trusted).to_string()
    }

    #[test]
    fn the_source_is_the_rightmost_address_that_is_not_trusted() {
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(&str, Headers, &str); 12] = [
            ("192.0.2.1", &[("x-forwarded-for", "203.0.113.9")], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "203.0.113.9")], "203.0.113.9"),
            ("10.0.0.1", &[("x-forwarded-for", "1.1.1.1, 203.0.113.9")], "203.0.113.9"),
            ("10.0.0.1", &[("x-forwarded-for", "203.0.113.9, 10.0.0.2")], "203.0.113.9"),
            ("10.0.0.1", &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            ("10.0.0.1", &[("x-forwarded-for", "203.0.113.9, junk")], "10.0.0.1"),
            ("10.0.0.1", &[("x-forwarded-for", "203.0.113.9:4711")], "203.0.113.9"),
            ("10.0.0.1", &[("x-forwarded-for", "[2001:db8::1]:443")], "2001:db8::1"),
            (
                "10.0.0.1",
                &[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.9")],
                "203.0.113.9",
            ),
            (
                "::ffff:10.0.0.1",
                &[("forwarded", "for=1.1.1.1, for=\"[2001:db8::2]\";proto=http")],
                "2001:db8::2",
            ),
            ("fd00::1", &[("forwarded", "proto=http")], "fd00::1"),
        ];
        for (peer, headers, expected) in cases {
            assert_eq!(source(peer, headers), expected, "{peer} {headers:?}");
        }
    }
}
